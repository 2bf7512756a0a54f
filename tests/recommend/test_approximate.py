"""Approximate lists: right scores, nothing seen, and few items missed."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.topn import ItemBlock, top_n
from recsys_spark.recommend.approximate import approximate_top_n, build_index, open_index
from recsys_spark.recommend.top_n import ListRequest, recommend_lists


def vectors(n_users=40, n_items=2000, rank=8):
    rng = np.random.default_rng(0)
    return *(rng.normal(size=(n, rank)).astype(np.float32) for n in (n_users, n_items)), rng.normal(
        size=n_items
    ).astype(np.float32)


def test_nearly_all_of_the_best_are_found_with_their_scores():
    users, items, biases = vectors()
    seen = (
        np.arange(len(users) + 1) * 3,
        np.random.default_rng(1).integers(0, len(items), 3 * len(users)).astype(np.int32),
    )
    truth, _ = top_n(users, [ItemBlock.build(items, biases)], seen, 10)
    found, scores = approximate_top_n(users, open_index(build_index(items, biases)), seen, 10, len(items))
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]) > 0.95
    for user in range(len(users)):
        np.testing.assert_allclose(
            scores[user], items[found[user]] @ users[user] + biases[found[user]], rtol=1e-4, atol=1e-4
        )
        assert not set(found[user]) & set(seen[1][3 * user : 3 * user + 3])
    assert (np.diff(scores, axis=1) <= 0).all()


def test_seen_items_of_a_large_catalogue_are_left_out():
    """Keys of (user, item) together do not fit into 32 bits: 200 users times 2^24 items."""
    n_items = 2**24
    seen = np.arange(201), np.full(200, 3, np.int32)
    _, items, biases = vectors(1, 50)
    users = np.tile(items[3], (200, 1))  # whose best is what they have seen
    found, _ = approximate_top_n(users, open_index(build_index(items, biases)), seen, 2, n_items)
    assert not (found == 3).any()


@pytest.mark.parametrize("n_users", [1, 3])
def test_user_who_has_seen_nearly_all_gets_what_is_left(n_users):
    users, items, biases = vectors(n_users, 20)
    seen = np.arange(n_users + 1) * 18, np.tile(np.arange(18, dtype=np.int32), n_users)
    found, scores = approximate_top_n(users, open_index(build_index(items, biases)), seen, 5, 20)
    assert all(set(row) == {18, 19, -1} for row in found)
    assert np.isneginf(scores[found == -1]).all()


def test_engine_returns_the_same_lists_either_way_on_a_small_catalogue(spark):
    users, items, biases = vectors(12, 30)
    user_rows = spark.createDataFrame(
        [(n, row.tolist()) for n, row in enumerate(users)], "id int, features array<float>"
    )
    rows = [
        (f"item {n:02d}", row.tolist(), float(bias))
        for n, (row, bias) in enumerate(zip(items, biases, strict=True))
    ]
    item_rows = spark.createDataFrame(rows, "id string, features array<float>, bias float")
    seen = spark.createDataFrame([(0, "item 03"), (5, "item 00")], "user int, item string")
    request = ListRequest(4, seen)
    exact, searched = (
        {
            row.id: [(entry.item, pytest.approx(entry.score, abs=1e-4)) for entry in row.recommendations]
            for row in recommend_lists(user_rows, item_rows, request, approximate=approximate).collect()
        }
        for approximate in (False, True)
    )
    assert {user: [item for item, _ in listed] for user, listed in exact.items()} == {
        user: [item for item, _ in listed] for user, listed in searched.items()
    }
