"""The Spark side of ALS training: ratings packed for the tasks, the barrier stage they train in, and what comes out of it.

::

    ratings ─pack (mapInArrow)─▶ binary payloads by user's task ─shuffle─▶ barrier stage: prepare, train ─shuffle─▶ factors

The second shuffle is there because Spark runs a lost barrier stage again only when it is not the last of its job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.collectives import Array, Group, barrier_group, group_size, listening, new_key, reporting
from recsys_spark.console import note
from recsys_spark.errors import ModelError
from recsys_spark.kernels.events import sort_events
from recsys_spark.kernels.least_squares import Weights, solve
from recsys_spark.models.als_program import Factors, Iteration, Problem, Trained, ridge_of, train
from recsys_spark.models.interactions import numbered, prepare, split_by_task
from recsys_spark.packing import in_chunks, table_bytes
from recsys_spark.recommend.host import collect_factors
from recsys_spark.schema import ITEM, RATING, USER

PACK_ROWS = 1_000_000
_PACKED = "task int, kind string, payload binary, refused bigint"
_EVENTS, _REFUSED = "events", "refused"
_RESULT_ROWS = 10_000
_LINE_SECONDS = 0.5


@dataclass(frozen=True)
class Fitted:
    """Result of a fit.

    Attributes
    ----------
    users, items : one row per id: ``id``, ``features`` array<float>, and ``bias`` float where biases were fitted
    mean : global mean, 0 without biases
    pairs : w₀, the weight of all pairs
    history : the iterations
    converged : whether the objective stalled within the tolerance
    kept : the persisted frame that ``users`` and ``items`` are read from
    """

    users: DataFrame
    items: DataFrame
    mean: float
    pairs: float
    history: list[Iteration]
    converged: bool
    kept: DataFrame


def fit_factors(
    ratings: DataFrame, problem: Problem, per_job: int, start: tuple[DataFrame, DataFrame] | None, level: StorageLevel
) -> Fitted:
    """Train on ``ratings``.

    Parameters
    ----------
    ratings : ``user``, ``item`` (integers, longs or strings), ``rating`` float; repeated pairs count as often as they stand
    problem : what is minimised, and how
    per_job : iterations of one barrier job; between jobs the factors are Spark data, and what a lost executor costs is one job
    start : factors of users and items to begin with, in the shape of :class:`Fitted`
    level : storage of the packed ratings, where there are several jobs, and of the factors

    Raises
    ------
    ModelError
        Null ids, null or non-finite ratings (with their number and an example), or no rows.
    GroupError
        The session cannot run all tasks at once.

    Notes
    -----
    Two shuffles for each job. The packed ratings take about 12 bytes a row.
    """
    tasks = group_size(ratings.sparkSession)
    packed = ratings.mapInArrow(_packing(tasks), _PACKED)
    if problem.iterations > per_job:
        packed = packed.persist(level)
    history: list[Iteration] = []
    frames, before = start, None
    try:
        while True:
            job = replace(problem, iterations=min(per_job, problem.iterations - len(history)))
            key, say = new_key(), _progress(len(history), problem.iterations)
            with listening(key, ratings.sparkSession, say) as address:
                result = _job(packed, ratings, frames, job, tasks, key, address).persist(level)
                try:
                    done = _summary(result)
                except BaseException:
                    result.unpersist()
                    raise
            if before is not None:
                before.unpersist()
            before, frames = result, (_factors(result, USER, problem), _factors(result, ITEM, problem))
            history += [Iteration(**one) for one in done["history"]]
            if done["converged"] or len(history) >= problem.iterations:
                return Fitted(*frames, done["mean"], done["pairs"], history, done["converged"], result)
    finally:
        packed.unpersist()


def _job(
    packed: DataFrame,
    ratings: DataFrame,
    start: tuple[DataFrame, DataFrame] | None,
    problem: Problem,
    tasks: int,
    key: bytes,
    address: str,
) -> DataFrame:
    """One barrier stage: rows of :func:`_result_schema`."""
    inputs = packed if start is None else packed.unionAll(_packed_factors(start, tasks))
    id_types = tuple(_arrow_type(ratings.schema[name].dataType) for name in (USER, ITEM))
    train_share = _training(key, address, problem, id_types)
    trained = inputs.repartitionById(tasks, F.col("task")).mapInArrow(train_share, _result_schema(ratings), barrier=True)
    return trained.repartition(tasks)


def _result_schema(ratings: DataFrame) -> T.StructType:
    """Columns of a job's result: an id in ``user`` or in ``item``, or, in one row, a ``note``."""
    return T.StructType(
        [
            T.StructField(USER, ratings.schema[USER].dataType),
            T.StructField(ITEM, ratings.schema[ITEM].dataType),
            T.StructField("bias", T.FloatType()),
            T.StructField("features", T.ArrayType(T.FloatType())),
            T.StructField("note", T.StringType()),
        ]
    )


