"""Our ALS behind the contract, as a drop-in for Spark's, and what it has beyond it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import recommendation as spark_recommendation
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F

from recsys_spark.errors import GroupError, ModelError
from recsys_spark.models import (
    ALS,
    ALSModel,
    ItemItemRecommender,
    PopularityRecommender,
    SoftmaxRecommender,
)
from recsys_spark.testing import ModelContract, checkerboard
from recsys_spark.training.group import new_key
from tests.models.storage import stored_frames

LONG = [pytest.mark.slow, pytest.mark.long]
SMALL = {"rank": 4, "maxIter": 8, "regParam": 0.01}
TWO_COLOURS = {"rank": 2, "maxIter": 8, "regParam": 0.05}
"""A larger rank overfits: it learns which items are missing."""


class TestImplicit(ModelContract):
    new_users = "history"

    def estimator(self):
        return ALS(implicitPrefs=True, alpha=10.0, seed=3, **TWO_COLOURS)


@pytest.mark.slow
@pytest.mark.long
class TestBiases(ModelContract):
    """Explicit ratings that are all 1 say nothing about taste: this tests how biases are handled."""

    learns_taste, new_users = False, "history"

    def estimator(self):
        return ALS(useBiases=True, seed=3, **SMALL)


@pytest.mark.slow
@pytest.mark.long
class TestBayesian(ModelContract):
    """Draws, several to a model, from ratings that say nothing about taste."""

    learns_taste = False

    def estimator(self):
        return ALS(bayesian=True, rank=2, maxIter=8, burnIn=4, samples=2, seed=3)


@pytest.fixture(scope="module")
def ratings(spark):
    """Sparse ratings of rank two with noise, made by hand."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(40, 2))
    rows = [
        (u, i, float(np.clip(np.round(3 + x[u] @ y[i]), 1, 5)))
        for u in range(60)
        for i in range(40)
        if rng.random() < 0.3
    ]
    return spark.createDataFrame(rows, "user int, item int, rating float").coalesce(1).cache()


@pytest.fixture(scope="module")
def data_sets(spark, ratings):
    """The same, a long tail with one item that every user has, and thumbs up and down."""
    rng = np.random.default_rng(1)
    tail = {
        (u, i) for u in range(50) for i in [0, *(rng.pareto(0.8, 12) * 2).astype(int).clip(max=80).tolist()]
    }
    thumbs = {
        (u, i): float(rng.choice([-1.0, 0.0, 1.0, 3.0]))
        for u in range(40)
        for i in range(30)
        if rng.random() < 0.4
    }
    rows = {
        "long tail": [(u, i, float(1 + (u * i) % 4)) for u, i in sorted(tail)],
        "thumbs": [(u, i, rating) for (u, i), rating in thumbs.items()],
    }
    schema = "user int, item int, rating float"
    return {"rank two": ratings} | {
        name: spark.createDataFrame(made, schema).coalesce(1) for name, made in rows.items()
    }


def objective(model, rows, implicit, alpha, reg):
    """The objective that MLlib minimises, from the factors alone, in double precision."""
    x = {row["id"]: np.array(row["features"], float) for row in model.userFactors.collect()}
    y = {row["id"]: np.array(row["features"], float) for row in model.itemFactors.collect()}
    total, n = 0.0, {}
    for row in rows:
        score = x[row["user"]] @ y[row["item"]]
        c = alpha * abs(row["rating"])
        liked = row["rating"] > 0
        total += (1 + c) * (liked - score) ** 2 - score**2 if implicit else (row["rating"] - score) ** 2
        for key in ((row["user"], 0), (row["item"], 1)):
            n[key] = n.get(key, 0) + (liked or not implicit)
    if implicit:
        total += np.sum((np.array(list(x.values())) @ np.array(list(y.values())).T) ** 2)
    return total + reg * sum(
        n[key, side] * (v @ v) for side, vs in enumerate((x, y)) for key, v in vs.items()
    )


