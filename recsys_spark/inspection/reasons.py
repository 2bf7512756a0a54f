"""Why an item is in somebody's list: what each item of the history adds to its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_spark.inspection.saved import SavedModel, SavedPairs
from recsys_spark.kernels.arrays import Doubles, Floats, Ints
from recsys_spark.kernels.least_squares import Weights, equation
from recsys_spark.kernels.normal_equations import event_terms
from recsys_spark.models.als import ALSModel
from recsys_spark.models.softmax import SoftmaxModel
from recsys_spark.training.als.half_step import row_regularization
from recsys_spark.training.side_features import Features
from recsys_spark.training.softmax.program import user_vectors


class Reason(NamedTuple):
    """An item of a history that speaks for a recommendation.

    Parameters
    ----------
    item : int or str
        Which.
    contribution : float or None
        What it adds to the score; None where the model does not make a user of a history, and the item is one
        that is like the recommended one.
    """

    item: object
    contribution: float | None


def reasons(
    saved: SavedModel | SavedPairs,
    history: Sequence[object],
    ratings: Sequence[float],
    listed: Sequence[object],
    most: int = 3,
) -> list[list[Reason]]:
    """The items of a user's history that add most to the score of each listed item.

    A model of item pairs sums weights of the history's items, and ALS solves a user's vector from it,
    so that a score has a term for each item of it (Hu, Koren & Volinsky 2008, section 5); these are returned.
    Of a softmax model it is what the score would lose if the item were left out of the history, with features
    of the user left out of account. Other models learn a user's vector by itself: then they are the items
    whose vectors have the largest cosine with the listed one's.

    Parameters
    ----------
    saved : SavedModel or SavedPairs
        What made the list.
    history : sequence
        Ids of the user's items, unique; those that the model does not know are left out.
    ratings : sequence of float
        Theirs.
    listed : sequence
        Ids of recommended items.
    most : int
        How many of the history at most for each of them.

    Returns
    -------
    list of list of Reason
        For each listed item, the largest first; only what adds more than 0. Nothing for an item that the
        model does not know.
    """
    added, exact = contributions(saved, history, ratings, listed)
    found = []
    for row in added:
        order = [place for place in np.argsort(-row, kind="stable")[:most] if row[place] > 0]
        found.append([Reason(history[place], float(row[place]) if exact else None) for place in order])
    return found


def contributions(
    saved: SavedModel | SavedPairs,
    history: Sequence[object],
    ratings: Sequence[float],
    listed: Sequence[object],
) -> tuple[Doubles, bool]:
    """What each item of a history adds to the score of each listed item.

    Parameters
    ----------
    saved : SavedModel or SavedPairs
        What made the list.
    history : sequence
        Ids of the user's items, unique.
    ratings : sequence of float
        Theirs.
    listed : sequence
        Ids of recommended items.

    Returns
    -------
    float64 array, shape (listed, history)
        As :func:`reasons` has it; 0 for items that the model does not know.
    bool
        Whether these are parts of the score; else they are cosines of items.
    """
    if isinstance(saved, SavedPairs):
        return _by_weights(saved, history, ratings, listed), True
    mine, theirs = saved.positions(history), saved.positions(listed)
    known, wanted = np.flatnonzero(mine >= 0), np.flatnonzero(theirs >= 0)
    added = np.zeros((len(listed), len(history)))
    softmax = isinstance(saved.model, SoftmaxModel)
    model = saved.model
    solved = isinstance(model, ALSModel) and not (model.getNonnegative() or model.getBayesian())
    if len(known) and len(wanted):
        values, cells = np.asarray(ratings, np.float32)[known], np.ix_(wanted, known)
        if softmax:
            added[cells] = _by_leaving_out(saved, mine[known], values, theirs[wanted])
        elif solved:
            added[cells] = _by_normal_equation(saved, mine[known], values, theirs[wanted])
        else:
            added[cells] = _by_cosine(saved, mine[known], theirs[wanted])
    return added, softmax or solved


def _by_weights(
    saved: SavedPairs, history: Sequence[object], ratings: Sequence[float], listed: Sequence[object]
) -> Doubles:
    """What the history's items count, times their weights, and the dot products of their vectors."""
    given = np.asarray(ratings, np.float64)
    values = (given > 0).astype(np.float64)
    if saved.model.centred:
        values = given - (given.mean() if len(given) else 0.0)
    rows = (saved.weights_of(item) for item in listed)
    weights = [[row.get(other, 0.0) for other in history] for row in rows]
    mine, theirs = saved.vectors.positions(history), saved.vectors.positions(listed)
    known = np.outer(theirs >= 0, mine >= 0)
    inputs = saved.vectors.vectors[mine] / saved.divisors[mine][:, None]
    products = np.where(known, saved.vectors.vectors[theirs] @ inputs.T, 0.0)
    return (np.asarray(weights).reshape(len(listed), len(history)) + products) * values


