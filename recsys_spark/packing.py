"""Rows on their way to the tasks that need them: as few, large binary rows.

Spark's shuffle moves, and its Arrow bridge converts, row by row; twenty million rows that go to their tasks as some thousand
payloads are never sorted, grouped or turned into lists by Spark.

    rows (bucket, …) ─mapInArrow(packing)─▶ bucket, kind, payload ─repartitionById─▶ mapInArrow: unpacked(batches)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

PACKED = "bucket int, kind string, payload binary"
"""Columns of packed rows."""


def bucket_of(ids: Column, buckets: int) -> Column:
    """Column ``bucket``, int from 0: which of ``buckets`` an id belongs to."""
    return F.pmod(F.xxhash64(ids), F.lit(buckets)).cast("int").alias("bucket")


def packing(kind: str, pack_rows: int, change: Callable[[pa.Table], pa.Table] | None = None) -> Any:
    """For ``mapInArrow``: rows into one payload for each bucket and ``pack_rows`` rows.

    Parameters
    ----------
    kind : what stands beside each payload, to tell them apart
    pack_rows : rows that a task holds before it hands them on
    change : applied to the rows of a payload's size first; they keep ``bucket``
    """

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in in_chunks(batches, pack_rows):
            yield _payloads(change(table) if change is not None else table, kind)

    return pack


def unpacked(batches: Iterator[pa.RecordBatch]) -> dict[str, list[pa.Table]]:
    """Tables of a task's payloads, by kind; a kind that did not come is not in it."""
    tables: dict[str, list[pa.Table]] = {}
    for batch in batches:
        for kind, payload in zip(batch["kind"].to_pylist(), batch["payload"], strict=True):
            tables.setdefault(kind, []).append(pa.ipc.open_stream(payload.as_buffer()).read_all())
    return tables


def in_chunks(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The batches as tables of at least ``rows`` rows, the last one smaller; nothing where there are none."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.Table.from_batches(held)
            held, count = [], 0
    if count:
        yield pa.Table.from_batches(held)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A table's column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def lists_of(matrix: npt.NDArray[np.float32]) -> pa.Array:
    """A matrix of fewer than 2^31 numbers as a column of lists, one for each row."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(matrix).ravel()))


def table_bytes(table: pa.Table) -> bytes:
    """An Arrow table as a stream of bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _payloads(rows: pa.Table, kind: str) -> pa.RecordBatch:
    buckets = rows["bucket"].to_numpy()
    order = np.argsort(buckets.astype(np.uint16) if buckets.max(initial=0) < 2**16 else buckets, kind="stable")
    ordered = rows.drop_columns("bucket").take(pa.array(order)).combine_chunks()
    found, starts = np.unique(buckets[order], return_index=True)
    ends = np.append(starts[1:], len(buckets))[: len(starts)]  # none, where no row is left
    payloads = [table_bytes(ordered.slice(start, end - start)) for start, end in zip(starts, ends, strict=True)]
    columns = [pa.array(found, pa.int32()), pa.array([kind] * len(found), pa.string()), pa.array(payloads, pa.binary())]
    return pa.RecordBatch.from_arrays(columns, names=["bucket", "kind", "payload"])
