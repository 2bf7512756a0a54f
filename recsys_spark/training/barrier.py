"""Barrier jobs: what every training on a group of tasks does, whatever the model.

::

    ratings ─pack (mapInArrow)─▶ payloads by user's task ─shuffle─▶ barrier stage: a program ─shuffle─▶ rows

A model gives a :class:`Program`, the code that every task runs; :func:`run_jobs` does the rest. The second
shuffle is there because Spark runs a lost barrier stage again only when it is not the last of its job.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter
from pyspark import StorageLevel, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from recsys_spark.console import progress_line
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.sets import distinct
from recsys_spark.packing import PACKED, in_chunks, packed_batch, plain, unpacked
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.connections import Array, GroupKey
from recsys_spark.training.group import Group, Report, barrier_group, listening, new_key, reporting
from recsys_spark.training.ownership import owner_of_ids, split_by_task, user_owners

Payloads = dict[str, list[pa.Table]]
"""A task's tables by kind; a kind that did not come is not in it."""
IdTypes = tuple[pa.DataType, pa.DataType]
"""Arrow types of the ids of users and of items."""

EVENTS, CARRIED = "events", "carried"
"""Kinds of payloads: ratings, and the rows that the job before left."""
PACK_ROWS = 1_000_000
LINE_SECONDS = 0.5
_REJECTED, _OUTCOME = "rejected", "outcome"


@dataclass(frozen=True)
class Outcome:
    """What a job reports beside its rows; the same in every task. A program adds fields of its own.

    Attributes
    ----------
    done : iterations or epochs done by this job and those before it
    finished : whether no job is to follow
    """

    done: int
    finished: bool


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


@dataclass(frozen=True)
class Trained(Generic[OutcomeT]):
    """Result of all jobs.

    Attributes
    ----------
    rows : the last job's
    outcomes : of every job
    persisted : the persisted frame that ``rows`` are read from
    """

    rows: DataFrame
    outcomes: list[OutcomeT]
    persisted: DataFrame


class Program(ABC, Generic[OutcomeT]):
    """What a model gives to a barrier job: what every task runs.

    Attributes
    ----------
    step_name, objective_name : what a progress line calls a step, such as "ALS iteration", and what it
        reports of it
    outcome_type : the class of :meth:`run`'s outcomes
    id_types : Arrow types of the ids of users and of items
    """

    step_name: ClassVar[str]
    objective_name: ClassVar[str]
    outcome_type: ClassVar[type[Outcome]]
    id_types: IdTypes

    @property
    @abstractmethod
    def max_steps(self) -> int:
        """Largest number of iterations or epochs, over all jobs."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns of the rows that :meth:`run` makes."""

    @abstractmethod
    def run(
        self, group: Group, payloads: Payloads, before: OutcomeT | None, until: int, report: Report
    ) -> tuple[Iterable[pa.RecordBatch], OutcomeT]:
        """One job, in one task.

        Parameters
        ----------
        group : the tasks; all run this at once
        payloads : what came to this task: its users' ratings (``EVENTS``), and in any task, the rows that the
            job before left, or what training starts from (``CARRIED``)
        before : outcome of the job before; None in the first
        until : number of iterations or epochs after which the job ends
        report : called after each with its number in this job from 1, its objective and its seconds

        Returns
        -------
        rows : of :meth:`schema`: what the next job starts from, and after the last one the result
        outcome : that of task 0 counts
        """


def run_jobs(
    program: Program[OutcomeT],
    packed: DataFrame,
    start: DataFrame | None,
    per_job: int,
    tasks: int,
    level: StorageLevel,
) -> Trained[OutcomeT]:
    """Run ``program`` in barrier stages one after the other, each from what the last one left.

    What a lost executor costs is one of them: on a cluster two executors hold what a job leaves.

    Parameters
    ----------
    program : what every task runs
    packed : payloads of ratings, and what else the program reads in every job; unpersisted at the end
    start : rows of the program's schema that the first job starts from, or None
    per_job : iterations or epochs of one job
    tasks : size of the group
    level : storage of ``packed``, where there are several jobs, and of each job's rows

    Returns
    -------
    Trained
        Its rows are persisted.

    Raises
    ------
    ModelError
        Rows that cannot be trained on, with their number and an example; no rows; or what the program raises.
    """
    if program.max_steps > per_job:
        packed = packed.persist(level)
    if not str(packed.sparkSession.sparkContext.master).startswith("local"):
        level = StorageLevel(
            level.useDisk, level.useMemory, level.useOffHeap, level.deserialized, max(2, level.replication)
        )
    outcomes: list[OutcomeT] = []
    rows, persisted = start, None
    try:
        while not outcomes or not outcomes[-1].finished:
            before = outcomes[-1] if outcomes else None
            until = min(program.max_steps, (before.done if before is not None else 0) + per_job)
            inputs = packed if rows is None else packed.unionAll(packed_frame(rows, CARRIED, tasks))
            previous = persisted
            persisted, outcome = _run_job(_Job(program, before, until), inputs, tasks, level)
            if previous is not None:
                previous.unpersist()
            rows = persisted.where(F.col(_OUTCOME).isNull()).drop(_OUTCOME)
            outcomes.append(outcome)
    except BaseException:
        if persisted is not None:
            persisted.unpersist()
        raise
    finally:
        packed.unpersist()
    assert rows is not None  # noqa: S101
    assert persisted is not None  # noqa: S101
    return Trained(rows, outcomes, persisted)


