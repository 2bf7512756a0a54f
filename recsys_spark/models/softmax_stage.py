"""The softmax model on Spark: what its fits train, and vectors of users from histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.collectives import Group, Report
from recsys_spark.kernels.bags import Floats
from recsys_spark.models import stage
from recsys_spark.models.descent import Epoch, State
from recsys_spark.models.descent_stage import NAME, VALUES, features_table, layers_of
from recsys_spark.models.histories import Histories, distinct_pairs
from recsys_spark.models.interactions import numbered
from recsys_spark.models.side_features import Features
from recsys_spark.models.softmax_program import (
    INPUTS,
    USER_FEATURES,
    SoftmaxProblem,
    fresh,
    item_vectors,
    stalled,
    train,
    user_vectors,
)
from recsys_spark.packing import lists_of
from recsys_spark.recommend.host import collect_factors
from recsys_spark.schema import ITEM, RATING, USER


@dataclass(frozen=True)
class SoftmaxLearner:
    """The softmax model as :mod:`recsys_spark.models.descent_stage` trains it; serves ψ of users and v of items."""

    problem: SoftmaxProblem
    title: str = "softmax"
    explicit: bool = False

    @property
    def epochs(self) -> int:
        """At most so many."""
        return self.problem.epochs

    def fresh(self, data: Histories) -> State:
        """Random vectors and layers."""
        return fresh(data, self.problem)

    def train(self, group: Group, data: Histories, state: State, until: int, report: Report) -> list[Epoch]:
        """Go on from ``state``, in place."""
        return train(group, data, self.problem, state, until, report)

    def finished(self, state: State) -> bool:
        """Whether all epochs are done, or the validation has stalled."""
        return state.epochs >= self.problem.epochs or stalled(self.problem, state)

    def vectors(self, data: Histories, state: State) -> tuple[Floats, Floats]:
        """ψ of the own users, and v."""
        psi = user_vectors(data.indptr, data.items, data.user_features, state.tables, self.problem)
        return psi, item_vectors(state.tables, self.problem)

    def said(self, group: Group, data: Histories, state: State) -> dict[str, Any]:
        """Nothing."""
        return {}


def encode(ratings: DataFrame, features: DataFrame | None, tables: DataFrame, problem: SoftmaxProblem, tasks: int) -> DataFrame:
    """ψ of the users in ``ratings``, from their histories.

    Parameters
    ----------
    ratings : ``user``, ``item`` of the catalogue's type, ``rating`` float; rows of unknown items, and of 0 or less, are passed
        over
    features : of users, as :func:`recsys_spark.models.side_features.entries_of` makes them, or None
    tables : of a fit
    tasks : how many tasks share the users

    Returns
    -------
    DataFrame
        One row per user with a known item: ``id``, ``features``. One shuffle; the items' vectors pass through the driver and
        are broadcast. Without ``features`` all users pass for users without any.
    """
    ids, arrays, names = collect_tables(tables, problem)
    held = ratings.sparkSession.sparkContext.broadcast((ids, arrays, names))

    def vectors(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads = stage.payloads_of(batches)
        if stage.EVENTS not in payloads:
            return
        catalogue, learnt, known_names = held.value
        events = pa.concat_tables(payloads[stage.EVENTS])
        events = events.filter(pc.greater(events[RATING], 0.0))
        users, rows = numbered(events[USER])
        names, codes = numbered(events[ITEM])
        place = pc.fill_null(pc.index_in(names, value_set=catalogue), -1).to_numpy()[codes]
        served, indptr, history = distinct_pairs(rows, place, len(catalogue))
        served_ids = users.take(pa.array(served))
        of_users = Features.none(len(served))
        if USER_FEATURES in payloads:
            of_users = Features.of(served_ids, pa.concat_tables(payloads[USER_FEATURES]), known_names)
        else:
            learnt = {**learnt, USER_FEATURES: learnt[USER_FEATURES][:0]}
        psi = user_vectors(indptr, history, of_users, learnt, problem)
        yield pa.RecordBatch.from_arrays([served_ids, lists_of(psi)], names=["id", "features"])

    packed = stage.packed_ratings(ratings, tasks)
    if features is not None:
        packed = packed.unionAll(stage.packed_by_user(features, USER_FEATURES, tasks))
    schema = f"id {ratings.schema[USER].dataType.simpleString()}, features array<float>"
    return packed.repartitionById(tasks, F.col("task")).mapInArrow(vectors, schema)


def collect_tables(tables: DataFrame, problem: SoftmaxProblem) -> tuple[pa.Array, dict[str, Floats], pa.Array]:
    """What makes a user's vector, on the driver: ids of the items in ascending order, the tables by name, names of features."""
    inputs = tables.where(F.col(NAME) == INPUTS).select(F.col(ITEM).alias("id"), F.col(VALUES).alias("features"))
    ids, vectors, _ = collect_factors(inputs)
    names, of_features = features_table(tables, USER_FEATURES, problem.dim)
    return ids, {INPUTS: vectors, USER_FEATURES: of_features, **layers_of(tables)}, names
