"""Vectors of users from their histories, while all else that a pair model has learnt stays as it is.

A user's embedding and bias are the most likely ones by what the user has, under the model's own loss, and by
a normal prior with the mean and the covariance of the embeddings of the users of the fit: little history
moves a user little from the average one, or from what the user's features say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Doubles, Floats, Hashes, Ints, Longs
from recsys_spark.kernels.negatives import Proposal, draw_negatives
from recsys_spark.kernels.posterior import Prior, least_squares_mode, logistic_mode
from recsys_spark.kernels.randomness import mix
from recsys_spark.packing import lists_of, one_array, plain
from recsys_spark.recommend.scores import matrix_of
from recsys_spark.training.gradient.program import NAME, VALUES
from recsys_spark.training.pairwise.batch import USERS

PRIOR_WEIGHT = 0.3
"""What the prior counts: its covariance is that of point estimates, which differ less than what they
estimate.
"""
NEGATIVES = 1_000
"""Of a user at least; together they count as many as the fit has for the user's positives."""
MOST = 10_000
"""Of a user's rows that are looked at; they then count for all."""

BY_FEATURES = "by features"
"""Column of what a user's features add to the embedding and bias: array<float>, null for nothing."""


@dataclass(frozen=True)
class FoldIn:
    """How histories speak of users.

    Attributes
    ----------
    loss : ``squared``, ``logistic`` or ``bpr``
    mean : added to every score
    noise : variance of ratings about their predictions, for ``squared``
    negatives : of each positive, for the other losses
    popularity_exponent : negatives are drawn in proportion to their count to this power
    seed : of the draws
    """

    loss: str
    mean: float
    noise: float
    negatives: int
    popularity_exponent: float
    seed: int


@dataclass(frozen=True)
class _Items:
    """The catalogue: ids ascending, vectors beside a 1 for the user's bias, biases, and negatives: how they
    are drawn, and which places they are.
    """

    ids: pa.Array
    rows: Doubles
    biases: Doubles
    proposal: Proposal
    drawn: Ints


