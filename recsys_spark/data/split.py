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
    """Filter ``ratings`` by minimum counts, then mark each row with the part it belongs to.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``timestamp`` and anything else; one row per (user, item).
    how : Split
        The configuration's ``split`` section.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows that pass the filter, with ``part``: ``train``, ``test`` or, with ``holdout_users``,
        ``fold_in``.

    Examples
    --------
    >>> from recsys_spark.config import Split
    >>> from recsys_spark.data.split import split_ratings
    >>> ratings = spark.range(4).selectExpr("id AS user", "id AS item", "timestamp_seconds(id) AS timestamp")
    >>> parts = split_ratings(ratings, Split(method="temporal", test_fraction=0.25), seed=42)
    >>> [row.item for row in parts.where("part = 'test'").collect()]
    [3]
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
    """Mark about ``test_fraction`` of the rows as test, each by its own chance. No shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else; one row per (user, item).
    test_fraction : float
        Fraction of test rows, between 0 and 1.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import random_split
    >>> ratings = spark.range(1000).selectExpr("id AS user", "id % 7 AS item")
    >>> parts = random_split(ratings, 0.2, seed=42)
    >>> 150 < parts.where("part = 'test'").count() < 250
    True
    >>> parts.exceptAll(random_split(ratings.repartition(5), 0.2, seed=42)).count()
    0
    """
    return ratings.withColumn(PART, _part(_chance(seed, USER, ITEM) < test_fraction))


def temporal_split(ratings: DataFrame, test_fraction: float) -> DataFrame:
    """Cut the rows at one time for all users: test begins at the smallest second from which on at most
    ``test_fraction`` of the rows come.

    Two small jobs find the cut: rows per day, then rows per second of one day.

    Parameters
    ----------
    ratings : DataFrame
        ``timestamp``, never null, and anything else.
    test_fraction : float
        Largest fraction of test rows, between 0 and 1.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train`` or ``test``.

    Raises
    ------
    ModelError
        A row has no timestamp.

    Examples
    --------
    >>> from recsys_spark.data.split import temporal_split
    >>> ratings = spark.range(4).selectExpr("id AS item", "timestamp_seconds(86400 * id) AS timestamp")
    >>> [(row.item, row.part) for row in temporal_split(ratings, 0.5).orderBy("item").collect()]
    [(0, 'train'), (1, 'train'), (2, 'test'), (3, 'test')]
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
    """Mark each user's last ``rows_per_user`` rows as test; at least one row stays in train.

    Rows without a timestamp count as oldest. One shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``timestamp`` and anything else; one row per (user, item).
    rows_per_user : int
        Test rows of each user, at least 1.
    seed : int
        Decides between rows of the same time.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import leave_last_out
    >>> rows = [("ann", "tea", 1), ("ann", "jam", 3), ("ann", "rusk", 2), ("bob", "tea", 5)]
    >>> ratings = spark.createDataFrame(rows, "user string, item string, at int")
    >>> ratings = ratings.selectExpr("user", "item", "timestamp_seconds(at) AS timestamp")
    >>> [row.item for row in leave_last_out(ratings, 1, seed=42).where("part = 'test'").collect()]
    ['jam']
    """
    latest = [F.desc_nulls_last(TIMESTAMP), _hash(seed, USER, ITEM)]
    return _hold_out(ratings, rows_per_user, latest)


def random_per_user(ratings: DataFrame, rows_per_user: int, seed: int) -> DataFrame:
    """Mark ``rows_per_user`` random rows of each user as test; at least one row stays in train. One shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else; one row per (user, item).
    rows_per_user : int
        Test rows of each user, at least 1.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import random_per_user
    >>> rows = [("ann", "tea"), ("ann", "jam"), ("ann", "rusk"), ("bob", "tea")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string")
    >>> parts = random_per_user(ratings, 2, seed=42).where("part = 'test'").groupBy("user").count()
    >>> [(row.user, row["count"]) for row in parts.collect()]  # bob's only row stays in train
    [('ann', 2)]
    """
    return _hold_out(ratings, rows_per_user, [_hash(seed, USER, ITEM)])


def holdout_users(ratings: DataFrame, test_fraction: float, seed: int) -> DataFrame:
    """Hold out about ``test_fraction`` of the *users* altogether; of their rows about ``test_fraction`` are
    test, the others ``fold_in`` (strong generalisation).

    A model is fitted on ``train``, which has none of these users, is shown their ``fold_in`` rows as a
    history, and is evaluated on ``test``. No shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else; one row per (user, item).
    test_fraction : float
        Fraction of the users, and of their rows, between 0 and 1.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train``, ``fold_in`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import holdout_users
    >>> ratings = spark.range(1000).selectExpr("id % 100 AS user", "id AS item")
    >>> parts = holdout_users(ratings, 0.3, seed=42)
    >>> trained_on = parts.where("part = 'train'").select("user")
    >>> parts.where("part <> 'train'").join(trained_on, "user").count()
    0
    """
    is_held_out = _chance(seed, USER) < test_fraction
    is_test = _chance(seed + 1, USER, ITEM) < test_fraction
    held_out_part = F.when(is_test, F.lit(TEST)).otherwise(F.lit(FOLD_IN))
    return ratings.withColumn(PART, F.when(is_held_out, held_out_part).otherwise(F.lit(TRAIN)))


def k_core(ratings: DataFrame, min_user_ratings: int, min_item_ratings: int) -> DataFrame:
    """Keep the largest part of ``ratings`` in which every user and item has its minimum number of rows.

    Users and items are dropped in turn until none falls short; each round is two shuffles and one job. The
    result's lineage is cut, so that it is not computed again.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else.
    min_user_ratings, min_item_ratings : int
        Fewest rows of each user, and of each item.

    Returns
    -------
    DataFrame
        The rows that are kept.

    Examples
    --------
    >>> from recsys_spark.data.split import k_core
    >>> rows = [("ann", "tea"), ("ann", "jam"), ("bob", "tea"), ("bob", "jam"), ("cid", "jam")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string")
    >>> sorted(row.user for row in k_core(ratings, 2, 2).collect())
    ['ann', 'ann', 'bob', 'bob']
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
    nth, count = F.row_number().over(of_user.orderBy(*order)), F.count("*").over(of_user)
    numbered = ratings.withColumn("_nth", nth).withColumn("_count", count)
    is_test = F.col("_nth") <= F.least(F.lit(rows_per_user), F.col("_count") - 1)
    return numbered.withColumn(PART, _part(is_test)).drop("_nth", "_count")


def _part(is_test: Column) -> Column:
    return F.when(is_test, F.lit(TEST)).otherwise(F.lit(TRAIN))


def _hash(seed: int, *columns: str) -> Column:
    return F.xxhash64(F.lit(seed).cast("long"), *columns)


def _chance(seed: int, *columns: str) -> Column:
    """Uniform in [0, 1) from the upper bits of the hash."""
    return F.shiftrightunsigned(_hash(seed, *columns), 11) / F.lit(2.0**53)


def _first_that_fits(counts: list[tuple[int, int]], allowed: float) -> tuple[int, int]:
    """The first key, in the given order, at which the running count exceeds ``allowed``, and the count before
    it.
    """
    running = 0
    for key, count in counts:
        if running + count > allowed:
            return key, running
        running += count
    return counts[-1][0] - 1, running
