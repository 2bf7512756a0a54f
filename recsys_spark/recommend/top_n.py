"""The top-N engine: recommendation lists of every model whose score is a dot product, a sum over the user's
history, or both, plus biases.

    score(u, i) = x_u · y_i + Σ_j w_ij x_uj + b_u + b_i

How a call runs::

    users (id, features)  ──pack──┐                       ┌─ bucket 0: users, seen items ─ kernel ─ lists
    seen  (user, item)    ──pack──┴── one shuffle of few, ┼─ bucket 1: ...
    items (id, features)  ──broadcast, block by block──   └─ large binary rows

Packing first is what makes it fast (:mod:`recsys_spark.packing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Broadcast, SparkContext
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from recsys_spark.columns import matching_id
from recsys_spark.config import BlockSizes
from recsys_spark.errors import ModelError
from recsys_spark.histories import HISTORY, PackedHistories, chosen, places
from recsys_spark.kernels.arrays import Doubles, Floats, Ints, Mapped
from recsys_spark.kernels.item_item import Bags, PairWeights
from recsys_spark.kernels.topn import ItemBlock, top_n, top_n_of_biases
from recsys_spark.packing import PACKED, bucket_of, encoded_ids, one_array, packing, power_of_two, unpacked
from recsys_spark.recommend.approximate import approximate_top_n, build_index, open_index
from recsys_spark.schema import ITEM, NEIGHBOR, PART, RANK, SCORE, USER

RECOMMENDATIONS = "recommendations"
REASON = "reason"
LOG_NORMALIZER = "log_normalizer"
_USERS, _SEEN = "users", "seen"
LIST_ENTRIES = 2**21
"""Entries of lists that a task holds at a time, about 40 bytes each; more only for longer lists of one block
of users.
"""


class _Users(NamedTuple):
    """Vectors of users, and their histories where scores are made of them."""

    vectors: Floats
    bags: Bags | None


_Search = Callable[[_Users, Any, Doubles | None], tuple[Ints, Floats]]
"""From users, and their seen items as compressed rows, their lists; fills log normalisers where asked to."""

DEFAULT_BLOCK_SIZES = BlockSizes()


@dataclass(frozen=True)
class ListRequest:
    """What lists are wanted: the same for all users of a call.

    Parameters
    ----------
    n : int
        Length of the lists, at least 1.
    seen : DataFrame or PackedHistories, optional
        ``user``, ``item`` pairs never to return; unknown ids and duplicates do no harm. Packed they are
        neither counted nor packed again.
    allowed_items, denied_items : DataFrame, optional
        ``item``; nothing but these, and none of those, is recommended to any user.
    block_sizes : BlockSizes
        Bounds of a task's memory; :class:`recsys_spark.config.BlockSizes` states them.
    only_supported : bool
        Where scores are sums over the user's history, leave items out that score exactly 0, as nothing in it
        speaks for them: lists are shorter, and may be filled with something better.

    Raises
    ------
    ModelError
        ``n`` is not a whole number of at least 1.
    """

    n: int
    seen: DataFrame | PackedHistories | None = None
    allowed_items: DataFrame | None = None
    denied_items: DataFrame | None = None
    block_sizes: BlockSizes = DEFAULT_BLOCK_SIZES
    only_supported: bool = False

    def __post_init__(self) -> None:
        """Check the length; numpy's integers are integers too."""
        whole = isinstance(self.n, Integral) and not isinstance(self.n, bool)
        if not whole or self.n < 1:
            raise ModelError(f"the length of the lists must be a whole number of at least 1, got {self.n!r}")
        object.__setattr__(self, "n", int(self.n))

    @cached_property
    def seen_pairs(self) -> int:
        """How many rows ``seen`` has, or more; counted once for all models that are asked the same."""
        if isinstance(self.seen, PackedHistories):
            return self.seen.size
        return 0 if self.seen is None else self.seen.count()


