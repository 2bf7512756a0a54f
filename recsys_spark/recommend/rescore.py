"""Lists in two stages, for scores that are no dot product: candidates from the top-N engine, then the
best by another score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Floats
from recsys_spark.packing import plain
from recsys_spark.recommend.scores import collect_factors
from recsys_spark.recommend.top_n import RECOMMENDATIONS
from recsys_spark.schema import ITEM, SCORE

PairScorer = Callable[[Floats, Floats], Floats]
"""From vectors of users and of items, (n, rank) each, their scores without biases, (n,)."""

PAIRS_AT_ONCE = 100_000
"""Candidates whose vectors a task holds at a time, about."""


def dot_products(x: Floats, y: Floats) -> Floats:
    """Dot product of each pair of rows, shape (n,).

    Parameters
    ----------
    x, y : float32 arrays, shape (n, rank)
        Vectors.
    """
    return np.asarray(np.einsum("ij,ij->i", x, y))


def rescore(lists: DataFrame, users: DataFrame, items: DataFrame, n: int, score: PairScorer) -> DataFrame:
    """The second stage: of each user's candidates the best ``n`` by ``score`` and both biases.

    Parameters
    ----------
    lists : DataFrame
        ``id``, ``recommendations``, as the top-N engine returns them.
    users, items : DataFrame
        ``id``, ``features``, ``bias``.
    n : int
        Length of the lists.
    score : callable
        Of pairs of vectors.

    Returns
    -------
    DataFrame
        In the shape of ``lists``; ties go to the smaller item. One join; the items' vectors are broadcast,
        and a task holds the vectors of about ``PAIRS_AT_ONCE`` pairs.
    """
    broadcast = lists.sparkSession.sparkContext.broadcast(collect_factors(items))
    joined = lists.join(
        users.select("id", F.col("features").alias("_vector"), F.col("bias").alias("_bias")), "id"
    )

    def best(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        catalogue, item_vectors, item_biases = broadcast.value
        for batch in (part for whole in map(plain, batches) for part in runs(whole, PAIRS_AT_ONCE)):
            entries = batch[RECOMMENDATIONS]
            lengths = pc.fill_null(pc.list_value_length(entries), 0).to_numpy()
            rows = np.repeat(np.arange(batch.num_rows), lengths)
            positions = pc.index_in(pc.struct_field(entries.flatten(), ITEM), value_set=catalogue).to_numpy()
            x = np.asarray(batch["_vector"].flatten(), np.float32).reshape(batch.num_rows, -1)
            scores = (
                score(x[rows], item_vectors[positions])
                + batch["_bias"].to_numpy()[rows]
                + item_biases[positions]
            )
            order = np.lexsort((positions, -scores, rows))
            starts = np.cumsum(lengths) - lengths
            chosen = order[np.arange(len(order)) - starts[rows] < n]
            offsets = pa.array(np.concatenate([[0], np.cumsum(np.minimum(lengths, n))]).astype(np.int32))
            columns = [
                catalogue.take(pa.array(positions[chosen])),
                pa.array(scores[chosen].astype(np.float32)),
            ]
            listed = pa.ListArray.from_arrays(
                offsets, pa.StructArray.from_arrays(columns, names=[ITEM, SCORE])
            )
            yield pa.RecordBatch.from_arrays([batch["id"], listed], names=["id", RECOMMENDATIONS])

    return joined.mapInArrow(best, lists.schema)


def runs(batch: pa.RecordBatch, most: int) -> Iterator[pa.RecordBatch]:
    """Runs of rows with about so many entries of lists, one row at least.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Has ``recommendations``.
    most : int
        Entries of a run.
    """
    candidates = np.cumsum(pc.fill_null(pc.list_value_length(batch[RECOMMENDATIONS]), 0).to_numpy())
    bounds = np.flatnonzero(np.diff(candidates // most, prepend=-1, append=np.iinfo(np.int64).max))
    for begin, end in pairwise(bounds.tolist()):
        yield batch.slice(begin, end - begin)
