"""The blend of models."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import functions as F

from recsys_spark.config import BlockSizes
from recsys_spark.errors import ModelError
from recsys_spark.histories import pack_histories
from recsys_spark.models import (
    ALS,
    BlendModel,
    BlendRecommender,
    ItemItemRecommender,
    PopularityRecommender,
    SpectralRecommender,
)
from recsys_spark.recommend.top_n import ListRequest, explode_lists
from recsys_spark.testing import ModelContract, checkerboard

MEMBERS = {
    "als": {"rank": 3, "maxIter": 4, "implicitPrefs": True, "useBiases": False},
    "item_item": {"regParam": 2.0, "neighbors": 6},
    "spectral": {"rank": 3, "neighbors": 6},
    "popularity": {},
}
ONLY_POPULARITY = {"popularity": 1.0, "item_item": 0.0}
WEIGHTS = {"als": 0.4, "item_item": 0.3, "spectral": 0.2, "popularity": 0.1}


@pytest.mark.slow
@pytest.mark.long
class TestContract(ModelContract):
    new_users = "history"

    def estimator(self):
        weights = {"popularity": 0.1, "item_item": 0.9}
        return BlendRecommender(
            members={"popularity": {}, "item_item": {"regParam": 1.0}}, memberWeights=weights
        )


@pytest.fixture(scope="module")
def data(spark):
    rng = np.random.default_rng(11)
    taste, kind = rng.random((40, 3)) ** 3, rng.integers(0, 3, 20)
    x = rng.random((40, 20)) < 0.1 + 0.7 * taste[:, kind]
    x[np.arange(40), np.arange(40) % 20] = True
    rows = [(int(u), int(i), 1.0) for u, i in np.argwhere(x)]
    return spark.createDataFrame(rows, "user int, item int, rating double").persist()


@pytest.fixture(scope="module")
def blend(data):
    return BlendRecommender(members=MEMBERS, memberWeights=WEIGHTS, seed=5).fit(data)


@pytest.fixture(scope="module")
def alone(spark, data):
    """Scores of each member by itself, (40, 20)."""
    pairs = spark.range(800).selectExpr("int(id % 40) user", "int(id / 40) item")
    counts = {row.item: row["count"] for row in data.groupBy("item").count().collect()}
    found = {"popularity": np.array([[counts[item] for item in range(20)]] * 40, np.float64)}
    kinds = {"als": ALS, "item_item": ItemItemRecommender, "spectral": SpectralRecommender}
    for name, kind in kinds.items():
        seed = {} if name == "item_item" else {"seed": 5}
        rows = kind(**MEMBERS[name], **seed).fit(data).transform(pairs).collect()
        found[name] = np.zeros((40, 20))
        for row in rows:
            found[name][row.user, row.item] = row.prediction
    return found


def standardised(scores):
    return (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)


def test_scores_are_weighted_sums_of_standardised_ones(data, blend, alone):
    expected = sum(weight * standardised(alone[name]) for name, weight in WEIGHTS.items())
    users = data.select("user").distinct()
    for sizes in (BlockSizes(), BlockSizes(user_block=3, item_block=7, users_per_task=10)):
        rows = blend.recommend(users, 20, blockSizes=sizes).collect()
        assert len(rows) == 800
        for row in rows:
            assert row.score == pytest.approx(expected[row.user, row.item], abs=1e-4)
    for row in blend.transform(data).collect():
        assert row.prediction == pytest.approx(expected[row.user, row.item], abs=1e-4)


def test_members_that_are_fitted_already_are_taken_as_they_are(data):
    estimator = BlendRecommender(members={"popularity": {}, "item_item": {}}, memberWeights=ONLY_POPULARITY)
    other = data.where("item >= 12").unionByName(data.where("item < 12").dropDuplicates(["item"]))
    estimator.set_fitted({"popularity": PopularityRecommender().fit(other)})
    best = {row.item for row in estimator.fit(data).recommend(data.select("user").distinct(), 8).collect()}
    assert best == set(range(12, 20))


def test_reason_is_the_member_that_adds_most(data, blend, alone, tmp_path):
    parts = np.stack([weight * standardised(alone[name]) for name, weight in WEIGHTS.items()])
    blend.write().save(str(tmp_path / "model"))
    users, request = data.select("user").distinct(), ListRequest(5, data.select("user", "item"))
    for model in (blend, BlendModel.load(str(tmp_path / "model"))):
        lists = model.recommend_lists(users, request)
        rows = explode_lists(model.with_reasons(lists)).collect()
        assert len(rows) == explode_lists(lists).count() > 100
        assert len({row.reason for row in rows}) > 2
        for row in rows:
            of_members = parts[:, row.user, row.item]
            assert of_members[list(WEIGHTS).index(row.reason)] == pytest.approx(of_members.max(), abs=1e-4)


def test_others_are_folded_in_as_those_of_the_fit_with_the_same_histories(spark, data, tmp_path):
    members = {name: MEMBERS[name] for name in ("item_item", "spectral", "popularity")}
    weights = {"item_item": 0.5, "spectral": 0.3, "popularity": 0.2}
    fitted = BlendRecommender(members=members, memberWeights=weights, seed=5).fit(data)
    path = str(tmp_path / "blend")
    fitted.save(path)
    others = data.where("user < 10").withColumn("user", F.col("user") + 100)
    odd = spark.createDataFrame([(100, 999, 1.0), (777, 999, 1.0)], data.schema)  # no item of the fit
    folded = BlendModel.load(path).foldIn(others.unionByName(odd), "rating")
    assert sorted(row["user"] for row in folded.known_users().collect()) == list(range(100, 110))
    lists = [
        {
            (row["user"] % 100, row["rank"]): (row["item"], pytest.approx(row["score"], rel=1e-4))
            for row in model.recommend(users.select("user").distinct(), 20).collect()
        }
        for model, users in ((fitted, data.where("user < 10")), (folded, others))
    ]
    assert len(lists[0]) == 200
    assert lists[0] == {key: (item, score.expected) for key, (item, score) in lists[1].items()}
    again = folded.foldIn(others, "rating").recommend(others.select("user").distinct(), 20).collect()
    assert len(again) == 200


def test_a_blend_with_a_member_that_folds_nobody_in_does_not(data):
    members = {"mllib_als": {"rank": 2, "maxIter": 1}, "item_item": {}}
    estimator = BlendRecommender(members=members, memberWeights={"mllib_als": 0.5, "item_item": 0.5})
    assert not estimator.makes_models_that_fold_in
    with pytest.raises(ModelError, match="member mllib_als folds no users in"):
        estimator.fit(data).foldIn(data)


def test_member_without_weight_is_no_part_of_the_model(data):
    weights = {**WEIGHTS, "als": 0.0, "spectral": 0.0}
    model = BlendRecommender(members=MEMBERS, memberWeights=weights, seed=5).fit(data)
    assert list(model.slices) == ["item_item", "popularity"]
    assert len(model.items.first().features) == 3  # a 1 of each, and the bias of popular items
    assert model.getMemberWeights() == weights


def test_weights_are_chosen_by_lists_that_may_hold_what_was_consumed(spark, data):
    """Everybody takes the item again that most have had."""
    popular = data.groupBy("item").count().orderBy(F.desc("count"), "item").first()["item"]
    held = data.where(F.col("item") == popular).select("user", "item")
    members = {"spectral": MEMBERS["spectral"], "popularity": {}}
    estimator = BlendRecommender(members=members, metric="recall@1", steps=4, seed=5)
    estimator.set_validation(held, data.select("user", "item").limit(0))
    assert estimator.fit(data).getMemberWeights()["popularity"] == 1.0
    estimator.set_validation(held)  # which no list can have: the first member is as good
    assert estimator.fit(data).getMemberWeights()["popularity"] < 1.0


def test_weights_are_chosen_on_validation_rows_alone(spark, data):
    # what is held out is what item pairs say: two items of the kind that a user has most of
    held = data.where("(user + item) % 4 = 0")
    train = data.join(held, ["user", "item"], "left_anti")
    members = {"popularity": {}, "item_item": {"weighting": "cosine"}}
    estimator = BlendRecommender(members=members, metric="recall@5", steps=10)
    assert estimator.fit(train).getMemberWeights() == {"popularity": 0.5, "item_item": 0.5}
    estimator.set_validation(held)
    found = estimator.fit(train)
    everyone, seen = data.select("user").distinct(), train.select("user", "item")
    values = {}
    for name, weights in {
        "chosen": found.getMemberWeights(),
        "a": {"popularity": 1.0, "item_item": 0.0},
        "b": {"popularity": 0.0, "item_item": 1.0},
    }.items():
        model = BlendRecommender(members=members, memberWeights=weights).fit(train)
        lists = model.recommend(everyone, 5, seen)
        hits = lists.join(held, ["user", "item"], "left_semi").groupBy("user").agg(F.count("*").alias("hits"))
        each = held.groupBy("user").count().join(hits, "user", "left").fillna(0)
        values[name] = each.agg(F.avg(F.col("hits") / F.col("count"))).first()[0]
    assert values["chosen"] >= max(values["a"], values["b"]) - 1e-9
    packed = pack_histories(train.selectExpr("*", "timestamp(null) timestamp", "'train' part"), train.count())
    assert estimator.fit(packed.of("train")).getMemberWeights() == found.getMemberWeights()
    again = BlendRecommender(members=members)
    again.keep_choices(found)
    assert again.fit(data).getMemberWeights() == found.getMemberWeights()


def test_no_validation_rows_mean_equal_weights(spark, data):
    estimator = BlendRecommender(members={"popularity": {}, "item_item": {"weighting": "cosine"}})
    estimator.set_validation(data.limit(0))
    assert set(estimator.fit(data).getMemberWeights().values()) == {0.5}


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"members": {"als": {}}}, "at least two"),
        ({"members": {"als": {}, "blend": {}}}, "one is blend"),
        ({"members": {"als": {"rnk": 3}, "popularity": {}}}, "did you mean 'rank'"),
        ({"members": {"als": {}, "knn": {}}}, "knn"),
        ({"memberWeights": {"als": 1.0}}, "for each of als, item_item"),
        ({"memberWeights": {"als": 0.0, "item_item": 0.0}}, "one above 0"),
        ({"memberWeights": {"als": -1.0, "item_item": 2.0}}, "at least 0"),
        ({"metric": "ndcg"}, "such as ndcg@10"),
        ({"metric": "rmse@3"}, "such as ndcg@10"),
        ({"steps": 0}, "steps must be at least 1"),
        (
            {"members": {"als": {}, "pairwise": {"interaction": "dot+mlp"}}},
            "pairwise has scores that are no sums",
        ),
    ],
    ids=str,
)
def test_params_that_make_no_blend_are_refused(params, told):
    with pytest.raises(ValueError, match=told):
        BlendRecommender(**params).check()


def test_members_must_be_a_mapping():
    with pytest.raises(TypeError, match="name of each model"):
        BlendRecommender(members=["als", "item_item"])


def test_error_of_a_member_is_told(spark):
    nothing = checkerboard(spark).limit(0)
    with pytest.raises(ModelError, match="no ratings"):
        BlendRecommender(members={"popularity": {}, "item_item": {}}).fit(nothing)
