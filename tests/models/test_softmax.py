"""The softmax model behind the contract, and what it has beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import functions as F

from recsys_spark.models import SoftmaxModel, SoftmaxRecommender
from recsys_spark.testing import ModelContract, checkerboard

SMALL = {
    "embeddingDim": 8,
    "maxIter": 60,
    "bagExponent": 1.0,
    "schedule": "constant",
    "batchSize": 12,
    "stepSize": 0.05,
    "checkpointInterval": -1,
    "seed": 1,
}


class TestSoftmax(ModelContract):
    new_users = "history"
    nested = "array<struct<item:int,rating:float,probability:float>>"

    def estimator(self):
        return SoftmaxRecommender(**SMALL)


@pytest.fixture(scope="module")
def model(spark):
    params = {
        **SMALL,
        "hiddenDims": [12, 6],
        "activation": "tanh",
        "similarity": "cosine",
        "temperature": 0.2,
    }
    return SoftmaxRecommender(**params).fit(checkerboard(spark))


def vectors(frame, column="features"):
    return {row["id"]: np.array(row[column]) for row in frame.collect()}


def test_probability_is_the_softmax_over_the_whole_catalogue(model):
    users, items = vectors(model.userFactors), vectors(model.itemFactors)
    for row in model.recommendForAllUsers(10).collect():
        logits = {item: users[row.user] @ v for item, v in items.items()}
        total = sum(np.exp(list(logits.values())))
        assert sum(entry.probability for entry in row.recommendations) == pytest.approx(1.0, abs=1e-4)
        for entry in row.recommendations:
            assert entry.rating == pytest.approx(logits[entry.item], abs=1e-4)
            assert entry.probability == pytest.approx(np.exp(logits[entry.item]) / total, abs=1e-5)


def test_users_vectors_follow_from_their_histories_alone(spark, model):
    """The network written out, and other users with the same histories."""
    tables = model.tables.collect()
    layers = {row["name"]: np.array(row["values"]) for row in tables if row["item"] is None}
    inputs = {row["item"]: np.array(row["values"]) for row in tables if row["name"] == "inputs"}
    users = vectors(model.userFactors)
    histories = {}
    for row in checkerboard(spark).collect():
        histories.setdefault(row.user, []).append(row.item)
    for user, history in histories.items():
        bag = np.mean([inputs[item] for item in history], axis=0)
        hidden = np.tanh(bag @ layers["weights 0"].reshape(8, 12) + layers["biases 0"])
        psi = hidden @ layers["weights 1"].reshape(12, 6) + layers["biases 1"]
        assert users[user] == pytest.approx(psi / np.linalg.norm(psi) / 0.2, abs=1e-4)
    others = checkerboard(spark).select((F.col("user") + 1000).alias("user"), "item")
    folded = vectors(model.foldIn(others).userFactors)
    assert {user - 1000: vector.tolist() for user, vector in folded.items()} == {
        user: pytest.approx(vector.tolist(), abs=1e-5) for user, vector in users.items()
    }


def test_sql_function_returns_the_best_items_for_a_history(spark, model):
    model.register(spark, "softmax_top_n")
    data = checkerboard(spark)
    data.groupBy("user").agg(F.collect_list("item").alias("history")).createOrReplaceTempView("visitors")
    query = "SELECT user, softmax_top_n(history, 2) AS best FROM visitors "
    query += "UNION ALL SELECT -1, softmax_top_n(array(77), 2)"
    found = {row.user: row.best for row in spark.sql(query).collect()}
    assert found.pop(-1) is None  # none of its items is known
    listed = {}
    for row in sorted(
        model.recommend(data.select("user").distinct(), 2, data).collect(),
        key=lambda row: (row.user, row["rank"]),
    ):
        listed.setdefault(row.user, []).append((row.item, pytest.approx(row.score, abs=1e-4)))
    assert {user: [(entry.item, entry.score) for entry in best] for user, best in found.items()} == listed
    probabilities = {
        (row.user, entry.item): entry.probability
        for row in model.recommendForAllUsers(10).collect()
        for entry in row.recommendations
    }
    for user, best in found.items():
        assert all(
            entry.probability == pytest.approx(probabilities[user, entry.item], abs=1e-5) for entry in best
        )


def test_sql_function_takes_ids_of_other_types_and_returns_null_for_no_number(spark, model):
    model.register(spark, "softmax_top_n")
    query = """
        SELECT softmax_top_n(array(0, 2), 1) AS best
        UNION ALL SELECT softmax_top_n(array(0L, 2L, 9999999999L), 1)
        UNION ALL SELECT softmax_top_n(array('0', '2', 'no number'), 1)
        UNION ALL SELECT softmax_top_n(array(0D, 2D, 2.5D), 1)
        UNION ALL SELECT softmax_top_n(array(0, 2), NULL)
        UNION ALL SELECT softmax_top_n(array(0, 2), -1) UNION ALL SELECT softmax_top_n(NULL, 1)
    """
    found = [row.best for row in spark.sql(query).collect()]
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0] is not None
    assert found[4:] == [None, None, None]


def test_lists_are_empty_where_no_item_is_allowed(spark, model):
    nothing = spark.createDataFrame([(999,)], "item int")
    rows = model.recommendForAllUsers(2, allowedItems=nothing).collect()
    assert {len(row.recommendations) for row in rows} == {0}


def test_items_that_nobody_liked_are_not_in_the_model(spark):
    disliked = spark.createDataFrame([(0, 77, 0.0)], "user int, item int, rating double")
    fitted = SoftmaxRecommender(**{**SMALL, "maxIter": 1}).fit(checkerboard(spark).unionAll(disliked))
    assert 77 not in {row.id for row in fitted.itemFactors.collect()}


def test_features_of_users_join_their_bags(spark):
    data = checkerboard(spark).where("user > 1")
    colours = spark.createDataFrame(
        [(u, "even" if u % 2 == 0 else "odd") for u in range(12)], "user int, colour string"
    )
    fitted = SoftmaxRecommender(**SMALL, userFeatures=colours, userFeatureCols=["colour"]).fit(data)
    tables = fitted.tables.collect()
    inputs = {row["item"]: np.array(row["values"]) for row in tables if row["name"] == "inputs"}
    by_feature = {row["feature"]: np.array(row["values"]) for row in tables if row["name"] == "user features"}
    visitor = spark.createDataFrame([(0, 2), (0, 4), (1, 2)], "user int, item int")
    with_features = vectors(fitted.foldIn(visitor, userFeatures=colours).userFactors)
    assert with_features[0] == pytest.approx(
        (inputs[2] + inputs[4]) / 2 + by_feature["colour=even"], abs=1e-5
    )
    assert with_features[1] == pytest.approx(inputs[2] + by_feature["colour=odd"], abs=1e-5)
    assert vectors(fitted.foldIn(visitor).userFactors)[1] == pytest.approx(inputs[2], abs=1e-5)


def test_fitted_values_are_attributes_and_survive_saving(spark, tmp_path):
    ages = [20.0 + user**2 for user in range(12)]
    users = spark.createDataFrame(list(enumerate(ages)), "user int, age double")
    params = {**SMALL, "maxIter": 1, "userFeatureCols": ["age"]}
    fitted = SoftmaxRecommender(**params, userFeatures=users).fit(checkerboard(spark))
    fitted.save(str(tmp_path / "model"))
    for model in (fitted, fitted.copy(), SoftmaxModel.load(str(tmp_path / "model"))):
        assert model.featureScales["user"] == {"age": pytest.approx([np.mean(ages), np.std(ages)], rel=1e-9)}
        assert not {"featureScales", "globalMean"} & {param.name for param in model.params}


def test_jobs_of_a_few_epochs_return_what_one_job_returns(spark):
    data = checkerboard(spark)
    params = {**SMALL, "maxIter": 5, "hiddenDims": [7, 5], "dropout": 0.2}
    one = SoftmaxRecommender(**params).fit(data)
    some = SoftmaxRecommender(**{**params, "checkpointInterval": 2}).fit(data)
    assert some.summary.objectiveHistory == one.summary.objectiveHistory
    assert sorted(some.userFactors.collect()) == sorted(one.userFactors.collect())


def test_fit_continues_from_an_initial_model(spark):
    data = checkerboard(spark)
    first = SoftmaxRecommender(**SMALL).fit(data)
    more = {**SMALL, "maxIter": 1, "stepSize": 0.0}
    again = SoftmaxRecommender(**more, initialModel=first).fit(data)
    assert vectors(again.itemFactors).keys() == vectors(first.itemFactors).keys()
    for item, vector in vectors(first.itemFactors).items():
        assert vectors(again.itemFactors)[item] == pytest.approx(vector)
    assert again.summary.objectiveHistory[0] < 0.8 * first.summary.objectiveHistory[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"embeddingDim": 0}, "embeddingDim must be at least 1"),
        ({"activation": "sigmoid"}, "activation must be one of relu, tanh"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"dropout": 0.2, "hiddenDims": [8]}, "give hiddenDims two or more"),
        ({"tieItems": True, "hiddenDims": [8, 3], "embeddingDim": 4}, "must be embeddingDim 4"),
        ({"patience": 3}, "belong together"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_params_out_of_range_are_rejected_with_a_message(params, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxRecommender(**params).check()


def test_loaded_model_serves_new_users_as_the_fitted_one_does(spark, model, tmp_path):
    model.save(str(tmp_path / "model"))
    again = SoftmaxModel.load(str(tmp_path / "model"))
    visitor = spark.createDataFrame([(5000, 0), (5000, 2)], "user int, item int")
    assert again.foldIn(visitor).userFactors.collect() == model.foldIn(visitor).userFactors.collect()
