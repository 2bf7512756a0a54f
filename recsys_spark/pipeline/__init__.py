"""The steps of a night; the only place that sees tables and models."""

STEP_NAMES = (
    "ingest",
    "split",
    "sample_negatives",
    "train",
    "evaluate",
    "recommend",
    "gate",
    "publish",
    "report",
)
"""The steps of a night in their order; each is a function, in the module of its name."""