def _by_cosine(saved: SavedModel, mine: Ints, theirs: Ints) -> Doubles:
    """Cosine of each listed item's vector with that of each item of the history."""
    lengths = np.maximum(np.linalg.norm(saved.vectors, axis=1), 1e-12)[:, None]
    unit = saved.vectors / lengths
    return np.asarray(unit[theirs] @ unit[mine].T, np.float64)


def _by_normal_equation(saved: SavedModel, mine: Ints, ratings: Floats, theirs: Ints) -> Doubles:
    """Terms of the scores: with ``A x = Σ b_j y_j`` a score ``y_i · x`` is ``Σ b_j y_i · A⁻¹ y_j``."""
    model, rank = saved.model, saved.vectors.shape[1]
    config = model.to_config(
        rank=rank, max_iterations=1, solver="cholesky", cg_steps=0, tolerance=0.0, seed=0
    )
    gram = np.zeros((config.width, config.width))
    every = saved.vectors.astype(np.float64)
    gram[:rank, :rank] = model.allPairsWeight * (every.T @ every)
    vectors, offsets = saved.vectors, np.zeros(0, np.float32)
    if config.biases:
        vectors = np.column_stack([vectors, np.ones(len(vectors), np.float32)])
        offsets = saved.biases
    positive = ratings > 0
    targets = positive.astype(np.float32) if config.binary else ratings
    counted = int(positive.sum()) if config.implicit or config.binary else len(ratings)
    weights = Weights(config.implicit, np.float32(config.alpha), np.float32(model.globalMean))
    matrix = equation(mine, targets, offsets, vectors, weights)[: config.width**2]
    penalty = row_regularization(np.array([counted]), len(vectors), config, model.allPairsWeight)[0]
    left = matrix.reshape(config.width, config.width) + gram + penalty * np.eye(config.width)
    shifts = offsets[mine] if len(offsets) else np.zeros(len(mine), np.float32)
    right = [event_terms(target, shift, *weights)[1] for target, shift in zip(targets, shifts, strict=True)]
    solved = np.linalg.solve(left, (vectors[mine] * np.array(right)[:, None]).T.astype(np.float64))
    return np.asarray(vectors[theirs].astype(np.float64) @ solved)


def _by_leaving_out(saved: SavedModel, mine: Ints, ratings: Floats, theirs: Ints) -> Doubles:
    """Scores from the whole history, less those from the history without each of its items."""
    counted = np.flatnonzero(ratings > 0)
    added = np.zeros((len(theirs), len(mine)))
    n = len(counted)
    if n < 2:  # without its only item a history makes nobody
        return added
    bag = np.sort(mine[counted])
    bags = [bag, *(bag[bag != item] for item in mine[counted])]
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in bags])]).astype(np.int64)
    psi = user_vectors(
        indptr, np.concatenate(bags), Features.none(len(bags)), saved.tables, saved.model.to_config()
    )
    scores = saved.vectors[theirs].astype(np.float64) @ psi.T
    added[:, counted] = scores[:, :1] - scores[:, 1:]
    return added
