"""What lists are like, on lists small enough to count by hand."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from recsys_spark.inspection.lists import (
    calibration,
    calibration_error,
    coverage,
    drawn_slots,
    exposure,
    origins,
    score_quantiles,
)
from recsys_spark.models import SoftmaxRecommender

RATED = {1: 6, 2: 3, 3: 3, 4: 0}
"""Item → its ratings."""

LISTED = [("a", 1, 1), ("a", 2, 2), ("b", 1, 1), ("b", 4, 2)]
"""User, item, rank."""


@pytest.fixture(scope="module")
def ratings(spark):
    rows = [(f"u{number}", item) for item, count in RATED.items() for number in range(count)]
    return spark.createDataFrame(rows, "user string, item int")


@pytest.fixture(scope="module")
def lists(spark):
    return spark.createDataFrame(LISTED, "user string, item int, rank int").withColumn(
        "score", F.col("rank").cast("float")
    )


def test_exposure_is_the_share_that_the_most_rated_items_have(lists, ratings):
    curve = exposure(lists, ratings)
    # item 1; items 2 and 3, which have equally many; item 4, which is listed and was never rated
    assert curve.to_numpy().tolist() == [
        [0.0, 0.0, 0.0],
        [0.25, 0.5, 0.5],
        [0.75, 1.0, 0.75],
        [1.0, 1.0, 1.0],
    ]
    few = exposure(lists, ratings, points=2)
    assert few.to_numpy().tolist() == [[0.0, 0.0, 0.0], [0.25, 0.5, 0.5], [1.0, 1.0, 1.0]]
    assert exposure(lists.limit(0), ratings).empty


def test_coverage_grows_with_each_rank(lists):
    assert coverage(lists, 4).to_dict("list") == {"rank": [1, 2], "items": [1, 3], "share": [0.25, 0.75]}
    only_second = lists.where("rank = 2")
    assert coverage(only_second, 4).to_dict("list") == {"rank": [1, 2], "items": [0, 2], "share": [0.0, 0.5]}
    assert coverage(lists.limit(0), 4).empty


def test_rows_are_told_by_who_has_put_them_there_and_drawn_slots_by_what_they_show(spark):
    rows = [
        ("als", "model", 1, 7, None),
        ("als", "model", 3, 8, 0.5),
        ("als", "model", 3, 8, 0.7),
        ("popularity", "fallback", 2, 9, None),
        ("popularity", "exploration", 3, 9, 0.25),
    ]
    lists = spark.createDataFrame(rows, "model string, reason string, rank int, item int, propensity double")
    found = origins(lists)
    assert list(found.columns) == ["model", "reason", "rows", "share", "mean_rank", "mean_propensity"]
    told = found.astype(object).where(found.notna(), None).to_numpy().tolist()
    assert told == [
        ["als", "model", 3, 0.6, 7 / 3, pytest.approx(0.6)],
        ["popularity", "exploration", 1, 0.2, 3.0, 0.25],
        ["popularity", "fallback", 1, 0.2, 2.0, None],
    ]
    slots = drawn_slots(lists).to_dict("records")
    assert slots == [{"rank": 3, "rows": 3, "drawn": pytest.approx(1 / 3), "items": 2}]
    assert origins(lists.limit(0)).empty
    assert drawn_slots(lists.limit(0)).empty


def test_score_quantiles_run_from_the_least_to_the_largest(lists):
    found = score_quantiles(lists)
    assert found["share"].tolist() == pytest.approx([share / 20 for share in range(21)])
    assert (found["score"].iloc[0], found["score"].iloc[-1]) == (1.0, 2.0)
    assert found["score"].is_monotonic_increasing
    assert score_quantiles(lists.limit(0)).empty


def test_probabilities_are_held_against_what_happened(spark):
    """Of users with one history half take item 8 next, and a quarter each items 9 and 10."""
    rows = [(user, item) for user in range(400) for item in (0, 1)]
    history = spark.createDataFrame(rows, "user int, item int")
    taken = [(user, (8, 8, 9, 10)[user % 4]) for user in range(400)]
    relevant = spark.createDataFrame(taken, "user int, item int")
    # a model whose logits are the logarithms of these chances; items 0 and 1 have next to none
    model = SoftmaxRecommender(embeddingDim=1, hiddenDims=[], maxIter=1).fit(history.unionByName(relevant))
    chances = {8: 0.5, 9: 0.25, 10: 0.25}
    logs = F.create_map(*(F.lit(x) for item, chance in chances.items() for x in (item, chance)))
    items = spark.createDataFrame([(item,) for item in (0, 1, 8, 9, 10)], "id int")
    score = F.coalesce(F.log(logs[F.col("id")]), F.lit(-80.0)).cast("float")
    model.itemFactors = items.select("id", F.array(score).alias("features"))
    model.userFactors = (
        history.select(F.col("user").alias("id"))
        .distinct()
        .withColumn("features", F.array(F.lit(1.0).cast("float")))
    )
    groups = calibration(model, relevant, history, n=3, bins=2)
    assert groups["pairs"].sum() == 1200
    assert groups["predicted"].tolist() == pytest.approx(groups["observed"].tolist(), abs=1e-6)
    assert sorted({round(value, 4) for value in groups["predicted"]}) == [0.25, 0.5]
    assert calibration_error(groups) == pytest.approx(0.0, abs=1e-6)
    assert calibration(model, relevant, None, n=5)["pairs"].sum() == 2000  # what was seen is among them
    groups["observed"] = [0.15, 0.5]
    assert calibration_error(groups) == pytest.approx(0.1 * 800 / 1200)
