"""The training program of the softmax model: what every task of a group runs (:mod:`recsys_spark.collectives`).

A user's history is a bag of items. A part of each history is held out, and the network that sees the rest is to give the items of
that part a large probability under

    p(i | history) = softmax_i( s(ψ(bag), v_i) ),   ψ the network, s the dot product or the cosine over a temperature

(Covington, Adams & Sargin 2016; that as many as half are held out at once is what makes autoencoders of histories good, Liang et
al. 2018). The bag is the sum of its items' vectors over their number to a power, plus the vectors of the user's features. The
tables of items and the network are the same in every task, and so is the order of the users, who stay with their tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recsys_spark.collectives import Group, Report
from recsys_spark.errors import ModelError
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.bags import Floats, Ints, add_rows, bag_sums, hold_out, spread_over_bags
from recsys_spark.kernels.negatives import Proposal
from recsys_spark.kernels.network import backward, forward, sampled_softmax_loss, softmax_loss
from recsys_spark.kernels.randomness import Words, mix, uniform
from recsys_spark.models.descent import (
    Epoch,
    Gradient,
    State,
    descend,
    gradients_of,
    learning_rate,
    network_of,
    places,
    random_table,
    seed_of,
    starting_layers,
    union,
    unit,
)
from recsys_spark.models.histories import Histories
from recsys_spark.models.side_features import Features

INPUTS, OUTPUTS, USER_FEATURES = "inputs", "outputs", "user features"
_ORDER, _TARGETS, _DROPOUT, _NEGATIVES, _VALIDATION, _START = range(6)
_FIXED = 2**31
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
    held : share of each history that an epoch holds out
    exponent : a user weighs as much as his held-out items to this power: 0 for all alike, 1 for all items alike
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
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    tied: bool = False
    pooling: float = 0.5
    cosine: bool = False
    temperature: float = 1.0
    negatives: int = 0
    power: float = 0.75
    held: float = 0.5
    exponent: float = 0.5
    batch: int = 256
    epochs: int = 20
    rate: float = 0.01
    schedule: str = "linear"
    decay: float = 0.0
    gravity: float = 0.0
    validation: float = 0.0
    patience: int = 0
    seed: int = 0

    @property
    def width(self) -> int:
        """Length of ψ and of v."""
        return self.hidden[-1] if self.hidden else self.dim


def fresh(data: Histories, problem: SoftmaxProblem) -> State:
    """Random vectors, each a pure function of its id or its feature's name, and random layers."""
    words = hash_ids(data.catalogue)
    widths = {INPUTS: problem.dim} | ({} if problem.tied else {OUTPUTS: problem.width})
    tables = {
        name: random_table(seed_of(problem.seed, _START, number), words, width, width**-0.5)
        for number, (name, width) in enumerate(widths.items())
    }
    named = hash_ids(data.user_features.names)
    tables[USER_FEATURES] = random_table(seed_of(problem.seed, _START, 2), named, problem.dim, problem.dim**-0.5)
    return State.starting_at(tables | starting_layers((problem.dim, *problem.hidden), problem.seed))


def outputs_of(tables: dict[str, Floats]) -> Floats:
    """Vectors v, shape (n_items, width), as they are learnt."""
    return tables.get(OUTPUTS, tables[INPUTS])


