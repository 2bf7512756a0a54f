"""Bayesian factors of ratings, by Gibbs sampling (Salakhutdinov & Mnih 2008).

    r ~ N(μ + b_u + b_i + x_u·y_i, 1/τ)     (x_u, b_u) ~ N(m, Λ⁻¹)     m, Λ ~ Normal–Wishart     τ ~ Gamma

With side features a mean is m plus a regression on them (:mod:`recsys_spark.training.als.prior_means`).

A sweep draws the hyperparameters of each side from its vectors' moments, each row from its posterior, which
takes the exact solver's factorisation and one more substitution, and the noise from the errors. Each random
number depends on the seed, the sweep and what it is for, so that the result is the same to the last bit on
any number of tasks. A bias is the last number of a row's vector.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys_spark.kernels.arrays import Doubles, Floats, Hashes
from recsys_spark.kernels.least_squares import Weights, draw
from recsys_spark.kernels.randomness import mix, normal
from recsys_spark.training.als.config import ALSConfig
from recsys_spark.training.als.half_step import HalfStep
from recsys_spark.training.als.prior_means import PriorMeans, SideFeatures
from recsys_spark.training.group import Group, Report
from recsys_spark.training.interactions import Interactions, Side

START = 0.1
"""Standard deviation of the numbers that the chain starts from."""
STRENGTH = 2.0
"""Rows that the prior of a mean counts as."""
USERS, ITEMS, NOISE, ROWS = 0, 1, 2, 3
"""What a random number is for."""


class Prior(NamedTuple):
    """A normal distribution of one side's vectors.

    Attributes
    ----------
    precision : float64 array, shape (width, width): Λ
    shift : float64 array, shape (width,): Λ m
    """

    precision: Doubles
    shift: Doubles


class Sweep(NamedTuple):
    """What one sweep did.

    Attributes
    ----------
    error : Σ of the squared errors of all ratings, at what was drawn
    seconds : wall-clock
    """

    error: float
    seconds: float


class Samples(NamedTuple):
    """One task's share of what is kept, the samples side by side.

    Attributes
    ----------
    users, items : ids, and float32 arrays, shape (own rows and other ids, samples * (rank + 2) + 1): of each
        sample the vector and what the biases differ from their mean, divided by the root of the number of
        samples, so that a dot product is the mean over them; last the mean bias
    sweeps : in their order
    """

    users: tuple[pa.Array, Floats]
    items: tuple[pa.Array, Floats]
    sweeps: list[Sweep]


def sample(
    group: Group,
    interactions: Interactions,
    config: ALSConfig,
    report: Report = None,
    features: tuple[SideFeatures | None, SideFeatures | None] = (None, None),
) -> Samples:
    """Run the chain, and keep ``config.samples`` draws at even distances after ``config.burn_in`` sweeps.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    interactions : Interactions
        This task's share.
    config : ALSConfig
        The same in every task; with biases.
    report : callable, optional
        Called after each sweep with its number from 1, the squared error and its seconds; in one task, or
        none.
    features : pair of SideFeatures or None
        Of users and of items.

    Notes
    -----
    Memory of a task, in bytes: as of :func:`recsys_spark.training.als.program.train`, and at the end ``8 *
    samples * (rank + 2)`` for each row, those of ids that have features alone among them. With features 12
    for each of a row's, and in the first task of all rows' too; with histories a row has as many as events.
    """
    sides = interactions.users, interactions.items
    regressions = [
        None if own is None else PriorMeans(group, side, own, config.width, config.seed, number)
        for number, (side, own) in enumerate(zip(sides, features, strict=True))
    ]
    halves = [
        _Half(group, config, number, side, other, interactions.mean, regressions[number])
        for number, side, other in ((USERS, *sides), (ITEMS, *sides[::-1]))
    ]
    x, y = (_start(config, number, side) for number, side in enumerate(sides))
    distance = (config.max_iterations - config.burn_in) // config.samples
    noise, kept, sweeps = 1.0, list[tuple[Floats, Floats]](), list[Sweep]()
    for number in range(1, config.max_iterations + 1):
        started = time.perf_counter()
        halves[USERS](y, x, noise, number)
        errors = halves[ITEMS](x, y, noise, number)
        error = float(group.ordered_sum(errors, *errors.shape)[0])
        noise = _noise(group, config, error, interactions.events, number)
        after = number - config.burn_in
        if after > 0 and after % distance == 0 and len(kept) < config.samples:
            kept.append((halves[USERS].with_others(x), halves[ITEMS].with_others(y)))
        sweeps.append(Sweep(error, time.perf_counter() - started))
        if report is not None:
            report(np.array([number, error, sweeps[-1].seconds]))
    users, items = (
        (half.ids(), _side_by_side([pair[half.number] for pair in kept], half.number)) for half in halves
    )
    return Samples(users, items, sweeps)


@dataclass
class _Half:
    """Draws one side's hyperparameters and rows; called once in each sweep.

    Attributes
    ----------
    group, config : the tasks, and the hyperparameters
    number : ``USERS`` or ``ITEMS``
    side, other : the side that is drawn, and the one that is held
    mean : of all ratings
    regression : of prior means on features, or None
    """

    group: Group
    config: ALSConfig
    number: int
    side: Side
    other: Side
    mean: float
    regression: PriorMeans | None
    _of_prior: Doubles = field(default_factory=lambda: np.zeros(0))

    def ids(self) -> pa.Array:
        """Ids of the own rows, and of those that have features alone."""
        if self.regression is None:
            return self.side.ids
        return pa.concat_arrays([self.side.ids, self.regression.features.others])

    def with_others(self, vectors: Floats) -> Floats:
        """A copy of the own rows' vectors, with the prior means of the ids that have features alone."""
        if self.regression is None:
            return vectors.copy()
        return np.concatenate([vectors, self.regression.of_others(self._of_prior)])

    def __call__(self, other_vectors: Floats, vectors: Floats, noise: float, sweep: int) -> Doubles:
        """Draw every own row in place; returns the squared errors, for each own bucket, shape (n, 1)."""
        side, config = self.side, self.config
        prior = self._prior(vectors, sweep)
        weights = Weights(False, np.float32(1), np.float32(self.mean))
        half = HalfStep(self.group, config, side, self.other, np.zeros(0, np.float32), 0.0, weights)
        normals = self._normals(side.id_hashes, sweep)
        shifts = np.broadcast_to(prior.shift, (len(vectors), config.width))
        if self.regression is not None:
            shifts = shifts + self.regression.means(prior.precision)
        heavy = self._heavy(half, other_vectors, prior.precision, shifts, noise, normals)
        received = self.group.all_to_all([other_vectors[rows] for rows in self.other.rows_to_send])
        factors, offsets = half.with_offsets(np.concatenate(received))
        errors = np.zeros((len(side.bucket_rows) - 1, 1))
        for bucket in range(len(errors)):
            rows = slice(side.bucket_rows[bucket], side.bucket_rows[bucket + 1])
            events = side.indptr[rows.start : rows.stop + 1], side.columns, side.ratings, offsets, factors
            given = prior.precision, shifts[rows], self.mean, noise, normals[rows]
            errors[bucket] = draw(*events, *given, vectors[rows])
        for row, (vector, error) in heavy.items():
            vectors[row] = vector
            errors[np.searchsorted(side.bucket_rows, row, side="right") - 1] += error
        return errors

    def _normals(self, hashes: Hashes, sweep: int) -> Doubles:
        return normal(
            self.config.seed, sweep, self.number, ROWS, hashes[:, None], np.arange(self.config.width)
        )

    def _prior(self, vectors: Floats, sweep: int) -> Prior:
        """Hyperparameters from the moments of all rows of the side, less what features say; one task draws
        them.
        """
        width, buckets, regression = self.config.width, self.side.bucket_rows, self.regression
        rows: Doubles = vectors.astype(np.float64)
        if regression is not None:
            rows -= regression.means()
        parts = (_moments(rows[begin:end]) for begin, end in pairwise(buckets))
        total = self.group.ordered_sum(parts, len(buckets) - 1, width + width * width)
        drawn = np.zeros(0)
        if self.group.rank == 0:
            key = mix(self.config.seed, sweep, self.number, USERS)
            random = np.random.Generator(np.random.Philox(int(key)))
            beta = np.zeros((0, width))
            if regression is not None:
                beta = regression.beta * regression.strength**0.5
            drawn = draw_prior(total, self.side.total, random, beta)
        shared = self.group.all_gather(drawn)[0]
        prior = Prior(shared[width:].reshape(width, width), shared[:width])
        if regression is not None:
            self._of_prior = np.asarray(np.linalg.solve(prior.precision, prior.shift))
            regression.draw(vectors, self._of_prior, prior.precision, sweep)
        return prior

    def _heavy(
        self,
        half: HalfStep,
        other_vectors: Floats,
        precision: Doubles,
        shifts: Doubles,
        noise: float,
        normals: Doubles,
    ) -> dict[int, tuple[Doubles, float]]:
        """Vector and squared error of each own row that all tasks share."""
        drawn: dict[int, tuple[Doubles, float]] = {}
        for row, square, right, constant in half.heavy_equations(other_vectors):
            upper = np.linalg.cholesky(square + precision / noise).T
            mean = np.linalg.solve(upper.T @ upper, right + shifts[row] / noise)
            x: Doubles = mean + np.linalg.solve(upper, normals[row]) * noise**-0.5
            drawn[row] = x, float(constant - 2 * right @ x + x @ square @ x)
        return drawn


