"""The softmax model on Spark: fits in barrier stages (:mod:`recsys_spark.models.stage`), and vectors of users from histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.collectives import Group, group_size
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.bags import Floats
from recsys_spark.models import stage
from recsys_spark.models.interactions import histories, numbered
from recsys_spark.models.softmax_program import (
    INPUTS,
    OUTPUTS,
    Epoch,
    SoftmaxProblem,
    State,
    item_vectors,
    stalled,
    train,
    user_vectors,
)
from recsys_spark.packing import lists_of, one_array, table_bytes
from recsys_spark.recommend.host import collect_factors
from recsys_spark.schema import ITEM, RATING, USER

_STATE = "state"
_RESULT_ROWS = 10_000
_IdTypes = tuple[pa.DataType, pa.DataType]


@dataclass(frozen=True)
class Fitted:
    """Result of a fit.

    Attributes
    ----------
    users : one row per user with a history: ``id``, ``features`` array<float>, ψ
    items : one row per item: ``id``, ``features``, v, and ``inputs``, its vector in a bag
    layers : one row per array of the network: ``name``, ``values``
    history : the epochs
    kept : the persisted frame that these are read from
    """

    users: DataFrame
    items: DataFrame
    layers: DataFrame
    history: list[Epoch]
    kept: DataFrame


def fit_softmax(
    ratings: DataFrame, problem: SoftmaxProblem, per_job: int, start: DataFrame | None, level: StorageLevel
) -> Fitted:
    """Train on ``ratings``.

    Parameters
    ----------
    ratings : ``user``, ``item`` (integers, longs or strings), ``rating`` float; rows of 0 or less are no history
    problem : what is minimised, and how
    per_job : epochs of one barrier job; between jobs all that is learnt, with Adam's moments, is Spark data, and what a lost
        executor costs is one job
    start : what :func:`saved_state` makes of a model, to go on from; items it does not have start fresh
    level : storage of the packed ratings, where there are several jobs, and of the result

    Raises
    ------
    ModelError
        Null ids, null or non-finite ratings (with their number and an example), or no rows.
    GroupError
        The session cannot run all tasks at once.
    """
    tasks = group_size(ratings.sparkSession)
    packed = stage.packed_ratings(ratings, tasks)
    if problem.epochs > per_job:
        packed = packed.persist(level)
    history: list[Epoch] = []
    said: dict[str, Any] = {"steps": 0, "epochs": 0, "best": None}
    result: DataFrame | None = None
    try:
        while True:
            until = min(problem.epochs, said["epochs"] + per_job)
            program = _Program(problem, stage.id_types_of(ratings), until, said["steps"], said["epochs"], said["best"])
            inputs = packed if start is None else packed.unionAll(stage.packed_frame(start, _STATE, tasks))
            say = stage.progress("softmax epoch", "loss", said["epochs"], problem.epochs)
            before = result
            result, said = stage.run(inputs, tasks, program, _result_schema(ratings), say, level)
            if before is not None:
                before.unpersist()
            history += [Epoch(**one) for one in said["history"]]
            start = result.where(F.col(_STATE).isNotNull()).select(ITEM, "name", _STATE)
            if said["done"]:
                users = result.where(F.col(USER).isNotNull()).select(F.col(USER).alias("id"), "features")
                return Fitted(users, _items(result, problem), _layers(result), history, result)
    finally:
        packed.unpersist()


def saved_state(items: DataFrame, layers: DataFrame, problem: SoftmaxProblem) -> DataFrame:
    """A model's items and layers, in the shape of :class:`Fitted`, as the start of another fit: without Adam's moments."""
    tables = F.col("inputs") if problem.tied else F.concat("inputs", "features")
    rows = items.select(F.col("id").alias(ITEM), F.lit(None).cast("string").alias("name"), tables.alias(_STATE))
    nothing = F.lit(None).cast(items.schema["id"].dataType).alias(ITEM)
    return rows.unionAll(layers.select(nothing, "name", F.col("values").alias(_STATE)))


def encode(ratings: DataFrame, items: DataFrame, layers: DataFrame, problem: SoftmaxProblem, tasks: int) -> DataFrame:
    """ψ of the users in ``ratings``, from their histories.

    Parameters
    ----------
    ratings : ``user``, ``item``, ``rating`` float; rows of unknown items, and of 0 or less, are passed over
    items, layers : of a fit
    tasks : how many tasks share the users

    Returns
    -------
    DataFrame
        One row per user with a known item: ``id``, ``features``. One shuffle; the items' vectors pass through the driver and
        are broadcast.
    """
    ids, tables = collect_tables(items, layers)
    held = ratings.sparkSession.sparkContext.broadcast((ids, tables))

    def vectors(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        events = stage.ratings_of(batches)
        if events is None:
            return
        catalogue, arrays = held.value
        events = events.filter(pc.greater(events[RATING], 0.0))
        users, rows = numbered(events[USER])
        names, codes = numbered(events[ITEM])
        place = pc.fill_null(pc.index_in(names.cast(catalogue.type), value_set=catalogue), -1).to_numpy()[codes]
        known = np.unique((rows.astype(np.int64) * max(1, len(catalogue)) + place)[place >= 0])
        served, starts = np.unique(known // max(1, len(catalogue)), return_index=True)
        indptr, history = np.append(starts, len(known)).astype(np.int64), (known % max(1, len(catalogue))).astype(np.int32)
        psi = user_vectors(indptr, history, arrays, problem)
        yield pa.RecordBatch.from_arrays([users.take(pa.array(served)), lists_of(psi)], names=["id", "features"])

    id_type = T.StructField("id", ratings.schema[USER].dataType)
    schema = T.StructType([id_type, T.StructField("features", T.ArrayType(T.FloatType()))])
    return stage.packed_ratings(ratings, tasks).repartitionById(tasks, F.col("task")).mapInArrow(vectors, schema)


def collect_tables(items: DataFrame, layers: DataFrame) -> tuple[pa.Array, dict[str, Floats]]:
    """A model on the driver: ids of the catalogue, ascending, and what scores need of :class:`State`'s tables."""
    ids, inputs, _ = collect_factors(items.select("id", F.col("inputs").alias("features")))
    tables = {INPUTS: inputs}
    for row in layers.collect():
        values = np.array(row["values"], np.float32)
        tables[row["name"]] = values[None] if row["name"].startswith("biases") else values
    number = 0
    while f"weights {number}" in tables:
        tables[f"weights {number}"] = tables[f"weights {number}"].reshape(-1, tables[f"biases {number}"].shape[1])
        number += 1
    return ids, tables


