"""Measurements against peers. Run as ``make bench-NAME``; each prints a table and keeps it in
``results/``.
"""