def train(group: Group, data: Histories, problem: SoftmaxProblem, state: State, until: int, report: Report = None) -> list[Epoch]:
    """Go on from ``state``, in place, to the epoch ``until`` or to where it stops improving.

    Parameters
    ----------
    group : the tasks; all call this at once
    data : this task's histories
    problem, state : the same in every task
    report : called after each epoch with its number from 1, its loss and its seconds

    Notes
    -----
    Memory of a task: 16 bytes for each of its events, 16 for each user of all tasks, ``12 * n_items * (dim + width)`` for the
    tables and their moments, as much again for gradients where a step touches all items, and for a mini-batch's scores
    ``12 * batch * n_items`` over the tasks, or with sampled items ``24 * batch * negatives``. Validation scores all items. A step
    sends the gradients of the rows that it touches, in all-reduce.

    Raises
    ------
    ModelError
        A validation part without a user of at least two items.
    """
    held = uniform(seed_of(problem.seed, _VALIDATION), data.words) < problem.validation
    proposal = Proposal.build(np.maximum(data.counts, 1.0) ** problem.power) if problem.negatives else None
    history = []
    while state.epochs < until and not stalled(problem, state):
        started = time.perf_counter()
        keys = mix(seed_of(problem.seed, _TARGETS), state.epochs, data.words)
        place, users = _order(group, mix(seed_of(problem.seed, _ORDER), state.epochs, data.words), ~held)
        order = np.argsort(place).astype(np.int32)
        bounds = np.searchsorted(place[order], np.arange(0, users + problem.batch, problem.batch))
        losses = np.zeros(2)
        for begin, end in pairwise(bounds):
            losses += _step(group, data, problem, state, order[begin:end], keys, proposal)
        state.epochs += 1
        validation = None
        if problem.validation:
            fixed = mix(seed_of(problem.seed, _TARGETS), _FIXED, data.words)
            total = group.all_reduce(_loss(data, problem, state, np.flatnonzero(held).astype(np.int32), fixed))
            if not total[1]:
                raise ModelError("there is no user with two items to validate on: raise validationShare")
            validation = float(total[0] / total[1])
            if state.best is None or validation < state.best[0]:
                state.best = validation, state.epochs
        history.append(Epoch(float(losses[0] / max(losses[1], 1)), validation, time.perf_counter() - started))
        if report is not None:
            report(np.array([len(history), history[-1].loss, history[-1].seconds]))
    return history


def stalled(problem: SoftmaxProblem, state: State) -> bool:
    """Whether the validation's loss has not fallen for ``patience`` epochs."""
    return bool(problem.patience and state.best is not None and state.epochs - state.best[1] >= problem.patience)


def user_vectors(
    indptr: npt.NDArray[np.int64], items: Ints, features: Features, tables: dict[str, Floats], problem: SoftmaxProblem
) -> Floats:
    """ψ of whole histories, shape (n, width); with cosine of length 1 / temperature, so that a dot product is the score.

    Parameters
    ----------
    indptr, items : histories as compressed rows; ``items`` are rows of the tables
    features : of the same users
    """
    everybody = np.arange(len(indptr) - 1, dtype=np.int32)
    sums = bag_sums(indptr, items, everybody, tables[INPUTS])
    bags = sums / np.maximum(np.diff(indptr), 1)[:, None].astype(np.float32) ** problem.pooling
    bags += features.sums(slice(None), tables[USER_FEATURES])
    psi = forward(network_of(tables), bags, problem.activation)[-1]
    return np.asarray(unit(psi)[0] / problem.temperature if problem.cosine else psi, np.float32)


