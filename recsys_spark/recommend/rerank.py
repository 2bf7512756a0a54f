"""Lists chosen from longer ones: less of a kind, what a user's history is made of, no more of one kind than
is allowed, and no less than is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from scipy import sparse

from recsys_spark.columns import quoted
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.arrays import Doubles, Floats, Mapped
from recsys_spark.kernels.reranking import ItemValues, Wishes, rerank
from recsys_spark.packing import lists_of, one_array, plain
from recsys_spark.recommend.candidate_features import profiles
from recsys_spark.recommend.top_n import RECOMMENDATIONS
from recsys_spark.schema import ITEM, SCORE, USER

GIVEN = "given"
_NO_CAP = np.iinfo(np.int32).max
_TASTE = "taste"


@dataclass(frozen=True)
class Reranking:
    """What is wanted of lists; :mod:`recsys_spark.kernels.reranking` says what each does.

    Parameters
    ----------
    diversity, calibration : float
        Weights of likeness to the list, and of divergence from the user's history; from 0 for none, together
        below 1.
    by : str
        Column whose values make items alike, and histories; read where one of these is above 0. Vectors,
        arrays of float or double, make items alike by their cosine, and no histories.
    caps : mapping of str to int
        Column → how many items of a list may share a value of it.
    boosts : mapping of str to float
        SQL condition over the items' columns → what is added to the relevance, from 0 to 1, of those for
        which it is true.
    floors : mapping of str to int
        SQL condition → how many items of a list it should be true for, at least.
    """

    diversity: float = 0.0
    by: str = "genres"
    caps: Mapping[str, int] = field(default_factory=dict)
    calibration: float = 0.0
    boosts: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)


def reranked(
    lists: DataFrame, items: DataFrame, n: int, how: Reranking, histories: PackedHistories | None = None
) -> DataFrame:
    """The ``n`` items of each list that :mod:`recsys_spark.kernels.reranking` chooses, in its order.

    Parameters
    ----------
    lists : DataFrame
        ``id``, ``recommendations``, as the top-N engine returns them: longer than ``n``, to choose from.
        With ``given``, int, so many of the first are no candidates: the list has them already.
    items : DataFrame
        ``item``, unique, of the lists' type, and the columns that are named: arrays or single values.
    n : int
        Length of the lists.
    how : Reranking
        What is wanted.
    histories : PackedHistories, optional
        What users have had, which lists are calibrated to.

    Returns
    -------
    DataFrame
        The same columns; scores are what they were, and no longer descend. Of lists with items that are
        ``given`` only what follows these. The items' values are collected and broadcast; no shuffle, but for
        calibration a join by user.

    Raises
    ------
    ModelError
        There is calibration, and no ``histories``, or it is by vectors; or a cap is.
    """
    ids, values, wishes = _collected(items, how)
    asked, calibration = lists, how.calibration
    if calibration:
        if histories is None:
            raise ModelError("lists are calibrated to histories: give them, or no calibration")
        asked = lists.join(_tastes(histories, ids, values), "id", "left")
    shared = lists.sparkSession.sparkContext.broadcast((ids, Mapped(values), Mapped(wishes)))
    diversity, columns = how.diversity, lists.columns

    def choose(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        known, held, wanted = shared.value
        for batch in map(plain, batches):
            entries = batch[RECOMMENDATIONS]
            starts = np.concatenate([[0], np.cumsum(np.asarray(entries.value_lengths(), np.int64))])
            flat = entries.flatten()
            places = pc.fill_null(pc.index_in(pc.struct_field(flat, ITEM), value_set=known), -1)
            scores = pc.struct_field(flat, SCORE).to_numpy()
            tastes = _matrix(batch[_TASTE], held.value) if calibration else None
            given = batch[GIVEN].to_numpy().astype(np.int64) if GIVEN in columns else None
            chosen = rerank(
                scores,
                places.to_numpy(),
                starts,
                held.value,
                n,
                diversity,
                wanted.value,
                calibration,
                tastes,
                given,
            )
            kept = chosen >= 0
            if given is not None:
                kept &= np.arange(n) >= given[:, None]
            ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
            rows = pa.ListArray.from_arrays(pa.array(ends), flat.take(pa.array(chosen[kept])))
            others = [rows if name == RECOMMENDATIONS else batch[name] for name in columns]
            yield pa.RecordBatch.from_arrays(others, names=columns)

    return asked.mapInArrow(choose, lists.schema)


def _collected(items: DataFrame, how: Reranking) -> tuple[pa.Array, ItemValues, Wishes]:
    """Ids in ascending order, their values of all columns, each column's apart and first those of ``by``, and
    what is wanted of them.
    """
    by = how.by if how.diversity or how.calibration else None
    require_values(items, how)
    vectors = by if by and is_vectors(items, by) else None
    columns = [*([by] if by and not vectors else []), *sorted(set(how.caps) - {by})]
    arrays = [
        (
            F.col(quoted(name))
            if isinstance(items.schema[name].dataType, T.ArrayType)
            else F.array(quoted(name))
        )
        .cast("array<string>")
        .alias(f"values {place}")
        for place, name in enumerate(columns)
    ]
    conditions = [*how.boosts, *how.floors]
    true = [
        F.coalesce(F.expr(condition), F.lit(False)).alias(f"condition {place}")
        for place, condition in enumerate(conditions)
    ]
    vector = [F.col(quoted(vectors)).cast("array<float>").alias("vector")] if vectors else []
    table = items.select(ITEM, *arrays, *true, *vector).toArrow().combine_chunks().sort_by(ITEM)
    rows, codes, alike, limits = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], list[bool](), list[int]()
    for place, name in enumerate(columns):
        lists = one_array(table[f"values {place}"])
        row = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
        encoded = pc.dictionary_encode(lists.flatten())
        given = np.asarray(pc.fill_null(encoded.indices, -1), np.int64)
        rows.append(row[given >= 0])
        codes.append(given[given >= 0] + len(alike))
        alike += [name == by] * len(encoded.dictionary)
        limits += [how.caps.get(name, _NO_CAP)] * len(encoded.dictionary)
    pairs = np.unique(np.column_stack([np.concatenate(rows), np.concatenate(codes)]), axis=0)  # each once
    indptr = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=table.num_rows))])
    values = pairs[:, 1].astype(np.int32)
    found = ItemValues(
        indptr.astype(np.int64),
        values,
        np.array(alike, bool),
        np.array(limits, np.int32),
        _unit_vectors(one_array(table["vector"])) if vectors else None,
    )
    holds = [np.asarray(table[f"condition {place}"]) for place in range(len(conditions))]
    boosts = np.zeros(table.num_rows)
    for own, boost in zip(holds, how.boosts.values(), strict=False):
        boosts += boost * own
    members = np.array(holds[len(how.boosts) :], bool).reshape(len(how.floors), table.num_rows)
    wishes = Wishes(boosts, members, np.array(list(how.floors.values()), np.int32))
    return one_array(table[ITEM]), found, wishes


def is_vectors(items: DataFrame, column: str) -> bool:
    """Whether a column holds arrays of float or double.

    Parameters
    ----------
    items : DataFrame
        Has the column.
    column : str
        Its name.
    """
    kind = items.schema[column].dataType
    return isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.FloatType | T.DoubleType)


def require_values(items: DataFrame, how: Reranking) -> None:
    """Check that what needs values that items share is not asked of vectors.

    Parameters
    ----------
    items : DataFrame
        Has the columns that are named.
    how : Reranking
        What is wanted.

    Raises
    ------
    ModelError
        A cap, or calibration, is by a column of vectors.
    """
    asked = dict.fromkeys(how.caps, "caps") | ({how.by: "calibration"} if how.calibration else {})
    for name, what in asked.items():
        if is_vectors(items, name):
            raise ModelError(
                f"{what} is by values that items share, and {name} holds vectors: name another column"
            )


def _unit_vectors(lists: pa.ListArray) -> Floats:
    """Vectors of length 1, shape (n_items, n); 0 for an item without one, or with one that is not finite.

    Raises
    ------
    ModelError
        They differ in size.
    """
    sizes = pc.unique(pc.list_value_length(lists).drop_null()).to_pylist()
    if len(sizes) > 1:
        raise ModelError(f"items' vectors must have one size, got {sorted(sizes)}")
    found: Floats = np.zeros((len(lists), sizes[0] if sizes else 0), np.float32)
    given = np.asarray(lists.is_valid())
    found[given] = np.asarray(pc.fill_null(lists.flatten(), np.nan)).reshape(int(given.sum()), -1)
    found[~np.isfinite(found).all(axis=1)] = 0
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    np.divide(found, lengths, out=found, where=lengths > 0)
    return found


def _tastes(histories: PackedHistories, ids: pa.Array, values: ItemValues) -> DataFrame:
    """``id`` and ``taste``, array<float>: the shares of the values that make items alike in users' items."""
    user, _ = histories.id_types
    shared = histories.sparkSession.sparkContext.broadcast((ids, Mapped(values)))

    def taste(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        known, held = shared.value
        shares = _shares(held.value)
        for table in tables:
            users, means = profiles(table, known, shares)
            means /= np.maximum(means.sum(axis=1, keepdims=True), np.float32(1e-12))
            yield pa.RecordBatch.from_arrays([users, lists_of(means)], names=["id", _TASTE])

    fields = [T.StructField("id", user), T.StructField(_TASTE, T.ArrayType(T.FloatType()))]
    return histories.map_tables([USER, ITEM], taste, T.StructType(fields))


def _shares(values: ItemValues) -> sparse.csr_matrix:
    """Of each item its values that make it alike, of weights that add up to 1."""
    rows = np.repeat(np.arange(len(values.indptr) - 1), np.diff(values.indptr))
    alike = values.alike[values.values]
    rows, columns = rows[alike], values.values[alike]
    sizes = np.bincount(rows, minlength=len(values.indptr) - 1)
    weights = (1 / sizes[rows]).astype(np.float32)
    return sparse.csr_matrix((weights, (rows, columns)), (len(sizes), int(values.alike.sum())))


def _matrix(tastes: pa.Array, values: ItemValues) -> Doubles:
    """Tastes of a batch's users, 0 for those without."""
    matrix = np.zeros((len(tastes), int(values.alike.sum())))
    known = np.asarray(tastes.is_valid())
    matrix[known] = np.asarray(tastes.drop_null().flatten(), np.float64).reshape(-1, matrix.shape[1])
    return matrix
