"""Slots of the night's lists that the configuration gives away: pinned ones, and those that are drawn."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.slots import Slot
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.popularity import PopularityModel
from recsys_spark.pipeline.fitted import POPULAR
from recsys_spark.pipeline.item_conditions import RATINGS, conditioned, require_conditions
from recsys_spark.pipeline.night import Night
from recsys_spark.recommend.slots import Pool, with_slots
from recsys_spark.recommend.top_n import RECOMMENDATIONS, ListRequest, first_of_lists
from recsys_spark.schema import EXPLORATION, ITEM, PINNED, SCORE, USER

_KEY = "recommend.slots"


def require_slots(night: Night) -> None:
    """Check that the conditions of ``recommend.slots`` can be asked of every row of ``items``.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    ConfigError
        One is no condition, names an unknown column, or fails on a row.
    """
    conditions = _conditions(night)
    if conditions:
        require_conditions(night, _KEY, conditions)


def depth_of_draws(night: Night) -> int:
    """How long the model's lists are that slots are drawn from; 0 where none is.

    Parameters
    ----------
    night : Night
        The run.
    """
    drawn = (slot.candidates for slot in night.config.recommend.slots if slot.where is None)
    return max(drawn, default=0)


def slots_filled(
    night: Night,
    record: StepRecord,
    rows: DataFrame,
    users: DataFrame,
    champion: str,
    best: DataFrame,
    request: ListRequest,
) -> DataFrame:
    """Lists with the configured slots pinned and drawn.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added where a condition is asked.
    rows : DataFrame
        ``user``, ``item``, ``score``, ``rank``, ``model``, ``reason``: the lists without.
    users : DataFrame
        ``user``: whom they are for.
    champion : str
        The model's name.
    best : DataFrame
        ``id``, ``recommendations``: the model's lists, at least as long as :func:`depth_of_draws`.
    request : ListRequest
        What was asked for them, which holds for these slots too.

    Returns
    -------
    DataFrame
        The rows, with ``propensity``, null where nothing is drawn. A pass over the users for each
        condition, and one shuffle.

    Raises
    ------
    ConfigError
        A condition is none, or names an unknown column.
    """
    wanted = night.config.recommend.slots
    conditions = _conditions(night)
    items = conditioned(night, record, _KEY, conditions, night.pairs()) if conditions else None
    pools, slots = list[Pool](), list[Slot]()
    day, seed = night.run_date.toordinal(), night.config.seed
    pins = sum(len(slot.ranks) for slot in wanted if not slot.draw)
    for number, slot in enumerate(wanted):
        slots += [Slot(rank, number, slot.rate if slot.draw else 0.0) for rank in slot.ranks]
        if items is None or slot.where is None:
            lists, of_model = first_of_lists(best, slot.candidates), champion
        else:
            asked = replace(request, n=slot.candidates if slot.draw else pins)
            # of as many ratings each night others are drawn from, where there is no room for all
            chance = F.shiftrightunsigned(F.xxhash64(ITEM, F.lit(day), F.lit(seed)), 40) / 2.0**25
            score = F.col(RATINGS) + (chance if slot.draw else F.lit(0.0))
            scores = items.where(F.expr(slot.where)).select(F.col(ITEM).alias("id"), score.alias("score"))
            among = PopularityModel(scores, users.select(F.col(USER).alias("id")))
            lists, of_model = _counts_alone(among.recommend_lists(users, asked)), POPULAR
        pools.append(Pool(lists, of_model, EXPLORATION if slot.draw else PINNED))
    return with_slots(rows, pools, slots, night.config.recommend.n, seed, day)


def _counts_alone(lists: DataFrame) -> DataFrame:
    """Lists whose scores are numbers of ratings again."""
    count = F.transform(
        RECOMMENDATIONS,
        lambda entry: F.struct(entry[ITEM].alias(ITEM), F.floor(entry[SCORE]).cast("float").alias(SCORE)),
    )
    return lists.withColumn(RECOMMENDATIONS, count)


def _conditions(night: Night) -> list[str]:
    return [slot.where for slot in night.config.recommend.slots if slot.where is not None]
