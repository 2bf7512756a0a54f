"""Draws that are functions of their keys."""

from __future__ import annotations

import math

import numpy as np

from recsys_spark.kernels.randomness import poisson, uniform


def test_poisson_draws_are_inversions_of_the_uniform_ones():
    sums = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(16)])
    rows, columns = np.arange(400)[:, None], np.arange(2_500)[None, :]
    draws = uniform(3, rows, columns)
    near = np.abs(draws[..., None] - sums).min(axis=-1) < 2.0**-17
    assert near.any()  # those that their first bits do not decide are among them
    assert np.array_equal(poisson(3, rows, columns), (draws[..., None] >= sums).sum(axis=-1))
