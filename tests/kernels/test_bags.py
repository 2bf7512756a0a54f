"""Bags of embeddings: held-out items, sums and their gradients, and Adam by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from recsys_spark.kernels.bags import add_rows, bag_sums, bag_sums_backward, hold_out
from recsys_spark.kernels.optimizer import adam

INDPTR, ITEMS = np.array([0, 3, 4, 6]), np.array([0, 2, 4, 1, 2, 3], np.int32)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.floats(0, 0.999), st.integers(0, 2**63))
@settings(deadline=None)
def test_held_out_items_are_distinct_and_never_the_whole_history(lengths, fraction, key):
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(len(lengths), dtype=np.int32)
    slots, positions = hold_out(np.full(len(lengths), key, np.uint64), indptr, rows, fraction)
    assert len(np.unique(positions)) == len(positions)
    assert ((positions >= indptr[slots]) & (positions < indptr[slots + 1])).all()
    expected = [min(max(1, round(fraction * length)), length - 1) if length > 1 else 0 for length in lengths]
    assert np.bincount(slots, minlength=len(lengths)).tolist() == expected


def test_every_item_is_held_out_as_often_as_another():
    keys = np.random.default_rng(0).integers(0, 2**63, 30_000).astype(np.uint64)
    indptr = np.arange(30_001) * 5
    slots, positions = hold_out(keys, indptr, np.arange(30_000, dtype=np.int32), 0.4)
    counts = np.bincount(positions - indptr[slots], minlength=5)
    assert counts.sum() == 60_000
    assert chisquare(counts).pvalue > 1e-3


def test_sums_of_bags_and_their_gradients():
    table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows = np.array([2, 0], np.int32)
    members = np.array([[0, 0, 1, 1, 0], [1, 0, 1, 0, 1]], np.float32)  # of histories 2 and 0
    np.testing.assert_allclose(bag_sums(INDPTR, ITEMS, rows, table), members @ table, rtol=1e-5)
    gradients, out = np.array([[1, 2, 3], [10, 20, 30]], np.float32), np.zeros((5, 3), np.float32)
    bag_sums_backward(INDPTR, ITEMS, rows, gradients, out)
    np.testing.assert_allclose(out, members.T @ gradients)


def test_rows_that_are_named_twice_are_added_twice():
    out = np.zeros((3, 2), np.float32)
    add_rows(out, np.array([1, 1, 0], np.int32), np.array([[1, 2], [3, 4], [5, 6]], np.float32), -1.0)
    assert out.tolist() == [[-5, -6], [-4, -6], [0, 0]]


def test_two_steps_of_adam_by_hand():
    # gradient 2, then −1, at rate 0.1: m = 0.2, v = 0.004; corrected 2 and 4 → step 0.1 · 2 / 2
    # then m = 0.18 − 0.1 = 0.08, v = 0.003996 + 0.001 = 0.004996;
    # over 1 − 0.81 = 0.19 and 1 − 0.998001 = 0.001999
    table, moments = (
        np.array([[1.0], [7.0]], np.float32),
        (np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32)),
    )
    first = np.array([0], np.int32)
    adam(table, moments, first, np.array([[2.0]], np.float32), 0.1, 1, 0.0)
    assert table[:, 0].tolist() == pytest.approx([0.9, 7.0], abs=1e-5)
    adam(table, moments, first, np.array([[-1.0]], np.float32), 0.1, 2, 0.0)
    expected = 0.9 - 0.1 * (0.08 / 0.19) / np.sqrt(0.004996 / 0.001999)
    assert table[:, 0].tolist() == pytest.approx([expected, 7.0], abs=1e-5)


def test_decay_pulls_a_row_to_zero():
    table = np.array([[3.0, -3.0]], np.float32)
    adam(
        table,
        (np.zeros_like(table), np.zeros_like(table)),
        np.array([0], np.int32),
        np.zeros((1, 2), np.float32),
        0.1,
        1,
        0.5,
    )
    assert table[0].tolist() == pytest.approx([2.9, -2.9], abs=1e-5)
