"""The training program of the softmax model: what every task of a group runs (:mod:`recsys_spark.collectives`).

A user's history is a bag of items. Of each history some items are held out, and the network that sees the rest is to give them a
large probability under

    p(i | history) = softmax_i( s(ψ(bag), v_i) ),   ψ the network, s the dot product or the cosine over a temperature

(Covington, Adams & Sargin 2016). The tables of items and the network are the same in every task, and so is the order of the
users, who stay with their tasks: a mini-batch is spread over the group, its gradients are summed, and every task takes the
same step. The mathematics is that of one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_spark.collectives import Array, Group
from recsys_spark.kernels.bags import Floats, Ints, adam, add_rows, bag_sums, hold_out, spread_over_bags
from recsys_spark.kernels.negatives import Proposal
from recsys_spark.kernels.network import Layer, Network, backward, forward, softmax_loss, starting
from recsys_spark.kernels.randomness import Words, mix, normal, uniform
from recsys_spark.models.interactions import Histories

INPUTS, OUTPUTS = "inputs", "outputs"
_ORDER, _TARGETS, _DROPOUT, _NEGATIVES, _VALIDATION, _START = range(6)
FIXED = 2**31
"""The epoch that keys the validation's targets."""


@dataclass(frozen=True)
class SoftmaxProblem:
    """The numbers of one fit.

    Attributes
    ----------
    dim : length of an item's input vector
    hidden : sizes of the layers from the bag to ψ, the last one's is that of ψ; none: ψ is the bag
    activation : of the layers but the last, ``relu`` or ``tanh``
    dropout : share of a hidden layer's outputs that a training step leaves out
    tied : whether v is the input vector
    pooling : the bag is the sum over the number of items to this power: 1 for the mean
    cosine, temperature : the score
    negatives : items drawn for each mini-batch, in proportion to their count to the power ``power``; 0 for the whole catalogue
    targets : items held out of each history in each epoch
    batch : users of a mini-batch
    epochs : at most so many
    rate, schedule : learning rate, and how it goes on: ``constant``, ``linear`` or ``cosine``, to zero after all epochs
    decay : L2 regularisation
    gravity : weight of the mean squared score over the items of the loss
    validation : share of the users that are not trained on, whose loss decides when to stop
    patience : stop after so many epochs without a lower one; 0 for never
    seed : of every draw
    """

    dim: int
    hidden: tuple[int, ...]
    activation: str
    dropout: float
    tied: bool
    pooling: float
    cosine: bool
    temperature: float
    negatives: int
    power: float
    targets: int
    batch: int
    epochs: int
    rate: float
    schedule: str
    decay: float
    gravity: float
    validation: float
    patience: int
    seed: int

    @property
    def width(self) -> int:
        """Length of ψ and of v."""
        return self.hidden[-1] if self.hidden else self.dim


@dataclass(frozen=True)
class Epoch:
    """Mean loss of an epoch's training steps, that of the validation's users after it (or None), and its seconds."""

    loss: float
    validation: float | None
    seconds: float


