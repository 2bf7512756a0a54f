"""What retrievers find, by hand."""

from __future__ import annotations

from recsys_spark.evaluation.retrieval import Retrieval, retrieval

COLUMNS = "user string, item string, als_rank int, `item.item_rank` int"
ROWS = [
    ("ann", "tea", 2, None),
    ("ann", "jam", 1, 2),
    ("ann", "rusk", None, 1),
    ("bob", "tea", 1, None),
    ("bob", "salt", None, 1),
    ("eve", "tea", 1, 1),  # of whom nothing is held out
]


def test_a_user_counts_with_the_share_that_is_found_also_one_of_whom_nothing_is(spark):
    candidates = spark.createDataFrame(ROWS, COLUMNS)
    held = [("ann", ["tea", "rusk"]), ("bob", ["salt"]), ("cid", ["tea"])]
    relevant = spark.createDataFrame(held, "id string, items array<string>")
    found = retrieval(candidates, relevant, ["als", "item.item"], [1, 2])
    assert found == [
        Retrieval("als", 1, 0.0, 2 / 3, 3),
        Retrieval("item.item", 1, (1 / 2 + 1) / 3, 2 / 3, 3),
        Retrieval(None, 1, (1 / 2 + 1) / 3, 4 / 3, 3),
        Retrieval("als", 2, (1 / 2) / 3, 1, 3),
        Retrieval("item.item", 2, (1 / 2 + 1) / 3, 1, 3),
        Retrieval(None, 2, (1 + 1) / 3, 5 / 3, 3),
    ]
    assert retrieval(candidates, relevant.limit(0), ["als"], [1]) == []
