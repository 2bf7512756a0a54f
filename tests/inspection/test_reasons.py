"""What a history adds to a score, beside the scores of the model itself; and items that are like another."""

from __future__ import annotations

import numpy as np
import pytest
from pyarrow.parquet import read_table
from pyspark.sql import functions as F

from recsys_spark.inspection.reasons import contributions, reasons
from recsys_spark.inspection.saved import nearest, open_model
from recsys_spark.models import ALS, PairwiseRecommender, SoftmaxRecommender, SpectralRecommender

USER, LISTED = "user 3", [1, 4, 7]


@pytest.fixture(scope="module")
def ratings(spark):
    rows = [
        (f"user {user}", (user * 3 + place * (1 + user % 2)) % 10, 1.0 + (user + place) % 5)
        for user in range(12)
        for place in range(5)
    ]
    return spark.createDataFrame(rows, "user string, item int, rating double").persist()


def saved_and_history(model, ratings, folder):
    path = str(folder / "model")
    model.write().save(path)
    (line,) = [file.read_text() for file in (folder / "model" / "metadata").glob("part-*")]
    mine = ratings.where(F.col("user") == USER).orderBy("item").collect()
    history = [row["item"] for row in mine], [row["rating"] for row in mine]
    return open_model(type(model), line, path, read_table), *history


def scores(model, spark, user=USER):
    """Scores of the listed items, as the model has them."""
    pairs = spark.createDataFrame([(user, item) for item in LISTED], "user string, item int")
    return {row["item"]: row["prediction"] for row in model.transform(pairs).collect()}


@pytest.mark.parametrize(
    "params",
    [
        {"regParam": 0.05},
        {"regParam": 0.05, "useBiases": True},
        {"regParam": 0.05, "gravity": 0.3, "regExponent": 0.5},
        {"implicitPrefs": True, "alpha": 4.0},
        {"implicitPrefs": True, "unobservedWeight": 0.2},
    ],
    ids=str,
)
def test_terms_of_a_history_make_the_score(spark, ratings, tmp_path, params):
    model = ALS(rank=4, maxIter=4, **params).fit(ratings)
    folded = model.foldIn(ratings, "rating")
    saved, items, values = saved_and_history(model, ratings, tmp_path)
    added, exact = contributions(saved, items, values, LISTED)
    assert exact
    of = scores(folded, spark)
    biases = {}
    if "useBiases" in params:
        biases = {row["id"]: row["bias"] for row in model.itemFactors.collect()}
    for item, terms in zip(LISTED, added, strict=True):
        others = model.globalMean + biases.get(item, 0.0)  # what is no user's
        assert terms.sum() + others == pytest.approx(of[item], abs=2e-4)


def test_terms_of_weights_and_vectors_make_the_score(spark, ratings, tmp_path):
    model = SpectralRecommender(rank=3, neighbors=4, alpha=0.7, seed=2).fit(ratings)
    saved, items, values = saved_and_history(model, ratings, tmp_path)
    added, exact = contributions(saved, [*items, 999], [*values, 1.0], LISTED)
    assert exact
    of = scores(model, spark)
    assert added.sum(axis=1) == pytest.approx([of[item] for item in LISTED], abs=1e-5)
    assert not added[:, -1].any()


def test_without_an_item_a_softmax_score_is_lower_by_what_it_adds(spark, ratings, tmp_path):
    model = SoftmaxRecommender(embeddingDim=4, hiddenDims=[5, 4], maxIter=3).fit(ratings)
    saved, items, values = saved_and_history(model, ratings, tmp_path)
    added, exact = contributions(saved, items, values, LISTED)
    assert exact
    histories = ratings.where(F.col("user") == USER)
    for item in items:
        left_out = ratings.where((F.col("user") == USER) & (F.col("item") != item))
        histories = histories.unionByName(left_out.withColumn("user", F.lit(f"no {item}")))
    folded = model.foldIn(histories)
    whole = scores(folded, spark)
    for place, item in enumerate(items):
        without = scores(folded, spark, f"no {item}")
        lost = [whole[listed] - without[listed] for listed in LISTED]
        assert added[:, place] == pytest.approx(lost, abs=1e-5)


def test_a_model_without_histories_names_like_items(ratings, tmp_path):
    model = PairwiseRecommender(embeddingDim=4, maxIter=3).fit(ratings)
    saved, items, values = saved_and_history(model, ratings, tmp_path)
    vectors = {row["id"]: np.array(row["features"]) for row in model.itemFactors.collect()}
    unit = {item: vector / np.linalg.norm(vector) for item, vector in vectors.items()}
    for item, found in zip(LISTED, reasons(saved, items, values, LISTED, most=1), strict=True):
        cosines = {other: unit[item] @ unit[other] for other in items}
        best = max(cosines, key=cosines.get)
        assert [tuple(reason) for reason in found] == ([(best, None)] if cosines[best] > 0 else [])


def test_the_largest_reasons_come_first_and_what_lowers_a_score_is_none(spark, ratings, tmp_path):
    model = ALS(rank=4, maxIter=4, implicitPrefs=True, alpha=4.0).fit(ratings)
    saved, items, values = saved_and_history(model, ratings, tmp_path)
    added, _ = contributions(saved, items, values, LISTED)
    for terms, found in zip(added, reasons(saved, items, values, LISTED, most=99), strict=True):
        assert [reason.contribution for reason in found] == sorted((t for t in terms if t > 0), reverse=True)
    assert reasons(saved, [*items, 999], [*values, 5.0], [999, *LISTED], most=2) == [
        [],
        *reasons(saved, items, values, LISTED, most=2),
    ]


@pytest.mark.parametrize("measure", ["dot", "cosine", "tempered"])
def test_nearest_items_are_those_that_spark_finds(ratings, tmp_path, measure):
    model = ALS(rank=4, maxIter=2).fit(ratings)
    saved, *_ = saved_and_history(model, ratings, tmp_path)
    rows = model.similarItems(9, measure).where("item = 4").orderBy("rank").collect()
    found = nearest(saved, 4, 9, measure)
    assert [item for item, _ in found] == [row["neighbor"] for row in rows]
    assert [value for _, value in found] == pytest.approx([row["similarity"] for row in rows], rel=1e-5)
    assert nearest(saved, 99, 3, measure) == []
