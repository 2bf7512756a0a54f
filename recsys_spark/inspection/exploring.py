"""What ratings, users and items are like, before anything is fitted.

All is aggregated by Spark. What comes back is a small pandas frame, whatever the data's size: the numbers of
ratings that users or items have are counted, not listed, and of those there are no more than the square root
of twice the ratings; of 20 million, some thousand.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.evaluation.segments import AGE, age_band
from recsys_spark.schema import EVERYONE, ITEM, RATING, REASON, TIMESTAMP, USER

MOST_BARS = 50
"""Bars of a histogram at most, and of a table of values."""

GENRES = "genres"


def overview(
    ratings: DataFrame, users: DataFrame | None = None, items: DataFrame | None = None
) -> pd.DataFrame:
    """How much there is: numbers, density, the span of time, and who or what has no rating.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``rating``, ``timestamp``; one row per (user, item).
    users, items : DataFrame, optional
        ``user`` or ``item``, unique.

    Returns
    -------
    pandas.DataFrame
        One row: ``ratings``, ``users``, ``items``, ``density`` (the share of all pairs that is rated),
        ``mean_rating``, ``first`` and ``last``, and where the frames are given ``users_without_ratings`` and
        ``items_without_ratings``.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import overview
    >>> rows = [("ann", "i1", 5.0, None), ("ann", "i2", 4.0, None), ("bob", "i1", 3.0, None)]
    >>> ratings = spark.createDataFrame(rows, "user string, item string, rating double, timestamp timestamp")
    >>> overview(ratings)[["ratings", "users", "items", "density"]].iloc[0].tolist()
    [3.0, 2.0, 2.0, 0.75]
    """
    totals: Any = ratings.agg(
        F.count("*").alias("ratings"),
        F.count_distinct(USER).alias("users"),
        F.count_distinct(ITEM).alias("items"),
        F.mean(RATING).alias("mean_rating"),
        *(F.date_format(of(TIMESTAMP), "yyyy-MM-dd HH:mm:ss").alias(name) for name, of in _SPAN.items()),
    ).first()
    row = totals.asDict()
    pairs = row["users"] * row["items"]
    row["density"] = row["ratings"] / pairs if pairs else 0.0
    for frame, key in ((users, USER), (items, ITEM)):
        if frame is not None:
            row[f"{key}s_without_ratings"] = frame.join(ratings, key, "left_anti").count()
    return pd.DataFrame([row])


_SPAN = {"first": F.min, "last": F.max}


def counts_of_counts(ratings: DataFrame, by: str) -> pd.DataFrame:
    """How many users, or items, have how many ratings.

    Parameters
    ----------
    ratings : DataFrame
        ``user`` and ``item``; one row per (user, item).
    by : str
        ``user`` or ``item``.

    Returns
    -------
    pandas.DataFrame
        One row per number that occurs, ascending: ``ratings``, and ``entities``, how many have so many. One
        shuffle of the ratings.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import counts_of_counts
    >>> rows = [("ann", 1), ("ann", 2), ("bob", 1), ("cid", 9)]
    >>> ratings = spark.createDataFrame(rows, "user string, item int")
    >>> counts_of_counts(ratings, "user").values.tolist()
    [[1, 2], [2, 1]]
    """
    each = ratings.groupBy(by).agg(F.count("*").alias("ratings"))
    return (
        each.groupBy("ratings")
        .agg(F.count("*").alias("entities"))
        .toPandas()
        .sort_values("ratings", ignore_index=True)
    )


def long_tail(counts: pd.DataFrame) -> pd.DataFrame:
    """Lorenz curve: which share of the ratings the least rated so many have.

    Parameters
    ----------
    counts : pandas.DataFrame
        As :func:`counts_of_counts` returns it.

    Returns
    -------
    pandas.DataFrame
        ``share_of_entities`` and ``share_of_ratings``, both from 0 to 1, ascending; between two rows the
        curve is straight.

    Examples
    --------
    >>> import pandas as pd
    >>> from recsys_spark.inspection.exploring import long_tail
    >>> long_tail(pd.DataFrame({"ratings": [1, 6], "entities": [3, 1]})).values.tolist()
    [[0.0, 0.0], [0.75, 0.3333333333333333], [1.0, 1.0]]
    """
    entities = counts["entities"].to_numpy(np.float64)
    ratings = entities * counts["ratings"].to_numpy()
    shares = [np.concatenate([[0.0], np.cumsum(part) / part.sum()]) for part in (entities, ratings)]
    return pd.DataFrame({"share_of_entities": shares[0], "share_of_ratings": shares[1]})


def gini(counts: pd.DataFrame) -> float:
    """Gini coefficient of the numbers of ratings: 0 where all have the same, near 1 where one has all.

    Parameters
    ----------
    counts : pandas.DataFrame
        As :func:`counts_of_counts` returns it.

    Returns
    -------
    float
        One less twice the area under :func:`long_tail`.

    Examples
    --------
    >>> import pandas as pd
    >>> from recsys_spark.inspection.exploring import gini
    >>> gini(pd.DataFrame({"ratings": [7], "entities": [20]}))
    0.0
    """
    curve = long_tail(counts)
    share = curve["share_of_ratings"].to_numpy()
    return float(1 - np.sum(np.diff(curve["share_of_entities"]) * (share[1:] + share[:-1])))


def rating_histogram(ratings: DataFrame, items: DataFrame | None = None) -> pd.DataFrame:
    """How often each rating is given: overall, and where items have genres in the 50 with most items.

    Parameters
    ----------
    ratings : DataFrame
        ``item`` and ``rating``.
    items : DataFrame, optional
        ``item``, unique, and ``genres`` array<string>.

    Returns
    -------
    pandas.DataFrame
        One row per (genre, rating) that occurs, in this order: ``genre`` (``all`` for all ratings, which come
        first; no genre has this name), ``rating``, ``ratings``. Of more than 50 different ratings the range
        is cut into 50 equal parts, and ``rating`` is where a part begins.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import rating_histogram
    >>> ratings = spark.createDataFrame([("i1", 5.0), ("i2", 4.0), ("i2", 5.0)], "item string, rating double")
    >>> rating_histogram(ratings).values.tolist()
    [['all', 4.0, 1], ['all', 5.0, 2]]
    """
    bar = F.col(RATING)
    if ratings.select(RATING).distinct().limit(MOST_BARS + 1).count() > MOST_BARS:
        span: Any = ratings.agg(F.min(RATING).alias("low"), F.max(RATING).alias("high")).first()
        width = (span["high"] - span["low"]) / MOST_BARS
        bar = span["low"] + F.least(F.floor((bar - span["low"]) / width), F.lit(MOST_BARS - 1)) * width
    binned = ratings.select(ITEM, bar.alias(RATING))
    groups = binned.withColumn("genre", F.lit(EVERYONE))
    if items is not None and has_genres(items):
        of_items = items.select(ITEM, F.explode(F.array_distinct(GENRES)).alias("genre"))
        known = of_items.where((F.col("genre") != EVERYONE) & F.col("genre").isin(_frequent(items)))
        groups = groups.unionByName(binned.join(known, ITEM).select(ITEM, RATING, "genre"))
    frame = groups.groupBy("genre", RATING).agg(F.count("*").alias("ratings")).toPandas()
    frame["first"] = frame["genre"] != EVERYONE
    return frame.sort_values(["first", "genre", RATING], ignore_index=True)[["genre", RATING, "ratings"]]


def over_time(ratings: DataFrame, unit: Literal["day", "week", "month", "year"] = "month") -> pd.DataFrame:
    """How much happens when.

    Parameters
    ----------
    ratings : DataFrame
        ``user`` and ``timestamp``; rows without a time are left out.
    unit : str
        ``day``, ``week``, ``month`` or ``year``; in UTC.

    Returns
    -------
    pandas.DataFrame
        One row per period with a rating, ascending: ``period``, its first day, ``ratings`` and ``users``.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import over_time
    >>> rows = spark.sql("SELECT 'ann' AS user, timestamp '2026-01-31 23:00:00 UTC' AS timestamp")
    >>> over_time(rows, "year").values.tolist()
    [[datetime.date(2026, 1, 1), 1, 1]]
    """
    period = F.to_date(F.date_trunc(unit, TIMESTAMP)).alias("period")
    known = ratings.where(F.col(TIMESTAMP).isNotNull()).groupBy(period)
    counted = known.agg(F.count("*").alias("ratings"), F.count_distinct(USER).alias("users"))
    return counted.toPandas().sort_values("period", ignore_index=True)


def users_by(users: DataFrame, feature: str) -> pd.DataFrame:
    """How many users have each value of a feature.

    Parameters
    ----------
    users : DataFrame
        ``user``, unique, and the feature.
    feature : str
        As ``gender`` or ``occupation``; an ``age`` in years is told in bands.

    Returns
    -------
    pandas.DataFrame
        At most 50 rows, the largest groups first: the feature, and ``users``. Null is ``unknown``.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import users_by
    >>> rows = [("ann", "F"), ("bob", None), ("eve", "F")]
    >>> users = spark.createDataFrame(rows, "user string, gender string")
    >>> users_by(users, "gender").values.tolist()
    [['F', 2], ['unknown', 1]]
    """
    is_number = isinstance(users.schema[feature].dataType, T.NumericType)
    value: Column = F.col(feature).cast("string")
    if feature == AGE and is_number:
        value = age_band(F.col(feature))
    groups = users.groupBy(F.coalesce(value, F.lit("unknown")).alias(feature))
    largest = groups.agg(F.count("*").alias("users")).orderBy(F.desc("users"), feature)
    return largest.limit(MOST_BARS).toPandas()


def genre_pairs(items: DataFrame) -> pd.DataFrame:
    """How many items have each genre, and each two of them.

    Parameters
    ----------
    items : DataFrame
        ``item``, unique, and ``genres`` array<string>.

    Returns
    -------
    pandas.DataFrame
        One row per (genre, other) that occurs, in this order: ``genre``, ``other``, ``items``; where both are
        the same it is how many items have it. Both ways round, of the 50 genres with most items.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import genre_pairs
    >>> items = spark.createDataFrame([(1, ["War", "Drama"]), (2, ["War"])], "item int, genres array<string>")
    >>> genre_pairs(items).values.tolist()
    [['Drama', 'Drama', 1], ['Drama', 'War', 1], ['War', 'Drama', 1], ['War', 'War', 2]]
    """
    each, largest = items.select(F.array_distinct(GENRES).alias(GENRES)), _frequent(items)
    pairs = each.withColumn("genre", F.explode(GENRES)).select("genre", F.explode(GENRES).alias("other"))
    kept = pairs.where(F.col("genre").isin(largest) & F.col("other").isin(largest))
    counted = kept.groupBy("genre", "other").agg(F.count("*").alias("items"))
    return counted.toPandas().sort_values(["genre", "other"], ignore_index=True)[["genre", "other", "items"]]


def has_genres(items: DataFrame) -> bool:
    """Whether items have lists of genres.

    Parameters
    ----------
    items : DataFrame
        ``item`` and any features.
    """
    kind = items.schema[GENRES].dataType if GENRES in items.columns else None
    return isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.StringType)


def rejects(rejected: DataFrame) -> pd.DataFrame:
    """How many rows of the input were rejected, and why.

    Parameters
    ----------
    rejected : DataFrame
        ``input`` and ``reason``; one row per rejected row, as the table ``rejected_ratings`` has them.

    Returns
    -------
    pandas.DataFrame
        One row per (input, reason), the most frequent first: ``input``, ``reason``, ``rows``.

    Examples
    --------
    >>> from recsys_spark.inspection.exploring import rejects
    >>> rows = [("ratings", "no_user"), ("ratings", "no_user"), ("items", "no_item")]
    >>> rejects(spark.createDataFrame(rows, "input string, reason string")).values.tolist()
    [['ratings', 'no_user', 2], ['items', 'no_item', 1]]
    """
    counted = rejected.groupBy("input", REASON).agg(F.count("*").alias("rows"))
    return counted.orderBy(F.desc("rows"), "input", REASON).limit(MOST_BARS).toPandas()


def _frequent(items: DataFrame) -> list[str]:
    """The genres with most items."""
    each = items.select(F.explode(F.array_distinct(GENRES)).alias("genre"))
    counted = each.groupBy("genre").agg(F.count("*").alias("items"))
    return [row["genre"] for row in counted.orderBy(F.desc("items"), "genre").limit(MOST_BARS).collect()]
