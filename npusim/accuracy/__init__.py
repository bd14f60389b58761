"""Predicted against measured: reading measured rows, scoring predictions, fitting calibrations, measuring this host."""
