"""The pair models behind the contract, and what they have beyond it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError
from recsys_spark.kernels.negatives import Proposal
from recsys_spark.kernels.posterior import Prior
from recsys_spark.models import PairwiseModel, PairwiseRecommender, SoftmaxRecommender
from recsys_spark.testing import ITEMS, USERS, ModelContract, checkerboard
from recsys_spark.training.pairwise.fold_in import BY_FEATURES, FoldIn, _Items, _solved

SMALL = {
    "embeddingDim": 8,
    "maxIter": 60,
    "batchSize": 20,
    "stepSize": 0.03,
    "numNegatives": 2,
    "checkpointInterval": -1,
    "seed": 1,
}


@pytest.mark.slow
@pytest.mark.long
class TestDotProduct(ModelContract):
    new_users, new_items = "history", "features"

    def estimator(self):
        return PairwiseRecommender(**SMALL)


@pytest.mark.slow
@pytest.mark.long
class TestNetworkBesideTheDotProduct(ModelContract):
    new_users, new_items = "features", "features"

    def estimator(self):
        return PairwiseRecommender(**SMALL, loss="bpr", interaction="dot+mlp", hiddenDims=[8])


@pytest.mark.parametrize(
    "params",
    [{"loss": "ccl"}, {"interaction": "mlp", "hiddenDims": [16], "activation": "tanh", "maxIter": 100}],
)
def test_other_models_recommend_the_one_missing_item_first(spark, params):
    data = checkerboard(spark)
    model = PairwiseRecommender(**{**SMALL, **params}).fit(data)
    rows = model.recommend(data.select("user").distinct(), 1, data).collect()
    assert {row["user"]: row["item"] for row in rows} == {u: u % ITEMS for u in range(USERS)}


def additive(spark):
    """Ratings 3 + a_u + b_i, all but one, and the one that is missing: user 0, item 0."""
    rows = [(u, i, 3.0 + (u % 3 - 1) + 0.5 * (i % 2)) for u in range(USERS) for i in range(ITEMS)]
    return spark.createDataFrame(rows[1:], "user int, item int, rating double"), rows[0][2]


def test_squared_loss_learns_the_mean_and_both_biases(spark):
    data, missing = additive(spark)
    estimator = PairwiseRecommender(loss="squared", **{**SMALL, "maxIter": 150, "regParam": 0.0})
    assert estimator.predicts_ratings
    model = estimator.fit(data)
    assert RegressionEvaluator(labelCol="rating").evaluate(model.transform(data)) < 0.1
    (row,) = model.transform(spark.createDataFrame([(0, 0)], "user int, item int")).collect()
    assert row.prediction == pytest.approx(missing, abs=0.4)


def test_unknown_users_and_items_count_as_average_ones_and_are_never_nan(spark):
    data, _ = additive(spark)
    model = PairwiseRecommender(loss="squared", **SMALL).fit(data)
    pairs = spark.createDataFrame([(0, 99), (99, 1), (99, 99), (None, None)], "user int, item int")
    found = {(row.user, row.item): row.prediction for row in model.transform(pairs).collect()}
    users, items = (
        {row.id: np.array([*row.features, row.bias]) for row in side.collect()}
        for side in (model.userFactors, model.itemFactors)
    )
    mean = data.agg({"rating": "mean"}).first()[0]
    average = [np.mean(list(side.values()), axis=0) for side in (users, items)]

    def score(x, y):
        return pytest.approx(mean + x[:-1] @ y[:-1] + x[-1] + y[-1], abs=1e-5)

    assert found == {
        (0, 99): score(users[0], average[1]),
        (99, 1): score(average[0], items[1]),
        (99, 99): score(*average),
        (None, None): score(*average),
    }
    model.setColdStartStrategy("drop")
    assert model.transform(pairs.unionAll(data.select("user", "item"))).count() == data.count()


@pytest.fixture(scope="module")
def featured(spark):
    """A model of the checkerboard in which the colours are features, and users 100 and items 200 have
    nothing else.
    """
    users = [(u, "even" if u % 2 == 0 else "odd", float(u)) for u in [*range(USERS), 100, 101]]
    items = [(i, ["even", "all"] if i % 2 == 0 else ["odd", "all"]) for i in [*range(ITEMS), 200, 201]]
    frames = {
        "userFeatures": spark.createDataFrame(users, "user int, colour string, number double"),
        "itemFeatures": spark.createDataFrame(items, "item int, tags array<string>"),
    }
    columns = {"userFeatureCols": ["colour", "number"], "itemFeatureCols": ["tags"]}
    return PairwiseRecommender(**SMALL, **frames, **columns, regParam=0.003).fit(checkerboard(spark))


def test_fitted_values_are_attributes_and_survive_saving(spark, featured, tmp_path):
    own = {"users": [], "items": []}
    for row in featured.tables.collect():
        if row["name"] in own:
            own[row["name"]].append(row["values"])
    numbers = np.array([*range(USERS), 100, 101], float)
    featured.save(str(tmp_path / "featured"))
    for model in (featured, featured.copy(), PairwiseModel.load(str(tmp_path / "featured"))):
        assert model.globalMean == 0.0
        assert model.featureScales["user"] == {
            "number": pytest.approx([numbers.mean(), numbers.std()], rel=1e-9)
        }
        for side, table in (("user", "users"), ("item", "items")):
            assert model.averages[side] == pytest.approx(np.mean(own[table], axis=0).tolist(), abs=1e-6)
        names = {param.name for param in model.params}
        assert not {"globalMean", "averages", "featureScales"} & names


def test_mean_of_the_ratings_survives_saving(spark, tmp_path):
    data, _ = additive(spark)
    fitted = PairwiseRecommender(loss="squared", **{**SMALL, "maxIter": 1}).fit(data)
    fitted.save(str(tmp_path / "model"))
    mean = np.mean([row.rating for row in data.collect()])
    for model in (fitted, PairwiseModel.load(str(tmp_path / "model"))):
        assert model.globalMean == pytest.approx(mean, rel=1e-6)


def test_users_and_items_without_events_are_served_by_their_features(spark, featured, tmp_path):
    featured.save(str(tmp_path / "model"))
    for model in (featured, PairwiseModel.load(str(tmp_path / "model"))):
        listed = {}
        for row in model.recommend(spark.createDataFrame([(100,), (101,)], "user int"), ITEMS + 2).collect():
            listed.setdefault(row.user, []).append((row.score, row.item))
        for user, scored in listed.items():
            best = {item % 2 for _, item in sorted(scored, reverse=True)[: ITEMS // 2 + 1]}
            assert len(scored) == ITEMS + 2
            assert best == {user % 2}  # items of the same colour, the one without events among them


def test_items_without_events_have_neighbours_by_their_features(spark, featured):
    some = spark.createDataFrame([(200,), (201,)], "item int")
    for row in featured.similarItems(3, items=some).collect():
        assert row["neighbor"] % 2 == row["item"] % 2  # of the same colour


def test_vector_of_a_featured_user_is_their_own_and_the_weighted_sum_of_their_features(featured):
    tables = {
        (row["name"], row["user"], row["feature"]): np.array(row["values"])
        for row in featured.tables.collect()
    }
    numbers = np.array([*range(USERS), 100, 101], float)
    for row in featured.userFactors.where(f"id < {USERS}").collect():
        weight = (row.id - numbers.mean()) / numbers.std()
        colour = "colour=even" if row.id % 2 == 0 else "colour=odd"
        own = tables["users", row.id, None]
        whole = own + tables["user features", None, colour] + weight * tables["user features", None, "number"]
        assert [*row.features, row.bias] == pytest.approx(whole.tolist(), abs=1e-5)


def test_fold_in_serves_new_users_by_their_features(spark, featured):
    more = spark.createDataFrame(
        [(555, "odd", 3.0), (556, "unknown", None), (1, "even", 0.0)],
        "user int, colour string, number double",
    )
    model = featured.foldIn(userFeatures=more)
    found = {row.id: row for row in model.userFactors.collect()}
    known = {row.id: row for row in featured.userFactors.collect()}
    assert set(found) == {*known, 555}  # nothing is known about 556
    assert found[1] == known[1]  # known users stay as they are
    tables = {
        (row["name"], row["user"], row["feature"]): np.array(row["values"])
        for row in featured.tables.collect()
    }
    average = np.mean([row for (name, _, _), row in tables.items() if name == "users"], axis=0)
    numbers = np.array([*range(USERS), 100, 101], float)
    weight = (3.0 - numbers.mean()) / numbers.std()
    whole = (
        average
        + tables["user features", None, "colour=odd"]
        + weight * tables["user features", None, "number"]
    )
    assert [*found[555].features, found[555].bias] == pytest.approx(whole.tolist(), abs=1e-5)
    listed = model.recommend(spark.createDataFrame([(555,)], "user int"), 1).first()
    assert listed.item % 2 == 1


@pytest.mark.parametrize("params", [{}, {"loss": "bpr"}, {"loss": "squared", "maxIter": 150}])
def test_fold_in_serves_others_by_their_histories(spark, tmp_path, params):
    """Odd users like odd items, and even ones even items; of each an item is not known."""
    liked = [
        (u, i, 5.0 if (u + i) % 2 == 0 else 1.0) for u in range(USERS) for i in range(ITEMS) if i != u % ITEMS
    ]
    explicit = "loss" in params and params["loss"] == "squared"
    rows = [row for row in liked if explicit or row[2] > 3]
    data = spark.createDataFrame(rows, "user int, item int, rating double")
    path = str(tmp_path / "pairs")
    PairwiseRecommender(**{**SMALL, **params}).fit(data).save(path)
    others = data.where("user < 4").withColumn("user", F.col("user") + 100)
    odd = spark.createDataFrame([(100, 999, 5.0), (777, 999, 5.0)], data.schema)
    folded = PairwiseModel.load(path).foldIn(others.unionAll(odd), "rating")
    assert sorted(row.id for row in folded.userFactors.collect()) == [100, 101, 102, 103]
    listed = folded.recommend(others.select("user").distinct(), 1, others).collect()
    assert {row.user: row.item for row in listed} == {100 + u: u for u in range(4)}
    if explicit:
        errors = folded.transform(others).select(F.abs(F.col("prediction") - F.col("rating")).alias("error"))
        assert errors.agg(F.max("error")).first()[0] < 0.7


def test_fold_in_starts_from_features_and_goes_on_to_the_history(spark, featured):
    """Who has little is nearly what the features say, and who has much is what that says."""
    people = spark.createDataFrame(
        [(u, "odd", 3.0) for u in (500, 501)], "user int, colour string, number double"
    )
    even = [(501, i) for i in range(0, ITEMS, 2)]
    histories = spark.createDataFrame([(500, 777), (500, 1), *even], "user int, item int")
    model = featured.foldIn(histories, userFeatures=people)
    users = people.select("user")
    listed = {row.user: row.item for row in model.recommend(users, 1).collect()}
    assert listed[500] % 2 == 1
    assert listed[501] % 2 == 0


def test_of_a_long_history_a_part_counts_for_all(monkeypatch):
    items = _Items(
        pa.array([10, 20, 30]),
        np.array([[1.0, 1], [2, 1], [3, 1]]),
        np.zeros(3),
        Proposal.build(np.ones(3)),
        np.arange(3, dtype=np.int32),
    )
    prior, how = Prior(np.zeros(2), np.eye(2)), FoldIn("squared", 0.0, 1.0, 0, 0.0, 7)
    columns = {"id": [1], "items": [[10, 20, 30]], "values": [[2.0, 2.0, 2.0]], BY_FEATURES: [None]}
    batch = pa.RecordBatch.from_pydict(
        columns,
        pa.schema(
            [
                ("id", pa.int32()),
                ("items", pa.list_(pa.int64())),
                ("values", pa.list_(pa.float32())),
                (BY_FEATURES, pa.list_(pa.float32())),
            ]
        ),
    )
    (whole,) = _solved(batch, prior, items, how)
    rows = items.rows
    np.testing.assert_allclose(
        whole, np.linalg.solve(rows.T @ rows + np.eye(2), rows.T @ [2, 2, 2]), rtol=1e-6
    )
    monkeypatch.setattr("recsys_spark.training.pairwise.fold_in.MOST", 1)
    (part,) = _solved(batch, prior, items, how)
    alone = [np.linalg.solve(3 * np.outer(row, row) + np.eye(2), 6 * row) for row in rows]
    assert any(np.allclose(part, one, rtol=1e-6) for one in alone)


@pytest.mark.parametrize("params", [{"loss": "ccl"}, {"interaction": "mlp", "hiddenDims": [4]}])
def test_networks_and_cosines_fold_no_history_in(spark, params):
    data = checkerboard(spark)
    estimator = PairwiseRecommender(**{**SMALL, "maxIter": 1, **params})
    assert not estimator.makes_models_that_fold_in
    with pytest.raises(ModelError, match="only a dot product with loss squared, logistic or bpr"):
        estimator.fit(data).foldIn(data)


def test_network_ranks_the_most_popular_items(spark):
    data = checkerboard(spark).unionAll(
        spark.createDataFrame([(u, 3, 1.0) for u in range(0, USERS, 2)], "user int, item int, rating double")
    )
    model = PairwiseRecommender(**{**SMALL, "maxIter": 2}, interaction="mlp", numCandidates=1).fit(data)
    rows = model.recommend(data.select("user").distinct(), 1).collect()
    assert {row.item for row in rows} == {3}  # the most popular, whatever the network thinks
    with pytest.raises(ModelError, match="whole number of at least 1, got 0"):
        model.recommendForAllUsers(0)
    with pytest.raises(ModelError, match="fit with interaction dot"):
        model.recommendForAllItems(1)


def test_jobs_of_a_few_epochs_return_what_one_job_returns(spark, featured):
    data = checkerboard(spark)
    params = {**SMALL, "maxIter": 5, "interaction": "dot+mlp", "hiddenDims": [5], "dropout": 0.2}
    one = PairwiseRecommender(**params).fit(data)
    some = PairwiseRecommender(**{**params, "checkpointInterval": 2}).fit(data)
    assert some.summary.objectiveHistory == one.summary.objectiveHistory
    assert sorted(some.userFactors.collect()) == sorted(one.userFactors.collect())


def test_fit_continues_from_an_initial_model(spark):
    data = checkerboard(spark)
    first = PairwiseRecommender(**SMALL).fit(data)
    again = PairwiseRecommender(**{**SMALL, "maxIter": 1, "stepSize": 0.0}, initialModel=first).fit(data)
    assert {row.id: row.features for row in again.userFactors.collect()} == {
        row.id: pytest.approx(row.features) for row in first.userFactors.collect()
    }
    assert again.summary.objectiveHistory[0] < 0.8 * first.summary.objectiveHistory[0]


def test_initial_model_of_another_kind_is_rejected(spark):
    first = PairwiseRecommender(**{**SMALL, "maxIter": 0}).fit(checkerboard(spark))
    for params, message in (
        ({"loss": "ccl"}, "initialModel has loss 'logistic', not 'ccl'"),
        ({"embeddingDim": 3}, "initialModel has embeddingDim 8, not 3"),
    ):
        with pytest.raises(ValueError, match=message):
            PairwiseRecommender(**{**SMALL, **params}, initialModel=first).check()
    with pytest.raises(ValueError, match="must be a SoftmaxModel, got a PairwiseModel"):
        SoftmaxRecommender(initialModel=first).check()


def test_initial_model_is_found_whatever_the_type_of_the_ids(spark):
    """In a fit of two tasks; strings and integers are owned by different tasks."""
    data = checkerboard(spark)
    first = PairwiseRecommender(**{**SMALL, "maxIter": 3}).fit(data)
    texts = data.select(F.col("user").cast("string"), F.col("item").cast("string"), "rating")
    again = PairwiseRecommender(**{**SMALL, "maxIter": 0}, initialModel=first).fit(texts)
    assert {int(row.id): row.features for row in again.userFactors.collect()} == {
        row.id: row.features for row in first.userFactors.collect()
    }


def test_missing_ratings_are_rejected_where_they_are_learnt_or_named(spark):
    data = checkerboard(spark).drop("rating")
    for params in ({"loss": "squared"}, {"ratingCol": "ratng"}):
        with pytest.raises(
            ModelError, match=r"ratingCol 'rat(i)?ng' is not among the columns 'user', 'item'"
        ):
            PairwiseRecommender(**SMALL, **params).fit(data)


def test_features_without_a_named_column_are_rejected(spark):
    users = spark.createDataFrame([(1, "a")], "user int, colour string")
    with pytest.raises(ModelError, match="userFeatureCols names none of its columns"):
        PairwiseRecommender(**SMALL, userFeatures=users).fit(checkerboard(spark))


def test_diverging_fit_is_an_error(spark):
    data, _ = additive(spark)
    with pytest.raises(ModelError, match="lower stepSize"):
        PairwiseRecommender(**{**SMALL, "maxIter": 3, "stepSize": 1e30}, loss="squared").fit(data)


def test_ratings_of_which_none_is_above_zero_are_rejected(spark):
    data = checkerboard(spark).withColumn("rating", F.lit(0.0))
    with pytest.raises(ModelError, match="the training data has no ratings above 0"):
        PairwiseRecommender(**SMALL).fit(data)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"interaction": "outer"}, "interaction must be one of dot, mlp, dot"),
        ({"loss": "hinge"}, "loss must be one of squared"),
        ({"loss": "ccl", "interaction": "mlp"}, "interaction must be dot"),
        ({"numNegatives": 0}, "needs numNegatives of at least 1"),
        ({"hiddenDims": [3, 0]}, "hiddenDims must be at least 1 each"),
        ({"coldStartStrategy": "nan"}, "coldStartStrategy must be one of average, drop"),
    ],
)
def test_params_out_of_range_are_rejected_with_a_message(params, message):
    with pytest.raises(ValueError, match=message):
        PairwiseRecommender(**params).check()


def test_features_that_cannot_be_used_are_named(spark):
    data = checkerboard(spark)
    users = spark.createDataFrame([(1, {"a": 1})], "user int, words map<string,int>")
    for frames, columns, message in (
        ({}, ["colour"], "userFeatures is missing"),
        (
            {"userFeatures": users},
            ["colour"],
            "feature column 'colour' is not among the columns 'user', 'words'",
        ),
        ({"userFeatures": users}, ["words"], "'words' is map<string,int>"),
        ({"userFeatures": users.select("words")}, ["words"], "'words' is map"),
        (
            {"userFeatures": spark.createDataFrame([(1, "a"), (1, "b")], "user int, t string")},
            ["t"],
            "user 1 has 2 rows of features",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            PairwiseRecommender(**SMALL, **frames, userFeatureCols=columns).fit(data)
