"""Inner loops in numpy: no Spark, no pandas."""