def draw_prior(moments: Doubles, rows: int, random: np.random.Generator, beta: Doubles) -> Doubles:
    """Draw Λ and m of one side: Λ m, and Λ, in one float64 array of width + width² numbers.

    Parameters
    ----------
    moments : float64 array, shape (width + width²,): sums over the side's vectors v of v and of v vᵀ
    rows : how many there are
    random : Generator
    beta : float64 array, shape (n, width): coefficients of features, times the root of their strength, which
        are drawn with the precision Λ too
    """
    width = int((np.sqrt(4 * len(moments) + 1) - 1) / 2)
    mean, square = moments[:width] / rows, moments[width:].reshape(width, width)
    # of the vectors around their mean, and of the mean around the prior's
    scatter = square - rows * np.outer(mean, mean)
    scale = np.eye(width) + scatter + rows * STRENGTH / (rows + STRENGTH) * np.outer(mean, mean)
    scale += beta.T @ beta
    # a Wishart draw by Bartlett's decomposition
    factor = np.tril(random.standard_normal((width, width)), -1)
    factor += np.diag(np.sqrt(random.chisquare(width + rows + len(beta) - np.arange(width))))
    root = np.linalg.solve(np.linalg.cholesky(scale).T, factor)
    precision = root @ root.T
    spread = np.linalg.cholesky((STRENGTH + rows) * precision).T
    drawn = rows * mean / (STRENGTH + rows) + np.linalg.solve(spread, random.standard_normal(width))
    return np.concatenate([precision @ drawn, precision.ravel()])


