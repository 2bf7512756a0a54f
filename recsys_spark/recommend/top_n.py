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
from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Ints, Mapped
from recsys_spark.kernels.item_item import Bags, PairWeights
from recsys_spark.kernels.sets import distinct
from recsys_spark.kernels.topn import Allowed, ItemBlock, top_n, top_n_of_biases
from recsys_spark.packing import PACKED, bucket_of, one_array, packing, power_of_two, unpacked
from recsys_spark.recommend.approximate import approximate_top_n, build_index, open_index
from recsys_spark.recommend.scores import CollectedWeights, bags_of, bias_of, collect_factors, matrix_of
from recsys_spark.schema import ITEM, PART, RANK, SCORE, SHELF, USER

RECOMMENDATIONS = "recommendations"
REASON = "reason"
LOG_NORMALIZER = "log_normalizer"
_WITHOUT_END = 2**31 - 1
_USERS, _SEEN, _ONLY = "users", "seen", "only"
GROUP = "group"
LIST_ENTRIES = 2**21
"""Entries of lists that a task holds at a time, about 40 bytes each; more only for longer lists of one block
of users.
"""


class _Users(NamedTuple):
    """Vectors of users, their histories where scores are made of them, and what they may be shown."""

    vectors: Floats
    bags: Bags | None
    allowed: Allowed | None


_Search = Callable[[_Users, Any, Doubles | None], tuple[Ints, Floats]]
"""From users, and their seen items as compressed rows, their lists; fills log normalisers where asked to."""

DEFAULT_BLOCK_SIZES = BlockSizes()


