"""Train and test parts as pure functions of the rows: same rows, same split, on any partitioning.

Chance is a hash of (seed, user, item), never ``rand``; ties are broken by that hash too.
"""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config import Split
from recsys_spark.errors import ModelError
from recsys_spark.schema import ITEM, TIMESTAMP, USER

PART = "part"
TRAIN, FOLD_IN, TEST = "train", "fold_in", "test"


def split_ratings(ratings: DataFrame, how: Split, seed: int) -> DataFrame:
    """Filter ``ratings`` by minimum counts, then say for each row which part it belongs to.

    Parameters
    ----------
    ratings : ``user``, ``item``, ``timestamp`` and anything else; one row per (user, item)
    how : the configuration's ``split`` section
    seed : any integer

    Returns
    -------
    DataFrame
        The rows that pass the filter, with ``part``: ``train``, ``test`` or, with ``holdout_users``,
        ``fold_in``.
    """
    methods: dict[str, Callable[[DataFrame], DataFrame]] = {
        "random": lambda rows: random_split(rows, how.test_fraction, seed),
        "temporal": lambda rows: temporal_split(rows, how.test_fraction),
        "leave_last": lambda rows: leave_last_out(rows, how.rows_per_user, seed),
        "random_per_user": lambda rows: random_per_user(rows, how.rows_per_user, seed),
        "holdout_users": lambda rows: holdout_users(rows, how.test_fraction, seed),
    }
    return methods[how.method](k_core(ratings, how.min_user_ratings, how.min_item_ratings))


def random_split(ratings: DataFrame, test_fraction: float, seed: int) -> DataFrame:
    """About ``test_fraction`` of the rows are test, each by its own chance. No shuffle."""
    return ratings.withColumn(PART, _part(_chance(seed, USER, ITEM) < test_fraction))


def temporal_split(ratings: DataFrame, test_fraction: float) -> DataFrame:
    """One cut in time for everybody: the smallest second from which on at most ``test_fraction`` of the rows
    come is where test begins.

    Two small jobs find the cut: rows per day, then rows per second of one day.

    Raises
    ------
    ModelError
        A row has no timestamp.
    """
    second = F.unix_seconds(TIMESTAMP)
    days = ratings.groupBy(F.floor(second / 86_400).alias("day")).count().collect()  # bounded by the calendar
    if any(row["day"] is None for row in days):
        raise ModelError("a temporal split needs a timestamp in every rating: choose another split.method")
    allowed = test_fraction * sum(row["count"] for row in days)
    day, later = _first_that_fits(sorted(((row["day"], row["count"]) for row in days), reverse=True), allowed)
    of_day = ratings.where(F.floor(second / 86_400) == day).groupBy(second.alias("second")).count().collect()
    seconds = sorted(((row["second"], row["count"]) for row in of_day), reverse=True)
    cut, _ = _first_that_fits(seconds, allowed - later)
    return ratings.withColumn(PART, _part(second > cut))


def leave_last_out(ratings: DataFrame, rows_per_user: int, seed: int) -> DataFrame:
    """Each user's last ``rows_per_user`` rows are test; one row at least stays in train.

    Rows without a timestamp count as oldest. One shuffle.
    """
    latest = [F.desc_nulls_last(TIMESTAMP), _hash(seed, USER, ITEM)]
    return _hold_out(ratings, rows_per_user, latest)


def random_per_user(ratings: DataFrame, rows_per_user: int, seed: int) -> DataFrame:
    """``rows_per_user`` rows of each user, chosen by chance, are test; one row at least stays in train.
    One shuffle.
    """
    return _hold_out(ratings, rows_per_user, [_hash(seed, USER, ITEM)])


def holdout_users(ratings: DataFrame, test_fraction: float, seed: int) -> DataFrame:
    """About ``test_fraction`` of the *users* are held out altogether; of their rows about ``test_fraction``
    are test, the others ``fold_in``.

    A model is fitted on ``train``, which holds none of these users, is shown their ``fold_in`` rows as a
    history, and is measured on ``test``. No shuffle.
    """
    held_out = _chance(seed, USER) < test_fraction
    part = F.when(_chance(seed + 1, USER, ITEM) < test_fraction, F.lit(TEST)).otherwise(F.lit(FOLD_IN))
    return ratings.withColumn(PART, F.when(held_out, part).otherwise(F.lit(TRAIN)))


def k_core(ratings: DataFrame, min_user_ratings: int, min_item_ratings: int) -> DataFrame:
    """The largest part of ``ratings`` in which every user and item has its minimum count of rows.

    Users and items are dropped in turn until none falls short; each round is two shuffles and one job. The
    result's lineage is cut, so that it is not computed again.
    """
    if min_user_ratings <= 1 and min_item_ratings <= 1:
        return ratings
    kept, before = ratings, -1
    while True:
        kept = _at_least(_at_least(kept, USER, min_user_ratings), ITEM, min_item_ratings).localCheckpoint()
        after = kept.count()
        if after == before:
            return kept
        before = after


def _at_least(rows: DataFrame, key: str, count: int) -> DataFrame:
    if count <= 1:
        return rows
    enough = rows.groupBy(key).count().where(F.col("count") >= count).select(key)
    return rows.join(enough, key, "left_semi")


def _hold_out(ratings: DataFrame, rows_per_user: int, order: list[Column]) -> DataFrame:
    of_user = Window.partitionBy(USER)
    place, count = F.row_number().over(of_user.orderBy(*order)), F.count("*").over(of_user)
    placed = ratings.withColumn("_place", place).withColumn("_count", count)
    return placed.withColumn(
        PART, _part(F.col("_place") <= F.least(F.lit(rows_per_user), F.col("_count") - 1))
    ).drop("_place", "_count")


def _part(is_test: Column) -> Column:
    return F.when(is_test, F.lit(TEST)).otherwise(F.lit(TRAIN))


def _hash(seed: int, *columns: str) -> Column:
    return F.xxhash64(F.lit(seed).cast("long"), *columns)


def _chance(seed: int, *columns: str) -> Column:
    """Uniform in [0, 1) from the upper bits of the hash."""
    return F.shiftrightunsigned(_hash(seed, *columns), 11) / F.lit(2.0**53)


def _first_that_fits(counts: list[tuple[int, int]], allowed: float) -> tuple[int, int]:
    """The first key, going down, at which the running count exceeds ``allowed``, and the count before it."""
    running = 0
    for key, count in counts:
        if running + count > allowed:
            return key, running
        running += count
    return counts[-1][0] - 1, running
