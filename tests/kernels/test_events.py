"""Counting sort against numpy's lexsort."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.events import group_events, sort_events

EVENTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0])), max_size=60
)


def columns_of(events):
    kinds = (np.int32, np.int32, np.float32)
    return [np.array([event[k] for event in events], kind) for k, kind in enumerate(kinds)]


@settings(deadline=None)  # the first example compiles
@given(EVENTS)
def test_sorted_by_row_column_and_value(events):
    rows, columns, values = columns_of(events)
    order = np.lexsort((values, columns, rows))
    indptr, sorted_columns, sorted_values = sort_events(rows, columns, values, 5, 4)
    np.testing.assert_array_equal(np.diff(indptr), np.bincount(rows, minlength=5))
    np.testing.assert_array_equal(sorted_columns, columns[order])
    np.testing.assert_array_equal(sorted_values, values[order])


@settings(deadline=None)  # the first example compiles
@given(EVENTS)
def test_grouping_keeps_the_order_within_a_row(events):
    rows, columns, values = columns_of(events)
    order = np.argsort(rows, kind="stable")
    indptr, grouped_columns, grouped_values = group_events(rows, columns, values, 5)
    assert indptr[-1] == len(events)
    np.testing.assert_array_equal(grouped_columns, columns[order])
    np.testing.assert_array_equal(grouped_values, values[order])