@pytest.mark.parametrize(
    "data", ["rank two", *(pytest.param(name, marks=LONG) for name in ("long tail", "thumbs"))]
)
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_reaches_sparks_objective(data_sets, data, implicit):
    # at lower ranks a fit may end in another local minimum
    params = {"rank": 6, "maxIter": 40, "regParam": 0.05, "alpha": 2.0, "implicitPrefs": implicit, "seed": 1}
    ratings = data_sets[data]
    rows = ratings.collect()
    # more iterations without a checkpoint directory overflow the stack of Spark's own
    theirs = objective(
        spark_recommendation.ALS(**{**params, "maxIter": 10}).fit(ratings), rows, implicit, 2.0, 0.05
    )
    for solver in ("cholesky", "cg"):
        model = ALS(solver=solver, checkpointInterval=-1, **params).fit(ratings)
        ours = objective(model, rows, implicit, 2.0, 0.05)
        assert ours <= 1.001 * theirs
        assert model.summary.objectiveHistory[-1] == pytest.approx(ours, rel=1e-5)


def test_has_every_param_setter_and_getter_of_sparks(spark):
    theirs, ours = spark_recommendation.ALS(), ALS()
    defaults = {param.name: theirs.getOrDefault(param) for param in theirs.params if param.name != "seed"}
    assert {name: ours.getOrDefault(name) for name in defaults} == defaults
    for kind, other in ((theirs, ours), (spark_recommendation.ALSModel, ALSModel)):
        names = {name for name in dir(kind) if name.startswith(("get", "set", "recommend"))}
        assert {name for name in names if not hasattr(other, name)} == set()


def test_sparks_own_doctest_with_the_import_changed(spark, tmp_path):
    """The doctest of ``pyspark.ml.recommendation.ALS``, line by line; its numbers depend on its own
    starting factors.
    """
    df = spark.createDataFrame(
        [(0, 0, 4.0), (0, 1, 2.0), (1, 1, 3.0), (1, 2, 4.0), (2, 1, 1.0), (2, 2, 5.0)],
        ["user", "item", "rating"],
    )
    als = ALS(rank=10, seed=0)
    assert isinstance(als.setMaxIter(5), ALS)
    assert als.getMaxIter() == 5
    als.setRegParam(0.1)
    assert als.getRegParam() == 0.1
    als.clear(als.regParam)
    model = als.fit(df)
    assert model.getBlockSize() == 4096
    assert model.getUserCol() == "user"
    assert isinstance(model.setUserCol("user"), ALSModel)
    assert model.getItemCol() == "item"
    model.setPredictionCol("newPrediction")
    assert model.rank == 10
    assert [row["id"] for row in model.userFactors.orderBy("id").collect()] == [0, 1, 2]
    test = spark.createDataFrame([(0, 2), (1, 0), (2, 0)], ["user", "item"])
    predictions = sorted(model.transform(test).collect(), key=lambda row: row[0])
    assert [(row.user, row.item) for row in predictions] == [(0, 2), (1, 0), (2, 0)]
    assert all(math.isfinite(row.newPrediction) for row in predictions)
    user_recs = model.recommendForAllUsers(3)
    first = (
        user_recs.where(user_recs.user == 0).select("recommendations.item", "recommendations.rating").first()
    )
    assert first.item[:2] == [0, 1]
    assert first.rating == sorted(first.rating, reverse=True)
    item_recs = model.recommendForAllItems(3)
    (row,) = (
        item_recs.where(item_recs.item == 2)
        .select("recommendations.user", "recommendations.rating")
        .collect()
    )
    assert row.user[:2] == [2, 1]
    subset = model.recommendForUserSubset(df.where(df.user == 2), 3).select("recommendations.item").collect()
    assert [row.item[0] for row in subset] == [2]
    subset = model.recommendForItemSubset(df.where(df.item == 0), 3).select("recommendations.user").collect()
    assert [row.user[0] for row in subset] == [0]
    als.save(str(tmp_path / "als"))
    assert ALS.load(str(tmp_path / "als")).getMaxIter() == 5
    model.save(str(tmp_path / "model"))
    again = ALSModel.load(str(tmp_path / "model"))
    assert again.rank == model.rank
    assert sorted(again.userFactors.collect()) == sorted(model.userFactors.collect())
    assert again.transform(test).take(1) == model.transform(test).take(1)


