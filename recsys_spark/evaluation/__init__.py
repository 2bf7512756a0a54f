"""Metrics of lists and of predicted ratings."""
