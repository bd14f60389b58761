"""Operator times with a calibration: closed forms of a few physical parameters, vectorised over shapes."""
