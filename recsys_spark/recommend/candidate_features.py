"""What a ranker knows of users and items beside the retrievers' scores: how much is known of them, since
when, their side features, and how far an item is what the user has had.

All of it is of the histories that are given: whoever gives those before a time knows nothing of what came
after it. What is missing is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from scipy import sparse

from recsys_spark.histories import PackedHistories, places, plain_column
from recsys_spark.kernels.arrays import Doubles, Floats, Ints, Longs
from recsys_spark.kernels.candidates import Candidates, likeness
from recsys_spark.kernels.score_blocks import block_scores
from recsys_spark.kernels.sets import distinct
from recsys_spark.packing import lists_of, one_array
from recsys_spark.recommend.score_blocks import ItemBlocks, nothing_known
from recsys_spark.schema import ITEM, RATING, TIMESTAMP, USER

USER_STATISTICS = ("user: ratings", "user: mean rating", "user: days since the last rating")
PAIR_STATISTICS = ("user and item: events", "user and item: days since the last event")
ITEM_STATISTICS = (
    "item: ratings",
    "item: mean rating",
    "item: days since the first rating",
    "item: days since the last rating",
)
MICROS_OF_DAY = 86_400e6


class SideFeatures(NamedTuple):
    """Side features of users or items.

    Attributes
    ----------
    entries : one row per id: ``id``, ``names`` array<string>, ``weights`` array<float>, as
        :mod:`recsys_spark.training.side_features` makes them
    columns : what they are made of
    """

    entries: DataFrame
    columns: list[str]


CONSUMED = "consumed"
"""Column of what a user has consumed: array<struct<item, events: float, days: float>>, days since the last
event.
"""


class ItemFeatures(NamedTuple):
    """All that is known of the items.

    Attributes
    ----------
    ids : ascending
    values : float32 array, shape (n_items, n_values)
    names : of the values
    matched : column → first value and the one after the last, of columns whose values a user may like
    blocks : of which members' scores are told by blocks; None for none
    """

    ids: pa.Array
    values: Floats
    names: tuple[str, ...]
    matched: dict[str, tuple[int, int]]
    blocks: ItemBlocks | None = None

    @property
    def width(self) -> int:
        """Length of users' profiles."""
        return sum(end - first for first, end in self.matched.values())


def item_features(
    histories: PackedHistories, side: SideFeatures | None, most: int
) -> tuple[ItemFeatures, float]:
    """Features of the items of the histories, on the driver, and the time of the last rating, in days.

    Parameters
    ----------
    histories : PackedHistories
        What is known.
    side : SideFeatures, optional
        Of the items.
    most : int
        Most values of a column of texts, the most frequent ones.
    """
    _, item = histories.id_types
    fields = [T.StructField(ITEM, item), *(T.StructField(name, T.DoubleType()) for name in _SUMS)]
    sums = histories.map_tables([ITEM, RATING, TIMESTAMP], _item_sums, T.StructType(fields))
    combined = [getattr(F, how)(name).alias(name) for name, how in _SUMS.items()]
    table = sums.groupBy(ITEM).agg(*combined).toArrow().combine_chunks().sort_by(ITEM)
    ids = one_array(table[ITEM])
    count, total, first, last = (
        table[name].to_numpy().astype(np.float64) for name in ("count", "total", "first", "last")
    )
    now = float(np.fmax.reduce(last, initial=-np.inf))
    known = np.column_stack([count, total / count, now - first, now - last]).astype(np.float32)
    if side is None:
        return ItemFeatures(ids, known, ITEM_STATISTICS, {}), now
    names = kept_names(side, most)
    values = dense(ids, side.entries.toArrow(), side.columns, names)
    matched, before = dict[str, tuple[int, int]](), len(ITEM_STATISTICS)
    for column in side.columns:
        own = [before + place for place, name in enumerate(names) if name.startswith(f"{column}=")]
        if own:
            matched[column] = own[0], own[-1] + 1
    told = (*ITEM_STATISTICS, *(f"item: {name}" for name in names))
    return ItemFeatures(ids, np.concatenate([known, values], axis=1), told, matched), now


