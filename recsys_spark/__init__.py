"""Nightly recommendations on Spark and Delta Lake."""