@pytest.mark.parametrize("rejected", ["true", "false"])
def test_sparks_own_test_of_ambiguous_columns_with_the_import_changed(spark, tmp_path, rejected):
    """What ``pyspark.ml.tests.test_als`` checks: a model's two frames can be joined, whether Spark
    rejects self-joins or not.
    """
    data = spark.createDataFrame([[1, 15, 1], [1, 2, 2], [2, 3, 4], [2, 2, 5]], ["user", "item", "rating"])
    params = {
        "userCol": "user",
        "itemCol": "item",
        "ratingCol": "rating",
        "numUserBlocks": 10,
        "numItemBlocks": 10,
    }
    ALS(**params, maxIter=1, seed=42).fit(data).write().overwrite().save(str(tmp_path / "model"))
    model = ALSModel().load(str(tmp_path / "model"))
    setting = "spark.sql.analyzer.failAmbiguousSelfJoin"
    before = spark.conf.get(setting)
    spark.conf.set(setting, rejected)
    try:
        pairs = model.userFactors.select(F.col("id").alias("user")).crossJoin(
            model.itemFactors.select(F.col("id").alias("item"))
        )
        assert model.transform(pairs).count() == 2 * 3
    finally:
        spark.conf.set(setting, before)


@pytest.mark.slow
@pytest.mark.long
def test_cross_validator_finds_the_regularisation_that_generalises(spark):
    rows = [(u, i, float((1 + u % 5) * (1 + i % 3))) for u in range(20) for i in range(12)]  # of rank one
    ratings = spark.createDataFrame(rows, "user int, item int, rating float").coalesce(1).cache()
    als = ALS(rank=1, maxIter=5, coldStartStrategy="drop", seed=1)
    grid = ParamGridBuilder().addGrid(als.regParam, [0.01, 20.0]).build()
    evaluator = RegressionEvaluator(labelCol="rating", metricName="rmse")
    found = CrossValidator(
        estimator=als, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=1
    ).fit(ratings)
    assert found.avgMetrics[0] < 0.5 < found.avgMetrics[1]
    assert found.bestModel.rank == 1


def test_jobs_of_a_few_iterations_return_what_one_job_returns(ratings):
    models = [
        ALS(rank=3, maxIter=5, checkpointInterval=interval, seed=1).fit(ratings) for interval in (-1, 2)
    ]
    one, two = ({row["id"]: row["features"] for row in model.userFactors.collect()} for model in models)
    assert one == two
    assert models[0].summary.objectiveHistory == models[1].summary.objectiveHistory


def test_fit_continues_from_an_initial_model(ratings):
    half = ALS(rank=3, maxIter=3, seed=1).fit(ratings)
    whole = ALS(rank=3, maxIter=6, seed=1).fit(ratings)
    on = ALS(rank=3, maxIter=3, seed=99, initialModel=half).fit(ratings)
    assert on.summary.objectiveHistory == whole.summary.objectiveHistory[3:]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"regExponent": 1.6}, r"regExponent must be from 0 to 1\.5"),
        ({"gravity": 1.0, "implicitPrefs": True}, "gravity is for explicit feedback"),
        ({"useBiases": True, "implicitPrefs": True}, "useBiases is for explicit feedback"),
        ({"unobservedWeight": 0.1}, "unobservedWeight is for implicit feedback"),
        ({"unobservedWeight": 0.1, "implicitPrefs": True, "alpha": 2.0}, "alpha has no meaning"),
        ({"nonnegative": True, "useBiases": True}, "fits negative biases"),
        ({"nonnegative": True, "solver": "cg"}, "nonnegative has a solver of its own"),
        ({"solver": "lu"}, "solver must be one of cholesky, cg"),
        ({"cgSteps": 0}, "cgSteps must be at least 1"),
        ({"regParam": math.nan}, "regParam must be at least 0"),
        ({"checkpointInterval": 0}, "checkpointInterval must be at least 1, or -1"),
        (
            {"bayesian": True, "implicitPrefs": True},
            "bayesian draws factors of ratings, and takes no impl",
        ),
        ({"bayesian": True, "gravity": 0.1}, "bayesian draws factors of ratings, and takes no gravity"),
        ({"bayesian": True, "maxIter": 69}, r"50 samples after 20 iterations: maxIter must be at least 70"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"useHistories": True}, "useHistories is for bayesian, which is not set"),
        ({"itemFeatureCols": ["year"]}, "itemFeatureCols is for bayesian, which is not set"),
        ({"predictionStdCol": "std"}, "predictionStdCol is for bayesian, which is not set"),
    ],
)
def test_contradictions_are_rejected_with_a_message(params, message):
    with pytest.raises(ValueError, match=message):
        ALS(**params).check()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, 1, 1.0), (None, 2, 1.0), (2, None, 1.0)], r"2 rows cannot be trained on, such as.*null"),
        ([(1, 1, 1.0), (1, 2, None)], '1 rows cannot be trained on.*"rating": null'),
        ([(1, 1, 1.0), (1, 2, math.nan)], "1 rows cannot be trained on.*NaN"),
        ([(1, 1, 1.0), (1, 2, math.inf)], "1 rows cannot be trained on.*Infinity"),
        ([], "the training data has no ratings"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_counted_and_shown(spark, rows, message):
    with pytest.raises(ModelError, match=message):
        ALS(**SMALL).fit(spark.createDataFrame(rows, "user int, item int, rating double"))


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("true", "column 'user' is boolean: ids must be whole numbers or texts"),
        ("'a' collate UTF8_LCASE", "column 'user' is string collate UTF8_LCASE: .* cast it to string"),
        ("named_struct('id', 1)", "column 'user' is struct<id:int>"),
    ],
)
def test_ids_of_an_unsupported_type_are_rejected(spark, user, message):
    data = spark.sql(f"SELECT {user} AS user, 1 AS item, 1.0 AS rating")
    with pytest.raises(ModelError, match=message):
        ALS().fit(data)


