"""Measures of lists and of predicted ratings."""
