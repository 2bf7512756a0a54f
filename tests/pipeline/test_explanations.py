"""A night whose lists a ranker makes, with slots that are drawn and what puts each row where it is."""

from __future__ import annotations

import pytest

from recsys_spark.models import RankerModel
from recsys_spark.pipeline.fitted import SERVING
from recsys_spark.pipeline.report import found_by_members
from recsys_spark.pipeline.saved_models import SavedModels
from recsys_spark.pipeline.show import describe_user
from recsys_spark.pipeline.steps import STEPS
from recsys_spark.recommend.top_n import ListRequest
from tests.pipeline.shop import DAY, Shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """Lists of three, the last of which is drawn."""
    shop = Shop(spark, tmp_path_factory.mktemp("ranked"))
    rows = [(user, (user * 3 + place * (1 + user % 2)) % 12) for user in range(24) for place in range(6)]
    shop.receive(*(f"u{u:02},i{i:02},4,{1_600_000_000 + at}" for at, (u, i) in enumerate(rows)))
    members = {"popularity": {}, "item_item": {"regParam": 1.0}}
    shop.tree |= {
        "models": ["ranker"],
        "ranker": {"members": members, "maxIter": 3, "candidates": {"popularity": 8}},
    }
    slots = [{"ranks": [3], "draw": True, "rate": 0.7, "candidates": 6}]
    shop.tree["recommend"] = {"n": 3, "similar_items": None, "explain": 2, "slots": slots}
    for step in ("ingest", "split", "train", "evaluate", "recommend"):
        STEPS[step](shop.night())
    return shop


def test_each_row_of_the_ranker_has_its_features_the_largest_first(shop):
    listed = shop.rows("recommendations", "user", "item", "model", "reason")
    explained = {
        (row["user"], row["item"]): row["features"]
        for row in shop.night().lake.read("explanations").collect()
    }
    assert explained.keys() == {(user, item) for user, item, model, _ in listed if model == "ranker"}
    assert {reason for *_, reason in listed} > {"exploration"}
    for features in explained.values():
        assert len(features) == 2
        assert abs(features[0]["contribution"]) >= abs(features[1]["contribution"])


def test_they_are_those_of_the_model(spark, shop):
    row = shop.night().lake.read("models").where(f"purpose = '{SERVING}' AND model = 'ranker'").first()
    model = RankerModel.load(row["path"])
    users = spark.createDataFrame([("u05",)], "user string")
    told = model.explain(users, ListRequest(6, shop.night().pairs(), only_supported=True), 2).collect()
    expected = {(one["item"], one["feature"]): one["contribution"] for one in told}
    found = shop.night().lake.read("explanations").where("user = 'u05'").collect()
    assert found
    for row in found:
        for one in row["features"]:
            assert one["contribution"] == expected[row["item"], one["feature"]]


def test_what_members_find_is_measured_and_reported(shop):
    night = shop.night()
    row = night.lake.read("models").where("purpose = 'comparison' AND model = 'ranker'").first()
    held = {row["user"]: row["test"] for row in night.held_out().collect() if row["test"]}
    users = night.spark.createDataFrame([(user,) for user in held], "user string")
    request = ListRequest(1, night.seen("test"))
    found = RankerModel.load(row["path"]).candidate_rows(users, request).collect()
    expected = {}
    for name in ("popularity", "item_item", "all together"):
        of = {(row["user"], row["item"]) for row in found if name == "all together" or row[f"{name}_rank"]}
        shares = [sum((user, item) in of for item in items) / len(items) for user, items in held.items()]
        sizes = [sum(user == one for one, _ in of) for user in held]
        expected[name] = pytest.approx([sum(shares) / len(held), sum(sizes) / len(held)])
    run_id = night.ledger.last_done("evaluate")["run_id"]
    (part,) = found_by_members(shop.reader(), run_id)
    assert part.heading == "What members of ranker find"
    last = [row for row in part.rows if row["k"] == 100]
    assert {row["found by"]: [row["recall"], row["candidates of a user"]] for row in last} == expected
    assert {row["k"] for row in part.rows} == {50, 100}


def test_why_tells_them(shop):
    _, listed = describe_user(shop.reader(), "u05", DAY, SavedModels(shop.reader(), shop.night().config))
    assert listed.columns[-2:] == ["because", "features"]
    (row,) = (
        shop.night()
        .lake.read("explanations")
        .where(f"user = 'u05' AND item = '{listed.rows[0]['item']}'")
        .collect()
    )
    told = listed.rows[0]["features"]
    assert [one["feature"] for one in told] == [one["feature"] for one in row["features"]]
    assert all(f"({one['contribution']:+.2f})" in one["title"] for one in told)
