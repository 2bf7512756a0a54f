"""The ALS training program: what every task of a group runs (:mod:`recsys_spark.collectives`).

It minimises

    Σ_obs a (p − x_u·y_i)²  +  w₀ Σ_all (x_u·y_i)²  +  λ ( Σ_u s_u |x_u|² + Σ_i s_i |y_i|² )

by turns: items from users, users from items. In between, x is multiplied by the number, and y divided by it, that makes the
regularisation least: no score changes, and fewer iterations are needed. Only factor rows travel between the halves, each to
the tasks that need it. Gram matrices and the objective are summed over a fixed number of logical buckets, and a row's own sums
run over its events in order, so the factors are the same to the last bit on any number of tasks. Rows with very many events are
solved by all tasks together: the normal equation of each is summed, bucket by bucket, where its columns' vectors are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.collectives import Array, Group
from recsys_spark.kernels.least_squares import Floats, Longs, Weights, equation, solve, solve_equation
from recsys_spark.kernels.randomness import normal
from recsys_spark.models.interactions import Interactions, Side, from_bytes, owner_of_ids, to_bytes

Factors = tuple[pa.Array, Floats]
"""Ids, and their vectors, shape (n, width)."""


@dataclass(frozen=True)
class Problem:
    """The numbers of one fit.

    Attributes
    ----------
    rank : length of the factors
    iterations : at most so many
    solver : ``cg``, ``cholesky`` or ``nonnegative``
    steps : conjugate-gradient steps of each row
    implicit : whether ratings are weights, ``alpha`` · abs(r), of a preference for r > 0
    binary : whether every positive rating counts as 1, and others as 0
    alpha, regularization : as in Spark's ALS
    exponent : of the number of events in a row's regularisation
    all_pairs : w₀
    pairs_in_ridge : whether w₀ counts in the regularisation, as in iALS
    gravity : w₀ · n_users · n_items / n_events
    biases : whether a global mean and a bias for each row are fitted
    tolerance : stop when an iteration lowers the objective by less than this share; 0 for never
    seed : of the users' starting factors
    """

    rank: int
    iterations: int
    solver: str
    steps: int
    implicit: bool
    binary: bool
    alpha: float
    regularization: float
    exponent: float
    all_pairs: float
    pairs_in_ridge: bool
    gravity: float
    biases: bool
    tolerance: float
    seed: int

    @property
    def width(self) -> int:
        """Length of a row's vector: its factors, and its bias where there is one."""
        return self.rank + self.biases


@dataclass(frozen=True)
class Iteration:
    """What one iteration did: the objective after it, and its wall-clock seconds."""

    objective: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """One task's share of the result.

    Attributes
    ----------
    users, items : own ids and vectors; with biases the last column is the bias
    mean : global mean of the ratings, 0 without biases
    pairs : w₀
    history : the iterations
    converged : whether the objective stalled within ``tolerance``
    """

    users: Factors
    items: Factors
    mean: float
    pairs: float
    history: list[Iteration]
    converged: bool


