"""Metrics worked by hand, and NDCG against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from recsys_spark.kernels import metrics

# user 0: ranks 1 and 3 relevant, of 3 relevant items; user 1: none of 1; user 2: only rank 4, of 5
HITS = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
RELEVANT = np.array([3, 1, 5])

BY_HAND = {
    ("hit_rate", 2): [1, 0, 0],
    ("hit_rate", 4): [1, 0, 1],
    ("precision", 2): [1 / 2, 0, 0],
    ("precision", 4): [2 / 4, 0, 1 / 4],
    ("recall", 2): [1 / 3, 0, 0],
    ("recall", 4): [2 / 3, 0, 1 / 5],
    # user 0: (1/1 + 2/3) / min(3, 4); user 2: (1/4) / min(5, 4)
    ("map", 4): [(1 + 2 / 3) / 3, 0, 1 / 16],
    ("map", 2): [1 / 2, 0, 0],
    ("mrr", 4): [1, 0, 1 / 4],
    ("mrr", 3): [1, 0, 0],
    ("ndcg", 4): [
        (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / math.log2(4)),
        0,
        (1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)),
    ],
    ("ndcg", 1): [1, 0, 0],
}


@pytest.mark.parametrize(("name", "k"), BY_HAND)
def test_value_worked_by_hand(name, k):
    np.testing.assert_allclose(metrics.ACCURACY[name](HITS, RELEVANT, k), BY_HAND[name, k])


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_equals_scikit_learn(k):
    rng = np.random.default_rng(1)
    relevance = rng.random((40, 30)) < 0.2
    relevance[:, 0] = True
    scores = rng.permuted(np.tile(np.arange(30), (40, 1)), axis=1)
    ranked = np.take_along_axis(relevance, np.argsort(-scores, axis=1), axis=1)
    expected = ndcg_score(relevance, scores, k=k)
    assert metrics.ndcg(ranked, relevance.sum(axis=1), k).mean() == pytest.approx(expected)


def test_cutoff_beyond_the_list_counts_missing_ranks_as_misses():
    assert metrics.precision(HITS, RELEVANT, 10).tolist() == [0.2, 0, 0.1]
    assert metrics.ndcg(HITS, RELEVANT, 10)[0] == metrics.ndcg(HITS, RELEVANT, 4)[0]


def test_mean_at_leaves_missing_ranks_out_and_is_undefined_for_an_empty_list():
    values = np.array([[1.0, 3.0, 100.0], [5.0, 5.0, 5.0]])
    present = np.array([[1, 1, 0], [0, 0, 0]], bool)
    found = metrics.mean_at(values, present, 3)
    assert found[0] == 2
    assert math.isnan(found[1])


def test_diversity_is_one_for_unlike_items_and_zero_for_like_ones():
    east, north = [1.0, 0.0], [0.0, 1.0]
    directions = np.array([[east, north], [east, east], [east, north]])
    present = np.array([[1, 1], [1, 1], [1, 0]], bool)
    found = metrics.intra_list_diversity(directions, present, 2)
    np.testing.assert_allclose(found[:2], [1, 0])
    assert math.isnan(found[2])


def test_diversity_is_the_mean_over_pairs():
    rng = np.random.default_rng(5)
    vectors = rng.random((1, 6, 4))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    pairs = [1 - vectors[0, i] @ vectors[0, j] for i in range(5) for j in range(i + 1, 5)]
    found = metrics.intra_list_diversity(vectors, np.ones((1, 6), bool), 5)
    assert found[0] == pytest.approx(np.mean(pairs))
