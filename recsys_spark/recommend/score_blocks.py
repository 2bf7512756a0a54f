"""Scores of factor models by parts, as features of a ranker: what a user's and an item's vectors add along
the strongest axes of taste, along the weaker ones, and by their biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Doubles, Floats
from recsys_spark.kernels.score_blocks import block_bounds, singular_axes
from recsys_spark.packing import lists_of
from recsys_spark.recommend.scores import LinearScores, bias_of, collect_factors, matrix_of

BLOCKS = "blocks"
"""Column of users' and items' vectors, array<float>: those of all members side by side."""


class ItemBlocks(NamedTuple):
    """Vectors of items, of which scores are told by blocks.

    Attributes
    ----------
    vectors : float32 array, shape (n_items, width): those of all members side by side, NaN where a member
        does not know the item
    bounds : name of a feature → its first place and the one after its last
    turns : member → float64 array, shape (rank, rank): what turns its users' vectors to its axes
    """

    vectors: Floats
    bounds: dict[str, tuple[int, int]]
    turns: dict[str, Doubles]


def item_blocks(members: Mapping[str, LinearScores], ids: pa.Array) -> ItemBlocks:
    """What tells the members' scores by blocks, of any pair of a user and an item that they know.

    Parameters
    ----------
    members : mapping of str to LinearScores
        At least one; by name.
    ids : Array
        Items that may be asked for, on the driver.

    Returns
    -------
    ItemBlocks
        On the driver, ``4 * n_items * width`` bytes. A job reads each member's items, and one its users.

    Raises
    ------
    ModelError
        A member has no vectors, or scores that are more than these.
    """
    turns, items, bounds = dict[str, Doubles](), list[Floats](), dict[str, tuple[int, int]]()
    for name, scores in members.items():
        if scores.weights is not None:
            raise ModelError(
                f"scoreBlocks must name members with vectors, and no weights of pairs, not {name}"
            )
        known, factors, biases = collect_factors(scores.items)
        rank, before = factors.shape[1], sum(one.shape[1] for one in items)
        gram = _gram(scores.users, rank)
        turns[name], of_items = singular_axes(gram, factors.astype(np.float64).T @ factors)
        # beside a bias the other side has a 1
        own = np.column_stack([factors @ of_items, np.ones_like(biases), biases]).astype(np.float32)
        row = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy(zero_copy_only=False)
        vectors = own[row]
        vectors[row < 0] = np.nan
        items.append(vectors)
        parts = {"score of any item": (0, rank + 2)}
        parts |= {f"score of {_axes(first, end)}": (first, end) for first, end in block_bounds(rank)}
        if "bias" in [*scores.users.columns, *scores.items.columns]:
            parts |= {"bias of the user": (rank, rank + 1), "bias of the item": (rank + 1, rank + 2)}
        bounds |= {f"{name}: {what}": (before + first, before + end) for what, (first, end) in parts.items()}
    return ItemBlocks(np.concatenate(items, axis=1), bounds, turns)


def user_blocks(members: Mapping[str, LinearScores], turns: Mapping[str, Doubles]) -> DataFrame:
    """Vectors of the members' users, by which scores are told by blocks.

    Parameters
    ----------
    members : mapping of str to LinearScores
        By name.
    turns : mapping of str to float64 array
        Of :func:`item_blocks`, of the same items.

    Returns
    -------
    DataFrame
        One row per user of any member: ``id``, :data:`BLOCKS`, NaN where a member does not know the user. A
        shuffle puts the members' users side by side.
    """
    columns = {name: f"{BLOCKS}{place}" for place, name in enumerate(members)}
    users = [_turned(members[name], turns[name], column) for name, column in columns.items()]
    joined = reduce(lambda one, other: one.join(other, "id", "full"), users)
    sides = [F.coalesce(column, nothing_known(len(turns[name]) + 2)) for name, column in columns.items()]
    return joined.select("id", F.concat(*sides).alias(BLOCKS))


def nothing_known(width: int) -> Column:
    """A vector of so many numbers that are missing.

    Parameters
    ----------
    width : int
        How many.
    """
    return F.array_repeat(F.lit(float("nan")).cast("float"), width)


def _turned(scores: LinearScores, turn: Doubles, column: str) -> DataFrame:
    """A member's users, turned to its axes."""
    users = scores.users.select("id", "features", bias_of(scores.users))

    def of_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                vectors = matrix_of(pa.chunked_array([batch["features"]])) @ turn
                bias = batch["bias"].to_numpy(zero_copy_only=False)
                own = np.column_stack([vectors, bias, np.ones_like(bias)]).astype(np.float32)
                yield pa.RecordBatch.from_arrays([batch["id"], lists_of(own)], names=["id", column])

    kind = T.StructField(column, T.ArrayType(T.FloatType()))
    return users.mapInArrow(of_batches, T.StructType([users.schema["id"], kind]))


def _axes(first: int, end: int) -> str:
    """How a block is named: axes count from 1."""
    return f"axis {end}" if end == first + 1 else f"axes {first + 1} to {end}"


def _gram(users: DataFrame, rank: int) -> Doubles:
    """The Gram matrix of the users' vectors. One job."""

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = np.zeros((rank, rank))
        for batch in batches:
            if batch.num_rows:
                own = matrix_of(pa.chunked_array([batch["features"]])).astype(np.float64)
                total += own.T @ own
        yield pa.RecordBatch.from_arrays([lists_of(total.reshape(1, -1))], names=["gram"])

    found = users.select("features").mapInArrow(add, "gram array<double>").toArrow()
    grams = np.asarray(found["gram"].combine_chunks().flatten(), np.float64).reshape(-1, rank, rank)
    return np.asarray(grams.sum(axis=0))
