"""Benchmarks and comparisons; never part of the timed tests."""
