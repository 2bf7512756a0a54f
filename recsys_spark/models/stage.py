"""The Spark side of training on a group: ratings packed for the tasks, the barrier stage, and what comes out of it.

::

    ratings ─pack (mapInArrow)─▶ binary payloads by user's task ─shuffle─▶ barrier stage: a program ─shuffle─▶ rows

The second shuffle is there because Spark runs a lost barrier stage again only when it is not the last of its job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from recsys_spark.collectives import Array, Group, Report, barrier_group, listening, new_key, reporting
from recsys_spark.console import note
from recsys_spark.errors import ModelError
from recsys_spark.models.interactions import owner_of_ids, owners_of_users, split_by_task
from recsys_spark.packing import in_chunks, table_bytes
from recsys_spark.schema import ITEM, RATING, USER

Payloads = dict[str, list[pa.Table]]
Note = dict[str, Any]
Program = Callable[[Group, Payloads, Report], tuple[Iterable[pa.RecordBatch], Note]]
"""What every task runs: of the group, its payloads and a way to report it makes rows, and a note, of which task 0's is kept."""

PACKED = "task int, kind string, payload binary, refused bigint"
EVENTS = "events"
PACK_ROWS = 1_000_000
LINE_SECONDS = 0.5
_REFUSED, _NOTE = "refused", "note"


def packed_ratings(ratings: DataFrame, tasks: int) -> DataFrame:
    """``user, item, rating`` (float) as payloads of kind ``EVENTS`` for the tasks of their users, about 12 bytes a row.

    Rows that cannot be trained on (null ids, null or non-finite ratings) are counted, which :func:`run` refuses.
    """

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in in_chunks(batches, PACK_ROWS):
            yield _payloads(table, tasks)

    return ratings.mapInArrow(pack, PACKED)


def packed_frame(frame: DataFrame, kind: str, tasks: int) -> DataFrame:
    """Any rows as payloads of ``kind``, a batch to each task in turn."""

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches, _partition()):
            yield _packed_rows([(number % tasks, kind, table_bytes(pa.Table.from_batches([batch])), 0)])

    return frame.mapInArrow(pack, PACKED)


def packed_by_user(frame: DataFrame, kind: str, tasks: int) -> DataFrame:
    """Rows with an ``id`` of a user as payloads of ``kind`` for the tasks of their users."""

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            owners = owner_of_ids(batch["id"], owners_of_users(tasks))
            parts = [(int(task), batch.filter(pa.array(owners == task))) for task in np.unique(owners)]
            yield _packed_rows([(task, kind, table_bytes(pa.Table.from_batches([part])), 0) for task, part in parts])

    return frame.mapInArrow(pack, PACKED)


def run(
    packed: DataFrame, tasks: int, program: Program, schema: T.StructType, say: Callable[[Array], None], level: StorageLevel
) -> tuple[DataFrame, Note]:
    """Run ``program`` in a barrier stage of ``tasks`` tasks.

    Parameters
    ----------
    packed : payloads, of ratings and others
    schema : of the rows that the program makes
    say : called on the driver with what task 0 reports
    level : storage of the result

    Returns
    -------
    rows : persisted, with one more column, ``note``, null in all rows of the program's
    note : of task 0

    Raises
    ------
    ModelError
        Rows that cannot be trained on, with their number and an example, no rows, or what the program raises.
    """
    key = new_key()
    noted = T.StructType([*schema.fields, T.StructField(_NOTE, T.StringType())])
    with listening(key, packed.sparkSession, say) as address:
        stage = packed.repartitionById(tasks, F.col("task")).mapInArrow(_stage(key, address, program, noted), noted, barrier=True)
        result = stage.repartition(tasks).persist(level)
        try:
            (row,) = result.where(F.col(_NOTE).isNotNull()).select(_NOTE).collect()
            said: Note = json.loads(row[_NOTE])
            _refuse(said["refused"], said["example"])
            if not said["rows"]:
                raise ModelError("there is not one rating to train on")
            if "error" in said:
                raise ModelError(said["error"])
        except BaseException:
            result.unpersist()
            raise
    return result, said


def run_jobs(
    packed: DataFrame,
    tasks: int,
    schema: T.StructType,
    level: StorageLevel,
    start: DataFrame | None,
    job: Callable[[list[Note]], tuple[Program, Callable[[Array], None]]],
    carry: Callable[[DataFrame], DataFrame],
) -> tuple[DataFrame, list[Note]]:
    """Train in barrier stages one after the other, each from what the last one left: what a lost executor costs is one of them.

    Parameters
    ----------
    packed : ratings and others, packed for every stage; let go of at the end
    tasks, schema : as in :func:`run`
    level : storage of each stage's rows; on a cluster two executors hold them, so that a lost one takes none along
    start : packed, for the first stage alone; or None
    job : from the notes of the stages so far, the next one's program and what shows its reports
    carry : packs a stage's rows for the next one

    Returns
    -------
    rows, notes : rows of the last stage, the first whose note says ``done``; and the notes of all
    """
    if not str(packed.sparkSession.sparkContext.master).startswith("local"):
        level = StorageLevel(level.useDisk, level.useMemory, level.useOffHeap, level.deserialized, max(2, level.replication))
    notes: list[Note] = []
    result, carried = None, start
    try:
        while not notes or not notes[-1]["done"]:
            program, say = job(notes)
            before = result
            result, said = run(packed if carried is None else packed.unionAll(carried), tasks, program, schema, say, level)
            if before is not None:
                before.unpersist()
            notes.append(said)
            carried = carry(result)
    except BaseException:
        if result is not None:
            result.unpersist()
        raise
    finally:
        packed.unpersist()
    assert result is not None  # noqa: S101
    return result, notes


