"""Scores of (user, item) pairs from vectors whose last column is a bias, and the way back for gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


def pair_scores(users: Floats, items: Floats, rows: Ints, candidates: Ints, product: bool) -> Floats:
    """Both biases, plus the dot product with ``product``, of each row's user with each of its candidates.

    Parameters
    ----------
    users, items : float32 arrays, shape (n, dim + 1)
    rows : int32 array, shape (n_pairs,): user of each row
    candidates : int32 array, shape (n_pairs, m): items, or -1 for none

    Returns
    -------
    float32 array, shape (n_pairs, m), 0 where there is none
    """
    scores = np.zeros(candidates.shape, np.float32)
    _scores(users, items, rows, candidates, product, scores)
    return scores


def spread_over_pairs(
    users: Floats,
    items: Floats,
    rows: Ints,
    candidates: Ints,
    product: bool,
    gradient: Floats,
    by_users: Floats,
    by_items: Floats,
) -> None:
    """Add the gradients by ``users`` and ``items`` to ``by_users`` and ``by_items``: the way back of :func:`pair_scores`.

    Parameters
    ----------
    gradient : float32 array, shape (n_pairs, m): of a loss by the scores
    """
    _spread(users, items, rows, candidates, product, gradient, by_users, by_items)


def _jit(function: Any) -> Any:
    return njit(nogil=True, fastmath=True, error_model="numpy")(function)


@_jit
def _scores(users: Any, items: Any, rows: Any, candidates: Any, product: Any, scores: Any) -> None:
    dim = users.shape[1] - 1
    for k in range(len(rows)):
        x = users[rows[k]]
        for j in range(candidates.shape[1]):
            if candidates[k, j] >= 0:
                y = items[candidates[k, j]]
                total = np.float32(0)
                if product:
                    for i in range(dim):
                        total += x[i] * y[i]
                scores[k, j] = total + x[dim] + y[dim]


@_jit
def _spread(users, items, rows, candidates, product, gradient, by_users, by_items):  # type: ignore[no-untyped-def]
    dim = users.shape[1] - 1
    for k in range(len(rows)):
        x, by_x = users[rows[k]], by_users[rows[k]]
        for j in range(candidates.shape[1]):
            g = gradient[k, j]
            if candidates[k, j] >= 0 and g != 0:
                y, by_y = items[candidates[k, j]], by_items[candidates[k, j]]
                by_x[dim] += g
                by_y[dim] += g
                if product:
                    for i in range(dim):
                        by_x[i] += g * y[i]
                        by_y[i] += g * x[i]