def test_a_missing_column_is_named(spark):
    with pytest.raises(ModelError, match=r"column 'user' is not there: the columns are 'who', 'item'"):
        ALS(ratingCol="").fit(spark.sql("SELECT 1 AS who, 1 AS item"))


def test_whole_numbers_of_other_types_are_ints_and_fractions_are_rejected(spark):
    data = spark.sql("SELECT 1D AS user, 2.00 AS item, 1.0 AS rating")
    model = ALS(**SMALL).fit(data)
    assert model.userFactors.schema["id"].dataType.simpleString() == "int"
    assert model.recommendForAllUsers(1).collect()[0]["recommendations"][0]["item"] == 2
    for user in ("user + 0.5D", "user * 1e10"):
        with pytest.raises(ModelError, match=r"1 rows cannot be trained on.* cast such a column to long"):
            ALS(**SMALL).fit(data.selectExpr(f"{user} user", "item", "rating"))
    longs = ALS(**SMALL).fit(data.selectExpr("cast(user * 1e10 as long) user", "item", "rating"))
    assert [row["id"] for row in longs.userFactors.collect()] == [10**10]
    large = data.selectExpr("user * 1e10 as user", "item")  # as doubles
    assert [row["prediction"] > 0 for row in longs.transform(large).collect()] == [True]
    assert [row["user"] for row in longs.recommendForUserSubset(large, 1).collect()] == [10**10]
    (unseen,) = longs.recommendForAllUsers(1, excludeSeen=large).collect()
    assert unseen["recommendations"] == []


@pytest.mark.parametrize("estimator", [ALS(**SMALL), SoftmaxRecommender(embeddingDim=2, maxIter=1)])
def test_factors_may_be_joined_with_each_other(ratings, estimator):
    model = estimator.fit(ratings)
    u, i = model.userFactors, model.itemFactors
    crossed = u.crossJoin(i).select(u.id, i.id, u.features, i.features)
    assert crossed.count() == u.count() * i.count()
    joined = ratings.join(u, ratings.user == u.id).join(i, ratings.item == i.id)
    products = F.zip_with(u.features, i.features, lambda x, y: x * y).alias("products")
    one = joined.where("user = 1").select("user", "item", products).limit(1)
    (row,) = model.transform(one).collect()
    assert row["prediction"] == pytest.approx(sum(row["products"]), rel=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [ALS(**SMALL), SoftmaxRecommender(embeddingDim=2, maxIter=1), ItemItemRecommender(regParam=1.0)],
)
def test_sessions_with_large_arrow_types_fit_and_serve_texts(spark, estimator):
    spark.conf.set("spark.sql.execution.arrow.useLargeVarTypes", "true")
    data = checkerboard(spark, "string")
    model = estimator.fit(data)
    assert model.transform(data).where("prediction is not null").count() == data.count()
    lists = model.foldIn(data).recommendForAllUsers(3, excludeSeen=data).collect()
    assert {len(row["recommendations"]) for row in lists} == {3}


