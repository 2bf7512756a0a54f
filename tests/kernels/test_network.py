"""The network: a step by hand, and gradients against central differences."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.losses import sampled_softmax_loss, softmax_loss
from recsys_spark.kernels.network import backward, forward, initial_network


def test_one_pass_worked_by_hand():
    # x = (1, 2); hidden: (1·1 + 2·(−1) + 0, 1·2 + 2·1 + 1) = (−1, 5) → relu (0, 5); out: 0·3 + 5·2 − 4 = 6
    network = [
        (np.array([[1.0, 2.0], [-1.0, 1.0]]), np.array([0.0, 1.0])),
        (np.array([[3.0], [2.0]]), np.array([-4.0])),
    ]
    outputs = forward(network, np.array([[1.0, 2.0]]), "relu")
    assert [one.tolist() for one in outputs] == [[[1.0, 2.0]], [[0.0, 5.0]], [[6.0]]]
    # loss = out: its gradient goes through the second hidden unit alone
    gradients, grad_inputs = backward(network, outputs, np.array([[1.0]]), "relu")
    assert gradients[1][0].tolist() == [[0.0], [5.0]]
    assert gradients[0][0].tolist() == [[0.0, 2.0], [0.0, 4.0]]
    assert gradients[0][1].tolist() == [0.0, 2.0]
    assert grad_inputs.tolist() == [[4.0, 2.0]]


def numerical(loss, array, step=1e-6):
    """Gradient of ``loss()`` by ``array``, entry by entry."""
    gradient = np.zeros_like(array)
    for position in np.ndindex(array.shape):
        kept = array[position]
        array[position] = kept + step
        up = loss()
        array[position] = kept - step
        gradient[position] = (up - loss()) / (2 * step)
        array[position] = kept
    return gradient


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4), (3, 5, 4), (3, 6, 5, 4)])
def test_gradients_are_those_of_central_differences(sizes, activation, dropout):
    rng = np.random.default_rng(0)
    network = [(w.astype(float), rng.normal(size=len(b))) for w, b in initial_network(sizes, 1)]
    inputs, targets = rng.normal(size=(7, 3)), (np.arange(7), rng.integers(0, 4, 7), rng.random(7))
    masks = [(rng.random((7, size)) < 0.7) / 0.7 for size in sizes[1:-1]] if dropout else []

    def loss():
        return softmax_loss(forward(network, inputs, activation, masks)[-1], *targets)[0].sum()

    outputs = forward(network, inputs, activation, masks)
    gradients, grad_inputs = backward(
        network, outputs, softmax_loss(outputs[-1], *targets)[1], activation, masks
    )
    for (weights, biases), (grad_weights, grad_biases) in zip(network, gradients, strict=True):
        np.testing.assert_allclose(grad_weights, numerical(loss, weights), atol=1e-6)
        np.testing.assert_allclose(grad_biases, numerical(loss, biases), atol=1e-6)
    np.testing.assert_allclose(grad_inputs, numerical(loss, inputs), atol=1e-6)


def test_softmax_loss_is_minus_the_log_of_each_targets_probability():
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]))
    losses, gradient = softmax_loss(logits, np.array([0, 0]), np.array([1, 2]), np.array([2.0, 1.0]))
    assert losses.tolist() == pytest.approx([-2 * np.log(0.3), -np.log(0.5)])
    assert gradient.ravel().tolist() == pytest.approx(
        [0.6, 0.9 - 2, 1.5 - 1, 0, 0, 0]
    )  # the second row has no target


def test_sampled_softmax_loss_is_the_softmax_over_a_rows_targets_and_the_sampled():
    own, shared = np.log(np.array([0.3, 0.5, 0.2])), np.log(np.array([[0.6, 0.1], [0.4, 0.4]]))
    rows, weights = np.array([0, 0, 1]), np.array([2.0, 1.0, 3.0])
    losses, grad_own, grad_shared = sampled_softmax_loss(own, shared, rows, weights)
    assert losses.tolist() == pytest.approx([-2 * np.log(0.3 / 1.5), -np.log(0.5 / 1.5), -3 * np.log(0.2)])
    for array, found in ((own, grad_own), (shared, grad_shared)):
        expected = numerical(lambda: sampled_softmax_loss(own, shared, rows, weights)[0].sum(), array)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sampled_softmax_loss_is_finite_at_the_edges_and_where_nothing_was_sampled():
    own, shared = (
        np.array([1e4, -1e4, 0], np.float32),
        np.array([[-1e4, 0], [1e4, 0], [-1e9, -1e9]], np.float32),
    )
    losses, grad_own, grad_shared = sampled_softmax_loss(own, shared, np.arange(3), np.ones(3, np.float32))
    np.testing.assert_allclose(losses, [0, 2e4, 0], atol=1e-6)
    assert np.isfinite(grad_own).all()
    assert np.isfinite(grad_shared).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_and_gradient_are_finite_at_the_edges(dtype):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [0, 0, 0]], dtype)
    losses, gradient = softmax_loss(
        logits, np.arange(3), np.arange(3), np.ones(3, dtype)
    )  # a probability of 1, one of e^-20000, and a third
    np.testing.assert_allclose(losses, [0, 2e4, np.log(3)], rtol=1e-6)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6)


def test_starting_weights_are_bounded_and_depend_on_the_seed():
    ((weights, biases),) = initial_network((30, 20), 1)
    assert np.abs(weights).max() <= np.sqrt(6 / 50)
    assert weights.std() == pytest.approx(np.sqrt(6 / 50 / 3), rel=0.1)
    assert (biases == 0).all()
    assert (initial_network((30, 20), 2)[0][0] != weights).all()