def train(
    group: Group,
    data: Interactions,
    problem: Problem,
    start: tuple[Factors, Factors] | None = None,
    report: Callable[[Array], None] | None = None,
) -> Trained:
    """Fit the factors.

    Parameters
    ----------
    group : the tasks; all call this at once
    data : this task's share
    problem : the same in every task
    start : vectors of users and of items to begin with, any share of them in any task; rows without one start fresh
    report : called after each iteration with its number from 1, the objective and its seconds; in one task, or none

    Notes
    -----
    Memory of a task, in bytes: ``16 * own events + 4 * width * (own users + own items + users its items need + items its
    users need)``, and ``4 * width² * 128 / tasks`` for Gram matrices; while a half is exchanged once more what it sends.
    """
    users, items = data.users, data.items
    mean = data.mean if problem.biases else 0.0
    if problem.binary:
        users, items = _binary(users), _binary(items)
    x, y = _starting(users, problem), np.zeros((len(items.ids), problem.width), np.float32)
    if start is not None:
        _place(group, users, start[0], x)
        _place(group, items, start[1], y)
    pairs = problem.gravity * data.events / users.total / items.total if problem.gravity else problem.all_pairs
    only_positive = problem.implicit or problem.binary
    users_ridge = ridge_of(users.positive if only_positive else users.counts, items.total, problem, pairs)
    items_ridge = ridge_of(items.positive if only_positive else items.counts, users.total, problem, pairs)
    weights = Weights(problem.implicit, np.float32(problem.alpha), np.float32(mean))
    history: list[Iteration] = []
    converged = False
    while len(history) < problem.iterations and not converged:
        started = time.perf_counter()
        solve_side(group, items, users, x, y, items_ridge, pairs, weights, problem)
        _balance(group, (users, x[:, : problem.rank], users_ridge), (items, y[:, : problem.rank], items_ridge))
        losses = solve_side(group, users, items, y, x, users_ridge, pairs, weights, problem)
        objective = float(group.ordered_sum(losses)[0]) + _penalty(group, items, y, items_ridge)
        history.append(Iteration(objective, time.perf_counter() - started))
        if report is not None:
            report(np.array([len(history), history[-1].objective, history[-1].seconds]))
        if len(history) > 1 and problem.tolerance > 0:
            before = history[-2].objective
            converged = before - objective <= problem.tolerance * abs(before)
    return Trained((users.ids, x), (items.ids, y), mean, pairs, history, converged)


def solve_side(
    group: Group,
    side: Side,
    other: Side,
    other_vectors: Floats,
    vectors: Floats,
    ridge: Floats,
    pairs: float,
    weights: Weights,
    problem: Problem,
) -> npt.NDArray[np.float64]:
    """One half of an iteration: fetch the other side's vectors, then solve every own row of ``side`` in place.

    Returns
    -------
    float64 array, shape (own buckets, 1)
        The rows' part of the objective, for each own bucket.
    """
    gram = _gram(group, other, other_vectors, pairs, problem)
    shared = _solve_heavy(group, side, other, other_vectors, gram, ridge, weights, problem)
    seen, offsets = _with_offsets(np.concatenate(group.all_to_all([other_vectors[rows] for rows in other.give])), problem)
    losses = np.zeros((len(side.bucket_rows) - 1, 1))
    vectors[list(shared)] = 0.0  # without events here, they stay at zero and cost nothing
    for bucket in range(len(losses)):
        rows = slice(side.bucket_rows[bucket], side.bucket_rows[bucket + 1])
        losses[bucket] = solve(
            problem.solver,
            side.indptr[rows.start : rows.stop + 1],
            side.columns,
            side.ratings,
            offsets,
            seen,
            gram,
            ridge[rows],
            weights,
            problem.steps,
            vectors[rows],
        )
    for row, (vector, loss) in shared.items():
        vectors[row] = vector
        losses[np.searchsorted(side.bucket_rows, row, side="right") - 1] += loss
    return losses


def _solve_heavy(
    group: Group,
    side: Side,
    other: Side,
    other_vectors: Floats,
    gram: Floats,
    ridge: Floats,
    weights: Weights,
    problem: Problem,
) -> dict[int, tuple[Floats, float]]:
    """Vector and part of the objective of each own row that all tasks share: exact, whatever the solver."""
    solved: dict[int, tuple[Floats, float]] = {}
    heavy, width = side.heavy, problem.width
    if not len(heavy.positions):
        return solved
    own, offsets = _with_offsets(other_vectors.copy(), problem)
    parts = np.empty((len(other.bucket_rows) - 1, width * width + width + 1), np.float32)
    for row, position in enumerate(heavy.positions.tolist()):
        begin, end = heavy.indptr[row : row + 2]
        cuts = begin + np.searchsorted(heavy.columns[begin:end], other.bucket_rows)
        for part, (low, high) in zip(parts, pairwise(cuts), strict=True):
            part[:] = equation(heavy.columns[low:high], heavy.ratings[low:high], offsets, own, weights)
        total: npt.NDArray[np.float64] = group.ordered_sum(parts)
        place = position - side.start
        if 0 <= place < len(side.ids):
            matrix = total[: width * width].reshape(width, width)
            matrix += gram + ridge[place] * np.eye(width)
            vector = np.zeros(width, np.float32)
            solved[place] = vector, total[-1] + solve_equation(problem.solver, matrix, total[width * width : -1], vector)
    return solved


