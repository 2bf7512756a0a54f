"""Lists of a night as they are shown: chosen again from the best candidates, where that is configured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import config_problem
from recsys_spark.config.rules import Rerank
from recsys_spark.errors import ConfigError, ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.item_conditions import conditioned, read_items, require_conditions
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import ListMaker
from recsys_spark.recommend.rerank import GIVEN, Reranking, require_values, reranked
from recsys_spark.recommend.top_n import RECOMMENDATIONS, ListRequest
from recsys_spark.schema import ITEM, RANK, SCORE, USER

_KEY = "recommend.rerank"


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
        longer = replace(request, n=self.depth(request.n))
        return self.chosen(model.recommend_lists(users, longer), request.n)

    def filling(self, model: ListMaker, rows: DataFrame, users: DataFrame, request: ListRequest) -> DataFrame:
        """What a model adds to lists that are too short, chosen with an eye to what is in them.

        Parameters
        ----------
        model : ListMaker
            What fills the lists.
        rows : DataFrame
            ``user``, ``item``, ``score``, ``rank``: the lists.
        users : DataFrame
            ``user``, unique: whose lists are filled.
        request : ListRequest
            Of whole lists; what is listed is among what it leaves out.
        """
        if self.wanted is None:
            return self.lists(model, users, request)
        best = model.recommend_lists(users, replace(request, n=self.depth(request.n)))
        own = rows.join(users, USER, "left_semi").groupBy(F.col(USER).alias("id"))
        by_rank = F.sort_array(F.collect_list(F.struct(RANK, F.struct(ITEM, SCORE).alias("entry"))))
        listed = own.agg(by_rank["entry"].alias("listed"))
        whole = F.concat(F.coalesce("listed", F.slice(RECOMMENDATIONS, 1, 0)), RECOMMENDATIONS)
        given = F.coalesce(F.array_size("listed"), F.lit(0)).alias(GIVEN)
        both = best.join(listed, "id", "left").select("id", whole.alias(RECOMMENDATIONS), given)
        return self.chosen(both, request.n).drop(GIVEN)

    def depth(self, n: int) -> int:
        """How long the lists are that ones of ``n`` are chosen from.

        Parameters
        ----------
        n : int
            Items of a list.
        """
        return n if self.wanted is None else max(n, self.wanted.candidates)

    def chosen(self, best: DataFrame, n: int) -> DataFrame:
        """Lists of ``n``, chosen from a model's best.

        Parameters
        ----------
        best : DataFrame
            ``id``, ``recommendations``, best first, of :meth:`depth`.
        n : int
            Items of a list.
        """
        if self.wanted is None or self.items is None:
            return best
        return reranked(best, self.items, n, _reranking(self.wanted, n), self.known)


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
    if wanted is not None:
        _items(night, StepRecord(), wanted, None)
        require_conditions(night, _KEY, _conditions(wanted))


def _conditions(wanted: Rerank) -> list[str]:
    return [*(boost.where for boost in wanted.boosts), *(floor.where for floor in wanted.floors)]


def _reranking(wanted: Rerank, n: int) -> Reranking:
    """The configuration's wishes, for lists of ``n``."""
    boosts = {boost.where: boost.by for boost in wanted.boosts}
    floors = {floor.where: math.ceil(round(floor.share * n, 9)) for floor in wanted.floors}
    return Reranking(wanted.diversity, wanted.by, wanted.caps, wanted.calibration, boosts, floors)


def _items(night: Night, record: StepRecord, wanted: Rerank, known: PackedHistories | None) -> DataFrame:
    """The items, where there are conditions with what these may ask."""
    items = read_items(night, record)
    named = [*([wanted.by] if wanted.diversity or wanted.calibration else []), *wanted.caps]
    missing = [name for name in named if name not in items.columns]
    if missing:
        allowed = f"columns of the table items: {items.columns if night.lake.exists('items') else []}"
        raise ConfigError(config_problem(night.config.origin, _KEY, missing, allowed))
    try:
        require_values(items, _reranking(wanted, 1))
    except ModelError as error:
        raise ConfigError(f"{night.config.origin}: {_KEY}: {error}") from None
    conditions = _conditions(wanted)
    return conditioned(night, record, _KEY, conditions, known) if conditions else items
