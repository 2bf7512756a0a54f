"""Sets of whole numbers."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.sets import contained, distinct, numbered


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(0,), (1,), (60,), (7, 9)])
def test_distinct_numbers_ascend_as_those_of_a_set_do(dtype, shape):
    values = np.random.default_rng(3).integers(0, 40, shape).astype(dtype)
    found = distinct(values)
    assert found.tolist() == sorted(set(values.ravel().tolist()))
    assert found.dtype == dtype


@pytest.mark.parametrize("shape", [(0,), (50,), (6, 8)])
@pytest.mark.parametrize("others", [0, 1, 30])
def test_contained_are_those_of_a_set(shape, others):
    rng = np.random.default_rng(4)
    values, among = rng.integers(-5, 25, shape), rng.integers(0, 20, others)
    found = contained(values, among)
    assert found.shape == shape
    assert found.ravel().tolist() == [value in set(among.tolist()) for value in values.ravel().tolist()]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("size", [0, 1, 40])
def test_numbered_are_the_distinct_ones_and_every_place_among_them(dtype, size):
    values = np.random.default_rng(5).integers(0, 30, size).astype(dtype)
    found, places = numbered(values, 30)
    assert found.tolist() == sorted(set(values.tolist()))
    assert found[places].tolist() == values.tolist()
