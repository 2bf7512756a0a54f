"""The leading right singular vectors of a normalised matrix of interactions, on a group of tasks.

The matrix is ``R̃ = D_u^-½ R D_i^-½``: a 1 for each interaction, divided by the roots of its user's and its
item's numbers of interactions. Its largest singular value is 1. Block Lanczos iteration (Golub & Underwood
1977) from random vectors: each pass multiplies a block of vectors by ``R̃ᵀR̃`` and makes the result orthogonal
to all blocks before, and the singular vectors are found in the space that they span, which has at least three
times as many dimensions as are wanted.

Users and items lie with their owners (:mod:`recsys_spark.training.interactions`); of vectors only the rows
travel that a task needs. A row's sums run over its interactions in order, and sums over rows bucket by
bucket, so that the result is the same to the last bit on any number of tasks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame

from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.arrays import Doubles, Floats, Ints
from recsys_spark.kernels.bags import bag_sums
from recsys_spark.kernels.randomness import normal
from recsys_spark.packing import lists_of
from recsys_spark.training.barrier import (
    IdTypes,
    Outcome,
    Payloads,
    Program,
    events_of,
    id_types_of,
    packed_ratings,
    run_jobs,
)
from recsys_spark.training.group import Group, Report, group_size
from recsys_spark.training.histories import positive
from recsys_spark.training.interactions import Interactions, Side, prepare

BLOCK = 32
"""Vectors of a pass."""
SPACE = 3
"""Dimensions of the space for each singular vector wanted."""
LEAST_PASSES = 12
NO_LENGTH = 1e-12
"""Square of a length that is rounding: a direction as short is none."""
NO_VALUE = 1e-6
"""Square of a singular value that is rounding."""
_LIGHT = np.iinfo(np.int64).max
_OUTPUT_ROWS = 10_000


@dataclass(frozen=True)
class SpectralConfig:
    """What is looked for.

    Attributes
    ----------
    rank : singular vectors
    seed : of the random vectors at the start
    """

    rank: int
    seed: int

    @property
    def passes(self) -> int:
        """Multiplications, at most."""
        return max(LEAST_PASSES, -(-SPACE * self.rank // BLOCK))


@dataclass(frozen=True)
class SpectralOutcome(Outcome):
    """What a fit reports beside its rows.

    Attributes
    ----------
    values : singular values, the largest first
    """

    values: list[float]


class SpectralFit(NamedTuple):
    """Result of a fit.

    Attributes
    ----------
    items : one row per item: ``id``, ``vector`` array<float>, ``count`` long: its users
    values : singular values, the largest first
    persisted : the persisted frame that ``items`` is read from
    """

    items: DataFrame
    values: list[float]
    persisted: DataFrame


def fit_spectral(histories: PackedHistories, config: SpectralConfig) -> SpectralFit:
    """Find singular vectors. One barrier job, of two shuffles.

    Parameters
    ----------
    histories : PackedHistories
        Interactions: pairs with a rating above 0.
    config : SpectralConfig
        How many.

    Raises
    ------
    ModelError
        Rows that cannot be trained on, or no rating above 0.
    GroupError
        The session cannot run all tasks at once.
    """
    tasks = group_size(histories.sparkSession)
    program = SpectralProgram(config, id_types_of(histories))
    level = StorageLevel.MEMORY_AND_DISK
    trained = run_jobs(program, packed_ratings(histories, tasks), None, config.passes, tasks, level)
    return SpectralFit(trained.rows, trained.outcomes[-1].values, trained.persisted)


class SpectralProgram(Program[SpectralOutcome]):
    """What every task runs.

    Parameters
    ----------
    config : SpectralConfig
        What is looked for.
    id_types : pair of pyarrow.DataType
        Of the ids of users and of items.
    """

    step_name: ClassVar[str] = "pass over the interactions"
    objective_name: ClassVar[str] = "sum of squares"
    outcome_type: ClassVar[type[Outcome]] = SpectralOutcome

    def __init__(self, config: SpectralConfig, id_types: IdTypes) -> None:
        self.config, self.id_types = config, id_types

    @property
    def max_steps(self) -> int:
        """Multiplications, at most."""
        return self.config.passes

    def schema(self) -> pa.Schema:
        """``id``, ``vector``, ``count``."""
        kinds = {"id": self.id_types[1], "vector": pa.list_(pa.float32()), "count": pa.int64()}
        return pa.schema(list(kinds.items()))

    def run(
        self, group: Group, payloads: Payloads, before: SpectralOutcome | None, until: int, report: Report
    ) -> tuple[Iterable[pa.RecordBatch], SpectralOutcome]:
        """The whole iteration, which is one job; see :meth:`Program.run`."""
        assert before is None  # noqa: S101
        events = positive(events_of(payloads, self.id_types))
        if not group.all_reduce(np.array([events.num_rows], np.int64))[0]:
            raise ModelError("no rating is above 0, and those alone are interactions")
        # sums of a row cost no more than its interactions: none has to be shared by all tasks
        data = prepare(group, events, _LIGHT)
        vectors, values = singular_vectors(group, data, self.config, report)
        outcome = SpectralOutcome(done=until, finished=True, values=values.tolist())
        return self._rows(data.items, vectors), outcome

    def _rows(self, items: Side, vectors: Floats) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(vectors), _OUTPUT_ROWS):
            part = slice(start, min(start + _OUTPUT_ROWS, len(vectors)))
            ids, counts = items.ids[part].cast(self.id_types[1]), pa.array(items.counts[part])
            columns = [ids, lists_of(vectors[part]), counts]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema())


def singular_vectors(
    group: Group, data: Interactions, config: SpectralConfig, report: Report = None
) -> tuple[Floats, Doubles]:
    """Leading right singular vectors of the normalised matrix.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    data : Interactions
        This task's share; ratings are not read.
    config : SpectralConfig
        The same in every task.
    report : callable, optional
        Called after each pass with its number from 1, the sum of the squares of the singular values found so
        far, and its seconds.

    Returns
    -------
    vectors : float32 array, shape (own items, found)
        At most ``rank``; fewer where the matrix has a smaller one.
    values : float64 array, shape (found,)
        Singular values, the largest first.

    Notes
    -----
    Memory of a task, in bytes: ``12 * rank`` for each of its items (at least 1,536), and 128 for each row of
    users or items that it holds or is sent. Time of a pass: 64 additions for each interaction, and the
    products of a block with all before it. The largest singular values are exact but for rounding, the last
    ones approximate where many are much alike.
    """
    matrix, items = _Normalized(group, data), data.items
    dimensions = min(config.passes * BLOCK, items.total)
    space = np.zeros((len(items.ids), dimensions), np.float32)
    projected = np.zeros((dimensions, dimensions))
    draws = normal(config.seed, items.id_hashes[:, None], np.arange(min(BLOCK, dimensions)))
    block = matrix.orthonormal(draws.astype(np.float32), space[:, :0])
    size, passes = 0, 0
    while passes < config.passes and size < dimensions:
        started = time.monotonic()
        if block.shape[1] < min(BLOCK, dimensions - size):
            # where a block has fewer directions that are new, fresh ones find what it cannot reach
            draws = normal(config.seed, items.id_hashes[:, None], np.arange(BLOCK) + (passes + 1) * BLOCK)
            beside = np.concatenate([space[:, :size], block], axis=1)
            block = np.concatenate([block, matrix.orthonormal(draws.astype(np.float32), beside)], axis=1)
        block = block[:, : dimensions - size]
        if not block.shape[1]:
            break
        new = slice(size, size + block.shape[1])
        space[:, new] = block
        size, passes = new.stop, passes + 1
        image = matrix.product(block)
        projected[:size, new] = matrix.inner(space[:, :size], image)
        if size < dimensions:
            block = matrix.orthonormal(image, space[:, :size])
        if report is not None:
            seconds = time.monotonic() - started
            report(np.array([passes, projected.trace(), seconds]))
    upper = np.triu(projected[:size, :size])
    squares, directions = matrix.eigh(upper + np.triu(upper, 1).T)
    chosen = np.argsort(-squares, kind="stable")[: config.rank]
    chosen = chosen[squares[chosen] > NO_VALUE]
    vectors = matrix.times(space[:, :size], directions[:, chosen])
    return vectors, np.sqrt(squares[chosen])


class _Normalized:
    """R̃ᵀR̃, and sums over the items of all tasks.

    Parameters
    ----------
    group : Group
        The tasks.
    data : Interactions
        This task's share.
    """

    def __init__(self, group: Group, data: Interactions) -> None:
        self.group, self.data = group, data
        self.of_users = (1.0 / np.maximum(data.users.counts, 1)).astype(np.float32)[:, None]
        self.of_items = (np.maximum(data.items.counts, 1) ** -0.5).astype(np.float32)[:, None]
        bounds = data.items.bucket_rows
        self.buckets = [slice(int(first), int(last)) for first, last in pairwise(bounds)]

    def product(self, block: Floats) -> Floats:
        """``R̃ᵀR̃`` times vectors, of which each task has its own items' rows."""
        users, items = self.data.users, self.data.items
        of_users = self._sums(users, items, block * self.of_items) * self.of_users
        return self._sums(items, users, of_users) * self.of_items

    def inner(self, left: Floats, right: Floats) -> Doubles:
        """``leftᵀ right``, the same in every task."""
        shape = left.shape[1], right.shape[1]
        parts = ((left[rows].T @ right[rows]).ravel() for rows in self.buckets)
        return self.group.ordered_sum(parts, len(self.buckets), shape[0] * shape[1]).reshape(shape)

    def times(self, vectors: Floats, matrix: Doubles) -> Floats:
        """``vectors`` times a small matrix, bucket by bucket, whose shapes no number of tasks changes."""
        result, single = np.empty((len(vectors), matrix.shape[1]), np.float32), matrix.astype(np.float32)
        for rows in self.buckets:
            result[rows] = vectors[rows] @ single
        return result

    def eigh(self, matrix: Doubles) -> tuple[Doubles, Doubles]:
        """Eigenvalues and eigenvectors; those of one task, as another's need not have the same signs."""
        n = len(matrix)
        own = np.zeros(0)
        if self.group.rank == 0:
            values, vectors = np.linalg.eigh(matrix)
            own = np.concatenate([values, vectors.ravel()])
        shared = self.group.all_gather(own)[0]
        return shared[:n], shared[n:].reshape(n, n)

    def orthonormal(self, block: Floats, space: Floats) -> Floats:
        """A basis of what ``block`` adds to ``space``, whose columns are orthonormal; perhaps of fewer
        columns. Everything is done twice, as rounding leaves some of it the first time.
        """
        for _ in range(2):
            if not block.shape[1]:
                break
            if space.shape[1]:
                block = block - self.times(space, self.inner(space, block))
            squares, directions = self.eigh(self.inner(block, block))
            kept = squares > NO_LENGTH
            block = self.times(block, directions[:, kept] / np.sqrt(squares[kept]))
        return block

    def _sums(self, side: Side, other: Side, rows: Floats) -> Floats:
        """For each own row of a side the sum of its columns' rows, which their owners send."""
        received = np.concatenate(self.group.all_to_all([rows[wanted] for wanted in other.rows_to_send]))
        every: Ints = np.arange(len(side.ids), dtype=np.int32)
        return bag_sums(side.indptr, side.columns, every, received)
