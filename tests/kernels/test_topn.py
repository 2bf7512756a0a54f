"""The top-n kernel against a slow, obvious twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.topn import GROUP, Allowed, ItemBlock, best_columns, top_n, top_n_of_biases


def slow_top_n(users, items, biases, seen, n):
    """Every score, sorted by (-score, position), without the seen."""
    lists = []
    for user, row in enumerate(users @ items.T + biases):
        eligible = [p for p in range(len(items)) if p not in seen[user] and row[p] > -np.inf]
        lists.append(sorted(eligible, key=lambda p, row=row: (-row[p], p))[:n])
    return lists


def csr(seen):
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in seen])]).astype(np.int64)
    return indptr, np.array([p for s in seen for p in s], np.int32)


def blocks_of(items, biases, size):
    starts = range(0, max(len(items), 1), size)
    return [ItemBlock.build(items[s : s + size], biases[s : s + size], s) for s in starts]


def as_lists(items):
    return [[p for p in row if p >= 0] for row in items.tolist()]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_slow_twin_whatever_the_blocks(data):
    n_users, n_items = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 150))
    rank, n = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 12))
    # small whole numbers: products are exact and ties are everywhere
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    users = draw.integers(-2, 3, (n_users, rank)).astype(np.float32)
    items = draw.integers(-2, 3, (n_items, rank)).astype(np.float32)
    biases = draw.integers(-1, 2, n_items).astype(np.float32)
    seen = [
        draw.choice(n_items, draw.integers(0, n_items + 1), replace=False).tolist() for _ in range(n_users)
    ]
    block, user_block = data.draw(st.sampled_from([GROUP, 40, 64, 1000])), data.draw(st.integers(1, 10))
    found, scores = top_n(users, blocks_of(items, biases, block), csr(seen), n, user_block)
    expected = slow_top_n(users, items, biases, [set(s) for s in seen], n)
    assert as_lists(found) == expected
    for row, listed in enumerate(expected):
        np.testing.assert_array_equal(scores[row, : len(listed)], (users @ items.T + biases)[row, listed])
        assert np.isneginf(scores[row, len(listed) :]).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_lists_by_bias_alone_equal_the_slow_twin(data):
    n_users, n_items, n = (data.draw(st.integers(1, most)) for most in (9, 60, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    biases = draw.choice([-np.inf, 0.0, 1.0, 2.5], n_items).astype(np.float32)
    seen = [draw.integers(0, n_items, draw.integers(0, 2 * n_items)).tolist() for _ in range(n_users)]
    found, scores = top_n_of_biases(biases, csr(seen), n)
    nothing = np.zeros((n_users, 0)), np.zeros((n_items, 0))
    expected = slow_top_n(*nothing, biases, [set(s) for s in seen], n)
    assert as_lists(found) == expected
    for row, listed in enumerate(expected):
        np.testing.assert_array_equal(scores[row, : len(listed)], biases[listed])
        assert np.isneginf(scores[row, len(listed) :]).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_users_are_shown_nothing_but_what_they_may_be(data):
    """Groups with what they are denied, and users with the only items they may be shown, or one that is not
    in the catalogue.
    """
    n_users, n_items, n = (data.draw(st.integers(1, most)) for most in (9, 100, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    users, items = (draw.integers(-2, 3, (size, 2)).astype(np.float32) for size in (n_users, n_items))
    biases, everything = np.zeros(n_items, np.float32), set(range(n_items))
    seen = [draw.integers(0, n_items, draw.integers(0, 5)).tolist() for _ in range(n_users)]
    groups, denied = draw.integers(-1, 3, n_users).astype(np.int32), draw.random((3, n_items)) < 0.4
    only = [draw.integers(-1, n_items, draw.choice([0, 1, 30])).tolist() for _ in range(n_users)]
    may = [
        (set(own) if own else everything) - (set() if group < 0 else set(np.flatnonzero(denied[group])))
        for own, group in zip(only, groups.tolist(), strict=True)
    ]
    blocks = [
        block.with_denied(denied) for block in blocks_of(items, biases, data.draw(st.sampled_from([40, 64])))
    ]
    log_sums, user_block = np.zeros(n_users), data.draw(st.integers(1, 10))
    allowed = Allowed(groups, csr(only))
    found, _ = top_n(users, blocks, csr(seen), n, user_block, log_sums, allowed=allowed)
    excluded = [everything - own | set(gone) for own, gone in zip(may, seen, strict=True)]
    assert as_lists(found) == slow_top_n(users, items, biases, excluded, n)
    for user, own in enumerate(may):
        scores = (users[user] @ items.T)[[item for item in own if item >= 0]].astype(np.float64)
        assert log_sums[user] == pytest.approx(np.logaddexp.reduce(scores, initial=-np.inf), abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_best_of_each_shelf_are_in_one_list(data):
    """Shelves that share items, and empty ones."""
    n_users, n_items, n = (data.draw(st.integers(1, most)) for most in (9, 150, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    users, items = (draw.integers(-2, 3, (size, 2)).astype(np.float32) for size in (n_users, n_items))
    biases, everything = draw.integers(-1, 2, n_items).astype(np.float32), set(range(n_items))
    seen = [draw.integers(0, n_items, draw.integers(0, 40)).tolist() for _ in range(n_users)]
    shelves = [np.flatnonzero(draw.random(n_items) < share).astype(np.int32) for share in (0, 0.1, 0.5, 0.7)]
    plain = blocks_of(items, biases, data.draw(st.sampled_from([GROUP, 40, 1000])))
    blocks = [block.with_shelves(shelves) for block in plain]
    found, scores = top_n(users, blocks, csr(seen), n, data.draw(st.integers(1, 10)))
    expected = [set() for _ in range(n_users)]
    for shelf in shelves:
        excluded = [everything - set(shelf.tolist()) | set(own) for own in seen]
        for listed, best in zip(expected, slow_top_n(users, items, biases, excluded, n), strict=True):
            listed.update(best)
    order = [everything - own for own in expected]
    assert as_lists(found) == slow_top_n(users, items, biases, order, 4 * n)
    for row, listed in zip(scores, as_lists(found), strict=True):
        assert np.isneginf(row[len(listed) :]).all()


def test_random_scores_give_the_same_items_as_a_full_sort():
    rng = np.random.default_rng(3)
    users, items = rng.standard_normal((50, 16), np.float32), rng.standard_normal((5000, 16), np.float32)
    biases = rng.standard_normal(5000).astype(np.float32)
    found, _ = top_n(users, blocks_of(items, biases, 5000), csr([[]] * 50), 20)
    expected = np.argsort(-(users @ items.T + biases), axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(found, expected)


def test_seen_items_may_repeat_and_come_in_any_order():
    items = np.arange(6, dtype=np.float32)[:, None]
    found, _ = top_n(
        np.ones((1, 1), np.float32), blocks_of(items, np.zeros(6, np.float32), 64), csr([[5, 3, 5]]), 3
    )
    assert found.tolist() == [[4, 2, 1]]


def test_user_with_everything_seen_gets_an_empty_list():
    items = np.ones((3, 1), np.float32)
    found, scores = top_n(
        np.ones((1, 1), np.float32), blocks_of(items, np.zeros(3, np.float32), 64), csr([[0, 1, 2]]), 2
    )
    assert found.tolist() == [[-1, -1]]
    assert np.isneginf(scores).all()


def test_item_with_bias_of_minus_infinity_is_denied_to_every_user():
    biases = np.array([0, -np.inf, 0], np.float32)
    found, _ = top_n(
        np.ones((1, 1), np.float32), blocks_of(np.ones((3, 1), np.float32), biases, 64), csr([[]]), 3
    )
    assert found.tolist() == [[0, 2, -1]]


def test_leftmost_of_equal_values_is_chosen():
    values = np.array([[1, 3, 3, 3, 0], [2, 2, 2, 2, 2]], np.float32)
    assert best_columns(values, 2).tolist() == [[1, 2], [0, 1]]


@pytest.mark.parametrize("n", [0, -1])
def test_length_below_one_is_rejected(n):
    with pytest.raises(ValueError, match="n must be at least 1"):
        top_n(
            np.ones((1, 1), np.float32),
            blocks_of(np.ones((1, 1), np.float32), np.zeros(1, np.float32), 64),
            csr([[]]),
            n,
        )


def test_seen_of_another_number_of_users_is_rejected():
    with pytest.raises(ValueError, match="2 rows for 1 users"):
        top_n(np.ones((1, 1), np.float32), [], csr([[], []]), 1)
