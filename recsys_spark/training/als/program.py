"""The ALS training program: what every task of a group runs (:mod:`recsys_spark.training.barrier`).

It minimises

    Σ_obs a (p − x_u·y_i)²  +  w₀ Σ_all (x_u·y_i)²  +  λ ( Σ_u s_u |x_u|² + Σ_i s_i |y_i|² )

by turns: items from users, users from items (:mod:`recsys_spark.training.als.half_step`). In between, x is
multiplied by the number, and y divided by it, that makes the regularisation least: no score changes, and
fewer iterations are needed. The factors are the same to the last bit on any number of tasks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats
from recsys_spark.kernels.least_squares import Weights
from recsys_spark.kernels.randomness import normal
from recsys_spark.packing import ids_from_bytes, ids_to_bytes, lists_of, one_array
from recsys_spark.schema import ITEM, USER
from recsys_spark.training.als.config import ALSConfig
from recsys_spark.training.als.gibbs import sample
from recsys_spark.training.als.half_step import HalfStep, row_regularization
from recsys_spark.training.als.prior_means import SideFeatures, bag_of_columns, side_features
from recsys_spark.training.barrier import CARRIED, IdTypes, Outcome, Payloads, Program, events_of
from recsys_spark.training.group import Group, Report
from recsys_spark.training.interactions import Interactions, Side, prepare
from recsys_spark.training.ownership import owner_of_ids
from recsys_spark.training.side_features import ITEM_FEATURES, USER_FEATURES

BIAS, FEATURES = "bias", "features"
RESULT_ROWS = 10_000
"""Rows of a batch of results."""

Factors = tuple[pa.Array, Floats]
"""Ids, and their vectors, shape (n, width)."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration did: the objective after it, and its wall-clock seconds."""

    objective: float
    seconds: float


@dataclass(frozen=True)
class ALSOutcome(Outcome):
    """What a job of ALS reports.

    Attributes
    ----------
    iterations : of this job
    converged : whether the objective stalled within the tolerance
    global_mean : mean of the ratings; 0 without biases
    all_pairs_weight : w₀
    """

    iterations: list[Iteration]
    converged: bool
    global_mean: float
    all_pairs_weight: float


