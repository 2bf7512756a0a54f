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
SHELF: Final = "shelf"

NEIGHBOR: Final = "neighbor"
SIMILARITY: Final = "similarity"
MEASURE: Final = "measure"
"""Of items that are like another one: which, how much, and by which measure."""

Measure = Literal["dot", "cosine", "tempered"]
"""How alike two vectors are: by their dot product, by the cosine of their angle, or by what is between."""

PART: Final = "part"
TRAIN: Final = "train"
FOLD_IN: Final = "fold_in"
VALIDATION: Final = "validation"
TEST: Final = "test"
"""Parts of a split, and the column that names them."""

EVERYONE: Final = "all"
"""The segment of all users."""

FAULT: Final = "fault"
REASON: Final = "reason"
PINNED: Final = "pinned"
EXPLORATION: Final = "exploration"
"""Why a row is in a list, where it is not the model's choice."""

PROPENSITY: Final = "propensity"
RAW: Final = "raw"
SOURCE_FILE: Final = "source_file"

RESERVED_FEATURES: Final = (USER, ITEM, FAULT, REASON, RAW, SOURCE_FILE)
"""Names that no side feature may have."""

IdType = Literal["integer", "long", "string"]
"""The types a user or item id may have, end to end."""

ID_SQL_TYPES: Final[dict[str, str]] = {"integer": "int", "long": "bigint", "string": "string"}
"""Spark SQL type of each :data:`IdType`."""

FeatureType = Literal[
    "string", "int", "bigint", "double", "boolean", "date", "timestamp", "array<string>", "array<float>"
]
"""The types a side feature of users or items may have, as Spark SQL names them."""

USUAL_FEATURES: Final[dict[str, FeatureType]] = {
    "title": "string",
    "genres": "array<string>",
    "year": "int",
    "age": "int",
    "gender": "string",
    "occupation": "string",
    "zip": "string",
}
"""Feature → the type it has unless another is declared. The first two are roles: titles are shown, and the
diversity of lists is that of their genres.
"""

MAX_LINE_BYTES: Final = 10_000_000
"""The longest line of a text file, or of JSON, that is read; a longer one is taken for one without an end."""

MAX_ID_LENGTH: Final = 256
"""Longest string id, in characters."""

SEEDED: Final = 42
"""Default seed: the same in every process, unlike pyspark's own default."""
