"""Lists with a pinned and a drawn slot, from rows and pools of different users."""

from __future__ import annotations

import pytest

from recsys_spark.kernels.slots import Slot
from recsys_spark.recommend.slots import Pool, with_slots

ROWS = "user string, item string, score float, rank int, model string, reason string"
LISTS = "id string, recommendations array<struct<item:string,score:float>>"


@pytest.fixture(scope="module")
def found(spark):
    """Of u a list and both pools, of v a list alone, of w the pinned item alone."""
    rows = [("u", item, 9.0 - rank, rank, "als", "model") for rank, item in enumerate("abc", 1)]
    rows += [("v", "a", 8.0, 1, "popularity", "fallback")]
    pinned = [("u", [("b", 2.0), ("p", 1.0)]), ("w", [("p", 1.0)])]
    drawn = [("u", [("a", 7.0), ("d", 6.0)])]
    pools = [
        Pool(spark.createDataFrame(pinned, LISTS), "popularity", "pinned"),
        Pool(spark.createDataFrame(drawn, LISTS), "als", "exploration"),
    ]
    slots = [Slot(1, 0, 0.0), Slot(3, 1, 1.0)]
    lists = with_slots(spark.createDataFrame(rows, ROWS).repartition(3), pools, slots, 3, 1, 2)
    by_user = {}
    for row in lists.orderBy("user", "rank").collect():
        by_user.setdefault(row["user"], []).append(row)
    return by_user


def test_a_pin_is_first_and_the_own_items_follow(found):
    told = [(row["rank"], row["item"], row["score"], row["model"], row["reason"]) for row in found["u"][:2]]
    assert told == [(1, "b", 2.0, "popularity", "pinned"), (2, "a", 8.0, "als", "model")]


def test_the_drawn_slot_has_its_own_item_or_the_only_other(found):
    row = found["u"][2]
    assert (row["item"], row["reason"]) in {("c", "model"), ("d", "exploration")}
    assert row["propensity"] == 0.5
    assert [row["propensity"] for row in found["u"][:2]] == [None, None]


def test_who_has_no_pool_keeps_the_list_and_who_has_no_list_gets_the_pin(found):
    assert [(row["item"], row["model"], row["reason"]) for row in found["v"]] == [
        ("a", "popularity", "fallback")
    ]
    assert [(row["item"], row["rank"], row["reason"]) for row in found["w"]] == [("p", 1, "pinned")]
