"""Losses of pairs: a positive's score against those of its negatives, or against a rating.

Each takes ``scores``, shape (n, 1 + m): the pair itself in the first column, then its negatives; and those with negatives take
``there``, bool, of the same shape: which of them there are. It gives the losses, shape (n,), and their gradients by the scores;
both are finite for finite scores, however large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def logistic(scores: Floats, there: Mask) -> tuple[Floats, Floats]:
    """Cross-entropy of a pair's being positive: its label is 1, its negatives' is 0; summed."""
    signs = np.where(np.arange(scores.shape[1]) == 0, -1, 1).astype(scores.dtype)
    losses = np.where(there, np.logaddexp(0, signs * scores), 0)
    return losses.sum(axis=1), np.where(there, signs * sigmoid(signs * scores), 0)


def bpr(scores: Floats, there: Mask) -> tuple[Floats, Floats]:
    """Bayesian personalised ranking (Rendle et al. 2009): -log σ(positive - negative), mean over the negatives."""
    margins = scores[:, :1] - scores[:, 1:]
    share = there[:, 1:] / np.maximum(there[:, 1:].sum(axis=1, keepdims=True), 1).astype(scores.dtype)
    slopes = share * sigmoid(-margins)
    gradient = np.concatenate([-slopes.sum(axis=1, keepdims=True), slopes], axis=1)
    return (share * np.logaddexp(0, -margins)).sum(axis=1), gradient


def contrastive(scores: Floats, there: Mask, margin: float, weight: float) -> tuple[Floats, Floats]:
    """Cosine contrastive loss (Mao et al. 2021): 1 - positive + weight * mean over the negatives of max(0, negative - margin)."""
    share = weight * there[:, 1:] / np.maximum(there[:, 1:].sum(axis=1, keepdims=True), 1).astype(scores.dtype)
    over = np.maximum(scores[:, 1:] - margin, 0)
    gradient = np.concatenate([np.full((len(scores), 1), -1, scores.dtype), share * (over > 0)], axis=1)
    return 1 - scores[:, 0] + (share * over).sum(axis=1), gradient


def squared(scores: Floats, ratings: Floats) -> tuple[Floats, Floats]:
    """Half the squared error of the first column against ``ratings``, shape (n,); there are no negatives."""
    error = scores[:, 0] - ratings
    return error * error / 2, error[:, None]


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
