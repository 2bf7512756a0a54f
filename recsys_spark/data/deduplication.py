"""One rating per (user, item): of several valid rows the latest wins, and every input row is counted."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.data.cleaning import computed_once
from recsys_spark.schema import ITEM, RATING, REASON, TIMESTAMP, USER


def latest_per_pair(rows: DataFrame) -> DataFrame:
    """One row per (user, item) of the valid rows, and one per reason of the rejected ones.

    Of several valid rows of a pair the latest timestamp wins, and of equal timestamps the larger rating; a
    row without a timestamp is older than any with one. Both kinds of rows come out of one hash aggregation,
    so that counting the rejected rows costs no further pass. Where rows of a pair differ in timestamp *and*
    rating, ``disputed`` is true and :func:`settle` decides.

    Parameters
    ----------
    rows : DataFrame
        Result of :func:`~recsys_spark.data.cleaning.clean_ratings`.

    Returns
    -------
    DataFrame
        ``user``, ``item``, ``reason``, ``rating``, ``timestamp``, ``rows`` (how many input rows this one
        stands for), ``disputed``. User and item are null where ``reason`` is not. One shuffle.
    """
    valid = F.col(REASON).isNull()
    keyed = rows.select(
        F.when(valid, F.col(USER)).alias(USER),
        F.when(valid, F.col(ITEM)).alias(ITEM),
        REASON,
        RATING,
        TIMESTAMP,
    )
    # min and max keep the aggregation on hashes; max(struct(timestamp, rating)) would sort twice
    grouped = keyed.groupBy(USER, ITEM, REASON).agg(
        F.count("*").alias("rows"),
        F.count(TIMESTAMP).alias("timed"),
        F.max(TIMESTAMP).alias(TIMESTAMP),
        F.min(TIMESTAMP).alias("earliest"),
        F.max(RATING).alias(RATING),
        F.min(RATING).alias("lowest"),
    )
    several_ratings = F.col("lowest") < F.col(RATING)
    some_untimed = F.col("timed").between(F.lit(1), F.col("rows") - 1)
    several_times = (F.col("earliest") < F.col(TIMESTAMP)) | some_untimed
    disputed = F.col(REASON).isNull() & F.coalesce(several_ratings & several_times, F.lit(False))
    return grouped.select(USER, ITEM, REASON, RATING, TIMESTAMP, "rows", disputed.alias("disputed"))


def settle(pairs: DataFrame, rows: DataFrame) -> DataFrame:
    """Decide the disputed rows of :func:`latest_per_pair` by going back to the input rows of those pairs.

    Parameters
    ----------
    pairs : DataFrame
        Result of :func:`latest_per_pair`.
    rows : DataFrame
        The rows it was made from.

    Returns
    -------
    DataFrame
        ``pairs`` with the winning rating and timestamp, and ``disputed`` false in every row. A second pass
        over ``rows``, one shuffle.
    """
    keys = pairs.where("disputed").select(USER, ITEM, F.col("rows").alias("rows"))
    order = Window.partitionBy(USER, ITEM).orderBy(F.desc_nulls_last(TIMESTAMP), F.desc(RATING))
    winners = (
        computed_once(rows)
        .where(F.col(REASON).isNull())
        .join(keys, [USER, ITEM])
        .withColumn("nth", F.row_number().over(order))
        .where("nth = 1")
        .select(USER, ITEM, REASON, RATING, TIMESTAMP, "rows", F.lit(False).alias("disputed"))
    )
    return pairs.where("not disputed").unionByName(winners)