def _with_offsets(vectors: Floats, problem: Problem) -> tuple[Floats, Floats]:
    """Vectors as an equation takes them, and the columns' biases, in whose place ``vectors`` now hold 1; none without biases."""
    if not problem.biases:
        return vectors, np.zeros(0, np.float32)
    offsets = vectors[:, -1].copy()
    vectors[:, -1] = 1.0
    return vectors, offsets


def _gram(group: Group, side: Side, vectors: Floats, pairs: float, problem: Problem) -> Floats:
    """``pairs`` · VᵀV over all rows of a side, without biases, shape (width, width)."""
    gram = np.zeros((problem.width, problem.width), np.float32)
    if pairs:
        rank, factors = problem.rank, vectors[:, : problem.rank]
        parts = np.empty((len(side.bucket_rows) - 1, rank * rank), np.float32)
        for bucket in range(len(parts)):
            block = factors[side.bucket_rows[bucket] : side.bucket_rows[bucket + 1]]
            parts[bucket] = (block.T @ block).ravel()
        gram[:rank, :rank] = pairs * group.ordered_sum(parts).reshape(rank, rank)
    return gram


def _penalty(group: Group, side: Side, vectors: Floats, ridge: Floats) -> float:
    """λ Σ s |v|² over all rows of a side."""
    weights = ridge.astype(np.float64) * np.einsum("ij,ij->i", vectors, vectors)
    return float(group.ordered_sum(_bucketed(side, weights))[0])


def _balance(group: Group, users: tuple[Side, Floats, Floats], items: tuple[Side, Floats, Floats]) -> None:
    """Multiply the users' vectors by c and divide the items' by it, in place, where c makes their summed penalty least."""
    (_, x, _), (_, y, _) = users, items
    of_users, of_items = _penalty(group, *users), _penalty(group, *items)
    if of_users > 0 and of_items > 0:
        c = np.float32((of_items / of_users) ** 0.25)
        x *= c
        y /= c


def _bucketed(side: Side, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sum of the own rows' ``values`` for each own bucket, shape (own buckets, 1)."""
    bounds = side.bucket_rows
    return np.array([[values[a:b].sum()] for a, b in pairwise(bounds)]).reshape(-1, 1)


def _binary(side: Side) -> Side:
    heavy = replace(side.heavy, ratings=(side.heavy.ratings > 0).astype(np.float32))
    return replace(side, ratings=(side.ratings > 0).astype(np.float32), heavy=heavy)


def ridge_of(counts: Longs, other_rows: int, problem: Problem, pairs: float) -> Floats:
    """λ s of each row: of its number of events, and of the ``other_rows`` in iALS.

    Parameters
    ----------
    counts : events of each row, in implicit modes the positive ones
    other_rows : number of rows of the other side
    pairs : w₀

    Returns
    -------
    float32 array, shape (n_rows,)
    """
    base = counts + pairs * other_rows if problem.pairs_in_ridge else counts.astype(np.float64)
    return (problem.regularization * base**problem.exponent).astype(np.float32)


def _starting(users: Side, problem: Problem) -> Floats:
    """Random directions of length 1, a pure function of seed and id; biases start at zero."""
    vectors = np.zeros((len(users.ids), problem.width), np.float32)
    drawn = normal(problem.seed, users.words[:, None], np.arange(problem.rank))
    vectors[:, : problem.rank] = drawn / np.sqrt((drawn**2).sum(axis=1, keepdims=True))
    return vectors


def _place(group: Group, side: Side, given: Factors, vectors: Floats) -> None:
    """Send starting vectors to the tasks that own their ids, and put them into ``vectors``."""
    ids, rows = given
    owner = owner_of_ids(ids, side.owners)
    chosen = [np.flatnonzero(owner == task) for task in range(group.size)]
    names = group.all_to_all([to_bytes(ids.take(pa.array(rows_of))) for rows_of in chosen])
    parts = group.all_to_all([rows[rows_of] for rows_of in chosen])
    for name, part in zip(names, parts, strict=True):
        index = pc.index_in(from_bytes(name), value_set=side.ids)
        known = index.is_valid().to_numpy(zero_copy_only=False)
        vectors[index.drop_null().to_numpy()] = part[known]
