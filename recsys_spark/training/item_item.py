"""Weights of item pairs, over Spark: no barrier, and nothing of the size of all pairs anywhere.

    packed histories ─one pass─▶ driver: compressed rows, broadcast, which each Python worker maps
    block of items  ─task─▶ their rows of the Gram matrix ─▶ each item's best neighbours
    block of items  ─task─▶ the Gram matrix of each with its neighbours ─▶ a regression

Events are read by users, and for regressions by items too: 4 bytes each, and 4 more for centred ratings. The
neighbours of all items pass through the driver, 8 bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Broadcast, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, places
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Doubles, Floats, Ints, Longs, Mapped, in_mapped_file
from recsys_spark.kernels.item_item import (
    Audiences,
    Head,
    Histories,
    Measure,
    costs,
    exact_weights,
    gram_among,
    gram_beside_head,
    neighbors,
    ridge_weights,
    squares,
)
from recsys_spark.kernels.randomness import mix
from recsys_spark.kernels.sets import distinct, numbered
from recsys_spark.packing import one_array
from recsys_spark.schema import ITEM, NEIGHBOR, RATING, USER
from recsys_spark.training.barrier import require_trainable

WEIGHT = "weight"
WEIGHTINGS = ("ridge", "cosine", "jaccard", "rp3beta", "exact")
GRAPH = "graph"
"""Weighting of :class:`~recsys_spark.models.spectral.SpectralRecommender`: two steps over the graph."""
HEAD_ITEMS = 4_096
"""Items with most users and most items near them, whose Gram matrix each Python worker holds: 134 MB."""
EXACT_ITEMS = 20_000
"""Largest catalogue of ``exact``, whose Gram matrix one task inverts: some 10 GB at that size."""
TASK_EVENTS = 2**22
"""Events of the items whose neighbours a task finds, about."""
MAX_TASKS = 2**10
_CAP_SEED = 1


@dataclass(frozen=True)
class ItemItemConfig:
    """Hyperparameters, as :class:`~recsys_spark.models.item_item.ItemItemRecommender` has them.

    Attributes
    ----------
    weighting, neighbors, regularization, dropout, beta : as the Params
    user_exponent, item_exponent : powers of the numbers of events that divide
    max_events : of a user that are counted; 0 for all
    centred : whether values are ratings less the user's mean; else each positive rating counts 1
    """

    weighting: str
    neighbors: int
    regularization: float
    dropout: float
    beta: float
    user_exponent: float
    item_exponent: float
    max_events: int
    centred: bool


class ItemItemFit(NamedTuple):
    """What a fit found.

    Attributes
    ----------
    weights : ``item``, ``neighbor``, ``weight`` float; persisted
    items : pyarrow array of all items' ids, ascending
    """

    weights: DataFrame
    items: pa.Array


class _Data(NamedTuple):
    """What every task reads.

    Attributes
    ----------
    histories : of all users, mapped
    scales : of the items, which multiply both sides of G
    """

    histories: Histories
    scales: Doubles


def fit_item_item(histories: PackedHistories, config: ItemItemConfig) -> ItemItemFit:
    """Find the weights: jobs that collect the items and the histories, and with ``ridge`` one that finds
    neighbours; the last, of measures or regressions, runs when the weights are first used.

    Parameters
    ----------
    histories : PackedHistories
        What is learnt from.
    config : ItemItemConfig
        Hyperparameters.

    Raises
    ------
    ModelError
        There are no ratings, or too many items for ``exact``.
    """
    spark = histories.sparkSession
    ids = one_array(histories.item_counts().select(ITEM).toArrow()[ITEM])
    ids = ids.take(pc.sort_indices(ids))
    if not len(ids):
        raise ModelError("there are no ratings to fit on")
    if config.weighting == "exact" and len(ids) > EXACT_ITEMS:
        raise ModelError(
            f"weighting 'exact' inverts a matrix of all items, and there are {len(ids):,}: at most "
            f"{EXACT_ITEMS:,} fit; use 'ridge', which is the same on each item's neighbours"
        )
    config = replace(config, neighbors=min(config.neighbors, max(1, len(ids) - 1)))
    rows = collected(histories, ids, config)
    data = spark.sparkContext.broadcast(Mapped(_Data(rows, _item_scales(rows, len(ids), config))))
    if config.weighting == "exact":
        found = _exact(spark, data, config)
    else:
        found = _neighbors(spark, data, rows, len(ids), config)
        if config.weighting == "ridge":
            near = _collected_neighbors(found, len(ids), config.neighbors)
            found = _ridge(spark, data, rows, near, config)
    weights = found.mapInArrow(_with_ids(spark.sparkContext.broadcast(ids)), _schema(histories.id_types[1]))
    return ItemItemFit(weights.persist(StorageLevel.MEMORY_AND_DISK), ids)


def histories_of_users(histories: PackedHistories, centred: bool) -> DataFrame:
    """Each user's items as the model reads them. One pass, no shuffle.

    Parameters
    ----------
    histories : PackedHistories
        Ratings.
    centred : bool
        Whether values are ratings less their mean; else they are 1, of positive ratings only.

    Returns
    -------
    DataFrame
        One row per user: ``id``, ``items``, ascending, ``values`` array<float>, and ``bias`` float: the mean
        rating, or 0.
    """
    user, item = histories.id_types

    def listed(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for table in tables:
            bucket = _Bucket.of(table, centred)
            ends = pa.array(bucket.indptr.astype(np.int32))
            ids = bucket.items.cast(bucket.items.type.value_type)
            columns = [
                bucket.users,
                pa.ListArray.from_arrays(ends, ids),
                pa.ListArray.from_arrays(ends, pa.array(bucket.values)),
                pa.array(bucket.means),
            ]
            yield pa.RecordBatch.from_arrays(columns, names=["id", "items", "values", "bias"])

    fields = [
        T.StructField("id", user),
        T.StructField("items", T.ArrayType(item)),
        T.StructField("values", T.ArrayType(T.FloatType())),
        T.StructField("bias", T.FloatType()),
    ]
    return histories.map_tables([USER, ITEM, RATING], listed, T.StructType(fields))


class _Bucket(NamedTuple):
    """The users of a payload, of whom each has a rating that is meant.

    Attributes
    ----------
    users : their ids
    indptr : int64 array, shape (n_users + 1,)
    items : dictionary-encoded ids of the items that count, by user, ascending
    values : float32 array: what each counts
    means : float32 array, shape (n_users,): mean rating where values are centred, else 0
    """

    users: pa.Array
    indptr: Longs
    items: pa.DictionaryArray
    values: Floats
    means: Floats

    @classmethod
    def of(cls, table: pa.Table, centred: bool) -> _Bucket:
        users, items = one_array(table[USER]), one_array(table[ITEM])
        ratings = table[RATING].to_numpy().astype(np.float64)
        occurring, codes = numbered(users.indices.to_numpy(), len(users.dictionary))
        counts = np.bincount(codes, minlength=len(occurring))
        means = np.zeros(len(occurring))
        if centred:
            means = np.bincount(codes, ratings, minlength=len(occurring)) / np.maximum(counts, 1)
            values = ratings - means[codes]
        else:
            kept = np.flatnonzero(ratings > 0)
            items, codes, values = items.take(pa.array(kept)), codes[kept], np.ones(len(kept))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(occurring)))])
        return cls(
            users.dictionary.take(pa.array(occurring)),
            indptr.astype(np.int64),
            items,
            values.astype(np.float32),
            means.astype(np.float32),
        )


def collected(histories: PackedHistories, ids: pa.Array, config: ItemItemConfig) -> Histories:
    """Compressed rows on the driver, in the same order on any partitioning: sums follow it to the last bit.

    Parameters
    ----------
    histories : PackedHistories
        What is learnt from; of users with too many events a part of them.
    ids : Array
        Of all items, ascending.
    config : ItemItemConfig
        Hyperparameters.

    Raises
    ------
    ModelError
        Some ratings cannot be trained on.
    """
    catalogue = histories.sparkSession.sparkContext.broadcast(ids)

    def compress(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for table in tables:
            finite = np.isfinite(table[RATING].to_numpy().astype(np.float32))
            if not finite.all():
                rejected = table.filter(pa.array(~finite))
                example = json.dumps(rejected.slice(0, 1).to_pylist()[0], default=str)
                yield _rejected(rejected.num_rows, example)
                continue
            bucket = _Bucket.of(table, config.centred)
            positions, values = places(bucket.items, catalogue.value), bucket.values
            lengths = np.diff(bucket.indptr)
            if config.max_events and lengths.max(initial=0) > config.max_events:
                kept = _capped(bucket, lengths, config.max_events)
                positions, values = positions[kept], values[kept]
                lengths = np.minimum(lengths, config.max_events)
            parts = (lengths.astype(np.int32), positions.astype(np.int32), values)
            columns = [pa.array([part.tobytes()], pa.binary()) for part in parts]
            told = [pa.array([_place_of(bucket.users)]), *columns, pa.array([0]), pa.array([""])]
            yield pa.RecordBatch.from_arrays(told, names=_COMPRESSED)

    schema = "place bigint, lengths binary, items binary, values binary, rejected bigint, example string"
    found = histories.map_tables([USER, ITEM, RATING], compress, schema).toArrow().sort_by("place")
    catalogue.unpersist()
    require_trainable(pc.sum(found["rejected"]).as_py(), pc.max(found["example"]).as_py())
    lengths, items = (_joined(found[name], np.int32) for name in ("lengths", "items"))
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = _joined(found["values"], np.float32) if config.centred else np.zeros(0, np.float32)
    exponent = 1.0 if config.weighting in ("rp3beta", GRAPH) else config.user_exponent
    weights = np.maximum(lengths, 1).astype(np.float64) ** -exponent
    return Histories(indptr, items, values, weights.astype(np.float32))


_COMPRESSED = ["place", "lengths", "items", "values", "rejected", "example"]


def _place_of(users: pa.Array) -> int:
    """Where a bucket stands among the others, whichever task has read it: by its first user."""
    return int(hash_ids(users.slice(0, 1)).view(np.int64)[0]) if len(users) else 0


def _rejected(rows: int, example: str) -> pa.RecordBatch:
    """Of a payload with rows that cannot be trained on: how many, and one of them."""
    nothing = [pa.array([b""], pa.binary())] * 3
    told = [pa.array([0]), *nothing, pa.array([rows]), pa.array([example])]
    return pa.RecordBatch.from_arrays(told, names=_COMPRESSED)


def _joined(parts: pa.ChunkedArray, kind: Any) -> Any:
    """The arrays of all rows, one after the other."""
    return np.frombuffer(b"".join(part.as_py() for part in parts), kind)


def _capped(bucket: _Bucket, lengths: Longs, most: int) -> Longs:
    """Events that are kept, in their order: of a user with more than ``most`` those of the smallest hashes of
    user and item.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    of_users, of_items = hash_ids(bucket.users), hash_ids(bucket.items.dictionary)
    drawn = mix(_CAP_SEED, of_users[rows], of_items[bucket.items.indices.to_numpy()])
    order = np.lexsort((drawn, rows))
    rank = np.arange(len(order)) - (np.cumsum(lengths) - lengths)[rows]
    return np.sort(order[rank < most])


