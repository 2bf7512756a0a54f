"""Scores of several models as those of one: what lists of a blend are made of, in one pass of the engine.

A member's scores of a user are standardised over the catalogue: less their mean, divided by their standard
deviation. That scales the user's vector and history, and adds a number, which is one more number of the
vector, beside a 1 of every item. So a weighted sum of members is a model of the same kind: vectors lie side
by side, and so do histories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Longs, Mapped
from recsys_spark.kernels.blend import ItemMoments, moments, moments_of_products, scales, union_of_best
from recsys_spark.kernels.item_item import Bags, PairWeights, add_scores, pair_scores
from recsys_spark.kernels.products import product
from recsys_spark.kernels.topn import ItemBlock
from recsys_spark.packing import lists_of, one_array, plain
from recsys_spark.recommend.rescore import dot_products, runs
from recsys_spark.recommend.scores import CollectedWeights, LinearScores, bags_of, collect_factors, matrix_of
from recsys_spark.recommend.top_n import REASON, RECOMMENDATIONS
from recsys_spark.schema import ITEM, NEIGHBOR, SCORE

SCORES_AT_ONCE = 2**24
"""Scores of a member that a task holds at a time, 4 bytes each; more only for a catalogue that is larger."""
ITEM_BLOCK = 2**16
ENTRIES_AT_ONCE = 2**15
"""Entries of lists that a task looks into at a time, about: twice the vectors' lengths for each."""
_PARTS = ("features", "items", "values")


@dataclass(frozen=True)
class Member:
    """A model whose scores are standardised.

    Attributes
    ----------
    known : its users, as they are in :class:`~recsys_spark.recommend.top_n.LinearScores`
    standardize : from some of these to ``id``, ``features``, ``items`` (places among all members' neighbours)
        and ``values``
    items : ``id``, ``features``: with the bias, where items have any, and a 1
    length : of the features
    weights : weights of item pairs, or None
    first : place of its first neighbour among those of all members
    """

    known: DataFrame
    standardize: Callable[[DataFrame], DataFrame]
    items: DataFrame
    length: int
    weights: CollectedWeights | None
    first: int

    @property
    def neighbors(self) -> int:
        """How many items of histories it has weights for."""
        return 0 if self.weights is None else len(self.weights.neighbors)

    @property
    def users(self) -> DataFrame:
        """All its users, standardised."""
        return self.standardize(self.known)

    def users_among(self, ids: DataFrame) -> DataFrame:
        """Those whose ``id`` is there."""
        return self.standardize(self.known.join(ids.select("id"), "id", "left_semi"))


