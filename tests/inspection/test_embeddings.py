"""Neighbours, norms and maps of vectors that are given, not fitted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from recsys_spark.errors import ModelError
from recsys_spark.inspection.embeddings import item_map, nearest_items, neighbors, norm_correlation, norms
from recsys_spark.models import ALSModel

VECTORS = {  # of like direction: 1, 2 and 3; 2 is the longest
    1: [1.0, 0.0, 0.0],
    2: [6.0, 3.0, 0.0],
    3: [0.2, 0.01, 0.0],
    4: [0.0, 0.5, 2.0],
    5: [0.0, 1.0, 1.0],
}
RATED = {1: 3, 2: 9, 3: 1, 4: 5, 5: 1}


@pytest.fixture(scope="module")
def model(spark):
    factors = spark.createDataFrame(list(VECTORS.items()), "id int, features array<float>")
    users = spark.createDataFrame([("ann", [2.0, 0.0, 0.0])], "id string, features array<float>")
    return ALSModel(users, factors)


@pytest.fixture(scope="module")
def ratings(spark):
    rows = [(user, item) for item, number in RATED.items() for user in range(number)]
    return spark.createDataFrame(rows, "user int, item int")


def test_dot_favours_the_long_and_cosine_the_like(spark, model):
    some = spark.createDataFrame([(1,)], "item int")
    titles = spark.createDataFrame([(2, "long"), (3, "like")], "item int, title string")
    found = neighbors(model, some, 1, ("dot", "cosine"), titles)
    assert found.drop(columns="similarity").to_numpy().tolist() == [
        [1, "dot", 1, 2, "long"],
        [1, "cosine", 1, 3, "like"],
    ]
    assert found["similarity"].tolist() == pytest.approx([6.0, 0.2 / np.hypot(0.2, 0.01)])


def test_items_near_a_user_are_the_long_or_the_like(spark, model):
    some = spark.createDataFrame([("ann",), ("nobody",)], "user string")
    found = nearest_items(model, some, 2)
    root = np.sqrt(np.hypot(6, 3))
    expected = [
        ["ann", "dot", 1, 2, 12.0],
        ["ann", "dot", 2, 1, 2.0],
        ["ann", "cosine", 1, 1, 1.0],
        ["ann", "cosine", 2, 3, 0.2 / np.hypot(0.2, 0.01)],
        ["ann", "tempered", 1, 2, 12 / np.sqrt(2) / root],
        ["ann", "tempered", 2, 1, np.sqrt(2)],
    ]
    assert found.drop(columns="similarity").to_numpy().tolist() == [row[:-1] for row in expected]
    assert found["similarity"].tolist() == pytest.approx([row[-1] for row in expected])


def test_norms_are_beside_the_numbers_of_ratings(model, ratings):
    table = norms(model, ratings)
    assert dict(zip(table["item"], table["ratings"], strict=True)) == RATED
    expected = [np.linalg.norm(VECTORS[item]) for item in table["item"]]
    assert table["norm"].tolist() == pytest.approx(expected, rel=1e-6)
    few = norms(model, ratings, points=2)
    assert len(few) == 2
    assert set(few["item"]) < set(RATED)


def test_the_rank_correlation_is_that_of_all_items(model, ratings):
    lengths = [np.linalg.norm(VECTORS[item]) for item in sorted(RATED)]
    expected = spearmanr(lengths, [RATED[item] for item in sorted(RATED)]).statistic
    assert norm_correlation(model, ratings) == pytest.approx(expected)


def test_like_directions_lie_together_whatever_the_length(model, ratings):
    table = item_map(model, ratings).set_index("item")
    at = table[["x", "y"]]
    distance = {(i, j): np.hypot(*(at.loc[i] - at.loc[j])) for i in VECTORS for j in VECTORS}
    assert distance[1, 3] < distance[1, 2] < distance[1, 4]
    assert distance[4, 5] < distance[4, 1]
    # the coordinates are those of the centred unit vectors on their first two right singular vectors
    unit = np.array([np.array(v) / np.linalg.norm(v) for v in VECTORS.values()])
    values, directions = np.linalg.eigh(np.cov(unit.T, bias=True))
    for axis, direction in (("x", directions[:, -1]), ("y", directions[:, -2])):
        along = (unit - unit.mean(axis=0)) @ direction
        assert table[axis].abs().tolist() == pytest.approx(np.abs(along).tolist(), abs=1e-6)
    assert table["x"].var(ddof=0) == pytest.approx(values[-1], abs=1e-6)


def test_a_map_has_the_most_rated_items(model, ratings):
    assert item_map(model, ratings, points=3)["item"].tolist() == [1, 2, 4]
    with pytest.raises(ModelError, match="a map needs at least three items and two factors"):
        item_map(model, ratings, points=2)


def test_like_items_are_neighbours_of_a_neighbour_embedding(spark):
    """Three groups of twenty directions; the nearest on the map is of the same group, and the map is the same
    whenever it is made.
    """
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(3, 8))
    vectors = [(centres[item % 3] + 0.1 * generator.normal(size=8)).tolist() for item in range(60)]
    factors = spark.createDataFrame(list(enumerate(vectors)), "id int, features array<float>")
    model, rated = ALSModel(factors.limit(1), factors), spark.range(60).toDF("item")
    first, second = (item_map(model, rated, "tsne", seed=5) for _ in range(2))
    assert first.equals(second)
    places = first[["x", "y"]].to_numpy()
    distance = np.linalg.norm(places[:, None] - places[None, :], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) % 3 == np.arange(60) % 3).all()
