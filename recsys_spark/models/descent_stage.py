"""Gradient training on Spark: fits in barrier stages (:mod:`recsys_spark.models.stage`), and what is learnt as rows.

A stage gives one row for each row of each table that was learnt, with Adam's moments of it, so that the next stage, or another
fit, goes on from there; and one for the vector of each user and item that the model is to serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.collectives import Array, Group, Report, group_size
from recsys_spark.errors import ModelError
from recsys_spark.kernels.bags import Floats
from recsys_spark.models import stage
from recsys_spark.models.descent import Epoch, State
from recsys_spark.models.histories import Histories, features_of, histories, table_of, table_to_bytes, to_owners
from recsys_spark.packing import lists_of, one_array
from recsys_spark.schema import ITEM, USER

FEATURE, NAME, VALUES = "feature", "name", "values"
USER_VECTORS, ITEM_VECTORS = "user vectors", "item vectors"
KEYS = {
    "users": USER, "items": ITEM, "inputs": ITEM, "outputs": ITEM, "user features": FEATURE, "item features": FEATURE,
    USER_VECTORS: USER, ITEM_VECTORS: ITEM,
}  # fmt: skip
"""Table → the column that names its rows; the tables of layers have none, and are one row each."""
_LEARNT = "learnt"
_RESULT_ROWS = 10_000


class Learner(Protocol):
    """What is trained: a model's program, with its numbers."""

    @property
    def title(self) -> str:
        """What its epochs are called in the lines of progress."""

    @property
    def explicit(self) -> bool:
        """Whether every rating counts as it is; otherwise those above 0 are positives."""

    @property
    def epochs(self) -> int:
        """At most so many."""

    def fresh(self, data: Histories) -> State:
        """What training starts from."""

    def train(self, group: Group, data: Histories, state: State, until: int, report: Report) -> list[Epoch]:
        """Go on from ``state``, in place, to the epoch ``until``, or to where it stops improving."""

    def finished(self, state: State) -> bool:
        """Whether no epoch is to follow."""

    def vectors(self, data: Histories, state: State) -> tuple[Floats, Floats]:
        """What is served of the own users and of the catalogue, one row each."""

    def said(self, group: Group, data: Histories, state: State) -> dict[str, Any]:
        """Numbers that the model keeps, as JSON has them."""


@dataclass(frozen=True)
class Fitted:
    """Result of a fit.

    Attributes
    ----------
    users, items : one row per id: ``id``, ``values`` array<float>, what is served
    tables : all that is learnt: ``name`` of a table; ``user``, ``item`` or ``feature`` that its row belongs to, none for a layer;
        ``values`` array<float>
    history : the epochs
    said : numbers that the model keeps
    kept : the persisted frame that these are read from
    """

    users: DataFrame
    items: DataFrame
    tables: DataFrame
    history: list[Epoch]
    said: dict[str, Any]
    kept: DataFrame


@dataclass(frozen=True)
class Inputs:
    """What a fit reads.

    Attributes
    ----------
    ratings : ``user``, ``item`` (integers, longs or strings), ``rating`` float
    features : ``user features`` and ``item features``, where there are any, as
        :func:`recsys_spark.models.side_features.entries_of` makes them, with ids of the ratings' types
    start : ``tables`` of another fit to go on from, without Adam's moments; what it does not have starts fresh
    """

    ratings: DataFrame
    features: dict[str, DataFrame]
    start: DataFrame | None


