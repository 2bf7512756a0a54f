"""ALS on Spark: fits as barrier jobs (:mod:`recsys_spark.training.barrier`), and folding in users a model
does not know.
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
from pyspark.sql.pandas.types import from_arrow_schema

from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.arrays import Doubles
from recsys_spark.kernels.events import sort_events
from recsys_spark.kernels.least_squares import Weights, eigenbasis, is_rounding, solve
from recsys_spark.kernels.products import product
from recsys_spark.recommend.scores import collect_factors
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.als.config import ALSConfig
from recsys_spark.training.als.half_step import row_regularization
from recsys_spark.training.als.program import (
    BIAS,
    FEATURES,
    ALSProgram,
    Iteration,
    factor_rows,
    factor_schema,
)
from recsys_spark.training.barrier import (
    EVENTS,
    by_task,
    events_of,
    id_types_of,
    packed_frame,
    packed_ratings,
    read_payloads,
    run_jobs,
)
from recsys_spark.training.group import group_size
from recsys_spark.training.ownership import number_ids


@dataclass(frozen=True)
class ALSFit:
    """Result of a fit.

    Attributes
    ----------
    users, items : one row per id: ``id``, ``features`` array<float>, and ``bias`` float where biases were
        fitted
    global_mean : mean of the ratings, 0 without biases
    all_pairs_weight : w₀
    iterations : in their order
    converged : whether the objective stalled within the tolerance
    persisted : the persisted frame that ``users`` and ``items`` are read from
    """

    users: DataFrame
    items: DataFrame
    global_mean: float
    all_pairs_weight: float
    iterations: list[Iteration]
    converged: bool
    persisted: DataFrame


def fit_als(
    ratings: DataFrame | PackedHistories,
    config: ALSConfig,
    per_job: int,
    start: tuple[DataFrame, DataFrame] | None,
    level: StorageLevel,
    features: Mapping[str, DataFrame] | None = None,
) -> ALSFit:
    """Train on ``ratings``.

    Parameters
    ----------
    ratings : DataFrame or PackedHistories
        ``user``, ``item`` (integers, longs or strings), ``rating`` float; repeated pairs count as often as
        they occur.
    config : ALSConfig
        What is minimised, and how.
    per_job : int
        Iterations of one barrier job; between jobs the factors are Spark data, and what a lost executor costs
        is one job.
    start : pair of DataFrames, optional
        Factors of users and items to begin with, in the shape of :class:`ALSFit`, with ids of the ratings'
        types.
    level : StorageLevel
        Of the packed ratings, where there are several jobs, and of the factors.
    features : mapping, optional
        Of a Bayesian fit: ``user features``, ``item features`` → ``id``, ``names``, ``weights``, one row per
        id. Ids without a rating have factors too then.

    Returns
    -------
    ALSFit

    Raises
    ------
    ModelError
        Null ids, null or non-finite ratings (with their number and an example), or no rows.
    GroupError
        The session cannot run all tasks at once.

    Notes
    -----
    Two shuffles for each job. The packed ratings take 12 to 20 bytes a row.
    """
    tasks = group_size(ratings.sparkSession)
    program = ALSProgram(config, id_types_of(ratings))
    carried = None if start is None else _carried(start, program)
    packed = packed_ratings(ratings, tasks)
    for kind, entries in (features or {}).items():
        packed = packed.unionAll(packed_frame(entries, kind, tasks))
    trained = run_jobs(program, packed, carried, per_job, tasks, level)
    last = trained.outcomes[-1]
    return ALSFit(
        users=_factors(trained.rows, USER, config),
        items=_factors(trained.rows, ITEM, config),
        global_mean=last.global_mean,
        all_pairs_weight=last.all_pairs_weight,
        iterations=[iteration for outcome in trained.outcomes for iteration in outcome.iterations],
        converged=last.converged,
        persisted=trained.persisted,
    )


def fold_in(
    ratings: DataFrame, items: DataFrame, config: ALSConfig, mean: float, all_pairs_weight: float, tasks: int
) -> DataFrame:
    """Vectors of the users in ``ratings``, each the exact solution of its own normal equation; the items stay
    as they are.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``rating`` float; rows of unknown items are ignored.
    items : DataFrame
        ``id``, ``features``, and ``bias`` with biases.
    config : ALSConfig
        The objective; its solver is ``cholesky`` or ``nonnegative``.
    mean, all_pairs_weight : float
        Global mean and w₀ of the fit.
    tasks : int
        How many tasks share the users.

    Returns
    -------
    DataFrame
        One row per user with a known item: ``id``, ``features``, and ``bias`` with biases. One shuffle; the
        items' factors pass through the driver and are broadcast.
    """
    ids, factors, biases = collect_factors(items)
    gram: Doubles = all_pairs_weight * (factors.T.astype(np.float64) @ factors)
    basis = np.eye(config.rank, dtype=np.float32)
    if config.solver != "nonnegative":
        basis = eigenbasis(gram)
        factors = product(factors, basis)
        squares = np.square(factors, dtype=np.float64).sum(axis=0)
        nothing = is_rounding(squares)
        factors[:, nothing] = squares[nothing] = 0.0
        gram = all_pairs_weight * squares
    gram = np.pad(gram, (0, int(config.biases)))
    columns, offsets = factors, np.zeros(0, np.float32)
    if config.biases:
        columns, offsets = np.column_stack([factors, np.ones(len(factors), np.float32)]), biases
    weights = Weights(config.implicit, np.float32(config.alpha), np.float32(mean))
    broadcast = ratings.sparkSession.sparkContext.broadcast((ids, columns, offsets, gram, basis.T))
    id_types = id_types_of(ratings)

    def fold(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads = read_payloads(batches)
        if EVENTS not in payloads:
            return
        events = events_of(payloads, id_types)
        catalogue, vectors, shifts, all_pairs, back = broadcast.value
        users, rows = number_ids(events[USER])
        names, codes = number_ids(events[ITEM])
        index = pc.fill_null(pc.index_in(names.cast(catalogue.type), value_set=catalogue), -1).to_numpy()[
            codes
        ]
        known = index >= 0
        values = events[RATING].to_numpy()
        targets = ((values > 0).astype(np.float32) if config.binary else values)[known]
        counted = known & (values > 0) if config.implicit or config.binary else known
        csr = sort_events(rows[known], index[known].astype(np.int32), targets, len(users), len(catalogue))
        solution = np.zeros((len(users), config.width), np.float32)
        counts = np.bincount(rows[counted], minlength=len(users))
        row_reg = row_regularization(counts, len(catalogue), config, all_pairs_weight)
        solve(config.solver, *csr, shifts, vectors, all_pairs, row_reg, weights, 0, solution)
        solution[:, : config.rank] = product(solution[:, : config.rank], back)
        served = np.flatnonzero(np.diff(csr[0]))
        yield from factor_rows(USER, (users.take(pa.array(served)), solution[served]), config, id_types)

    packed = by_task(packed_ratings(ratings, tasks), tasks)
    return _factors(packed.mapInArrow(fold, from_arrow_schema(factor_schema(id_types))), USER, config)


def _factors(rows: DataFrame, kind: str, config: ALSConfig) -> DataFrame:
    """Factors of users or items among a program's rows."""
    values = [FEATURES, *([BIAS] if config.biases else [])]
    # aliases, or users and items joined with each other would be ambiguous
    columns = [F.col(kind).alias("id"), *(F.col(name).alias(name) for name in values)]
    return rows.where(F.col(kind).isNotNull()).select(*columns)


def _carried(start: tuple[DataFrame, DataFrame], program: ALSProgram) -> DataFrame:
    """Factors of users and items as a program's rows."""
    kinds = {field.name: field.dataType for field in from_arrow_schema(program.schema()).fields}

    def rows(factors: DataFrame, kind: str) -> DataFrame:
        ids = [
            (F.col("id") if name == kind else F.lit(None)).try_cast(kinds[name]).alias(name)
            for name in (USER, ITEM)
        ]
        bias = F.col(BIAS) if BIAS in factors.columns else F.lit(0.0)
        return factors.select(*ids, bias.cast("float").alias(BIAS), FEATURES)

    return rows(start[0], USER).unionAll(rows(start[1], ITEM))
