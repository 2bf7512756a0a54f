"""What holds of every list before it is written, checked by queries that know nothing of how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import PublishError
from recsys_spark.histories import HISTORY, TASK_ROWS, PackedHistories, among, chosen
from recsys_spark.kernels.sets import distinct
from recsys_spark.packing import PACKED, bucket_of, one_array, packing, power_of_two, unpacked
from recsys_spark.schema import ITEM, NEIGHBOR, RANK, USER

PACK_ROWS = 1_000_000
_LISTS, _EXCLUDED = "lists", "excluded"
_FAULTS = ("gaps", "repeated", "excluded")
_COUNTED = ["lists", "rows", *_FAULTS]


def check_lists(rows: DataFrame, seen: PackedHistories | DataFrame | None) -> dict[str, int]:
    """Number of rows and of lists among a date's recommendations. One shuffle of few, large rows.

    Parameters
    ----------
    rows : DataFrame
        ``user``, ``item``, ``rank``: one date's recommendations.
    seen : PackedHistories or DataFrame or None
        ``user``, ``item``: what the lists leave out.

    Raises
    ------
    PublishError
        A list has a gap in its ranks, an item twice or one that the user has seen; or there is no list at
        all.
    """
    counts = _counts(rows, seen, "users' lists", "an item already seen")
    if not counts["lists"]:
        raise PublishError("there are no lists to publish: no user has an eligible item")
    return counts


def check_neighbors(rows: DataFrame) -> dict[str, int]:
    """Number of rows and of lists among a date's similar items; there may be none.

    Parameters
    ----------
    rows : DataFrame
        ``item``, ``neighbor``, ``rank``.

    Raises
    ------
    PublishError
        A list has a gap in its ranks, or an item twice, or the item whose neighbours they are.
    """
    itself = rows.select(F.col(ITEM).alias(USER), ITEM).distinct()
    return _counts(as_lists(rows), itself, "items' lists of neighbours", "the item itself")


def as_lists(neighbors: DataFrame) -> DataFrame:
    """Neighbours as lists for items, to be checked and compared as users' lists are.

    Parameters
    ----------
    neighbors : DataFrame
        One row per (item, rank): ``item``, ``neighbor``, ``rank``.

    Returns
    -------
    DataFrame
        ``user``: whose neighbours they are; ``item``: which; ``rank``.
    """
    return neighbors.select(F.col(ITEM).alias(USER), F.col(NEIGHBOR).alias(ITEM), RANK)


def _counts(
    rows: DataFrame, excluded: PackedHistories | DataFrame | None, whose: str, what: str
) -> dict[str, int]:
    """Rows and lists; raises where a list has a fault."""
    kinds = [rows.schema[name].dataType for name in (USER, ITEM)]
    frames, parts, pairs = list[DataFrame](), None, 0
    if isinstance(excluded, PackedHistories):
        excluded.require_id_types(*kinds)
        parts, pairs = excluded.parts, excluded.size
    elif excluded is not None:
        pairs = excluded.count()
    buckets = power_of_two((rows.count() + pairs) / TASK_ROWS)
    if isinstance(excluded, PackedHistories):
        buckets = min(buckets, excluded.buckets)
        frames = [excluded.in_buckets(buckets)]
    elif excluded is not None:
        ids = [F.col(name).cast(kind).alias(name) for name, kind in zip((USER, ITEM), kinds, strict=True)]
        frames = [_packed(excluded.select(*ids), _EXCLUDED, buckets)]
    packed = reduce(DataFrame.unionAll, frames, _packed(rows.select(USER, ITEM, RANK), _LISTS, buckets))

    def check(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = unpacked(batches)
        if _LISTS in tables:
            histories = [chosen(table, parts) for table in tables.get(HISTORY, [])]
            yield _faults(pa.concat_tables(tables[_LISTS]), histories + tables.get(_EXCLUDED, []))

    schema = ", ".join(f"{name} bigint" for name in _COUNTED)
    found = packed.repartitionById(buckets, F.col("bucket")).mapInArrow(check, schema).collect()
    totals = {name: sum(row[name] for row in found) for name in _COUNTED}
    problems = ("have gaps in their ranks", "hold an item twice", f"hold {what}")
    for problem, column in zip(problems, _FAULTS, strict=True):
        if totals[column]:
            raise PublishError(
                f"{totals[column]:,} of {totals['lists']:,} {whose} {problem}; nothing was written"
            )
    return {"rows": totals["rows"], "lists": totals["lists"]}


def _packed(rows: DataFrame, kind: str, buckets: int) -> DataFrame:
    """Rows by user, as few binary ones."""
    return rows.select(bucket_of(F.col(USER), buckets), "*").mapInArrow(packing(kind, PACK_ROWS), PACKED)


def _faults(lists: pa.Table, excluded: list[pa.Table]) -> pa.RecordBatch:
    """One row: how many lists and rows there are, and how many lists have each fault."""
    users, items = (_encoded(lists[name]) for name in (USER, ITEM))
    user, item = (ids.indices.to_numpy().astype(np.int64) for ids in (users, items))
    rank = lists[RANK].to_numpy()
    order = np.lexsort((rank, user))
    lengths = np.bincount(user)
    in_order = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    pairs, times = np.unique(user * len(items.dictionary) + item, return_counts=True)
    seen = np.zeros(len(user), bool)
    for table in excluded:
        coded = pa.table([_encoded(table[name]) for name in (USER, ITEM)], names=[USER, ITEM])
        seen |= among(coded, users, items)
    of_faults = (user[order][rank[order] != in_order], pairs[times > 1] // len(items.dictionary), user[seen])
    counts = [len(lengths), len(user), *(len(distinct(of_users)) for of_users in of_faults)]
    return pa.RecordBatch.from_arrays([pa.array([count]) for count in counts], names=_COUNTED)


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    ids = one_array(column)
    return ids if isinstance(ids, pa.DictionaryArray) else ids.dictionary_encode(null_encoding="encode")
