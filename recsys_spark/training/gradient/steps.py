"""Gradient training on a group of tasks: what is learnt, and the step of Adam that all tasks take together.

What is learnt is a set of named float32 tables. Most are replicated in every task: each task hands in the
gradient of its part of a mini-batch, the gradients are summed over the group, and every task takes the same
step, so that the mathematics is that of one machine. Only rows that some task touches are exchanged. A table
may also be a task's own (users stay where their histories are), and then nothing of it travels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, Hashes, Ints
from recsys_spark.kernels.network import Layer, Network, initial_network
from recsys_spark.kernels.optimizer import adam
from recsys_spark.kernels.randomness import mix, normal
from recsys_spark.training.group import Group

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Epoch:
    """Mean loss of an epoch's training steps, that of the validation users after it (or None), and its
    seconds.
    """

    loss: float
    validation: float | None
    seconds: float


@dataclass
class State:
    """All that is learnt, and Adam's moments of it.

    Attributes
    ----------
    tables : float32 arrays by name, two-dimensional; of layer k ``weights k`` and, as one row, ``biases k``
    first, second : the moments, of the same shapes
    steps : taken so far
    epochs : done so far
    best : lowest loss of the validation, and the epoch after which it was seen; None before
    """

    tables: dict[str, Floats]
    first: dict[str, Floats]
    second: dict[str, Floats]
    steps: int = 0
    epochs: int = 0
    best: tuple[float, int] | None = None

    @classmethod
    def initial(cls, tables: dict[str, Floats]) -> State:
        """``tables`` before the first step."""
        first, second = ({name: np.zeros_like(table) for name, table in tables.items()} for _ in range(2))
        return cls(tables, first, second)


@dataclass(frozen=True)
class Gradient:
    """Gradient of a table's ``rows`` (int32, ascending, unique): ``sums``, float32, shape (n_rows, width).

    ``own`` : the table is this task's own; rows with the same numbers in other tasks are other rows.
    """

    rows: Ints
    sums: Floats
    own: bool = False


def derive_seed(seed: int, *keys: int) -> int:
    """A seed for one purpose."""
    return int(mix(seed, *keys))


def random_table(seed: int, id_hashes: Hashes, width: int, deviation: float) -> Floats:
    """Normal rows, each a pure function of its id's hash, float32, shape (len(id_hashes), width)."""
    return np.asarray(normal(seed, id_hashes[:, None], np.arange(width)) * deviation, np.float32)


def initial_layers(sizes: tuple[int, ...], seed: int) -> dict[str, Floats]:
    """A random network as named tables."""
    tables = {}
    for number, (weights, biases) in enumerate(initial_network(sizes, seed)):
        tables[f"weights {number}"], tables[f"biases {number}"] = weights, biases[None]
    return tables


def network_from_tables(tables: dict[str, Floats]) -> Network:
    """The layers among named tables."""
    layers: list[Layer] = []
    while f"weights {len(layers)}" in tables:
        layers.append((tables[f"weights {len(layers)}"], tables[f"biases {len(layers)}"][0]))
    return layers


def layer_gradients(layers: Network) -> dict[str, Gradient]:
    """Gradients of all rows of a network's tables, from those of its layers."""
    gradients = {}
    for number, (weights, biases) in enumerate(layers):
        gradients[f"weights {number}"] = Gradient(np.arange(len(weights), dtype=np.int32), weights)
        gradients[f"biases {number}"] = Gradient(np.zeros(1, np.int32), biases[None])
    return gradients


def scheduled_rate(learning_rate: float, schedule: str, progress: float) -> float:
    """The learning rate at ``progress``, the fraction of all epochs that is done; ``schedule`` is one of
    :data:`SCHEDULES`.
    """
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + np.cos(np.pi * progress)) / 2}[schedule]
    return float(learning_rate * factor)


def adam_step(
    group: Group,
    state: State,
    gradients: dict[str, Gradient],
    loss: tuple[float, float],
    learning_rate: float,
    weight_decay: float,
) -> Doubles:
    """One step of Adam on every table, in place, by the mean gradient of all tasks.

    Parameters
    ----------
    group, state : the tasks, and what is learnt
    gradients : by table, of sums over this task's part; the same tables and rows in every task, but for a
        task's own
    loss : summed loss of this task's part, and the weight of its examples, which the mean is over
    learning_rate : of this step
    weight_decay : L2 regularisation of the rows that are touched; biases of layers have none

    Returns
    -------
    float64 array, shape (2,)
        Loss and weight of the whole mini-batch. Where the weight is 0 nothing is done.
    """
    shared = {name: gradient for name, gradient in gradients.items() if not gradient.own}
    flat = np.concatenate(
        [np.array(loss, np.float32), *(gradient.sums.ravel() for gradient in shared.values())]
    )
    summed = group.all_reduce(flat.astype(np.float32, copy=False))
    total = summed[:2].astype(np.float64)
    if not total[1]:
        return total
    state.steps += 1
    begin = 2
    for name, gradient in gradients.items():
        sums = gradient.sums
        if not gradient.own:
            sums = summed[begin : begin + sums.size].reshape(sums.shape)
            begin += sums.size
        mean = np.asarray(sums / total[1], np.float32)
        decay = 0.0 if name.startswith("biases") else weight_decay
        moments = state.first[name], state.second[name]
        adam(state.tables[name], moments, gradient.rows, mean, learning_rate, state.steps, decay)
    return total


def union_of_rows(group: Group, rows: Ints, total: int) -> Ints:
    """Those of ``total`` rows that any task names, ascending."""
    named = np.zeros(total, bool)
    named[rows] = True
    for other in group.all_gather(np.flatnonzero(named).astype(np.int32)):
        named[other] = True
    return np.flatnonzero(named).astype(np.int32)


def index_among(rows: Ints, total: int) -> Ints:
    """Index of each of ``total`` rows among ``rows``, which are unique; 0 for the others."""
    index = np.zeros(total, np.int32)
    index[rows] = np.arange(len(rows), dtype=np.int32)
    return index


def normalized(vectors: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Rows of length 1, and their backward pass: a gradient with respect to them becomes one with respect
    to ``vectors``.
    """
    length = np.maximum(np.sqrt((vectors**2).sum(axis=1, keepdims=True)), np.float32(1e-12))
    unit = vectors / length

    def backward(gradient: Floats) -> Floats:
        return np.asarray((gradient - (gradient * unit).sum(axis=1, keepdims=True) * unit) / length)

    return unit, backward