@dataclass(frozen=True)
class ALSProgram(Program[ALSOutcome]):
    """ALS as a barrier job runs it. Its rows hold an id in ``user`` or in ``item``, ``bias`` and
    ``features``.
    """

    config: ALSConfig
    id_types: IdTypes

    step_name: ClassVar[str] = "ALS iteration"
    objective_name: ClassVar[str] = "objective"
    outcome_type: ClassVar[type[Outcome]] = ALSOutcome

    @property
    def max_steps(self) -> int:
        """Largest number of iterations."""
        return self.config.max_iterations

    def schema(self) -> pa.Schema:
        """``user``, ``item``, ``bias``, ``features``."""
        return factor_schema(self.id_types)

    def run(
        self, group: Group, payloads: Payloads, before: ALSOutcome | None, until: int, report: Report
    ) -> tuple[Iterator[pa.RecordBatch], ALSOutcome]:
        """One job: lay the events out, iterate, and return the factors."""
        interactions = prepare(group, events_of(payloads, self.id_types))
        carried, start = payloads.get(CARRIED, []), None
        if group.all_reduce(np.array([len(carried)], np.int64))[0]:
            start = self._factors(carried, USER), self._factors(carried, ITEM)
        done = before.done if before is not None else 0
        if self.config.samples:
            features = self.side_features(group, interactions, payloads)
            trained = sampled(group, interactions, self.config, report, features)
        else:
            config = replace(self.config, max_iterations=until - done)
            trained = train(group, interactions, config, start, report)
        rows = (
            factor_rows(kind, factors, self.config.served, self.id_types)
            for kind, factors in ((USER, trained.users), (ITEM, trained.items))
        )
        return chain.from_iterable(rows), ALSOutcome(
            done=until,
            finished=trained.converged or until == self.max_steps,
            iterations=trained.iterations,
            converged=trained.converged,
            global_mean=trained.global_mean,
            all_pairs_weight=trained.all_pairs_weight,
        )

    def side_features(
        self, group: Group, interactions: Interactions, payloads: Payloads
    ) -> tuple[SideFeatures | None, SideFeatures | None]:
        """Features of users and of items, from what came to any task; None where there are none.

        Parameters
        ----------
        group : Group
            The tasks; all call this at once.
        interactions : Interactions
            This task's share.
        payloads : dict
            As :meth:`run` has them.
        """
        users, items = interactions.users, interactions.items
        found: list[SideFeatures | None] = []
        for kind, side, other, has_bag in (
            (USER_FEATURES, users, items, self.config.histories),
            (ITEM_FEATURES, items, users, False),
        ):
            entries = payloads.get(kind, [])
            some = group.all_reduce(np.array([len(entries)], np.int64))[0]
            if not some and not has_bag:
                found.append(None)
                continue
            nothing = sparse.csr_matrix((len(side.ids), 0), dtype=np.float32)
            bag = bag_of_columns(group, side, other) if has_bag else nothing
            found.append(side_features(group, side, entries, bag))
        return found[0], found[1]

    def _factors(self, tables: list[pa.Table], kind: str) -> Factors:
        """Ids and vectors among the rows that the job before left."""
        id_type = self.id_types[(USER, ITEM).index(kind)]
        if not tables:
            return pa.array([], id_type), np.zeros((0, self.config.width), np.float32)
        rows = pa.concat_tables(tables)
        rows = rows.filter(rows[kind].is_valid())
        ids = one_array(rows[kind]).cast(id_type)
        vectors = np.asarray(one_array(rows[FEATURES]).flatten(), np.float32).reshape(
            len(ids), self.config.rank
        )
        if not self.config.biases:
            return ids, vectors
        return ids, np.column_stack([vectors, rows[BIAS].fill_null(0.0).to_numpy()])


@dataclass(frozen=True)
class TrainedFactors:
    """One task's share of the result.

    Attributes
    ----------
    users, items : own ids and vectors; with biases the last column is the bias
    global_mean : mean of the ratings, 0 without biases
    all_pairs_weight : w₀
    iterations : in their order
    converged : whether the objective stalled within the tolerance
    """

    users: Factors
    items: Factors
    global_mean: float
    all_pairs_weight: float
    iterations: list[Iteration]
    converged: bool


def train(
    group: Group,
    interactions: Interactions,
    config: ALSConfig,
    start: tuple[Factors, Factors] | None = None,
    report: Report = None,
) -> TrainedFactors:
    """Fit the factors.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    interactions : Interactions
        This task's share.
    config : ALSConfig
        The same in every task.
    start : pair of Factors, optional
        Vectors of users and of items to begin with, any share of them in any task; rows without one start
        fresh.
    report : callable, optional
        Called after each iteration with its number from 1, the objective and its seconds; in one task, or
        none.

    Returns
    -------
    TrainedFactors

    Raises
    ------
    ModelError
        The objective rises, or falls below what it can be: the weights are too large for the solver.

    Notes
    -----
    Memory of a task, in bytes: ``16 * own events + 4 * width * (own users + own items + users its items need
    + items its users need)``, and at most ``300 * width²`` for Gram matrices and their decomposition; while a
    half is exchanged once more what it sends.
    """
    users, items = interactions.users, interactions.items
    if config.binary:
        users, items = _binary(users), _binary(items)
    x, y = _initial_users(users, config), np.zeros((len(items.ids), config.width), np.float32)
    if start is not None:
        _place(group, users, start[0], x)
        _place(group, items, start[1], y)
    solve_users, solve_items = _half_steps(group, config, interactions, users, items)
    bounds = _Bounds.of(group, users, solve_users.weights)
    iterations: list[Iteration] = []
    converged = False
    while len(iterations) < config.max_iterations and not converged:
        started = time.perf_counter()
        solve_items(x, y)
        _balance(solve_users, x[:, : config.rank], solve_items, y[:, : config.rank])
        losses = solve_users(y, x)
        objective = float(group.ordered_sum(losses, *losses.shape)[0]) + solve_items.penalty(y)
        bounds.require(objective, iterations, config)
        iterations.append(Iteration(objective, time.perf_counter() - started))
        if report is not None:
            report(np.array([len(iterations), objective, iterations[-1].seconds]))
        if len(iterations) > 1 and config.tolerance > 0:
            previous = iterations[-2].objective
            converged = previous - objective <= config.tolerance * abs(previous)
    mean = interactions.mean if config.biases else 0.0
    return TrainedFactors(
        (users.ids, x), (items.ids, y), mean, solve_users.all_pairs_weight, iterations, converged
    )


