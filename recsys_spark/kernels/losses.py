"""Losses and their gradients: of pairs, and of a softmax over the catalogue.

A loss of pairs compares a positive's score with those of its negatives, or with a rating. It takes
``scores``, shape (n, 1 + m): the pair itself in the first column, then its negatives; and, where there are
negatives, ``mask``, bool, of the same shape: which of them exist. It returns the losses, shape (n,), and
their gradients with respect to the scores; both are finite for finite scores, however large.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Integers, Reals


def logistic(scores: Reals, mask: Booleans) -> tuple[Reals, Reals]:
    """Binary cross-entropy: the pair has label 1, its negatives have label 0; summed."""
    signs = np.where(np.arange(scores.shape[1]) == 0, -1, 1).astype(scores.dtype)
    losses = np.where(mask, np.logaddexp(0, signs * scores), 0)
    return losses.sum(axis=1), np.where(mask, signs * sigmoid(signs * scores), 0)


def bpr(scores: Reals, mask: Booleans) -> tuple[Reals, Reals]:
    """Bayesian personalised ranking (Rendle et al. 2009): -log σ(positive - negative), mean over the
    negatives.
    """
    margins = scores[:, :1] - scores[:, 1:]
    weights = mask[:, 1:] / np.maximum(mask[:, 1:].sum(axis=1, keepdims=True), 1).astype(scores.dtype)
    slopes = weights * sigmoid(-margins)
    gradient = np.concatenate([-slopes.sum(axis=1, keepdims=True), slopes], axis=1)
    return (weights * np.logaddexp(0, -margins)).sum(axis=1), gradient


def contrastive(scores: Reals, mask: Booleans, margin: float, weight: float) -> tuple[Reals, Reals]:
    """Cosine contrastive loss (Mao et al. 2021): 1 - positive + weight * mean over the negatives of
    max(0, negative - margin).
    """
    counts = np.maximum(mask[:, 1:].sum(axis=1, keepdims=True), 1).astype(scores.dtype)
    weights = weight * mask[:, 1:] / counts
    excess = np.maximum(scores[:, 1:] - margin, 0)
    gradient = np.concatenate([np.full((len(scores), 1), -1, scores.dtype), weights * (excess > 0)], axis=1)
    return 1 - scores[:, 0] + (weights * excess).sum(axis=1), gradient


def squared(scores: Reals, ratings: Reals) -> tuple[Reals, Reals]:
    """Half the squared error of the first column against ``ratings``, shape (n,); without negatives."""
    error = scores[:, 0] - ratings
    return error * error / 2, error[:, None]


def sigmoid(x: Reals) -> Reals:
    """1 / (1 + e^-x)."""
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def softmax_loss(logits: Reals, rows: Integers, columns: Integers, weights: Reals) -> tuple[Reals, Reals]:
    """Cross-entropy of targets under the softmax of their rows' logits, and its gradient with respect to the
    logits.

    Parameters
    ----------
    logits : shape (n, m), finite; overwritten by the gradient
    rows, columns : row and column of each target, shape (n_targets,); no pair twice
    weights : weight of each target

    Returns
    -------
    losses : shape (n_targets,), weighted, finite: the largest logit is subtracted before exponentiating
    gradient : of their sum, shape (n, m)
    """
    # in place: a pass over a large matrix costs less than allocating another
    logits -= logits.max(axis=1, keepdims=True)
    target_logits = logits[rows, columns]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    logits *= (np.bincount(rows, weights, len(logits)) / total).astype(logits.dtype)[:, None]
    logits[rows, columns] -= weights
    return weights * (np.log(total)[rows] - target_logits), logits


def sampled_softmax_loss(
    targets: Reals, sampled: Reals, rows: Integers, weights: Reals
) -> tuple[Reals, Reals, Reals]:
    """As :func:`softmax_loss`, over each row's targets and some sampled items instead of the catalogue.

    Parameters
    ----------
    targets : logits of the targets, shape (n_targets,)
    sampled : logits of the sampled items, shape (n, m), each minus the log of the item's expected number
        among them, so that the sum of their exponentials estimates that over the catalogue without the
        targets; a very negative number for those that do not count
    rows, weights : row and weight of each target

    Returns
    -------
    losses : shape (n_targets,), weighted
    grad_targets, grad_sampled : gradients of their sum
    """
    largest = sampled.max(axis=1)
    np.maximum.at(largest, rows, targets)
    exp_targets, exp_sampled = np.exp(targets - largest[rows]), np.exp(sampled - largest[:, None])
    total = exp_sampled.sum(axis=1) + np.bincount(rows, exp_targets, len(sampled))
    scale = (np.bincount(rows, weights, len(sampled)) / total).astype(sampled.dtype)
    losses = weights * (np.log(total)[rows] + largest[rows] - targets)
    return losses, exp_targets * scale[rows] - weights, exp_sampled * scale[:, None]