def fit(inputs: Inputs, learner: Learner, per_job: int, level: StorageLevel) -> Fitted:
    """Train ``learner``.

    Parameters
    ----------
    per_job : epochs of one barrier job; between jobs all that is learnt, with Adam's moments, is Spark data, and what a lost
        executor costs is one job
    level : storage of the packed inputs, where there are several jobs, and of the result

    Raises
    ------
    ModelError
        Null ids, null or non-finite ratings (with their number and an example), or no rows.
    GroupError
        The session cannot run all tasks at once.
    """
    ratings = inputs.ratings
    tasks = group_size(ratings.sparkSession)
    packed = stage.packed_ratings(ratings, tasks)
    for kind, entries in inputs.features.items():
        packed = packed.unionAll(stage.packed_frame(entries, kind, tasks))
    if learner.epochs > per_job:
        packed = packed.persist(level)

    def job(notes: list[stage.Note]) -> tuple[stage.Program, Callable[[Array], None]]:
        said: stage.Note = notes[-1] if notes else {"steps": 0, "epochs": 0, "best": None}
        until = min(learner.epochs, said["epochs"] + per_job)
        program = _Program(learner, stage.id_types_of(ratings), until, said["steps"], said["epochs"], said["best"])
        return program, stage.progress(f"{learner.title} epoch", "loss", said["epochs"], learner.epochs)

    def carry(result: DataFrame) -> DataFrame:
        return stage.packed_frame(_learnt(result), _LEARNT, tasks)

    first = None if inputs.start is None else stage.packed_frame(inputs.start, _LEARNT, tasks)
    result, notes = stage.run_jobs(packed, tasks, _schema(ratings), level, first, job, carry)
    rows = result.drop("note")
    users = rows.where(F.col(NAME) == USER_VECTORS).select(F.col(USER).alias("id"), VALUES)
    items = rows.where(F.col(NAME) == ITEM_VECTORS).select(F.col(ITEM).alias("id"), VALUES)
    of_table = F.slice(VALUES, F.lit(1), (F.size(VALUES) / 3).cast("int")).alias(VALUES)
    tables = _learnt(rows).select(NAME, USER, ITEM, FEATURE, of_table)
    history = [Epoch(**one) for said in notes for one in said["history"]]
    return Fitted(users, items, tables, history, notes[-1]["said"], result)


def layers_of(tables: DataFrame) -> dict[str, Floats]:
    """The network's tables among a fit's ``tables``, on the driver."""
    rows = tables.where(F.col(NAME).startswith("weights ") | F.col(NAME).startswith("biases ")).select(NAME, VALUES).collect()
    found = {row[NAME]: np.array(row[VALUES], np.float32) for row in rows}
    layers, number = {}, 0
    while f"weights {number}" in found:
        biases = found[f"biases {number}"]
        layers[f"weights {number}"] = found[f"weights {number}"].reshape(-1, len(biases))
        layers[f"biases {number}"] = biases[None]
        number += 1
    return layers


def features_table(tables: DataFrame, name: str, width: int) -> tuple[pa.Array, Floats]:
    """Names of features, ascending, and their vectors, of table ``name`` among a fit's ``tables``, on the driver."""
    rows = sorted(tables.where(F.col(NAME) == name).select(FEATURE, VALUES).collect(), key=lambda row: row[FEATURE])
    vectors = np.array([row[VALUES] for row in rows], np.float32).reshape(len(rows), width)
    return pa.array([row[FEATURE] for row in rows], pa.string()), vectors


def _learnt(result: DataFrame) -> DataFrame:
    """Rows of a result that hold what is learnt, with its moments."""
    served = F.col(NAME).isin(USER_VECTORS, ITEM_VECTORS)
    return result.where(F.col(NAME).isNotNull() & ~served).select(NAME, USER, ITEM, FEATURE, VALUES)


def _schema(ratings: DataFrame) -> T.StructType:
    fields = {NAME: T.StringType(), USER: ratings.schema[USER].dataType, ITEM: ratings.schema[ITEM].dataType}
    fields |= {FEATURE: T.StringType(), VALUES: T.ArrayType(T.FloatType())}
    return T.StructType([T.StructField(name, kind) for name, kind in fields.items()])


