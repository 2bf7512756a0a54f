"""Lists of a night that are chosen for their variety, and slots of them that are pinned or drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from recsys_spark import PopularityRecommender
from recsys_spark.config.rules import Rerank
from recsys_spark.errors import ConfigError
from recsys_spark.pipeline.reranking import Shown
from recsys_spark.pipeline.steps import STEPS
from recsys_spark.recommend.top_n import ListRequest
from tests.pipeline.shop import Shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """After lists of two, also for a user who has rated nothing; odd items are popular, and of one maker."""
    shop = Shop(spark, tmp_path_factory.mktemp("varied"))
    path = shop.folder / "items.csv"
    path.write_text("i,maker\n" + "".join(f"i{n},{'one' if n % 2 else f'of {n}'}\n" for n in range(9)))
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


def test_what_fills_a_list_keeps_the_caps_with_what_is_in_it(spark):
    """Ann has one of maker x: of the popular items the best of another maker follows. Bob has nothing yet."""
    items = spark.createDataFrame([("tea", "x"), ("jam", "x"), ("rusk", "y")], "item string, maker string")
    rated = [("cy", "tea"), ("cy", "jam"), ("cy", "rusk"), ("di", "tea"), ("di", "jam"), ("ed", "tea")]
    popular = PopularityRecommender().fit(spark.createDataFrame(rated, "user string, item string"))
    rows = spark.createDataFrame([("ann", "jam", 0.5, 1)], "user string, item string, score float, rank int")
    users = spark.createDataFrame([("ann",), ("bob",)], "user string")
    shown = Shown(None, Rerank(candidates=3, caps={"maker": 1}), items)
    request = ListRequest(2, seen=rows.select("user", "item"))
    found = shown.filling(popular, rows, users, request).collect()
    listed = {row["id"]: [entry["item"] for entry in row["recommendations"]] for row in found}
    assert listed == {"ann": ["rusk"], "bob": ["tea", "rusk"]}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("price > 3", r"recommend\.rerank: given 'price > 3'; allowed: a condition over"),
        ("int(maker) > 3", r"recommend\.rerank cannot be asked of every row: .*CAST_INVALID_INPUT"),
    ],
)
def test_a_condition_that_cannot_be_asked_ends_the_split(shop, tmp_path, condition, message):
    rerank = {"boosts": [{"where": condition, "by": 0.5}]}
    with pytest.raises(ConfigError, match=message):
        STEPS["split"](shop.copied(tmp_path).night(recommend={"n": 2, "rerank": rerank}))


def test_a_column_that_items_have_not_ends_the_split(shop, tmp_path):
    rerank = {"caps": {"brand": 1}}
    with pytest.raises(ConfigError, match=r"recommend\.rerank: given \['brand'\]; allowed: .*'maker'"):
        STEPS["split"](shop.copied(tmp_path).night(recommend={"n": 2, "rerank": rerank}))


SLOTS = [
    {"ranks": [1], "where": "ratings = 0"},
    {"ranks": [3], "draw": True, "rate": 0.8, "candidates": 5},
    {"ranks": [4], "where": "ratings > 0", "draw": True},
]
COLUMNS = ("user", "rank", "item", "model", "reason", "propensity")


@pytest.fixture(scope="module")
def given_away(shop):
    """Lists with slots, twice, and all that the model would list: by user, in the order of their ranks."""
    lists = []
    for changes in ({"n": 4, "slots": SLOTS}, {"n": 4, "slots": SLOTS}, {"n": 8}):
        night = shop.night(recommend={"similar_items": None, "users": {"new": True}, **changes})
        STEPS["recommend"](night)
        own = {}
        for user, *row in shop.rows("recommendations", *COLUMNS):
            own.setdefault(user, []).append(tuple(row))
        lists.append(own)
    return lists


def test_an_item_without_a_rating_can_be_pinned_to_everybodys_list(given_away):
    lists, again, _ = given_away
    assert len(lists) == 13
    assert {rows[0] for rows in lists.values()} == {(1, "i8", "popularity", "pinned", None)}
    assert again == lists


def test_slots_are_drawn_with_the_propensities_that_are_written_beside_them(shop, given_away):
    """Rank 3 from what the model lists best, rank 4 from all that is rated; neither what the list has, nor
    what the user has rated.
    """
    lists, _, everything = given_away
    rated, drawn = set(shop.rows("ratings", "user", "item")), Counter()
    for user, rows in lists.items():
        if len(rows) < 4:
            continue  # who has rated nearly everything
        _, first, third, fourth = rows
        own = [row[1] for row in everything[user]][:3]
        best = [row[1] for row in everything[user] if row[3] == "model"][:5]
        of_rated = [f"i{n}" for n in range(8) if (user, f"i{n}") not in rated]
        assert first[1] == own[0]
        listed = set(own)
        for row, mine, rate, pool in ((third, own[1], 0.8, best), (fourth, own[2], 1.0, of_rated)):
            others = [item for item in pool if item not in listed]
            _, item, _, reason, propensity = row
            chance = rate / (1 + len(others))
            if reason == "exploration":
                assert item in others
                assert propensity == pytest.approx(chance)
                listed = listed - {mine} | {item}
            else:
                assert item == mine
                assert propensity == pytest.approx(1 - rate + chance)
            drawn[row[0], reason == "exploration"] += 1
    assert all(drawn[rank, other] for rank in (3, 4) for other in (True, False)), drawn


def test_of_items_without_ratings_not_the_same_few_are_drawn_each_night(shop, tmp_path):
    """From three of 21 that are alike; the first by their ids would be i8, n00 and n01."""
    copied = shop.copied(tmp_path)
    lake = copied.night().lake
    (one,) = lake.read("items").where("item = 'i8'").collect()
    new = [one.asDict() | {"item": f"n{n:02}"} for n in range(20)]
    lake.append("items", shop.spark.createDataFrame(new, lake.read("items").schema), len(new))
    slots = [{"ranks": [1], "where": "ratings = 0", "draw": True, "candidates": 3}]
    night = copied.night(recommend={"n": 2, "similar_items": None, "slots": slots})
    STEPS["recommend"](night)
    drawn = {
        (item, score)
        for rank, item, score, reason in copied.rows("recommendations", "rank", "item", "score", "reason")
        if rank == 1 and reason == "exploration"
    }
    assert len(drawn) == 3
    assert {score for _, score in drawn} == {0.0}
    assert {item for item, _ in drawn} != {"i8", "n00", "n01"}


def test_slots_beyond_the_list_are_an_error(shop):
    with pytest.raises(ConfigError, match=r"different ranks from 1 to recommend\.n, 2, got \[3\]"):
        shop.night(recommend={"n": 2, "slots": [{"ranks": [3], "draw": True}]})


def test_a_condition_of_a_slot_that_cannot_be_asked_ends_the_split(shop, tmp_path):
    slots = [{"ranks": [1], "where": "colour = 'red'"}]
    with pytest.raises(ConfigError, match=r"recommend\.slots: given .*colour.*; allowed: a condition over"):
        STEPS["split"](shop.copied(tmp_path).night(recommend={"n": 2, "slots": slots}))
