"""Singular vectors on threads, without Spark."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from recsys_spark.training.interactions import prepare
from recsys_spark.training.ownership import split_by_task
from recsys_spark.training.spectral import SpectralConfig, singular_vectors
from tests.training.groups import run_group

USERS, ITEMS = 400, 150


def pairs(seed=3):
    """Users like some of ten groups of items: singular values that fall slowly."""
    rng = np.random.default_rng(seed)
    taste, kind = rng.random((USERS, 10)) ** 3, rng.integers(0, 10, ITEMS)
    return np.argwhere(rng.random((USERS, ITEMS)) < 0.5 * taste[:, kind])


def normalized(found):
    """The matrix, as its formula has it."""
    x = csr_array((np.ones(len(found)), tuple(found.T)), shape=(USERS, ITEMS)).toarray()
    return x / np.sqrt(np.maximum(x.sum(axis=1), 1))[:, None] / np.sqrt(np.maximum(x.sum(axis=0), 1))


def found_by(size, found, rank, seed=5):
    """Vectors by item, and values, of a group of ``size`` tasks."""
    names = ["user", "item", "rating"]
    table = pa.table([*map(pa.array, found.T), pa.array(np.ones(len(found), np.float32))], names=names)
    shares = dict(split_by_task(table, size))

    def program(group):
        data = prepare(group, shares[group.rank])
        return data.items.ids, *singular_vectors(group, data, SpectralConfig(rank, seed))

    results = run_group(size, program)
    vectors = np.zeros((ITEMS, results[0][1].shape[1]), np.float32)
    for ids, own, _ in results:
        vectors[ids.to_numpy()] = own
    return vectors, results[0][2]


def test_space_of_the_largest_singular_values_is_that_of_lapack():
    found = pairs()
    matrix = normalized(found)
    vectors, values = found_by(2, found, 20)
    _, expected, right = svds(matrix, k=20, random_state=0)
    assert values == pytest.approx(np.sort(expected)[::-1], abs=1e-4)
    assert values[0] == pytest.approx(1.0, abs=1e-5)
    # a direction is found as well as its value stands apart: all of the ten groups, and most of the rest
    overlap = np.linalg.norm(vectors.T @ right.T, ord="fro") ** 2
    assert overlap > 20 - 1e-3
    assert vectors.T @ vectors == pytest.approx(np.eye(20), abs=1e-5)


def test_any_number_of_tasks_finds_the_same_bits():
    found = pairs()
    alone, values = found_by(1, found, 12)
    for size in (2, 3, 7):
        vectors, others = found_by(size, found, 12)
        assert np.array_equal(vectors, alone)
        assert np.array_equal(others, values)


def test_matrix_of_small_rank_has_no_more_vectors():
    same = np.array([(user, item) for user in range(9) for item in range(6)])
    vectors, values = found_by(2, same, 5)
    assert values == pytest.approx([1.0], abs=1e-6)
    assert np.abs(vectors[:6]) == pytest.approx(np.full((6, 1), 6**-0.5), abs=1e-6)


def test_components_apart_have_a_vector_each():
    apart = np.array([(user, item) for user in range(40) for item in range(80) if user // 4 == item // 8])
    vectors, values = found_by(3, apart, 10)
    assert values == pytest.approx(np.ones(10), abs=1e-5)
    projector = vectors[:80] @ vectors[:80].T
    expected = np.kron(np.eye(10), np.full((8, 8), 1 / 8))
    assert projector == pytest.approx(expected, abs=1e-5)
