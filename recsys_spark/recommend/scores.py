"""What the scores of a model are made of: vectors and biases, and weights of item pairs, on the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats
from recsys_spark.kernels.item_item import Bags, PairWeights
from recsys_spark.packing import encoded_ids, one_array
from recsys_spark.schema import ITEM, NEIGHBOR


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
    table = items.select("id", "features", bias_of(items)).toArrow().combine_chunks().sort_by("id")
    return one_array(table["id"]), matrix_of(table["features"]), table["bias"].to_numpy()


class LinearScores(NamedTuple):
    """What a model's scores are made of: dot products, sums over the user's history, biases.

    Attributes
    ----------
    users, items, weights : as :func:`~recsys_spark.recommend.top_n.recommend_lists` takes them
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


def bias_of(side: DataFrame) -> Column:
    """``bias`` as float, 0 where there is none.

    Parameters
    ----------
    side : DataFrame
        Users or items.
    """
    return (F.col("bias") if "bias" in side.columns else F.lit(0.0)).cast("float").alias("bias")
