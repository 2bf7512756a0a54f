"""Alternating least squares: the program of the tasks, and its Spark side."""