@dataclass
class State:
    """All that is learnt, and Adam's moments of it.

    Attributes
    ----------
    tables : float32 arrays by name: ``inputs`` (n_items, dim), ``outputs`` (n_items, width) unless tied, ``weights k`` and
        ``biases k`` of each layer; biases as one row
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
    def fresh(cls, words: Words, problem: SoftmaxProblem) -> State:
        """Random items, each a pure function of its id, and random layers."""
        tables = {}
        widths = {INPUTS: problem.dim} | ({} if problem.tied else {OUTPUTS: problem.width})
        for number, (name, width) in enumerate(widths.items()):
            drawn = normal(mix_seed(problem, _START, number), words[:, None], np.arange(width))
            tables[name] = (drawn / np.sqrt(width)).astype(np.float32)
        for number, (weights, biases) in enumerate(starting((problem.dim, *problem.hidden), problem.seed)):
            tables[f"weights {number}"], tables[f"biases {number}"] = weights, biases[None]
        first, second = ({name: np.zeros_like(table) for name, table in tables.items()} for _ in range(2))
        return cls(tables, first, second)


def network_of(tables: dict[str, Floats]) -> Network:
    """The layers among named arrays."""
    layers: list[Layer] = []
    while f"weights {len(layers)}" in tables:
        layers.append((tables[f"weights {len(layers)}"], tables[f"biases {len(layers)}"][0]))
    return layers


def outputs_of(tables: dict[str, Floats]) -> Floats:
    """Vectors v, shape (n_items, width), as they are learnt."""
    return tables.get(OUTPUTS, tables[INPUTS])


def mix_seed(problem: SoftmaxProblem, *keys: int) -> int:
    """A seed for one purpose."""
    return int(mix(problem.seed, *keys))


def train(
    group: Group,
    data: Histories,
    problem: SoftmaxProblem,
    state: State,
    until: int,
    report: Callable[[Array], None] | None = None,
) -> list[Epoch]:
    """Go on from ``state``, in place, to the epoch ``until`` or to where it stops improving.

    Parameters
    ----------
    group : the tasks; all call this at once
    data : this task's histories
    problem, state : the same in every task
    report : called after each epoch with its number from 1, its loss and its seconds

    Notes
    -----
    Memory of a task: ``16 * events + 12 * n_items * (dim + width)`` bytes for the tables and their moments, as much again for
    gradients, and for a mini-batch's scores ``8 * examples * (n_items or negatives)`` bytes over the tasks. A step sends the
    gradients of the rows that it touches, in all-reduce.
    """
    held = uniform(mix_seed(problem, _VALIDATION), data.words) < problem.validation
    proposal = Proposal.build(np.maximum(data.counts, 1.0) ** problem.power) if problem.negatives else None
    history = []
    while state.epochs < until and not stalled(problem, state):
        started = time.perf_counter()
        keys = mix(mix_seed(problem, _TARGETS), state.epochs, data.words)
        place, users = _order(group, mix(mix_seed(problem, _ORDER), state.epochs, data.words), ~held)
        losses = np.zeros(2)
        for first in range(0, users, problem.batch):
            rows = np.flatnonzero((place >= first) & (place < first + problem.batch)).astype(np.int32)
            rows = rows[np.argsort(place[rows])]
            losses += _step(group, data, problem, state, rows, keys, proposal)
        state.epochs += 1
        validation = None
        if problem.validation:
            fixed = mix(mix_seed(problem, _TARGETS), FIXED, data.words)
            total = group.all_reduce(_loss(data, problem, state, np.flatnonzero(held).astype(np.int32), fixed))
            validation = float(total[0] / max(total[1], 1))
            if state.best is None or validation < state.best[0]:
                state.best = validation, state.epochs
        history.append(Epoch(float(losses[0] / max(losses[1], 1)), validation, time.perf_counter() - started))
        if report is not None:
            report(np.array([len(history), history[-1].loss, history[-1].seconds]))
    return history


def stalled(problem: SoftmaxProblem, state: State) -> bool:
    """Whether the validation's loss has not fallen for ``patience`` epochs."""
    return bool(problem.patience and state.best is not None and state.epochs - state.best[1] >= problem.patience)


def user_vectors(data_indptr: npt.NDArray[np.int64], items: Ints, tables: dict[str, Floats], problem: SoftmaxProblem) -> Floats:
    """ψ of whole histories, shape (n, width); with cosine of length 1 / temperature, so that a dot product is the score.

    Parameters
    ----------
    data_indptr, items : histories as compressed rows, none of them empty; ``items`` are rows of the tables
    """
    counts = np.diff(data_indptr)
    sums = bag_sums(data_indptr, items, np.arange(len(counts), dtype=np.int32), tables[INPUTS])
    psi = forward(network_of(tables), sums / counts[:, None].astype(np.float32) ** problem.pooling, problem.activation)[-1]
    return np.asarray(_unit(psi)[0] / problem.temperature if problem.cosine else psi, np.float32)


def item_vectors(tables: dict[str, Floats], problem: SoftmaxProblem) -> Floats:
    """Vectors v, with cosine of length 1."""
    vectors = outputs_of(tables)
    return _unit(vectors)[0] if problem.cosine else vectors


def learning_rate(problem: SoftmaxProblem, done: float) -> float:
    """The learning rate when the share ``done`` of all epochs is."""
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2}[problem.schedule]
    return float(problem.rate * shape)


