"""A small neural network as a list of layers and a few pure functions, without a framework.

A layer is (weights, biases), of shapes (n_in, n_out) and (n_out,); a hidden layer's output goes through the activation, and the
last one's does not. ``forward`` gives the outputs of all layers, from which ``backward`` makes the gradients (Rumelhart, Hinton &
Williams 1986). Arrays keep the dtype they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_spark.kernels.randomness import uniform

Floats = npt.NDArray[Any]
Places = npt.NDArray[np.integer]
Layer = tuple[Floats, Floats]
Network = list[Layer]

ACTIVATIONS: dict[str, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda y: (y > 0).astype(y.dtype)),
    "tanh": (np.tanh, lambda y: 1 - y * y),
}
"""Name → the function, and its derivative in terms of its own output."""


def starting(sizes: Sequence[int], seed: int) -> Network:
    """Layers of ``sizes[0]`` inputs to ``sizes[-1]`` outputs, float32: uniform weights (Glorot & Bengio 2010), no biases."""
    layers: Network = []
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        bound = np.sqrt(6 / (n_in + n_out))
        drawn = uniform(seed, number, np.arange(n_in)[:, None], np.arange(n_out))
        layers.append((((2 * drawn - 1) * bound).astype(np.float32), np.zeros(n_out, np.float32)))
    return layers


def forward(network: Network, inputs: Floats, activation: str, masks: Sequence[Floats] = ()) -> list[Floats]:
    """Outputs of every layer, ``inputs`` first.

    Parameters
    ----------
    inputs : shape (n, n_in of the first layer)
    activation : a key of :data:`ACTIVATIONS`
    masks : dropout (Srivastava et al. 2014), for the first hidden layers: what their outputs, shape (n, n_out), are multiplied by
    """
    outputs = [inputs]
    for number, (weights, biases) in enumerate(network):
        x = outputs[-1] @ weights + biases
        if number < len(network) - 1:
            x = ACTIVATIONS[activation][0](x)
            if number < len(masks):
                x = x * masks[number]
        outputs.append(x)
    return outputs


def backward(
    network: Network, outputs: list[Floats], gradient: Floats, activation: str, masks: Sequence[Floats] = ()
) -> tuple[Network, Floats]:
    """Gradients of a loss by every layer's weights and biases, and by the inputs.

    Parameters
    ----------
    outputs : from :func:`forward`, with the same ``activation`` and ``masks``
    gradient : of the loss by the last output, shape (n, n_out)
    """
    gradients: Network = []
    for number in range(len(network) - 1, -1, -1):
        if number < len(network) - 1:
            derivative = ACTIVATIONS[activation][1]
            if number < len(masks):
                # an output of zero tells nothing of what was dropped, and its mask is zero
                kept = np.where(masks[number] > 0, masks[number], 1)
                gradient = gradient * masks[number] * derivative(outputs[number + 1] / kept)
            else:
                gradient = gradient * derivative(outputs[number + 1])
        gradients.append((outputs[number].T @ gradient, gradient.sum(axis=0)))
        gradient = gradient @ network[number][0].T
    return gradients[::-1], gradient


def softmax_loss(logits: Floats, rows: Places, columns: Places, weights: Floats) -> tuple[Floats, Floats]:
    """Cross-entropy of targets under the softmax of their rows' logits, and its gradient by the logits.

    Parameters
    ----------
    logits : shape (n, m), finite; overwritten by the gradient
    rows, columns : of each target, shape (n_targets,); none stands twice
    weights : of each target

    Returns
    -------
    losses : shape (n_targets,), weighted, finite: the largest logit is taken off before anything is exponentiated
    gradient : of their sum, shape (n, m)
    """
    # in place: a pass over a large matrix costs less than a new one
    logits -= logits.max(axis=1, keepdims=True)
    of_targets = logits[rows, columns]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1)
    logits *= (np.bincount(rows, weights, len(logits)) / total).astype(logits.dtype)[:, None]
    logits[rows, columns] -= weights
    return weights * (np.log(total)[rows] - of_targets), logits


def sampled_softmax_loss(own: Floats, shared: Floats, rows: Places, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """The same where a row's catalogue is its own targets and some sampled items.

    Parameters
    ----------
    own : logits of the targets, shape (n_targets,)
    shared : logits of the sampled items, shape (n, m), each less the log of how often the item is expected among them, so that
        their sum estimates that over the catalogue without the targets; a very negative number for those that do not count
    rows, weights : of each target

    Returns
    -------
    losses : shape (n_targets,), weighted
    by_own, by_shared : gradients of their sum
    """
    largest = shared.max(axis=1)
    np.maximum.at(largest, rows, own)
    by_own, by_shared = np.exp(own - largest[rows]), np.exp(shared - largest[:, None])
    total = by_shared.sum(axis=1) + np.bincount(rows, by_own, len(shared))
    share = (np.bincount(rows, weights, len(shared)) / total).astype(shared.dtype)
    losses = weights * (np.log(total)[rows] + largest[rows] - own)
    return losses, by_own * share[rows] - weights, by_shared * share[:, None]
