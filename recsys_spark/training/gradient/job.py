"""Gradient training on Spark: fits as barrier jobs (:mod:`recsys_spark.training.barrier`), and what they
learnt as frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.arrays import Floats
from recsys_spark.schema import ITEM, USER
from recsys_spark.training.barrier import packed_frame, packed_ratings, run_jobs
from recsys_spark.training.gradient.program import (
    FEATURE,
    ITEM_VECTORS,
    NAME,
    USER_VECTORS,
    VALUES,
    GradientOutcome,
    GradientProgram,
)
from recsys_spark.training.gradient.steps import Epoch
from recsys_spark.training.group import group_size

OutcomeT = TypeVar("OutcomeT", bound=GradientOutcome)


@dataclass(frozen=True)
class TrainingData:
    """What a fit reads.

    Attributes
    ----------
    ratings : ``user``, ``item`` (integers, longs or strings), ``rating`` float
    features : ``user features`` and ``item features``, where there are any, as
        :func:`recsys_spark.training.side_features.entries_of` makes them, with ids of the ratings' types
    start : ``tables`` of another fit to continue from, without Adam's moments; what it does not have starts
        fresh
    """

    ratings: DataFrame | PackedHistories
    features: dict[str, DataFrame]
    start: DataFrame | None


@dataclass(frozen=True)
class GradientFit(Generic[OutcomeT]):
    """Result of a fit.

    Attributes
    ----------
    users, items : one row per id: ``id``, ``values`` array<float>, what is served
    tables : all that is learnt: ``name`` of a table; ``user``, ``item`` or ``feature`` that its row belongs
        to, none for a layer; ``values`` array<float>
    epochs : in their order
    outcome : of the last job
    persisted : the persisted frame that these are read from
    """

    users: DataFrame
    items: DataFrame
    tables: DataFrame
    epochs: list[Epoch]
    outcome: OutcomeT
    persisted: DataFrame


def fit_gradient(
    data: TrainingData, program: GradientProgram[OutcomeT], per_job: int, level: StorageLevel
) -> GradientFit[OutcomeT]:
    """Train ``program``.

    Parameters
    ----------
    data : TrainingData
    program : GradientProgram
        The model.
    per_job : int
        Epochs of one barrier job; between jobs all that is learnt, with Adam's moments, is Spark data, and
        what a lost executor costs is one job.
    level : StorageLevel
        Of the packed inputs, where there are several jobs, and of the result.

    Returns
    -------
    GradientFit

    Raises
    ------
    ModelError
        Null ids, null or non-finite ratings (with their number and an example), or no rows.
    GroupError
        The session cannot run all tasks at once.
    """
    tasks = group_size(data.ratings.sparkSession)
    packed = packed_ratings(data.ratings, tasks)
    for kind, entries in data.features.items():
        packed = packed.unionAll(packed_frame(entries, kind, tasks))
    trained = run_jobs(program, packed, data.start, per_job, tasks, level)
    rows = trained.rows
    values_only = F.slice(VALUES, F.lit(1), (F.size(VALUES) / 3).cast("int")).alias(VALUES)
    learnt = rows.where(~F.col(NAME).isin(USER_VECTORS, ITEM_VECTORS))
    values = F.col(VALUES).alias(VALUES)  # or users and items joined with each other would be ambiguous
    return GradientFit(
        users=rows.where(F.col(NAME) == USER_VECTORS).select(F.col(USER).alias("id"), values),
        items=rows.where(F.col(NAME) == ITEM_VECTORS).select(F.col(ITEM).alias("id"), values),
        tables=learnt.select(NAME, USER, ITEM, FEATURE, values_only),
        epochs=[epoch for outcome in trained.outcomes for epoch in outcome.epochs],
        outcome=trained.outcomes[-1],
        persisted=trained.persisted,
    )


def collect_layers(tables: DataFrame) -> dict[str, Floats]:
    """The network's tables among a fit's ``tables``, on the driver."""
    is_layer = F.col(NAME).startswith("weights ") | F.col(NAME).startswith("biases ")
    rows = tables.where(is_layer).select(NAME, VALUES).collect()
    return layers_of({row[NAME]: np.array(row[VALUES], np.float32) for row in rows})


def layers_of(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """A network's tables from their values, as ``weights 0``, ``biases 0`` and so on."""
    layers, number = {}, 0
    while f"weights {number}" in values:
        biases = values[f"biases {number}"]
        layers[f"weights {number}"] = values[f"weights {number}"].reshape(-1, len(biases))
        layers[f"biases {number}"] = biases[None]
        number += 1
    return layers


def collect_features(tables: DataFrame, name: str, width: int) -> tuple[pa.Array, Floats]:
    """Names of features, ascending, and their vectors, of table ``name`` among a fit's ``tables``, on the
    driver.
    """
    rows = sorted(
        tables.where(F.col(NAME) == name).select(FEATURE, VALUES).collect(), key=lambda row: row[FEATURE]
    )
    vectors = np.array([row[VALUES] for row in rows], np.float32).reshape(len(rows), width)
    return pa.array([row[FEATURE] for row in rows], pa.string()), vectors