def _factors(result: DataFrame, kind: str, problem: Problem) -> DataFrame:
    rows = result.where(F.col(kind).isNotNull())
    columns = [F.col(kind).alias("id"), F.col("features")]
    return rows.select(*columns, "bias") if problem.biases else rows.select(*columns)


def _summary(result: DataFrame) -> dict[str, Any]:
    """What task 0 says of the job; computes the whole result."""
    (row,) = result.where(F.col("note").isNotNull()).select("note").collect()
    note: dict[str, Any] = json.loads(row["note"])
    if note["refused"]:
        raise ModelError(_refusal(note["refused"], note["example"]))
    if not note["rows"]:
        raise ModelError("there is not one rating to train on")
    return note


def _progress(before: int, iterations: int) -> Callable[[Array], None]:
    """What shows the iterations of a job that follows ``before`` others: a line each, at most one in ``_LINE_SECONDS``."""
    shown = 0.0

    def say(report: Array) -> None:
        nonlocal shown
        number, objective, seconds = report.tolist()
        if time.monotonic() - shown >= _LINE_SECONDS or before + number == iterations:
            note(f"  ALS iteration {before + number:.0f} of {iterations}: {seconds:.2f} s, objective {objective:.6g}")
            shown = time.monotonic()

    return say


def _arrow_type(kind: T.DataType) -> pa.DataType:
    return {"int": pa.int32(), "bigint": pa.int64(), "string": pa.string()}[kind.simpleString()]


