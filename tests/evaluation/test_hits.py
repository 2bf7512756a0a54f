"""Which ranks of lists are hits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa

from recsys_spark.evaluation.hits import hits_at_ranks, with_lists


def test_hits_are_where_a_listed_item_is_the_users_own():
    relevant = pa.array([["tea", "jam"], ["rusk"], ["salt"]])
    listed = pa.array([["jam", "rusk", "tea"], None, ["tea"]])
    hits, n_relevant, items = hits_at_ranks(relevant, listed, pa.array(["jam", "rusk", "tea"]), 2)
    assert hits.tolist() == [[True, False], [False, False], [False, False]]
    assert n_relevant.tolist() == [2, 1, 1]  # also those that are not among the ids
    assert items.tolist() == [[0, 1], [-1, -1], [2, -1]]


def test_a_user_with_very_many_relevant_items_costs_no_more_than_they_are():
    many, users = 100_000, 2_000
    sizes = np.array([many, *[1] * (users - 1)])
    values = np.arange(sizes.sum(), dtype=np.int32)
    relevant = pa.ListArray.from_arrays(
        pa.array(np.append(0, sizes.cumsum()).astype(np.int32)), pa.array(values)
    )
    listed = pa.array([[0]] * users, relevant.type)
    tracemalloc.start()
    hits, n_relevant, _ = hits_at_ranks(relevant, listed, pa.array(values), 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (hits.sum(), hits[0, 0], n_relevant[0]) == (1, True, many)
    assert peak < 100 * len(values)  # a matrix of users and largest number would take 160,000 a value


def test_lists_of_several_models_are_filled_and_may_be_the_same_as_what_fills_them(spark):
    schema = "id string, recommendations array<struct<item: string, score: float>>"
    popular = spark.createDataFrame([("ann", [("tea", 9.0), ("jam", 8.0)]), ("bob", [("tea", 9.0)])], schema)
    own = spark.createDataFrame([("ann", [("rusk", 1.0), ("jam", 0.5)])], schema)
    relevant = spark.createDataFrame([("ann", ["jam"]), ("bob", ["salt"])], "id string, items array<string>")
    models = {"popular": popular, "own": own, "as popular": popular}
    rows = with_lists(models, relevant, filling=popular).orderBy("id").collect()
    assert [(row.id, row.relevant, row.list0, row.list1, row.list2) for row in rows] == [
        ("ann", ["jam"], ["tea", "jam"], ["rusk", "jam", "tea"], ["tea", "jam"]),
        ("bob", ["salt"], ["tea"], ["tea"], ["tea"]),
    ]
