"""The graph filter."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.errors import ModelError
from recsys_spark.models import SpectralRecommender
from recsys_spark.testing import ModelContract


@pytest.mark.slow
@pytest.mark.long
class TestContract(ModelContract):
    new_users = "history"

    def estimator(self):
        return SpectralRecommender(rank=4, seed=1)


def rows_of(spark, x):
    users, items = np.nonzero(x)
    rows = [(int(u), int(i), float(x[u, i])) for u, i in zip(users, items, strict=True)]
    return spark.createDataFrame(rows, "user int, item int, rating double")


def interactions():
    rng = np.random.default_rng(7)
    taste, kind = rng.random((60, 4)) ** 3, rng.integers(0, 4, 25)
    x = (rng.random((60, 25)) < 0.2 + 0.6 * taste[:, kind]).astype(np.float64)
    x[np.arange(60), np.arange(60) % 25] = 1  # nobody is without an item, and no item without a user
    return x


def filtered(x, rank, alpha, beta, neighbors):
    """The filter, as its paper has it, with the largest entries of each row of R̃ᵀR̃."""
    n = x.sum(axis=0)
    matrix = x / np.sqrt(x.sum(axis=1))[:, None] / np.sqrt(n)
    vectors = np.linalg.svd(matrix)[2][:rank].T
    pairs = n[:, None] ** beta * (matrix.T @ matrix) * n**-beta
    np.fill_diagonal(pairs, 0)
    smallest = np.sort(pairs, axis=1)[:, -neighbors, None]
    kept = np.where(pairs >= smallest, pairs, 0)
    return x @ (kept + alpha * n[:, None] ** beta * (vectors @ vectors.T) * n**-beta).T


@pytest.mark.parametrize(("alpha", "beta", "neighbors"), [(0.2, 0.4, 24), (1.0, 0.0, 24), (0.5, 0.5, 7)])
def test_scores_are_those_of_the_formula(spark, alpha, beta, neighbors):
    x = interactions()
    data = rows_of(spark, x)
    model = SpectralRecommender(rank=5, alpha=alpha, beta=beta, neighbors=neighbors, seed=3).fit(data)
    expected = filtered(x, 5, alpha, beta, neighbors)
    rows = model.recommend(data.select("user").distinct(), 25).collect()
    assert len(rows) == 60 * 25
    for row in rows:
        assert row.score == pytest.approx(expected[row.user, row.item], rel=1e-3)
    for row in model.transform(data).collect():
        assert row.prediction == pytest.approx(expected[row.user, row.item], rel=1e-3)


def test_visitors_get_the_scores_of_their_histories(spark):
    x = interactions()
    model = SpectralRecommender(rank=5, neighbors=24, seed=3).fit(rows_of(spark, x))
    visitor = np.zeros((1, 25))
    visitor[0, [3, 11, 20]] = 1
    folded = model.foldIn(rows_of(spark, visitor).selectExpr("user + 900 user", "item"))
    n, matrix = x.sum(axis=0), x / np.sqrt(x.sum(axis=1))[:, None] / np.sqrt(x.sum(axis=0))
    vectors = np.linalg.svd(matrix)[2][:5].T
    pairs = matrix.T @ matrix
    np.fill_diagonal(pairs, 0)
    whole = n[:, None] ** 0.4 * (pairs + 0.2 * vectors @ vectors.T) * n**-0.4
    for row in folded.recommend(spark.createDataFrame([(900,)], "user int"), 25).collect():
        assert row.score == pytest.approx((visitor @ whole.T)[0, row.item], rel=1e-3)


def test_rating_of_zero_is_no_interaction(spark):
    x = interactions()
    rows = rows_of(spark, x)
    nothing = spark.createDataFrame([(0, 99, 0.0), (1, 99, -1.0)], "user int, item int, rating double")
    one, other = (SpectralRecommender(rank=5, seed=3).fit(data) for data in (rows, rows.union(nothing)))
    users = rows.select("user").distinct()
    found, expected = (
        {(row.user, row.item): row.score for row in model.recommend(users, 26).collect()}
        for model in (other, one)
    )
    assert {pair: score for pair, score in found.items() if pair[1] != 99} == pytest.approx(expected)
    assert {score for pair, score in found.items() if pair[1] == 99} == {0.0}
    with pytest.raises(ModelError, match="no rating is above 0"):
        SpectralRecommender(rank=5, seed=3).fit(nothing)
