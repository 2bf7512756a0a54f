"""Vocabulary: the columns that every layer agrees on, and the types an id may have."""

from __future__ import annotations

from typing import Final, Literal

USER: Final = "user"
ITEM: Final = "item"
RATING: Final = "rating"
TIMESTAMP: Final = "timestamp"
EVENT: Final = "event"
SCORE: Final = "score"
RANK: Final = "rank"

IdType = Literal["integer", "long", "string"]
"""The types a user or item id may have, end to end."""

ID_SQL_TYPES: Final[dict[str, str]] = {"integer": "int", "long": "bigint", "string": "string"}
"""Spark SQL type of each :data:`IdType`."""

MAX_ID_LENGTH: Final = 256
"""Longest string id, in characters."""

SEEDED: Final = 42
"""Default seed: the same in every process, unlike pyspark's own default."""
