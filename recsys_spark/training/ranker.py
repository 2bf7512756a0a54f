"""What a ranker does in tasks: users with the lists of its members into queries, lists and explanations, and
pairs with the members' predictions into queries and ratings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.kernels.arrays import Floats, Longs
from recsys_spark.kernels.candidates import Candidates, best_candidates
from recsys_spark.kernels.sets import contained
from recsys_spark.packing import encoded_ids, plain
from recsys_spark.recommend.candidate_features import CONSUMED, ItemFeatures, feature_matrix, pair_features
from recsys_spark.recommend.candidates import Found, found_in
from recsys_spark.recommend.score_blocks import BLOCKS
from recsys_spark.recommend.top_n import REASON, RECOMMENDATIONS
from recsys_spark.schema import ITEM, RANK, RATING, SCORE, USER
from recsys_spark.training.trees import open_trees, tree_contributions, tree_scores


def rows_of_lists(lists: pa.Array) -> Floats:
    """Lists of one length as a float32 matrix, in which numbers may be missing.

    Parameters
    ----------
    lists : Array
        Of lists of floats.
    """
    return np.asarray(lists.flatten(), np.float32).reshape(len(lists), -1)


USERS_AT_ONCE = 500
"""Whose candidates a task holds at a time."""


def _slices(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in map(plain, batches):
        for start in range(0, batch.num_rows, USERS_AT_ONCE):
            yield batch.slice(start, USERS_AT_ONCE)


def _features(batch: pa.RecordBatch, found: Found, items: ItemFeatures) -> Floats:
    """Features of a batch's candidates."""
    users, profiles = (rows_of_lists(batch[name]) for name in ("values", "profile"))
    own, vectors, pairs = found.candidates, None, None
    if items.blocks is not None:
        vectors = rows_of_lists(batch[BLOCKS])
    if CONSUMED in batch.schema.names:
        pairs = pair_features(batch[CONSUMED], own.users, own.items, found.items)
    return feature_matrix(own, users, profiles, items, found.places(items.ids), vectors, pairs)


