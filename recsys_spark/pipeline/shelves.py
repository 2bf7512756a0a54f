"""Lists by shelf, such as one for each genre, which a night makes beside its lists, from the same scores."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import quoted
from recsys_spark.errors import PublishError
from recsys_spark.histories import PackedHistories
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.popularity import PopularityModel
from recsys_spark.pipeline.fitted import POPULAR
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.popular import labelled, taken_or_seen
from recsys_spark.pipeline.refit import ListMaker
from recsys_spark.pipeline.side_tables import few_values, table_with
from recsys_spark.recommend.shelves import by_shelf
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, RANK, SHELF, USER

SHELVES = "shelves"
SHELF_ROWS = "shelf_rows"
"""Count of the ledger's row of ``recommend``: how many there are; missing where there are none."""

_KEY = "recommend.shelves.by"


def shelves(
    night: Night,
    record: StepRecord,
    request: ListRequest,
    users: DataFrame,
    champion: str,
    model: ListMaker,
    popular: PopularityModel,
    kept: ExitStack,
) -> DataFrame | None:
    """The champion's best items of each shelf for each user, with popular ones where it is short; checked.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; counts are added.
    request : ListRequest
        What was asked for the lists.
    users : DataFrame
        ``user``: whom they are for.
    champion : str
        The model's name.
    model : RecommenderModel or Folded
        What makes the lists.
    popular : PopularityModel
        What fills them up.
    kept : ExitStack
        Frees, at its end, what is kept in memory.

    Returns
    -------
    DataFrame or None
        One row per (user, shelf, rank): ``run_date``, ``user``, ``shelf``, ``rank``, ``item``, ``score``,
        ``model``, ``reason``; None where none are configured.

    Raises
    ------
    ConfigError
        The table ``items`` has no such column, or there are too many shelves.
    PublishError
        A shelf has a gap in its ranks, an item twice, one of another shelf, or one that the user has seen.
    """
    wanted = night.config.recommend.shelves
    if wanted is None:
        return None
    members = shelf_members(night, record).persist()
    kept.callback(members.unpersist)
    names = names_of(night, members)
    if not names:
        return None
    asked, run_date = replace(request, n=wanted.n, shelves=members), F.lit(night.run_date)
    rows = by_shelf(model.with_reasons(model.recommend_lists(users, asked)), members, wanted.n)
    rows = labelled(rows, champion, "model").withColumn("run_date", run_date).persist()
    kept.callback(rows.unpersist)
    have = rows.groupBy(USER, SHELF).agg(F.count("*").cast("int").alias("have"))
    full = have.where(F.col("have") == wanted.n).groupBy(USER).count().where(F.col("count") == len(names))
    short = users.join(full, USER, "left_anti").localCheckpoint()
    if not short.isEmpty():
        lists = popular.recommend_lists(short, replace(asked, seen=taken_or_seen(rows, short, request.seen)))
        more = by_shelf(lists, members, wanted.n).join(have, [USER, SHELF], "left").fillna(0, ["have"])
        own = {RANK: F.col(RANK) + F.col("have"), "run_date": run_date}
        more = (
            labelled(more, POPULAR, "fallback")
            .withColumns(own)
            .where(F.col(RANK) <= wanted.n)
            .drop("have")
            .persist()
        )
        kept.callback(more.unpersist)
        rows = rows.unionByName(more)
    record.counts |= {SHELVES: len(names), SHELF_ROWS: _checked(rows, members, request)}
    return rows


def shelf_members(night: Night, record: StepRecord) -> DataFrame:
    """``item``, ``shelf``, distinct: which items are on which.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added.

    Raises
    ------
    ConfigError
        The table ``items`` has no such column, or there is none.
    """
    wanted = night.config.recommend.shelves
    name = "" if wanted is None else wanted.by
    items = table_with(night, record, "items", _KEY, name)
    column = F.col(quoted(name))
    values = column if isinstance(items.schema[name].dataType, T.ArrayType) else F.array(column)
    rows = items.select(ITEM, F.explode(values.cast("array<string>")).alias(SHELF))
    return rows.where(F.col(SHELF).isNotNull()).distinct()


def names_of(night: Night, members: DataFrame) -> list[str]:
    """The shelves, in the order of their names.

    Parameters
    ----------
    night : Night
        The run.
    members : DataFrame
        Of :func:`shelf_members`.

    Raises
    ------
    ConfigError
        There are too many.
    """
    wanted = night.config.recommend.shelves
    return few_values(night, _KEY, "" if wanted is None else wanted.by, members, SHELF)


def write_shelves(night: Night, record: StepRecord, rows: DataFrame | None) -> None:
    """Write this date's partition of ``shelves``; without rows there is none afterwards.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version is added.
    rows : DataFrame or None
        Of :func:`shelves`.
    """
    lake = night.lake
    if rows is not None:
        lake.create(SHELVES, *night.config.ingest.id_types)
        where = f"run_date = '{night.run_date}'"
        record.versions_written[SHELVES] = lake.replace(SHELVES, rows, where, record.counts[SHELF_ROWS])
    elif lake.exists(SHELVES):
        lake.delete(SHELVES, F.col("run_date") == F.lit(night.run_date))


def _checked(rows: DataFrame, members: DataFrame, request: ListRequest) -> int:
    """How many rows there are, all of which are as they should be."""
    whole = [F.count("*").alias("rows"), F.max(RANK).alias("last"), F.count_distinct(ITEM).alias("items")]
    lists = rows.groupBy(USER, SHELF).agg(*whole)
    uneven = (F.col("rows") != F.col("last")) | (F.col("rows") != F.col("items"))
    faults = {
        "lists have gaps in their ranks or an item twice": lists.where(uneven),
        "rows are of another shelf": rows.join(members, [ITEM, SHELF], "left_anti"),
    }
    if request.seen is not None:
        seen = request.seen
        seen = seen.rows(USER, ITEM) if isinstance(seen, PackedHistories) else seen
        faults["rows hold an item already seen"] = rows.join(seen, [USER, ITEM], "left_semi")
    for fault, found in faults.items():
        number = found.count()
        if number:
            raise PublishError(f"of the shelves {number:,} {fault}; nothing was written")
    return rows.count()
