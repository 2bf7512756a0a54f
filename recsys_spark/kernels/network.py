"""A small neural network as a list of layers and a few pure functions, without a framework.

A layer is (weights, biases), of shapes (n_in, n_out) and (n_out,); the activation is applied to the output of
every layer but the last. ``forward`` returns the outputs of all layers, from which
``backward`` computes the gradients (Rumelhart, Hinton & Williams 1986). Arrays keep the dtype they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from recsys_spark.kernels.arrays import Reals
from recsys_spark.kernels.randomness import uniform

Layer = tuple[Reals, Reals]
Network = list[Layer]

ACTIVATIONS: dict[str, tuple[Callable[[Reals], Reals], Callable[[Reals], Reals]]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda y: (y > 0).astype(y.dtype)),
    "tanh": (np.tanh, lambda y: 1 - y * y),
}
"""Name → the function, and its derivative in terms of its own output."""


def initial_network(sizes: Sequence[int], seed: int) -> Network:
    """Layers of ``sizes[0]`` inputs to ``sizes[-1]`` outputs, float32: uniform weights (Glorot & Bengio
    2010), no biases.
    """
    layers: Network = []
    for number, (n_in, n_out) in enumerate(pairwise(sizes)):
        bound = np.sqrt(6 / (n_in + n_out))
        drawn = uniform(seed, number, np.arange(n_in)[:, None], np.arange(n_out))
        layers.append((((2 * drawn - 1) * bound).astype(np.float32), np.zeros(n_out, np.float32)))
    return layers


def forward(network: Network, inputs: Reals, activation: str, masks: Sequence[Reals] = ()) -> list[Reals]:
    """Outputs of every layer, ``inputs`` first.

    Parameters
    ----------
    inputs : shape (n, n_in of the first layer)
    activation : a key of :data:`ACTIVATIONS`
    masks : dropout (Srivastava et al. 2014): for each of the first hidden layers the factors, shape (n,
        n_out), of its outputs
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
    network: Network, outputs: list[Reals], gradient: Reals, activation: str, masks: Sequence[Reals] = ()
) -> tuple[Network, Reals]:
    """Gradients of a loss with respect to every layer's weights and biases, and to the inputs.

    Parameters
    ----------
    outputs : from :func:`forward`, with the same ``activation`` and ``masks``
    gradient : of the loss with respect to the last output, shape (n, n_out)
    """
    gradients: Network = []
    for number in range(len(network) - 1, -1, -1):
        if number < len(network) - 1:
            derivative = ACTIVATIONS[activation][1]
            if number < len(masks):
                # where an output was dropped its mask is zero, and so is its gradient
                kept = np.where(masks[number] > 0, masks[number], 1)
                gradient = gradient * masks[number] * derivative(outputs[number + 1] / kept)
            else:
                gradient = gradient * derivative(outputs[number + 1])
        gradients.append((outputs[number].T @ gradient, gradient.sum(axis=0)))
        gradient = gradient @ network[number][0].T
    return gradients[::-1], gradient
