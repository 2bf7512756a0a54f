"""Train, validation and test parts as pure functions of the rows: same rows, same split, on any
partitioning.

Models are fitted on ``train``, chosen on ``validation``, and judged on ``test``. Chance is a hash of (seed,
user, item), never ``rand``; ties are broken by that hash too.
"""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config import Split
from recsys_spark.errors import ModelError
from recsys_spark.schema import FOLD_IN, ITEM, PART, TEST, TIMESTAMP, TRAIN, USER, VALIDATION


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
        The rows that pass the filter, with ``part``: ``train``, ``validation``, ``test`` or, with
        ``holdout_users``, ``fold_in``.

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
        "random": lambda rows: random_split(rows, how.validation_fraction, how.test_fraction, seed),
        "temporal": lambda rows: temporal_split(rows, how.validation_fraction, how.test_fraction),
        "leave_last": lambda rows: leave_last_out(rows, how.rows_per_user, seed),
        "random_per_user": lambda rows: random_per_user(rows, how.rows_per_user, seed),
        "holdout_users": lambda rows: holdout_users(rows, how.validation_fraction, how.test_fraction, seed),
    }
    return methods[how.method](k_core(ratings, how.min_user_ratings, how.min_item_ratings))


def random_split(
    ratings: DataFrame, validation_fraction: float, test_fraction: float, seed: int
) -> DataFrame:
    """Mark about these fractions of the rows as validation and test, each by its own chance. No shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else; one row per (user, item).
    validation_fraction, test_fraction : float
        Fractions of the rows, at least 0, together below 1.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train``, ``validation`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import random_split
    >>> ratings = spark.range(1000).selectExpr("id AS user", "id % 7 AS item")
    >>> parts = random_split(ratings, 0.1, 0.2, seed=42)
    >>> 150 < parts.where("part = 'test'").count() < 250
    True
    >>> parts.exceptAll(random_split(ratings.repartition(5), 0.1, 0.2, seed=42)).count()
    0
    """
    chance = _chance(seed, USER, ITEM)
    return _marked(ratings, chance < test_fraction, chance < test_fraction + validation_fraction)