class GroupRules(NamedTuple):
    """What some users may not be shown, the same for all users of a group.

    Attributes
    ----------
    users : DataFrame
        ``user``, unique, ``group`` int: from 0, or null; to users without one nothing is denied.
    denied : DataFrame
        One row per (``group``, ``item``).
    """

    users: DataFrame
    denied: DataFrame


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
    allowed_pairs : DataFrame, optional
        ``user``, ``item``: users who have a row are recommended nothing else.
    denied_pairs : DataFrame, optional
        ``user``, ``item``: never recommended, as what is seen.
    group_rules : GroupRules, optional
        What groups of users may not be shown: collected, then a byte for each group and item.
    block_sizes : BlockSizes
        Bounds of a task's memory; :class:`recsys_spark.config.BlockSizes` states them.
    only_supported : bool
        Where scores are sums over the user's history, leave items out that score exactly 0, as nothing in it
        speaks for them: lists are shorter, and may be filled with something better.
    shelves : DataFrame, optional
        ``item``, ``shelf``, distinct: lists hold the best ``n`` items of each shelf, in one list, and perhaps
        others of the shelves; :func:`recsys_spark.recommend.shelves.by_shelf` tells them apart. An index of
        items is not searched for them: they are always exact.

    Raises
    ------
    ModelError
        ``n`` is not a whole number of at least 1.
    """

    n: int
    seen: DataFrame | PackedHistories | None = None
    allowed_items: DataFrame | None = None
    denied_items: DataFrame | None = None
    allowed_pairs: DataFrame | None = None
    denied_pairs: DataFrame | None = None
    group_rules: GroupRules | None = None
    block_sizes: BlockSizes = DEFAULT_BLOCK_SIZES
    only_supported: bool = False
    shelves: DataFrame | None = None

    def __post_init__(self) -> None:
        """Check the length; numpy's integers are integers too."""
        whole = isinstance(self.n, Integral) and not isinstance(self.n, bool)
        if not whole or self.n < 1:
            raise ModelError(f"the length of the lists must be a whole number of at least 1, got {self.n!r}")
        object.__setattr__(self, "n", int(self.n))

    @property
    def length(self) -> int:
        """Entries that a second stage keeps of a list: all, where it holds the best of several shelves."""
        return self.n if self.shelves is None else _WITHOUT_END

    @cached_property
    def pairs(self) -> int:
        """How many rows ``seen`` and the pairs have, or more; counted once for all models that are asked the
        same.
        """
        frames = [self.seen, self.denied_pairs, self.allowed_pairs]
        packed = [frame.size for frame in frames if isinstance(frame, PackedHistories)]
        return sum(packed) + sum(frame.count() for frame in frames if isinstance(frame, DataFrame))


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
        first; shorter than ``n`` where fewer items are eligible, and longer where the best of several shelves
        are wanted. Ties go to the smaller item.

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
    of_users = request.pairs
    items = _permitted(items, request)
    catalogue, factors, biases = collect_factors(items)
    request = replace(request, n=min(request.n, max(1, len(catalogue))))
    ids = spark.sparkContext.broadcast(catalogue)
    denied = None if request.group_rules is None else _denied(request.group_rules, items, catalogue)
    shelves = None if request.shelves is None else _shelves(request.shelves, items, catalogue)
    if approximate and shelves is None:
        if denied is not None or request.allowed_pairs is not None:
            raise ModelError(
                "an index of items cannot be searched for what some users alone may be shown: set retrieval "
                "to exact, or leave out rules of users and items"
            )
        search = _approximate_search(spark.sparkContext, factors, biases, request)
    else:
        of_pairs = None if weights is None else weights.on(catalogue)
        search = _exact_search(spark.sparkContext, factors, biases, request, of_pairs, denied, shelves)
    neighbors = None if weights is None else spark.sparkContext.broadcast(weights.neighbors)
    events = F.sum(F.size("items")) if weights is not None else F.lit(0)
    (sums,) = users.agg(F.count("*").alias("users"), events.alias("events")).collect()
    n_users, n_events = sums["users"], sums["events"] or 0
    pairs = max(of_users, n_events)
    buckets = power_of_two(max(n_users / sizes.users_per_task, pairs / sizes.pairs_per_task))
    # as many users as have so many events
    pack_rows = max(1, sizes.pack_rows * n_users // n_events) if n_events > n_users else sizes.pack_rows
    id_type, item_type = users.schema["id"].dataType, items.schema["id"].dataType
    parts = None
    if isinstance(seen, PackedHistories):
        seen.require_id_types(id_type, item_type)
        buckets, parts = min(buckets, seen.buckets), seen.parts
    further = [] if weights is None else ["items", "values"]
    if request.group_rules is not None:
        users, further = users.join(_groups(request.group_rules, id_type), "id", "left"), [*further, GROUP]
    vectors = users.select(bucket_of(F.col("id"), buckets), "id", "features", bias_of(users), *further)
    packed = vectors.mapInArrow(packing(_USERS, pack_rows), PACKED)
    if isinstance(seen, PackedHistories):
        packed = packed.unionAll(seen.in_buckets(buckets))
    for kind, frame in ((_SEEN, seen), (_SEEN, request.denied_pairs), (_ONLY, request.allowed_pairs)):
        if isinstance(frame, DataFrame):
            user, item = matching_id(frame, USER, id_type), matching_id(frame, ITEM, item_type)
            pairs = frame.select(bucket_of(user, buckets), user.alias("id"), item.alias(ITEM))
            placed = packing(kind, sizes.pack_rows, _positions(ids))
            packed = packed.unionAll(pairs.mapInArrow(placed, PACKED))
    lists = T.ArrayType(T.StructType([T.StructField(ITEM, item_type), T.StructField(SCORE, T.FloatType())]))
    result = T.StructType([T.StructField("id", id_type), T.StructField(RECOMMENDATIONS, lists)])
    if normalized:
        result.add(LOG_NORMALIZER, T.DoubleType())
    length = request.n * max(1, len(shelves or ()))
    blocks = max(1, LIST_ENTRIES // (length * sizes.user_block))  # whole ones: the same bits as of all users
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


def first_of_lists(lists: DataFrame, n: int) -> DataFrame:
    """Lists cut to ``n``.

    Parameters
    ----------
    lists : DataFrame
        ``id``, ``recommendations``, best first.
    n : int
        Items of a list, at most.
    """
    return lists.withColumn(RECOMMENDATIONS, F.slice(RECOMMENDATIONS, 1, n))


def _permitted(items: DataFrame, request: ListRequest) -> DataFrame:
    """Items that the request allows and does not deny."""
    if request.allowed_items is not None:
        items = items.join(distinct_ids(request.allowed_items, ITEM, items), "id", "left_semi")
    if request.denied_items is not None:
        items = items.join(distinct_ids(request.denied_items, ITEM, items), "id", "left_anti")
    if request.shelves is not None:
        items = items.join(distinct_ids(request.shelves, ITEM, items), "id", "left_semi")
    return items


def _shelves(shelves: DataFrame, items: DataFrame, catalogue: pa.Array) -> list[Ints]:
    """Catalogue positions of the items of each shelf, ascending."""
    item = matching_id(shelves, ITEM, items.schema["id"].dataType).alias(ITEM)
    rows = shelves.select(item, SHELF).toArrow()
    positions = pc.fill_null(pc.index_in(one_array(rows[ITEM]), value_set=catalogue), -1).to_numpy()
    of_rows = np.asarray(one_array(rows[SHELF]).dictionary_encode().indices)
    return [
        distinct(positions[(of_rows == shelf) & (positions >= 0)]).astype(np.int32)
        for shelf in range(of_rows.max(initial=-1) + 1)
    ]


def _denied(rules: GroupRules, items: DataFrame, catalogue: pa.Array) -> Booleans:
    """What each group may not be shown, shape (n_groups, n_items)."""
    item = matching_id(rules.denied, ITEM, items.schema["id"].dataType).alias(ITEM)
    (most,) = rules.users.agg(F.max(GROUP).alias("last")).collect()
    rows = rules.denied.where(F.col(GROUP).isNotNull()).select(F.col(GROUP).cast("int"), item).toArrow()
    position = pc.fill_null(pc.index_in(one_array(rows[ITEM]), value_set=catalogue), -1).to_numpy()
    group = one_array(rows[GROUP]).to_numpy()
    n_groups = 1 + max(-1 if most["last"] is None else most["last"], group.max(initial=-1))
    denied = np.zeros((n_groups, len(catalogue)), bool)
    known = position >= 0
    denied[group[known], position[known]] = True
    return denied


def _groups(rules: GroupRules, id_type: T.DataType) -> DataFrame:
    """The users' groups by ``id``."""
    return rules.users.select(matching_id(rules.users, USER, id_type).alias("id"), F.col(GROUP).cast("int"))


def _exact_search(
    context: SparkContext,
    factors: Floats,
    biases: Floats,
    request: ListRequest,
    pairs: PairWeights | None,
    denied: Booleans | None,
    shelves: list[Ints] | None,
) -> _Search:
    """Exact search, by blocks of items cut at multiples of ``item_block``."""
    unlimited = denied is None and request.allowed_pairs is None and shelves is None
    if not factors.shape[1] and pairs is None and unlimited:
        return _bias_search(context.broadcast(biases), request.n)
    size, user_block, n = request.block_sizes.item_block, request.block_sizes.user_block, request.n
    starts = range(0, max(len(factors), 1), size)
    item_blocks = (ItemBlock.build(factors[s : s + size], biases[s : s + size], s) for s in starts)
    if pairs is not None:
        item_blocks = (block.with_weights(pairs) for block in item_blocks)
    if denied is not None:
        item_blocks = (block.with_denied(denied) for block in item_blocks)
    if shelves is not None:
        item_blocks = (block.with_shelves(shelves) for block in item_blocks)
    blocks = [context.broadcast(Mapped(block)) for block in item_blocks]

    def search(users: _Users, seen: Any, log_sums: Doubles | None) -> tuple[Ints, Floats]:
        held = [block.value.value for block in blocks]
        return top_n(users.vectors, held, seen, n, user_block, log_sums, users.bags, users.allowed)

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


def _positions(catalogue: Broadcast[Any]) -> Callable[[pa.Table], pa.Table]:
    """Replace items by their catalogue positions (int32), unknown ones by -1."""

    def replaced(pairs: pa.Table) -> pa.Table:
        position = pc.fill_null(pc.index_in(one_array(pairs[ITEM]), value_set=catalogue.value), -1)
        return pairs.select(["bucket", "id"]).append_column(ITEM, position)

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
        indptr, positions = _csr(len(ids), [_known(*pairs) for pairs in seen])
        only = [_rows_of_pairs(ids, pairs) for pairs in tables.get(_ONLY, [])]
        groups = pc.fill_null(one_array(users[GROUP]), -1).to_numpy() if GROUP in users.column_names else None
        allowed = (
            Allowed(groups, _csr(len(ids), only) if only else None) if only or groups is not None else None
        )
        bags = None
        if neighbors is not None:
            bags = bags_of(one_array(users["items"]), one_array(users["values"]), neighbors.value)
        for start in range(0, len(ids), users_at_once):
            part = slice(start, min(start + users_at_once, len(ids)))
            first, last = indptr[part.start], indptr[part.stop]
            own = indptr[part.start : part.stop + 1] - first, positions[first:last]
            log_sums = np.zeros(part.stop - part.start) if normalized else None
            asked = _Users(
                vectors[part],
                None if bags is None else bags.rows(part.start, part.stop),
                None if allowed is None else allowed.rows(part.start, part.stop),
            )
            items, scores = search(asked, own, log_sums)
            scores += biases[part, None]
            columns = [ids[part], _lists(items, scores, catalogue.value)]
            if log_sums is not None:
                columns.append(pa.array(log_sums))
            yield pa.RecordBatch.from_arrays(columns, names=result.names)

    return fill


def _rows_of_pairs(ids: pa.Array, pairs: pa.Table) -> tuple[Ints, Ints]:
    """Of pairs ``id``, ``item`` (a position, or -1): rows of ``ids``, -1 for others, and positions."""
    rows = pc.fill_null(pc.index_in(one_array(pairs["id"]), value_set=ids), -1)
    return rows.to_numpy(zero_copy_only=False), one_array(pairs[ITEM]).to_numpy().astype(np.int32)


def _rows_of_history(ids: pa.Array, catalogue: pa.Array, ratings: pa.Table) -> tuple[Ints, Ints]:
    """The same of a payload's ratings."""
    users, items = (one_array(ratings[name]) for name in (USER, ITEM))
    return places(users, ids), places(items, catalogue)


def _known(rows: Ints, positions: Ints) -> tuple[Ints, Ints]:
    """The same with rows of -1 for items that are not in the catalogue."""
    return np.where(positions < 0, np.int32(-1), rows), positions


def _csr(n_rows: int, pairs: list[tuple[Ints, Ints]]) -> Any:
    """Positions by row; those of row -1 are dropped."""
    if not pairs:
        return np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32)
    rows, positions = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
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
