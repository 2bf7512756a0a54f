"""The Bayesian program on threads, without Spark: bits, posteriors, hyperparameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from recsys_spark.errors import ModelError
from recsys_spark.kernels.least_squares import draw
from recsys_spark.training.als.gibbs import draw_prior
from recsys_spark.training.als.prior_means import PriorMeans, side_features
from recsys_spark.training.interactions import HEAVY_EVENTS, prepare
from recsys_spark.training.ownership import split_by_task
from recsys_spark.training.side_features import ITEM_FEATURES, USER_FEATURES
from tests.training.groups import run_group
from tests.training.test_als import EXPLICIT, HEAVY, bits, events, fit

BAYESIAN = replace(EXPLICIT, rank=6, biases=True, burn_in=1, samples=2, max_iterations=5)


@pytest.mark.parametrize("heavy_events", [HEAVY_EVENTS, HEAVY])
def test_samples_are_the_same_to_the_last_bit_on_any_number_of_tasks(heavy_events):
    table, rng = events(), np.random.default_rng(5)
    users, items, trained = fit(table, 1, BAYESIAN, heavy_events=heavy_events)
    assert {len(row) for row in users.values()} == {2 * (6 + 2) + 1}
    for size in (2, 3, 7):
        shuffled = table.take(pa.array(rng.permutation(table.num_rows)))
        other_users, other_items, other = fit(shuffled, size, BAYESIAN, heavy_events=heavy_events)
        assert bits(other_users) == bits(users)
        assert bits(other_items) == bits(items)
        assert [one.objective for one in other.iterations] == [one.objective for one in trained.iterations]


def test_rows_that_all_tasks_share_are_drawn_as_those_of_one_task():
    config = replace(BAYESIAN, burn_in=0, samples=1, max_iterations=1)
    users, items, trained = fit(events(), 3, config, heavy_events=HEAVY)
    alone_users, alone_items, alone = fit(events(), 3, config)
    for found, expected in ((users, alone_users), (items, alone_items)):
        for name, row in expected.items():
            assert found[name] == pytest.approx(row, abs=1e-4)
    assert trained.iterations[0].objective == pytest.approx(alone.iterations[0].objective, rel=1e-5)


def test_another_seed_draws_other_samples_of_much_the_same_error():
    config = replace(BAYESIAN, max_iterations=60, burn_in=20, samples=20)
    _, _, one = fit(events(), 1, config)
    _, _, other = fit(events(), 1, replace(config, seed=2))
    errors = [np.mean([step.objective for step in made.iterations[20:]]) for made in (one, other)]
    assert errors[0] != errors[1]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


@pytest.fixture(scope="module")
def equation():
    """Two rows of five and two events, a prior, and the posterior of each: precision and mean."""
    rng = np.random.default_rng(4)
    factors = rng.normal(size=(6, 3)).astype(np.float32)
    offsets = rng.normal(size=6).astype(np.float32)
    indptr, columns = np.array([0, 5, 7]), np.array([0, 1, 2, 3, 5, 4, 0], np.int32)
    ratings = rng.normal(3, 1, 7).astype(np.float32)
    root = rng.normal(size=(3, 3))
    prior, centers, mean, noise = root @ root.T + np.eye(3), rng.normal(size=(2, 3)), 2.5, 1.7
    posteriors = []
    for (begin, end), center in zip(((0, 5), (5, 7)), centers, strict=True):
        y = factors[columns[begin:end]].astype(np.float64)
        target = ratings[begin:end] - mean - offsets[columns[begin:end]]
        precision = noise * y.T @ y + prior
        posteriors.append((precision, np.linalg.solve(precision, noise * y.T @ target + prior @ center)))
    return (indptr, columns, ratings, offsets, factors), (prior, centers @ prior, mean, noise), posteriors


def test_without_noise_a_draw_is_the_posterior_mean(equation):
    given, prior, posteriors = equation
    drawn = np.zeros((2, 3), np.float32)
    error = draw(*given, *prior, np.zeros((2, 3)), drawn)
    assert drawn == pytest.approx(np.array([mean for _, mean in posteriors]), abs=1e-5)
    indptr, columns, ratings, offsets, factors = given
    rows = np.repeat([0, 1], np.diff(indptr))
    scores = np.einsum("ij,ij->i", factors[columns], drawn[rows]) + offsets[columns] + prior[2]
    assert error == pytest.approx(np.square(ratings - scores).sum(), rel=1e-4)


def test_draws_spread_as_the_posterior_does(equation):
    given, prior, posteriors = equation
    rng, n = np.random.default_rng(0), 4_000
    drawn = np.zeros((n, 2, 3), np.float32)
    for one in drawn:
        draw(*given, *prior, rng.standard_normal((2, 3)), one)
    for row, (precision, mean) in enumerate(posteriors):
        covariance = np.linalg.inv(precision)
        error = np.sqrt(np.diag(covariance) / n)
        assert np.abs(drawn[:, row].mean(axis=0) - mean).max() < 5 * error.max()
        assert np.cov(drawn[:, row].T) == pytest.approx(covariance, abs=0.1 * covariance.max())


def test_hyperparameters_follow_the_moments_of_the_rows():
    rng = np.random.default_rng(1)
    vectors = rng.multivariate_normal([1.0, -2.0], [[0.5, 0.2], [0.2, 0.3]], 3_000)
    moments = np.concatenate([vectors.sum(axis=0), (vectors.T @ vectors).ravel()])
    drawn = np.array(
        [draw_prior(moments, len(vectors), np.random.default_rng(k), np.zeros((0, 2))) for k in range(300)]
    )
    precisions = drawn[:, 2:].reshape(-1, 2, 2)
    means = np.array([np.linalg.solve(p, s) for p, s in zip(precisions, drawn[:, :2], strict=True)])
    assert precisions.mean(axis=0) == pytest.approx(np.linalg.inv(np.cov(vectors.T)), rel=0.03)
    assert means.mean(axis=0) == pytest.approx(vectors.mean(axis=0), abs=0.01)
    # a Wishart draw of n degrees of freedom varies by 2 / n of its square; a mean by 1 / n
    varied = precisions[:, 0, 0].var() / precisions[:, 0, 0].mean() ** 2
    assert varied == pytest.approx(2 / len(vectors), rel=0.3)
    assert means.var(axis=0) == pytest.approx(vectors.var(axis=0) / len(vectors), rel=0.3)


def entries(ids, names):
    """Features as a task gets them: each id's own names, of weight 1."""
    weights = [[1.0] * len(one) for one in names]
    columns = [
        pa.array(ids),
        pa.array(names, pa.list_(pa.string())),
        pa.array(weights, pa.list_(pa.float32())),
    ]
    return [pa.table(columns, names=["id", "names", "weights"])]


