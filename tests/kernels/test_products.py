"""The matrix product that is the same for a row whatever the others are."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.products import product


@pytest.mark.parametrize(("length", "columns"), [(1, 1), (7, 7), (64, 64), (6, 300), (9, 530)])
def test_a_row_has_the_same_bits_whatever_the_others(length, columns):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, length)).astype(np.float32)
    y = rng.normal(size=(length, columns)).astype(np.float32)
    every = product(x, y)
    np.testing.assert_allclose(every, x.astype(float) @ y, rtol=1e-4, atol=1e-4)
    for row in (0, 3, 15, 16, 255, 699):
        assert product(x[row : row + 1], y).tobytes() == every[row].tobytes()


def test_nothing_times_anything_is_zero():
    out = np.full((3, 2), np.nan, np.float32)
    assert product(np.zeros((3, 0), np.float32), np.zeros((0, 2), np.float32), out) is out
    assert not out.any()
