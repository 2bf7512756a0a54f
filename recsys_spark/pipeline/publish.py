"""Step six: make this date's recommendations the ones that readers see."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError, PublishError
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.night import Night


def publish(night: Night) -> None:
    """Make this date's lists the ones that readers see: reads recommendations, writes runs only.

    From its ``publish`` row in the ledger on, readers see these lists, and before it the last ones.

    What is published is the version that the recommend step checked and wrote, whatever happened to the table
    since.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        There are no recommendations for this date.
    PublishError
        That version does not hold the rows that were checked.
    """
    with night.step("publish") as record:
        done = night.ledger.last_done("recommend")
        version, checked = int(done["versions_written"]["recommendations"]), done["counts"]["rows"]
        record.versions_read |= {"recommendations": version, "ratings": night.ratings_version()}
        rows = (
            night.lake.read("recommendations", version)
            .where(F.col("run_date") == F.lit(night.run_date))
            .count()
        )
        if rows != checked:
            raise PublishError(
                f"recommendations version {version} has {rows:,} rows of {night.run_date}, and {checked:,} "
                "were checked: run the recommend step again"
            )
        record.counts |= {"rows": rows, "lists": done["counts"]["lists"]}
        progress_line(
            f"  {record.counts['lists']:,} users' lists published, recommendations version {version}"
        )


def published(lake: Lakehouse, run_date: date | None = None) -> tuple[date, DataFrame]:
    """The published recommendations of ``run_date``, or of the latest date that has been published.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    run_date : date, optional
        The night; without it the latest published one.

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
        raise LakeError(
            f"nothing has been published{f' for {run_date}' if run_date else ''}: run the night first"
        )
    rows = lake.read("recommendations", int(row["versions_read"]["recommendations"]))
    return row["run_date"], rows.where(F.col("run_date") == F.lit(row["run_date"]))
