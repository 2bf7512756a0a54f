"""What a file is, told from a sample of it, without Spark: ``recsys preview``."""
