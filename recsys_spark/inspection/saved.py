"""Saved models of factors or of item pairs, read as the files that they are: no Spark is needed to look at a
few items.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats, Ints
from recsys_spark.kernels.item_item import PairWeights
from recsys_spark.models.factor_model import exponent_of
from recsys_spark.models.pair_model import NeighborModel
from recsys_spark.models.persistence import restored
from recsys_spark.models.softmax import SoftmaxModel
from recsys_spark.packing import one_array
from recsys_spark.recommend.scores import CollectedWeights, matrix_of
from recsys_spark.schema import ITEM
from recsys_spark.training.gradient.job import layers_of
from recsys_spark.training.gradient.program import NAME, VALUES
from recsys_spark.training.item_item import WEIGHT
from recsys_spark.training.side_features import USER_FEATURES
from recsys_spark.training.softmax.batch import INPUTS

Read = Callable[[str], pa.Table]
"""From the path of a folder of Parquet files, their rows."""


@dataclass(frozen=True)
class SavedModel:
    """A saved model of factors, read without Spark.

    Parameters
    ----------
    model : FactorModel
        Its Params and fitted values; without frames.
    ids : pyarrow.Array
        Of the items, ascending.
    vectors : float32 array, shape (n_items, rank)
        Theirs.
    biases : float32 array, shape (n_items,)
        Theirs; 0 where the model has none.
    tables : dict of str to float32 array
        What makes a user's vector, of a softmax model; else nothing.
    """

    model: Any
    ids: pa.Array
    vectors: Floats
    biases: Floats
    tables: dict[str, Floats]
    measure: ClassVar[str] = "cosine"
    """How items are compared where nothing else is asked for."""

    def positions(self, items: Sequence[object]) -> Ints:
        """Rows of ``vectors``; -1 for items that the model does not know.

        Parameters
        ----------
        items : sequence
            Ids of the model's type.
        """
        at = pc.index_in(pa.array(items, self.ids.type), value_set=self.ids)
        return pc.fill_null(at, -1).to_numpy().astype(np.int32)


@dataclass(frozen=True)
class SavedPairs:
    """A saved model of item pairs, read without Spark.

    Parameters
    ----------
    model : NeighborModel
        Its Params; without frames.
    items, neighbors : pyarrow.Array
        Ids of the items that are scored, and of those of histories; ascending.
    pairs : PairWeights
        Of each item that is scored, by place among them.
    vectors : SavedModel
        Of the items, by which a score has a dot product beside the weights; of length 0 where it has none.
    divisors : float32 array, shape (n_items,)
        What divides an item's vector in a history.
    """

    model: Any
    items: pa.Array
    neighbors: pa.Array
    pairs: PairWeights
    vectors: SavedModel
    divisors: Floats
    measure: ClassVar[str] = WEIGHT

    def weights_of(self, item: object) -> dict[object, float]:
        """What each neighbour adds to an item's score; nothing for an item without any.

        Parameters
        ----------
        item : int or str
            The item's id.
        """
        at = pc.index_in(pa.scalar(item, self.items.type), value_set=self.items).as_py()
        if at is None:
            return {}
        row = slice(self.pairs.indptr[at], self.pairs.indptr[at + 1])
        neighbors = self.neighbors.take(pa.array(self.pairs.targets[row])).to_pylist()
        return dict(zip(neighbors, self.pairs.weights[row].tolist(), strict=True))


def open_model(kind: type[Any], metadata: str, path: str, read: Read) -> SavedModel | SavedPairs:
    """A saved model of factors, or of item pairs.

    Parameters
    ----------
    kind : type
        Class of the model: a ``FactorModel`` or ``NeighborModel``.
    metadata : str
        The line of its folder ``metadata``.
    path : str
        Its folder.
    read : callable
        Reads a folder of Parquet files.
    """
    model: Any = restored(kind, json.loads(metadata), dict.fromkeys(kind.frame_names()))
    if isinstance(model, NeighborModel):
        weights = CollectedWeights.of_table(read(f"{path}/weights"))
        items = read(f"{path}/items").sort_by("id")
        vectors, divisors = np.zeros((items.num_rows, 0), np.float32), np.ones(items.num_rows, np.float32)
        if "features" in items.column_names:
            vectors, divisors = matrix_of(items["features"]), items["divisor"].to_numpy()
        beside = SavedModel(model, one_array(items["id"]), vectors, np.zeros(len(vectors), np.float32), {})
        of_pairs = weights.items, weights.neighbors, weights.by_item()
        return SavedPairs(model, *of_pairs, beside, divisors)
    items = read(f"{path}/itemFactors").sort_by("id")
    vectors = matrix_of(items["features"])
    biases = np.zeros(len(vectors), np.float32)
    if "bias" in items.column_names:
        biases = items["bias"].to_numpy().astype(np.float32)
    tables = _tables(read(f"{path}/tables"), model) if isinstance(model, SoftmaxModel) else {}
    return SavedModel(model, one_array(items["id"]), vectors, biases, tables)


def nearest(
    saved: SavedModel | SavedPairs, item: object, n: int, measure: str = "cosine", temper: float = 0.5
) -> list[tuple[object, float]]:
    """The ``n`` most similar items of an item, as ``similarItems`` of the model has them.

    Parameters
    ----------
    saved : SavedModel or SavedPairs
        Whose vectors are compared, or whose weights are listed.
    item : int or str
        The item's id.
    n : int
        How many.
    measure : str
        Of vectors ``dot``, ``cosine`` or ``tempered``; of weights ``weight``.
    temper : float
        For ``tempered``: 0 is ``dot``, 1 is ``cosine``.

    Returns
    -------
    list of tuple
        Item and similarity, the most similar first; nothing for an item that the model does not know.

    Raises
    ------
    ValueError
        Another measure.
    ModelError
        A measure of vectors, and the model has none.
    """
    if isinstance(saved, SavedPairs):
        if measure != WEIGHT:
            raise ModelError(f"measure {measure!r} compares vectors, and the model has weights of pairs")
        found = sorted(saved.weights_of(item).items(), key=lambda pair: (-pair[1], pair[0]))
        return [(other, weight) for other, weight in found[:n] if weight > 0]
    (at,) = saved.positions([item])
    exponent = exponent_of(measure, temper)
    if at < 0:
        return []
    vectors = saved.vectors.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-15) ** exponent
    similarity = (vectors @ vectors[at]) / (lengths * lengths[at])
    similarity[at] = -np.inf
    order = np.argsort(-similarity, kind="stable")[: min(n, len(similarity) - 1)]
    return [(saved.ids[int(place)].as_py(), float(similarity[place])) for place in order]


def _tables(rows: pa.Table, model: SoftmaxModel) -> dict[str, Floats]:
    """The tables that make a user's vector; features of users are left out of it."""
    names = one_array(rows[NAME])
    inputs = rows.filter(pc.equal(names, INPUTS)).sort_by(ITEM)
    layers = rows.filter(pc.or_(pc.starts_with(names, "weights "), pc.starts_with(names, "biases ")))
    values = {
        row[NAME]: np.array(row[VALUES], np.float32) for row in layers.select([NAME, VALUES]).to_pylist()
    }
    width = model.to_config().embedding_dim
    no_features = np.zeros((0, width), np.float32)
    return {INPUTS: matrix_of(inputs[VALUES]), USER_FEATURES: no_features, **layers_of(values)}
