"""Logarithms of sums of exponentials, against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.log_sums import PIECE, log_sums_of


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1e4])
def test_log_sums_are_those_of_double_precision(spread):
    scores = np.random.default_rng(0).normal(5.0, spread, (50, 2 * PIECE + 3)).astype(np.float32)
    expected = np.logaddexp.reduce(scores.astype(float), axis=1)
    np.testing.assert_allclose(log_sums_of(scores), expected, rtol=1e-7, atol=1e-6)


def test_scores_of_minus_infinity_add_nothing():
    scores = np.array([[-np.inf, 1.0, -np.inf, 2.0], [-np.inf] * 4, [-np.inf, -np.inf, -np.inf, -3.0]])
    expected = [np.log(np.exp(1.0) + np.exp(2.0)), -np.inf, -3.0]
    np.testing.assert_allclose(log_sums_of(scores.astype(np.float32)), expected, atol=1e-6)


def test_every_exponential_is_right_to_six_digits():
    scores = np.repeat(np.linspace(-25, 0, 200, dtype=np.float32)[:, None], 200 * PIECE, axis=1)
    scores[:, :PIECE] = -np.inf
    scores[:, 0] = 0.0
    of_others = np.expm1(log_sums_of(scores)) / (199 * PIECE)  # the first is 1
    of_the_first = 2e-7 / (199 * PIECE)
    np.testing.assert_allclose(of_others, np.exp(scores[:, -1].astype(float)), rtol=2e-6, atol=of_the_first)