def item_vectors(tables: dict[str, Floats], problem: SoftmaxProblem) -> Floats:
    """Vectors v, with cosine of length 1."""
    vectors = outputs_of(tables)
    return unit(vectors)[0] if problem.cosine else vectors


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
    """One mini-batch; gives its summed loss and the weight of its examples, over all tasks."""
    asked = _Asked.of(data, problem, state, rows, keys)
    masks = _masks(problem, data.words[rows], state)
    network = network_of(state.tables)
    outputs = forward(network, asked.bags, problem.activation, masks)
    drawn = _drawn(problem, state, proposal)
    losses, by_psi, by_vectors = _scored(outputs[-1], outputs_of(state.tables), asked, drawn, problem)
    by_layers, by_bags = backward(network, outputs, by_psi, problem.activation, masks)

    by_sums = by_bags * asked.scales[:, None]
    own = np.concatenate([data.items[:0], *(data.items[data.indptr[row] : data.indptr[row + 1]] for row in rows)])
    bounds = np.concatenate([[0], np.cumsum(np.diff(data.indptr)[rows])]).astype(np.int64)
    everything = np.arange(len(data.counts), dtype=np.int32)
    scored = everything if drawn is None else np.concatenate([asked.targets, drawn[0]])
    touched = {INPUTS: np.concatenate([own, scored])} if problem.tied else {INPUTS: own, OUTPUTS: scored}
    gradients = {}
    for name, items in touched.items():
        all_scored = drawn is None and (problem.tied or name == OUTPUTS)
        named = everything if all_scored else union(group, items, len(data.counts))
        at, sums = places(named, len(data.counts)), np.zeros((len(named), state.tables[name].shape[1]), np.float32)
        if name == INPUTS:
            everybody = np.arange(len(rows), dtype=np.int32)
            spread_over_bags(bounds, at[own], everybody, by_sums, sums)
            spread_over_bags(asked.bounds, at[asked.targets], everybody, -by_sums, sums)
        if name == OUTPUTS or problem.tied:
            add_rows(sums, at[scored], by_vectors, 1.0)
        gradients[name] = Gradient(named, sums)
    if len(data.user_features.names):
        named = union(group, data.user_features.named(rows), len(data.user_features.names))
        gradients[USER_FEATURES] = Gradient(named, data.user_features.spread(rows, by_bags, named))
    gradients |= gradients_of(by_layers)
    rate = learning_rate(problem.rate, problem.schedule, state.epochs / max(problem.epochs, 1))
    loss = float(losses.sum(dtype=np.float64)), float(asked.weights.sum(dtype=np.float64))
    return descend(group, state, gradients, loss, rate, problem.decay)


def _loss(data: Histories, problem: SoftmaxProblem, state: State, rows: Ints, keys: Words) -> npt.NDArray[np.float64]:
    """Summed loss, over the whole catalogue, of own histories ``rows``, and the weight of the examples."""
    total = np.zeros(2)
    for begin in range(0, len(rows), problem.batch):
        asked = _Asked.of(data, problem, state, rows[begin : begin + problem.batch], keys)
        psi = forward(network_of(state.tables), asked.bags, problem.activation)[-1]
        losses = _scored(psi, outputs_of(state.tables), asked, None, problem)[0]
        total += losses.sum(dtype=np.float64), asked.weights.sum(dtype=np.float64)
    return total


@dataclass(frozen=True)
class _Asked:
    """What a mini-batch's own part asks.

    Attributes
    ----------
    bags : what the network sees of each user, without his targets; float32, shape (n_users, dim)
    scales : what the sum of a bag was multiplied by
    slots, targets, weights : of each target its user, ascending; its item; and its weight in the loss
    bounds : targets of user u are ``bounds[u]`` to ``bounds[u + 1]``
    """

    bags: Floats
    scales: Floats
    slots: Ints
    targets: Ints
    weights: Floats
    bounds: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: Histories, problem: SoftmaxProblem, state: State, rows: Ints, keys: Words) -> _Asked:
        slots, at = hold_out(keys, data.indptr, rows, problem.held)
        targets, table = data.items[at], state.tables[INPUTS]
        numbers = np.bincount(slots, minlength=len(rows))
        bounds = np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64)
        sums = bag_sums(data.indptr, data.items, rows, table)
        sums -= bag_sums(bounds, targets, np.arange(len(rows), dtype=np.int32), table)
        left = np.maximum(np.diff(data.indptr)[rows] - numbers, 1)
        scales = (left**-problem.pooling).astype(np.float32)
        bags = sums * scales[:, None] + data.user_features.sums(rows, state.tables[USER_FEATURES])
        weights = np.maximum(numbers, 1)[slots] ** (problem.exponent - 1)
        return cls(bags, scales, slots, targets, weights.astype(np.float32), bounds)


def _masks(problem: SoftmaxProblem, words: Words, state: State) -> list[Floats]:
    """Dropout of each user, keyed by the step."""
    if not problem.dropout:
        return []
    masks = []
    keys = mix(seed_of(problem.seed, _DROPOUT), state.steps, words)
    for number, size in enumerate(problem.hidden[:-1]):
        kept = uniform(number, keys[:, None], np.arange(size)) >= problem.dropout
        masks.append((kept / (1 - problem.dropout)).astype(np.float32))
    return masks


