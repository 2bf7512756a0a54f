"""Metrics through Spark against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys_spark.errors import ModelError
from recsys_spark.evaluation.ranking import ranking_metrics, resampling_weights
from recsys_spark.evaluation.rating import rating_metrics

LIST = "id string, recommendations array<struct<item: int, score: float>>"
# users a, b, c know items 1..5; 1 is known to all three, 2 to two, 3, 4 and 5 to one each
TRAIN = [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 4), ("c", 5)]
GENRES = [(1, ["x"]), (2, ["x"]), (3, ["y"]), (4, None), (9, ["z"])]
LISTS = {"a": [4, 5], "b": [3, 5, 1], "d": [1]}
RELEVANT = [("a", 5), ("b", 3), ("b", 8), ("c", 2)]


@pytest.fixture(scope="module")
def values(spark):
    lists = spark.createDataFrame([(u, [(i, 0.0) for i in items]) for u, items in LISTS.items()], LIST)
    relevant = spark.createDataFrame(RELEVANT, "user string, item int")
    train = spark.createDataFrame(TRAIN, "user string, item int")
    items = spark.createDataFrame(GENRES, "item int, genres array<string>")
    found = ranking_metrics({"m": lists, "none": lists.limit(0)}, relevant, train, items, [1, 3], 100, 7)
    return {(m.model, m.metric, m.k): m for m in found}


@pytest.mark.parametrize(
    ("metric", "k", "value"),
    [
        ("hit_rate", 1, 1 / 3),  # only b's first; c has no list
        ("hit_rate", 3, 2 / 3),
        ("precision", 3, (1 / 3 + 1 / 3) / 3),
        ("recall", 3, (1 + 1 / 2) / 3),  # b's item 8 is relevant but unknown to the catalogue
        ("mrr", 3, (1 / 2 + 1) / 3),
        ("map", 3, (1 / 2 + 1 / 2) / 3),
        ("ndcg", 3, (1 / math.log2(3) + 1 / (1 + 1 / math.log2(3))) / 3),
        # only users with a list count: a has 4 and 5, b has 3, 5 and 1; one user of three has each but item 1
        ("novelty", 3, (math.log2(3) + (math.log2(3) + math.log2(3) + 0) / 3) / 2),
        ("novelty", 1, math.log2(3)),
        # a's 4 and 5 have no genres, b's 3, 5, 1 are all unlike
        ("diversity", 3, 1.0),
        ("popularity_share", 3, (0 + 1 / 3) / 2),  # of five items, one is the popular fifth: item 1
        ("coverage", 1, 2 / 5),
        ("coverage", 3, 4 / 5),
    ],
)
def test_value_worked_by_hand(values, metric, k, value):
    assert values["m", metric, k].value == pytest.approx(value)


def test_accuracy_counts_all_users_and_the_rest_those_with_a_list(values):
    assert values["m", "ndcg", 3].users == 3
    assert values["m", "novelty", 3].users == 2
    assert ("m", "diversity", 1) not in values  # no list has two items: undefined, not NaN


def test_model_without_any_list_misses_everything(values):
    assert values["none", "ndcg", 3].value == 0
    assert values["none", "coverage", 3].value == 0
    assert ("none", "novelty", 3) not in values


def test_repeated_rows_count_once(spark, values):
    lists = [("a", [4, 4, 5, 4]), ("b", [3, 3, 5, 1, 1]), ("b", [3, 3, 5, 1, 1]), ("d", [1, 1])]
    lists = spark.createDataFrame([(u, [(i, 0.0) for i in items]) for u, items in lists], LIST)
    relevant = spark.createDataFrame(RELEVANT * 2, "user string, item int")
    train = spark.createDataFrame(TRAIN * 3, "user string, item int")
    items = spark.createDataFrame(GENRES * 2, "item int, genres array<string>")
    for found in ranking_metrics({"m": lists}, relevant, train, items, [1, 3], 0, 7):
        assert found.value == values["m", found.metric, found.k].value, found


@pytest.mark.parametrize("what", ["lists of m", "relevant"])
def test_ids_of_another_kind_are_refused(spark, what):
    texts = spark.createDataFrame([("a", "5")], "user string, item string")
    relevant = texts if what == "relevant" else texts.selectExpr("user", "cast(item as int) item")
    kind = "string" if what == "lists of m" else "int"
    lists = spark.createDataFrame([], f"id string, recommendations array<struct<item: {kind}, score: float>>")
    train = spark.createDataFrame(TRAIN, "user string, item int")
    with pytest.raises(ModelError, match=f"the items of {what} are string, and those of train int: cast"):
        ranking_metrics({"m": lists}, relevant, train, None, [1], 0, 7)


def test_interval_holds_the_value(values):
    found = values["m", "recall", 3]
    assert found.low <= found.value <= found.high
    assert found.low < found.high


def test_interval_is_as_wide_as_theory_says(spark):
    """A mean of 400 coin flips has a standard error of 0.025, so a 95 % interval of about 0.098."""
    relevant = spark.createDataFrame([(str(u), 1) for u in range(400)], "user string, item int")
    lists = spark.createDataFrame([(str(u), [(1 + u % 2, 0.0)]) for u in range(400)], LIST)
    train = spark.createDataFrame([("x", 1), ("x", 2)], "user string, item int")
    (found,) = (
        m for m in ranking_metrics({"m": lists}, relevant, train, None, [1], 500, 1) if m.metric == "hit_rate"
    )
    assert found.value == 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.025, rel=0.15)


def test_same_metrics_on_any_partitioning(spark):
    rng = np.random.default_rng(0)
    lists = spark.createDataFrame(
        [(str(u), [(int(i), 0.0) for i in rng.permutation(30)[:5]]) for u in range(90)], LIST
    )
    relevant = spark.createDataFrame(
        [(str(u), int(rng.integers(30))) for u in range(90)], "user string, item int"
    )
    train = spark.createDataFrame(
        [(str(u), int(rng.integers(30))) for u in range(300)], "user string, item int"
    )
    results = []
    for n in (1, 2, 7):
        found = ranking_metrics(
            {"m": lists.repartition(n)}, relevant.repartition(n), train.repartition(n), None, [5], 50, 3
        )
        results.append({m.metric: (m.value, m.low or 0, m.high or 0) for m in found})
    for other in results[1:]:
        assert other == {name: pytest.approx(values, rel=1e-9) for name, values in results[0].items()}


def test_resampling_weights_are_poisson_with_mean_one():
    weights = resampling_weights(np.arange(2_000), 100, 5)
    assert (weights[0] == 1).all()
    assert weights[1:].mean() == pytest.approx(1, abs=0.01)
    assert weights[1:].var() == pytest.approx(1, abs=0.02)


def test_rating_errors_leave_out_and_count_what_was_not_predicted(spark):
    rows = [(4.0, 3.0), (2.0, 5.0), (3.0, float("nan")), (3.0, None)]
    frame = spark.createDataFrame(rows, "rating double, prediction float")
    nothing = frame.where("prediction is null")
    found = {(m.model, m.metric): (m.value, m.users) for m in rating_metrics({"m": frame, "none": nothing})}
    assert found == {
        ("m", "rmse"): (pytest.approx(math.sqrt(5)), 2),
        ("m", "mae"): (2.0, 2),
        ("m", "unpredicted"): (2.0, 4),
        ("none", "unpredicted"): (1.0, 1),
    }
