"""Scores of several models on one scale, and the weights that make of them the best lists.

A user's scores by a model are standardised over the catalogue: less their mean, divided by their standard
deviation. Weights of models are found by forward selection with replacement (Caruana et al. 2004, "Ensemble
selection from libraries of models").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Ints, Longs
from recsys_spark.kernels.item_item import Bags, add_scores
from recsys_spark.kernels.products import product
from recsys_spark.kernels.topn import ItemBlock, best_columns

ROUNDING = 1e-6
"""Of float32, about."""

Metric = Callable[[Booleans, Longs, int], Doubles]
"""One of :mod:`recsys_spark.kernels.metrics`."""


class ItemMoments(NamedTuple):
    """What the scores of all items have in common.

    Attributes
    ----------
    mean : float64 array, shape (rank + 1,): of the items' vectors with their biases
    covariance : float64 array, shape (rank + 1, rank + 1)
    """

    mean: Doubles
    covariance: Doubles

    @classmethod
    def of(cls, factors: Floats, biases: Floats) -> ItemMoments:
        """Moments of ``factors``, shape (n_items, rank), and ``biases``, shape (n_items,)."""
        every = np.column_stack([factors, biases]).astype(np.float64)
        if not len(every):
            return cls(np.zeros(every.shape[1]), np.zeros((every.shape[1],) * 2))
        return cls(every.mean(axis=0), np.atleast_2d(np.cov(every.T, ddof=0)))


def moments_of_products(users: Floats, items: ItemMoments) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation over all items of each user's scores, where these are dot products.

    Parameters
    ----------
    users : float32 array, shape (n_users, rank)
    items : of all items

    Returns
    -------
    means, deviations : float64 arrays, shape (n_users,)

    No score is made. Cost: the square of the rank for each user.
    """
    x = np.column_stack([users, np.ones(len(users))])
    variances = np.einsum("ui,ij,uj->u", x, items.covariance, x, optimize=True)
    return x @ items.mean, np.sqrt(np.maximum(variances, 0.0))


def moments(
    users: Floats, blocks: Sequence[ItemBlock], bags: Bags, user_block: int = 256
) -> tuple[Doubles, Doubles]:
    """The same where scores are sums over the user's history too.

    Parameters
    ----------
    users : float32 array, shape (n_users, rank)
    blocks : of all items, with weights of item pairs
    bags : the users' histories
    user_block : users scored at a time; a user's bits do not depend on the others

    Returns
    -------
    means, deviations : float64 arrays, shape (n_users,)

    Cost: that of the scores, which are made and forgotten.
    """
    sums, squares = np.zeros(len(users)), np.zeros(len(users))
    buffer = np.empty(user_block * max(len(block.biases) for block in blocks), np.float32)
    for start in range(0, len(users), user_block):
        rows = slice(start, min(start + user_block, len(users)))
        for block in blocks:
            shape = rows.stop - rows.start, len(block.biases)
            scores = product(users[rows], block.factors, buffer[: shape[0] * shape[1]].reshape(shape))
            scores += block.biases
            if block.weights is not None:
                add_scores(scores, bags.rows(rows.start, rows.stop), block.weights)
            scores[:, np.isneginf(block.biases)] = 0.0
            sums[rows] += scores.sum(axis=1, dtype=np.float64)
            squares[rows] += np.einsum("ui,ui->u", scores, scores, dtype=np.float64)
    n_items = sum(block.size for block in blocks)
    means = sums / n_items
    return means, np.sqrt(np.maximum(squares / n_items - means**2, 0.0))


def scales(means: Doubles, deviations: Doubles) -> Doubles:
    """One over each deviation; 0 where it is a rounding error of scores that are all the same."""
    some = deviations > ROUNDING * np.abs(means)
    return np.divide(1.0, deviations, out=np.zeros(len(means)), where=some)


def union_of_best(scores: Sequence[Floats], n: int) -> tuple[Ints, Floats]:
    """The best ``n`` items by each of several models, and what all models say of them.

    Parameters
    ----------
    scores : for each model a float32 array, shape (n_users, n_items); -inf for what must not be listed
    n : at least 1

    Returns
    -------
    items : int32 array, shape (n_users, n_models * n), ascending; -1 for an item that is there before
    values : float32 array, shape (n_models, n_users, n_models * n)
    """
    n = min(n, scores[0].shape[1])
    items = np.sort(np.hstack([best_columns(one, n) for one in scores]), axis=1).astype(np.int32)
    values = np.stack([np.take_along_axis(one, items.astype(np.int64), axis=1) for one in scores])
    items[:, 1:][items[:, 1:] == items[:, :-1]] = -1
    return items, values


def greedy_weights(
    values: Floats,
    listed: Booleans,
    relevant: Booleans,
    n_relevant: Longs,
    metric: Metric,
    k: int,
    steps: int,
) -> tuple[Doubles, list[float], float]:
    """Weights of models by forward selection: at each step the model that makes the best lists with those
    chosen before is chosen once more; of all steps the best counts.

    Parameters
    ----------
    values : float32 array, shape (n_models, n_users, n_candidates): standardised scores
    listed : bool array, shape (n_users, n_candidates): what may be listed
    relevant : bool array, shape (n_users, n_candidates)
    n_relevant : int array, shape (n_users,): relevant items of each user, at least 1
    metric : of lists
    k : cut-off
    steps : at least 1

    Returns
    -------
    weights : float64 array, shape (n_models,); their sum is 1
    alone : the metric of each model
    together : the metric with the weights; no model alone is better

    Equal candidates keep their order; of equally good models the first is chosen.
    """
    n_models = len(values)
    masked = np.where(listed, values, -np.inf)
    k = min(k, values.shape[2])

    def measured(weights: Doubles) -> float:
        blended = np.zeros(masked.shape[1:], np.float32)
        for one, weight in zip(masked, weights, strict=True):
            if weight:
                blended += np.float32(weight) * one
        best = best_columns(blended, k)
        by_score = np.argsort(-np.take_along_axis(blended, best, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(best, by_score, axis=1)
        hits = np.take_along_axis(relevant & listed, found, axis=1)
        # the same whatever the order of the users
        return math.fsum(metric(hits, n_relevant, k)) / len(n_relevant)

    alone = [measured(row) for row in np.eye(n_models)]
    chosen, best, together = np.zeros(n_models), np.zeros(n_models), -np.inf
    for step in range(steps):
        added = chosen + np.eye(n_models)
        results = alone if not step else [measured(counts / counts.sum()) for counts in added]
        winner = int(np.argmax(results))
        chosen = added[winner]
        if results[winner] > together:
            best, together = chosen / chosen.sum(), results[winner]
    return best, alone, together