def packed_ratings(ratings: DataFrame | PackedHistories, tasks: int) -> DataFrame:
    """``user, item, rating`` (float) as payloads of kind ``EVENTS`` for the tasks of their users, 12 to
    20 bytes a row.

    Rows that cannot be trained on (null ids, null or non-finite ratings) are counted; the job that reads them
    raises.
    """

    def pack(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for table in tables:
            single = table[RATING].cast(pa.float32(), safe=False)
            rows = pa.table([table[USER], table[ITEM], single], names=[USER, ITEM, RATING])
            yield packed_batch(_rating_parts(rows, tasks))

    if isinstance(ratings, PackedHistories):
        return ratings.map_tables((USER, ITEM, RATING), pack, PACKED)
    return ratings.mapInArrow(lambda batches: pack(in_chunks(batches, PACK_ROWS)), PACKED)


def packed_frame(frame: DataFrame, kind: str, tasks: int) -> DataFrame:
    """Any rows as payloads of ``kind``, a batch to each task in turn."""

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        for number, batch in enumerate(
            map(plain, batches), context.partitionId() if context is not None else 0
        ):
            yield packed_batch([(number % tasks, kind, pa.Table.from_batches([batch]))])

    return frame.mapInArrow(pack, PACKED)


def packed_by_user(frame: DataFrame, kind: str, tasks: int) -> DataFrame:
    """Rows with an ``id`` of a user as payloads of ``kind`` for the tasks of their users."""

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in map(plain, batches):
            owners = owner_of_ids(batch["id"], user_owners(tasks))
            parts = [(int(task), batch.filter(pa.array(owners == task))) for task in distinct(owners)]
            yield packed_batch((task, kind, pa.Table.from_batches([part])) for task, part in parts)

    return frame.mapInArrow(pack, PACKED)


def by_task(packed: DataFrame, tasks: int) -> DataFrame:
    """Payloads, each in the partition of its task."""
    return packed.repartitionById(tasks, F.col("bucket"))


def read_payloads(batches: Iterable[pa.RecordBatch]) -> Payloads:
    """Packed tables by kind, outside a barrier stage.

    Raises
    ------
    ModelError
        Rows that cannot be trained on.
    """
    payloads = unpacked(batches)
    require_trainable(*_pop_rejected(payloads))
    return payloads


def events_of(payloads: Payloads, id_types: IdTypes) -> pa.Table:
    """A task's ratings, perhaps none: ``user, item`` (dictionary-encoded), ``rating``."""
    ids = [pa.array([], kind).dictionary_encode() for kind in id_types]
    empty = pa.table([*ids, pa.array([], pa.float32())], names=[USER, ITEM, RATING])
    return pa.concat_tables([empty, *payloads.get(EVENTS, [])])


def id_types_of(ratings: DataFrame | PackedHistories) -> IdTypes:
    """Arrow types of ``user`` and ``item``."""
    known = {"int": pa.int32(), "bigint": pa.int64(), "string": pa.string()}
    if isinstance(ratings, PackedHistories):
        kinds = ratings.id_types
    else:
        kinds = ratings.schema[USER].dataType, ratings.schema[ITEM].dataType
    return known[kinds[0].simpleString()], known[kinds[1].simpleString()]


@dataclass(frozen=True)
class _Job(Generic[OutcomeT]):
    """A program with the place where it starts and the one where it ends."""

    program: Program[OutcomeT]
    before: OutcomeT | None
    until: int


@dataclass(frozen=True)
class _Report:
    """What task 0 tells the driver, as JSON: either why nothing was trained, or the ``outcome``."""

    rejected: int
    example: str
    events: int
    error: str | None = None
    outcome: dict[str, Any] | None = None


def _run_job(
    job: _Job[OutcomeT], inputs: DataFrame, tasks: int, level: StorageLevel
) -> tuple[DataFrame, OutcomeT]:
    """Rows of one job, persisted, with one more that holds its outcome; and the outcome."""
    key = new_key(inputs.sparkSession)
    fields = from_arrow_schema(job.program.schema()).fields
    with_outcome = T.StructType([*fields, T.StructField(_OUTCOME, T.StringType())])
    with listening(key, inputs.sparkSession, _progress(job)) as address:
        stage = by_task(inputs, tasks).mapInArrow(
            _task(job, key, address, with_outcome), with_outcome, barrier=True
        )
        result = stage.repartition(tasks).persist(level)
        try:
            (row,) = result.where(F.col(_OUTCOME).isNotNull()).select(_OUTCOME).collect()
            report = _Report(**json.loads(row[_OUTCOME]))
            require_trainable(report.rejected, report.example)
            if not report.events:
                raise ModelError("the training data has no ratings")
            if report.error is not None:
                raise ModelError(report.error)
        except BaseException:
            result.unpersist()
            raise
    outcome: OutcomeT = TypeAdapter(job.program.outcome_type).validate_python(report.outcome)  # type: ignore[assignment]
    return result, outcome


def _task(job: _Job[OutcomeT], key: GroupKey, address: str, schema: T.StructType) -> Any:
    """What ``mapInArrow`` runs: the program between its payloads and its rows."""
    columns = to_arrow_schema(schema)

    def train(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads = unpacked(batches)
        rejected, example = _pop_rejected(payloads)
        rows: Iterable[pa.RecordBatch] = ()
        outcome, problem = None, None
        with (
            barrier_group(key, address) as group,
            reporting(key, address) if group.rank == 0 else nullcontext() as report,
        ):
            events = sum(table.num_rows for table in payloads.get(EVENTS, []))
            rejected, events = group.all_reduce(np.array([rejected, events], np.int64)).tolist()
            if events and not rejected:
                try:
                    rows, outcome = job.program.run(group, payloads, job.before, job.until, report)
                except ModelError as error:  # raised by every task
                    problem = str(error)
            first = group.rank == 0
        for batch in rows:
            yield batch.append_column(_OUTCOME, pa.nulls(batch.num_rows, pa.string())).cast(columns)
        if first:
            result = asdict(outcome) if outcome is not None else None
            text = json.dumps(asdict(_Report(rejected, example, events, problem, result)))
            nulls = [pa.nulls(1, field.type) for field in columns]
            yield pa.RecordBatch.from_arrays([*nulls[:-1], pa.array([text])], schema=columns)

    return train


def _progress(job: _Job[Any]) -> Callable[[Array], None]:
    """Print the reports of a job, at most one line in ``LINE_SECONDS``, and always the last."""
    program, before = job.program, job.before.done if job.before is not None else 0
    shown = 0.0

    def show(report: Array) -> None:
        nonlocal shown
        number, value, seconds = report.tolist()
        if time.monotonic() - shown >= LINE_SECONDS or before + number == program.max_steps:
            step = f"{program.step_name} {before + number:.0f} of {program.max_steps}"
            progress_line(f"  {step}: {seconds:.2f} s, {program.objective_name} {value:.6g}")
            shown = time.monotonic()

    return show


def _rating_parts(rows: pa.Table, tasks: int) -> Iterator[tuple[int, str, pa.Table]]:
    """Ratings by task; of rows that cannot be trained on only their number and an example, to task 0."""
    rating = rows[RATING]
    usable = pc.and_(
        pc.and_(rows[USER].is_valid(), rows[ITEM].is_valid()), pc.fill_null(pc.is_finite(rating), False)
    )
    rejected = rows.num_rows - (pc.sum(usable).as_py() or 0)
    if rejected:
        example = json.dumps(rows.filter(pc.invert(usable)).slice(0, 1).to_pylist()[0], default=str)
        yield 0, _REJECTED, pa.table({"rows": [rejected], "example": [example]})
        return
    for task, part in split_by_task(rows, tasks):
        yield task, EVENTS, part


def _pop_rejected(payloads: Payloads) -> tuple[int, str]:
    """Number of rows that cannot be trained on, and one of them; they leave the payloads."""
    rejected = [row for table in payloads.pop(_REJECTED, []) for row in table.to_pylist()]
    return sum(row["rows"] for row in rejected), rejected[-1]["example"] if rejected else ""


def require_trainable(rejected: int, example: str) -> None:
    """Refuse ratings of which some cannot be trained on.

    Parameters
    ----------
    rejected : how many
    example : one of them

    Raises
    ------
    ModelError
        There are any.
    """
    if rejected:
        raise ModelError(
            f"{rejected:,} rows cannot be trained on, such as {example}: ids must not be null, and ratings "
            "must be finite numbers. Filter or fill them before fit. An id with a fraction counts as null, "
            "and so does a double or decimal beyond 2,147,483,647: cast such a column to long"
        )