def test_fits_leave_storage_when_models_copies_and_their_frames_are_gone(spark, ratings):
    ratings.count()  # which are stored themselves
    before = stored_frames(spark)
    model = ALS(**SMALL).fit(ratings)
    assert len(stored_frames(spark) - before) == 1
    other = model.copy()
    del model
    assert len(stored_frames(spark) - before) == 1
    folded = other.foldIn(ratings)
    folded.userFactors.count()
    del other
    assert len(stored_frames(spark) - before) == 2  # it serves the items of the first fit
    lists = folded.recommendForAllUsers(2)
    del folded
    assert len(stored_frames(spark) - before) == 2
    assert lists.count() == ratings.select("user").distinct().count()
    del lists
    assert not stored_frames(spark) - before


def test_two_fits_at_once_give_what_each_gives_alone(ratings):
    estimators = [ALS(**SMALL, seed=seed) for seed in (1, 2)]
    alone = [sorted(map(tuple, e.fit(ratings).userFactors.collect())) for e in estimators]
    with ThreadPoolExecutor(2) as pool:
        at_once = pool.map(lambda e: sorted(map(tuple, e.fit(ratings).userFactors.collect())), estimators)
        assert list(at_once) == alone
    assert alone[0] != alone[1]


def test_saving_never_touches_what_is_there_or_what_the_model_reads(ratings, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept.txt").write_text("kept")
    model = ALS(**SMALL).fit(ratings)
    with pytest.raises(ModelError, match=r"other: exists already: write\(\).overwrite\(\).save\(path\)"):
        model.save(str(other))
    assert [path.name for path in other.iterdir()] == ["kept.txt"]
    path = tmp_path / "models" / "als"
    model.save(str(path))
    (tmp_path / "link").symlink_to(path)
    loaded = ALSModel.load(str(path))
    relative = os.path.relpath(path)
    for spelling in (
        path,
        f"file:{path}",
        f"{path}/",
        tmp_path / "link",
        path / "new",
        path.parent,
        relative,
    ):
        with pytest.raises(ModelError, match="and still reads it: save it somewhere else"):
            loaded.write().overwrite().save(str(spelling))
    loaded.write().overwrite().save(str(other))
    assert sorted(ALSModel.load(str(other)).userFactors.collect()) == sorted(model.userFactors.collect())


def test_a_pipeline_saved_over_itself_loses_nothing(ratings, tmp_path):
    path = str(tmp_path / "pipeline")
    model = Pipeline(stages=[ALS(**SMALL)]).fit(ratings)
    model.save(path)
    loaded = PipelineModel.load(path)
    with pytest.raises(ModelError, match="still reads it"):
        loaded.stages[0].write().overwrite().save(path)
    loaded.write().overwrite().save(path)
    expected = sorted(model.transform(ratings).collect())
    assert sorted(loaded.transform(ratings).collect()) == expected
    assert sorted(PipelineModel.load(path).transform(ratings).collect()) == expected


def test_loads_what_sparks_own_als_saved(spark, tmp_path):
    path = str(tmp_path / "spark")
    spark_recommendation.ALS(rank=7, alpha=3.0, userCol="who", implicitPrefs=True).save(path)
    loaded = ALS.load(path)
    assert (type(loaded), loaded.getRank(), loaded.getAlpha(), loaded.getUserCol()) == (ALS, 7, 3.0, "who")
    assert loaded.getImplicitPrefs()
    with pytest.raises(
        ModelError, match=r"holds a org.apache.spark.ml.recommendation.ALS, not a .*Popularity"
    ):
        PopularityRecommender.load(path)
    with pytest.raises(ModelError, match="nowhere: is not a complete"):
        ALS.load(str(tmp_path / "nowhere"))


def test_only_allowed_items_and_never_denied_or_seen_ones(spark):
    data = checkerboard(spark)
    model = ALS(implicitPrefs=True, seed=3, **SMALL).fit(data)
    some = spark.createDataFrame([(2,), (3,), (4,), (77,)], "item int")
    few = spark.createDataFrame([(3,)], "item int")
    for row in model.recommendForAllUsers(10, excludeSeen=data, allowedItems=some, deniedItems=few).collect():
        items = {entry["item"] for entry in row["recommendations"]}
        assert items <= {2, 4}
        assert not items & {r["item"] for r in data.where(f"user = {row['user']}").collect()}


@pytest.mark.parametrize(
    ("params", "weight", "weight_of_density"),
    [
        ({"useBiases": True}, 0.0, 0.0),
        ({"gravity": 0.1}, 0.0, 0.1),  # in proportion to how many of all pairs have a rating
        ({"implicitPrefs": True}, 1.0, 0.0),
        ({"implicitPrefs": True, "unobservedWeight": 0.2}, 0.2, 0.0),
    ],
)
def test_fitted_values_are_attributes_and_survive_saving(
    ratings, tmp_path, params, weight, weight_of_density
):
    rows = ratings.collect()
    mean = np.mean([row.rating for row in rows]) if "useBiases" in params else 0.0
    density = len(rows) / len({row.user for row in rows}) / len({row.item for row in rows})
    weight += weight_of_density * density
    model = ALS(rank=2, maxIter=1, seed=1, **params).fit(ratings)
    model.save(str(tmp_path / "model"))
    for one in (model, model.copy(), ALSModel.load(str(tmp_path / "model"))):
        assert (one.globalMean, one.allPairsWeight) == (pytest.approx(mean), pytest.approx(weight))
        assert not {"globalMean", "allPairsWeight"} & {param.name for param in one.params}


@pytest.mark.slow
@pytest.mark.long
def test_the_mean_of_many_draws_predicts_better_than_one_point(spark):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(80, 3)) * 0.6, rng.normal(size=(50, 3)) * 0.6
    scores = 3 + x @ y.T + rng.normal(size=(80, 1)) * 0.4 + rng.normal(size=50) * 0.4
    rows = [
        (u, i, float(scores[u, i] + rng.normal() * 0.5), bool(rng.random() < 0.3))
        for u in range(80)
        for i in range(50)
        if rng.random() < 0.35
    ]
    data = spark.createDataFrame(rows, "user int, item int, rating double, held boolean").persist()
    train, held = data.where("NOT held"), data.where("held")
    evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating")
    bayesian = ALS(rank=6, bayesian=True, maxIter=120, samples=10, seed=1).fit(train)
    errors = [
        evaluator.evaluate(ALS(rank=6, useBiases=True, regParam=reg, seed=1).fit(train).transform(held))
        for reg in (0.03, 0.1, 0.3)
    ]
    assert 0.5 < evaluator.evaluate(bayesian.transform(held)) < min(errors)
    assert len(bayesian.itemFactors.first()["features"]) == 10 * (6 + 2)
    assert len(bayesian.summary.iterations) == 120
    assert [
        row["user"] for row in bayesian.recommend(held.select("user").where("user = 3"), 1).collect()
    ] == [3]
    with pytest.raises(ModelError, match="a Bayesian model has no equation of a new user"):
        bayesian.foldIn(held)


