"""Gradient training in the tasks of a barrier job: from payloads to a state, and from the state to rows.

A job makes one row for each row of each table that is learnt, with Adam's moments of it, so that the next
job, or another fit, continues from there; the last job also makes one for the vector of each user and item
that the model is to serve.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats
from recsys_spark.packing import lists_of, one_array, table_from_bytes, tables_to_bytes
from recsys_spark.schema import ITEM, USER
from recsys_spark.training.barrier import CARRIED, Outcome, Payloads, Program, events_of
from recsys_spark.training.gradient.steps import Epoch, State
from recsys_spark.training.group import Group, Report
from recsys_spark.training.histories import Histories, build_histories, gather_features
from recsys_spark.training.ownership import send_to_owners, user_owners
from recsys_spark.training.side_features import ITEM_FEATURES, USER_FEATURES

FEATURE, NAME, VALUES = "feature", "name", "values"
USER_VECTORS, ITEM_VECTORS = "user vectors", "item vectors"
KEYS = {
    "users": USER,
    "items": ITEM,
    "inputs": ITEM,
    "outputs": ITEM,
    USER_FEATURES: FEATURE,
    ITEM_FEATURES: FEATURE,
    USER_VECTORS: USER,
    ITEM_VECTORS: ITEM,
}
"""Table → the column that names its rows; the tables of layers have none, and are one row each."""
RESULT_ROWS = 10_000
"""Rows of a batch of results."""


@dataclass(frozen=True)
class GradientOutcome(Outcome):
    """What a job of gradient training reports; ``done`` counts epochs.

    Attributes
    ----------
    steps : steps of Adam, of this job and those before it
    best : as in :class:`~recsys_spark.training.gradient.steps.State`
    epochs : of this job
    """

    steps: int
    best: tuple[float, int] | None
    epochs: list[Epoch]


OutcomeT = TypeVar("OutcomeT", bound=GradientOutcome)


class GradientProgram(Program[OutcomeT]):
    """A model that is trained by gradients, as a barrier job runs it."""

    objective_name: ClassVar[str] = "loss"

    @property
    @abstractmethod
    def explicit(self) -> bool:
        """Whether every rating counts as it is; otherwise those above 0 are positives."""

    @abstractmethod
    def initial_state(self, data: Histories) -> State:
        """What training starts from."""

    @abstractmethod
    def train(
        self, group: Group, data: Histories, state: State, until: int, report: Report = None
    ) -> list[Epoch]:
        """Continue from ``state``, in place, to the epoch ``until``, or to where it stops improving."""

    @abstractmethod
    def finished(self, state: State) -> bool:
        """Whether no epoch is to follow."""

    @abstractmethod
    def served_vectors(self, data: Histories, state: State) -> tuple[Floats, Floats]:
        """What is served of the own users and of the catalogue, one row each."""

    @abstractmethod
    def extend_outcome(
        self, outcome: GradientOutcome, group: Group, data: Histories, state: State
    ) -> OutcomeT:
        """The ``outcome``, with what the model adds."""

    def schema(self) -> pa.Schema:
        """``name`` of a table, the id of its row in one of ``user``, ``item`` and ``feature``, and the
        row's ``values``.
        """
        ids = [(USER, self.id_types[0]), (ITEM, self.id_types[1]), (FEATURE, pa.string())]
        return pa.schema([(NAME, pa.string()), *ids, (VALUES, pa.list_(pa.float32()))])

    def run(
        self, group: Group, payloads: Payloads, before: OutcomeT | None, until: int, report: Report
    ) -> tuple[Iterator[pa.RecordBatch], OutcomeT]:
        """One job: lay the histories out, train, and return what was learnt."""
        data = build_histories(group, events_of(payloads, self.id_types), self.explicit)
        if not group.all_reduce(np.array([len(data.items)], np.int64))[0]:
            raise ModelError("the training data has no ratings above 0")
        data = replace(
            data,
            user_features=gather_features(group, data.ids, payloads.get(USER_FEATURES, []), owned=True),
            item_features=gather_features(
                group, data.catalogue, payloads.get(ITEM_FEATURES, []), owned=False
            ),
        )
        state = self.initial_state(data)
        if before is not None:
            state = replace(state, steps=before.steps, epochs=before.done, best=before.best)
        _resume(group, payloads.get(CARRIED, []), data, state)
        epochs = self.train(group, data, state, until, report)
        if epochs and not np.isfinite(epochs[-1].loss):
            raise ModelError(f"the loss is {epochs[-1].loss} after epoch {state.epochs}: lower stepSize")
        finished = self.finished(state)
        rows = self._learnt_rows(group, data, state)
        if finished:
            rows = chain(self._served_rows(group, data, state), rows)
        common = GradientOutcome(state.epochs, finished, state.steps, state.best, epochs)
        return rows, self.extend_outcome(common, group, data, state)

    def _served_rows(self, group: Group, data: Histories, state: State) -> Iterator[pa.RecordBatch]:
        """Rows of the vectors that the model serves; the items' are task 0's."""
        users, items = self.served_vectors(data, state)
        yield from self._rows(USER_VECTORS, data.ids, users)
        if group.rank == 0:
            yield from self._rows(ITEM_VECTORS, data.catalogue, items)

    def _learnt_rows(self, group: Group, data: Histories, state: State) -> Iterator[pa.RecordBatch]:
        """Rows of every table with its moments; those of replicated tables are task 0's."""
        for name, table in state.tables.items():
            parts = table, state.first[name], state.second[name]
            ids = _row_ids(name, data)
            if ids is None and group.rank == 0:
                yield from self._rows(name, None, np.concatenate([part.ravel() for part in parts])[None])
            elif KEYS.get(name) == USER or (ids is not None and group.rank == 0):
                yield from self._rows(name, ids, np.concatenate(parts, axis=1))

    def _rows(self, name: str, ids: pa.Array | None, values: Floats) -> Iterator[pa.RecordBatch]:
        """A table as rows of :meth:`schema`."""
        schema = self.schema()
        for begin in range(0, len(values), RESULT_ROWS):
            part = values[begin : begin + RESULT_ROWS]
            columns = {field.name: pa.nulls(len(part), field.type) for field in schema}
            columns |= {NAME: pa.array([name] * len(part)), VALUES: lists_of(part)}
            if ids is not None:
                columns[KEYS[name]] = ids.slice(begin, RESULT_ROWS)
            yield pa.RecordBatch.from_pydict(columns)


