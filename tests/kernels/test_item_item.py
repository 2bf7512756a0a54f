"""Weights of item pairs against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.item_item import (
    Audiences,
    Bags,
    Head,
    Histories,
    Measure,
    PairWeights,
    add_scores,
    costs,
    exact_weights,
    gram_among,
    gram_beside_head,
    neighbors,
    pair_scores,
    ridge_weights,
    squares,
)
from recsys_spark.kernels.topn import ItemBlock, top_n

USERS, ITEMS = 60, 14


@pytest.fixture(scope="module", params=["ones", "values"])
def dense(request):
    """Users by items, and what each user weighs."""
    rng = np.random.default_rng(3)
    x = (rng.random((USERS, ITEMS)) < np.linspace(0.1, 0.6, ITEMS)).astype(np.float64)
    if request.param == "values":
        x *= np.round(rng.normal(size=x.shape), 2)
    return x, rng.uniform(0.5, 2.0, USERS)


def compressed(x, weights):
    users, items = np.nonzero(x)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(x)))])
    values = x[users, items].astype(np.float32)
    if (values == 1).all():
        values = values[:0]
    return Histories(indptr.astype(np.int64), items.astype(np.int32), values, weights.astype(np.float32))


def gram_of(x, weights):
    return x.T @ (weights[:, None] * x)


def test_gram_of_some_items_is_that_of_the_dense_matrix(dense):
    histories, expected = compressed(*dense), gram_of(*dense)
    assert squares(histories, ITEMS) == pytest.approx(expected.diagonal(), rel=1e-5)
    chosen = np.array([0, 3, 4, 9, 13], np.int32)
    assert gram_among(histories, chosen, ITEMS) == pytest.approx(
        expected[np.ix_(chosen, chosen)], rel=1e-4, abs=1e-4
    )


@pytest.mark.parametrize("head", [[], [3], [0, 3, 8, 12], list(range(ITEMS))])
def test_gram_is_the_same_whatever_is_in_the_head(dense, head):
    histories, expected = compressed(*dense), gram_of(*dense)
    head, chosen = np.array(head, np.int32), np.array([2, 3, 8, 13], np.int32)
    in_head, newest = np.full(ITEMS, -1, np.int32), np.full(USERS, -1, np.int32)
    in_head[head] = np.arange(len(head))
    of_head = Head(in_head, gram_among(histories, head, ITEMS))
    found = gram_beside_head(Audiences.of(histories, ITEMS), histories.weights, of_head, chosen, newest)
    assert found == pytest.approx(expected[np.ix_(chosen, chosen)], rel=1e-4, abs=1e-4)
    assert (newest == -1).all()  # as it was


def test_neighbors_are_the_best_by_cosine(dense):
    gram = gram_of(*dense)
    lengths = np.sqrt(gram.diagonal())
    cosines = gram / np.outer(lengths, lengths)
    np.fill_diagonal(cosines, -1)
    measure = Measure(1 / lengths, 1 / lengths, False)
    own = np.array([5, 2, 11], np.int32)
    found, measures = neighbors(compressed(*dense), own, measure, 4)
    for row, item in enumerate(own):
        best = [j for j in np.argsort(-cosines[item])[:4] if cosines[item, j] > 0]
        assert found[row][found[row] >= 0].tolist() == sorted(best)
        assert measures[row][: len(best)] == pytest.approx(cosines[item, sorted(best)], rel=1e-4)


def test_of_equal_measures_the_smaller_items_are_nearer():
    x = np.zeros((4, 6))
    x[:, 3] = x[0, :] = 1  # items 0, 1, 2, 4, 5 go with item 3 alike
    ones = np.ones(6)
    found, _ = neighbors(compressed(x, np.ones(4)), np.array([3], np.int32), Measure(ones, ones, False), 3)
    assert found.tolist() == [[0, 1, 2]]


def test_jaccard_counts_who_has_both_of_who_has_either():
    x = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    counts = x.sum(axis=0).astype(np.float64)
    found, measures = neighbors(
        compressed(x, np.ones(3)), np.array([0], np.int32), Measure(counts, counts, True), 2
    )
    assert found.tolist() == [[1, 2]]
    assert measures.tolist() == [pytest.approx([2 / 3, 1 / 3])]


def regression(x, weights, item, support, penalty):
    """The same by least squares of a longer matrix."""
    root = np.sqrt(weights)[:, None]
    left = np.vstack([root * x[:, support], np.diag(np.sqrt(penalty[support]))])
    right = np.concatenate([root[:, 0] * x[:, item], np.zeros(len(support))])
    return np.linalg.lstsq(left, right)[0]


def test_ridge_is_a_regression_on_the_neighbors(dense):
    x, weights = dense
    chosen = np.array([1, 2, 4, 7, 8, 12], np.int32)
    own, near = np.array([4, 1], np.int32), np.array([[1, 8, 12], [2, 7, -1]], np.int32)
    penalty = np.linspace(1, 3, ITEMS)
    gram = gram_among(compressed(x, weights), chosen, ITEMS)
    found = ridge_weights(gram, chosen, own, near, penalty[chosen])
    assert found[0] == pytest.approx(regression(x, weights, 4, [1, 8, 12], penalty), abs=1e-4)
    assert found[1] == pytest.approx([*regression(x, weights, 1, [2, 7], penalty), 0], abs=1e-4)


def test_exact_is_a_regression_on_all_others(dense):
    x, weights = dense
    penalty = np.linspace(1, 3, ITEMS)
    gram = gram_among(compressed(x, weights), np.arange(ITEMS, dtype=np.int32), ITEMS)
    near, found = exact_weights(gram.copy(), penalty, ITEMS)
    for item in range(ITEMS):
        others = [j for j in range(ITEMS) if j != item]
        assert near[item].tolist() == others
        assert found[item] == pytest.approx(regression(x, weights, item, others, penalty), abs=1e-4)
    few, largest = exact_weights(gram, penalty, 3)
    assert largest == pytest.approx(np.take_along_axis(found, few - (few > np.arange(ITEMS)[:, None]), 1))
    assert np.abs(largest).min(axis=1) == pytest.approx(np.sort(np.abs(found), axis=1)[:, -3])


def test_what_an_item_costs_are_the_events_of_its_users(dense):
    x, weights = dense
    has = (x != 0).astype(int)
    assert costs(compressed(x, weights), ITEMS).tolist() == (has.T @ has.sum(axis=1)).tolist()


def test_sums_over_many_users_lose_nothing():
    users = 3 * 2**23
    histories = Histories(
        np.arange(users + 1), np.zeros(users, np.int32), np.zeros(0, np.float32), np.ones(users, np.float32)
    )
    assert gram_among(histories, np.zeros(1, np.int32), 1).tolist() == [[users]]


def some_weights(rng, n_from, n_to):
    dense = np.where(rng.random((n_from, n_to)) < 0.3, rng.normal(size=(n_from, n_to)), 0.0)
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_from))]).astype(np.int64)
    return dense, PairWeights(indptr, columns.astype(np.int32), dense[rows, columns].astype(np.float32))


def as_bags(x):
    return Bags(*compressed(x + 0.0, np.ones(len(x)))[:2], x[np.nonzero(x)].astype(np.float32))


def test_scores_are_sums_over_the_history():
    rng = np.random.default_rng(1)
    weights, rows = some_weights(rng, 9, 70)
    x = np.where(rng.random((5, 9)) < 0.5, rng.normal(size=(5, 9)), 0.0)
    scores = np.full((5, 70), 2, np.float32)
    add_scores(scores, as_bags(x), rows)
    assert scores == pytest.approx(2 + x @ weights, abs=1e-5)
    turned, by_target = weights.T, np.nonzero(weights.T)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(by_target[0], minlength=70))]).astype(np.int64)
    of_targets = PairWeights(indptr, by_target[1].astype(np.int32), turned[by_target].astype(np.float32))
    asked, rows = np.array([0, 69, -1, 30, 31, 2], np.int32), np.array([4, 1, 2, 2, 0, 1])
    expected = np.where(asked < 0, 0, (x @ weights)[rows, asked])
    assert pair_scores(as_bags(x), rows, asked, of_targets) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [16, 33, 100])
def test_lists_are_the_best_sums_whatever_the_blocks(size):
    rng = np.random.default_rng(2)
    n_items, users = 100, rng.normal(size=(7, 3)).astype(np.float32)
    weights, rows = some_weights(rng, 20, n_items)
    x = np.where(rng.random((7, 20)) < 0.5, rng.normal(size=(7, 20)), 0.0)
    factors = rng.normal(size=(n_items, 3)).astype(np.float32)
    biases = rng.normal(size=n_items).astype(np.float32)
    blocks = [
        ItemBlock.build(factors[s : s + size], biases[s : s + size], s).with_weights(rows)
        for s in range(0, n_items, size)
    ]
    nothing = np.zeros(8, np.int64), np.zeros(0, np.int32)
    found, scores = top_n(users, blocks, nothing, 5, 4, None, as_bags(x))
    expected = users @ factors.T + x @ weights + biases
    best = np.argsort(-expected, axis=1)[:, :5]
    assert found.tolist() == best.tolist()
    assert scores == pytest.approx(np.take_along_axis(expected, best, 1), abs=1e-4)
