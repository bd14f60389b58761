"""The verbs ``validate``, ``calibrate`` and ``host``."""