def recommend_lists(
    users: DataFrame,
    items: DataFrame,
    request: ListRequest,
    normalized: bool = False,
    approximate: bool = False,
    weights: CollectedWeights | None = None,
) -> DataFrame:
    """Best ``n`` items for each user, without items already seen.

    Parameters
    ----------
    users : DataFrame
        ``id`` (any id type, unique), ``features`` array<float>, optionally ``bias`` float; with ``weights``
        also ``items``, an array of distinct ids, and ``values``, array<float>: the history.
    items : DataFrame
        The same; features of the same length, which may be 0 where the biases are all.
    request : ListRequest
        Length, seen pairs, allowed and denied items, bounds of memory.
    normalized : bool
        Whether the lists have ``log_normalizer``, double: log Σ e^(x·y + b_i) over all allowed ``items``,
        seen ones included; of approximate lists over the listed ones.
    approximate : bool
        Search an index of the items instead (:mod:`recsys_spark.recommend.approximate`), which may miss some.
    weights : CollectedWeights, optional
        What an item of a history adds to the scores of others, times its value.

    Returns
    -------
    DataFrame
        One row per row of ``users``: ``id`` and ``recommendations``, array<struct<item, score: float>>, best
        first; shorter than ``n`` where fewer items are eligible. Ties go to the smaller item.

    Raises
    ------
    ModelError
        An item's features are not finite or not all of one length.

    Notes
    -----
    Counts of users and seen pairs and the collection of the items run at once; the rest when the result is
    used: one shuffle. The items' factors pass through the driver and are broadcast: ``n_items * (4 * rank + 4
    + id)`` bytes; so are weights, 8 bytes each. The same users return the same bits on any partitioning.
    """
    spark, sizes, seen = users.sparkSession, request.block_sizes, request.seen
    seen_pairs = request.seen_pairs
    items = _permitted(items, request)
    catalogue, factors, biases = collect_factors(items)
    request = replace(request, n=min(request.n, max(1, len(catalogue))))
    ids = spark.sparkContext.broadcast(catalogue)
    if approximate:
        search = _approximate_search(spark.sparkContext, factors, biases, request)
    else:
        of_pairs = None if weights is None else weights.on(catalogue)
        search = _exact_search(spark.sparkContext, factors, biases, request, of_pairs)
    neighbors = None if weights is None else spark.sparkContext.broadcast(weights.neighbors)
    events = F.sum(F.size("items")) if weights is not None else F.lit(0)
    (sums,) = users.agg(F.count("*").alias("users"), events.alias("events")).collect()
    n_users, n_events = sums["users"], sums["events"] or 0
    pairs = max(seen_pairs, n_events)
    buckets = power_of_two(max(n_users / sizes.users_per_task, pairs / sizes.pairs_per_task))
    # as many users as have so many events
    pack_rows = max(1, sizes.pack_rows * n_users // n_events) if n_events > n_users else sizes.pack_rows
    id_type, item_type = users.schema["id"].dataType, items.schema["id"].dataType
    parts = None
    if isinstance(seen, PackedHistories):
        seen.require_id_types(id_type, item_type)
        buckets, parts = min(buckets, seen.buckets), seen.parts
    history = [] if weights is None else ["items", "values"]
    vectors = users.select(bucket_of(F.col("id"), buckets), "id", "features", _bias(users), *history)
    packed = vectors.mapInArrow(packing(_USERS, pack_rows), PACKED)
    if isinstance(seen, PackedHistories):
        packed = packed.unionAll(seen.in_buckets(buckets))
    elif seen is not None:
        user, item = matching_id(seen, USER, id_type), matching_id(seen, ITEM, item_type)
        pairs = seen.select(bucket_of(user, buckets), user.alias("id"), item.alias(ITEM))
        packed = packed.unionAll(pairs.mapInArrow(packing(_SEEN, sizes.pack_rows, _positions(ids)), PACKED))
    lists = T.ArrayType(T.StructType([T.StructField(ITEM, item_type), T.StructField(SCORE, T.FloatType())]))
    result = T.StructType([T.StructField("id", id_type), T.StructField(RECOMMENDATIONS, lists)])
    if normalized:
        result.add(LOG_NORMALIZER, T.DoubleType())
    blocks = max(
        1, LIST_ENTRIES // (request.n * sizes.user_block)
    )  # whole ones: the same bits as of all users
    at_once = blocks * sizes.user_block
    if weights is not None and request.only_supported:
        search = _supported(search)
    fill = _filling(ids, neighbors, search, parts, at_once, normalized, to_arrow_schema(result))
    return packed.repartitionById(buckets, F.col("bucket")).mapInArrow(fill, result)


def distinct_ids(frame: DataFrame, column: str, like: DataFrame) -> DataFrame:
    """Distinct ids in ``column`` as ``id``, of the type that ``like`` has; those that cannot be cast
    match nothing.

    Parameters
    ----------
    frame : DataFrame
        Any rows.
    column : str
        Its column of ids.
    like : DataFrame
        Has ``id`` of the type wanted.
    """
    return frame.select(matching_id(frame, column, like.schema["id"].dataType).alias("id")).distinct()


def no_vector() -> Column:
    """Vectors of length 0, as ``features``."""
    return F.array().cast("array<float>").alias("features")


def explode_lists(lists: DataFrame, user: str = "id") -> DataFrame:
    """Nested lists as rows ``user, item, score, rank`` (rank from 1), one per recommendation; with ``reason``
    where entries have one.

    Parameters
    ----------
    lists : DataFrame
        One row per list, with ``recommendations``.
    user : str
        Name of its column of ids.
    """
    place, entry = F.posexplode(RECOMMENDATIONS).alias("place", "entry"), F.col("entry")
    rows = lists.select(F.col(user).alias(USER), place)
    of_entries = lists.schema[RECOMMENDATIONS].dataType.elementType.names  # type: ignore[attr-defined]
    reason = [entry[REASON].alias(REASON)] if REASON in of_entries else []
    rank = (F.col("place") + 1).cast("int").alias(RANK)
    return rows.select(USER, entry[ITEM].alias(ITEM), entry[SCORE].alias(SCORE), rank, *reason)


def _permitted(items: DataFrame, request: ListRequest) -> DataFrame:
    """Items that the request allows and does not deny."""
    if request.allowed_items is not None:
        items = items.join(distinct_ids(request.allowed_items, ITEM, items), "id", "left_semi")
    if request.denied_items is not None:
        items = items.join(distinct_ids(request.denied_items, ITEM, items), "id", "left_anti")
    return items


def _bias(side: DataFrame) -> Column:
    return (F.col("bias") if "bias" in side.columns else F.lit(0.0)).cast("float").alias("bias")


def _exact_search(
    context: SparkContext, factors: Floats, biases: Floats, request: ListRequest, pairs: PairWeights | None
) -> _Search:
    """Exact search, by blocks of items cut at multiples of ``item_block``."""
    if not factors.shape[1] and pairs is None:
        return _bias_search(context.broadcast(biases), request.n)
    size, user_block, n = request.block_sizes.item_block, request.block_sizes.user_block, request.n
    starts = range(0, max(len(factors), 1), size)
    item_blocks = (ItemBlock.build(factors[s : s + size], biases[s : s + size], s) for s in starts)
    if pairs is not None:
        item_blocks = (block.with_weights(pairs) for block in item_blocks)
    blocks = [context.broadcast(Mapped(block)) for block in item_blocks]

    def search(users: _Users, seen: Any, log_sums: Doubles | None) -> tuple[Ints, Floats]:
        held = [block.value.value for block in blocks]
        return top_n(users.vectors, held, seen, n, user_block, log_sums, users.bags)

    return search


def _bias_search(biases: Broadcast[Any], n: int) -> _Search:
    """Exact search where the biases are all."""

    def search(_: _Users, seen: Any, log_sums: Doubles | None) -> tuple[Ints, Floats]:
        if log_sums is not None:
            log_sums[:] = np.logaddexp.reduce(biases.value.astype(np.float64))
        return top_n_of_biases(biases.value, seen, n)

    return search


def _supported(search: _Search) -> _Search:
    """The same without items that score 0."""

    def supported(users: _Users, seen: Any, log_sums: Doubles | None) -> tuple[Ints, Floats]:
        items, scores = search(users, seen, log_sums)
        items[scores == 0] = -1
        return items, scores

    return supported


def _approximate_search(
    context: SparkContext, factors: Floats, biases: Floats, request: ListRequest
) -> _Search:
    """Search of an index, which may miss items."""
    n, n_items = request.n, len(factors)
    saved = context.broadcast(build_index(factors, biases) if n_items else b"")

    def search(users: _Users, seen: Any, log_sums: Doubles | None) -> tuple[Ints, Floats]:
        items, scores = approximate_top_n(users.vectors, open_index(saved.value), seen, n, n_items)
        if log_sums is not None:
            log_sums[:] = np.logaddexp.reduce(scores, axis=1)
        return items, scores

    return search


def collect_factors(items: DataFrame) -> tuple[pa.Array, Floats, Floats]:
    """The whole catalogue on the driver: ids in ascending order, factors (n_items, rank) and biases
    (n_items,), float32.

    Parameters
    ----------
    items : DataFrame
        ``id``, ``features``, optionally ``bias``.

    Raises
    ------
    ModelError
        Features are not finite or not all of one length.
    """
    table = items.select("id", "features", _bias(items)).toArrow().combine_chunks().sort_by("id")
    return one_array(table["id"]), matrix_of(table["features"]), table["bias"].to_numpy()


class LinearScores(NamedTuple):
    """What a model's scores are made of: dot products, sums over the user's history, biases.

    Attributes
    ----------
    users, items, weights : as :func:`recommend_lists` takes them
    """

    users: DataFrame
    items: DataFrame
    weights: CollectedWeights | None


@dataclass(frozen=True)
class CollectedWeights:
    """Weights of item pairs on the driver.

    Parameters
    ----------
    items, neighbors : pyarrow.Array
        Ids of the items that are scored, and of those of histories; ascending.
    pairs : PairWeights
        By place among them.
    """

    items: pa.Array
    neighbors: pa.Array
    pairs: PairWeights

    @classmethod
    def of(cls, weights: DataFrame) -> CollectedWeights:
        """Collect rows of ``item``, ``neighbor``, ``weight`` float. One job.

        Parameters
        ----------
        weights : DataFrame
            One row per pair.
        """
        return cls.of_table(weights.select(ITEM, NEIGHBOR, "weight").toArrow())

    @classmethod
    def of_table(cls, table: pa.Table) -> CollectedWeights:
        """The same of an Arrow table.

        Parameters
        ----------
        table : pyarrow.Table
            ``item``, ``neighbor``, ``weight``.
        """
        (items, targets), (neighbors, codes) = encoded_ids(table[ITEM]), encoded_ids(table[NEIGHBOR])
        order = np.argsort(codes * len(items) + targets)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(neighbors)))])
        values = table["weight"].to_numpy().astype(np.float32)[order]
        return cls(
            items, neighbors, PairWeights(indptr.astype(np.int64), targets[order].astype(np.int32), values)
        )

    def on(self, catalogue: pa.Array) -> PairWeights:
        """The weights of the items of a catalogue, by place in it.

        Parameters
        ----------
        catalogue : pyarrow.Array
            Ids, ascending.
        """
        place = pc.fill_null(pc.index_in(self.items, value_set=catalogue), -1).to_numpy().astype(np.int32)
        targets = place[self.pairs.targets]
        if (place >= 0).all():
            return self.pairs._replace(targets=targets)
        kept = targets >= 0
        counted = np.concatenate([[0], np.cumsum(kept)])
        return PairWeights(counted[self.pairs.indptr], targets[kept], self.pairs.weights[kept])

    def by_item(self) -> PairWeights:
        """As rows of each item that is scored, with the items of histories, ascending, as ``targets``."""
        codes = np.repeat(np.arange(len(self.neighbors), dtype=np.int32), np.diff(self.pairs.indptr))
        order = np.argsort(self.pairs.targets, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(self.pairs.targets, minlength=len(self.items)))])
        return PairWeights(indptr.astype(np.int64), codes[order], self.pairs.weights[order])