def _item_scales(rows: Histories, n_items: int, config: ItemItemConfig) -> Doubles:
    counts = np.bincount(rows.items, minlength=n_items)
    return np.asarray(np.maximum(counts, 1.0) ** -config.item_exponent)


def _measure(rows: Histories, n_items: int, config: ItemItemConfig) -> Measure:
    counts = np.maximum(np.bincount(rows.items, minlength=n_items), 1).astype(np.float64)
    if config.weighting == "jaccard":
        return Measure(counts, counts, True)
    if config.weighting == "rp3beta":
        return Measure(counts**-config.beta, 1 / counts, False)
    if config.weighting == GRAPH:
        return Measure(counts ** (config.beta - 0.5), counts ** -(config.beta + 0.5), False)
    diagonal = squares(rows, n_items)
    lengths = np.sqrt(np.where(diagonal > 0, diagonal, np.inf))
    return Measure(1 / lengths, 1 / lengths, False)


def _neighbors(
    spark: SparkSession, data: Broadcast[Any], rows: Histories, n_items: int, config: ItemItemConfig
) -> DataFrame:
    """Each item's best neighbours and their measures, packed: one row for each task."""
    measure = _measure(rows, n_items, config)
    most_first = np.argsort(-costs(rows, n_items), kind="stable").astype(np.int32)
    tasks = _tasks(spark, rows, n_items)
    shared = spark.sparkContext.broadcast((most_first, measure))

    def find(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        order, of_items = shared.value
        for task in _numbers(numbers):
            own = np.sort(order[task::tasks])
            yield _packed(own, *neighbors(data.value.value.histories, own, of_items, config.neighbors))

    return spark.range(0, tasks, 1, tasks).mapInArrow(find, _PACKED)


def _tasks(spark: SparkSession, rows: Histories, n_items: int) -> int:
    slots = spark.sparkContext.defaultParallelism
    return int(min(n_items, MAX_TASKS, max(4 * slots, len(rows.items) // TASK_EVENTS)))


def _ridge(
    spark: SparkSession, data: Broadcast[Any], rows: Histories, near: Ints, config: ItemItemConfig
) -> DataFrame:
    """A regression of each item on its neighbours, packed: one row for each task."""
    audiences = Audiences.of(rows, len(near))
    asked = np.bincount(near[near >= 0], minlength=len(near)) * np.diff(audiences.indptr)
    top = np.sort(np.argsort(-asked, kind="stable")[:HEAD_ITEMS]).astype(np.int32)
    tasks = _tasks(spark, rows, len(near))
    shared = spark.sparkContext.broadcast(_Neighborhoods(audiences, top, near))

    def fit(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        histories, scales = data.value.value
        of_all = shared.value
        newest = np.full(len(histories.weights), -1, np.int32)
        for task in _numbers(numbers):
            own = np.arange(task, len(scales), tasks, dtype=np.int32)
            found = np.zeros((len(own), of_all.near.shape[1]), np.float32)
            for row, item in enumerate(own):
                theirs = of_all.near[item : item + 1]
                chosen = distinct(np.append(theirs[theirs >= 0], item)).astype(np.int32)
                head = of_all.head(histories)
                gram = gram_beside_head(of_all.audiences, histories.weights, head, chosen, newest)
                gram, penalty = _scaled(gram, scales[chosen], config)
                found[row] = ridge_weights(gram, chosen, own[row : row + 1], theirs, penalty)[0]
            yield _packed(own, of_all.near[own], _unscaled(found, own, of_all.near[own], scales))

    return spark.range(0, tasks, 1, tasks).mapInArrow(fit, _PACKED)


class _Neighborhoods:
    """What the tasks of regressions read beside the data; large arrays in mapped files.

    Attributes
    ----------
    audiences : of all items
    near : int32 array, shape (n_items, k): each item's neighbours
    """

    def __init__(self, audiences: Audiences, head_items: Ints, near: Ints) -> None:
        self.audiences, self.near = audiences, near
        self._head_items = head_items
        self._head: Head | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.audiences, self.near = Audiences(*map(in_mapped_file, self.audiences)), in_mapped_file(self.near)

    def head(self, histories: Histories) -> Head:
        """The head's Gram matrix, made once by each Python worker."""
        if self._head is None:
            place = np.full(len(self.near), -1, np.int32)
            place[self._head_items] = np.arange(len(self._head_items), dtype=np.int32)
            self._head = Head(place, gram_among(histories, self._head_items, len(place)))
        return self._head


def _exact(spark: SparkSession, data: Broadcast[Any], config: ItemItemConfig) -> DataFrame:
    """All regressions on all other items, in one task."""

    def fit(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in _numbers(numbers):
            rows, scales = data.value.value
            own = np.arange(len(scales), dtype=np.int32)
            gram, penalty = _scaled(gram_among(rows, own, len(own)), scales, config)
            near, found = exact_weights(gram, penalty, config.neighbors)
            yield _packed(own, near, _unscaled(found, own, near, scales))

    return spark.range(0, 1, 1, 1).mapInArrow(fit, _PACKED)


def _scaled(gram: Doubles, scales: Doubles, config: ItemItemConfig) -> tuple[Doubles, Doubles]:
    """G of scaled items, in place, and Λ."""
    gram *= scales[:, None]
    gram *= scales
    grows = config.dropout / (1 - config.dropout)
    return gram, config.regularization + grows * gram.diagonal()


def _unscaled(weights: Floats, own: Ints, near: Ints, scales: Doubles) -> Floats:
    """Weights of items as they are, from those of scaled ones."""
    factors = scales[np.maximum(near, 0)] / scales[own][:, None]
    return (weights * factors).astype(np.float32)


_PACKED = "items binary, neighbors binary, weights binary"


def _packed(own: Ints, near: Ints, weights: Floats) -> pa.RecordBatch:
    """One row: items, and of each its neighbours and weights."""
    parts = (own.astype(np.int32), near.astype(np.int32), weights.astype(np.float32))
    columns = [pa.array([part.tobytes()], pa.binary()) for part in parts]
    return pa.RecordBatch.from_arrays(columns, names=["items", "neighbors", "weights"])


def _unpacked(row: Mapping[str, Any]) -> tuple[Ints, Ints, Floats]:
    own = np.frombuffer(row["items"], np.int32)
    shape = (len(own), -1) if len(own) else (0, 0)
    near = np.frombuffer(row["neighbors"], np.int32).reshape(shape)
    return own, near, np.frombuffer(row["weights"], np.float32).reshape(shape)


def _collected_neighbors(packed: DataFrame, n_items: int, k: int) -> Ints:
    near = np.full((n_items, k), -1, np.int32)
    for row in packed.select("items", "neighbors").toArrow().to_pylist():
        own = np.frombuffer(row["items"], np.int32)
        near[own] = np.frombuffer(row["neighbors"], np.int32).reshape(len(own), k)
    return near


def _numbers(batches: Iterator[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch["id"].to_pylist()


def _schema(item: T.DataType) -> T.StructType:
    fields = [T.StructField(ITEM, item), T.StructField(NEIGHBOR, item), T.StructField(WEIGHT, T.FloatType())]
    return T.StructType(fields)


def _with_ids(catalogue: Broadcast[Any]) -> Any:
    """From packed rows to one row for each pair of items that has a weight."""

    def name(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ids = catalogue.value
        for batch in batches:
            for row in batch.to_pylist():
                own, near, weights = _unpacked(row)
                places, columns = np.nonzero((near >= 0) & (weights != 0))
                yield pa.RecordBatch.from_arrays(
                    [
                        ids.take(pa.array(own[places])),
                        ids.take(pa.array(near[places, columns])),
                        pa.array(weights[places, columns]),
                    ],
                    names=[ITEM, NEIGHBOR, WEIGHT],
                )

    return name
