"""Lists of a night that are chosen for their variety."""

from __future__ import annotations

from collections import Counter

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.pipeline.steps import STEPS
from tests.pipeline.shop import Shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """After lists of two, also for a user who has rated nothing; odd items are popular, and of one maker."""
    shop = Shop(spark, tmp_path_factory.mktemp("varied"))
    path = shop.folder / "items.csv"
    path.write_text("i,maker\n" + "".join(f"i{n},{'one' if n % 2 else f'of {n}'}\n" for n in range(8)))
    shop.tree["ingest"]["source"]["items"] = {"path": str(path), "id": "i", "columns": {"maker": "maker"}}
    people = shop.folder / "users.csv"
    people.write_text("u,age\n" + "".join(f"u{n},30\n" for n in range(12)) + "new,30\n")
    shop.tree["ingest"]["source"]["users"] = {"path": str(people), "id": "u", "columns": {"age": "age"}}
    shop.tree |= {"models": ["item_item"], "item_item": {"regParam": 1.0}}
    shop.tree["recommend"] = {"n": 2, "similar_items": None, "users": {"new": True}}
    floor = {"where": "not head and ratings > 0 and run_date > '2020-01-01'", "share": 0.5}
    shop.tree["recommend"]["rerank"] = {"candidates": 7, "caps": {"maker": 1}, "floors": [floor]}
    rows = [(u, i) for u in range(12) for i in range(8) if (i % 2 and (u + i) % 4) or (u + i) % 6 == 0]
    shop.receive(*(f"u{u},i{i},3,{1_600_000_000 + i}" for u, i in rows))
    for step in ("ingest", "split", "train", "evaluate", "recommend"):
        STEPS[step](shop.night())
    return shop


def test_no_list_has_more_of_a_maker_than_is_allowed(shop):
    odd = {}
    for user, item in shop.rows("recommendations", "user", "item"):
        odd.setdefault(user, []).append(int(item[1]) % 2)
    assert len(odd) == 13
    assert all(len(own) == 2 and sum(own) <= 1 for own in odd.values())


def test_half_of_each_list_is_of_what_is_seldom_rated(shop):
    """The most rated fifth of eight items are two; by the caps a list has one of them at most anyway."""
    rated = Counter(item for _, item in shop.rows("ratings", "user", "item"))
    head = {item for item, _ in sorted(rated.items(), key=lambda one: (-one[1], one[0]))[:2]}
    listed = shop.rows("recommendations", "user", "item")
    assert {item for _, item in listed} & head
    for user in {user for user, _ in listed}:
        assert sum(own == user and item not in head for own, item in listed) >= 1


def test_popular_items_that_fill_a_list_are_chosen_in_the_same_way(shop):
    rated = Counter(item for _, item in shop.rows("ratings", "user", "item"))
    best = sorted(rated, key=lambda item: (-rated[item], item))
    seldom = next(item for item in best[2:] if not int(item[1]) % 2)  # not of the head, nor of its maker
    listed = shop.rows("recommendations", "user", "rank", "item", "model", "reason")
    assert [row[2:] for row in listed if row[0] == "new"] == [
        (best[0], "popularity", "fallback"),
        (seldom, "popularity", "fallback"),
    ]
    assert {model for user, _, _, model, _ in listed if user != "new"} == {"item_item"}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("price > 3", r"recommend\.rerank: given 'price > 3'; allowed: a condition over"),
        ("int(maker) > 3", r"recommend\.rerank cannot be asked of every row: .*CAST_INVALID_INPUT"),
    ],
)
def test_a_condition_that_cannot_be_asked_ends_the_split(shop, condition, message):
    rerank = {"boosts": [{"where": condition, "by": 0.5}]}
    with pytest.raises(ConfigError, match=message):
        STEPS["split"](shop.night(recommend={"n": 2, "rerank": rerank}))


def test_a_column_that_items_have_not_ends_the_split(shop):
    rerank = {"caps": {"brand": 1}}
    with pytest.raises(ConfigError, match=r"recommend\.rerank: given \['brand'\]; allowed: .*'maker'"):
        STEPS["split"](shop.night(recommend={"n": 2, "rerank": rerank}))
