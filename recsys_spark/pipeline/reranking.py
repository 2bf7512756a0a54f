"""Lists of a night as they are shown: chosen again from the best candidates, where that is configured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config import config_problem
from recsys_spark.config.rules import Rerank
from recsys_spark.errors import ConfigError, summary
from recsys_spark.evaluation.ranking import HEAD
from recsys_spark.histories import PackedHistories
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import ListMaker
from recsys_spark.recommend.rerank import Reranking, reranked
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM

_KEY = "recommend.rerank"
_RATINGS, _HEAD = "ratings", "head"


@dataclass(frozen=True)
class Shown:
    """How lists are shown, by ``recommend.rerank`` where the configuration has it.

    Attributes
    ----------
    known : what is known of the users
    wanted : of the configuration, or None
    items : of :func:`_items`, or None
    """

    known: PackedHistories
    wanted: Rerank | None
    items: DataFrame | None

    @classmethod
    def of(cls, night: Night, record: StepRecord, known: PackedHistories) -> Shown:
        """What is asked of the items, once for all models.

        Parameters
        ----------
        night : Night
            The run: session, tables, ledger and pinned data.
        record : StepRecord
            What the step says of itself; the version of ``items`` is added where it is read.
        known : PackedHistories
            What is known of the users.

        Raises
        ------
        ConfigError
            The table ``items`` lacks a column, or a condition is none.
        """
        wanted = night.config.recommend.rerank
        return cls(known, wanted, None if wanted is None else _items(night, record, wanted, known))

    def lists(self, model: ListMaker, users: DataFrame, request: ListRequest) -> DataFrame:
        """A model's lists.

        Parameters
        ----------
        model : ListMaker
            What makes the lists.
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Of the lists that are shown.
        """
        if self.wanted is None or self.items is None:
            return model.recommend_lists(users, request)
        longer = replace(request, n=max(request.n, self.wanted.candidates))
        candidates = model.recommend_lists(users, longer)
        how = _reranking(self.wanted, request.n)
        return reranked(candidates, self.items, request.n, how, self.known)


def require_rerank(night: Night) -> None:
    """Check that what ``recommend.rerank`` names can be asked of every row of ``items``.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    ConfigError
        The table lacks a column, there is none, or a condition is none, or fails on a row.
    """
    wanted = night.config.recommend.rerank
    if wanted is None:
        return
    items = _items(night, StepRecord(), wanted, None)
    try:  # a condition that reads a number in a text fails on the row where there is none
        for condition in _conditions(wanted):
            items.where(F.expr(condition)).count()
    except PySparkException as error:
        raise ConfigError(
            f"{night.config.origin}: a condition of {_KEY} cannot be asked of every row: {summary(error)}"
        ) from None


def _conditions(wanted: Rerank) -> list[str]:
    return [*(boost.where for boost in wanted.boosts), *(floor.where for floor in wanted.floors)]


def _reranking(wanted: Rerank, n: int) -> Reranking:
    """The configuration's wishes, for lists of ``n``."""
    boosts = {boost.where: boost.by for boost in wanted.boosts}
    floors = {floor.where: round(floor.share * n) for floor in wanted.floors}
    return Reranking(wanted.diversity, wanted.by, wanted.caps, wanted.calibration, boosts, floors)


def _items(night: Night, record: StepRecord, wanted: Rerank, known: PackedHistories | None) -> DataFrame:
    """The table ``items``; where there are conditions with the run date and, of what is known, how often each
    is rated, and whether it is among the most rated.
    """
    lake, named = night.lake, [*([wanted.by] if wanted.diversity or wanted.calibration else []), *wanted.caps]
    item_type = night.config.ingest.id_types[1]
    items = night.spark.createDataFrame([], f"{ITEM} {item_type}")
    if lake.exists("items"):
        version = record.versions_read.setdefault("items", lake.version("items"))
        items = lake.read("items", version)
    missing = [name for name in named if name not in items.columns]
    if missing:
        allowed = f"columns of the table items: {items.columns if lake.exists('items') else []}"
        raise ConfigError(config_problem(night.config.origin, _KEY, missing, allowed))
    conditions = _conditions(wanted)
    if not conditions:
        return items
    asked = _with_counts(items, known).withColumn("run_date", F.lit(night.run_date))
    for condition in conditions:
        try:
            asked.where(F.expr(condition))
        except AnalysisException as error:
            problem = config_problem(
                night.config.origin, _KEY, condition, f"a condition over {asked.columns}"
            )
            raise ConfigError(f"{problem}; {summary(error)}") from None
    return asked


def _with_counts(items: DataFrame, known: PackedHistories | None) -> DataFrame:
    """Items, also those without a row, with ``ratings`` and ``head``."""
    items = items.drop(_RATINGS, _HEAD)
    if known is None:
        return items.withColumns({_RATINGS: F.lit(0).cast("bigint"), _HEAD: F.lit(False)})
    counts = known.item_counts().persist()
    try:
        most = math.ceil(HEAD * counts.count())
        place = F.row_number().over(Window.orderBy(F.desc(_RATINGS), ITEM))
        counted = counts.withColumn(_HEAD, place <= most).localCheckpoint()
    finally:
        counts.unpersist()
    return items.join(counted, ITEM, "full").fillna(0, [_RATINGS]).fillna(False, [_HEAD])
