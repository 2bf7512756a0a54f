"""Lists of the whole catalogue as the evaluator of ``pyspark.ml``'s searches."""

from __future__ import annotations

import math

import pytest
from pyspark.ml import Pipeline
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

from recsys_spark import ALS, PopularityRecommender
from recsys_spark.errors import ModelError
from recsys_spark.tuning import TopNEvaluator

ROWS = "who string, what string, stars double"
TRAIN = [("ann", "a"), ("bob", "a"), ("cid", "a"), ("ann", "b"), ("bob", "b"), ("cid", "c")]
HELD = [("ann", "c", 5.0), ("bob", "d", 5.0), ("cid", "b", 1.0), ("dan", "b", 4.0)]
"""Most popular are a, b, c: lists of two are c alone for ann and bob, b alone for cid, a and b for dan."""


@pytest.fixture(scope="module")
def train(spark):
    return spark.createDataFrame([(*pair, 3.0) for pair in TRAIN], ROWS)


@pytest.fixture(scope="module")
def held(spark):
    return spark.createDataFrame(HELD, ROWS)


@pytest.fixture(scope="module")
def popular(train):
    return PopularityRecommender(userCol="who", itemCol="what").fit(train)


@pytest.mark.parametrize(
    ("metric", "k", "least", "expected"),
    [
        ("hit_rate", 2, -math.inf, 3 / 4),
        ("hit_rate", 1, -math.inf, 2 / 4),
        ("mrr", 2, -math.inf, (1 + 0 + 1 + 1 / 2) / 4),
        ("ndcg", 2, -math.inf, (1 + 0 + 1 + 1 / math.log2(3)) / 4),
        ("hit_rate", 2, 4.0, 2 / 3),
        ("hit_rate", 1, 5.0, 1 / 2),
    ],
)
def test_value_is_that_of_lists_without_what_is_in_other_rows(
    train, held, popular, metric, k, least, expected
):
    evaluator = TopNEvaluator(
        ratings=train.union(held), metricName=metric, k=k, ratingCol="stars", minRating=least
    )
    assert evaluator.evaluate(popular.transform(held)) == pytest.approx(expected)


def test_last_stage_of_a_pipeline_is_what_is_evaluated(train, held):
    pipeline = Pipeline(stages=[PopularityRecommender(userCol="who", itemCol="what")]).fit(train)
    evaluator = TopNEvaluator(ratings=train.union(held), metricName="hit_rate", k=2)
    assert evaluator.evaluate(pipeline.transform(held)) == pytest.approx(3 / 4)


@pytest.mark.slow
@pytest.mark.long
def test_cross_validation_chooses_by_lists(spark):
    """Users have two kinds of items of three: one factor cannot tell the three kinds of users apart."""
    rows = [(user, item) for user in range(30) for item in range(12) if (user + item) % 3]
    ratings = spark.createDataFrame(rows, "user int, item int")
    als = ALS(implicitPrefs=True, ratingCol="", maxIter=5, seed=1)
    search = CrossValidator(
        estimator=als,
        estimatorParamMaps=ParamGridBuilder().addGrid(als.rank, [1, 3]).build(),
        evaluator=TopNEvaluator(ratings=ratings, metricName="ndcg", k=3),
        numFolds=3,
        seed=1,
    )
    found = search.fit(ratings)
    assert found.avgMetrics[0] < 0.9 < found.avgMetrics[1]
    assert found.bestModel.rank == 3


def test_frame_without_its_model_is_named(train, held, popular):
    with pytest.raises(ModelError, match="of what a recommender's transform returned, itself"):
        TopNEvaluator(ratings=train).evaluate(popular.transform(held).where("true"))


def test_nothing_relevant_is_an_error(train, held, popular):
    evaluator = TopNEvaluator(ratings=train.union(held), ratingCol="stars", minRating=6.0)
    with pytest.raises(ModelError, match="no held-out row is relevant"):
        evaluator.evaluate(popular.transform(held))


def test_unknown_metric_is_an_error(train, held, popular):
    with pytest.raises(ValueError, match=r"metricName must be one of .*ndcg.*, got 'auc'"):
        TopNEvaluator(ratings=train, metricName="auc").evaluate(popular.transform(held))
