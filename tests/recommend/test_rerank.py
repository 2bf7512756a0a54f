"""Lists chosen from longer ones, by the columns of items."""

from __future__ import annotations

import pytest

from recsys_spark.errors import ModelError
from recsys_spark.histories import pack_histories
from recsys_spark.recommend.rerank import Reranking, reranked

ITEMS = [
    ("a", ["War"], "x", 1),
    ("b", ["War", None, "War"], "x", 2),
    ("c", ["War", "Drama"], None, 3),
    ("d", ["Comedy"], "y", 4),
    ("e", None, "x", 5),
]
CANDIDATES = [("a", 5.0), ("b", 4.0), ("c", 3.0), ("nobody knows", 2.5), ("d", 2.0), ("e", 1.0)]


@pytest.fixture(scope="module")
def items(spark):
    return spark.createDataFrame(ITEMS, "item string, genres array<string>, maker string, year int")


@pytest.fixture(scope="module")
def lists(spark):
    rows = [("u", CANDIDATES), ("v", CANDIDATES[:1]), ("w", [])]
    return spark.createDataFrame(rows, "id string, recommendations array<struct<item:string,score:float>>")


def chosen(found):
    rows = {row["id"]: row["recommendations"] for row in found.collect()}
    scores = dict(CANDIDATES)
    assert all(entry["score"] == scores[entry["item"]] for row in rows.values() for entry in row)
    return {user: [entry["item"] for entry in row] for user, row in rows.items()}


def test_caps_hold_for_each_column_until_nothing_else_is_left(lists, items):
    found = chosen(reranked(lists, items, 5, Reranking(caps={"maker": 1, "genres": 2})))
    assert found == {"u": ["a", "c", "nobody knows", "d", "b"], "v": ["a"], "w": []}


def test_of_a_list_that_has_begun_the_rest_is_chosen(spark, items):
    """Two of war are there: no more of them, and a third maker's before the second of one."""
    rows = [("u", [("c", 0.1), ("a", 9.0), ("b", 4.0), ("e", 3.0), ("d", 2.0)], 2), ("v", CANDIDATES[:2], 0)]
    schema = "id string, recommendations array<struct<item:string,score:float>>, given int"
    found = reranked(spark.createDataFrame(rows, schema), items, 4, Reranking(caps={"maker": 1, "genres": 2}))
    listed = {row["id"]: [tuple(entry) for entry in row["recommendations"]] for row in found.collect()}
    assert listed == {"u": [("d", 2.0), ("b", 4.0)], "v": CANDIDATES[:2]}


def test_likeness_pushes_down_what_is_of_one_kind(lists, items):
    """After a, half of each: b has .75 - 1, as it is as a; c .5 - .71; what nobody knows .375, and d .25."""
    found = chosen(reranked(lists, items, 3, Reranking(diversity=0.5)))
    assert found["u"] == ["a", "nobody knows", "d"]


def test_any_column_may_be_named(lists, items):
    assert chosen(reranked(lists, items, 2, Reranking(diversity=0.9, by="maker")))["u"] == ["a", "c"]
    assert chosen(reranked(lists, items, 2, Reranking(diversity=0.9, by="year")))["u"] == ["a", "b"]


def with_vectors(items, vectors):
    rows = list(zip("abcde", vectors, strict=True))
    return items.join(
        items.sparkSession.createDataFrame(rows, "item string, embedding array<double>"), "item"
    )


def test_vectors_make_items_alike_by_their_cosine_whatever_their_length(lists, items):
    """After a, of relevance .75 and .5, b's half of .75 - 1 is less than c's of .5 - 0; e's is not finite."""
    known = with_vectors(items, [[2.0, 0.0], [9.0, 0.0], [0.0, 1.0], None, [float("nan"), 1.0]])
    found = chosen(reranked(lists, known, 4, Reranking(diversity=0.5, by="embedding")))
    assert found["u"] == ["a", "c", "nobody knows", "d"]


@pytest.mark.parametrize(
    ("vectors", "how", "message"),
    [
        ([[1.0], [1.0, 2.0], None, None, None], {"diversity": 0.5}, r"one size, got \[1, 2\]"),
        ([[1.0]] * 5, {"calibration": 0.5}, "calibration is by values that items share, and embedding holds"),
        ([[1.0]] * 5, {"caps": {"embedding": 1}}, "caps is by values that items share, and embedding holds"),
    ],
)
def test_what_vectors_cannot_do_is_an_error(lists, items, vectors, how, message):
    with pytest.raises(ModelError, match=message):
        reranked(lists, with_vectors(items, vectors), 3, Reranking(by="embedding", **how))


def test_conditions_over_items_push_bury_and_have_their_share(lists, items):
    """Relevance is 1, .75, .5, .375, .25 and 0; a condition that is null is not true."""
    how = Reranking(boosts={"maker = 'y'": 0.6, "array_contains(genres, 'War')": -0.5})
    assert chosen(reranked(lists, items, 4, how))["u"] == ["d", "a", "nobody knows", "b"]
    assert chosen(reranked(lists, items, 3, Reranking(floors={"year > 3": 1})))["u"] == ["a", "b", "d"]


def test_lists_are_calibrated_to_what_users_have_had(spark, lists, items):
    """Who has had comedies alone is shown one first; who has had nothing, what the scores say."""
    rows = [("u", "d", 1.0, "train"), ("u", "nobody knows", 1.0, "train"), ("v", "c", 1.0, "test")]
    rated = spark.createDataFrame(rows, "user string, item string, rating double, part string")
    packed = pack_histories(rated.selectExpr("*", "now() AS timestamp"), 3).of("train")
    others = lists.where("id = 'u'").unionByName(
        lists.where("id = 'u'").selectExpr("'x' AS id", "recommendations")
    )
    found = chosen(reranked(others, items, 2, Reranking(calibration=0.8), packed))
    packed.unpersist()
    with pytest.raises(ModelError, match="calibrated to histories"):
        reranked(others, items, 2, Reranking(calibration=0.8))
    assert found == {"u": ["d", "a"], "x": ["a", "b"]}
