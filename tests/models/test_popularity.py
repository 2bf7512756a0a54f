"""The popularity baseline."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recsys_spark.models import PopularityRecommender
from recsys_spark.testing import ModelContract

DAY = 86_400


class TestContract(ModelContract):
    learns_taste, new_users = False, "everyone"

    def estimator(self):
        return PopularityRecommender()


def events(spark, *rows):
    timed = [(user, item, datetime.fromtimestamp(1_600_000_000 + day * DAY, UTC)) for user, item, day in rows]
    return spark.createDataFrame(timed, "user string, item string, timestamp timestamp")


def scores(model):
    return {row["id"]: row["score"] for row in model.scores.collect()}


def test_score_is_the_count(spark):
    model = PopularityRecommender().fit(events(spark, ("a", "x", 0), ("b", "x", 9), ("a", "y", 5)))
    assert scores(model) == {"x": 2, "y": 1}


def test_recent_events_count_more(spark):
    # half-life 5 days, back from day 10: x has weights 1/4 and 1/2, y has 1
    model = PopularityRecommender(halfLife=5.0).fit(
        events(spark, ("a", "x", 0), ("b", "x", 5), ("a", "y", 10))
    )
    assert scores(model) == {"x": pytest.approx(0.75), "y": pytest.approx(1.0)}


def test_ties_go_to_the_smaller_item(spark):
    data = events(spark, ("a", "z", 0), ("b", "y", 0), ("c", "x", 0))
    rows = (
        PopularityRecommender()
        .fit(data)
        .recommend(data.select("user").distinct(), 3)
        .where("user = 'a'")
        .collect()
    )
    assert [row["item"] for row in sorted(rows, key=lambda row: row["rank"])] == ["x", "y", "z"]


def test_users_who_are_folded_in_are_known(spark):
    model = PopularityRecommender().fit(events(spark, ("a", "x", 0), ("b", "x", 9)))
    folded = model.foldIn(events(spark, ("c", "x", 0), ("c", "never", 1)))
    assert [row["user"] for row in folded.known_users().collect()] == ["c"]
    assert scores(folded) == scores(model)


def test_item_nobody_has_scores_zero(spark):
    model = PopularityRecommender().fit(events(spark, ("a", "x", 0)))
    assert model.transform(events(spark, ("new", "never", 0))).first()["prediction"] == 0.0


def test_negative_half_life_is_rejected(spark):
    with pytest.raises(ValueError, match="halfLife must be at least 0, got -1"):
        PopularityRecommender(halfLife=-1.0).fit(events(spark, ("a", "x", 0)))
