"""Benchmarks: ratios and rates, never part of the test suite."""
