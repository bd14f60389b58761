"""The verbs ``sweep`` and ``size``."""