def _queries(
    batch: pa.RecordBatch, found: Found, wanted: Longs, labels: pa.Array, items: ItemFeatures
) -> pa.RecordBatch:
    """A batch's users as queries: how many items each should find, and of each candidate its label, float."""
    counts = np.bincount(found.candidates.users, minlength=batch.num_rows)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    features = _features(batch, found, items)
    columns = {
        "query": batch["query"],
        "validation": batch["validation"],
        "wanted": pa.array(wanted.astype(np.int32)),
        "labels": pa.ListArray.from_arrays(pa.array(ends), labels),
        "features": pa.ListArray.from_arrays(
            pa.array(ends * np.int32(features.shape[1])), pa.array(features.ravel())
        ),
        "id": batch["id"],
        "candidates": pa.ListArray.from_arrays(pa.array(ends), found.ids()),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def querying(shared: Any, retrievers: int) -> Any:
    """Users with lists and ``wanted`` items into queries."""

    def query(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in _slices(batches):
            found = found_in(batch, retrievers)
            rows, width = found.candidates.users.astype(np.int64), max(len(found.items), 1)
            wanted = batch["wanted"]
            lengths = pc.list_value_length(wanted).to_numpy()
            place = pc.fill_null(pc.index_in(wanted.flatten(), value_set=found.items), -1).to_numpy()
            keys = np.repeat(np.arange(len(lengths)), lengths) * width + place
            labels = contained(rows * width + found.candidates.items, keys[place >= 0])
            yield _queries(batch, found, lengths, pa.array(labels.astype(np.float32)), shared.value)

    return query


PAIRS = "pairs"
"""Column of a user's pairs with the members' predictions: array<struct<item, score0, …>>, and for queries
``rating``.
"""


def score_of(member: int) -> str:
    """Name of a member's prediction among :data:`PAIRS`.

    Parameters
    ----------
    member : int
        From 0.
    """
    return f"score{member}"


def _pairs_in(batch: pa.RecordBatch, members: int) -> Found:
    """A batch's pairs, in their order; no member ranks them."""
    lengths, flat = pc.list_value_length(batch[PAIRS]).to_numpy(), batch[PAIRS].flatten()
    items, codes = encoded_ids(pa.chunked_array([pc.struct_field(flat, ITEM)]))
    scores = [
        pc.struct_field(flat, score_of(member)).to_numpy(zero_copy_only=False) for member in range(members)
    ]
    users, matrix = np.repeat(np.arange(len(lengths)), lengths), np.column_stack(scores).astype(np.float32)
    unranked = np.full_like(matrix, np.nan)
    return Found(items, Candidates(users.astype(np.int32), codes.astype(np.int32), matrix, unranked))


def querying_ratings(shared: Any, members: int) -> Any:
    """Users with pairs and their ratings into queries."""

    def query(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in _slices(batches):
            found = _pairs_in(batch, members)
            lengths = pc.list_value_length(batch[PAIRS]).to_numpy()
            ratings = pc.struct_field(batch[PAIRS].flatten(), RATING)
            yield _queries(batch, found, lengths, ratings, shared.value)

    return query


def predicting(shared: Any, members: int) -> Any:
    """Users with pairs into the ratings that trees predict of these."""

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        items, saved = shared.value
        trees = open_trees(saved)
        for batch in _slices(batches):
            found = _pairs_in(batch, members)
            users = batch["id"].take(pa.array(found.candidates.users))
            scores = pa.array(tree_scores(trees, _features(batch, found, items)))
            yield pa.RecordBatch.from_arrays([users, found.ids(), scores], names=[USER, ITEM, SCORE])

    return predict


class _Ranked(NamedTuple):
    """A batch's candidates and the best of them.

    Attributes
    ----------
    ids : of the users
    found : their candidates
    features, scores : of these
    indptr, chosen : compressed rows of places among them, best first
    """

    ids: pa.Array
    found: Found
    features: Floats
    scores: Floats
    indptr: Longs
    chosen: Longs


def _ranked(
    batches: Iterator[pa.RecordBatch], items: ItemFeatures, trees: Any, retrievers: int, n: int
) -> Iterator[_Ranked]:
    """The best ``n`` candidates of users with lists."""
    for batch in _slices(batches):
        found = found_in(batch, retrievers)
        features = _features(batch, found, items)
        scores = tree_scores(trees, features)
        best = best_candidates(found.candidates, scores, batch.num_rows, n)
        yield _Ranked(batch["id"], found, features, scores, *best)


def ordering(shared: Any, retrievers: list[str], n: int) -> Any:
    """Users with lists into the best ``n`` of their candidates."""

    def order(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        items, saved = shared.value
        for one in _ranked(batches, items, open_trees(saved), len(retrievers), n):
            ranks = one.found.candidates.ranks[one.chosen]
            by = np.nanargmin(ranks, axis=1) if len(ranks) else np.zeros(0, np.int64)
            columns = [
                one.found.ids().take(pa.array(one.chosen)),
                pa.array(one.scores[one.chosen]),
                pa.array(retrievers).take(pa.array(by)),
            ]
            entries = pa.StructArray.from_arrays(columns, names=[ITEM, SCORE, REASON])
            lists = pa.ListArray.from_arrays(pa.array(one.indptr.astype(np.int32)), entries)
            yield pa.RecordBatch.from_arrays([one.ids, lists], names=["id", RECOMMENDATIONS])

    return order


def explaining(shared: Any, retrievers: int, n: int, names: list[str], most: int) -> Any:
    """Users with lists into what adds most to the scores of the best ``n`` of their candidates."""

    def explain(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        items, saved = shared.value
        trees = open_trees(saved)
        for one in _ranked(batches, items, trees, retrievers, n):
            values = one.features[one.chosen]
            added = tree_contributions(trees, values)
            place = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :most]
            entry = np.repeat(np.arange(len(values)), place.shape[1])
            lengths = np.diff(one.indptr)
            rank = np.arange(len(values)) - np.repeat(one.indptr[:-1], lengths) + 1
            users = one.ids.take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
            listed = one.found.ids().take(pa.array(one.chosen))
            columns = {
                USER: users.take(pa.array(entry)),
                ITEM: listed.take(pa.array(entry)),
                RANK: pa.array(rank[entry].astype(np.int32)),
                "feature": pa.array(names).take(pa.array(place.ravel())),
                "value": pa.array(values[entry, place.ravel()]),
                "contribution": pa.array(added[entry, place.ravel()]),
            }
            yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    return explain
