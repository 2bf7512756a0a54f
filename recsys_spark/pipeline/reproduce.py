"""A date's lists once more, from the data and the settings that made them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.data.cleaning import forgotten_hash
from recsys_spark.errors import LakeError, PublishError
from recsys_spark.histories import PARTS
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.models.popularity import PopularityModel
from recsys_spark.pipeline.details import PATHS
from recsys_spark.pipeline.eligibility import Rules
from recsys_spark.pipeline.fitted import COMPARISON, POPULAR, SERVING, load
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.recommend import make_lists
from recsys_spark.pipeline.refit import ListMaker, folded, kept_fit
from recsys_spark.pipeline.train import fit
from recsys_spark.revision import code_version
from recsys_spark.schema import ITEM, RANK, SCORE, USER


@dataclass(frozen=True)
class Reproduced:
    """Lists that are the same as those in the archive.

    Attributes
    ----------
    rows, lists : how many
    made_by : code version that made the archive's lists
    """

    rows: int
    lists: int
    made_by: str


def reproduce(spark: SparkSession, config: Config, run_date: date, to: str | None = None) -> Reproduced:
    """Make a date's lists again as they were made, and compare them with the archive: reads what the
    recommend step read, at the versions that it read, and writes no table.

    The settings are those of the ledger; of ``config`` only the lake counts. People who have been forgotten
    since get no lists; files that rules name are read as they are now.

    Parameters
    ----------
    spark : SparkSession
        With Delta.
    config : Config
        The lake.
    run_date : date
        The night.
    to : str, optional
        Folder or URI that the lists are written to, as Parquet; it must not exist.

    Raises
    ------
    LakeError
        The date has no lists, or a version that they were made from is no longer kept.
    PublishError
        The lists are not those of the archive: how many rows differ, and whether the code does.
    """
    row = _made(Lakehouse(spark, config.lake), run_date)
    made_with = Config.model_validate_json(row["config"]).model_copy(update={"lake": config.lake})
    versions = {
        name: row["versions_read"][name] for name in ("ratings", "events") if name in row["versions_read"]
    }
    night = Night(spark, made_with, run_date, pinned=versions)
    with ExitStack() as kept:
        model, fallback = _models(night, row)
        rules = Rules(night, StepRecord(versions_read=dict(row["versions_read"])))
        made = make_lists(night, rules, row["details"]["champion"], model, fallback, kept).rows
        made = _remembered(night.lake, made)
        if to is not None:
            made.write.parquet(to)
        return _compared(night.lake, made, row)


def _made(lake: Lakehouse, run_date: date) -> Any:
    """The ledger's row of the recommend step that made a date's lists."""
    rows = lake.collect("runs", {"run_date": [run_date], "step": ["recommend"], "state": ["done"]})
    row = max(rows, key=lambda row: row["started"], default=None)
    if row is None:
        raise LakeError(f"step 'recommend' has not been done for run date {run_date}: there are no lists")
    return row


def _models(night: Night, row: Any) -> tuple[ListMaker, PopularityModel | None]:
    """The models of the lists, fitted again where they were fitted for this night."""
    record = StepRecord(versions_read=dict(row["versions_read"]))
    champion, paths = row["details"]["champion"], json.loads(row["details"][PATHS])
    fallback: Any = None if champion == POPULAR else fit(night, record, POPULAR, PARTS)
    earlier = kept_fit(night)
    if earlier is not None:
        return folded(night, record, earlier, SERVING, PARTS), fallback
    if SERVING in paths:
        return fit(night, record, champion, PARTS), fallback
    return load({"model": champion, "path": paths[COMPARISON]}), fallback


def _remembered(lake: Lakehouse, lists: DataFrame) -> DataFrame:
    """Lists without those of people who have been forgotten."""
    if not lake.exists("forgotten"):
        return lists
    gone, hashed = lake.read("forgotten").select("user_hash"), forgotten_hash(F.col(USER))
    return lists.withColumn("user_hash", hashed).join(gone, "user_hash", "left_anti").drop("user_hash")


def _compared(lake: Lakehouse, made: DataFrame, row: Any) -> Reproduced:
    columns = [USER, RANK, ITEM, SCORE, "model", "reason"]
    archive = lake.read("recommendations").where(F.col("run_date") == F.lit(row["run_date"]))
    made, archive = made.select(columns).persist(), archive.select(columns).persist()
    try:
        rows, differing = archive.count(), made.exceptAll(archive).count() + archive.exceptAll(made).count()
        now = code_version()
        if differing:
            code = "the same code" if row["code"] == now else f"code {row['code']}, and this is {now}"
            raise PublishError(
                f"{differing:,} rows differ from the {rows:,} of {row['run_date']} in recommendations, which "
                f"were made by {code}"
            )
        return Reproduced(rows, archive.where(F.col(RANK) == 1).count(), row["code"])
    finally:
        made.unpersist()
        archive.unpersist()
