"""One rating per (user, item): of several valid rows the latest wins, and every input row is counted.

    rows ─mapInArrow─▶ pieces by pair ─one shuffle─▶ a task's rows, sorted: a payload of winners, and counts

Spark's own aggregation would build a hash table of pairs that are hardly ever the same, twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.packing import (
    PACKED,
    bucket_of,
    by_bucket,
    encoded_ids,
    in_chunks,
    one_array,
    packed_batch,
    power_of_two,
    unpacked,
)
from recsys_spark.schema import ITEM, RATING, REASON, TIMESTAMP, USER

PACK_ROWS = 1_000_000
TASK_BYTES, MAX_TASKS = 2**26, 2**10
"""What a task sorts, by Spark's estimate of the cleaned rows, and into how many tasks at most. The estimate
follows the size of the input, and is some 30 to 100 bytes a row.
"""
UNKNOWN_BYTES = 2**50
"""Spark's estimate where it has none is as large."""
FILE_ROWS = 2**21
"""Rows of a partition of the result, about: what Delta writes as a file."""
BATCH_ROWS = 2**16

_ROWS, _COUNTS = "rows", "counts"
_EARLIEST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class LatestRatings:
    """What :func:`latest_per_pair` finds.

    Attributes
    ----------
    rows : DataFrame
        ``user``, ``item``, ``rating``, ``timestamp``: one row per pair of the valid rows
    pairs : int
        How many there are.
    counts : mapping of str or None to int
        Reason → input rows; None for the valid ones. Reasons that no row has are not in it.
    persisted : DataFrame
        The persisted frame behind ``rows``.
    """

    rows: DataFrame
    pairs: int
    counts: Mapping[str | None, int]
    persisted: DataFrame


def latest_per_pair(rows: DataFrame) -> LatestRatings:
    """One row per (user, item) of the valid rows, and how many rows there are of each reason.

    Of several valid rows of a pair the latest timestamp wins, and of equal timestamps the larger rating; a
    row without a timestamp is older than any with one.

    Parameters
    ----------
    rows : DataFrame
        Result of :func:`~recsys_spark.data.cleaning.clean_ratings`.

    Returns
    -------
    LatestRatings
        Counted already: one pass over ``rows``, one shuffle of about 30 bytes for each valid row. A task
        holds its share of them, one or two million, three times; rows of one pair are always together.
    """
    estimated = int(rows._jdf.queryExecution().optimizedPlan().stats().sizeInBytes())
    slots = rows.sparkSession.sparkContext.defaultParallelism
    tasks = min(MAX_TASKS, power_of_two(estimated / TASK_BYTES if estimated < UNKNOWN_BYTES else slots))
    valid = F.col(REASON).isNull()
    ids = (F.when(valid, F.col(name)).alias(name) for name in (USER, ITEM))
    cells = rows.select(*ids, RATING, F.unix_micros(TIMESTAMP).alias(TIMESTAMP), REASON)
    pieces = cells.select(bucket_of((F.col(USER), F.col(ITEM)), tasks), "*").mapInArrow(_pieces, PACKED)
    packed = pieces.repartitionById(tasks, F.col("bucket")).mapInArrow(_winners, PACKED)
    packed = packed.persist(StorageLevel.MEMORY_AND_DISK)
    counted = packed.where(F.col("kind") == _COUNTS).mapInArrow(
        _unpacked_counts, f"{REASON} string, rows bigint, pairs bigint"
    )
    sums = counted.groupBy(REASON).agg(F.sum("rows").alias("rows"), F.sum("pairs").alias("pairs")).collect()
    pairs = sum(row["pairs"] for row in sums)
    kinds = {name: rows.schema[name].dataType for name in (USER, ITEM)}
    kinds |= {RATING: T.DoubleType(), TIMESTAMP: T.TimestampType()}
    schema = T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])
    winners = packed.where(F.col("kind") == _ROWS).mapInArrow(_unpacked_rows, schema)
    winners = winners.coalesce(max(slots, -(-pairs // FILE_ROWS)))
    return LatestRatings(winners, pairs, {row[REASON]: row["rows"] for row in sums}, packed)


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Valid rows by bucket, and the number of rows of each reason."""
    for table in in_chunks(batches, PACK_ROWS):
        reasons = table[REASON].value_counts()
        no_pairs = np.zeros(len(reasons), np.int64)
        counted = pa.table([*reasons.flatten(), no_pairs], names=[REASON, "rows", "pairs"])
        valid = table.filter(pc.is_null(table[REASON])).drop_columns(REASON)
        yield packed_batch([*by_bucket(valid, _ROWS), (0, _COUNTS, counted)])


def _winners(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of a task's rows one for each pair, by user and item, and the number of pairs beside the counts."""
    tables = unpacked(batches)
    for counted in tables.get(_COUNTS, []):
        yield packed_batch([(0, _COUNTS, counted)])
    pieces = tables.get(_ROWS)
    if pieces is None:
        return
    rows = pa.concat_tables(pieces)
    (_, user_codes), (items, item_codes) = encoded_ids(rows[USER]), encoded_ids(rows[ITEM])
    keys = user_codes * len(items) + item_codes
    order = np.argsort(keys)
    last = _last_of_run(keys[order])
    several = ~last | ~np.append(True, last[:-1])[: len(last)]  # a pair's only row needs no order
    if several.any():
        some = order[several]
        times = pc.fill_null(rows[TIMESTAMP], _EARLIEST).to_numpy()
        order[several] = some[np.lexsort((rows[RATING].to_numpy()[some], times[some], keys[some]))]
    winners = rows.take(pa.array(order[last])).combine_chunks()
    pairs = pa.table({REASON: pa.nulls(1, pa.string()), "rows": [0], "pairs": [len(winners)]})
    yield packed_batch([(0, _ROWS, winners), (0, _COUNTS, pairs)])


def _last_of_run(ordered: np.ndarray) -> np.ndarray:
    """Which numbers are the last of those equal to them."""
    return np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]


def _unpacked_counts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for table in unpacked(batches).get(_COUNTS, []):
        yield from table.to_batches()


def _unpacked_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for table in unpacked([batch]).get(_ROWS, []):
            times = one_array(table[TIMESTAMP]).cast(pa.timestamp("us", "UTC"))
            place = table.schema.get_field_index(TIMESTAMP)
            yield from table.set_column(place, TIMESTAMP, times).to_batches(max_chunksize=BATCH_ROWS)
