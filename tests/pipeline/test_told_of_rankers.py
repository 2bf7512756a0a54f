"""What is told of a ranker: what its members have of a user's history, and what its trees ask about."""

from __future__ import annotations

import json
import time

import pytest

from recsys_spark.lakehouse.reader import DeltaReader
from recsys_spark.models import ItemItemRecommender, PopularityRecommender, RankerModel
from recsys_spark.pipeline.details import PATHS
from recsys_spark.pipeline.fitted import record_models
from recsys_spark.pipeline.report import asked_about
from recsys_spark.pipeline.saved_models import SavedModels, add_reasons
from recsys_spark.pipeline.train import save
from tests.pipeline.shop import DAY, Shop

GAINS = {"rank of item_item": 0.5, "age": 2.25} | {f"genre {n}": 0.1 for n in range(12)}
MEMBERS = {"popularity": {}, "item_item": {"regParam": 1.0}}


@pytest.fixture(scope="module")
def members(spark):
    rows = [
        (f"user {user}", (user * 3 + place * (1 + user % 2)) % 10) for user in range(12) for place in range(5)
    ]
    ratings = spark.createDataFrame([(*row, 1.0) for row in rows], "user string, item int, rating double")
    estimators = {"popularity": PopularityRecommender(), "item_item": ItemItemRecommender(regParam=1.0)}
    return {name: estimator.fit(ratings) for name, estimator in estimators.items()}


@pytest.fixture(scope="module")
def night(spark, tmp_path_factory, members):
    """A night whose lists a ranker has made; its trees are not asked."""
    shop = Shop(spark, tmp_path_factory.mktemp("shop"))
    shop.tree["ingest"]["source"]["item_type"] = "integer"
    night = shop.night(models=["ranker"], ranker={"members": MEMBERS}, als={})
    night.pin({"ratings": 0})
    users = spark.createDataFrame([], "id string, values array<float>, profile array<float>")
    items = spark.createDataFrame([], "id int, values array<float>")
    model = RankerModel(users, items, spark.createDataFrame([(b"",)], "trees binary"))
    model.take_members(members)
    model.gains = GAINS
    with night.step("recommend") as record:
        row = save(night, "ranker", "serving", model, time.monotonic())
        record_models(night, record, [row])
        record.details |= {"champion": "ranker", PATHS: json.dumps({"serving": row["path"]})}
    return night


def test_what_the_trees_ask_about_is_kept_and_reported(night):
    reader = DeltaReader(str(night.config.lake.root))
    fits = reader.rows("models", ["model", "purpose", "importances"], {}).to_pylist()
    assert [dict(fit["importances"]) for fit in fits] == [GAINS]
    (part,) = asked_about([*fits, {"model": "als", "purpose": "serving", "importances": None}])
    assert part.heading == "What ranker (serving) asks"
    assert part.rows[:3] == [
        {"feature": "age", "gain": 2.25},
        {"feature": "rank of item_item", "gain": 0.5},
        {"feature": "genre 0", "gain": 0.1},
    ]
    assert len(part.rows) == 12


def test_a_row_is_told_what_of_the_history_speaks_for_it(night, members):
    weights = {(row.item, row.neighbor): row.weight for row in members["item_item"].weights.collect()}
    history = [{"user": "user 3", "item": item, "rating": 1.0, "timestamp": None} for item in (9, 1, 3, 5, 7)]
    listed = [
        {"item": item, "model": "ranker", "reason": reason}
        for item, reason in [(0, "item_item"), (2, "item_item"), (4, "popularity")]
    ]
    reader = DeltaReader(str(night.config.lake.root))
    add_reasons(SavedModels(reader, night.config), DAY, history, listed)
    for row in listed[:2]:
        of_history = {known["item"]: weights.get((row["item"], known["item"]), 0.0) for known in history}
        best = sorted(of_history, key=of_history.get, reverse=True)[:3]
        # without a contribution, which would be to the member's score
        assert row["because"] == [
            {"item": item, "contribution": None} for item in best if of_history[item] > 0
        ]
    assert any(row["because"] for row in listed)
    assert listed[2]["because"] == []  # popular items are nobody's
