"""The ranker: what its trees learn from is known before, and what they learn."""

import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pyspark.sql import functions as F

from recsys_spark import RankerRecommender
from recsys_spark.errors import ModelError, SetupError
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.testing import ModelContract

MEMBERS = {"popularity": {}, "item_item": {"weighting": "cosine"}}
HOT = 99
"""An item that everybody takes last, and nobody before."""


@pytest.mark.slow
@pytest.mark.long
class TestContract(ModelContract):
    learns_taste, new_users = False, "history"
    nested = "array<struct<item:int,rating:float>>"

    def estimator(self):
        return RankerRecommender(members=MEMBERS, maxIter=5, timestampCol="", seed=1)


class TestContractOfRatings(TestContract):
    def estimator(self):
        asked = {"loss": "squared", "labels": "folds", "numFolds": 2}
        return RankerRecommender(members=MEMBERS, maxIter=5, timestampCol="", seed=1, **asked)


def events(users=40, items=20, last=HOT):
    """Users of two tastes, the items of which are of two genres: (user, item, rating, day)."""
    rng, rows = np.random.default_rng(3), []
    for user in range(users):
        own = rng.choice(items // 2, 6, replace=False) * 2 + user % 2
        rows += [(user, int(item), 3.0 + user % 2, day) for day, item in enumerate(own)]
        if last is not None:
            rows.append((user, last, 5.0, 100))
    return rows


def frame(spark, rows):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    dated = [(*row[:3], start + timedelta(days=row[3])) for row in rows]
    return spark.createDataFrame(dated, "user int, item int, rating double, timestamp timestamp")


@pytest.mark.parametrize("labels", [{"labels": "leave_last"}, {"labels": "temporal", "labelFraction": 0.15}])
def test_trees_learn_from_what_was_known_before_the_labels(spark, labels):
    rows = events()
    items = spark.createDataFrame(
        [(i, f"genre {i % 2}") for i in [*range(20), HOT]], "item int, genre string"
    )
    estimator = RankerRecommender(members=MEMBERS, itemFeatureCols=["genre"], itemFeatures=items, **labels)
    queries, names = estimator.queries(frame(spark, rows))
    found = queries.collect()
    before = [row for row in rows if row[3] < 100]
    counts = np.bincount([item for _, item, _, _ in before])
    assert sorted(row["id"] for row in found) == list(range(40))
    for row in found:
        own = [item for user, item, _, _ in before if user == row["id"]]
        assert not {HOT, *own} & set(
            row["candidates"]
        )  # no retriever has heard of the one, and the others are seen
        features = np.array(row["features"]).reshape(len(row["candidates"]), len(names))
        of = {name: features[:, place] for place, name in enumerate(names)}
        assert of["item: ratings"].tolist() == counts[row["candidates"]].tolist()
        assert set(of["user: ratings"]) == {6}
        assert set(of["user: mean rating"]) == {3 + row["id"] % 2}
        assert set(of["user: days since the last rating"]) == {0}
        same = np.array([item % 2 == row["id"] % 2 for item in row["candidates"]])
        assert of["match: genre"].tolist() == same.tolist()
        assert (row["wanted"], sum(row["labels"])) == (1, 0)


@pytest.mark.slow
@pytest.mark.long
def test_trees_learn_the_order_of_a_users_candidates(spark):
    """By lambdarank, whose scores are of no candidate by itself."""
    ratings = frame(spark, events(last=None))
    items = spark.createDataFrame([(i, f"genre {i % 2}") for i in range(20)], "item int, genre string")
    named = {"itemFeatureCols": ["genre"], "itemFeatures": items, "featureFraction": 1.0}
    model = RankerRecommender(members={"popularity": {}}, loss="lambdarank", maxIter=20, **named).fit(ratings)
    listed = model.recommend(ratings.select("user").distinct(), 3, ratings).collect()
    assert len(listed) == 3 * 40
    assert all(row["item"] % 2 == row["user"] % 2 for row in listed)


def test_trees_learn_what_no_retriever_knows(spark, tmp_path):
    rows = events(last=None)
    items = spark.createDataFrame([(i, f"genre {i % 2}") for i in range(20)], "item int, genre string")
    named = {"itemFeatureCols": ["genre"], "itemFeatures": items}
    ratings = frame(spark, rows)
    model = RankerRecommender(members={"popularity": {}}, maxIter=20, featureFraction=1.0, **named).fit(
        ratings
    )
    users = ratings.select("user").distinct()
    listed = model.recommend(users, 3, ratings).collect()
    assert {row["reason"] for row in listed} == {"popularity"}
    assert len(listed) == 3 * 40
    own = np.mean([row["item"] % 2 == row["user"] % 2 for row in listed])
    assert own == 1  # by popularity it would be about a half
    gains = {row["feature"]: row["gain"] for row in model.importances().collect()}
    assert max(gains, key=gains.get) == "match: genre"
    told = model.explain(users.where("user < 2"), ListRequest(3, ratings.select("user", "item")), 99)
    sums = {}
    for row in told.groupBy("user", "rank", "item").agg(F.sum("contribution").alias("sum")).collect():
        sums[row["user"], row["rank"], row["item"]] = row["sum"]
    scores = {(row["user"], row["rank"], row["item"]): row["score"] for row in listed if row["user"] < 2}
    assert sums.keys() == scores.keys()
    apart = np.array([scores[key] - sums[key] for key in sums])  # what trees say of nothing
    np.testing.assert_allclose(apart, apart[0], atol=1e-5)
    assert told.where("rank = 1 AND feature = 'match: genre'").select("value").distinct().collect()[0][0] == 1
    path = str(tmp_path / "ranker")
    model.save(path)
    again = type(model).load(path).recommend(users, 3, ratings)
    assert sorted(again.collect()) == sorted(listed)
    with pytest.raises(ModelError, match="more candidates"):
        RankerRecommender(members={"popularity": {}}, candidates={"popularity": 1}).fit(
            frame(
                spark, [*[(u, u % 2, 1.0, 0) for u in range(20)], *[(u, 50 + u, 1.0, 1) for u in range(20)]]
            )
        )


def test_trees_are_told_a_members_score_of_every_candidate_and_its_parts(spark, tmp_path):
    ratings = frame(spark, events(last=None)).withColumn("rating", F.expr("3.0 + (item * 7 + user * 5) % 3"))
    members = {"popularity": {}, "als": {"rank": 4, "useBiases": True}}
    asked = {"candidates": {"als": 2}, "scoreBlocks": ["als"]}
    estimator = RankerRecommender(members=members, maxIter=5, featureFraction=1.0, **asked)
    queries, names = estimator.queries(ratings)
    for row in queries.collect():
        features = np.array(row["features"]).reshape(len(row["candidates"]), len(names))
        assert np.isfinite(features[:, names.index("als: score")]).sum() == 2
        assert np.isfinite(features[:, names.index("als: score of any item")]).all()
    model = estimator.fit(ratings)
    users = ratings.select("user").where("user < 5").distinct()
    told = {}
    for row in model.explain(users, ListRequest(30), 99).collect():
        told.setdefault((row["user"], row["item"]), {})[row["feature"]] = row["value"]
    pairs = spark.createDataFrame(list(told), "user int, item int")
    scores = model.member_models()["als"].transform(pairs).collect()
    assert len(scores) == 5 * 20
    parts = ["axis 1", "axes 2 to 3", "axis 4"]
    for row in scores:
        of = told[row["user"], row["item"]]
        assert of["als: score of any item"] == pytest.approx(row["prediction"], abs=1e-5)
        by_parts = [of[f"als: score of {part}"] for part in parts]
        biases = [of[f"als: bias of the {side}"] for side in ("user", "item")]
        assert sum(by_parts) + sum(biases) == pytest.approx(row["prediction"], abs=1e-5)
    assert max(abs(of["als: score of axis 1"]) for of in told.values()) > 0.01
    path = str(tmp_path / "told")
    model.save(path)
    lists = model.recommend(users, 3, ratings).collect()
    assert sorted(type(model).load(path).recommend(users, 3, ratings).collect()) == sorted(lists)


def test_others_are_folded_in_as_those_of_the_fit_with_the_same_histories(spark, tmp_path):
    ratings = frame(spark, events(last=None))
    items = spark.createDataFrame([(i, f"genre {i % 2}") for i in range(20)], "item int, genre string")
    people = spark.createDataFrame(
        [(u, f"job {u % 3}", u * 1.5) for u in range(39)], "user int, job string, age double"
    )
    named = {"itemFeatureCols": ["genre"], "itemFeatures": items}
    named |= {"userFeatureCols": ["job", "age"], "userFeatures": people}
    members = {"popularity": {}, "item_item": {"regParam": 1.0}}
    model = RankerRecommender(members=members, maxIter=20, featureFraction=1.0, **named).fit(ratings)
    path = str(tmp_path / "ranker")
    model.save(path)
    others, their_own = (
        frame.withColumn("user", F.col("user") + 100) for frame in (ratings.where("user % 3 = 0"), people)
    )
    folded = type(model).load(path).foldIn(others, "rating", their_own)
    told = []
    for one, users in ((model, ratings.where("user % 3 = 0")), (folded, others)):
        rows = one.explain(users.select("user").distinct(), ListRequest(5, users.select("user", "item")), 99)
        told.append(
            {
                (row["user"] % 100, row["item"], row["feature"]): (row["rank"], row["value"])
                for row in rows.collect()
            }
        )
    assert len(told[0]) == 14 * 5 * len(model.features)
    assert told[0].keys() == told[1].keys()
    for key, values in told[0].items():
        np.testing.assert_allclose(told[1][key], values, rtol=1e-5, err_msg=str(key))
    without = type(model).load(path).foldIn(others, "rating")
    (row,) = without.users.where("id = 100").collect()
    assert np.isnan(row["values"][3:]).all()  # of whom no features are given


def test_vectors_of_others_are_turned_as_those_of_the_fit(spark):
    ratings = frame(spark, events(last=None))
    members = {"popularity": {}, "als": {"rank": 4, "useBiases": True}}
    model = RankerRecommender(members=members, maxIter=3, scoreBlocks=["als"]).fit(ratings)
    others = ratings.where("user < 2").withColumn("user", F.col("user") + 100)
    folded = model.foldIn(others, "rating")
    rows = folded.explain(others.select("user").distinct(), ListRequest(20), 99)
    wanted = {"als: score of any item", "als: score of axis 1"}
    found = {
        (row["user"], row["item"], row["feature"]): row["value"]
        for row in rows.collect()
        if row["feature"] in wanted
    }
    pairs = spark.createDataFrame([key[:2] for key in found], "user int, item int").distinct()
    scores = folded.member_models()["als"].transform(pairs).collect()
    assert len(scores) == 2 * 20
    for row in scores:
        expected = pytest.approx(row["prediction"], abs=1e-5)
        assert found[row["user"], row["item"], "als: score of any item"] == expected
    of_fit = {row["id"]: row["blocks"][0] for row in model.users.collect()}
    ratio = {row["id"]: row["blocks"][0] / of_fit[row["id"] - 100] for row in folded.users.collect()}
    assert list(ratio.values()) == pytest.approx([1, 1], rel=0.2)  # the same axis, in the same direction


def test_a_ranker_that_knows_events_folds_nobody_in(spark):
    every, pairs = play_frames(spark, plays())
    estimator = RankerRecommender(members={"popularity": {}}, events=every, implicitPrefs=True, maxIter=2)
    assert not estimator.makes_models_that_fold_in
    with pytest.raises(ModelError, match="what users have consumed, and when"):
        estimator.fit(pairs).foldIn(pairs)


def test_a_member_without_vectors_has_no_blocks(spark):
    members = {"item_item": {"weighting": "cosine"}}
    with pytest.raises(ModelError, match="members with vectors, and no weights of pairs, not item_item"):
        RankerRecommender(members=members, scoreBlocks=["item_item"]).fit(frame(spark, events(last=None)))


def plays(users=40, items=20):
    """Users who play a favourite every fourth day, others once, and the favourite last: (user, item, day)."""
    rows, rng = [], np.random.default_rng(4)
    for user in range(users):
        favourite, *others = (int(item) for item in rng.choice(items, 7, replace=False))
        rows += [(user, favourite, day) for day in (*range(0, 4 * (2 + user % 3), 4), 100)]
        rows += [(user, item, 1 + place) for place, item in enumerate(others)]
    return rows


def play_frames(spark, rows):
    """Each play, and the pairs with their number of plays."""
    every = frame(spark, [(user, item, 1.0, day) for user, item, day in rows])
    pairs = every.groupBy("user", "item").agg(
        F.sum("rating").alias("rating"), F.max("timestamp").alias("timestamp")
    )
    return every, pairs


@pytest.mark.parametrize("labels", [{"labels": "leave_last"}, {"labels": "temporal", "labelFraction": 0.15}])
def test_labels_may_be_what_was_consumed_before_and_their_events_are_not_known(spark, labels):
    rows = plays()
    every, pairs = play_frames(spark, rows)
    estimator = RankerRecommender(members={"popularity": {}}, events=every, implicitPrefs=True, **labels)
    queries, names = estimator.queries(pairs)
    found = queries.collect()
    assert sorted(row["id"] for row in found) == list(range(40))
    newest = max(day for _, _, day in rows if day < 100)
    for row in found:
        known = [(item, day) for user, item, day in rows if user == row["id"] and day < 100]
        features = np.array(row["features"]).reshape(len(row["candidates"]), len(names))
        of = {name: features[:, place] for place, name in enumerate(names)}
        times = [sum(item == one for one, _ in known) for item in row["candidates"]]
        assert of["user and item: events"].tolist() == times
        since = [
            newest - max((day for one, day in known if one == item), default=np.nan)
            for item in row["candidates"]
        ]
        np.testing.assert_allclose(of["user and item: days since the last event"], since)
        assert [times[place] > 1 for place in range(len(times))] == [label == 1 for label in row["labels"]]
        assert set(of["user: ratings"]) == {7}


def test_trees_learn_what_users_consume_again(spark, tmp_path):
    rows = plays()
    every, pairs = play_frames(spark, rows)
    model = RankerRecommender(
        members={"popularity": {}}, events=every, implicitPrefs=True, maxIter=20, featureFraction=1.0
    ).fit(pairs)
    users = pairs.select("user").distinct()
    listed = model.recommend(users, 1).collect()
    assert {row["user"]: row["item"] for row in listed} == {
        user: item for user, item, day in rows if day == 100
    }
    path = str(tmp_path / "again")
    model.save(path)
    assert sorted(type(model).load(path).recommend(users, 1).collect()) == sorted(listed)


def test_trees_learn_ratings_from_what_members_predict_without_them(spark):
    rows = events(last=None)
    estimator = RankerRecommender(members={"popularity": {}}, loss="squared", labels="folds", numFolds=3)
    queries, names = estimator.queries(frame(spark, rows))
    found = queries.collect()
    given = {(user, item): rating for user, item, rating, _ in rows}
    folds = {}
    for row in found:
        folds.setdefault(row["query"] % 3, []).extend((row["id"], item) for item in row["candidates"])
    assert len(folds) == 3
    assert sorted(pair for labels in folds.values() for pair in labels) == sorted(given)  # each row once
    for row in found:
        history = given.keys() - folds[row["query"] % 3]
        counts = np.bincount([item for _, item in history], minlength=20)
        features = np.array(row["features"]).reshape(len(row["candidates"]), len(names))
        of = {name: features[:, place] for place, name in enumerate(names)}
        assert row["labels"] == [given[row["id"], item] for item in row["candidates"]]
        assert of["popularity: score"].tolist() == counts[row["candidates"]].tolist()
        assert np.isnan(of["popularity: rank"]).all()
        assert set(of["user: ratings"]) == {sum(user == row["id"] for user, _ in history)}
    judges = {row["id"] for row in found if row["validation"]}
    assert 0 < len(judges) < 20
    assert not judges & {row["id"] for row in found if not row["validation"]}


def test_trees_predict_ratings(spark, tmp_path):
    """Of other columns than the usual ones; users are kind or strict, and odd items are better."""
    rng = np.random.default_rng(5)

    def stars(user, item):
        return 2.0 + 2 * (user % 2) + item % 2

    rated = {(user, int(item)) for user in range(60) for item in rng.choice(20, 12, replace=False)}
    rows = [(user, item, stars(user, item)) for user, item in sorted(rated)]
    ratings = spark.createDataFrame(rows, "who int, what int, stars double")
    columns = {"userCol": "who", "itemCol": "what", "ratingCol": "stars", "timestampCol": ""}
    model = RankerRecommender(
        members={"popularity": {}, "als": {"rank": 2, "coldStartStrategy": "drop"}},
        loss="squared",
        labels="folds",
        numFolds=2,
        **columns,
    ).fit(ratings)
    others = [(user, item) for user in range(60) for item in range(20) if (user, item) not in rated]
    asked = [*others, others[0], (7, 99), (99, 7), (None, 7)]
    pairs = spark.createDataFrame(asked, "who int, what int")
    predicted = model.transform(pairs)
    assert predicted.columns == ["who", "what", "prediction"]
    found = predicted.collect()
    assert sorted(map(str, (row[:2] for row in found))) == sorted(map(str, asked))
    known = [row for row in found if row["who"] not in (99, None) and row["what"] != 99]
    errors = [row["prediction"] - stars(row["who"], row["what"]) for row in known]
    assert np.sqrt(np.mean(np.square(errors))) < 0.2  # of the mean rating it would be 1.1
    assert all(np.isnan(row["prediction"]) for row in found if row not in known)
    seen = ratings.select(F.col("who").alias("user"), F.col("what").alias("item"))
    listed = model.recommend(seen.select("user").distinct(), 3, seen).collect()
    assert len(listed) == 60 * 3
    for user in range(60):
        better = sum(item % 2 for who, item in others if who == user)
        assert sum(row["item"] % 2 for row in listed if row["user"] == user) == min(3, better)
    model.save(str(tmp_path / "ratings"))
    again = type(model).load(str(tmp_path / "ratings")).transform(pairs).collect()
    assert sorted(map(str, again)) == sorted(map(str, found))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"members": {}}, "at least one model, got none"),
        ({"members": {"ranker": {}}}, "one is ranker"),
        ({"members": {"als": {"rang": 3}}}, "did you mean 'rank'"),
        ({"labels": "folds", "events": "a frame"}, "labels other than folds"),
        ({"loss": "squared", "events": "a frame"}, "loss squared is of ratings"),
        ({"candidates": {"softmax": 3}}, "a number of at least 1 for some of als, item_item"),
        ({"candidates": {"als": 0}}, "a number of at least 1 for some of als, item_item"),
        ({"labels": "last"}, "labels must be one of leave_last, temporal, folds"),
        ({"loss": "ndcg"}, "loss must be one of logistic, lambdarank, squared"),
        ({"loss": "squared", "implicitPrefs": True}, "loss squared is of ratings: give ratingCol"),
        ({"loss": "squared", "ratingCol": ""}, "loss squared is of ratings: give ratingCol"),
        ({"featureFraction": 0.0}, "featureFraction must be above 0 and at most 1, got 0.0"),
        ({"labelFraction": 1.0}, "labelFraction must be between 0 and 1, got 1.0"),
        ({"stepSize": 0.0}, "stepSize must be above 0 and at most 1, got 0.0"),
        ({"metric": "auc"}, "with a cut-off, such as ndcg@10"),
        ({"maxDepth": 0}, "maxDepth must be at least 1, got 0"),
        ({"scoreBlocks": ["softmax"]}, "and has softmax; members are als, item_item"),
        ({"numFolds": 1}, "numFolds must be at least 2, got 1"),
    ],
)
def test_params_out_of_range_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        RankerRecommender(**params).check()


def test_without_xgboost_it_is_said_how_to_get_it(spark, monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.setitem(sys.modules, "xgboost.spark", None)
    with pytest.raises(SetupError, match=r"pip install 'recsys-spark\[ranker\]'"):
        RankerRecommender(members=MEMBERS).fit(frame(spark, events()).where(F.lit(False)))