def standardized(scores: LinearScores, first: int) -> Member:
    """A member of a blend. The items are collected, and what makes means and deviations of scores is
    broadcast: the items' moments, or of a model with weights of pairs the items and the weights; the rest
    when users are read.

    Parameters
    ----------
    scores : LinearScores
        Of the model.
    first : int
        Place of its first neighbour: the number of those of the members before it.
    """
    users, items, weights = scores
    biased = "bias" in items.columns
    catalogue, factors, biases = collect_factors(items)
    of_scores = (
        _of_products(factors, biases)
        if weights is None
        else _of_histories(catalogue, factors, biases, weights)
    )
    shared = users.sparkSession.sparkContext.broadcast(Mapped(of_scores))

    def standardize(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        known = shared.value.value
        for batch in map(plain, batches):
            x = matrix_of(pa.chunked_array([batch["features"]]))
            bags = known.bags(batch)
            means, deviations = known.moments(x, bags)
            scale = scales(means, deviations)
            vectors = [x * scale[:, None], *([scale] if biased else []), -means * scale]
            per_event = np.repeat(scale, np.diff(bags.indptr))
            ends = pa.array(bags.indptr.astype(np.int32))
            columns = [
                batch["id"],
                lists_of(np.column_stack(vectors).astype(np.float32)),
                pa.ListArray.from_arrays(ends, pa.array((bags.items + first).astype(np.int32))),
                pa.ListArray.from_arrays(ends, pa.array((bags.values * per_event).astype(np.float32))),
            ]
            yield pa.RecordBatch.from_arrays(columns, names=["id", *_PARTS])

    floats = T.ArrayType(T.FloatType())
    kinds = [floats, T.ArrayType(T.IntegerType()), floats]
    fields = [T.StructField(name, kind) for name, kind in zip(_PARTS, kinds, strict=True)]
    schema = T.StructType([users.schema["id"], *fields])
    read = ["id", "features", *([] if weights is None else ["items", "values"])]
    further = [F.col("bias").cast("float")] if biased else []
    features = F.concat("features", F.array(*further, F.lit(1.0).cast("float"))).alias("features")
    return Member(
        users,
        lambda some: some.select(*read).mapInArrow(standardize, schema),
        items.select("id", features),
        factors.shape[1] + len(further) + 1,
        weights,
        first,
    )


class _Products(NamedTuple):
    """What makes moments of scores that are dot products."""

    items: ItemMoments

    def bags(self, batch: pa.RecordBatch) -> Bags:
        """No history."""
        n = batch.num_rows
        return Bags(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    def moments(self, x: Floats, _: Bags) -> tuple[Doubles, Doubles]:
        """Means and deviations."""
        return moments_of_products(x, self.items)


class _Histories(NamedTuple):
    """What makes those of scores that are sums over histories too."""

    blocks: tuple[ItemBlock, ...]
    neighbors: pa.Array

    def bags(self, batch: pa.RecordBatch) -> Bags:
        """Places of the histories' items."""
        return bags_of(batch["items"], batch["values"], self.neighbors)

    def moments(self, x: Floats, bags: Bags) -> tuple[Doubles, Doubles]:
        """Means and deviations."""
        return moments(x, self.blocks, bags)


def _of_products(factors: Floats, biases: Floats) -> _Products:
    return _Products(ItemMoments.of(factors, biases))


def _of_histories(
    catalogue: pa.Array, factors: Floats, biases: Floats, weights: CollectedWeights
) -> _Histories:
    of_pairs, starts = weights.on(catalogue), range(0, len(factors), ITEM_BLOCK)
    blocks = (ItemBlock.build(factors[s : s + ITEM_BLOCK], biases[s : s + ITEM_BLOCK], s) for s in starts)
    return _Histories(tuple(block.with_weights(of_pairs) for block in blocks), weights.neighbors)


def blended(members: Sequence[Member], weights: Sequence[float]) -> tuple[DataFrame, DataFrame, pa.Table]:
    """A weighted sum of members, as one model; those of weight 0 are no part of it.

    Parameters
    ----------
    members : sequence of Member
        Whose users and items are joined: what one of them lacks is left out.
    weights : sequence of float
        One for each.

    Returns
    -------
    users : DataFrame
        One row per user: ``id``, ``features``, ``items`` and ``values``.
    items : DataFrame
        One row per item: ``id``, ``features``.
    pairs : pyarrow.Table
        ``item``, ``neighbor`` int, a place in the users' ``items``, ``weight`` float.
    """
    parts = [member for member, weight in zip(members, weights, strict=True) if weight]
    users = blended_users(parts, [weight for weight in weights if weight])
    items = _side_by_side([member.items for member in parts], ("features",))
    features = F.concat(*(f"features {place}" for place in range(len(parts)))).alias("features")
    kind = to_arrow_type(members[0].items.schema["id"].dataType)
    return users, items.select("id", features), _rows_of_pairs(parts, kind)


def blended_users(members: Sequence[Member], weights: Sequence[float]) -> DataFrame:
    """The users of :func:`blended`.

    Parameters
    ----------
    members : sequence of Member
        Whose users are joined: whom one of them lacks is left out.
    weights : sequence of float
        One for each, above 0.
    """
    users = _side_by_side([member.users for member in members], _PARTS)

    def weighted(name: str) -> Column:
        def times(place: int, weight: float) -> Column:
            return F.transform(f"{name} {place}", lambda x: (x * F.lit(weight)).cast("float"))

        return F.concat(*(times(place, float(weight)) for place, weight in enumerate(weights))).alias(name)

    histories = F.concat(*(f"items {place}" for place in range(len(members)))).alias("items")
    return users.select("id", weighted("features"), histories, weighted("values"))


class Candidates(NamedTuple):
    """What members say of the items that some of them would list.

    Attributes
    ----------
    values : float32 array, shape (n_members, n_users, n_candidates): standardised scores
    listed : bool array, shape (n_users, n_candidates): what may be listed
    relevant : bool array, shape (n_users, n_candidates)
    n_relevant : int64 array, shape (n_users,)
    """

    values: Floats
    listed: Booleans
    relevant: Booleans
    n_relevant: Longs


def candidates(members: Sequence[Member], users: DataFrame, n: int) -> Candidates:
    """The best ``n`` items of some users by each member, unseen ones. One job, two joins for each member.

    Parameters
    ----------
    members : sequence of Member
        Of the blend.
    users : DataFrame
        ``id``, ``seen`` and ``relevant``, arrays of items; those that no member lacks count.
    n : int
        Of each member.
    """
    spark = users.sparkSession
    every = _side_by_side([member.items for member in members], ("features",))
    table = every.toArrow().combine_chunks().sort_by("id")
    catalogue = one_array(table["id"])
    of_members = [
        (
            matrix_of(table[f"features {place}"]),
            None if member.weights is None else member.weights.on(catalogue),
            member.first,
            member.neighbors,
        )
        for place, member in enumerate(members)
    ]
    shared = spark.sparkContext.broadcast((catalogue, of_members))
    some = [member.users_among(users) for member in members]
    joined = users.join(_side_by_side(some, _PARTS), "id")
    at_once = max(1, SCORES_AT_ONCE // max(1, len(catalogue)))

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ids, known = shared.value
        for whole in map(plain, batches):
            for start in range(0, whole.num_rows, at_once):
                batch = whole.slice(start, at_once)
                scores = [_scores(batch, place, member) for place, member in enumerate(known)]
                seen = bags_of(batch["seen"], _ones(batch["seen"]), ids)
                rows = np.repeat(np.arange(batch.num_rows), np.diff(seen.indptr))
                for one in scores:
                    one[rows, seen.items] = -np.inf
                items, values = union_of_best(scores, n)
                wanted = bags_of(batch["relevant"], _ones(batch["relevant"]), ids)
                is_relevant = np.zeros((batch.num_rows, len(ids)), bool)
                is_relevant[np.repeat(np.arange(batch.num_rows), np.diff(wanted.indptr)), wanted.items] = True
                hits = np.take_along_axis(is_relevant, np.maximum(items, 0).astype(np.int64), axis=1)
                listed = (items >= 0) & np.isfinite(values[0])
                numbers = np.asarray(batch["relevant"].value_lengths(), np.int64)
                parts = values.transpose(1, 0, 2), listed, hits, numbers
                columns = [pa.array([np.ascontiguousarray(part).tobytes()], pa.binary()) for part in parts]
                yield pa.RecordBatch.from_arrays(columns, names=list(Candidates._fields))

    schema = ", ".join(f"{name} binary" for name in Candidates._fields)
    collected = joined.mapInArrow(score, schema).toArrow()
    n_found = min(n, max(1, len(catalogue))) * len(members)

    def read(name: str, kind: Any, *shape: int) -> Any:
        parts = [np.frombuffer(part.as_py(), kind) for part in collected[name]]
        return np.concatenate([np.zeros(0, kind), *parts]).reshape(-1, *shape)

    return Candidates(
        read("values", np.float32, len(members), n_found).transpose(1, 0, 2),
        read("listed", bool, n_found),
        read("relevant", bool, n_found),
        read("n_relevant", np.int64).ravel(),
    )


def contributions(lists: DataFrame, scores: LinearScores, slices: Mapping[str, Sequence[int]]) -> DataFrame:
    """Lists of a blend with the member that adds most to each score; of equal ones the first.

    Parameters
    ----------
    lists : DataFrame
        ``id``, ``recommendations``, as the top-N engine returns them.
    scores : LinearScores
        Of the blend.
    slices : mapping
        Name of a member → length of its features, and its first place among neighbours and the one after its
        last.

    Returns
    -------
    DataFrame
        ``id``, ``recommendations``, array<struct<item, score, reason: string>>. A join by user; the items and
        the weights are broadcast.
    """
    users, items, weights = scores
    assert weights is not None  # noqa: S101
    of_weights = weights.items, weights.neighbors, weights.by_item()
    shared = lists.sparkSession.sparkContext.broadcast((*collect_factors(items)[:2], *of_weights))
    names, ends = list(slices), np.cumsum([0, *(length for length, *_ in slices.values())])
    ranges = [tuple(rest) for _, *rest in slices.values()]

    def name(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ids, factors, targets, neighbors, of_targets = shared.value
        bounds = [np.searchsorted(neighbors.to_numpy(), places) for places in ranges]
        for batch in (part for whole in map(plain, batches) for part in runs(whole, ENTRIES_AT_ONCE)):
            entries = batch[RECOMMENDATIONS]
            lengths = np.asarray(entries.value_lengths(), np.int64)
            rows = np.repeat(np.arange(batch.num_rows), lengths)
            listed = pc.struct_field(entries.flatten(), ITEM)
            places = pc.index_in(listed, value_set=ids).to_numpy(zero_copy_only=False)
            wanted = pc.fill_null(pc.index_in(listed, value_set=targets), -1).to_numpy().astype(np.int32)
            x = matrix_of(pa.chunked_array([batch["features"]]))
            bags = bags_of(batch["items"], batch["values"], neighbors)
            added = np.zeros((len(names), len(rows)), np.float32)
            for member, (low, high) in enumerate(bounds):
                part = slice(ends[member], ends[member + 1])
                added[member] = dot_products(x[rows, part], factors[places, part])
                added[member] += pair_scores(_between(bags, low, high), rows, wanted, of_targets)
            reasons = pa.array(names).take(pa.array(added.argmax(axis=0)))
            columns = [listed, pc.struct_field(entries.flatten(), SCORE), reasons]
            told = pa.StructArray.from_arrays(columns, names=[ITEM, SCORE, REASON])
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
            named = pa.ListArray.from_arrays(offsets, told)
            yield pa.RecordBatch.from_arrays([batch["id"], named], names=["id", RECOMMENDATIONS])

    fields = [
        *lists.schema[RECOMMENDATIONS].dataType.elementType.fields,  # type: ignore[attr-defined]
        T.StructField(REASON, T.StringType()),
    ]
    kind = T.StructType(
        [lists.schema["id"], T.StructField(RECOMMENDATIONS, T.ArrayType(T.StructType(fields)))]
    )
    return lists.join(users.select("id", "features", "items", "values"), "id").mapInArrow(name, kind)


def _between(bags: Bags, low: int, high: int) -> Bags:
    """The items of some places."""
    kept = (bags.items >= low) & (bags.items < high)
    counted = np.concatenate([[0], np.cumsum(kept)])
    return Bags(counted[bags.indptr].astype(np.int64), bags.items[kept], bags.values[kept])


def _scores(batch: pa.RecordBatch, place: int, member: tuple[Floats, PairWeights | None, int, int]) -> Floats:
    """A member's standardised scores of all items."""
    factors, weights, first, neighbors = member
    x = matrix_of(pa.chunked_array([batch[f"features {place}"]]))
    scores = product(x, factors.T)
    if weights is not None:
        among = pa.array(np.arange(first, first + neighbors, dtype=np.int32))
        add_scores(scores, bags_of(batch[f"items {place}"], batch[f"values {place}"], among), weights)
    return scores


def _side_by_side(frames: Sequence[DataFrame], names: Sequence[str]) -> DataFrame:
    """Frames joined by ``id``; column ``name`` of the first is ``name 0``, and so on."""
    joined: DataFrame | None = None
    for place, frame in enumerate(frames):
        renamed = frame.select("id", *(F.col(name).alias(f"{name} {place}") for name in names))
        joined = renamed if joined is None else joined.join(renamed, "id")
    assert joined is not None  # noqa: S101
    return joined


def _rows_of_pairs(members: Sequence[Member], kind: pa.DataType) -> pa.Table:
    """All members' weights, with places of neighbours."""
    found, names = [], [ITEM, NEIGHBOR, "weight"]
    for member in members:
        if member.weights is not None:
            pairs = member.weights.pairs
            places = np.repeat(np.arange(member.neighbors, dtype=np.int32), np.diff(pairs.indptr))
            columns = [member.weights.items.take(pa.array(pairs.targets)), places + np.int32(member.first)]
            found.append(pa.table([*columns, pairs.weights], names=names))
    nothing = pa.table(
        [pa.array([], kind), pa.array([], pa.int32()), pa.array([], pa.float32())], names=names
    )
    return pa.concat_tables([nothing, *found])


def _ones(lists: pa.ListArray) -> pa.ListArray:
    """Lists of the same lengths, of ones."""
    flat = lists.flatten()
    ends = np.concatenate([[0], np.cumsum(np.asarray(lists.value_lengths(), np.int64))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.ones(len(flat), np.float32)))