def temporal_split(ratings: DataFrame, validation_fraction: float, test_fraction: float) -> DataFrame:
    """Cut the rows at two times for all users: test begins at the smallest second from which on at most
    ``test_fraction`` of the rows come, and validation so that both together are at most their fractions.

    Rows without a timestamp are train, and count for no fraction. Two small jobs find the cuts: rows per day,
    then rows per second of the two days.

    Parameters
    ----------
    ratings : DataFrame
        ``timestamp`` and anything else.
    validation_fraction, test_fraction : float
        Largest fractions of the rows, at least 0, together below 1.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train``, ``validation`` or ``test``.

    Raises
    ------
    ModelError
        No row has a timestamp.

    Examples
    --------
    >>> from recsys_spark.data.split import temporal_split
    >>> ratings = spark.range(4).selectExpr("id AS item", "timestamp_seconds(86400 * id) AS timestamp")
    >>> [row.part for row in temporal_split(ratings, 0.25, 0.25).orderBy("item").collect()]
    ['train', 'train', 'validation', 'test']
    """
    second = F.unix_seconds(TIMESTAMP)
    day = F.floor(second / 86_400)
    dated = ratings.where(F.col(TIMESTAMP).isNotNull())
    by_day = dated.groupBy(day.alias("day")).count().collect()  # bounded by the calendar
    if not by_day:
        raise ModelError(
            "a temporal split needs timestamps, and no rating has one: choose another split.method"
        )
    newest_first = sorted(((row["day"], row["count"]) for row in by_day), reverse=True)
    total = sum(row["count"] for row in by_day)
    allowed = [test_fraction * total, (test_fraction + validation_fraction) * total]
    days = [_first_that_fits(newest_first, rows) for rows in allowed]
    of_days = dated.where(day.isin(*(first for first, _ in days))).groupBy(second.alias("second")).count()
    by_second = sorted(((row["second"], row["count"]) for row in of_days.collect()), reverse=True)
    cuts = []
    for (first, later), rows in zip(days, allowed, strict=True):
        of_day = [(at, count) for at, count in by_second if at // 86_400 == first]
        cuts.append(_first_that_fits(of_day, rows - later)[0] if of_day else first * 86_400)
    return _marked(ratings, *(F.coalesce(second > cut, F.lit(False)) for cut in cuts))


def leave_last_out(ratings: DataFrame, rows_per_user: int, seed: int) -> DataFrame:
    """Mark each user's last ``rows_per_user`` rows as test, and as many before them as validation; at least
    one row stays in train, and test goes before validation.

    Rows without a timestamp count as oldest. One shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``timestamp`` and anything else; one row per (user, item).
    rows_per_user : int
        Test rows of each user, and validation rows, at least 1.
    seed : int
        Decides between rows of the same time.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train``, ``validation`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import leave_last_out
    >>> rows = [("ann", "tea", 1), ("ann", "jam", 3), ("ann", "rusk", 2), ("bob", "tea", 5)]
    >>> ratings = spark.createDataFrame(rows, "user string, item string, at int")
    >>> ratings = ratings.selectExpr("user", "item", "at", "timestamp_seconds(at) AS timestamp")
    >>> parts = leave_last_out(ratings, 1, seed=42).orderBy("user", "at")
    """
    latest = [F.desc_nulls_last(TIMESTAMP), _hash(seed, USER, ITEM)]
    return _hold_out(ratings, rows_per_user, latest)


def random_per_user(ratings: DataFrame, rows_per_user: int, seed: int) -> DataFrame:
    """Mark ``rows_per_user`` random rows of each user as test, and as many as validation; at least one row
    stays in train, and test goes before validation. One shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else; one row per (user, item).
    rows_per_user : int
        Test rows of each user, and validation rows, at least 1.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train``, ``validation`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import random_per_user
    >>> rows = [("ann", "tea"), ("ann", "jam"), ("ann", "rusk"), ("bob", "tea")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string")
    >>> parts = random_per_user(ratings, 1, seed=42).where("part <> 'train'").groupBy("user").count()
    >>> [(row.user, row["count"]) for row in parts.collect()]  # bob's only row stays in train
    [('ann', 2)]
    """
    return _hold_out(ratings, rows_per_user, [_hash(seed, USER, ITEM)])


def holdout_users(
    ratings: DataFrame, validation_fraction: float, test_fraction: float, seed: int
) -> DataFrame:
    """Hold out about ``test_fraction`` of the *users* altogether, and about ``validation_fraction`` of them
    for validation; of their rows about ``test_fraction`` are test or validation, the others ``fold_in``
    (strong generalisation).

    A model is fitted on ``train``, which has none of these users, is shown their ``fold_in`` rows as a
    history, and is evaluated on ``validation`` and ``test``. No shuffle.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` and anything else; one row per (user, item).
    validation_fraction, test_fraction : float
        Fractions of the users, at least 0, together below 1; the latter also of their rows.
    seed : int
        Any integer.

    Returns
    -------
    DataFrame
        The rows of ``ratings`` with ``part``: ``train``, ``fold_in``, ``validation`` or ``test``.

    Examples
    --------
    >>> from recsys_spark.data.split import holdout_users
    >>> ratings = spark.range(1000).selectExpr("id % 100 AS user", "id AS item")
    >>> parts = holdout_users(ratings, 0.1, 0.3, seed=42)
    >>> trained_on = parts.where("part = 'train'").select("user")
    >>> parts.where("part <> 'train'").join(trained_on, "user").count()
    0
    """
    of_user = _chance(seed, USER)
    hidden = _chance(seed + 1, USER, ITEM) < test_fraction
    is_test, is_held_out = of_user < test_fraction, of_user < test_fraction + validation_fraction
    parts = _marked(ratings, is_test & hidden, is_held_out & hidden)
    return parts.withColumn(PART, F.when(is_held_out & ~hidden, F.lit(FOLD_IN)).otherwise(F.col(PART)))


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
    nth, most = F.col("_nth"), F.col("_count") - 1
    is_test = nth <= F.least(F.lit(rows_per_user), most)
    marked = _marked(numbered, is_test, nth <= F.least(F.lit(2 * rows_per_user), most))
    return marked.drop("_nth", "_count")


def _marked(ratings: DataFrame, is_test: Column, is_held_out: Column) -> DataFrame:
    """``ratings`` with ``part``: of what is held out that which is not test is validation."""
    part = F.when(is_test, F.lit(TEST)).when(is_held_out, F.lit(VALIDATION)).otherwise(F.lit(TRAIN))
    return ratings.withColumn(PART, part)


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
