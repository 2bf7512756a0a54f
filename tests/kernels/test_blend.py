"""Scores on one scale, and weights of models."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from recsys_spark.kernels.blend import (
    ItemMoments,
    greedy_weights,
    moments,
    moments_of_products,
    scales,
    union_of_best,
)
from recsys_spark.kernels.item_item import Bags, PairWeights
from recsys_spark.kernels.metrics import ndcg, recall
from recsys_spark.kernels.topn import ItemBlock


def model(seed=0, users=7, items=75, rank=4):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((users, rank)), rng.standard_normal((items, rank))
    return x.astype(np.float32), y.astype(np.float32), rng.standard_normal(items).astype(np.float32)


def test_moments_of_products_are_those_of_the_scores():
    x, y, b = model()
    x[3] = 0
    scores = x @ y.T + b
    means, deviations = moments_of_products(x, ItemMoments.of(y, b))
    assert means == pytest.approx(scores.mean(axis=1), abs=1e-5)
    assert deviations == pytest.approx(scores.std(axis=1), rel=1e-5)


def test_vectors_of_length_0_have_the_moments_of_the_biases():
    _, _, b = model()
    items = ItemMoments.of(np.zeros((75, 0), np.float32), b)
    means, deviations = moments_of_products(np.zeros((2, 0), np.float32), items)
    assert means == pytest.approx([b.mean()] * 2)
    assert deviations == pytest.approx([b.std()] * 2)


def test_moments_of_sums_over_histories_are_those_of_the_scores():
    x, y, b = model()
    rng = np.random.default_rng(1)
    weights = np.where(rng.random((75, 9)) < 0.3, rng.standard_normal((75, 9)), 0).astype(np.float32)
    history = (rng.random((7, 9)) < 0.5).astype(np.float32)
    neighbors, targets = np.nonzero(weights.T)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(neighbors, minlength=9))])
    pairs = PairWeights(indptr, targets.astype(np.int32), weights[targets, neighbors])
    rows, places = np.nonzero(history)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=7))])
    bags = Bags(starts, places.astype(np.int32), np.ones(len(places), np.float32))
    blocks = [ItemBlock.build(y[s : s + 40], b[s : s + 40], s).with_weights(pairs) for s in (0, 40)]
    means, deviations = moments(x, blocks, bags, user_block=3)
    scores = x @ y.T + b + history @ weights.T
    assert means == pytest.approx(scores.mean(axis=1), abs=1e-5)
    assert deviations == pytest.approx(scores.std(axis=1), rel=1e-5)


def test_moments_of_a_user_do_not_depend_on_the_others():
    x, y, b = model(users=40, items=500, rank=8)
    nothing = Bags(np.zeros(41, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    blocks = [ItemBlock.build(y, b)]
    together = np.stack(moments(x, blocks, nothing, user_block=16))
    for start, stop in ((0, 1), (16, 17), (3, 40)):
        alone = np.stack(moments(x[start:stop], blocks, nothing.rows(start, stop), user_block=16))
        assert np.array_equal(alone, together[:, start:stop])


def test_scores_that_are_all_the_same_are_left_out():
    means, deviations = np.array([3.0, 3.0, 0.0, 0.0]), np.array([0.5, 3e-7, 0.0, 1e-12])
    assert scales(means, deviations).tolist() == [2.0, 0.0, 0.0, 1e12]


def test_candidates_are_the_best_of_each_model_once():
    one = np.array([[5, 4, 3, 2, 1, -np.inf]], np.float32)
    other = np.array([[1, 9, 2, 8, 3, -np.inf]], np.float32)
    items, values = union_of_best([one, other], 2)
    assert items.tolist() == [[0, 1, -1, 3]]
    assert values[:, 0, [0, 1, 3]].tolist() == [[5, 4, 2], [1, 9, 8]]


def test_catalogue_smaller_than_the_lists_is_taken_whole():
    one = np.array([[1, 2]], np.float32)
    items, values = union_of_best([one, one], 10)
    assert items[items >= 0].tolist() == [0, 1]
    assert values.shape == (2, 1, 4)


def ranked_ndcg(scores, relevant, k):
    """By hand: sort, discount, divide by the best."""
    found = []
    for row, wanted in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], item))[:k]
        gain = sum(1 / np.log2(rank + 2) for rank, item in enumerate(order) if wanted[item])
        found.append(gain / sum(1 / np.log2(rank + 2) for rank in range(min(k, int(wanted.sum())))))
    return float(np.mean(found))


def two_models(seed=4, users=60, items=30):
    """Each knows half of what is relevant."""
    rng = np.random.default_rng(seed)
    relevant = rng.random((users, items)) < 0.2
    relevant[:, 0] = True
    half = rng.random((users, items)) < 0.5
    values = np.stack([relevant & half, relevant & ~half]) + 0.7 * rng.standard_normal((2, users, items))
    return values.astype(np.float32), relevant


def test_blend_is_as_good_as_a_search_of_all_weights():
    values, relevant = two_models()
    listed = np.ones(relevant.shape, bool)
    weights, alone, together = greedy_weights(values, listed, relevant, relevant.sum(axis=1), ndcg, 5, 20)
    assert alone == pytest.approx([ranked_ndcg(one, relevant, 5) for one in values])
    assert together == pytest.approx(ranked_ndcg(np.tensordot(weights, values, 1), relevant, 5))
    assert weights.sum() == pytest.approx(1)
    best = max(
        ranked_ndcg(a * values[0] + b * values[1], relevant, 5)
        for a, b in product(range(11), repeat=2)
        if a + b
    )
    assert together > max(alone) + 0.05
    assert together > best - 0.01


def test_bad_model_gets_no_weight_and_none_alone_is_better():
    values, relevant = two_models()
    noise = np.random.default_rng(9).standard_normal(values[0].shape).astype(np.float32)
    three = np.stack([noise, *values])
    listed = np.ones(relevant.shape, bool)
    weights, alone, together = greedy_weights(three, listed, relevant, relevant.sum(axis=1), recall, 5, 20)
    assert weights[0] <= 0.1
    assert together >= max(alone)
    only, _, _ = greedy_weights(
        np.stack([values[0], noise * 0]), listed, relevant, relevant.sum(axis=1), ndcg, 5, 9
    )
    assert only.tolist() == [1, 0]


def test_what_may_not_be_listed_is_no_hit():
    values = np.array([[[3, 2, 1]], [[3, 2, 1]]], np.float32)
    relevant, listed = np.array([[True, False, True]]), np.array([[False, True, True]])
    _, alone, _ = greedy_weights(values, listed, relevant, np.array([2]), recall, 1, 1)
    assert alone == [0.0, 0.0]
    _, alone, _ = greedy_weights(values, listed, relevant, np.array([2]), recall, 2, 1)
    assert alone == [0.5, 0.5]