def bags_of(items: pa.ListArray, values: pa.ListArray, among: pa.Array) -> Bags:
    """Histories as compressed rows of places; items that are not among the ids are left out.

    Parameters
    ----------
    items, values : list arrays of one shape
        Ids and float32.
    among : pyarrow.Array
        Ids, ascending.
    """
    places = pc.fill_null(pc.index_in(items.flatten(), value_set=among), -1).to_numpy().astype(np.int32)
    rows = np.repeat(np.arange(len(items)), pc.fill_null(pc.list_value_length(items), 0).to_numpy())
    keys, given = rows * len(among) + places, np.asarray(values.flatten(), np.float32)
    if (places < 0).any():
        kept = places >= 0
        keys, places, rows, given = keys[kept], places[kept], rows[kept], given[kept]
    if (keys[1:] < keys[:-1]).any():
        order = np.argsort(keys)
        places, given = places[order], given[order]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(items)))])
    return Bags(indptr.astype(np.int64), places, given)


def matrix_of(column: pa.ChunkedArray) -> Floats:
    """A column of equally long lists as a float32 matrix, shape (n_rows, rank).

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Lists of floats.

    Raises
    ------
    ModelError
        Features are not finite or not all of one length.
    """
    lists = one_array(column)
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist() if len(lists) else [0]
    if len(lengths) != 1:
        raise ModelError(f"features must all have one length, found {sorted(map(str, lengths))}")
    matrix = np.asarray(lists.flatten(), np.float32).reshape(len(lists), lengths[0])
    if not np.isfinite(matrix).all():
        raise ModelError("features must be finite: the model was not fitted well")
    return matrix