def user_features(
    histories: PackedHistories,
    items: ItemFeatures,
    now: float,
    side: SideFeatures | None,
    names: Sequence[str],
) -> DataFrame:
    """Features of the users of the histories.

    Parameters
    ----------
    histories : PackedHistories
        What is known.
    items : ItemFeatures
        Of :func:`item_features`.
    now : float
        Days that ages are counted back from.
    side : SideFeatures, optional
        Of the users; without them those that are named are missing.
    names : sequence of str
        Those that are kept of them.

    Returns
    -------
    DataFrame
        One row per user: ``id``, ``values`` array<float>, statistics and side features, and ``profile``
        array<float>: the mean of the matched values of the user's items. One shuffle where there are side
        features.
    """
    user, _ = histories.id_types
    shared = histories.sparkSession.sparkContext.broadcast(items)
    matched = [place for first, end in items.matched.values() for place in range(first, end)]

    def known(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        of_items: ItemFeatures = shared.value
        own = sparse.csr_matrix(np.nan_to_num(of_items.values[:, matched]))
        for table in tables:
            _, likes = profiles(table, of_items.ids, own)
            columns = [*_user_statistics(table, now), lists_of(likes)]
            yield pa.RecordBatch.from_arrays(columns, names=["id", "values", "profile"])

    floats = T.ArrayType(T.FloatType())
    fields = [T.StructField("id", user), T.StructField("values", floats), T.StructField("profile", floats)]
    rows = histories.map_tables([USER, ITEM, RATING, TIMESTAMP], known, T.StructType(fields))
    nothing = nothing_known(len(names))
    if side is None:
        return rows.withColumn("values", F.concat("values", nothing)) if names else rows
    schema = T.StructType([side.entries.schema["id"], T.StructField("further", floats)])
    columns = side.columns

    def given(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            matrix = dense(batch["id"], pa.Table.from_batches([batch]), columns, names)
            yield pa.RecordBatch.from_arrays([batch["id"], lists_of(matrix)], names=["id", "further"])

    with_side = rows.join(side.entries.mapInArrow(given, schema), "id", "left")
    return with_side.select(
        "id", F.concat("values", F.coalesce("further", nothing)).alias("values"), "profile"
    )


def consumed(events: DataFrame, now: float) -> DataFrame:
    """What users have consumed, for :func:`pair_features`.

    Parameters
    ----------
    events : DataFrame
        One row per event: ``user``, ``item``, ``timestamp``.
    now : float
        Days that ages are counted back from.

    Returns
    -------
    DataFrame
        One row per user: ``id``, and :data:`CONSUMED`, items ascending. Two shuffles.
    """
    days = F.lit(now) - F.unix_micros(F.max(TIMESTAMP)) / F.lit(MICROS_OF_DAY)
    sums = F.count("*").cast("float").alias("events"), days.cast("float").alias("days")
    entry = F.struct(ITEM, "events", "days")
    by_user = events.groupBy(USER, ITEM).agg(*sums).groupBy(F.col(USER).alias("id"))
    return by_user.agg(F.sort_array(F.collect_list(entry)).alias(CONSUMED))


def pair_features(consumed: pa.Array, users: Ints, items: Ints, among: pa.Array) -> Floats:
    """How often and how long ago users have consumed their candidates, :data:`PAIR_STATISTICS`.

    Parameters
    ----------
    consumed : Array
        Of each user, :data:`CONSUMED`; null for nothing.
    users, items : int32 arrays, shape (n,)
        Of the candidates: places among ``consumed`` and ``among``.
    among : Array
        Distinct ids of items.

    Returns
    -------
    float32 array, shape (n, 2)
        0 and NaN where there is no event.
    """
    lengths, flat = pc.fill_null(pc.list_value_length(consumed), 0).to_numpy(), consumed.flatten()
    place = pc.fill_null(pc.index_in(pc.struct_field(flat, ITEM), value_set=among), -1).to_numpy()
    listed, width = place >= 0, max(len(among), 1)
    keys = (np.repeat(np.arange(len(lengths)), lengths) * width + place)[listed]
    order = np.argsort(keys)
    asked = users.astype(np.int64) * width + items
    at = np.searchsorted(keys[order], asked)
    known = np.append(keys[order], -1)[at] == asked
    values = np.tile(np.array([0, np.nan], np.float32), (len(asked), 1))
    for column, name in enumerate(("events", "days")):
        of_entries = pc.struct_field(flat, name).to_numpy(zero_copy_only=False)[listed][order]
        values[known, column] = of_entries[at[known]]
    return values


def kept_names(side: SideFeatures, most: int) -> list[str]:
    """Names of side features that are kept: numbers all, and of each column of texts the most frequent
    values. One job.

    Parameters
    ----------
    side : SideFeatures
        Of users or items.
    most : int
        Most values of a column of texts.
    """
    name = F.col("name")
    column = F.coalesce(*(F.when(name.startswith(f"{one}="), F.lit(one)) for one in side.columns), F.lit(""))
    counted = side.entries.select(F.explode("names").alias("name")).groupBy("name").count()
    best = Window.partitionBy("column").orderBy(F.desc("count"), "name")
    ranked = counted.withColumn("column", column).withColumn("rank", F.row_number().over(best))
    kept = ranked.where((F.col("column") == "") | (F.col("rank") <= most)).collect()
    order = {one: place for place, one in enumerate(side.columns)}
    return [row["name"] for row in sorted(kept, key=lambda row: (order.get(row["column"], -1), row["name"]))]


def dense(ids: pa.Array, entries: pa.Table, columns: Sequence[str], names: Sequence[str]) -> Floats:
    """Side features as a matrix, shape (n_ids, n_names): NaN where an id has nothing in a column, and 0 for
    the values of a column of texts that it does not have.

    Parameters
    ----------
    ids : Array
        Whose features are wanted.
    entries : pyarrow.Table
        ``id``, ``names``, ``weights``.
    columns, names : sequence of str
        What features are made of, and which of them are kept.
    """
    lists = one_array(entries["names"])
    row = pc.fill_null(pc.index_in(one_array(entries["id"]).cast(ids.type), value_set=ids), -1)
    rows = np.repeat(row.to_numpy(), pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
    flat, weights = lists.flatten(), np.asarray(one_array(entries["weights"]).flatten(), np.float32)
    matrix = np.full((len(ids), len(names)), np.nan, np.float32)
    for column in columns:
        own = [place for place, name in enumerate(names) if name.startswith(f"{column}=")]
        has = rows[np.asarray(pc.starts_with(flat, f"{column}=")) & (rows >= 0)]
        matrix[distinct(has)[:, None], np.array(own, np.int64)] = 0
    kept = pc.fill_null(pc.index_in(flat, value_set=pa.array(list(names), flat.type)), -1).to_numpy()
    known = (rows >= 0) & (kept >= 0)
    matrix[rows[known], kept[known]] = weights[known]
    return matrix


def profiles(table: pa.Table, ids: pa.Array, values: sparse.csr_matrix) -> tuple[pa.Array, Floats]:
    """What a payload's users have had.

    Parameters
    ----------
    table : pyarrow.Table
        ``user``, ``item``, as :class:`PackedHistories` has them.
    ids : Array
        Items.
    values : sparse array, shape (n_items, n_values)
        Of these.

    Returns
    -------
    Array, float32 array of shape (n_users, n_values)
        The users, and the mean values of each one's items, those that are not among ``ids`` as 0.
    """
    users = one_array(table[USER])
    codes, items = users.indices.to_numpy(), places(one_array(table[ITEM]), ids)
    count = np.bincount(codes, minlength=len(users.dictionary))
    known = items >= 0
    rated = sparse.csr_matrix(
        (np.ones(known.sum(), np.float32), (codes[known], items[known])), (len(count), len(ids))
    )
    sums = np.asarray((rated @ values).todense())[count > 0]
    means = np.asarray(sums / count[count > 0, None], np.float32)
    return users.dictionary.filter(pa.array(count > 0)), means


def feature_names(
    retrievers: Sequence[str], users: Sequence[str], items: ItemFeatures, pairs: bool
) -> list[str]:
    """Names of a candidate's features, in their order.

    Parameters
    ----------
    retrievers : sequence of str
        Names of the models that found it.
    users : sequence of str
        Names of the users' side features.
    items : ItemFeatures
        Of the items.
    pairs : bool
        Whether there are :func:`pair_features`.
    """
    found = [f"{name}: {what}" for what in ("score", "rank") for name in retrievers]
    of_user = [*USER_STATISTICS, *(f"user: {name}" for name in users)]
    of_blocks = () if items.blocks is None else items.blocks.bounds
    matched = (f"match: {column}" for column in items.matched)
    of_pair = [*matched, *of_blocks, *(PAIR_STATISTICS if pairs else ())]
    return [*found, *of_user, *items.names, *of_pair]


def feature_matrix(
    found: Candidates,
    users: Floats,
    profiles: Floats,
    items: ItemFeatures,
    rows: Longs,
    vectors: Floats | None = None,
    pairs: Floats | None = None,
) -> Floats:
    """Features of candidates, shape (n, n_features).

    Parameters
    ----------
    found : Candidates
        Of some users.
    users, profiles : float32 arrays, shape (n_users, …)
        Columns of :func:`user_features`.
    items : ItemFeatures
        Of the items.
    rows : int64 array, shape (n,)
        Each candidate's place among ``items.ids``, or -1.
    vectors : float32 array, shape (n_users, width), optional
        Where items have blocks: :data:`recsys_spark.recommend.score_blocks.BLOCKS`.
    pairs : float32 array, shape (n, 2), optional
        Of :func:`pair_features`.
    """
    of_items = items.values[rows]
    of_items[rows < 0] = np.nan
    columns, before = [found.scores, found.ranks, users[found.users], of_items], 0
    for first, end in items.matched.values():
        liked = profiles[found.users, before : before + end - first]
        columns.append(likeness(liked, of_items[:, first:end])[:, None])
        before += end - first
    if items.blocks is not None and vectors is not None:
        bounds = list(items.blocks.bounds.values())
        columns.append(block_scores(vectors, items.blocks.vectors, found.users, rows, bounds))
    if pairs is not None:
        columns.append(pairs)
    return np.concatenate(columns, axis=1)


_SUMS = {"count": "sum", "total": "sum", "first": "min", "last": "max"}
"""What is summed up of an item's ratings, and how."""


def _days(table: pa.Table) -> Doubles:
    """Times of ratings in days, NaN where there is none."""
    micros = plain_column(TIMESTAMP, one_array(table[TIMESTAMP])).cast(pa.int64()).cast(pa.float64())
    return np.asarray(pc.fill_null(micros, np.nan).to_numpy(zero_copy_only=False)) / MICROS_OF_DAY


def _ratings(table: pa.Table) -> Doubles:
    ratings = pc.fill_null(one_array(table[RATING]).cast(pa.float64()), np.nan)
    return np.asarray(ratings.to_numpy(zero_copy_only=False))


def _item_sums(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Sums of a payload's items."""
    for table in tables:
        ids = one_array(table[ITEM])
        codes, n = ids.indices.to_numpy(), len(ids.dictionary)
        count = np.bincount(codes, minlength=n)
        first, last = np.full(n, np.nan), np.full(n, np.nan)
        days = _days(table)
        np.fmin.at(first, codes, days)
        np.fmax.at(last, codes, days)
        values = count, np.bincount(codes, _ratings(table), n), first, last
        has = pa.array(count > 0)
        columns = [pa.array(one.astype(np.float64), mask=np.isnan(one)) for one in values]
        yield pa.RecordBatch.from_arrays(
            [ids.dictionary.filter(has), *(column.filter(has) for column in columns)], names=[ITEM, *_SUMS]
        )


def _user_statistics(table: pa.Table, now: float) -> tuple[pa.Array, pa.Array]:
    """Ids of a payload's users, and their statistics."""
    ids = one_array(table[USER])
    codes, n = ids.indices.to_numpy(), len(ids.dictionary)
    count = np.bincount(codes, minlength=n)
    last = np.full(n, np.nan)
    np.fmax.at(last, codes, _days(table))
    with np.errstate(invalid="ignore"):
        mean = np.bincount(codes, _ratings(table), n) / count
    known = np.column_stack([count, mean, now - last]).astype(np.float32)[count > 0]
    return ids.dictionary.filter(pa.array(count > 0)), lists_of(known)
