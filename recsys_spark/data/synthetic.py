"""The built-in data set: as large as asked for, the same for a seed on any partitioning, made by Spark
block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.data.cleaning import FAULT, RAW, SOURCE_FILE
from recsys_spark.data.sources import Inputs
from recsys_spark.kernels.synthetic import GENRES, World, genres_of, profiles, ratings_of_users

FROM = datetime(2025, 1, 1, tzinfo=UTC)
UNTIL = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
"""First and last possible second of a rating; run dates from 2025-12-31 on see all of them."""

USERS_PER_BLOCK = 2_000

OCCUPATIONS = ("artist", "educator", "engineer", "executive", "homemaker", "lawyer", "librarian", "marketing", "none",
               "programmer", "retired", "salesman", "scientist", "student", "technician", "writer")  # fmt: skip
FIRST = ("Silent", "Golden", "Broken", "Hidden", "Distant", "Crimson", "Frozen", "Electric", "Paper", "Burning", "Last",
         "Hollow", "Velvet", "Wandering", "Midnight", "Iron", "Secret", "Lonely", "Painted", "Falling", "Quiet", "Wild",
         "Second", "Northern", "Glass", "Borrowed", "Endless", "Forgotten", "Bright", "Little", "Savage", "Perfect")  # fmt: skip
SECOND = ("River", "Garden", "Empire", "Letter", "Station", "Harbour", "Summer", "Machine", "Orchard", "Mirror", "Voyage",
          "Kingdom", "Shadow", "Promise", "Detective", "Highway", "Island", "Melody", "Winter", "Horizon", "Stranger",
          "Carnival", "Theatre", "Lantern", "Canyon", "Dream", "Symphony", "Frontier", "Daughter", "Republic",
          "Lighthouse", "Tiger", "Parade", "Testament", "Alibi", "Comet", "Satellite", "Masquerade", "Railway", "Oath",
          "Desert")  # fmt: skip


def world_of(ratings: int, seed: int, users: int | None = None, items: int | None = None) -> World:
    """Sizes for about ``ratings`` ratings. Unless given, users and items grow as they do from MovieLens
    100K to 20M.
    """
    scale = ratings / 100_000
    return World(
        users=users or max(20, round(943 * scale**0.94)),
        items=items or max(60, round(1682 * scale**0.525)),
        ratings=ratings,
        seed=seed,
    )


def synthetic_inputs(spark: SparkSession, world: World) -> Inputs:
    """Raw frames of the data set, as if read from a source: integer ids from 1, ratings 1 to 5, timestamps of
    the year 2025.

    Nothing is held on the driver; a task holds the picks of ``USERS_PER_BLOCK`` users.
    """
    blocks = -(-world.users // USERS_PER_BLOCK)
    partitions = min(blocks, max(spark.sparkContext.defaultParallelism, blocks // 8))
    starts = spark.range(0, blocks, numPartitions=partitions)
    ratings = starts.mapInArrow(
        _make_ratings(world), "user int, item int, rating double, timestamp timestamp"
    )
    users = starts.mapInArrow(
        _make_users(world), "user int, age int, gender string, occupation string, zip string"
    )
    items = spark.range(1, world.items + 1).select(F.col("id").cast("int").alias("item"))
    items = items.mapInArrow(_make_items(world), "item int, title string, year int, genres array<string>")
    return Inputs(
        *(_as_raw(frame, name) for frame, name in ((ratings, "ratings"), (users, "users"), (items, "items")))
    )


def _as_raw(frame: DataFrame, name: str) -> DataFrame:
    made = F.to_json(F.struct(*frame.columns))
    return frame.select(
        "*",
        F.lit(None).cast("string").alias(FAULT),
        made.alias(RAW),
        F.lit(f"synthetic/{name}").alias(SOURCE_FILE),
    )


def _block(world: World, number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(number * USERS_PER_BLOCK, min((number + 1) * USERS_PER_BLOCK, world.users))


def _make_ratings(world: World):  # type: ignore[no-untyped-def]
    first, last = FROM.timestamp(), UNTIL.timestamp()

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            made = ratings_of_users(world, _block(world, number))
            seconds = np.floor(first + made.when * (last - first)).astype(np.int64)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array((made.user + 1).astype(np.int32)),
                    pa.array((made.item + 1).astype(np.int32)),
                    pa.array(made.rating),
                    pa.array(seconds * 1_000_000).cast(pa.timestamp("us", "UTC")),
                ],
                names=["user", "item", "rating", "timestamp"],
            )

    return make


def _make_users(world: World):  # type: ignore[no-untyped-def]
    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            users = _block(world, number)
            age, gender, occupation, area = profiles(world, users, 4).T
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array((users + 1).astype(np.int32)),
                    pa.array((15 + 60 * age**1.5).astype(np.int32)),
                    pa.array(np.where(gender < 0.5, "F", "M").astype(object), pa.string()),
                    pa.array([OCCUPATIONS[int(draw * len(OCCUPATIONS))] for draw in occupation]),
                    pa.array([f"{int(draw * 100_000):05d}" for draw in area]),
                ],
                names=["user", "age", "gender", "occupation", "zip"],
            )

    return make


def title_of(number: int, year: int) -> str:
    """Readable, unique title of item ``number`` (from 0), such as ``The Golden Harbour (1987)``."""
    part, number = divmod(number, len(FIRST) * len(SECOND))
    # 809 and the number of pairs share no factor, so neighbours get unlike titles and none comes twice
    second, first = divmod(number * 809 % (len(FIRST) * len(SECOND)), len(FIRST))
    sequel = f" {part + 1}" if part else ""
    return f"The {FIRST[first]} {SECOND[second]}{sequel} ({year})"


def _make_items(world: World):  # type: ignore[no-untyped-def]
    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            numbers = batch.column(0).to_numpy() - 1
            years = 1950 + (75 * np.sqrt(profiles(world, -numbers.astype(np.int64) - 1, 1)[:, 0])).astype(
                np.int32
            )
            member = genres_of(world, numbers.astype(np.int64))
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column(0),
                    pa.array(
                        [title_of(int(n), int(y)) for n, y in zip(numbers, years, strict=True)], pa.string()
                    ),
                    pa.array(years),
                    pa.array(
                        [[GENRES[g] for g in np.flatnonzero(row)] for row in member], pa.list_(pa.string())
                    ),
                ],
                names=["item", "title", "year", "genres"],
            )

    return make