def test_bayesian_prediction_has_the_deviation_of_its_draws(spark, ratings, tmp_path):
    estimator = ALS(rank=2, bayesian=True, maxIter=30, burnIn=10, samples=5, predictionStdCol="std", seed=3)
    model = estimator.fit(ratings)
    users, items = (
        {row["id"]: np.array(row["features"]).reshape(5, 4) for row in factors.collect()}
        for factors in (model.userFactors, model.itemFactors)
    )
    biases = [
        {row["id"]: row["bias"] for row in factors.collect()}
        for factors in (model.userFactors, model.itemFactors)
    ]
    model.write().save(str(tmp_path / "model"))
    unknown = spark.createDataFrame([(77_777, 1)], "user int, item int")
    for one in (model, ALSModel.load(str(tmp_path / "model"))):
        for row in one.transform(ratings).collect():
            # each draw's score: vectors, and both biases less their mean
            draws = 5 * (users[row["user"]] * items[row["item"]]).sum(axis=1)
            assert row["std"] == pytest.approx(draws.std(), rel=1e-4)
            mean = one.globalMean + biases[0][row["user"]] + biases[1][row["item"]] + draws.mean()
            assert row["prediction"] == pytest.approx(mean, abs=1e-4)
        (nobody,) = one.transform(unknown).collect()
        assert math.isnan(nobody["std"])


