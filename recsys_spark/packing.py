"""Rows on their way to the tasks that need them: as few, large binary rows.

Spark's shuffle moves, and its Arrow bridge converts, row by row; twenty million rows that travel as some
thousand payloads are never sorted, grouped or turned into lists by Spark.

    rows ─mapInArrow: packed_batch─▶ bucket, kind, payload ─repartitionById─▶ mapInArrow: unpacked
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from recsys_spark.kernels.sets import numbered

PACKED = "bucket int, kind string, payload binary"
"""Columns of packed rows: where a payload goes, what it holds, and an Arrow stream of its rows."""


def bucket_of(ids: Column | Sequence[Column], buckets: int) -> Column:
    """Column ``bucket``, int from 0: which of ``buckets`` an id belongs to, or several together."""
    hashed = F.xxhash64(*ids) if isinstance(ids, Sequence) else F.xxhash64(ids)
    return F.pmod(hashed, F.lit(buckets)).cast("int").alias("bucket")


def power_of_two(least: float) -> int:
    """The smallest power of two, from 1 on, that is not less: with two such numbers of buckets the buckets of
    the larger one lie within those of the smaller one.
    """
    return int(2 ** math.ceil(math.log2(max(1.0, least))))


def packing(kind: str, pack_rows: int, change: Callable[[pa.Table], pa.Table] | None = None) -> Any:
    """Function for ``mapInArrow``: rows into one payload for each bucket and ``pack_rows`` rows.

    Parameters
    ----------
    kind : str
        Stands beside each payload, to tell them apart.
    pack_rows : int
        Rows that a task holds before it hands them on.
    change : callable, optional
        Applied to the rows of a payload's size first; they keep ``bucket``.
    """

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in in_chunks(batches, pack_rows):
            yield packed_batch(by_bucket(change(table) if change is not None else table, kind))

    return pack


def by_bucket(rows: pa.Table, kind: str) -> Iterator[tuple[int, str, pa.Table]]:
    """Rows with a column ``bucket``, divided by it: bucket, kind and rows, as :func:`packed_batch` takes
    them.
    """
    buckets = rows["bucket"].to_numpy()
    order = np.argsort(
        buckets.astype(np.uint16) if buckets.max(initial=0) < 2**16 else buckets, kind="stable"
    )
    ordered = rows.drop_columns("bucket").take(pa.array(order)).combine_chunks()
    found, starts = np.unique(buckets[order], return_index=True)
    ends = np.append(starts[1:], len(buckets))[: len(starts)]  # none, where no row is left
    for bucket, start, end in zip(found.tolist(), starts, ends, strict=True):
        yield bucket, kind, ordered.slice(start, end - start)


def packed_batch(parts: Iterable[tuple[int, str, pa.Table]]) -> pa.RecordBatch:
    """One row of :data:`PACKED` for each part: its bucket, its kind and its rows."""
    listed = [(bucket, kind, table_bytes(rows)) for bucket, kind, rows in parts]
    types = (pa.int32(), pa.string(), pa.binary())
    columns = [pa.array([row[k] for row in listed], type_) for k, type_ in enumerate(types)]
    return pa.RecordBatch.from_arrays(columns, names=["bucket", "kind", "payload"])


def unpacked(batches: Iterable[pa.RecordBatch]) -> dict[str, list[pa.Table]]:
    """Tables of a task's payloads, by kind; a kind that did not come is not in it."""
    tables: dict[str, list[pa.Table]] = {}
    for batch in batches:
        for kind, payload in zip(batch["kind"].to_pylist(), batch["payload"], strict=True):
            tables.setdefault(kind, []).append(read_table(payload.as_buffer()))
    return tables


def in_chunks(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The batches as tables of at least ``rows`` rows, the last one smaller; nothing where there are none."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in map(plain, batches):
        held.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.Table.from_batches(held)
            held, count = [], 0
    if count:
        yield pa.Table.from_batches(held)


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with texts and bytes of Arrow's plain types, which a session may have as large ones
    (``spark.sql.execution.arrow.useLargeVarTypes``).
    """
    types = [_plain_type(kind) for kind in batch.schema.types]
    if types == batch.schema.types:
        return batch
    fields = [field.with_type(kind) for field, kind in zip(batch.schema, types, strict=True)]
    return batch.cast(pa.schema(fields))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    return kind


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A table's column as one array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def coded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column of ids with a dictionary of those that occur, and codes of 32 bits."""
    ids = one_array(column)
    if not isinstance(ids, pa.DictionaryArray):
        return ids.dictionary_encode()
    occurring, codes = numbered(ids.indices.to_numpy(), len(ids.dictionary))
    return pa.DictionaryArray.from_arrays(pa.array(codes), ids.dictionary.take(pa.array(occurring)))


def encoded_ids(column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Distinct ids in ascending order, and the place of each id among them."""
    encoded = one_array(column).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), place[encoded.indices.to_numpy()]


def lists_of(matrix: npt.NDArray[np.floating[Any]]) -> pa.Array:
    """A matrix of fewer than 2^31 numbers as a column of lists, one for each row."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(matrix).ravel()))


def table_bytes(table: pa.Table) -> bytes:
    """An Arrow table as bytes that :func:`read_table` reads."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def read_table(data: Any) -> pa.Table:
    """The table that :func:`table_bytes` wrote, from anything with a buffer."""
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


def tables_to_bytes(tables: Sequence[pa.Table]) -> npt.NDArray[np.uint8]:
    """Tables of one schema as an array of bytes that :func:`table_from_bytes` reads; empty where there
    are none.
    """
    return np.frombuffer(table_bytes(pa.concat_tables(tables)) if tables else b"", np.uint8)


def table_from_bytes(parts: Sequence[npt.NDArray[np.uint8]]) -> pa.Table | None:
    """One table of what :func:`tables_to_bytes` made in several tasks; None if none of them had any."""
    tables = [read_table(part) for part in parts if len(part)]
    return pa.concat_tables(tables) if tables else None


def ids_to_bytes(ids: pa.Array) -> npt.NDArray[np.uint8]:
    """An array of ids as bytes that :func:`ids_from_bytes` reads."""
    return tables_to_bytes([pa.table([ids], names=["ids"])])


def ids_from_bytes(data: npt.NDArray[np.uint8]) -> pa.Array:
    """The array that :func:`ids_to_bytes` wrote."""
    return one_array(read_table(data)["ids"])
