"""Lists chosen one item at a time, against a slow twin."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.reranking import ItemValues, Wishes, rerank

FREE = 1_000


def values_of(sets, alike, caps):
    indptr = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    flat = np.array([value for own in sets for value in sorted(own)], np.int32)
    return ItemValues(indptr, flat, np.array(alike), np.array(caps, np.int32))


def slow(scores, items, sets, alike, caps, n, diversity, calibration, taste, wishes, begun):
    """The definition, with sets and lists; the first of the entries are in the list already."""
    genres = [{value for value in own if alike[value]} for own in sets]
    listed, best = list(range(begun)), float(scores[min(begun, len(scores) - 1)])
    spread = best - float(scores[-1])
    length = min(n, len(scores))

    def likeness(a, b):
        if a < 0 or b < 0 or not genres[a] or not genres[b]:
            return 0.0
        return len(genres[a] & genres[b]) / math.sqrt(len(genres[a]) * len(genres[b]))

    def divergence(chosen, candidate):
        """Of a list whose last place is empty, or has the candidate: what has no values leaves it empty."""
        valued = [items[j] for j in chosen if items[j] >= 0 and genres[items[j]]]
        own = [*valued, *[i for i in [items[candidate]] if i >= 0 and genres[i]]]
        total = 0.0
        for value, wanted in enumerate(taste):
            if wanted > 0:
                share = sum(1 / len(genres[i]) for i in own if value in genres[i]) / (len(valued) + 1)
                total += wanted * math.log(wanted / (0.99 * share + 0.01 * wanted))
        return total

    while len(listed) < length:
        count = [sum(value in sets[items[j]] for j in listed if items[j] >= 0) for value in range(len(caps))]
        lacking = []
        if wishes is not None:
            have = [sum(items[j] >= 0 and own[items[j]] for j in listed) for own in wishes.members]
            lacking = [max(0, least - got) for least, got in zip(wishes.least, have, strict=True)]
        urgent = sum(lacking) >= length - len(listed)
        ranked = []
        for i in (i for i in range(len(scores)) if i not in listed):
            item = items[i]
            own = sets[item] if item >= 0 else set()
            relevance = 1.0 - (best - float(scores[i])) / spread if spread > 0 else 1.0
            near = max((likeness(item, items[j]) for j in listed), default=0.0)
            fits = all(count[value] < caps[value] for value in own)
            value = (1 - diversity - calibration) * relevance - diversity * near
            needed = False
            if item >= 0 and wishes is not None:
                value += wishes.boosts[item]
                needed = any(
                    lack and floor[item] for lack, floor in zip(lacking, wishes.members, strict=True)
                )
            if calibration:
                value -= calibration * divergence(listed, i)
            ranked.append((not (needed and urgent), not fits, -value, i))
        listed.append(min(ranked)[3])
    return listed


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_equals_the_slow_twin(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n_items, n_values = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    sets = [set(rng.integers(0, n_values, rng.integers(0, 4)).tolist()) for _ in range(n_items)]
    alike, caps = rng.random(n_values) < 0.7, rng.choice([1, 2, FREE], n_values)
    lengths = data.draw(st.lists(st.integers(1, 15), min_size=1, max_size=3))
    starts = np.cumsum([0, *lengths])
    calibration = data.draw(st.sampled_from([0.0, 0.3]))
    # with logarithms rounding would decide between equal scores
    drawn = [rng.random(k) if calibration else rng.integers(0, 6, k) for k in lengths]
    n = data.draw(st.integers(1, 8))
    begun = np.array([data.draw(st.integers(0, min(n, k))) for k in lengths])
    ordered = [[*own[:first], *np.sort(own[first:])[::-1]] for own, first in zip(drawn, begun, strict=True)]
    scores = np.concatenate(ordered).astype(np.float32)
    items = rng.integers(-1, n_items, starts[-1]).astype(np.int32)
    diversity = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    tastes = rng.random((len(lengths), n_values)) * (rng.random(n_values) < 0.7) * alike
    tastes /= np.maximum(tastes.sum(axis=1, keepdims=True), 1e-9)
    floors = data.draw(st.integers(0, 2))
    wishes = Wishes(
        rng.choice([0.0, 0.2, -0.3], n_items),
        rng.random((floors, n_items)) < 0.4,
        rng.integers(0, 4, floors).astype(np.int32),
    )
    of_items = values_of(sets, alike, caps)
    found = rerank(scores, items, starts, of_items, n, diversity, wishes, calibration, tastes, begun)
    for row, (a, b) in enumerate(itertools.pairwise(starts)):
        taste = tastes[row].tolist()
        own = scores[a:b], items[a:b].tolist()
        expected = slow(*own, sets, alike, caps, n, diversity, calibration, taste, wishes, begun[row])
        assert [entry - a for entry in found[row] if entry >= 0] == expected


def test_by_score_alone_the_order_stays():
    scores, items = np.array([3, 2, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    free = values_of([{0}, {0}, {0}, {0}], [True], [FREE])
    assert rerank(scores, items, np.array([0, 4]), free, 3, 0.0).tolist() == [[0, 1, 2]]


def test_a_cap_passes_over_what_has_its_value_until_nothing_else_is_left():
    scores, items = np.array([4, 3, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    capped = values_of([{0}, {0}, {1}, {0}], [True, True], [1, FREE])
    assert rerank(scores, items, np.array([0, 4]), capped, 3, 0.0).tolist() == [[0, 2, 1]]


def test_what_a_list_begins_with_counts_for_its_caps():
    """And says nothing of how relevant the others are, whatever its scores are."""
    scores, items = np.array([1, 9, 8, 7], np.float32), np.array([3, 0, 1, 2], np.int32)
    capped = values_of([{0}, {1}, {0}, {0}], [True, True], [1, FREE])
    found = rerank(scores, items, np.array([0, 4]), capped, 3, 0.0, given=np.array([1]))
    assert found.tolist() == [[0, 2, 1]]


def test_a_floor_takes_the_last_slots_where_scores_have_not_given_it():
    scores, items = np.array([4, 3, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    free = values_of([set()] * 4, [True], [FREE])
    two = Wishes(np.zeros(4), np.array([[False, False, True, True]]), np.array([2], np.int32))
    assert rerank(scores, items, np.array([0, 4]), free, 3, 0.0, two).tolist() == [[0, 2, 3]]
    assert rerank(scores, items, np.array([0, 4]), free, 4, 0.0, two).tolist() == [[0, 1, 2, 3]]


def test_vectors_push_down_what_points_the_same_way_and_opposites_not_up():
    """Of relevance 1, 2/3, 1/3 and 0, half of which counts: after the first, -1/6, 1/6 and 0."""
    scores, items = np.array([4, 3, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    alike = values_of([set()] * 4, [True], [FREE])._replace(vectors=vectors)
    assert rerank(scores, items, np.array([0, 4]), alike, 3, 0.5).tolist() == [[0, 2, 3]]


def test_a_boost_is_added_to_the_relevance():
    """Which is 1, 2/3, 1/3 and 0: the third passes the second, and a burial puts the first last."""
    scores, items = np.array([4, 3, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    free = values_of([set()] * 4, [True], [FREE])
    pushed = Wishes(np.array([-2, 0, 0.5, 0]), np.zeros((0, 4), bool), np.zeros(0, np.int32))
    assert rerank(scores, items, np.array([0, 4]), free, 4, 0.0, pushed).tolist() == [[2, 1, 3, 0]]


def test_a_calibrated_list_has_the_values_of_the_history():
    """Of a history half of one kind and half of the other a list of four has two of each."""
    scores, items = np.arange(8, 0, -1).astype(np.float32), np.arange(8, dtype=np.int32)
    kinds = values_of([{0}] * 5 + [{1}] * 3, [True, True], [FREE, FREE])
    half = np.array([[0.5, 0.5]])
    found = rerank(scores, items, np.array([0, 8]), kinds, 4, 0.0, None, 0.9, half)
    assert sorted(found[0].tolist()) == [0, 1, 5, 6]
    alone = rerank(scores, items, np.array([0, 8]), kinds, 4, 0.0, None, 0.9, np.array([[0.0, 0.0]]))
    assert alone.tolist() == [[0, 1, 2, 3]]