def test_bayesian_features_say_what_a_new_user_and_a_new_item_are_like(spark):
    rng = np.random.default_rng(2)
    rows = [
        (user, item, 3.0 + (1.5 if (user + item) % 2 else -1.0) + 0.1 * rng.standard_normal())
        for user in range(40)
        for item in rng.choice(20, 12, replace=False).tolist()
    ]
    data = spark.createDataFrame(rows, "user int, item int, rating double")
    users = spark.createDataFrame(
        [(u, f"kind {u % 2}") for u in [*range(40), 900, 901]], "user int, kind string"
    )
    items = spark.createDataFrame(
        [(i, f"kind {i % 2}") for i in [*range(20), 800, 801]], "item int, kind string"
    )
    estimator = ALS(
        rank=2,
        bayesian=True,
        maxIter=80,
        samples=20,
        seed=1,
        userFeatureCols=["kind"],
        itemFeatureCols=["kind"],
        userFeatures=users,
        itemFeatures=items,
    )
    model = estimator.fit(data)
    pairs = [(900, 1), (900, 2), (901, 1), (901, 2), (900, 801), (901, 801), (3, 800)]
    found = model.transform(spark.createDataFrame(pairs, "user int, item int")).collect()
    for row in found:
        expected = 4.5 if (row["user"] + row["item"]) % 2 else 2.0
        assert row["prediction"] == pytest.approx(expected, abs=0.5)
    again = ALS(rank=2, bayesian=True, maxIter=80, samples=20, userFeatureCols=["kind"])
    with pytest.raises(ModelError, match="userFeatures is missing"):
        again.fit(data)


def test_nonnegative_factors_are_not_negative(ratings):
    model = ALS(rank=3, maxIter=5, nonnegative=True, seed=1).fit(ratings)
    factors = [row["features"] for side in (model.userFactors, model.itemFactors) for row in side.collect()]
    assert min(map(min, factors)) >= 0


@pytest.mark.parametrize(
    "params",
    [
        {"implicitPrefs": True, "alpha": 3.0},
        {"implicitPrefs": True, "unobservedWeight": 0.2},
        {"useBiases": True},
        {"gravity": 0.1},
    ],
)
def test_known_users_fold_in_to_their_own_factors(spark, ratings, params):
    model = ALS(rank=3, maxIter=4, seed=1, **params).fit(ratings)
    folded = model.foldIn(ratings.selectExpr("user + 1000 user", "item", "rating"), ratingCol="rating")
    expected = {row["id"] + 1000: row["features"] for row in model.userFactors.collect()}
    found = {row["id"]: row["features"] for row in folded.userFactors.collect()}
    assert set(found) == set(expected)
    for user, features in found.items():
        np.testing.assert_allclose(features, expected[user], rtol=1e-3, atol=1e-4)
    assert folded.recommendForAllUsers(2).count() == len(expected)


@pytest.mark.parametrize("largest", [1.0, 1e5, 1e8])
def test_users_solve_their_own_equations_whatever_the_counts(spark, largest):
    draw = np.random.default_rng(3)
    counts = {(u, int(i)): 1.0 for u in range(60) for i in draw.choice(30, 8, replace=False)}
    for user in range(10):
        counts[min(pair for pair in counts if pair[0] == user)] = largest
    rows = [(*pair, count) for pair, count in counts.items()]
    frame = spark.createDataFrame(rows, "user int, item int, rating double")
    model = ALS(rank=5, maxIter=3, implicitPrefs=True, alpha=40.0, regParam=0.1, seed=1).fit(frame)
    items = {row["id"]: np.array(row["features"], float) for row in model.itemFactors.collect()}
    gram = sum(np.outer(v, v) for v in items.values())
    for served in (model, model.foldIn(frame, ratingCol="rating")):
        for row in served.userFactors.collect():
            mine = [(items[i], 40.0 * count) for (u, i), count in counts.items() if u == row["id"]]
            left = gram + sum(c * np.outer(v, v) for v, c in mine) + 0.1 * len(mine) * np.eye(5)
            expected = np.linalg.solve(left, sum((1 + c) * v for v, c in mine))
            error = np.linalg.norm(np.array(row["features"]) - expected) / np.linalg.norm(expected)
            assert error <= 1e-4, (row["id"], error)


def test_new_users_with_unknown_items_only_are_left_out(spark, ratings):
    model = ALS(rank=3, maxIter=2, seed=1).fit(ratings)
    histories = spark.createDataFrame([("new", 1), ("new", 999), ("lost", 999)], "user string, item int")
    assert [row["id"] for row in model.foldIn(histories).userFactors.collect()] == ["new"]


