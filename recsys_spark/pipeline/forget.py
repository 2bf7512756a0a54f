"""A person's rows leave every table, and do not come back."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.console import progress_line
from recsys_spark.data.cleaning import forgotten_hash
from recsys_spark.lakehouse.ledger import Ledger
from recsys_spark.lakehouse.locks import WHOLE_LAKE, Lock
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.kept_histories import drop_old_histories
from recsys_spark.pipeline.reports import drop_reports_of
from recsys_spark.pipeline.shelves import SHELF_ROWS
from recsys_spark.schema import RAW, USER

_CHECKED = {"recommendations": "rows", "shelves": SHELF_ROWS}
"""Table of users' lists → count of the ledger, by which publishing finds them complete."""


def forget(spark: SparkSession, config: Config, users: Collection[str], today: date) -> dict[str, int]:
    """Remove people's rows from every table, and keep them from coming back.

    Their ids are remembered as hashes only: rows of theirs that come again in the input are rejected as
    ``forgotten``. Old versions of the tables and saved models hold them until :func:`maintain` removes those.

    Parameters
    ----------
    spark : SparkSession
        With Delta.
    config : Config
        The whole configuration.
    users : collection of str
        Ids.
    today : date
        From which the day is counted on which they are gone everywhere.

    Returns
    -------
    dict of str to int
        Table → rows removed from it, and ``reports`` → pages.

    Raises
    ------
    LakeError
        A night is running.
    """
    lake = Lakehouse(spark, config.lake, config.retention)
    run_id = uuid.uuid4().hex[:12]
    with Lock(lake, WHOLE_LAKE, run_id):
        _remember(lake, users)
        gone, dates = {}, dict[date, dict[str, int]]()
        for name in TABLES:
            if not lake.exists(name):
                continue
            where = _of_users(name, users)
            if where is None:
                continue
            if name in _CHECKED:
                for row in lake.read(name).where(where).groupBy("run_date").count().collect():
                    dates.setdefault(row["run_date"], {})[_CHECKED[name]] = row["count"]
            gone[name] = lake.read(name).where(where).count()
            if gone[name]:
                lake.delete(name, where)
            if TABLES[name].marks_rows:  # earlier rows of theirs too, that a night replaced
                lake.purge(name)
            if gone[name]:
                version = lake.version(name)
                progress_line(f"  {name}: {gone[name]:,} rows removed, gone from version {version} on")
        for of_date, counts in sorted(dates.items()):  # so that the rest of its lists can still be published
            with Ledger(lake, run_id, of_date, "{}").step("forget") as record:
                record.counts |= counts
        _clear_errors(lake, users)
        drop_old_histories(lake, datetime.now(UTC))
        gone["reports"] = drop_reports_of(spark, config, users)
        if gone["reports"]:
            progress_line(f"  reports: {gone['reports']:,} pages that showed them removed")
    versions = today + timedelta(days=config.retention.days)
    models = today + timedelta(days=config.retention.dates)
    progress_line(
        f"  old versions go with the first `recsys maintain` after {versions}, saved models with the first "
        f"after {models}: then nothing is left"
    )
    return gone


def _remember(lake: Lakehouse, users: Collection[str]) -> None:
    lake.create("forgotten")
    frame = lake.spark.createDataFrame([(user,) for user in sorted(users)], "user string")
    rows = frame.select(
        forgotten_hash(F.col(USER)).alias("user_hash"), F.current_timestamp().alias("forgotten_at")
    )
    lake.upsert("forgotten", rows, ("user_hash",))


def _clear_errors(lake: Lakehouse, users: Collection[str]) -> None:
    """The ledger's errors may show rows of the input: those that name the users do so no longer."""
    if lake.exists("runs"):
        named = _named(F.col("error"), users)
        if not lake.read("runs").where(named).isEmpty():
            lake.update("runs", named, {"error": F.lit("named somebody who has been forgotten")})


def _named(text: Column, users: Collection[str]) -> Column:
    """Whether one of the ids stands in a text by itself."""
    alone = rf"(?U)(^|\W)({'|'.join(map(re.escape, sorted(users)))})(\W|$)"
    return F.coalesce(text.rlike(alone), F.lit(False))


def _of_users(name: str, users: Collection[str]) -> Column | None:
    """Condition of the rows of a table that are about these users; None where no rows are about users."""
    if name == "rejected_ratings":
        return _named(F.col(RAW), users)
    if USER not in TABLES[name].columns:
        return None
    return F.col(USER).cast("string").isin(*users)
