"""ALS on Spark: fits in barrier stages (:mod:`recsys_spark.models.stage`), and folding in users that a model has never seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.collectives import Array, Group, Report, group_size
from recsys_spark.kernels.events import sort_events
from recsys_spark.kernels.least_squares import Weights, solve
from recsys_spark.models import stage
from recsys_spark.models.als_program import Factors, Iteration, Problem, ridge_of, train
from recsys_spark.models.interactions import numbered, prepare
from recsys_spark.packing import lists_of
from recsys_spark.recommend.host import collect_factors
from recsys_spark.schema import ITEM, RATING, USER

_RESULT_ROWS = 10_000
_IdTypes = tuple[pa.DataType, pa.DataType]


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
    packed = stage.packed_ratings(ratings, tasks)
    if problem.iterations > per_job:
        packed = packed.persist(level)

    def factors(result: DataFrame) -> tuple[DataFrame, DataFrame]:
        return _factors(result, USER, problem), _factors(result, ITEM, problem)

    def job(notes: list[stage.Note]) -> tuple[stage.Program, Callable[[Array], None]]:
        before = sum(len(said["history"]) for said in notes)
        left = problem.iterations - before
        program = _Program(replace(problem, iterations=min(per_job, left)), stage.id_types_of(ratings), left <= per_job)
        return program, stage.progress("ALS iteration", "objective", before, problem.iterations)

    first = None if start is None else _packed_factors(start, tasks)
    result, notes = stage.run_jobs(
        packed, tasks, _result_schema(ratings), level, first, job, lambda rows: _packed_factors(factors(rows), tasks)
    )
    history = [Iteration(**one) for said in notes for one in said["history"]]
    return Fitted(*factors(result), notes[-1]["mean"], notes[-1]["pairs"], history, notes[-1]["converged"], result)


@dataclass(frozen=True)
class _Program:
    """What every task runs; ``last`` says that no job follows."""

    problem: Problem
    id_types: _IdTypes
    last: bool

    def __call__(
        self, group: Group, payloads: stage.Payloads, report: Report
    ) -> tuple[Iterator[pa.RecordBatch], dict[str, object]]:
        problem, id_types = self.problem, self.id_types
        data = prepare(group, stage.events_of(payloads, id_types))
        given = [payloads.get(kind, []) for kind in (USER, ITEM)]
        start = None
        if group.all_reduce(np.array([len(given[0]) + len(given[1])], np.int64))[0]:
            start = (_start(given[0], id_types[0], problem), _start(given[1], id_types[1], problem))
        trained = train(group, data, problem, start, report)
        rows = chain(_rows(USER, trained.users, problem, id_types), _rows(ITEM, trained.items, problem, id_types))
        history = [one.__dict__ for one in trained.history]
        said = {"history": history, "converged": trained.converged, "mean": trained.mean, "pairs": trained.pairs}
        return rows, {**said, "done": self.last or trained.converged}


def _result_schema(ratings: DataFrame) -> T.StructType:
    """Columns of a job's result: an id in ``user`` or in ``item``, and its vector."""
    return T.StructType(
        [
            T.StructField(USER, ratings.schema[USER].dataType),
            T.StructField(ITEM, ratings.schema[ITEM].dataType),
            T.StructField("bias", T.FloatType()),
            T.StructField("features", T.ArrayType(T.FloatType())),
        ]
    )


def _factors(result: DataFrame, kind: str, problem: Problem) -> DataFrame:
    rows = result.where(F.col(kind).isNotNull())
    columns = [F.col(kind).alias("id"), F.col("features")]
    return rows.select(*columns, "bias") if problem.biases else rows.select(*columns)


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
    id_types = stage.id_types_of(ratings)

    def fold(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads = stage.payloads_of(batches)
        if stage.EVENTS not in payloads:
            return
        events = pa.concat_tables(payloads[stage.EVENTS])
        catalogue, vectors, shifts, all_pairs = held.value
        users, rows = numbered(events[USER])
        names, codes = numbered(events[ITEM])
        place = pc.fill_null(pc.index_in(names.cast(catalogue.type), value_set=catalogue), -1).to_numpy()[codes]
        known = place >= 0
        values = events[RATING].to_numpy()
        given = ((values > 0).astype(np.float32) if problem.binary else values)[known]
        counted = known & (values > 0) if problem.implicit or problem.binary else known
        indptr, columns, values = sort_events(rows[known], place[known].astype(np.int32), given, len(users), len(catalogue))
        solution = np.zeros((len(users), problem.width), np.float32)
        ridge = ridge_of(np.bincount(rows[counted], minlength=len(users)), len(catalogue), problem, pairs)
        solve(problem.solver, indptr, columns, values, shifts, vectors, all_pairs, ridge, weights, 0, solution)
        served = np.flatnonzero(np.diff(indptr))
        yield from _rows(USER, (users.take(pa.array(served)), solution[served]), problem, id_types)

    packed = stage.packed_ratings(ratings, tasks).repartitionById(tasks, F.col("task"))
    return _factors(packed.mapInArrow(fold, _result_schema(ratings)), USER, problem)


def _packed_factors(frames: tuple[DataFrame, DataFrame], tasks: int) -> DataFrame:
    """Starting vectors as payloads, in any task: the program sends them to their owners."""
    users, items = (_with_bias(frame) for frame in frames)
    return stage.packed_frame(users, USER, tasks).unionAll(stage.packed_frame(items, ITEM, tasks))


def _with_bias(frame: DataFrame) -> DataFrame:
    bias = F.col("bias") if "bias" in frame.columns else F.lit(0.0)
    return frame.select("id", "features", bias.cast("float").alias("bias"))


def _start(tables: list[pa.Table], id_type: pa.DataType, problem: Problem) -> Factors:
    if not tables:
        return pa.array([], id_type), np.zeros((0, problem.width), np.float32)
    whole = pa.concat_tables(tables).combine_chunks()
    ids = pa.concat_arrays(whole["id"].chunks).cast(id_type)
    vectors = np.asarray(pa.concat_arrays(whole["features"].chunks).flatten(), np.float32).reshape(len(ids), problem.rank)
    return ids, np.column_stack([vectors, whole["bias"].to_numpy()]) if problem.biases else vectors


def _rows(kind: str, factors: Factors, problem: Problem, id_types: _IdTypes) -> Iterator[pa.RecordBatch]:
    ids, vectors = factors
    for begin in range(0, len(ids), _RESULT_ROWS):
        some, part = ids.slice(begin, _RESULT_ROWS), vectors[begin : begin + _RESULT_ROWS]
        users = some if kind == USER else pa.nulls(len(some), id_types[0])
        items = some if kind == ITEM else pa.nulls(len(some), id_types[1])
        features = lists_of(part[:, : problem.rank])
        biases = pa.array(np.ascontiguousarray(part[:, -1])) if problem.biases else pa.nulls(len(some), pa.float32())
        yield pa.RecordBatch.from_arrays([users, items, biases, features], names=[USER, ITEM, "bias", "features"])