@pytest.mark.parametrize(("measure", "exponent"), [("dot", 0.0), ("cosine", 1.0), ("tempered", 0.5)])
def test_similar_items_by_any_measure(ratings, measure, exponent):
    model = ALS(rank=3, maxIter=3, seed=1).fit(ratings)
    vectors = {row["id"]: np.array(row["features"]) for row in model.itemFactors.collect()}
    for row in model.similarItems(3, measure).where("item < 5 and rank = 1").collect():
        mine = vectors[row["item"]]
        scores = {
            i: (mine @ v) / (np.linalg.norm(mine) * np.linalg.norm(v)) ** exponent
            for i, v in vectors.items()
            if i != row["item"]
        }
        assert row["neighbor"] == max(scores, key=scores.get)
        assert row["similarity"] == pytest.approx(max(scores.values()), rel=1e-4)
    with pytest.raises(ValueError, match="measure must be one of dot, cosine, tempered"):
        model.similarItems(3, "euclid")


def test_similar_items_of_some_are_those_of_all(ratings):
    model = ALS(rank=3, maxIter=3, seed=1).fit(ratings)
    some = ratings.sparkSession.createDataFrame([(1,), (4,), (4,), (999,)], "item int")
    of_all = model.similarItems(3).where("item IN (1, 4)")
    assert sorted(model.similarItems(3, items=some).collect()) == sorted(of_all.collect())
    assert of_all.count() == 6


def test_neighbours_may_be_allowed_or_denied(ratings):
    model = ALS(rank=3, maxIter=3, seed=1).fit(ratings)
    some = ratings.sparkSession.createDataFrame([(2,), (3,), (999,)], "item int")
    allowed = model.similarItems(9, allowedItems=some).collect()
    assert {row["neighbor"] for row in allowed} == {2, 3}
    assert {row["item"] for row in allowed} == {row["id"] for row in model.itemFactors.collect()}
    denied = model.similarItems(99, deniedItems=some).where("item = 4").collect()
    every = model.similarItems(99).where("item = 4").collect()
    assert {row["neighbor"] for row in denied} == {row["neighbor"] for row in every} - {2, 3}


def test_long_fit_reports_its_progress(ratings, capsys, monkeypatch):
    monkeypatch.setattr("recsys_spark.training.barrier.LINE_SECONDS", 0.2)
    model = ALS(rank=30, maxIter=50, checkpointInterval=-1, seed=1).fit(ratings)
    lines = [line for line in capsys.readouterr().err.splitlines() if "ALS iteration" in line]
    shown = [int(line.split()[3]) for line in lines]
    assert 1 < len(shown) < 50
    assert shown == sorted(set(shown))
    assert shown[-1] == 50
    assert lines[-1].endswith(f"objective {model.summary.objectiveHistory[-1]:.6g}")


def test_worker_killed_in_mid_fit_costs_a_retry_and_no_bit(spark, ratings):
    params = {"rank": 30, "maxIter": 300, "checkpointInterval": -1, "seed": 1}
    expected = {row["id"]: row["features"] for row in ALS(**params).fit(ratings).userFactors.collect()}
    killed = []

    def kill_a_busy_worker():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            for process in psutil.Process(os.getpid()).children(recursive=True):
                try:
                    if "pyspark.daemon" in " ".join(process.cmdline()) and process.cpu_percent(0.2) > 10:
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
                        return
                except psutil.Error:
                    continue

    killer = threading.Thread(target=kill_a_busy_worker)
    killer.start()
    model = ALS(**params).fit(ratings)
    killer.join()
    assert killed
    assert {row["id"]: row["features"] for row in model.userFactors.collect()} == expected


def test_session_that_allows_no_group_is_told_what_to_set(spark, ratings, monkeypatch):
    settings = spark.sparkContext.getConf().set("spark.dynamicAllocation.enabled", "true")
    monkeypatch.setattr(spark.sparkContext, "getConf", lambda: settings)
    with pytest.raises(GroupError, match=r"spark\.dynamicAllocation\.enabled=false"):
        ALS(**SMALL).fit(ratings)


@pytest.mark.parametrize("setting", ["spark.network.crypto.enabled", "spark.ssl.rpc.enabled"])
def test_tasks_encrypt_where_spark_does(spark, ratings, monkeypatch, setting):
    plain = ALS(**SMALL).fit(ratings)
    assert not new_key(spark).encrypted
    settings = spark.sparkContext.getConf().set(setting, "true")
    monkeypatch.setattr(spark.sparkContext, "getConf", lambda: settings)
    assert new_key(spark).encrypted
    sealed = ALS(**SMALL).fit(ratings)
    assert sorted(sealed.userFactors.collect()) == sorted(plain.userFactors.collect())