def _drawn(problem: SoftmaxProblem, state: State, proposal: Proposal | None) -> tuple[Ints, Floats] | None:
    """Negatives of this step, the same in every task; and the log of how often each of them is expected among them."""
    if proposal is None:
        return None
    items = proposal.draw(uniform(seed_of(problem.seed, _NEGATIVES), state.steps, np.arange(problem.negatives)))
    return items, proposal.log_q[items] + np.float32(np.log(problem.negatives))


def _scored(
    psi: Floats, vectors: Floats, asked: _Asked, drawn: tuple[Ints, Floats] | None, problem: SoftmaxProblem
) -> tuple[Floats, Floats, Floats]:
    """Loss of each target, and the gradients of their sum by ``psi`` and by the vectors.

    The vectors are the whole catalogue's, or those of the targets and then of the ``drawn`` items. The latter's scores are
    corrected by the logs of how often each is expected among them (Bengio & Senécal 2003), and a drawn item that is one of the
    user's targets does not count for him: so the mean of the normaliser over all draws is that of the whole catalogue.
    """
    scale = np.float32(1 / problem.temperature if problem.cosine else 1.0)
    unit_psi, by_unit_psi = unit(psi) if problem.cosine else (psi, None)
    chosen = vectors if drawn is None else vectors[np.concatenate([asked.targets, drawn[0]])]
    chosen, by_chosen = unit(chosen) if problem.cosine else (chosen, None)
    of_all = _of_all if drawn is None else _of_drawn
    losses, by_psi, by_vectors = of_all(unit_psi, chosen, scale, asked, drawn, problem.gravity)
    if by_unit_psi is not None and by_chosen is not None:
        by_psi, by_vectors = by_unit_psi(by_psi), by_chosen(by_vectors)
    return losses, by_psi, by_vectors


def _of_all(
    psi: Floats, vectors: Floats, scale: np.float32, asked: _Asked, _: tuple[Ints, Floats] | None, gravity: float
) -> tuple[Floats, Floats, Floats]:
    scaled = psi * scale
    logits = scaled @ vectors.T
    pulled = logits.copy() if gravity else logits
    losses, gradient = softmax_loss(logits, asked.slots, asked.targets, asked.weights)
    if gravity:
        losses = losses + gravity * asked.weights * (pulled**2).mean(axis=1)[asked.slots]
        of_user = np.bincount(asked.slots, asked.weights, len(psi)).astype(psi.dtype)
        gradient += (2 * gravity / pulled.shape[1]) * of_user[:, None] * pulled
    return losses, gradient @ vectors * scale, gradient.T @ scaled


def _of_drawn(
    psi: Floats, vectors: Floats, scale: np.float32, asked: _Asked, drawn: tuple[Ints, Floats] | None, gravity: float
) -> tuple[Floats, Floats, Floats]:
    assert drawn is not None  # noqa: S101
    items, expected = drawn
    slots, n = asked.slots, len(asked.targets)
    own = np.einsum("ij,ij->i", psi[slots], vectors[:n]) * scale
    shared = psi @ vectors[n:].T * scale
    counted = shared - expected
    users, n_items = np.arange(len(psi))[:, None], int(max(items.max(), asked.targets.max(initial=0))) + 1
    counted[np.isin(users * n_items + items, slots.astype(np.int64) * n_items + asked.targets)] = -1e9
    losses, by_own, by_shared = sampled_softmax_loss(own, counted, slots, asked.weights)
    if gravity:
        each = gravity / (1 + len(items))
        losses = losses + each * asked.weights * (own**2 + (shared**2).sum(axis=1)[slots])
        by_own = by_own + 2 * each * asked.weights * own
        by_shared = by_shared + 2 * each * np.bincount(slots, asked.weights, len(psi))[:, None] * shared
    by_own, by_shared = (by_own * scale).astype(psi.dtype), (by_shared * scale).astype(psi.dtype)
    by_psi = by_shared @ vectors[n:]
    add_rows(by_psi, slots, by_own[:, None] * vectors[:n], 1.0)
    return losses, by_psi, np.concatenate([by_own[:, None] * psi[slots], by_shared.T @ psi])