def fold_in(histories: DataFrame, items: DataFrame, tables: DataFrame, dim: int, how: FoldIn) -> DataFrame:
    """Vectors of users.

    Parameters
    ----------
    histories : DataFrame
        One row per user: ``id``, ``items``, unique and known, ``values``, their ratings, not read where what
        counts is that there is one, and :data:`BY_FEATURES`.
    items : DataFrame
        ``id``, ``features``, ``bias`` and ``count``.
    tables : DataFrame
        Of the fit.
    dim : int
        Length of an embedding.
    how : FoldIn
        The loss.

    Returns
    -------
    DataFrame
        One row per user: ``id``, ``features`` array<float>, ``bias`` float. The items pass through the driver
        and are broadcast. A user costs a few solutions of ``dim + 1`` equations, of ``NEGATIVES`` rows.
    """
    prior, known = _prior(tables, dim + 1), _items(items, how)
    shared = histories.sparkSession.sparkContext.broadcast((prior, known))

    def solve(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        of_fit, catalogue = shared.value
        for batch in map(plain, batches):
            vectors = _solved(batch, of_fit, catalogue, how)
            columns = [batch["id"], lists_of(vectors[:, :-1]), pa.array(vectors[:, -1])]
            yield pa.RecordBatch.from_arrays(columns, names=["id", "features", "bias"])

    fields = [T.StructField("features", T.ArrayType(T.FloatType())), T.StructField("bias", T.FloatType())]
    return histories.mapInArrow(solve, T.StructType([histories.schema["id"], *fields]))


def _prior(tables: DataFrame, width: int) -> Prior:
    """Of users' embeddings and biases. One job."""

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums, products, count = np.zeros(width), np.zeros((width, width)), 0
        for batch in batches:
            if batch.num_rows:
                own = matrix_of(pa.chunked_array([batch[VALUES]]))[:, :width].astype(np.float64)
                sums, products, count = sums + own.sum(axis=0), products + own.T @ own, count + len(own)
        columns = [lists_of(sums[None]), lists_of(products.reshape(1, -1)), pa.array([count])]
        yield pa.RecordBatch.from_arrays(columns, names=["sums", "products", "count"])

    users = tables.where(F.col(NAME) == USERS).select(VALUES)
    schema = "sums array<double>, products array<double>, count bigint"
    found = users.mapInArrow(add, schema).toArrow().combine_chunks()
    count = pc.sum(found["count"]).as_py()
    sums, products = (
        np.asarray(one_array(found[name]).flatten()).reshape(found.num_rows, -1).sum(axis=0)
        for name in ("sums", "products")
    )
    mean = sums / count
    covariance = products.reshape(width, width) / count - np.outer(mean, mean)
    least = 1e-6 * max(np.trace(covariance) / width, 1e-12)  # what is not learnt does not differ
    return Prior(mean, PRIOR_WEIGHT * np.linalg.inv(covariance + least * np.eye(width)))


def _items(items: DataFrame, how: FoldIn) -> _Items:
    """The catalogue on the driver."""
    table = items.select("id", "features", "bias", "count").toArrow().combine_chunks().sort_by("id")
    vectors, counts = matrix_of(table["features"]).astype(np.float64), table["count"].to_numpy()
    drawn = np.flatnonzero(counts > 0).astype(np.int32)
    proposal = Proposal.build(counts[drawn].astype(np.float64) ** how.popularity_exponent)
    rows = np.column_stack([vectors, np.ones(len(vectors))])
    return _Items(
        one_array(table["id"]), rows, table["bias"].to_numpy().astype(np.float64) + how.mean, proposal, drawn
    )


def _solved(batch: pa.RecordBatch, prior: Prior, items: _Items, how: FoldIn) -> Floats:
    """Embeddings with their biases, shape (n_users, dim + 1), those of features among them."""
    lengths, keys = pc.list_value_length(batch["items"]).to_numpy(), mix(how.seed, hash_ids(batch["id"]))
    places = pc.index_in(batch["items"].flatten(), value_set=items.ids).to_numpy()
    values = np.asarray(batch["values"].flatten(), np.float64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    vectors = np.zeros((len(lengths), items.rows.shape[1]), np.float32)
    for user, (start, end) in enumerate(pairwise(starts)):
        rows, weight = np.arange(start, end), 1.0
        if len(rows) > MOST:
            rows = np.sort(rows[np.argsort(mix(0, keys[user], places[rows]))[:MOST]])
            weight = (end - start) / MOST
        added = batch[BY_FEATURES][user].as_py()
        mean = prior.mean if added is None else prior.mean + np.array(added)
        own = Prior(mean, prior.precision)
        if how.loss == "squared":
            at = places[rows]
            targets = values[rows] - items.biases[at]
            vectors[user] = least_squares_mode(items.rows[at], targets, how.noise / weight, own)
        else:
            at = np.sort(places[rows])
            vectors[user] = _of_positives(at, keys[user : user + 1], weight, own, items, how)
    return vectors


def _of_positives(at: Longs, key: Hashes, weight: float, prior: Prior, items: _Items, how: FoldIn) -> Doubles:
    """The vector of a user with positives at some places, ascending."""
    wanted = np.full(len(at), max(how.negatives, -(-NEGATIVES // max(len(at), 1))), np.int32)
    places = np.searchsorted(items.drawn, at)
    known = places[np.append(items.drawn, -1)[places] == at].astype(np.int32)
    bounds = np.array([0, len(at)], np.int64)
    drawn = draw_negatives(key, (np.array([0, len(known)], np.int64), known), bounds, wanted, items.proposal)
    negatives = items.drawn[drawn.items]
    per_positive = np.repeat(how.negatives / np.maximum(drawn.counts, 1), drawn.counts)
    if how.loss == "bpr":
        positives = np.repeat(at, drawn.counts)
        rows = items.rows[positives] - items.rows[negatives]
        offsets = items.biases[positives] - items.biases[negatives]
        return logistic_mode(rows, offsets, weight * per_positive, prior)
    rows = np.concatenate([items.rows[at], -items.rows[negatives]])
    offsets = np.concatenate([items.biases[at], -items.biases[negatives]])
    return logistic_mode(rows, offsets, weight * np.concatenate([np.ones(len(at)), per_positive]), prior)