def _row_ids(name: str, data: Histories) -> pa.Array | None:
    """Ids or features that the rows of a table belong to; None for a layer."""
    if KEYS.get(name) == FEATURE:
        return (data.user_features if name == USER_FEATURES else data.item_features).names
    return {USER: data.ids, ITEM: data.catalogue}.get(KEYS.get(name, ""))


def _resume(group: Group, carried: list[pa.Table], data: Histories, state: State) -> None:
    """Put rows that were learnt earlier, which come in any task, into ``state``."""
    users = [table.filter(table[USER].is_valid()) for table in carried]
    others = [table.filter(pc.invert(table[USER].is_valid())) for table in carried]
    own = send_to_owners(group, users, USER, user_owners(group.size))
    received = own, group.all_gather(tables_to_bytes(others))
    for learnt in map(table_from_bytes, received):
        if learnt is None:
            continue
        for name in pc.unique(one_array(learnt[NAME])).to_pylist():
            _put(learnt.filter(pc.equal(learnt[NAME], name)), name, _row_ids(name, data), state)


def _put(rows: pa.Table, name: str, ids: pa.Array | None, state: State) -> None:
    """Rows of one table into ``state``: their values, and Adam's moments if they have some."""
    values = np.asarray(one_array(rows[VALUES]).flatten(), np.float32)
    arrays: tuple[Floats, ...] = (state.tables[name], state.first[name], state.second[name])
    if ids is None:
        for array, part in zip(arrays, values.reshape(-1, arrays[0].size), strict=False):
            array[:] = part.reshape(array.shape)
        return
    index = pc.index_in(one_array(rows[KEYS[name]]).cast(ids.type), value_set=ids)
    known = index.is_valid().to_numpy(zero_copy_only=False)
    values = values.reshape(rows.num_rows, -1)[known]
    width = arrays[0].shape[1]
    for number, array in enumerate(arrays[: values.shape[1] // width]):
        array[index.drop_null().to_numpy()] = values[:, number * width : (number + 1) * width]
