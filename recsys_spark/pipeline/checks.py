"""What holds of every list before it is written, checked by queries that know nothing of how it was made."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import PublishError
from recsys_spark.schema import ITEM, NEIGHBOR, RANK, USER


def check_lists(rows: DataFrame, seen: DataFrame) -> dict[str, int]:
    """Number of rows and of lists among a date's recommendations.

    Parameters
    ----------
    rows : DataFrame
        ``user``, ``item``, ``rank``: one date's recommendations.
    seen : DataFrame
        ``user``, ``item``: what the lists leave out.

    Raises
    ------
    PublishError
        A list has a gap in its ranks, an item twice or one that the user has seen; or there is no list at
        all.
    """
    counts = _counts(rows, seen, "users' lists", "an item already seen")
    if not counts["lists"]:
        raise PublishError("there are no lists to publish: no user has an eligible item")
    return counts


def check_neighbors(rows: DataFrame) -> dict[str, int]:
    """Number of rows and of lists among a date's similar items; there may be none.

    Parameters
    ----------
    rows : DataFrame
        ``item``, ``neighbor``, ``rank``.

    Raises
    ------
    PublishError
        A list has a gap in its ranks, or an item twice, or the item whose neighbours they are.
    """
    itself = rows.select(F.col(ITEM).alias(USER), ITEM).distinct()
    return _counts(as_lists(rows), itself, "items' lists of neighbours", "the item itself")


def as_lists(neighbors: DataFrame) -> DataFrame:
    """Neighbours as lists for items, to be checked and compared as users' lists are.

    Parameters
    ----------
    neighbors : DataFrame
        One row per (item, rank): ``item``, ``neighbor``, ``rank``.

    Returns
    -------
    DataFrame
        ``user``: whose neighbours they are; ``item``: which; ``rank``.
    """
    return neighbors.select(F.col(ITEM).alias(USER), F.col(NEIGHBOR).alias(ITEM), RANK)


def _counts(rows: DataFrame, excluded: DataFrame, whose: str, what: str) -> dict[str, int]:
    marked = rows.join(excluded.select(USER, ITEM, F.lit(True).alias("excluded")), [USER, ITEM], "left")
    per_user = marked.groupBy(USER).agg(
        F.count("*").alias("rows"),
        F.count_distinct(RANK).alias("ranks"),
        F.max(RANK).alias("last"),
        F.count_distinct(ITEM).alias("items"),
        F.count("excluded").alias("excluded"),
    )
    gap = (F.col("ranks") != F.col("rows")) | (F.col("last") != F.col("rows"))
    totals: Any = per_user.agg(
        F.count("*").alias("lists"),
        F.coalesce(F.sum("rows"), F.lit(0)).alias("rows"),
        F.count_if(gap).alias("gaps"),
        F.count_if(F.col("items") != F.col("rows")).alias("repeated"),
        F.count_if(F.col("excluded") > 0).alias("excluded"),
    ).first()
    problems = {
        "have gaps in their ranks": "gaps",
        "hold an item twice": "repeated",
        f"hold {what}": "excluded",
    }
    for problem, column in problems.items():
        if totals[column]:
            raise PublishError(
                f"{totals[column]:,} of {totals['lists']:,} {whose} {problem}; nothing was written"
            )
    return {"rows": totals["rows"], "lists": totals["lists"]}
