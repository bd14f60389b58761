"""Chips, models and suites that ship with npusim; see ``npusim catalog``."""
