"""What is popular among people of one kind, which fills lists up before what is popular at all."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import quoted
from recsys_spark.histories import PackedHistories
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.popularity import PopularityModel
from recsys_spark.pipeline.item_conditions import read_items
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.side_tables import few_values, table_with
from recsys_spark.recommend.top_n import REASON
from recsys_spark.schema import ITEM, USER

_KEY = "recommend.fallback_by"
_SEGMENT = "segment"


def popular_in_segments(night: Night, record: StepRecord) -> list[tuple[PopularityModel, DataFrame]]:
    """For each value of ``recommend.fallback_by`` what its people have rated most, and these people.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``users`` is added.

    Returns
    -------
    list of PopularityModel and DataFrame
        The model, and ``user``: whom it is of. Nothing where no column is configured. A join of all ratings.

    Raises
    ------
    ConfigError
        The table ``users`` has no such column, or it has too many values.
    """
    if night.config.recommend.fallback_by is None:
        return []
    people = people_by_segment(night, record).localCheckpoint()
    rated = night.rated().rows(USER, ITEM).join(people, USER)
    sums = rated.groupBy(_SEGMENT, ITEM).agg(F.count("*").cast("double").alias("score"))
    counts, found = sums.localCheckpoint(), list[tuple[PopularityModel, DataFrame]]()
    for segment in segments_of(night, people):
        own = F.col(_SEGMENT) == segment
        users = people.where(own).select(USER)
        scores = counts.where(own).select(F.col(ITEM).alias("id"), "score")
        found.append((PopularityModel(scores, users.select(F.col(USER).alias("id"))), users))
    return found


def with_unrated(night: Night, record: StepRecord, popular: PopularityModel) -> PopularityModel:
    """Popular items, and at their end those of the table ``items`` that nobody has rated, by their ids.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added where there is the table.
    popular : PopularityModel
        Of rated items.
    """
    known = read_items(night, record).select(F.col(ITEM).alias("id"))
    unrated = known.join(popular.scores, "id", "left_anti").withColumn("score", F.lit(0.0))
    return PopularityModel(popular.scores.unionByName(unrated), popular.users)


def taken_or_seen(rows: DataFrame, users: DataFrame, seen: PackedHistories | DataFrame | None) -> DataFrame:
    """``user``, ``item``: what is not to fill users' lists, as it is in them, or is left out.

    Parameters
    ----------
    rows : DataFrame
        ``user``, ``item``: the lists.
    users : DataFrame
        ``user``: whose lists are filled.
    seen : PackedHistories or DataFrame or None
        What lists leave out.
    """
    taken = rows.select(USER, ITEM)
    if seen is not None:
        pairs = seen.rows(USER, ITEM) if isinstance(seen, PackedHistories) else seen
        taken = taken.unionByName(pairs.select(USER, ITEM))
    return taken.join(users, USER, "left_semi")


def people_by_segment(night: Night, record: StepRecord) -> DataFrame:
    """``user`` and ``segment``, text: the values of the column of ``users``, where it has one.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``users`` is added.

    Raises
    ------
    ConfigError
        The table ``users`` has no such column, or there is none.
    """
    name = night.config.recommend.fallback_by or ""
    users = table_with(night, record, "users", _KEY, name)
    return users.select(USER, F.col(quoted(name)).cast("string").alias(_SEGMENT)).dropna()


def segments_of(night: Night, people: DataFrame) -> list[str]:
    """The segments, in the order of their names.

    Parameters
    ----------
    night : Night
        The run.
    people : DataFrame
        Of :func:`people_by_segment`.

    Raises
    ------
    ConfigError
        There are too many.
    """
    return few_values(night, _KEY, night.config.recommend.fallback_by or "", people, _SEGMENT)


def labelled(rows: DataFrame, model: str, reason: str) -> DataFrame:
    """Rows with the model, and the reason where they have none of their own.

    Parameters
    ----------
    rows : DataFrame
        Of lists.
    model, reason : str
        Who has made them, and why they are there.
    """
    own = F.col(REASON) if REASON in rows.columns else F.lit(reason)
    return rows.withColumns({"model": F.lit(model), REASON: own})
