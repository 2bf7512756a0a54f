"""Scores of (user, item) pairs from vectors whose last column is a bias, and the gradients of those
scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Floats, Ints, jit


def pair_scores(users: Floats, items: Floats, rows: Ints, candidates: Ints, product: bool) -> Floats:
    """Score of each row's user with each of its candidates: both biases, plus the dot product if ``product``.

    Parameters
    ----------
    users, items : float32 arrays, shape (n, dim + 1)
    rows : int32 array, shape (n_pairs,): user of each row
    candidates : int32 array, shape (n_pairs, m): items, or -1 for none

    Returns
    -------
    float32 array, shape (n_pairs, m), 0 where the candidate is -1
    """
    scores = np.zeros(candidates.shape, np.float32)
    _scores(users, items, rows, candidates, product, scores)
    return scores


def pair_scores_backward(
    users: Floats,
    items: Floats,
    rows: Ints,
    candidates: Ints,
    product: bool,
    gradient: Floats,
    grad_users: Floats,
    grad_items: Floats,
) -> None:
    """Add the gradients of ``users`` and ``items`` to ``grad_users`` and ``grad_items``: the backward pass of
    :func:`pair_scores`.

    Parameters
    ----------
    gradient : float32 array, shape (n_pairs, m): gradient of a loss with respect to the scores
    """
    _scores_backward(users, items, rows, candidates, product, gradient, grad_users, grad_items)


@jit
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


@jit
def _scores_backward(users, items, rows, candidates, product, gradient, grad_users, grad_items):  # type: ignore[no-untyped-def]
    dim = users.shape[1] - 1
    for k in range(len(rows)):
        x, grad_x = users[rows[k]], grad_users[rows[k]]
        for j in range(candidates.shape[1]):
            g = gradient[k, j]
            if candidates[k, j] >= 0 and g != 0:
                y, grad_y = items[candidates[k, j]], grad_items[candidates[k, j]]
                grad_x[dim] += g
                grad_y[dim] += g
                if product:
                    for i in range(dim):
                        grad_x[i] += g * y[i]
                        grad_y[i] += g * x[i]