@dataclass(frozen=True)
class _Program:
    """What every task runs: epochs up to ``until``, from where the last job was."""

    problem: SoftmaxProblem
    id_types: _IdTypes
    until: int
    steps: int
    epochs: int
    best: tuple[float, int] | None

    def __call__(
        self, group: Group, payloads: stage.Payloads, report: stage.Report
    ) -> tuple[Iterator[pa.RecordBatch], dict[str, object]]:
        problem = self.problem
        data = histories(group, stage.events_of(payloads, self.id_types))
        state = State.fresh(hash_ids(data.catalogue), problem)
        state = replace(state, steps=self.steps, epochs=self.epochs, best=self.best)
        _resume(group, payloads.get(_STATE, []), data.catalogue, state)
        history = train(group, data, problem, state, self.until, report)
        rows = self._users(data.ids, user_vectors(data.indptr, data.items, state.tables, problem))
        if group.rank == 0:
            rows = chain(rows, self._items(data.catalogue, state), self._layers(state))
        done = state.epochs >= problem.epochs or stalled(problem, state)
        said = {"steps": state.steps, "epochs": state.epochs, "best": state.best, "done": done}
        return rows, {**said, "history": [one.__dict__ for one in history]}

    def _users(self, ids: pa.Array, psi: Floats) -> Iterator[pa.RecordBatch]:
        for begin in range(0, len(ids), _RESULT_ROWS):
            some = ids.slice(begin, _RESULT_ROWS)
            yield self._rows(users=some, features=lists_of(psi[begin : begin + _RESULT_ROWS]))

    def _items(self, ids: pa.Array, state: State) -> Iterator[pa.RecordBatch]:
        vectors = item_vectors(state.tables, self.problem)
        learnt = (state.tables, state.first, state.second)
        for begin in range(0, len(ids), _RESULT_ROWS):
            part = slice(begin, begin + _RESULT_ROWS)
            whole = np.concatenate([of[name][part] for of in learnt for name in _item_tables(state)], axis=1)
            yield self._rows(items=ids.slice(begin, _RESULT_ROWS), features=lists_of(vectors[part]), state=lists_of(whole))

    def _layers(self, state: State) -> Iterator[pa.RecordBatch]:
        for name in state.tables:
            if name not in _item_tables(state):
                whole = np.concatenate([of[name].ravel() for of in (state.tables, state.first, state.second)])
                yield self._rows(names=pa.array([name]), state=lists_of(whole[None]))

    def _rows(self, **columns: pa.Array) -> pa.RecordBatch:
        rows = len(next(iter(columns.values())))
        vectors = pa.list_(pa.float32())
        kinds = {
            "users": self.id_types[0],
            "items": self.id_types[1],
            "names": pa.string(),
            "features": vectors,
            "state": vectors,
        }
        arrays = [columns[name] if name in columns else pa.nulls(rows, kind) for name, kind in kinds.items()]
        return pa.RecordBatch.from_arrays(arrays, names=[USER, ITEM, "name", "features", _STATE])


