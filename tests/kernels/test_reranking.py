"""Lists chosen one item at a time, against a slow twin."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.reranking import ItemValues, rerank

FREE = 1_000


def values_of(sets, alike, caps):
    indptr = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    flat = np.array([value for own in sets for value in sorted(own)], np.int32)
    return ItemValues(indptr, flat, np.array(alike), np.array(caps, np.int32))


def slow(scores, items, sets, alike, caps, n, weight):
    """The definition, with sets and lists."""
    genres = [{value for value in own if alike[value]} for own in sets]
    spread, listed = float(scores[0]) - float(scores[-1]), []

    def likeness(a, b):
        if a < 0 or b < 0 or not genres[a] or not genres[b]:
            return 0.0
        return len(genres[a] & genres[b]) / math.sqrt(len(genres[a]) * len(genres[b]))

    while len(listed) < min(n, len(scores)):
        count = [sum(value in sets[items[j]] for j in listed if items[j] >= 0) for value in range(len(caps))]
        ranked = []
        for i in (i for i in range(len(scores)) if i not in listed):
            own = sets[items[i]] if items[i] >= 0 else set()
            relevance = 1.0 - (float(scores[0]) - float(scores[i])) / spread if spread > 0 else 1.0
            near = max((likeness(items[i], items[j]) for j in listed), default=0.0)
            fits = all(count[value] < caps[value] for value in own)
            ranked.append((not fits, -((1 - weight) * relevance - weight * near), i))
        listed.append(min(ranked)[2])
    return listed


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_the_slow_twin(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n_items, n_values = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    sets = [set(rng.integers(0, n_values, rng.integers(0, 4)).tolist()) for _ in range(n_items)]
    alike, caps = rng.random(n_values) < 0.7, rng.choice([1, 2, FREE], n_values)
    lengths = data.draw(st.lists(st.integers(1, 15), min_size=1, max_size=3))
    starts = np.cumsum([0, *lengths])
    scores = np.concatenate([np.sort(rng.integers(0, 6, k))[::-1] for k in lengths]).astype(np.float32)
    items = rng.integers(-1, n_items, starts[-1]).astype(np.int32)
    n, weight = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    found = rerank(scores, items, starts, values_of(sets, alike, caps), n, weight)
    for row, (a, b) in enumerate(itertools.pairwise(starts)):
        expected = slow(scores[a:b], items[a:b].tolist(), sets, alike, caps, n, weight)
        assert [entry - a for entry in found[row] if entry >= 0] == expected


def test_by_score_alone_the_order_stays():
    scores, items = np.array([3, 2, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    free = values_of([{0}, {0}, {0}, {0}], [True], [FREE])
    assert rerank(scores, items, np.array([0, 4]), free, 3, 0.0).tolist() == [[0, 1, 2]]


def test_a_cap_passes_over_what_has_its_value_until_nothing_else_is_left():
    scores, items = np.array([4, 3, 2, 1], np.float32), np.array([0, 1, 2, 3], np.int32)
    capped = values_of([{0}, {0}, {1}, {0}], [True, True], [1, FREE])
    assert rerank(scores, items, np.array([0, 4]), capped, 3, 0.0).tolist() == [[0, 2, 1]]
