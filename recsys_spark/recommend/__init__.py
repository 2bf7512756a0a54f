"""From vectors to lists: the top-N engine, an index for very large catalogues, and re-scoring of
candidates.
"""
