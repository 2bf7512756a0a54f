"""Measurements against peers. Run as ``make bench-NAME``; each prints a table and writes it under ``tests/benchmarks/results/``."""
