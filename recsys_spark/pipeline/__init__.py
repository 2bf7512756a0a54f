"""The steps of a night; the only place that sees tables and models."""