def _positions(catalogue: Broadcast[Any]) -> Callable[[pa.Table], pa.Table]:
    """Replace seen items by their catalogue positions (int32); pairs of unknown items are dropped."""

    def replaced(pairs: pa.Table) -> pa.Table:
        position = pc.index_in(one_array(pairs[ITEM]), value_set=catalogue.value)
        known = pairs.select(["bucket", "id"]).append_column(ITEM, position)
        return known.filter(pc.is_valid(known[ITEM])) if position.null_count else known

    return replaced


def _filling(
    catalogue: Broadcast[Any],
    neighbors: Broadcast[Any] | None,
    search: _Search,
    parts: tuple[str, ...] | None,
    users_at_once: int,
    normalized: bool,
    result: pa.Schema,
) -> Any:
    """Stage two: a bucket's payloads into lists, those of ``users_at_once`` users at a time."""

    def fill(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = unpacked(batches)
        if _USERS not in tables:
            return
        # in the order of their ids, so that a user's bits do not depend on how the rows arrived
        users = pa.concat_tables(tables[_USERS]).combine_chunks().sort_by("id")
        ids = one_array(users["id"])
        if not len(catalogue.value):
            nothing = pa.array([[]] * len(ids), result.field(RECOMMENDATIONS).type)
            empty = [ids, nothing, *([pa.nulls(len(ids), pa.float64())] if normalized else [])]
            yield pa.RecordBatch.from_arrays(empty, schema=result)
            return
        vectors, biases = matrix_of(users["features"]), users["bias"].to_numpy()
        seen = [_rows_of_pairs(ids, pairs) for pairs in tables.get(_SEEN, [])]
        for history in tables.get(HISTORY, []):
            ratings = chosen(history.select([USER, ITEM, PART]), parts)
            seen.append(_rows_of_history(ids, catalogue.value, ratings))
        indptr, positions = _csr(len(ids), seen)
        bags = None
        if neighbors is not None:
            bags = bags_of(one_array(users["items"]), one_array(users["values"]), neighbors.value)
        for start in range(0, len(ids), users_at_once):
            part = slice(start, min(start + users_at_once, len(ids)))
            first, last = indptr[part.start], indptr[part.stop]
            own = indptr[part.start : part.stop + 1] - first, positions[first:last]
            log_sums = np.zeros(part.stop - part.start) if normalized else None
            asked = _Users(vectors[part], None if bags is None else bags.rows(part.start, part.stop))
            items, scores = search(asked, own, log_sums)
            scores += biases[part, None]
            columns = [ids[part], _lists(items, scores, catalogue.value)]
            if log_sums is not None:
                columns.append(pa.array(log_sums))
            yield pa.RecordBatch.from_arrays(columns, names=result.names)

    return fill


def _rows_of_pairs(ids: pa.Array, pairs: pa.Table) -> tuple[Ints, Ints]:
    """Of pairs ``id``, ``item`` (a position): rows of ``ids``, -1 for others, and positions."""
    rows = pc.fill_null(pc.index_in(one_array(pairs["id"]), value_set=ids), -1)
    return rows.to_numpy(zero_copy_only=False), one_array(pairs[ITEM]).to_numpy().astype(np.int32)


def _rows_of_history(ids: pa.Array, catalogue: pa.Array, ratings: pa.Table) -> tuple[Ints, Ints]:
    """The same of a payload's ratings; rows are -1 for items that are not in the catalogue too."""
    users, items = (one_array(ratings[name]) for name in (USER, ITEM))
    rows, positions = places(users, ids), places(items, catalogue)
    return np.where(positions < 0, np.int32(-1), rows), positions


def _csr(n_rows: int, seen: list[tuple[Ints, Ints]]) -> Any:
    """Seen positions by row; those of row -1 are dropped."""
    if not seen:
        return np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32)
    rows, positions = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    if rows.min(initial=0) < 0:
        rows, positions = rows[rows >= 0], positions[rows >= 0]
    # numpy sorts 16-bit keys by radix
    order = np.argsort(rows.astype(np.uint16) if n_rows < 2**16 else rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return indptr.astype(np.int64), positions[order]


def _lists(items: Any, scores: Floats, catalogue: pa.Array) -> pa.Array:
    eligible = items >= 0
    offsets = np.concatenate([[0], np.cumsum(eligible.sum(axis=1))]).astype(np.int32)
    entries = pa.StructArray.from_arrays(
        [catalogue.take(pa.array(items[eligible])), pa.array(scores[eligible])], names=[ITEM, SCORE]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), entries)
