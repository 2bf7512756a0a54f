"""The top-N host."""