def _moments(rows: Doubles) -> Doubles:
    """Sums of the vectors and of their outer products."""
    return np.concatenate([rows.sum(axis=0), (rows.T @ rows).ravel()])


def _noise(group: Group, config: ALSConfig, error: float, events: int, sweep: int) -> float:
    """Precision of a rating, drawn from the squared error; by one task."""
    drawn = np.zeros(0)
    if group.rank == 0:
        random = np.random.Generator(np.random.Philox(int(mix(config.seed, sweep, NOISE, NOISE))))
        drawn = np.array([random.gamma((1 + events) / 2, 2 / (1 + error))])
    return float(group.all_gather(drawn)[0][0])


def _start(config: ALSConfig, number: int, side: Side) -> Floats:
    """Small random vectors, a pure function of seed and id; biases start at zero."""
    vectors = START * normal(config.seed, 0, number, ROWS, side.id_hashes[:, None], np.arange(config.width))
    vectors[:, config.rank :] = 0.0
    return vectors.astype(np.float32)


def _side_by_side(samples: list[Floats], number: int) -> Floats:
    """Vectors of one side's samples as one row each, and their mean bias.

    After each sample's vector come two numbers, of users the bias less its mean and a 1, of items the other
    way round, so that the dot product of a sample's part is its score but for the mean biases.
    """
    rows, width = samples[0].shape
    bias = sum(vectors[:, -1].astype(np.float64) for vectors in samples) / len(samples)
    result = np.empty((rows, len(samples) * (width + 1) + 1), np.float32)
    result[:, -1] = bias
    root = len(samples) ** -0.5
    of_bias, of_one = (-2, -1) if number == USERS else (-1, -2)
    for place, vectors in enumerate(samples):
        part = result[:, place * (width + 1) : (place + 1) * (width + 1)]
        part[:, :-2] = vectors[:, :-1] * root
        part[:, of_bias] = (vectors[:, -1] - bias) * root
        part[:, of_one] = root
    return result
