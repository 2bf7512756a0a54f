"""The most likely vector of a user by a normal prior and what the user has: maximum a posteriori, while all
else that a model has learnt stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Doubles

STEPS, TOLERANCE = 20, 1e-6
"""Of Newton's method: steps at most, and the decrease of the objective, of an observation, that ends it."""


class Prior(NamedTuple):
    """A normal distribution of vectors.

    Attributes
    ----------
    mean : float64 array, shape (width,)
    precision : float64 array, shape (width, width): symmetric and positive definite
    """

    mean: Doubles
    precision: Doubles


def least_squares_mode(rows: Doubles, targets: Doubles, noise: float, prior: Prior) -> Doubles:
    """The vector x of the least ``Σ (rows @ x - targets)² / (2 noise) + (x - mean)ᵀ precision (x - mean)
    / 2``.

    Parameters
    ----------
    rows : float64 array, shape (n, width)
    targets : float64 array, shape (n,)
    noise : float
        Variance of the targets, above 0.
    prior : Prior
        Of the vector.
    """
    mean, precision = prior
    errors = rows.T @ (targets - rows @ mean) / noise
    return np.asarray(mean + np.linalg.solve(rows.T @ rows / noise + precision, errors))


def logistic_mode(rows: Doubles, offsets: Doubles, weights: Doubles, prior: Prior) -> Doubles:
    """The vector x of the least ``Σ weights log(1 + exp(-(rows @ x + offsets))) + (x - mean)ᵀ precision
    (x - mean) / 2``, by Newton's method with halved steps: the function is convex.

    Parameters
    ----------
    rows : float64 array, shape (n, width)
        Of what did not happen, with the other sign.
    offsets, weights : float64 arrays, shape (n,)
        Of the rows; weights are not negative.
    prior : Prior
        Of the vector.
    """
    mean, precision = prior

    def objective(x: Doubles) -> float:
        apart = x - mean
        return float(weights @ np.logaddexp(0.0, -(rows @ x + offsets)) + apart @ precision @ apart / 2)

    x, value = mean.copy(), objective(mean)
    for _ in range(STEPS):
        unlikely = 1 / (1 + np.exp(rows @ x + offsets))
        gradient = precision @ (x - mean) - rows.T @ (weights * unlikely)
        curvature = (rows.T * (weights * unlikely * (1 - unlikely))) @ rows + precision
        step, length, before = np.linalg.solve(curvature, gradient), 1.0, value
        value = objective(x - step)
        while value > before and length > TOLERANCE:
            length /= 2
            value = objective(x - length * step)
        if value > before:
            break
        x = x - length * step
        if before - value <= TOLERANCE * max(len(rows), 1):
            break
    return x
