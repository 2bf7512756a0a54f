"""Popularity among people of a kind, counted by hand."""

from __future__ import annotations

import pytest

from recsys_spark.errors import ModelError
from recsys_spark.models import SegmentPopularityModel, SegmentPopularityRecommender
from recsys_spark.testing import ModelContract

BOUGHT = [("ann", "tea"), ("ann", "jam"), ("bob", "cola"), ("cid", "cola"), ("dan", "cola"), ("eve", "tea")]
PEOPLE = [("ann", "NL", 70), ("eve", "NL", 70), ("bob", "NL", 20), ("fay", "NL", 70), ("cid", None, 20)]


class TestContract(ModelContract):
    learns_taste, new_users = False, "history"

    def estimator(self):
        return SegmentPopularityRecommender()


@pytest.fixture(scope="module")
def bought(spark):
    return spark.createDataFrame(BOUGHT, "user string, item string")


@pytest.fixture(scope="module")
def people(spark):
    return spark.createDataFrame(PEOPLE, "user string, `a.country` string, age int")


def fitted(bought, people, **params):
    named = {"userFeatureCols": ["a.country", "age"], "userFeatures": people}
    return SegmentPopularityRecommender(**named, **params).fit(bought)


def test_a_score_is_the_segments_share_mixed_with_that_of_all(spark, bought, people, tmp_path):
    fitted(bought, people, smoothing=2.0).save(str(tmp_path / "it"))
    model = SegmentPopularityModel.load(str(tmp_path / "it"))
    assert model.segments == ["NL, 20", "NL, 70"]
    pairs = [(user, item) for user in ("ann", "bob", "cid", "dan", "fay") for item in ("cola", "jam", "tea")]
    found = model.transform(spark.createDataFrame(pairs, "user string, item string")).collect()
    scores = {(row["user"], row["item"]): row["prediction"] for row in found}
    cola, jam, tea = 3 / 6, 1 / 6, 2 / 6
    old = {"cola": (0 + 2 * cola) / 5, "jam": (1 + 2 * jam) / 5, "tea": (2 + 2 * tea) / 5}
    young = {"cola": (1 + 2 * cola) / 3, "jam": 2 * jam / 3, "tea": 2 * tea / 3}
    of_all = {"cola": cola, "jam": jam, "tea": tea}
    kinds = {"ann": old, "fay": old, "bob": young, "cid": of_all, "dan": of_all}
    assert scores == pytest.approx({(user, item): kinds[user][item] for user, item in pairs})


def test_others_are_scored_by_their_features(spark, bought, people):
    model = fitted(bought, people, smoothing=1.0)
    visits = spark.createDataFrame(
        [("gus", "jam"), ("hal", "jam"), ("ida", "jam")], "user string, item string"
    )
    features = [("gus", "NL", 70), ("hal", "BE", 70), ("zoe", "NL", 70)]
    folded = model.foldIn(visits, userFeatures=spark.createDataFrame(features, people.schema))
    vectors = {row["id"]: row["features"] for row in folded.userFactors.collect()}
    assert vectors == {"gus": [0, 0, 1], "hal": [1, 0, 0], "ida": [1, 0, 0]}


def test_columns_that_make_no_segments_are_named(spark, bought, people):
    many = spark.createDataFrame([(f"u{n}", n) for n in range(101)], "user string, age int")
    all_bought = spark.createDataFrame([(f"u{n}", "tea") for n in range(101)], "user string, item string")
    estimator = SegmentPopularityRecommender(userFeatureCols=["age"], userFeatures=many)
    with pytest.raises(ModelError, match="age have 101 different sets of values"):
        estimator.fit(all_bought)
    lists = spark.createDataFrame([("ann", ["a"])], "user string, tags array<string>")
    with pytest.raises(ModelError, match="single values to make segments, and tags holds lists"):
        SegmentPopularityRecommender(userFeatureCols=["tags"], userFeatures=lists).fit(bought)
    with pytest.raises(ModelError, match="1 rows have a null id"):
        fitted(bought.unionAll(spark.createDataFrame([(None, "tea")], bought.schema)), people)
    with pytest.raises(ModelError, match="no rows"):
        fitted(bought.limit(0), people)
