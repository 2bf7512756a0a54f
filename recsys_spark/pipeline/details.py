"""Names of what steps keep in ``details``, a column of the ledger."""

from typing import Final

SETTINGS: Final = "settings"
"""Hash of a step's settings."""

INPUT: Final = "input"
"""Hash of the files that ingest has read."""

AFTER: Final = "after"
"""Run of the step before."""

DERIVED: Final = "derived"
"""What ``ratings`` was derived by, and as of which day."""

PATHS: Final = "paths"
"""Paths of the models that made a date's lists, as JSON, by their purpose."""

SERVED: Final = "served"
"""Of a row that switches what is served: the date of the lists."""

MADE_BY: Final = "made_by"
"""Of the same: the run that made them."""

HISTORIES: Final = "histories"
"""Of a split: how to read the histories that it has kept, as JSON."""