def sampled(
    group: Group,
    interactions: Interactions,
    config: ALSConfig,
    report: Report,
    features: tuple[SideFeatures | None, SideFeatures | None] = (None, None),
) -> TrainedFactors:
    """The samples of a Bayesian fit as factors; the objective of an iteration is the squared error.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    interactions : Interactions
        This task's share.
    config : ALSConfig
        The same in every task.
    report : callable, optional
        As of :func:`train`.
    features : pair of SideFeatures or None
        Of users and of items.
    """
    found = sample(group, interactions, config, report, features)
    iterations = [Iteration(sweep.error, sweep.seconds) for sweep in found.sweeps]
    return TrainedFactors(found.users, found.items, interactions.mean, 0.0, iterations, False)


def factor_schema(id_types: IdTypes) -> pa.Schema:
    """Columns of factors as rows: an id in ``user`` or in ``item``, its ``bias`` and its ``features``."""
    fields = [
        (USER, id_types[0]),
        (ITEM, id_types[1]),
        (BIAS, pa.float32()),
        (FEATURES, pa.list_(pa.float32())),
    ]
    return pa.schema(fields)


def factor_rows(
    kind: str, factors: Factors, config: ALSConfig, id_types: IdTypes
) -> Iterator[pa.RecordBatch]:
    """Vectors of users or items as rows of :func:`factor_schema`."""
    ids, vectors = factors
    for begin in range(0, len(ids), RESULT_ROWS):
        part_ids, part = ids.slice(begin, RESULT_ROWS), vectors[begin : begin + RESULT_ROWS]
        users = part_ids if kind == USER else pa.nulls(len(part_ids), id_types[0])
        items = part_ids if kind == ITEM else pa.nulls(len(part_ids), id_types[1])
        features = lists_of(part[:, : config.rank])
        biases = (
            pa.array(np.ascontiguousarray(part[:, -1]))
            if config.biases
            else pa.nulls(len(part_ids), pa.float32())
        )
        yield pa.RecordBatch.from_arrays([users, items, biases, features], names=[USER, ITEM, BIAS, FEATURES])


