"""Scores of pairs and their gradients, against the sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.pairs import pair_scores, pair_scores_backward

RNG = np.random.default_rng(0)
USERS, ITEMS = RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=(4, 5)).astype(np.float32)
ROWS, CANDIDATES = np.array([0, 0, 2], np.int32), np.array([[1, 3], [1, -1], [0, 1]], np.int32)


def written_out(users, items, product):
    scores = np.zeros(CANDIDATES.shape)
    for k, row in enumerate(ROWS):
        for j, item in enumerate(CANDIDATES[k]):
            if item >= 0:
                scores[k, j] = users[row, -1] + items[item, -1]
                if product:
                    scores[k, j] += users[row, :-1] @ items[item, :-1]
    return scores


@pytest.mark.parametrize("product", [True, False])
def test_scores_are_biases_and_dot_products(product):
    found = pair_scores(USERS, ITEMS, ROWS, CANDIDATES, product)
    np.testing.assert_allclose(found, written_out(USERS, ITEMS, product), rtol=1e-5)


@pytest.mark.parametrize("product", [True, False])
def test_backward_pass_is_the_gradient_of_the_scores(product):
    gradient = RNG.normal(size=CANDIDATES.shape).astype(np.float32)
    found = np.zeros_like(USERS), np.zeros_like(ITEMS)
    pair_scores_backward(USERS, ITEMS, ROWS, CANDIDATES, product, gradient, *found)
    arrays = USERS.astype(float), ITEMS.astype(float)
    for array, grad_array in zip(arrays, found, strict=True):
        for position in np.ndindex(array.shape):
            kept, values = array[position], []
            for step in (1e-6, -1e-6):
                array[position] = kept + step
                values.append((written_out(*arrays, product) * gradient * (CANDIDATES >= 0)).sum())
            array[position] = kept
            assert grad_array[position] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-4)
