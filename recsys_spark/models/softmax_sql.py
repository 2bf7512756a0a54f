"""The softmax model as a function of SQL: the best items for an array of item ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.kernels.arrays import Floats
from recsys_spark.kernels.topn import ItemBlock, top_n
from recsys_spark.recommend.top_n import DEFAULT_BLOCK_SIZES
from recsys_spark.schema import ITEM, SCORE
from recsys_spark.training.histories import distinct_pairs
from recsys_spark.training.side_features import Features
from recsys_spark.training.softmax.config import SoftmaxConfig
from recsys_spark.training.softmax.program import user_vectors

PROBABILITY = "probability"


def best_of_histories(
    histories: pd.Series,
    wanted: pd.Series,
    ids: pa.Array,
    tables: dict[str, Floats],
    blocks: list[ItemBlock],
    config: SoftmaxConfig,
) -> pd.Series:
    """Best items for each array of item ids, as lists of item, score and probability; None without a known
    item.

    Parameters
    ----------
    histories, wanted : arrays of ids, and lengths of the lists
    ids, tables : of :func:`recsys_spark.training.softmax.job.collect_tables`, without features
    blocks : v in the order of ``ids``
    config : the network
    """
    column = pa.array(histories, from_pandas=True)
    if not pa.types.is_list(column.type):  # all null or empty
        column = pa.array(histories, pa.list_(ids.type), from_pandas=True)
    numbers = wanted.fillna(0).astype(int).to_numpy()
    lengths = np.where(numbers > 0, pc.fill_null(pc.list_value_length(column), 0).to_numpy(), 0)
    asked = column.filter(pa.array(numbers > 0))
    values, known = _comparable(asked.flatten(), ids)
    index = pc.fill_null(pc.index_in(values, value_set=known), -1).to_numpy()
    rows, indptr, items = distinct_pairs(np.repeat(np.arange(len(lengths)), lengths), index, len(ids))
    result: list[list[dict[str, Any]] | None] = [None] * len(lengths)
    if len(rows):
        psi = user_vectors(indptr, items, Features.none(len(rows)), tables, config)
        lengths_wanted = numbers[rows]
        log_sums = np.zeros(len(psi))
        longest = max(1, int(lengths_wanted.max()))
        best, scores = top_n(psi, blocks, (indptr, items), longest, DEFAULT_BLOCK_SIZES.user_block, log_sums)
        chances = np.exp(scores - log_sums[:, None])
        for row, n, positions, score, chance in zip(rows, lengths_wanted, best, scores, chances, strict=True):
            eligible = positions[:n] >= 0
            names = ids.take(pa.array(positions[:n][eligible])).to_pylist()
            entries = zip(names, score[:n][eligible].tolist(), chance[:n][eligible].tolist(), strict=True)
            result[row] = [dict(zip((ITEM, SCORE, PROBABILITY), entry, strict=True)) for entry in entries]
    return pd.Series(result)


def _comparable(values: pa.Array, ids: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Ids of any type beside those of the catalogue, as one type that both fit into."""
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        numbers = values.cast(pa.float64())
        whole = pc.equal(numbers, pc.floor(numbers))
        values = pc.if_else(whole, numbers, None).cast(pa.int64())
    if pa.types.is_null(values.type) or values.type == ids.type:
        return values.cast(ids.type), ids
    both_numbers = pa.types.is_integer(values.type) and pa.types.is_integer(ids.type)
    kind = pa.int64() if both_numbers else pa.string()
    return values.cast(kind), ids.cast(kind)
