"""Readers of other tools' files: each turns one format into npusim's own description."""
