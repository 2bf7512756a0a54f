"""Lists chosen from longer ones, by the columns of items."""

from __future__ import annotations

import pytest

from recsys_spark.recommend.rerank import reranked

ITEMS = [
    ("a", ["War"], "x", 1),
    ("b", ["War", None, "War"], "x", 2),
    ("c", ["War", "Drama"], None, 3),
    ("d", ["Comedy"], "y", 4),
    ("e", None, "x", 5),
]
CANDIDATES = [("a", 5.0), ("b", 4.0), ("c", 3.0), ("nobody knows", 2.5), ("d", 2.0), ("e", 1.0)]


@pytest.fixture(scope="module")
def items(spark):
    return spark.createDataFrame(ITEMS, "item string, genres array<string>, maker string, year int")


@pytest.fixture(scope="module")
def lists(spark):
    rows = [("u", CANDIDATES), ("v", CANDIDATES[:1]), ("w", [])]
    return spark.createDataFrame(rows, "id string, recommendations array<struct<item:string,score:float>>")


def chosen(found):
    rows = {row["id"]: row["recommendations"] for row in found.collect()}
    scores = dict(CANDIDATES)
    assert all(entry["score"] == scores[entry["item"]] for row in rows.values() for entry in row)
    return {user: [entry["item"] for entry in row] for user, row in rows.items()}


def test_caps_hold_for_each_column_until_nothing_else_is_left(lists, items):
    found = chosen(reranked(lists, items, 5, 0.0, "genres", {"maker": 1, "genres": 2}))
    assert found == {"u": ["a", "c", "nobody knows", "d", "b"], "v": ["a"], "w": []}


def test_likeness_pushes_down_what_is_of_one_kind(lists, items):
    """After a, half of each: b has .75 - 1, as it is as a; c .5 - .71; what nobody knows .375, and d .25."""
    found = chosen(reranked(lists, items, 3, 0.5, "genres", {}))
    assert found["u"] == ["a", "nobody knows", "d"]


def test_any_column_may_be_named(lists, items):
    assert chosen(reranked(lists, items, 2, 0.9, "maker", {}))["u"] == ["a", "c"]
    assert chosen(reranked(lists, items, 2, 0.9, "year", {}))["u"] == ["a", "b"]
