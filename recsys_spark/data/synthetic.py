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

from recsys_spark.data.sources import RawTables
from recsys_spark.errors import ConfigError
from recsys_spark.kernels.synthetic import GENRES, World, genres_of, profiles, ratings_of_users
from recsys_spark.schema import FAULT, RAW, SOURCE_FILE

FROM = datetime(2025, 1, 1, tzinfo=UTC)
UNTIL = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
"""First and last possible second of a rating; run dates from 2025-12-31 on see all of them."""

USERS_PER_BLOCK = 2_000

OCCUPATIONS = (
    "artist",
    "educator",
    "engineer",
    "executive",
    "homemaker",
    "lawyer",
    "librarian",
    "marketing",
    "none",
    "programmer",
    "retired",
    "salesman",
    "scientist",
    "student",
    "technician",
    "writer",
)

# fmt: off
FIRST_WORDS = (
    "Silent", "Golden", "Broken", "Hidden", "Distant", "Crimson", "Frozen", "Electric", "Paper",
    "Burning", "Last", "Hollow", "Velvet", "Wandering", "Midnight", "Iron", "Secret", "Lonely", "Painted",
    "Falling", "Quiet", "Wild", "Second", "Northern", "Glass", "Borrowed", "Endless", "Forgotten",
    "Bright", "Little", "Savage", "Perfect",
)
SECOND_WORDS = (
    "River", "Garden", "Empire", "Letter", "Station", "Harbour", "Summer", "Machine", "Orchard", "Mirror",
    "Voyage", "Kingdom", "Shadow", "Promise", "Detective", "Highway", "Island", "Melody", "Winter",
    "Horizon", "Stranger", "Carnival", "Theatre", "Lantern", "Canyon", "Dream", "Symphony", "Frontier",
    "Daughter", "Republic", "Lighthouse", "Tiger", "Parade", "Testament", "Alibi", "Comet", "Satellite",
    "Masquerade", "Railway", "Oath", "Desert",
)
# fmt: on


def world_of(ratings: int, seed: int, users: int | None = None, items: int | None = None) -> World:
    """Sizes of a data set of ``ratings`` ratings; users and items grow as from MovieLens 100K to 20M, unless
    given.

    Parameters
    ----------
    ratings : int
        Number of ratings, at least 1,000. The data set has exactly so many, give or take a few; beyond
        131,072 users (some 19 million ratings) within 2 %.
    seed : int
        Another seed makes other users, items and ratings.
    users : int, optional
        Number of users; each of them has a rating.
    items : int, optional
        Number of items, at least 18, one for each genre; some of a large catalogue have no rating.

    Returns
    -------
    World
        What :func:`synthetic_inputs` makes the data set from.

    Raises
    ------
    ConfigError
        There are fewer ratings than users, or more than pairs of a user and an item.
    """
    scale = ratings / 100_000
    users = users or max(20, round(943 * scale**0.94))
    items = items or max(60, round(1682 * scale**0.525))
    if not users <= ratings <= users * items:
        raise ConfigError(
            f"synthetic data: {users:,} users and {items:,} items can have {users:,} to {users * items:,} "
            f"ratings, not {ratings:,}: ask for another number of ratings, users or items"
        )
    return World(users=users, items=items, ratings=ratings, seed=seed)


def synthetic_inputs(spark: SparkSession, world: World) -> RawTables:
    """Raw frames of the data set, as if read from a source: integer ids from 1, ratings 1 to 5, timestamps of
    the year 2025.

    Nothing is held on the driver; a task holds the ratings of ``USERS_PER_BLOCK`` users.

    Parameters
    ----------
    spark : SparkSession
        Session that makes the rows.
    world : World
        Sizes and seed, from :func:`world_of`.

    Returns
    -------
    RawTables
        ``ratings``, ``users`` and ``items``, as :mod:`recsys_spark.data.cleaning` takes them.
    """
    blocks = -(-world.users // USERS_PER_BLOCK)
    partitions = min(blocks, max(spark.sparkContext.defaultParallelism, blocks // 8))
    block_numbers = spark.range(0, blocks, numPartitions=partitions)
    ratings = block_numbers.mapInArrow(
        _make_ratings(world), "user int, item int, rating double, timestamp timestamp"
    )
    users = block_numbers.mapInArrow(
        _make_users(world), "user int, age int, gender string, occupation string, zip string"
    )
    ids = spark.range(1, world.items + 1).select(F.col("id").cast("int").alias("item"))
    items = ids.mapInArrow(_make_items(world), "item int, title string, year int, genres array<string>")
    return RawTables(_as_raw(ratings, "ratings"), _as_raw(users, "users"), _as_raw(items, "items"))


def _as_raw(frame: DataFrame, name: str) -> DataFrame:
    return frame.select(
        "*",
        F.lit(None).cast("string").alias(FAULT),
        F.to_json(F.struct(*frame.columns)).alias(RAW),
        F.lit(f"synthetic/{name}").alias(SOURCE_FILE),
    )


def _block(world: World, number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(number * USERS_PER_BLOCK, min((number + 1) * USERS_PER_BLOCK, world.users))


def _make_ratings(world: World):  # type: ignore[no-untyped-def]
    first, last = FROM.timestamp(), UNTIL.timestamp()

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            ratings = ratings_of_users(world, _block(world, number))
            seconds = np.floor(first + ratings.when * (last - first)).astype(np.int64)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array((ratings.user + 1).astype(np.int32)),
                    pa.array((ratings.item + 1).astype(np.int32)),
                    pa.array(ratings.rating),
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
    """Readable, unique title of an item, such as ``The Golden Harbour (1987)``.

    Parameters
    ----------
    number : int
        The item, from 0.
    year : int
        Its year, which ends the title.

    Returns
    -------
    str
        Different for every number.
    """
    pairs = len(FIRST_WORDS) * len(SECOND_WORDS)
    part, number = divmod(number, pairs)
    # 809 and the number of pairs share no factor, so neighbours get unlike titles and none comes twice
    second, first = divmod(number * 809 % pairs, len(FIRST_WORDS))
    sequel = f" {part + 1}" if part else ""
    return f"The {FIRST_WORDS[first]} {SECOND_WORDS[second]}{sequel} ({year})"


def _make_items(world: World):  # type: ignore[no-untyped-def]
    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            numbers = batch.column(0).to_numpy().astype(np.int64) - 1
            ages = np.sqrt(profiles(world, -numbers - 1, 1)[:, 0])
            years = 1950 + (75 * ages).astype(np.int32)
            titles = [title_of(int(number), int(year)) for number, year in zip(numbers, years, strict=True)]
            genres = [[GENRES[genre] for genre in np.flatnonzero(row)] for row in genres_of(world, numbers)]
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column(0),
                    pa.array(titles, pa.string()),
                    pa.array(years),
                    pa.array(genres, pa.list_(pa.string())),
                ],
                names=["item", "title", "year", "genres"],
            )

    return make