def fold_in(ratings: DataFrame, items: DataFrame, problem: Problem, mean: float, pairs: float, tasks: int) -> DataFrame:
    """Vectors of the users in ``ratings``, each the exact solution of its own normal equation; the items stay as they are.

    Parameters
    ----------
    ratings : ``user``, ``item``, ``rating`` float; rows of unknown items are passed over
    items : ``id``, ``features``, and ``bias`` with biases
    problem : the objective; its solver is ``cholesky`` or ``nonnegative``
    mean, pairs : global mean and w₀ of the fit
    tasks : how many tasks share the users

    Returns
    -------
    DataFrame
        One row per user with a known item: ``id``, ``features``, and ``bias`` with biases. One shuffle; the items'
        factors pass through the driver and are broadcast.
    """
    ids, factors, biases = collect_factors(items)
    gram = np.zeros((problem.width, problem.width), np.float32)
    gram[: problem.rank, : problem.rank] = pairs * (factors.T.astype(np.float64) @ factors)
    seen, offsets = factors, np.zeros(0, np.float32)
    if problem.biases:
        seen, offsets = np.column_stack([factors, np.ones(len(factors), np.float32)]), biases
    weights = Weights(problem.implicit, np.float32(problem.alpha), np.float32(mean))
    held = ratings.sparkSession.sparkContext.broadcast((ids, seen, offsets, gram))
    id_types = (_arrow_type(ratings.schema[USER].dataType), _arrow_type(ratings.schema[ITEM].dataType))

    def fold(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = []
        for batch in batches:
            for payload, bad in zip(batch["payload"], batch["refused"].to_pylist(), strict=True):
                if bad:
                    raise ModelError(_refusal(bad, payload.as_buffer().to_pybytes().decode()))
                tables.append(pa.ipc.open_stream(payload.as_buffer()).read_all())
        if not tables:
            return
        catalogue, vectors, shifts, all_pairs = held.value
        events = pa.concat_tables(tables)
        users, rows = numbered(events[USER])
        names, codes = numbered(events[ITEM])
        place = pc.fill_null(pc.index_in(names.cast(catalogue.type), value_set=catalogue), -1).to_numpy()[codes]
        known = place >= 0
        values = events[RATING].to_numpy()
        given = ((values > 0).astype(np.float32) if problem.binary else values)[known]
        indptr, columns, values = sort_events(rows[known], place[known].astype(np.int32), given, len(users), len(catalogue))
        solution = np.zeros((len(users), problem.width), np.float32)
        counted = known & (events[RATING].to_numpy() > 0) if problem.implicit or problem.binary else known
        ridge = ridge_of(np.bincount(rows[counted], minlength=len(users)), len(catalogue), problem, pairs)
        solve(problem.solver, indptr, columns, values, shifts, vectors, all_pairs, ridge, weights, 0, solution)
        served = np.flatnonzero(np.diff(indptr))
        yield from _rows(USER, (users.take(pa.array(served)), solution[served]), problem, id_types)

    packed = ratings.mapInArrow(_packing(tasks), _PACKED).repartitionById(tasks, F.col("task"))
    return _factors(packed.mapInArrow(fold, _result_schema(ratings)), USER, problem)


def _refusal(count: int, example: str) -> str:
    return f"{count:,} rows cannot be trained on: ids must not be null, ratings must be finite numbers; for example {example}"


def _packing(tasks: int) -> Any:
    """Stage one: rows into payloads for the tasks of their users; rows that cannot be trained on are counted."""

    def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in in_chunks(batches, PACK_ROWS):
            yield _payloads(table, tasks)

    return pack


def _payloads(rows: pa.Table, tasks: int) -> pa.RecordBatch:
    rating = rows[RATING]
    usable = pc.and_(pc.and_(rows[USER].is_valid(), rows[ITEM].is_valid()), pc.fill_null(pc.is_finite(rating), False))
    refused = rows.num_rows - (pc.sum(usable).as_py() or 0)
    if refused:
        example = rows.filter(pc.invert(usable)).slice(0, 1).to_pylist()[0]
        return _packed_rows([(0, _REFUSED, json.dumps(example, default=str).encode(), refused)])
    return _packed_rows([(task, _EVENTS, table_bytes(part), 0) for task, part in split_by_task(rows, tasks)])


def _packed_rows(rows: list[tuple[int, str, bytes, int]]) -> pa.RecordBatch:
    types = (pa.int32(), pa.string(), pa.binary(), pa.int64())
    columns = [pa.array([row[k] for row in rows], kind) for k, kind in enumerate(types)]
    return pa.RecordBatch.from_arrays(columns, names=["task", "kind", "payload", "refused"])


def _packed_factors(frames: tuple[DataFrame, DataFrame], tasks: int) -> DataFrame:
    """Starting vectors as payloads, in any task: the program sends them to their owners."""

    def packing(kind: str) -> Any:
        def pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(batches):
                yield _packed_rows([(number % tasks, kind, table_bytes(pa.Table.from_batches([batch])), 0)])

        return pack

    users, items = (
        _with_bias(frame).mapInArrow(packing(kind), _PACKED) for frame, kind in zip(frames, (USER, ITEM), strict=True)
    )
    return users.unionAll(items)


def _with_bias(frame: DataFrame) -> DataFrame:
    bias = F.col("bias") if "bias" in frame.columns else F.lit(0.0)
    return frame.select("id", "features", bias.cast("float").alias("bias"))


def _training(key: bytes, address: str, problem: Problem, id_types: tuple[pa.DataType, ...]) -> Any:
    """Stage two: every task's payloads into its share of the factors."""

    def train_share(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads: dict[str, list[pa.Table]] = {_EVENTS: [], USER: [], ITEM: []}
        refused, example = 0, ""
        for batch in batches:
            for kind, payload, bad in zip(batch["kind"].to_pylist(), batch["payload"], batch["refused"].to_pylist(), strict=True):
                if bad:
                    refused, example = refused + bad, payload.as_buffer().to_pybytes().decode()
                else:
                    payloads[kind].append(pa.ipc.open_stream(payload.as_buffer()).read_all())
        with barrier_group(key) as group, reporting(key, address) if group.rank == 0 else nullcontext() as report:
            rows = sum(table.num_rows for table in payloads[_EVENTS])
            refused_rows, all_rows = group.all_reduce(np.array([refused, rows], np.int64)).tolist()
            note: dict[str, Any] = {"refused": refused_rows, "example": example, "rows": all_rows}
            trained = _train_payloads(group, payloads, problem, id_types, report) if all_rows and not refused_rows else None
            first = group.rank == 0
        if trained is not None:
            yield from _rows(USER, trained.users, problem, id_types)
            yield from _rows(ITEM, trained.items, problem, id_types)
            history = [one.__dict__ for one in trained.history]
            note |= {"history": history, "converged": trained.converged, "mean": trained.mean, "pairs": trained.pairs}
        if first:
            yield _batch(pa.nulls(1, id_types[0]), pa.nulls(1, id_types[1]), None, None, json.dumps(note))

    return train_share


def _train_payloads(
    group: Group,
    payloads: dict[str, list[pa.Table]],
    problem: Problem,
    id_types: tuple[pa.DataType, ...],
    report: Callable[[Array], None] | None,
) -> Trained:
    ids = [pa.array([], kind).dictionary_encode() for kind in id_types]
    nothing = pa.table([*ids, pa.array([], pa.float32())], names=[USER, ITEM, RATING])
    data = prepare(group, pa.concat_tables([nothing, *payloads.pop(_EVENTS)]))
    given = int(group.all_reduce(np.array([len(payloads[USER]) + len(payloads[ITEM])], np.int64))[0])
    start = None
    if given:
        start = (_start(payloads[USER], id_types[0], problem), _start(payloads[ITEM], id_types[1], problem))
    return train(group, data, problem, start, report)


def _start(tables: list[pa.Table], id_type: pa.DataType, problem: Problem) -> Factors:
    if not tables:
        return pa.array([], id_type), np.zeros((0, problem.width), np.float32)
    whole = pa.concat_tables(tables).combine_chunks()
    ids = pa.concat_arrays(whole["id"].chunks).cast(id_type)
    vectors = np.asarray(pa.concat_arrays(whole["features"].chunks).flatten(), np.float32).reshape(len(ids), problem.rank)
    return ids, np.column_stack([vectors, whole["bias"].to_numpy()]) if problem.biases else vectors


def _rows(kind: str, factors: Factors, problem: Problem, id_types: tuple[pa.DataType, ...]) -> Iterator[pa.RecordBatch]:
    ids, vectors = factors
    for begin in range(0, len(ids), _RESULT_ROWS):
        some, part = ids.slice(begin, _RESULT_ROWS), vectors[begin : begin + _RESULT_ROWS]
        users = some if kind == USER else pa.nulls(len(some), id_types[0])
        items = some if kind == ITEM else pa.nulls(len(some), id_types[1])
        offsets = pa.array(np.arange(len(some) + 1, dtype=np.int32) * np.int32(problem.rank))
        features = pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(part[:, : problem.rank]).ravel()))
        biases = pa.array(np.ascontiguousarray(part[:, -1])) if problem.biases else None
        yield _batch(users, items, biases, features, None)


def _batch(
    users: pa.Array, items: pa.Array, biases: pa.Array | None, features: pa.Array | None, note: str | None
) -> pa.RecordBatch:
    rows = len(users)
    columns = [
        users,
        items,
        pa.nulls(rows, pa.float32()) if biases is None else biases,
        pa.nulls(rows, pa.list_(pa.float32())) if features is None else features,
        pa.array([note] * rows, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=[USER, ITEM, "bias", "features", "note"])
