"""Calibration documents: a few physical parameters of a chip and its software, with provenance and error."""