def progress(what: str, measure: str, before: int, total: int) -> Callable[[Array], None]:
    """What shows reports (number from 1, ``measure``, seconds) of a job that follows ``before`` others: a line each.

    At most one in ``LINE_SECONDS``, and always the last.
    """
    shown = 0.0

    def say(report: Array) -> None:
        nonlocal shown
        number, value, seconds = report.tolist()
        if time.monotonic() - shown >= LINE_SECONDS or before + number == total:
            note(f"  {what} {before + number:.0f} of {total}: {seconds:.2f} s, {measure} {value:.6g}")
            shown = time.monotonic()

    return say


def payloads_of(batches: Iterator[pa.RecordBatch]) -> Payloads:
    """Packed tables by kind, outside a barrier stage; a kind that did not come is not in it.

    Raises
    ------
    ModelError
        Rows that cannot be trained on.
    """
    payloads, refused, example = _unpacked(batches)
    _refuse(refused, example)
    return payloads


def events_of(payloads: Payloads, id_types: tuple[pa.DataType, ...]) -> pa.Table:
    """A task's ratings, perhaps none: ``user, item`` (dictionary-encoded), ``rating``."""
    ids = [pa.array([], kind).dictionary_encode() for kind in id_types]
    nothing = pa.table([*ids, pa.array([], pa.float32())], names=[USER, ITEM, RATING])
    return pa.concat_tables([nothing, *payloads.get(EVENTS, [])])


def id_types_of(ratings: DataFrame) -> tuple[pa.DataType, pa.DataType]:
    """Arrow types of ``user`` and ``item``."""
    known = {"int": pa.int32(), "bigint": pa.int64(), "string": pa.string()}
    user, item = (known[ratings.schema[name].dataType.simpleString()] for name in (USER, ITEM))
    return user, item


def _partition() -> int:
    """Number of the partition that this code runs on."""
    context = TaskContext.get()
    return context.partitionId() if context is not None else 0


def _stage(key: bytes, address: str, program: Program, schema: T.StructType) -> Any:
    columns = to_arrow_schema(schema)

    def train(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads, refused, example = _unpacked(batches)
        made: Iterable[pa.RecordBatch] = ()
        with barrier_group(key) as group, reporting(key, address) if group.rank == 0 else nullcontext() as report:
            rows = sum(table.num_rows for table in payloads.get(EVENTS, []))
            refused, rows = group.all_reduce(np.array([refused, rows], np.int64)).tolist()
            said = {"refused": refused, "example": example, "rows": rows}
            if rows and not refused:
                try:
                    made, more = program(group, payloads, report)
                    said |= more
                except ModelError as error:  # of all tasks alike
                    said["error"] = str(error)
            first = group.rank == 0
        for batch in made:
            yield batch.append_column(_NOTE, pa.nulls(batch.num_rows, pa.string())).cast(columns)
        if first:
            nulls = [pa.nulls(1, field.type) for field in columns]
            yield pa.RecordBatch.from_arrays([*nulls[:-1], pa.array([json.dumps(said)])], schema=columns)

    return train


def _unpacked(batches: Iterator[pa.RecordBatch]) -> tuple[Payloads, int, str]:
    """Payloads by kind, the number of refused rows, and one of them."""
    payloads: Payloads = {}
    refused, example = 0, ""
    for batch in batches:
        for kind, payload, bad in zip(batch["kind"].to_pylist(), batch["payload"], batch["refused"].to_pylist(), strict=True):
            if bad:
                refused, example = refused + bad, payload.as_buffer().to_pybytes().decode()
            else:
                payloads.setdefault(kind, []).append(pa.ipc.open_stream(payload.as_buffer()).read_all())
    return payloads, refused, example


def _refuse(count: int, example: str) -> None:
    if count:
        raise ModelError(
            f"{count:,} rows cannot be trained on: ids must not be null, ratings must be finite numbers; for example {example}"
        )


def _payloads(rows: pa.Table, tasks: int) -> pa.RecordBatch:
    rating = rows[RATING]
    usable = pc.and_(pc.and_(rows[USER].is_valid(), rows[ITEM].is_valid()), pc.fill_null(pc.is_finite(rating), False))
    refused = rows.num_rows - (pc.sum(usable).as_py() or 0)
    if refused:
        example = rows.filter(pc.invert(usable)).slice(0, 1).to_pylist()[0]
        return _packed_rows([(0, _REFUSED, json.dumps(example, default=str).encode(), refused)])
    return _packed_rows([(task, EVENTS, table_bytes(part), 0) for task, part in split_by_task(rows, tasks)])


def _packed_rows(rows: list[tuple[int, str, bytes, int]]) -> pa.RecordBatch:
    types = (pa.int32(), pa.string(), pa.binary(), pa.int64())
    columns = [pa.array([row[k] for row in rows], kind) for k, kind in enumerate(types)]
    return pa.RecordBatch.from_arrays(columns, names=["task", "kind", "payload", "refused"])
