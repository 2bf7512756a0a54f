"""What is held out of each user, by hand."""

from __future__ import annotations

import pytest

from recsys_spark.evaluation.held_out import held_out
from recsys_spark.histories import pack_histories


@pytest.fixture(scope="module")
def histories(spark):
    rows = [
        ("ann", "tea", 5.0, "train"),
        ("ann", "rusk", 2.0, "test"),
        ("ann", "jam", 4.0, "test"),
        ("ann", "salt", 4.0, "validation"),
        ("bob", "tea", None, "validation"),
        ("bob", "jam", 3.0, "fold_in"),
        ("bob", "salt", 3.0, "left_out"),
        ("cid", "tea", 1.0, None),
        ("dee", "tea", 4.0, "test"),
    ]
    ratings = spark.createDataFrame(rows, "user string, item string, rating double, part string")
    made = pack_histories(ratings.selectExpr("*", "now() AS timestamp"), len(rows))
    yield made
    made.unpersist()


def found(frame):
    return {row.user: (row.known, row.validation, row.test) for row in frame.collect()}


def test_items_of_the_held_out_parts_stand_beside_what_is_known(histories):
    assert found(held_out(histories)) == {
        "ann": (2, ["salt"], ["jam", "rusk"]),
        "bob": (2, ["tea"], None),
        "dee": (0, None, ["tea"]),
    }


def test_only_ratings_that_are_high_enough_are_relevant(histories):
    assert found(held_out(histories, least=4)) == {
        "ann": (2, ["salt"], ["jam"]),
        "bob": (2, None, None),  # a missing rating is none of at least 4
        "dee": (0, None, ["tea"]),
    }