def _order(group: Group, keys: Words, chosen: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    """Place of each own user in the group's order by ``keys``, among those that are ``chosen`` (-1: is not); and their number."""
    everybody = np.sort(np.concatenate(group.all_gather(keys[chosen])))
    return np.where(chosen, np.searchsorted(everybody, keys), -1), len(everybody)


def _step(
    group: Group,
    data: Histories,
    problem: SoftmaxProblem,
    state: State,
    rows: Ints,
    keys: Words,
    proposal: Proposal | None,
) -> npt.NDArray[np.float64]:
    """One mini-batch; gives its summed loss and its number of examples, over all tasks."""
    examples = _Examples.of(data, problem, state, rows, keys)
    masks = _masks(problem, data.words[rows], examples.slots, state)
    network = network_of(state.tables)
    outputs = forward(network, examples.bags, problem.activation, masks)
    drawn = _drawn(problem, state, proposal)
    losses, by_psi, by_items = _scored(outputs[-1], outputs_of(state.tables), examples.targets, drawn, problem)
    by_layers, by_bags = backward(network, outputs, by_psi, problem.activation, masks)

    by_bags *= examples.scales[:, None]
    starts = np.searchsorted(examples.slots, np.arange(len(rows)))
    by_user = np.add.reduceat(np.append(by_bags, np.zeros((1, problem.dim), np.float32), axis=0), starts, axis=0)
    by_user[np.diff(np.append(starts, len(examples.slots))) == 0] = 0.0
    own = np.concatenate([data.items[:0], *(data.items[data.indptr[row] : data.indptr[row + 1]] for row in rows)])
    scored = np.arange(len(data.counts), dtype=np.int32) if drawn is None else np.concatenate([examples.targets, drawn[0]])
    name = INPUTS if problem.tied else OUTPUTS
    touched = {INPUTS: np.concatenate([own, scored])} if problem.tied else {INPUTS: own, OUTPUTS: scored}
    unions = {table: _union(group, items, len(data.counts)) for table, items in touched.items()}

    gradients = {table: np.zeros((len(union), state.tables[table].shape[1]), np.float32) for table, union in unions.items()}
    places = _places(unions[INPUTS], len(data.counts))
    spread_over_bags(data.indptr, places[data.items], rows, by_user, gradients[INPUTS])
    add_rows(gradients[INPUTS], places[examples.targets], by_bags, -1.0)
    add_rows(gradients[name], _places(unions[name], len(data.counts))[scored], by_items, 1.0)
    for number, (by_weights, by_biases) in enumerate(by_layers):
        gradients[f"weights {number}"], gradients[f"biases {number}"] = by_weights, by_biases[None]

    flat = np.concatenate([gradient.ravel() for gradient in gradients.values()])
    summed = group.all_reduce(flat.astype(np.float32, copy=False))
    total: npt.NDArray[np.float64] = group.all_reduce(np.array([losses.sum(dtype=np.float64), len(losses)]))
    if not total[1]:
        return total
    state.steps += 1
    rate = learning_rate(problem, state.epochs / max(problem.epochs, 1))
    at = 0
    for name, gradient in gradients.items():
        mean = np.asarray(summed[at : at + gradient.size].reshape(gradient.shape) / total[1], np.float32)
        at += gradient.size
        changed = unions.get(name, np.arange(len(gradient), dtype=np.int32))
        decay = 0.0 if name.startswith("biases") else problem.decay
        adam(state.tables[name], (state.first[name], state.second[name]), changed, mean, rate, state.steps, decay)
    return total


def _loss(data: Histories, problem: SoftmaxProblem, state: State, rows: Ints, keys: Words) -> npt.NDArray[np.float64]:
    """Summed loss, over the whole catalogue, of own histories ``rows``, and the number of examples."""
    total = np.zeros(2)
    for begin in range(0, len(rows), problem.batch):
        examples = _Examples.of(data, problem, state, rows[begin : begin + problem.batch], keys)
        psi = forward(network_of(state.tables), examples.bags, problem.activation)[-1]
        losses = _scored(psi, outputs_of(state.tables), examples.targets, None, problem)[0]
        total += losses.sum(dtype=np.float64), len(losses)
    return total


@dataclass(frozen=True)
class _Examples:
    """What a mini-batch's own part asks: ``bags`` without their ``targets``, ``scales`` of a bag, ``slots`` of the users."""

    slots: Ints
    targets: Ints
    scales: Floats
    bags: Floats

    @classmethod
    def of(cls, data: Histories, problem: SoftmaxProblem, state: State, rows: Ints, keys: Words) -> _Examples:
        slots, places = hold_out(keys, data.indptr, rows, problem.targets)
        targets, table = data.items[places], state.tables[INPUTS]
        left = (np.diff(data.indptr)[rows][slots] - 1).astype(np.float32)
        scales = left**-problem.pooling
        bags = (bag_sums(data.indptr, data.items, rows, table)[slots] - table[targets]) * scales[:, None]
        return cls(slots, targets, scales.astype(np.float32), bags.astype(np.float32))


def _masks(problem: SoftmaxProblem, words: Words, slots: Ints, state: State) -> list[Floats]:
    """Dropout of each example, keyed by the step, its user, and which of his examples it is."""
    if not problem.dropout:
        return []
    masks = []
    number_of_user = np.arange(len(slots)) - np.searchsorted(slots, slots)
    keys = mix(mix_seed(problem, _DROPOUT), state.steps, words[slots], number_of_user)
    for number, size in enumerate(problem.hidden[:-1]):
        kept = uniform(number, keys[:, None], np.arange(size)) >= problem.dropout
        masks.append((kept / (1 - problem.dropout)).astype(np.float32))
    return masks


def _drawn(problem: SoftmaxProblem, state: State, proposal: Proposal | None) -> tuple[Ints, Floats] | None:
    """Negatives of this step, the same in every task; and, for every item, the log of how often it is expected among them."""
    if proposal is None:
        return None
    items = proposal.draw(uniform(mix_seed(problem, _NEGATIVES), state.steps, np.arange(problem.negatives)))
    return items, proposal.log_q + np.float32(np.log(problem.negatives))


def _scored(
    psi: Floats, vectors: Floats, targets: Ints, drawn: tuple[Ints, Floats] | None, problem: SoftmaxProblem
) -> tuple[Floats, Floats, Floats]:
    """Loss of each example, and the gradients of their sum by ``psi`` and by the vectors.

    The vectors are the whole catalogue's, or those of the targets and then of the ``drawn`` positions, whose scores are corrected
    by the logs of how often each item is expected among the drawn (Bengio & Senécal 2003; Yi et al. 2019). A drawn item that is
    the target is left out.
    """
    unit_psi, by_unit_psi = _unit(psi) if problem.cosine else (psi, None)
    chosen = vectors if drawn is None else vectors[np.concatenate([targets, drawn[0]])]
    unit, by_unit = _unit(chosen) if problem.cosine else (chosen, None)
    scale = np.float32(1 / problem.temperature if problem.cosine else 1.0)
    n = len(targets)
    if drawn is None:
        logits = unit_psi @ unit.T * scale
        corrected, columns = logits, targets
    else:
        own = np.einsum("ij,ij->i", unit_psi, unit[:n])[:, None]
        logits = np.concatenate([own, unit_psi @ unit[n:].T], axis=1) * scale
        items, expected = drawn
        corrected = logits - np.concatenate([expected[targets][:, None], np.tile(expected[items], (n, 1))], axis=1)
        corrected[:, 1:][targets[:, None] == items] = -1e9
        columns = np.zeros(n, np.int32)
    losses, gradient = softmax_loss(corrected, columns)
    if problem.gravity:
        losses = losses + problem.gravity * (logits**2).mean(axis=1)
        gradient = gradient + (2 * problem.gravity / logits.shape[1]) * logits
    gradient = (gradient * scale).astype(np.float32, copy=False)
    if drawn is None:
        by_psi, by_vectors = gradient @ unit, gradient.T @ unit_psi
    else:
        by_psi = gradient[:, :1] * unit[:n] + gradient[:, 1:] @ unit[n:]
        by_vectors = np.concatenate([gradient[:, :1] * unit_psi, gradient[:, 1:].T @ unit_psi])
    if by_unit_psi is not None and by_unit is not None:
        by_psi, by_vectors = by_unit_psi(by_psi), by_unit(by_vectors)
    return losses, by_psi, by_vectors


def _unit(vectors: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Rows of length 1, and what turns a gradient by them into one by ``vectors``."""
    length = np.maximum(np.sqrt((vectors**2).sum(axis=1, keepdims=True)), np.float32(1e-12))
    unit = vectors / length

    def back(gradient: Floats) -> Floats:
        return np.asarray((gradient - (gradient * unit).sum(axis=1, keepdims=True) * unit) / length)

    return unit, back


def _union(group: Group, items: Ints, total: int) -> Ints:
    """Items that any task names, ascending."""
    named = np.zeros(total, bool)
    named[items] = True
    for other in group.all_gather(np.flatnonzero(named).astype(np.int32)):
        named[other] = True
    return np.flatnonzero(named).astype(np.int32)


def _places(union: Ints, total: int) -> Ints:
    """Place of each item in ``union``."""
    places = np.zeros(total, np.int32)
    places[union] = np.arange(len(union), dtype=np.int32)
    return places
