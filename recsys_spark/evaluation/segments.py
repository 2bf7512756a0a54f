"""Groups of users that are watched apart: by how much is known of them, by age, and by how
the model knows them: from its fit, or folded in.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.schema import USER

ACTIVITY, AGE, FIT = "activity", "age", "fit"
SEGMENTS = (ACTIVITY, AGE, FIT)
"""Columns of segments; a value names a group, and null is in none."""

AGES = ((18, "under 18"), (25, "18-24"), (35, "25-34"), (45, "35-44"), (55, "45-54"))
"""Age below which a band ends, and its name; older ones are ``55 and over``."""


def with_activity(users: DataFrame, known: DataFrame) -> DataFrame:
    """Users with the quarter of them, by number of known rows, that they are in.

    Users with the same number are in one quarter, so that quarters may differ in size.

    Parameters
    ----------
    users : DataFrame
        ``user``, unique, and anything else.
    known : DataFrame
        ``user``, unique, and ``ratings``: how many rows are known of each.

    Returns
    -------
    DataFrame
        ``users`` with ``activity``: ``new``, without a known row, or ``q1``, the least active quarter of the
        others, to ``q4``. One join, and a job that collects how many users have how many
        rows: no more numbers than the square root of twice the rows.

    Examples
    --------
    >>> from recsys_spark.evaluation.segments import with_activity
    >>> users = spark.createDataFrame([("ann",), ("bob",), ("cid",)], "user string")
    >>> known = spark.createDataFrame([("ann", 2), ("bob", 1)], "user string, ratings int")
    >>> [tuple(row) for row in with_activity(users, known).orderBy("user").collect()]
    [('ann', 'q4'), ('bob', 'q2'), ('cid', 'new')]
    """
    counted = users.join(known.select(USER, F.col("ratings").alias("_rows")), USER, "left")
    sizes = sorted(counted.where("_rows IS NOT NULL").groupBy("_rows").count().collect())
    total, running = sum(size["count"] for size in sizes), 0
    ends = dict.fromkeys((1, 2, 3), 0)  # the most rows of a user of each quarter
    for size in sizes:
        running += size["count"]
        for quarter in ends:
            if running <= total * quarter / 4:
                ends[quarter] = size["_rows"]
    activity = F.when(F.col("_rows").isNull(), "new")
    for quarter, end in ends.items():
        activity = activity.when(F.col("_rows") <= end, f"q{quarter}")
    return counted.withColumn(ACTIVITY, activity.otherwise("q4")).drop("_rows")


def age_band(age: Column) -> Column:
    """The band of an age in years; null where there is none.

    Parameters
    ----------
    age : Column
        Years.
    """
    band = F.when(age.isNull(), None)
    for end, name in AGES:
        band = band.when(age < end, name)
    return band.otherwise("55 and over")
