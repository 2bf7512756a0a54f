"""The most likely vector of a user, by scipy's minimiser and by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize

from recsys_spark.kernels.posterior import Prior, least_squares_mode, logistic_mode


@pytest.fixture
def prior():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(5, 5))
    return Prior(rng.normal(size=5), root @ root.T + np.eye(5))


def test_targets_are_met_as_far_as_the_prior_lets_them():
    prior = Prior(np.array([1.0]), np.array([[2.0]]))
    # x² (1 + 4) / 2 + 2 (x - 1)² / 2 - 10 x: two targets, 2 and 4, of rows 1 and 2
    found = least_squares_mode(np.array([[1.0], [2.0]]), np.array([2.0, 4.0]), 1.0, prior)
    assert found == pytest.approx([12 / 7])
    surer = least_squares_mode(np.array([[1.0], [2.0]]), np.array([2.0, 4.0]), 1e-9, prior)
    assert surer == pytest.approx([2.0])


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_logistic_mode_is_the_minimum(prior, scale):
    rng = np.random.default_rng(4)
    rows, offsets, weights = rng.normal(size=(30, 5)) * scale, rng.normal(size=30), rng.random(30) * 9

    def objective(x):
        apart = x - prior.mean
        return weights @ np.logaddexp(0, -(rows @ x + offsets)) + apart @ prior.precision @ apart / 2

    found = logistic_mode(rows, offsets, weights, prior)
    best = minimize(objective, prior.mean, method="BFGS", options={"gtol": 1e-9})
    assert objective(found) <= best.fun + 1e-6
    np.testing.assert_allclose(found, best.x, atol=1e-3)


def test_without_observations_it_is_the_mean(prior):
    nothing = np.zeros((0, 5)), np.zeros(0), np.zeros(0)
    np.testing.assert_array_equal(logistic_mode(*nothing, prior), prior.mean)
    np.testing.assert_allclose(least_squares_mode(*nothing[:2], 1.0, prior), prior.mean)
