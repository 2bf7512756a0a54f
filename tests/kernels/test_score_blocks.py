"""A dot product told by parts: singular axes by numpy's own decomposition of all scores."""

import numpy as np

from recsys_spark.kernels.score_blocks import block_bounds, block_scores, singular_axes


def vectors(rank, empty=()):
    rng = np.random.default_rng(8)
    users, items = rng.normal(size=(40, rank)), rng.normal(size=(30, rank))
    users[:, list(empty)] = 0
    return users, items


def test_vectors_are_turned_to_the_singular_axes_of_all_scores():
    users, items = vectors(5, empty=[3])
    of_users, of_items = singular_axes(users.T @ users, items.T @ items)
    left, right = users @ of_users, items @ of_items
    np.testing.assert_allclose(left @ right.T, users @ items.T, atol=1e-9)
    strengths = np.linalg.svd(users @ items.T, compute_uv=False)[:5]
    np.testing.assert_allclose(left.T @ left, np.diag(strengths), atol=1e-9)
    np.testing.assert_allclose(right.T @ right, np.diag(strengths), atol=1e-9)


def test_blocks_of_one_model_are_those_of_the_same_model_turned():
    users, items = vectors(7)
    turn, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(7, 7)))
    pairs = np.arange(20), np.arange(20)
    found = []
    for x, y in ((users, items), (users @ turn * 3, items @ turn / 3)):
        of_users, of_items = singular_axes(x.T @ x, y.T @ y)
        turned = (x @ of_users).astype(np.float32), (y @ of_items).astype(np.float32)
        found.append(block_scores(*turned, *pairs, block_bounds(7)))
    np.testing.assert_allclose(*found, atol=1e-5)
    whole = np.einsum("ij,ij->i", users[:20], items[:20])
    np.testing.assert_allclose(found[0].sum(axis=1), whole, atol=1e-5)


def test_blocks_double_and_the_last_is_what_is_left():
    assert block_bounds(64)[-2:] == [(31, 63), (63, 64)]
    assert block_bounds(0) == []


def test_scores_of_no_vectors_are_none():
    of_users, of_items = singular_axes(np.zeros((0, 0)), np.zeros((0, 0)))
    assert of_users.shape == of_items.shape == (0, 0)


def test_what_has_no_vector_has_no_score():
    users = np.array([[1, 2, 3], [np.nan] * 3], np.float32)
    items = np.array([[1, 10, 100], [2, np.nan, 3]], np.float32)
    found = block_scores(
        users, items, np.array([0, 0, 0, 1]), np.array([0, 1, -1, 0]), [(0, 3), (0, 1), (1, 3)]
    )
    nan = np.nan
    np.testing.assert_array_equal(found, [[321, 1, 320], [nan, 2, nan], [nan, nan, nan], [nan, nan, nan]])