def _result_schema(ratings: DataFrame) -> T.StructType:
    """Columns of a job's result: a user's ψ; an item's v and its state; or a layer's state."""
    vectors = T.ArrayType(T.FloatType())
    return T.StructType(
        [
            T.StructField(USER, ratings.schema[USER].dataType),
            T.StructField(ITEM, ratings.schema[ITEM].dataType),
            T.StructField("name", T.StringType()),
            T.StructField("features", vectors),
            T.StructField(_STATE, vectors),
        ]
    )


def _items(result: DataFrame, problem: SoftmaxProblem) -> DataFrame:
    inputs = F.slice(_STATE, 1, problem.dim).alias("inputs")
    return result.where(F.col(ITEM).isNotNull()).select(F.col(ITEM).alias("id"), "features", inputs)


def _layers(result: DataFrame) -> DataFrame:
    values = F.slice(_STATE, F.lit(1), (F.size(_STATE) / 3).cast("int")).alias("values")
    return result.where(F.col("name").isNotNull()).select("name", values)


def _item_tables(state: State) -> list[str]:
    return [name for name in (INPUTS, OUTPUTS) if name in state.tables]


def _resume(group: Group, payloads: list[pa.Table], catalogue: pa.Array, state: State) -> None:
    """Put what earlier jobs learnt, which comes in any task, into every task's ``state``, in place."""
    own = [np.frombuffer(table_bytes(table), np.uint8) for table in payloads]
    parts = group.all_gather(np.array([len(part) for part in own], np.int64))
    tables = []
    for lengths, data in zip(parts, group.all_gather(np.concatenate([np.zeros(0, np.uint8), *own])), strict=True):
        ends = np.cumsum(lengths)
        tables += [pa.ipc.open_stream(pa.py_buffer(data[a:b])).read_all() for a, b in zip(ends - lengths, ends, strict=True)]
    learnt = (state.tables, state.first, state.second)
    for table in tables:
        items = table.filter(table[ITEM].is_valid())
        place = pc.index_in(one_array(items[ITEM]).cast(catalogue.type), value_set=catalogue)
        known = place.is_valid().to_numpy(zero_copy_only=False)
        whole = np.asarray(one_array(items[_STATE]).flatten(), np.float32).reshape(len(known), -1)[known]
        rows, at = place.drop_null().to_numpy(), 0
        for of in learnt:
            for name in _item_tables(state):
                width = of[name].shape[1]
                if at < whole.shape[1]:  # a saved model has no moments
                    of[name][rows] = whole[:, at : at + width]
                at += width
        layers = table.filter(table["name"].is_valid())
        for name, values in zip(layers["name"].to_pylist(), layers[_STATE], strict=True):
            numbers, size = np.asarray(values.values, np.float32), state.tables[name].size
            for of, begin in zip(learnt, range(0, len(numbers), size), strict=False):
                of[name][:] = numbers[begin : begin + size].reshape(of[name].shape)
