"""Step six: check this date's recommendations and make them the ones that readers see."""

from __future__ import annotations

from datetime import date
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import note
from recsys_spark.errors import LakeError, PublishError
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.night import Night
from recsys_spark.schema import ITEM, RANK, USER


def publish(night: Night) -> None:
    """Publish the date: from its ``publish`` row in the ledger on, readers see these lists, and before it the last ones.

    The version that was checked is the version that is published.

    Raises
    ------
    LakeError
        There are no recommendations for this date.
    PublishError
        A list has a gap in its ranks, an item twice or one that the user has seen; or there is no list at all.
    """
    with night.step("publish") as entry:
        version = int(night.ledger.last_done("recommend")["versions_written"]["recommendations"])
        entry.versions_read |= {"recommendations": version, "ratings": night.ratings_version()}
        rows = night.lake.read("recommendations", version).where(F.col("run_date") == F.lit(night.run_date))
        counts = check_lists(rows, night.ratings())
        entry.counts |= counts
        note(f"  {counts['users']:,} users' lists checked and published, recommendations version {version}")


def check_lists(rows: DataFrame, ratings: DataFrame) -> dict[str, int]:
    """Number of users and rows of a date's recommendations.

    Raises
    ------
    PublishError
        A list has a gap in its ranks, an item twice or one that the user has seen; or there is no list at all.
    """
    marked = rows.join(ratings.select(USER, ITEM, F.lit(True).alias("seen")), [USER, ITEM], "left")
    per_user = marked.groupBy(USER).agg(
        F.count("*").alias("rows"),
        F.count_distinct(RANK).alias("ranks"),
        F.max(RANK).alias("last"),
        F.count_distinct(ITEM).alias("items"),
        F.count("seen").alias("seen"),
    )
    gap = (F.col("ranks") != F.col("rows")) | (F.col("last") != F.col("rows"))
    totals: Any = per_user.agg(
        F.count("*").alias("users"),
        F.coalesce(F.sum("rows"), F.lit(0)).alias("rows"),
        F.count_if(gap).alias("gaps"),
        F.count_if(F.col("items") != F.col("rows")).alias("repeated"),
        F.count_if(F.col("seen") > 0).alias("seen"),
    ).first()
    problems = {
        "have gaps in their ranks": "gaps",
        "hold an item twice": "repeated",
        "hold an item already seen": "seen",
    }
    for what, column in problems.items():
        if totals[column]:
            raise PublishError(f"{totals[column]:,} of {totals['users']:,} users' lists {what}; nothing was published")
    if not totals["users"]:
        raise PublishError("there is not one list to publish")
    return {"users": totals["users"], "rows": totals["rows"]}


def published(lake: Lakehouse, run_date: date | None = None) -> tuple[date, DataFrame]:
    """The published recommendations of ``run_date``, or of the latest date that has been published.

    Raises
    ------
    LakeError
        Nothing has been published, or nothing for this date.
    """
    done = lake.read("runs").where((F.col("step") == "publish") & (F.col("state") == "done"))
    if run_date is not None:
        done = done.where(F.col("run_date") == F.lit(run_date))
    row = done.orderBy(F.desc("run_date"), F.desc("started")).first()
    if row is None:
        raise LakeError(f"nothing has been published{f' for {run_date}' if run_date else ''}: run the night first")
    rows = lake.read("recommendations", int(row["versions_read"]["recommendations"]))
    return row["run_date"], rows.where(F.col("run_date") == F.lit(row["run_date"]))