@dataclass(frozen=True)
class _Bounds:
    """What the objective can be.

    Attributes
    ----------
    at_zero : where every vector is zero
    lowest : bound from below
    largest_weight : of an event
    """

    at_zero: float
    lowest: float
    largest_weight: float

    @classmethod
    def of(cls, group: Group, users: Side, weights: Weights) -> _Bounds:
        """Bounds for the events of all tasks."""
        at_zero = lowest = largest = 0.0
        for ratings in (users.ratings, users.heavy.ratings):
            if weights.implicit:
                with np.errstate(divide="ignore", over="ignore"):  # of alpha 0, of ratings beyond float32
                    confidence = weights.alpha * ratings[ratings > 0]
                    lowest -= len(confidence) + (1 / confidence).sum(dtype=np.float64)
                at_zero += len(confidence) + confidence.sum(dtype=np.float64)
                largest = max(largest, float(weights.alpha) * float(np.abs(ratings).max(initial=0)))
            else:
                at_zero += np.square(ratings - weights.mean, dtype=np.float64).sum()
        every = np.array(group.all_gather(np.array([at_zero, lowest, largest])))
        at_zero, lowest = every[:, :2].sum(axis=0).tolist()
        return cls(at_zero, lowest, 1 + float(every[:, 2].max()))

    def require(self, objective: float, before: list[Iteration], config: ALSConfig) -> None:
        """Raise ModelError for an objective that is higher than ``before``, or below the bound."""
        allowed = 1e-3 * abs(objective) + 1e-6 * self.at_zero
        risen = bool(before) and not objective <= before[-1].objective + allowed
        if not risen and objective >= self.lowest - allowed:
            return
        problem = f"rose from {before[-1].objective:.6g} to" if risen else "fell below what it can be, to"
        mend = (
            'solver="cg" computes in float32: use solver="cholesky", or'
            if config.solver == "cg"
            else "raise regParam, or"
        )
        raise ModelError(
            f"the objective {problem} {objective:.6g} in iteration {len(before) + 1}: rounding errors are "
            f"larger than what is fitted, with weights of up to {self.largest_weight:.3g}. {mend} scale the "
            "ratings or alpha down"
        )


def _half_steps(
    group: Group, config: ALSConfig, interactions: Interactions, users: Side, items: Side
) -> tuple[HalfStep, HalfStep]:
    """What solves the users from the items, and the items from the users."""
    pairs = config.all_pairs_weight
    if config.gravity:
        pairs = config.gravity * interactions.events / users.total / items.total
    mean = interactions.mean if config.biases else 0.0
    weights = Weights(config.implicit, np.float32(config.alpha), np.float32(mean))
    only_positive = config.implicit or config.binary
    halves = []
    for side, other in ((users, items), (items, users)):
        counts = side.positive if only_positive else side.counts
        row_reg = row_regularization(counts, other.total, config, pairs)
        halves.append(HalfStep(group, config, side, other, row_reg, pairs, weights))
    return halves[0], halves[1]


def _balance(users: HalfStep, x: Floats, items: HalfStep, y: Floats) -> None:
    """Multiply the users' vectors by c and divide the items' by it, in place, where c makes their summed
    penalty least.
    """
    user_penalty, item_penalty = users.penalty(x), items.penalty(y)
    if user_penalty > 0 and item_penalty > 0:
        c = np.float32((item_penalty / user_penalty) ** 0.25)
        x *= c
        y /= c


def _binary(side: Side) -> Side:
    """A side whose ratings above 0 are 1, and the others 0."""
    heavy = replace(side.heavy, ratings=(side.heavy.ratings > 0).astype(np.float32))
    return replace(side, ratings=(side.ratings > 0).astype(np.float32), heavy=heavy)


def _initial_users(users: Side, config: ALSConfig) -> Floats:
    """Random directions of length 1, a pure function of seed and id; biases start at zero."""
    vectors = np.zeros((len(users.ids), config.width), np.float32)
    drawn = normal(config.seed, users.id_hashes[:, None], np.arange(config.rank))
    vectors[:, : config.rank] = drawn / np.sqrt((drawn**2).sum(axis=1, keepdims=True))
    return vectors


def _place(group: Group, side: Side, factors: Factors, vectors: Floats) -> None:
    """Send starting vectors to the tasks that own their ids, and put them into ``vectors``."""
    ids, rows = factors
    owner = owner_of_ids(ids, side.owners)
    chosen = [np.flatnonzero(owner == task) for task in range(group.size)]
    names = group.all_to_all([ids_to_bytes(ids.take(pa.array(own))) for own in chosen])
    parts = group.all_to_all([rows[own] for own in chosen])
    for name, part in zip(names, parts, strict=True):
        index = pc.index_in(ids_from_bytes(name), value_set=side.ids)
        known = index.is_valid().to_numpy(zero_copy_only=False)
        vectors[index.drop_null().to_numpy()] = part[known]
