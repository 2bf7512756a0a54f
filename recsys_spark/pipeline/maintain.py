"""Between the nights: what is no longer needed goes, and small files become large ones."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.locks import WHOLE_LAKE, Lock
from recsys_spark.lakehouse.paths import absolute_path
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.storage import folders, modified, remove
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.fitted import BASELINE
from recsys_spark.pipeline.kept_histories import drop_old_histories
from recsys_spark.pipeline.reports import drop_old_reports
from recsys_spark.pipeline.served import served_date

FLOOR_DAYS = 7
"""Days for which files of old versions stay, whatever is asked for, unless that is said to be meant."""

GRACE = timedelta(days=1)
"""For how long folders stay that may be those of a night between two steps."""

DATED = (
    "recommendations",
    "explanations",
    "shelves",
    "similar_items",
    "negatives",
    "rejected_ratings",
    "user_metrics",
)
"""Tables from which old run dates are dropped."""


@dataclass(frozen=True)
class Maintained:
    """What was done.

    Attributes
    ----------
    rows : table → rows of old run dates that were dropped
    files : table → files of old versions that were removed
    folders : folders of models, and of histories that nights had kept, that were removed
    """

    rows: dict[str, int]
    files: dict[str, int]
    folders: int


def maintain(
    spark: SparkSession, config: Config, today: date, keep_days: int | None = None, below_floor: bool = False
) -> Maintained:
    """Drop old run dates and models, compact the tables, and remove the files of old versions.

    Histories go too that a night's split has kept for more than a day, as its last step did not come.
    What is served stays, with its models. Nothing is done while a night of this lake is running.

    Parameters
    ----------
    spark : SparkSession
        With Delta.
    config : Config
        The whole configuration; its ``retention`` says how long what is kept.
    today : date
        From which days are counted.
    keep_days : int, optional
        Days for which the files of old versions stay; by default ``retention.days``.
    below_floor : bool
        ``keep_days`` may be less than seven: a reader, or a night, that still needs such files fails.

    Raises
    ------
    LakeError
        A night is running, or ``keep_days`` is less than seven without ``below_floor``.
    """
    days = config.retention.days if keep_days is None else keep_days
    if days < FLOOR_DAYS and not below_floor:
        raise LakeError(
            f"files of versions that are younger than {FLOOR_DAYS} days may still be read: keep them, or say "
            "that it is meant by --below-floor"
        )
    lake = Lakehouse(spark, config.lake, config.retention)
    with Lock(lake, WHOLE_LAKE, uuid.uuid4().hex[:12]):
        first = today - timedelta(days=config.retention.dates)
        rows = {name: _drop_dates(lake, name, first) for name in DATED if lake.exists(name)}
        removed = drop_old_histories(lake, datetime.now(UTC) - GRACE) + _drop_models(lake, config, first)
        files = {}
        for name in TABLES:
            if lake.exists(name):
                lake.compact(name)
                files[name] = lake.vacuum(name, days, below_floor)
                progress_line(f"  {name}: {rows.get(name, 0):,} old rows, {files[name]:,} old files removed")
        pages = drop_old_reports(spark, config, first, served_date(lake))
    progress_line(f"  {removed:,} folders of models and histories and {pages:,} reports removed")
    return Maintained(rows, files, removed)


def _drop_dates(lake: Lakehouse, name: str, first: date) -> int:
    """Delete the run dates before ``first``, but the one that is served."""
    old: Column = F.col("run_date") < F.lit(first)
    served = served_date(lake)
    if served is not None:
        old &= F.col("run_date") != F.lit(served)
    count = lake.read(name).where(old).count()
    if count:
        lake.delete(name, old)
    return count


def _drop_models(lake: Lakehouse, config: Config, first: date) -> int:
    """Remove the folders of models of dates before ``first``, but what made the served lists, and the
    baseline; in the lake's own folder also those that no row names, which elsewhere may be another lake's.
    """
    rows = lake.collect("models")
    served = served_date(lake)
    old = [
        row
        for row in rows
        if row["run_date"] < first
        and row["run_date"] != served
        and row["state"] != "champion"
        and row["purpose"] != BASELINE
    ]
    known = {row["run_id"] for row in rows}
    old_paths = {row["path"] for row in old}
    still = {row["run_id"] for row in rows if row["path"] not in old_paths}
    root = absolute_path(config.lake.models_path)
    orphaned_before = datetime.now(UTC) - GRACE
    gone = [
        f"{root}/{row['run_id']}/{row['purpose']}/{row['model']}" for row in old if row["run_id"] in still
    ]
    for folder in folders(lake.spark, root):
        run = folder.rpartition("/")[2]
        orphaned = config.lake.model_store is None and modified(lake.spark, folder) < orphaned_before
        if run in known - still or (run not in known and orphaned):
            gone.append(folder)
    for folder in gone:
        remove(lake.spark, folder)
    if old:
        lake.delete("models", F.col("path").isin(*old_paths))
    return len(gone)