def side_payloads():
    """Of users by their number, and of items; user 900 and item 800 have no event."""
    users, items = [*range(60), 900], [*range(37), 800]
    return {
        USER_FEATURES: entries(users, [[f"g={user % 3}", "all"] for user in users]),
        ITEM_FEATURES: entries(items, [[f"k={item % 4}"] for item in items]),
    }


@pytest.mark.parametrize("heavy_events", [HEAVY_EVENTS, HEAVY])
def test_with_features_samples_are_the_same_to_the_last_bit_on_any_number_of_tasks(heavy_events):
    config = replace(BAYESIAN, histories=True)
    users, items, trained = fit(events(), 1, config, heavy_events=heavy_events, payloads=side_payloads())
    plain, _, _ = fit(events(), 1, BAYESIAN, heavy_events=heavy_events)
    assert set(users) == {*plain, 900}
    assert 800 in items
    assert bits(users) != bits(plain)
    for size in (2, 3, 7):
        given = {"heavy_events": heavy_events, "payloads": side_payloads()}
        other_users, other_items, other = fit(events(), size, config, **given)
        assert bits(other_users) == bits(users)
        assert bits(other_items) == bits(items)
        assert [one.objective for one in other.iterations] == [one.objective for one in trained.iterations]


def test_who_has_features_alone_is_where_those_like_them_are():
    rng = np.random.default_rng(3)
    rows = [(user, item) for user in range(80) for item in rng.choice(30, 12, replace=False)]
    # users of kind 0 love all items, those of kind 1 do not
    ratings = [4.5 - 3.0 * (user % 2) + 0.1 * rng.standard_normal() for user, _ in rows]
    table = pa.table(
        [
            *map(pa.array, zip(*[(int(u), int(i)) for u, i in rows], strict=True)),
            pa.array(ratings, pa.float32()),
        ],
        names=["user", "item", "rating"],
    )
    users = [*range(80), 900, 901]
    config = replace(BAYESIAN, rank=2, burn_in=20, samples=20, max_iterations=60)
    payloads = {USER_FEATURES: entries(users, [[f"kind={user % 2}"] for user in users])}
    found, _, _ = fit(table, 2, config, payloads=payloads)
    biases = {kind: np.mean([found[user][-1] for user in range(kind, 80, 2)]) for kind in (0, 1)}
    assert biases[0] - biases[1] > 1
    assert found[900][-1] == pytest.approx(biases[0], abs=0.3)
    assert found[901][-1] == pytest.approx(biases[1], abs=0.3)


def test_coefficients_are_those_of_a_ridge_regression_and_vary_as_it_says():
    rng = np.random.default_rng(6)
    table = events(name=int)
    mean, root = rng.normal(size=3), rng.normal(size=(3, 3))
    precision = root @ root.T + np.eye(3)

    def program(group):
        data = prepare(group, dict(split_by_task(table, 1))[0])
        ids = data.users.ids.to_pylist()
        given = entries(ids, [[f"g={user % 3}", "all"] for user in ids])
        nothing = csr_matrix((len(ids), 0), dtype=np.float32)
        features = side_features(group, data.users, given, nothing)
        means = PriorMeans(group, data.users, features, 3, 9, 0)
        vectors = np.random.default_rng(7).normal(size=(len(ids), 3)).astype(np.float32)
        drawn = []
        for sweep in range(500):
            means.beta = np.zeros((4, 3))  # its strength is drawn only from coefficients
            means.draw(vectors, mean, precision, sweep)
            drawn.append(means.beta.copy())
        return features.matrix.toarray(), vectors, np.array(drawn)

    ((f, x, drawn),) = run_group(1, program)
    system = f.T @ f + np.eye(4)
    expected = np.linalg.solve(system, f.T @ (x - mean))
    covariance = np.kron(np.linalg.inv(system), np.linalg.inv(precision))
    error = np.sqrt(np.diag(covariance) / len(drawn))
    assert np.abs(drawn.mean(axis=0).ravel() - expected.ravel()).max() < 5 * error.max()
    found = np.cov(drawn.reshape(len(drawn), -1).T)
    assert found == pytest.approx(covariance, abs=0.1 * covariance.max())


def test_too_many_features_are_named(monkeypatch):
    monkeypatch.setattr("recsys_spark.training.als.prior_means.MOST_FEATURES", 3)
    with pytest.raises(ModelError, match="4 features of a side, and a Bayesian fit takes 3"):
        fit(events(), 1, BAYESIAN, payloads=side_payloads())
