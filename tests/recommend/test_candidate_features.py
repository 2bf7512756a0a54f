"""Side features of candidates as numbers: what is missing is missing."""

import numpy as np
import pyarrow as pa

from recsys_spark.kernels.candidates import Candidates
from recsys_spark.recommend.candidate_features import (
    ItemFeatures,
    dense,
    feature_matrix,
    feature_names,
    pair_features,
)
from recsys_spark.recommend.score_blocks import ItemBlocks

NAN = np.nan


def test_what_an_id_has_nothing_of_is_missing_and_what_it_has_otherwise_is_none():
    entries = pa.table(
        {
            "id": ["ann", "bob", "eve"],
            "names": [["age", "job=nurse"], ["job=rare"], ["age"]],
            "weights": [[-1.5, 1.0], [1.0], [0.0]],
        },
        pa.schema(
            [("id", pa.string()), ("names", pa.list_(pa.string())), ("weights", pa.list_(pa.float32()))]
        ),
    )
    ids = pa.array(["ann", "bob", "cid", "eve"])
    found = dense(ids, entries, ["age", "job"], ["age", "job=nurse", "job=smith"])
    # a job that is not kept is a job; no row at all says nothing; an age of 0 is an age
    np.testing.assert_array_equal(found, [[-1.5, 1, 0], [NAN, 0, 0], [NAN, NAN, NAN], [0, NAN, NAN]])


def test_features_of_a_candidate_are_in_the_order_of_their_names():
    items = ItemFeatures(
        pa.array([10, 20]),
        np.array([[3, 1.0, 0.0], [4, NAN, NAN]], np.float32),
        ("item: ratings", "item: genre=a", "item: genre=b"),
        {"genre": (1, 3)},
    )
    found = Candidates(
        np.array([0, 0, 1], np.int32),
        np.array([0, 1, 2], np.int32),
        np.array([[0.5, NAN], [NAN, 7.0], [0.25, 8.0]], np.float32),
        np.array([[1, NAN], [NAN, 1], [2, 3]], np.float32),
    )
    users, profiles = np.array([[6.0], [9.0]], np.float32), np.array([[0.75, 0.25], [0, 1]], np.float32)
    pairs = np.array([[2, 1.5], [0, NAN], [1, 9]], np.float32)
    matrix = feature_matrix(found, users, profiles, items, np.array([0, 1, -1]), pairs=pairs)
    expected = [
        [0.5, NAN, 1, NAN, 6, 3, 1, 0, 0.75, 2, 1.5],
        [NAN, 7, NAN, 1, 6, 4, NAN, NAN, NAN, 0, NAN],
        [0.25, 8, 2, 3, 9, NAN, NAN, NAN, NAN, 1, 9],
    ]
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32))
    names = feature_names(["als", "popularity"], [], items, pairs=True)
    assert names[-2:] == ["user and item: events", "user and item: days since the last event"]
    names = feature_names(["als", "popularity"], [], items, pairs=False)
    assert names[:4] == ["als: score", "popularity: score", "als: rank", "popularity: rank"]
    assert names[-4:] == ["item: ratings", "item: genre=a", "item: genre=b", "match: genre"]


def test_scores_by_blocks_stand_before_what_is_of_the_pair():
    blocks = ItemBlocks(
        np.array([[1, 10], [2, 20]], np.float32), {"als: all": (0, 2), "als: axis 1": (0, 1)}, {}
    )
    items = ItemFeatures(pa.array([10, 20]), np.zeros((2, 0), np.float32), (), {}, blocks)
    places = np.array([0, 1], np.int32)
    found = Candidates(places, places, np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
    users = np.zeros((2, 0), np.float32)
    vectors, pairs = np.array([[3, 4], [5, 6]], np.float32), np.array([[7, 8], [9, 0]], np.float32)
    matrix = feature_matrix(found, users, users, items, np.array([0, 1]), vectors, pairs)
    np.testing.assert_array_equal(matrix, [[1, 1, 43, 3, 7, 8], [1, 1, 130, 10, 9, 0]])
    names = feature_names(["als"], [], items, pairs=True)
    assert names[5:7] == ["als: all", "als: axis 1"]


def test_what_a_user_has_consumed_is_found_beside_its_candidates():
    entry = pa.struct([("item", pa.string()), ("events", pa.float32()), ("days", pa.float32())])
    lists = [
        [{"item": "left out", "events": 8.0, "days": 8.0}],
        [{"item": "jam", "events": 3.0, "days": 0.5}, {"item": "tea", "events": 1.0, "days": None}],
        None,
        [],
        [{"item": "rusk", "events": 2.0, "days": 7.0}, {"item": "unlisted", "events": 9.0, "days": 9.0}],
    ]
    consumed = pa.array(lists, pa.list_(entry))[1:]  # as a slice of a batch is
    users, items = np.array([0, 0, 0, 1, 2, 3, 3], np.int32), np.array([0, 1, 2, 0, 2, 0, 1], np.int32)
    found = pair_features(consumed, users, items, pa.array(["jam", "rusk", "tea"]))
    np.testing.assert_array_equal(found, [[3, 0.5], [0, NAN], [1, NAN], [0, NAN], [0, NAN], [0, NAN], [2, 7]])
    nobody = pair_features(consumed[1:2], users[:1], items[:1], pa.array(["jam"]))
    np.testing.assert_array_equal(nobody, [[0, NAN]])
