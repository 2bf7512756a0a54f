"""Conditions over items that a configuration names: over the table ``items``, the run date, and how often
each item is rated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config import config_problem
from recsys_spark.errors import ConfigError, summary
from recsys_spark.evaluation.ranking import HEAD
from recsys_spark.histories import PackedHistories
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.night import Night
from recsys_spark.schema import ITEM

RATINGS = "ratings"
_HEAD = "head"


def read_items(night: Night, record: StepRecord) -> DataFrame:
    """The table ``items``; without rows where there is none.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added where there is the table.
    """
    if not night.lake.exists("items"):
        return night.spark.createDataFrame([], f"{ITEM} {night.config.ingest.id_types[1]}")
    version = record.versions_read.setdefault("items", night.lake.version("items"))
    return night.lake.read("items", version)


def conditioned(
    night: Night, record: StepRecord, key: str, conditions: Iterable[str], known: PackedHistories | None
) -> DataFrame:
    """Items, also those that are only rated, with what conditions may ask beside their columns.

    Parameters
    ----------
    night : Night
        The run.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added.
    key : str
        Of the configuration, that has the conditions.
    conditions : iterable of str
        SQL.
    known : PackedHistories or None
        What is counted; None where conditions are only looked at.

    Returns
    -------
    DataFrame
        The items' columns, ``ratings`` bigint, how often each is rated, ``head`` boolean, whether it is among
        the most rated fifth, and ``run_date``.

    Raises
    ------
    ConfigError
        A condition names an unknown column, or is none.
    """
    items = _with_counts(read_items(night, record), known).withColumn("run_date", F.lit(night.run_date))
    for condition in conditions:
        try:
            items.where(F.expr(condition))
        except AnalysisException as error:
            allowed = f"a condition over {items.columns}"
            problem = config_problem(night.config.origin, key, condition, allowed)
            raise ConfigError(f"{problem}; {summary(error)}") from None
    return items


def require_conditions(night: Night, key: str, conditions: Iterable[str]) -> None:
    """Check that conditions can be asked of every item.

    Parameters
    ----------
    night : Night
        The run.
    key : str
        Of the configuration, that has the conditions.
    conditions : iterable of str
        SQL.

    Raises
    ------
    ConfigError
        As of :func:`conditioned`; or one fails on a row.
    """
    items = conditioned(night, StepRecord(), key, conditions, None)
    try:  # a condition that reads a number in a text fails on the row where there is none
        for condition in conditions:
            items.where(F.expr(condition)).count()
    except PySparkException as error:
        raise ConfigError(
            f"{night.config.origin}: a condition of {key} cannot be asked of every row: {summary(error)}"
        ) from None


def _with_counts(items: DataFrame, known: PackedHistories | None) -> DataFrame:
    items = items.drop(RATINGS, _HEAD)
    if known is None:
        return items.withColumns({RATINGS: F.lit(0).cast("bigint"), _HEAD: F.lit(False)})
    counts = known.item_counts().persist()
    try:
        most = math.ceil(HEAD * counts.count())
        place = F.row_number().over(Window.orderBy(F.desc(RATINGS), ITEM))
        counted = counts.withColumn(_HEAD, place <= most).localCheckpoint()
    finally:
        counts.unpersist()
    return items.join(counted, ITEM, "full").fillna(0, [RATINGS]).fillna(False, [_HEAD])
