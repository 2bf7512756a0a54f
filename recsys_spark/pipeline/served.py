"""What is served, and what was made for a date."""

from __future__ import annotations

from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.details import SERVED
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.show_runs import switches_of
from recsys_spark.schema import ITEM, USER


def served_lists(lake: Lakehouse, run_date: date | None = None) -> tuple[date, DataFrame]:
    """The lists that are served, or those that were made for ``run_date``, published or not.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    run_date : date, optional
        The night; without it what is served.

    Returns
    -------
    date, DataFrame
        The lists' date; one row per (user, rank): ``user``, ``rank``, ``item``, ``score``, ``model``,
        ``reason`` and more.

    Raises
    ------
    LakeError
        Nothing has been published, or nothing was made for this date.
    """
    if run_date is not None:
        rows = lake.read("recommendations").where(F.col("run_date") == F.lit(run_date))
        if rows.isEmpty():
            raise LakeError(f"there are no recommendations of {run_date}: run the night first")
        return run_date, rows
    served = served_date(lake)
    if served is None:
        raise LakeError("nothing has been published: run the night first")
    return served, lake.read("current_recommendations")


def served_date(lake: Lakehouse) -> date | None:
    """The date whose lists are served; None where there are none.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    """
    reader, lists = lake.reader(), "current_recommendations"
    if reader.schema(lists) is None:
        return None
    dates = reader.rows(lists, ["run_date"], {}, limit=1)["run_date"].to_pylist()
    return dates[0] if dates else None


def served_before(night: Night, days: int) -> DataFrame:
    """What users were shown of late.

    Parameters
    ----------
    night : Night
        The run.
    days : int
        How many before its date.

    Returns
    -------
    DataFrame
        ``user``, ``item``, distinct: of the lists of these days that were ever published, as they are now.
    """
    lake, first = night.lake, night.run_date - timedelta(days=days)
    served = {date.fromisoformat(row["details"][SERVED]) for row in switches_of(lake.reader())}
    recent = [day for day in sorted(served) if first <= day < night.run_date]
    if not lake.exists("recommendations"):
        user, item = night.config.ingest.id_types
        return night.spark.createDataFrame([], f"{USER} {user}, {ITEM} {item}")
    shown = lake.read("recommendations").where(F.col("run_date").isin(recent))
    return shown.select(USER, ITEM).distinct()


def later_served(night: Night) -> date | None:
    """The date that is served, if it is later than the night's.

    Parameters
    ----------
    night : Night
        The run.
    """
    served = served_date(night.lake)
    return served if served is not None and served > night.run_date else None


def left_out_for_later(night: Night) -> bool:
    """Whether a later date is served, so that this night is not published by itself; it is said.

    Parameters
    ----------
    night : Night
        The run.
    """
    later = later_served(night)
    if later is not None:
        progress_line(
            f"publish: left out, as lists of {later} are served; recsys publish --run-date {night.run_date} "
            "serves these"
        )
    return later is not None


def rows_expected(night: Night, count: str = "rows") -> int:
    """How many rows this date has in a table of users' lists: those that were checked, without those of
    people who have been forgotten since.

    Parameters
    ----------
    night : Night
        The run.
    count : str
        Of the ledger: ``rows``, of ``recommendations``, or ``shelf_rows``, of ``shelves``.

    Raises
    ------
    LakeError
        The recommend step has not been done for this date.
    """
    made = night.ledger.last_done("recommend")
    later = [row for row in night.ledger.rows_done("forget") if row["started"] > made["started"]]
    return int(made["counts"].get(count, 0) - sum(row["counts"].get(count, 0) for row in later))
