"""Benchmarks: one file for each mode of the benchmark command, and what they share."""
