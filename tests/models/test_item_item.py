"""The model of item pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from recsys_spark.config import BlockSizes
from recsys_spark.errors import ModelError
from recsys_spark.histories import pack_histories
from recsys_spark.models import ItemItemRecommender
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.testing import ModelContract, checkerboard
from recsys_spark.training.item_item import ItemItemConfig, collected
from tests.models.storage import stored_frames


@pytest.mark.slow
@pytest.mark.long
class TestContract(ModelContract):
    new_users = "history"

    def estimator(self):
        return ItemItemRecommender(regParam=1.0)


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(5)
    return (rng.random((80, 25)) < np.linspace(0.3, 0.6, 25)).astype(np.float64)


def rows_of(spark, x):
    users, items = np.nonzero(x)
    rows = [(int(u), int(i), float(x[u, i])) for u, i in zip(users, items, strict=True)]
    return spark.createDataFrame(rows, "user int, item int, rating double")


def matrix(model, n):
    """Weights by target and neighbour."""
    found = np.zeros((n, n))
    for row in model.weights.collect():
        found[row.item, row.neighbor] = row.weight
    return found


def ease(x, penalty):
    """Steck 2019, as its paper has it."""
    precision = np.linalg.inv(x.T @ x + np.diag(np.broadcast_to(penalty, x.shape[1])))
    weights = precision / -precision.diagonal()
    np.fill_diagonal(weights, 0)
    return weights.T


@pytest.mark.parametrize(("weighting", "head"), [("ridge", 4096), ("ridge", 5), ("exact", 0)])
def test_on_all_neighbors_it_is_ease(spark, dense, monkeypatch, weighting, head):
    monkeypatch.setattr("recsys_spark.training.item_item.HEAD_ITEMS", head)
    model = ItemItemRecommender(weighting=weighting, neighbors=24, regParam=4.0).fit(rows_of(spark, dense))
    assert matrix(model, 25) == pytest.approx(ease(dense, 4.0), abs=1e-4)


def test_lists_and_predictions_are_the_sums_of_weights(spark, dense):
    data = rows_of(spark, dense)
    model = ItemItemRecommender(neighbors=6, regParam=4.0).fit(data)
    scores = dense @ matrix(model, 25).T
    users = data.select("user").distinct()
    for sizes in (BlockSizes(), BlockSizes(user_block=3, item_block=7, users_per_task=10)):
        rows = model.recommend(users, 25, blockSizes=sizes).collect()
        assert len(rows) == 80 * 25
        for row in rows:
            assert row.score == pytest.approx(scores[row.user, row.item], abs=1e-5)
    pairs = model.transform(spark.range(80).selectExpr("int(id) user", "int(id % 25) item")).collect()
    assert len(pairs) == 80
    for row in pairs:
        assert row.prediction == pytest.approx(scores[row.user, row.item], abs=1e-5)


def test_rp3beta_is_a_walk_of_three_steps(spark):
    x = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    data = rows_of(spark, x)
    model = ItemItemRecommender(weighting="rp3beta", beta=0.5).fit(data)
    # from item 1, half to each of users 0 and 1; from them a half and a third to item 0; three have it
    assert matrix(model, 3)[0, 1] == pytest.approx((0.5 / 2 + 0.5 / 3) / 3**0.5)
    assert matrix(model, 3)[1, 0] == pytest.approx((1 / 3 / 2 + 1 / 3 / 3) / 2**0.5)


def test_whichever_task_has_read_a_bucket_users_are_summed_in_one_order(spark, dense, monkeypatch):
    monkeypatch.setattr("recsys_spark.histories.BUCKET_ROWS", 16)
    columns = F.lit(None).cast("timestamp").alias("timestamp"), F.lit("train").alias("part")
    packed = pack_histories(rows_of(spark, dense).select("*", *columns), int(dense.sum()))
    turned = replace(packed, packed=packed.packed.orderBy(F.desc("bucket")))
    config = ItemItemConfig("cosine", 24, 1.0, 0.0, 0.0, 0.5, 0.0, 0, False)
    ids = pa.array(range(25), pa.int32())
    one, other = (collected(histories, ids, config) for histories in (packed, turned))
    packed.unpersist()
    assert (one.indptr.tolist(), one.items.tolist()) == (other.indptr.tolist(), other.items.tolist())


def test_dropout_regularises_items_by_their_events(spark, dense):
    data = rows_of(spark, dense)
    model = ItemItemRecommender(neighbors=24, regParam=4.0, dropout=0.25).fit(data)
    assert matrix(model, 25) == pytest.approx(ease(dense, 4 + dense.sum(axis=0) / 3), abs=1e-4)


def test_exponents_scale_users_and_items(spark, dense):
    model = ItemItemRecommender(neighbors=24, regParam=0.5, userExponent=0.5, itemExponent=0.25)
    found = matrix(model.fit(rows_of(spark, dense)), 25)
    n_user, n_item = np.maximum(dense.sum(axis=1), 1), dense.sum(axis=0)
    scaled = dense * n_user[:, None] ** -0.25 * n_item**-0.25
    expected = n_item[:, None] ** 0.25 * ease(scaled, 0.5) * n_item**-0.25
    assert found == pytest.approx(expected, abs=1e-4)


def test_ratings_are_predicted_from_deviations(spark):
    rng = np.random.default_rng(8)
    x = np.where(rng.random((50, 9)) < 0.6, rng.integers(1, 6, (50, 9)), 0).astype(np.float64)
    x[:, 0] = 3  # everybody has something
    data = rows_of(spark, x)
    model = ItemItemRecommender(implicitPrefs=False, neighbors=8, regParam=2.0).fit(data)
    means = x.sum(axis=1) / (x > 0).sum(axis=1)
    centred = np.where(x > 0, x - means[:, None], 0)
    weights = matrix(model, 9)
    cosines = centred.T @ centred
    for item in range(9):
        near = [j for j in range(9) if j != item and cosines[item, j] > 0]
        left = np.vstack([centred[:, near], np.sqrt(2) * np.eye(len(near))])
        right = np.concatenate([centred[:, item], np.zeros(len(near))])
        assert weights[item, near] == pytest.approx(np.linalg.lstsq(left, right)[0], abs=1e-4)
    expected = means[:, None] + centred @ weights.T
    for row in model.transform(data).collect():
        assert row.prediction == pytest.approx(expected[row.user, row.item], abs=1e-4)


def test_unknown_ids_have_no_prediction(spark):
    model = ItemItemRecommender(regParam=1.0).fit(checkerboard(spark))
    pairs = spark.createDataFrame([(0, 2), (0, 77), (77, 2)], "user int, item int")
    found = {(row.user, row.item): row.prediction for row in model.transform(pairs).collect()}
    assert found[0, 2] > 0
    assert np.isnan([found[0, 77], found[77, 2]]).all()
    dropping = model.copy({model.coldStartStrategy: "drop"})
    assert [row.item for row in dropping.transform(pairs).collect()] == [2]


def test_only_positive_ratings_count(spark, dense):
    data = rows_of(spark, dense)
    worthless = spark.createDataFrame([(0, i, 0.0) for i in range(25) if not dense[0, i]], data.schema)
    estimator = ItemItemRecommender(neighbors=24, regParam=4.0)
    assert matrix(estimator.fit(data.unionAll(worthless)), 25) == pytest.approx(ease(dense, 4.0), abs=1e-4)


def test_a_pair_that_is_there_twice_counts_once(spark, dense):
    data = rows_of(spark, dense)
    model = ItemItemRecommender(neighbors=24, regParam=4.0).fit(data.unionAll(data.where("item < 9")))
    assert matrix(model, 25) == pytest.approx(ease(dense, 4.0), abs=1e-4)


def test_of_users_with_many_events_a_part_is_learnt_from_another_of_each(spark):
    everything = np.ones((400, 40))
    model = ItemItemRecommender(weighting="cosine", neighbors=39, maxEventsPerUser=20)
    fitted = model.fit(rows_of(spark, everything))
    found = matrix(fitted, 40)
    # half of each user's items, drawn by user: a pair is in 400 * 20 / 40 * 19 / 39 of them, an item in 200
    assert found[~np.eye(40, dtype=bool)] == pytest.approx(19 / 39, abs=0.15)
    assert found[~np.eye(40, dtype=bool)].mean() == pytest.approx(19 / 39, abs=0.01)
    assert fitted.histories.where("size(items) = 40").count() == 400


def test_items_that_nothing_speaks_for_may_be_left_out(spark):
    model = ItemItemRecommender(regParam=1.0).fit(checkerboard(spark))
    users = spark.createDataFrame([(0,)], "user int")
    (row,) = model.recommend_lists(users, ListRequest(99, only_supported=True)).collect()
    assert {entry["item"] % 2 for entry in row["recommendations"]} == {0}  # of the user's colour


def test_all_that_a_fit_keeps_is_released(spark, dense):
    before = stored_frames(spark)
    model = ItemItemRecommender(neighbors=6).fit(rows_of(spark, dense))
    model.weights.count()
    assert stored_frames(spark) - before
    model.unpersist()
    assert not stored_frames(spark) - before
    with pytest.raises(ModelError, match="cannot be trained on"):
        ItemItemRecommender().fit(rows_of(spark, dense).withColumn("rating", F.lit(1e39)))
    assert not stored_frames(spark) - before


def test_items_a_model_of_ratings_does_not_know_move_no_mean(spark):
    rows = [(u, i, float(1 + (u * i) % 5)) for u in range(12) for i in range(6)]
    model = ItemItemRecommender(implicitPrefs=False, regParam=1.0).fit(
        spark.createDataFrame(rows, "user int, item int, rating double")
    )
    visit = spark.createDataFrame(
        [(99, 0, 5.0), (99, 1, 3.0), (99, 777, 1.0)], "user int, item int, r double"
    )
    (row,) = model.foldIn(visit, "r").histories.collect()
    assert (row["bias"], row["items"], row["values"]) == (4.0, [0, 1], [1.0, -1.0])


def test_columns_of_any_name_hold_ratings(spark, dense):
    data = rows_of(spark, dense).selectExpr("user AS `a.user`", "item AS `an item`", "rating AS `a.b`")
    names = {"userCol": "a.user", "itemCol": "an item", "ratingCol": "a.b"}
    model = ItemItemRecommender(**names, predictionCol="p.q", coldStartStrategy="drop").fit(data)
    assert model.transform(data).where("`p.q` IS NULL").count() == 0
    assert model.foldIn(data.where("`a.user` = 3"), "a.b").histories.count() == 1


def test_visitors_are_served_from_their_histories(spark, dense):
    data = rows_of(spark, dense)
    model = ItemItemRecommender(neighbors=6, regParam=4.0).fit(data)
    visits = data.where("user = 7").select(F.lit("guest").alias("user"), F.col("item").cast("string"))
    odd = spark.createDataFrame([("guest", "no item")], visits.schema)
    other, guests = model.foldIn(visits.unionByName(odd)), visits.select("user").distinct()
    users = spark.createDataFrame([(7,)], "user int")
    own, theirs = (
        {row.item: row.score for row in made.recommend(asked, 9).collect()}
        for made, asked in ((model, users), (other, guests))
    )
    assert theirs == pytest.approx(own)


def test_similar_items_are_the_largest_weights(spark, dense):
    model = ItemItemRecommender(neighbors=6, regParam=4.0).fit(rows_of(spark, dense))
    weights = matrix(model, 25)
    rows = model.similarItems(3).collect()
    assert len(rows) == 25 * 3
    for row in rows:
        assert row.similarity == pytest.approx(weights[row.item, row.neighbor])
        assert row.neighbor == np.argsort(-weights[row.item])[row.rank - 1]


def test_a_catalogue_too_large_for_an_exact_solution_is_refused(spark, monkeypatch):
    monkeypatch.setattr("recsys_spark.training.item_item.EXACT_ITEMS", 9)
    with pytest.raises(ModelError, match=r"inverts a matrix of all items, and there are 10: at most 9"):
        ItemItemRecommender(weighting="exact").fit(checkerboard(spark))


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"weighting": "pearson"}, "weighting must be one of ridge, cosine, jaccard, rp3beta, exact"),
        ({"neighbors": 0}, "neighbors must be at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"regParam": 0.0}, "regParam must be above 0"),
        ({"weighting": "jaccard", "implicitPrefs": False}, "counts users, and implicitPrefs is not set"),
    ],
)
def test_params_out_of_range_are_named(spark, params, problem):
    with pytest.raises(ValueError, match=problem):
        ItemItemRecommender(**params).fit(checkerboard(spark))


def test_rows_that_cannot_be_trained_on_are_counted(spark):
    rating = F.when(F.col("user") > 1, 1.0).otherwise(float("nan"))
    with pytest.raises(ModelError, match=r'^8 rows cannot be trained on, such as \{"user":[01],.*finite'):
        ItemItemRecommender().fit(checkerboard(spark).withColumn("rating", rating))
    nobody = F.when(F.col("user") > 1, F.col("user"))
    with pytest.raises(ModelError, match=r"^8 rows cannot be trained on.*ids must not be null"):
        ItemItemRecommender(ratingCol="").fit(checkerboard(spark).withColumn("user", nobody))
    rows = checkerboard(spark).withColumn("rating", rating)
    packed = pack_histories(rows.selectExpr("*", "'train' AS part", "now() AS timestamp"), 99)
    with pytest.raises(ModelError, match=r'^8 rows cannot be trained on, such as \{"user": [01],'):
        ItemItemRecommender().fit(packed)
    packed.unpersist()


def test_no_rows_are_refused(spark):
    with pytest.raises(ModelError, match="there are no ratings"):
        ItemItemRecommender().fit(checkerboard(spark).limit(0))
