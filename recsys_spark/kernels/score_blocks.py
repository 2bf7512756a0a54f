"""A dot product told by parts: the vectors of users and items are turned to the singular axes of the matrix
of all scores, the strongest first, and each part is the sum over a few of them.

Two fits of one factor model differ by a turn of their vectors, so that no place of a vector means the same in
both. Singular axes are the same, but for their signs, which a product does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, Ints, Longs

NEGLIGIBLE = 1e-10
"""Fraction of a Gram matrix's largest eigenvalue below which an axis is none."""

PAIRS_AT_ONCE = 8192
"""Whose vectors lie side by side at a time."""


def block_bounds(rank: int) -> list[tuple[int, int]]:
    """First axis of each block and the one after its last: blocks of 1, 2, 4, … axes, the last what is left.

    Parameters
    ----------
    rank : int
        Axes.

    Examples
    --------
    >>> block_bounds(8)
    [(0, 1), (1, 3), (3, 7), (7, 8)]
    """
    bounds, first = list[tuple[int, int]](), 0
    while first < rank:
        end = min(2 * first + 1, rank)
        bounds.append((first, end))
        first = end
    return bounds


def singular_axes(users: Doubles, items: Doubles) -> tuple[Doubles, Doubles]:
    """What turns vectors to the singular axes of ``X @ Y.T``, from Gram matrices alone.

    Parameters
    ----------
    users, items : float64 arrays, shape (rank, rank)
        ``X.T @ X`` and ``Y.T @ Y``.

    Returns
    -------
    float64 arrays, shape (rank, rank)
        A and B: ``(X @ A) @ (Y @ B).T`` is ``X @ Y.T``, columns of ``X @ A`` are orthogonal, those of
        ``Y @ B`` too, each as long as its partner, the longest first. Columns of axes that are none are 0.
    """
    left, left_inverse = _root(users)
    right, right_inverse = _root(items)
    from_left, strengths, from_right = np.linalg.svd(left @ right)
    kept = np.sqrt(np.where(strengths > NEGLIGIBLE * strengths.max(initial=0.0), strengths, 0.0))
    return left_inverse @ from_left * kept, right_inverse @ from_right.T * kept


def _root(gram: Doubles) -> tuple[Doubles, Doubles]:
    """The symmetric root of a Gram matrix, and its pseudo-inverse."""
    values, axes = np.linalg.eigh(gram)
    has = values > NEGLIGIBLE * values.max(initial=0.0)
    roots = np.sqrt(np.where(has, values, 0.0))
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=has)
    return (axes * roots) @ axes.T, (axes * inverse) @ axes.T


def block_scores(
    users: Floats, items: Floats, user_rows: Ints, item_rows: Longs, bounds: Sequence[tuple[int, int]]
) -> Floats:
    """Dot products of pairs, over some places of their vectors each.

    Parameters
    ----------
    users, items : float32 arrays, shape (n_users, width) and (n_items, width)
        Vectors; NaN where one is not known.
    user_rows, item_rows : int arrays, shape (n_pairs,)
        Rows of them; -1 for an item that is not there.
    bounds : sequence of (int, int)
        First place of each block and the one after its last.

    Returns
    -------
    float32 array, shape (n_pairs, n_blocks)
        NaN where a vector is, and for items that are not there.
    """
    scores = np.full((len(user_rows), len(bounds)), np.nan, np.float32)
    known = np.flatnonzero(item_rows >= 0)
    for start in range(0, len(known), PAIRS_AT_ONCE):
        pairs = known[start : start + PAIRS_AT_ONCE]
        products = users[user_rows[pairs]] * items[item_rows[pairs]]
        for block, (first, end) in enumerate(bounds):
            scores[pairs, block] = products[:, first:end].sum(axis=1)
    return scores
