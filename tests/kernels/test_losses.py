"""Losses of pairs: by hand, against central differences, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.losses import bpr, contrastive, logistic, squared

SCORES = np.array([[1.0, 0.5, -2.0], [0.0, 3.0, 0.2]])
MASK = np.array([[True, True, True], [True, False, True]])
LOSSES = {
    "logistic": lambda scores: logistic(scores, MASK),
    "bpr": lambda scores: bpr(scores, MASK),
    "contrastive": lambda scores: contrastive(scores, MASK, 0.1, 3.0),
    "squared": lambda scores: squared(scores[:, :1], np.array([4.0, 1.0])),
}


def minus_log_sigmoid(x):
    return np.log(1 + np.exp(-x))


def test_losses_worked_by_hand():
    # logistic: a positive's -log σ(s), a negative's -log σ(-s); the second row's 3.0 is masked
    first, second = (
        minus_log_sigmoid(1.0) + minus_log_sigmoid(-0.5) + minus_log_sigmoid(2.0),
        np.log(2) + minus_log_sigmoid(-0.2),
    )
    assert LOSSES["logistic"](SCORES)[0].tolist() == pytest.approx([first, second])
    # bpr: mean of -log σ(1 - 0.5) and -log σ(1 + 2); of the second row one pair, 0 - 0.2
    first = (minus_log_sigmoid(0.5) + minus_log_sigmoid(3.0)) / 2
    assert LOSSES["bpr"](SCORES)[0].tolist() == pytest.approx([first, minus_log_sigmoid(-0.2)])
    # contrastive: 1 - 1 + 3 · (0.4 + 0) / 2, and 1 - 0 + 3 · 0.1
    assert LOSSES["contrastive"](SCORES)[0].tolist() == pytest.approx([0.6, 1.3])
    # squared: (1 - 4)² / 2, and (0 - 1)² / 2
    assert LOSSES["squared"](SCORES)[0].tolist() == pytest.approx([4.5, 0.5])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_central_differences(name):
    gradient = LOSSES[name](SCORES)[1]
    for position in np.ndindex(gradient.shape):
        values = []
        for step in (1e-6, -1e-6):
            scores = SCORES.copy()
            scores[position] += step
            values.append(LOSSES[name](scores)[0].sum())
        assert gradient[position] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_finite_at_the_edges(name):
    scores = np.array([[1e4, -1e4, 1e4], [-1e4, 1e4, 0]], np.float32)
    losses, gradient = LOSSES[name](scores)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()


def test_pair_without_negatives_has_no_negatives_loss():
    scores, mask = np.array([[2.0, 0.0]]), np.array([[True, False]])
    assert bpr(scores, mask)[0].tolist() == [0.0]
    assert contrastive(scores, mask, 0.5, 2.0)[0].tolist() == [-1.0]
    assert logistic(scores, mask)[0].tolist() == pytest.approx([minus_log_sigmoid(2.0)])