@dataclass(frozen=True)
class _Program:
    """What every task runs: epochs up to ``until``, from where the last job was."""

    learner: Learner
    id_types: tuple[pa.DataType, pa.DataType]
    until: int
    steps: int
    epochs: int
    best: tuple[float, int] | None

    def __call__(self, group: Group, payloads: stage.Payloads, report: Report) -> tuple[Iterator[pa.RecordBatch], stage.Note]:
        learner = self.learner
        data = histories(group, stage.events_of(payloads, self.id_types), learner.explicit)
        if not group.all_reduce(np.array([len(data.items)], np.int64))[0]:
            raise ModelError("there is not one rating above 0 to train on")
        data = replace(
            data,
            user_features=features_of(group, data.ids, payloads.get("user features", []), owned=True),
            item_features=features_of(group, data.catalogue, payloads.get("item features", []), owned=False),
        )
        state = replace(learner.fresh(data), steps=self.steps, epochs=self.epochs, best=self.best)
        _resume(group, payloads.get(_LEARNT, []), data, state)
        history = learner.train(group, data, state, self.until, report)
        if history and not np.isfinite(history[-1].loss):
            raise ModelError(f"the loss is {history[-1].loss} after epoch {state.epochs}: lower stepSize")
        users, items = learner.vectors(data, state)
        rows = chain(self._rows(USER_VECTORS, data.ids, users), *self._learnt(group, data, state))
        if group.rank == 0:
            rows = chain(rows, self._rows(ITEM_VECTORS, data.catalogue, items))
        said = {"steps": state.steps, "epochs": state.epochs, "best": state.best, "done": learner.finished(state)}
        return rows, {**said, "said": learner.said(group, data, state), "history": [one.__dict__ for one in history]}

    def _learnt(self, group: Group, data: Histories, state: State) -> Iterator[Iterator[pa.RecordBatch]]:
        """Rows of every table; those that are the same in every task are task 0's."""
        for name, table in state.tables.items():
            whole = (table, state.first[name], state.second[name])
            ids = _ids(name, data)
            if ids is None and group.rank == 0:
                yield self._rows(name, None, np.concatenate([part.ravel() for part in whole])[None])
            elif KEYS.get(name) == USER or (ids is not None and group.rank == 0):
                yield self._rows(name, ids, np.concatenate(whole, axis=1))

    def _rows(self, name: str, ids: pa.Array | None, values: Floats) -> Iterator[pa.RecordBatch]:
        kinds = {USER: self.id_types[0], ITEM: self.id_types[1], FEATURE: pa.string()}
        for begin in range(0, len(values), _RESULT_ROWS):
            part = values[begin : begin + _RESULT_ROWS]
            columns = [pa.nulls(len(part), kind) for kind in kinds.values()]
            if ids is not None:
                columns[list(kinds).index(KEYS[name])] = ids.slice(begin, _RESULT_ROWS)
            names = pa.array([name] * len(part))
            yield pa.RecordBatch.from_arrays([names, *columns, lists_of(part)], names=[NAME, *kinds, VALUES])


def _ids(name: str, data: Histories) -> pa.Array | None:
    """What the rows of a table belong to; None for a layer."""
    if KEYS.get(name) == FEATURE:
        return (data.user_features if name == "user features" else data.item_features).names
    return {USER: data.ids, ITEM: data.catalogue}.get(KEYS.get(name, ""))


def _resume(group: Group, payloads: list[pa.Table], data: Histories, state: State) -> None:
    """Put what was learnt earlier, which comes in any task, where it belongs, in place."""
    of_users = [table.filter(table[USER].is_valid()) for table in payloads]
    others = [table.filter(pc.invert(table[USER].is_valid())) for table in payloads]
    for learnt in (table_of(to_owners(group, of_users, USER)), table_of(group.all_gather(table_to_bytes(others)))):
        if learnt is None:
            continue
        for name in pc.unique(one_array(learnt[NAME])).to_pylist():
            _put(learnt.filter(pc.equal(learnt[NAME], name)), name, _ids(name, data), state)


def _put(rows: pa.Table, name: str, ids: pa.Array | None, state: State) -> None:
    """Rows of one table: their values, and Adam's moments if they have some."""
    values = np.asarray(one_array(rows[VALUES]).flatten(), np.float32)
    every: tuple[Floats, ...] = (state.tables[name], state.first[name], state.second[name])
    if ids is None:
        for of, part in zip(every, values.reshape(-1, every[0].size), strict=False):
            of[:] = part.reshape(of.shape)
        return
    place = pc.index_in(one_array(rows[KEYS[name]]).cast(ids.type), value_set=ids)
    known = place.is_valid().to_numpy(zero_copy_only=False)
    values = values.reshape(rows.num_rows, -1)[known]
    width = every[0].shape[1]
    for number, of in enumerate(every[: values.shape[1] // width]):
        of[place.drop_null().to_numpy()] = values[:, number * width : (number + 1) * width]
