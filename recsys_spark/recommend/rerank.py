"""Lists chosen from longer ones: less of a kind, and no more of one than is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import quoted
from recsys_spark.kernels.arrays import Mapped
from recsys_spark.kernels.reranking import ItemValues, rerank
from recsys_spark.packing import one_array, plain
from recsys_spark.recommend.top_n import RECOMMENDATIONS
from recsys_spark.schema import ITEM, SCORE

_NO_CAP = np.iinfo(np.int32).max


def reranked(
    lists: DataFrame, items: DataFrame, n: int, diversity: float, by: str, caps: Mapping[str, int]
) -> DataFrame:
    """The ``n`` items of each list that :mod:`recsys_spark.kernels.reranking` chooses, in its order.

    Parameters
    ----------
    lists : DataFrame
        ``id``, ``recommendations``, as the top-N engine returns them: longer than ``n``, to choose from.
    items : DataFrame
        ``item``, unique, of the lists' type, and the columns that are named: arrays or single values.
    n : int
        Length of the lists.
    diversity : float
        Weight of likeness, from 0 for none to below 1.
    by : str
        Column whose values make items alike; read where ``diversity`` is above 0.
    caps : mapping of str to int
        Column → how many items of a list may share a value of it.

    Returns
    -------
    DataFrame
        The same columns; scores are what they were, and no longer descend. The items' values are collected
        and broadcast; no shuffle.
    """
    ids, values = _collected(items, by if diversity else None, caps)
    shared = lists.sparkSession.sparkContext.broadcast((ids, Mapped(values)))

    def choose(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        known, held = shared.value
        for batch in map(plain, batches):
            entries = batch[RECOMMENDATIONS]
            starts = np.concatenate([[0], np.cumsum(np.asarray(entries.value_lengths(), np.int64))])
            flat = entries.flatten()
            places = pc.fill_null(pc.index_in(pc.struct_field(flat, ITEM), value_set=known), -1)
            scores = pc.struct_field(flat, SCORE).to_numpy()
            chosen = rerank(scores, places.to_numpy(), starts, held.value, n, diversity)
            kept = chosen >= 0
            ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
            rows = pa.ListArray.from_arrays(pa.array(ends), flat.take(pa.array(chosen[kept])))
            others = [rows if name == RECOMMENDATIONS else batch[name] for name in batch.schema.names]
            yield pa.RecordBatch.from_arrays(others, names=batch.schema.names)

    return lists.mapInArrow(choose, lists.schema)


def _collected(items: DataFrame, by: str | None, caps: Mapping[str, int]) -> tuple[pa.Array, ItemValues]:
    """Ids in ascending order, and their values of all columns, each column's apart."""
    columns = sorted({*caps, *([by] if by else [])})
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
    table = items.select(ITEM, *arrays).toArrow().combine_chunks().sort_by(ITEM)
    rows, codes, alike, limits = list[np.ndarray](), list[np.ndarray](), list[bool](), list[int]()
    for place, name in enumerate(columns):
        lists = one_array(table[f"values {place}"])
        row = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
        encoded = pc.dictionary_encode(lists.flatten())
        given = np.asarray(pc.fill_null(encoded.indices, -1), np.int64)
        rows.append(row[given >= 0])
        codes.append(given[given >= 0] + len(alike))
        alike += [name == by] * len(encoded.dictionary)
        limits += [caps.get(name, _NO_CAP)] * len(encoded.dictionary)
    pairs = np.unique(np.column_stack([np.concatenate(rows), np.concatenate(codes)]), axis=0)  # each once
    indptr = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=table.num_rows))])
    values = pairs[:, 1].astype(np.int32)
    found = ItemValues(indptr.astype(np.int64), values, np.array(alike, bool), np.array(limits, np.int32))
    return one_array(table[ITEM]), found
