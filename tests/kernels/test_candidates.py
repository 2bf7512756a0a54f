"""Candidates of several retrievers: the union by hand, and the best of it."""

import numpy as np

from recsys_spark.kernels.candidates import Candidates, Retrieved, best_candidates, likeness, merged

NAN = np.nan


def retrieved(*lists):
    """Lists of (item, score), one for each user."""
    indptr = np.cumsum([0, *map(len, lists)])
    flat = [entry for own in lists for entry in own]
    items, scores = np.array([item for item, _ in flat], np.int32), np.array([score for _, score in flat])
    return Retrieved(indptr.astype(np.int64), items, scores.astype(np.float32))


def test_union_has_each_item_once_with_the_scores_and_ranks_of_those_that_found_it():
    first = retrieved([(4, 0.9), (1, 0.5)], [], [(0, 2.0)])
    second = retrieved([(1, 7.0)], [(3, 1.0)], [(2, 3.0), (0, 1.0)])
    found = merged([first, second], 5)
    assert found.users.tolist() == [0, 0, 1, 2, 2]
    assert found.items.tolist() == [1, 4, 3, 0, 2]
    scores = [[0.5, 7.0], [0.9, NAN], [NAN, 1.0], [2.0, 1.0], [NAN, 3.0]]
    np.testing.assert_array_equal(found.scores, np.array(scores, np.float32))
    np.testing.assert_array_equal(found.ranks, [[2, 1], [1, NAN], [NAN, 1], [1, 2], [NAN, 1]])


def test_union_of_nothing_is_empty():
    found = merged([retrieved([], [])], 0)
    indptr, chosen = best_candidates(found, np.zeros(0, np.float32), 2, 3)
    assert (len(found.items), indptr.tolist(), chosen.tolist()) == (0, [0, 0, 0], [])


def test_best_are_by_score_then_by_the_highest_rank_then_by_item():
    found = Candidates(
        np.array([0, 0, 0, 0, 2, 2], np.int32),
        np.array([1, 3, 5, 8, 2, 9], np.int32),
        np.zeros((6, 2), np.float32),
        np.array([[4, NAN], [NAN, 2], [2, 9], [1, 1], [1, NAN], [2, NAN]], np.float32),
    )
    scores = np.array([5, 1, 1, 0, 1, 2], np.float32)
    indptr, chosen = best_candidates(found, scores, 3, 3)
    assert indptr.tolist() == [0, 3, 3, 5]  # the user between them has none
    assert found.items[chosen].tolist() == [1, 3, 5, 9, 2]


def test_likeness_counts_what_is_missing_as_nothing_and_knows_no_item_without_values():
    profiles = np.array([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]], np.float32)
    values = np.array([[1.0, 0.5], [NAN, NAN], [NAN, 1.0]], np.float32)
    np.testing.assert_allclose(likeness(profiles, values), [0.75, NAN, 0.8], rtol=1e-6)
