"""The training program of the pair models: what every task of a group runs (:mod:`recsys_spark.collectives`).

A user's vector is his embedding plus those of his features, an item's likewise, and both have a bias:

    s(u, i) = mean + b_u + b_i + x_u·y_i          dot
                             + network(x_u, y_i)  mlp
                             + both               dot+mlp

learnt from ratings (squared error), or from positives and sampled negatives (logistic, BPR, cosine contrastive), other negatives
in each epoch. Users stay with their tasks; items, features and the network are the same in every task. A mini-batch is all pairs
whose hash falls into it, wherever they are, so that it is the same on any number of tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_spark.collectives import Group, Report
from recsys_spark.ids import hash_ids
from recsys_spark.kernels import losses
from recsys_spark.kernels.bags import Floats, Ints, add_rows
from recsys_spark.kernels.negatives import Proposal, draw_negatives
from recsys_spark.kernels.network import backward, forward
from recsys_spark.kernels.pairs import pair_scores, spread_over_pairs
from recsys_spark.kernels.randomness import mix, uniform
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

USERS, ITEMS, USER_FEATURES, ITEM_FEATURES = "users", "items", "user features", "item features"
_ORDER, _NEGATIVES, _DROPOUT, _START = range(4)
_SCORED_AT_ONCE = 65_536


@dataclass(frozen=True)
class PairwiseProblem:
    """The numbers of one fit.

    Attributes
    ----------
    dim : length of a vector
    product, network : what the score has beside the biases
    hidden : sizes of the network's hidden layers; its output is one number
    activation, dropout : of the hidden layers
    loss : ``squared``, ``logistic``, ``bpr`` or ``ccl``
    negatives : of each positive in each epoch, drawn in proportion to their count to the power ``power``
    rotate : whether each epoch has its own
    margin, weight : of the cosine contrastive loss
    biases : whether b_u and b_i are learnt
    deviation : of the embeddings before the first step
    mean : what is added to every score; None for the ratings' mean, or without ratings 0
    batch : pairs of a mini-batch, on average
    epochs : so many
    rate, schedule : learning rate, and how it goes on: ``constant``, ``linear`` or ``cosine``, to zero after all epochs
    decay : L2 regularisation of the rows that a mini-batch touches
    seed : of every draw
    """

    dim: int
    product: bool = True
    network: bool = False
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    loss: str = "logistic"
    negatives: int = 4
    power: float = 0.0
    rotate: bool = True
    margin: float = 0.0
    weight: float = 1.0
    biases: bool = True
    deviation: float = 0.01
    mean: float | None = None
    batch: int = 8192
    epochs: int = 20
    rate: float = 0.003
    schedule: str = "linear"
    decay: float = 0.0
    seed: int = 0

    @property
    def explicit(self) -> bool:
        """Whether ratings are predicted, rather than that there is one."""
        return self.loss == "squared"

    @property
    def cosine(self) -> bool:
        """Whether vectors have length 1."""
        return self.loss == "ccl"


def fresh(data: Histories, problem: PairwiseProblem) -> State:
    """Random vectors, each a pure function of its id or its feature's name, without biases, and a random network."""
    words = {USERS: data.words, ITEMS: hash_ids(data.catalogue)}
    words |= {USER_FEATURES: hash_ids(data.user_features.names), ITEM_FEATURES: hash_ids(data.item_features.names)}
    tables = {}
    for number, (name, of) in enumerate(words.items()):
        vectors = random_table(seed_of(problem.seed, _START, number), of, problem.dim, problem.deviation)
        tables[name] = np.column_stack([vectors, np.zeros(len(of), np.float32)])
    if problem.network:
        tables |= starting_layers((2 * problem.dim, *problem.hidden, 1), problem.seed)
    return State.starting_at(tables)


def train(
    group: Group, data: Histories, problem: PairwiseProblem, state: State, until: int, report: Report = None
) -> list[Epoch]:
    """Go on from ``state``, in place, to the epoch ``until``.

    Parameters
    ----------
    group : the tasks; all call this at once
    data : this task's users
    problem, state : the same in every task, but for the table of the users
    report : called after each epoch with its number from 1, its loss and its seconds

    Notes
    -----
    Memory of a task: ``(40 + 10 * negatives) * events`` bytes, ``12 * (dim + 1) * (users + n_items + features)`` for the tables
    and their moments, and for a mini-batch's part of the pairs ``8 * (1 + negatives)`` bytes each, with a network
    ``8 * (1 + negatives) * (2 * dim + sum of hidden)``. A step sends the gradients of the items that it touches, in all-reduce.
    """
    events = _Events.of(data, problem)
    steps = max(1, round(int(group.all_reduce(np.array([len(data.items)]))[0]) / problem.batch))
    mean = mean_rating(group, data, problem)
    history = []
    while state.epochs < until:
        started = time.perf_counter()
        negatives = events.negatives(state.epochs, problem)
        order, bounds = events.order(state.epochs, steps, problem)
        rate = learning_rate(problem.rate, problem.schedule, state.epochs / max(problem.epochs, 1))
        total = np.zeros(2)
        for step in range(steps):
            chosen = np.sort(order[bounds[step] : bounds[step + 1]])
            batch = _Batch.of(group, data, events.rows[chosen], np.column_stack([data.items[chosen], negatives[chosen]]))
            found, gradients = batch.gradients(state, problem, data.ratings[chosen], mean)
            total += descend(group, state, gradients, (float(found.sum(dtype=np.float64)), len(found)), rate, problem.decay)
        state.epochs += 1
        history.append(Epoch(float(total[0] / max(total[1], 1)), None, time.perf_counter() - started))
        if report is not None:
            report(np.array([len(history), history[-1].loss, history[-1].seconds]))
    return history


def mean_rating(group: Group, data: Histories, problem: PairwiseProblem) -> float:
    """What is added to every score."""
    if problem.mean is not None:
        return problem.mean
    total = group.all_reduce(np.array([data.ratings.sum(dtype=np.float64), len(data.ratings)]))
    return float(total[0] / max(total[1], 1)) if problem.explicit else 0.0


def vectors(own: Floats | np.float32, features: Features, table: Floats, problem: PairwiseProblem) -> Floats:
    """Vectors with their bias as a last column, shape (n, dim + 1): embeddings and those of their features, added up."""
    found = own + features.sums(slice(None), table)
    if problem.cosine:
        found[:, :-1] = unit(found[:, :-1])[0]
    return found


def network_scores(x: Floats, y: Floats, state_tables: dict[str, Floats], problem: PairwiseProblem) -> Floats:
    """What the network makes of pairs: (n, dim) vectors of users beside (n, dim) of items; shape (n,)."""
    found = np.empty(len(x), np.float32)
    layers = network_of(state_tables)
    for begin in range(0, len(x), _SCORED_AT_ONCE):
        some = slice(begin, begin + _SCORED_AT_ONCE)
        found[some] = forward(layers, np.concatenate([x[some], y[some]], axis=1), problem.activation)[-1][:, 0]
    return found


@dataclass(frozen=True)
class _Events:
    """A task's pairs: ``rows`` is the user of each, and ``keys`` 64 bits of each, a pure function of the pair."""

    data: Histories
    rows: Ints
    keys: npt.NDArray[np.uint64]
    proposal: Proposal | None

    @classmethod
    def of(cls, data: Histories, problem: PairwiseProblem) -> _Events:
        rows = np.repeat(np.arange(len(data.ids), dtype=np.int32), np.diff(data.indptr))
        # the place among the user's events tells repeated pairs apart
        place = np.arange(len(rows)) - data.indptr[rows]
        proposal = None
        if not problem.explicit:
            proposal = Proposal.build(np.maximum(data.counts, 1.0) ** problem.power)
        return cls(data, rows, mix(seed_of(problem.seed, _ORDER), data.words[rows], place), proposal)

    def order(self, epoch: int, steps: int, problem: PairwiseProblem) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """The pairs by mini-batch, and the bounds of each."""
        batch = (uniform(seed_of(problem.seed, _ORDER), epoch, self.keys) * steps).astype(
            np.uint16 if steps < 2**16 else np.int32
        )
        order = np.argsort(batch, kind="stable")
        return order, np.searchsorted(batch[order], np.arange(steps + 1))

    def negatives(self, epoch: int, problem: PairwiseProblem) -> Ints:
        """Negatives of every pair in this epoch, shape (n_pairs, negatives); -1 where a user has seen too much."""
        if self.proposal is None:
            return np.zeros((len(self.rows), 0), np.int32)
        data = self.data
        keys = mix(seed_of(problem.seed, _NEGATIVES), epoch if problem.rotate else 0, data.words)
        wanted = np.full(len(self.rows), problem.negatives, np.int32)
        drawn = draw_negatives(keys, (data.indptr, data.items), data.indptr, wanted, self.proposal)
        found = np.full((len(wanted), problem.negatives), -1, np.int32)
        found[np.arange(problem.negatives) < drawn.counts[:, None]] = drawn.items
        return found


@dataclass(frozen=True)
class _Batch:
    """A mini-batch's own part.

    Attributes
    ----------
    data : the task's
    users : own users that occur, ascending
    items : items that occur in any task, ascending
    rows : place of each pair's user among ``users``
    candidates : place among ``items`` of each pair's item, and of its negatives; -1 for none
    """

    data: Histories
    group: Group
    users: Ints
    items: Ints
    rows: Ints
    candidates: Ints

    @classmethod
    def of(cls, group: Group, data: Histories, rows: Ints, candidates: Ints) -> _Batch:
        users = np.unique(rows)
        items = union(group, candidates[candidates >= 0], len(data.catalogue))
        place = np.where(candidates >= 0, places(items, len(data.catalogue))[candidates], -1).astype(np.int32)
        return cls(data, group, users, items, np.searchsorted(users, rows).astype(np.int32), place)

    def gradients(
        self, state: State, problem: PairwiseProblem, ratings: Floats, mean: float
    ) -> tuple[Floats, dict[str, Gradient]]:
        """Loss of each pair, and the gradients of their sum by all that is learnt."""
        tables, data = state.tables, self.data
        x = tables[USERS][self.users] + data.user_features.sums(self.users, tables[USER_FEATURES])
        y = tables[ITEMS][self.items] + data.item_features.sums(self.items, tables[ITEM_FEATURES])
        back = []
        if problem.cosine:
            for side in (x, y):
                side[:, :-1], back_of = unit(side[:, :-1])
                back.append(back_of)
        scores = pair_scores(x, y, self.rows, self.candidates, problem.product) + np.float32(mean)
        hidden = _Hidden.of(self, x, y, state, problem) if problem.network else None
        if hidden is not None:
            scores[self.candidates >= 0] += hidden.outputs[-1][:, 0]
        found, by_scores = _loss(scores, self.candidates >= 0, ratings, problem)
        by_x, by_y = np.zeros_like(x), np.zeros_like(y)
        spread_over_pairs(x, y, self.rows, self.candidates, problem.product, by_scores, by_x, by_y)
        gradients: dict[str, Gradient] = {}
        if hidden is not None:
            gradients |= hidden.gradients(by_scores[self.candidates >= 0], by_x, by_y)
        for side, back_of in zip((by_x, by_y), back, strict=False):
            side[:, :-1] = back_of(side[:, :-1])
        if not problem.biases:
            by_y[:, -1] = 0.0
        if not problem.biases or problem.loss == "bpr":  # where a user's bias cancels, and rounding would be all its gradient
            by_x[:, -1] = 0.0
        gradients[USERS] = Gradient(self.users, by_x, own=True)
        gradients[ITEMS] = Gradient(self.items, by_y)
        if len(data.user_features.names):
            named = union(self.group, data.user_features.named(self.users), len(data.user_features.names))
            gradients[USER_FEATURES] = Gradient(named, data.user_features.spread(self.users, by_x, named))
        if len(data.item_features.names):
            named = data.item_features.named(self.items)
            gradients[ITEM_FEATURES] = Gradient(named, data.item_features.spread(self.items, by_y, named))
        return found, gradients


def _loss(scores: Floats, there: npt.NDArray[np.bool_], ratings: Floats, problem: PairwiseProblem) -> tuple[Floats, Floats]:
    if problem.loss == "squared":
        return losses.squared(scores, ratings)
    if problem.loss == "logistic":
        return losses.logistic(scores, there)
    if problem.loss == "bpr":
        return losses.bpr(scores, there)
    return losses.contrastive(scores, there, problem.margin, problem.weight)


@dataclass(frozen=True)
class _Hidden:
    """The network's part of a mini-batch: one row for each candidate that is there."""

    rows: Ints
    items: Ints
    outputs: list[Floats]
    masks: list[Floats]
    state: State
    problem: PairwiseProblem

    @classmethod
    def of(cls, batch: _Batch, x: Floats, y: Floats, state: State, problem: PairwiseProblem) -> _Hidden:
        there = batch.candidates >= 0
        rows = np.repeat(batch.rows, there.sum(axis=1))
        items = batch.candidates[there]
        masks = []
        if problem.dropout:
            words = batch.data.words[batch.users][rows]
            keys = mix(seed_of(problem.seed, _DROPOUT), state.steps, words, batch.items[items])
            for number, size in enumerate(problem.hidden):
                kept = uniform(number, keys[:, None], np.arange(size)) >= problem.dropout
                masks.append((kept / (1 - problem.dropout)).astype(np.float32))
        pairs = np.concatenate([x[rows, :-1], y[items, :-1]], axis=1)
        return cls(rows, items, forward(network_of(state.tables), pairs, problem.activation, masks), masks, state, problem)

    def gradients(self, by_output: Floats, by_x: Floats, by_y: Floats) -> dict[str, Gradient]:
        """Gradients of the layers; those of the vectors are added to ``by_x`` and ``by_y``."""
        layers, by_pairs = backward(
            network_of(self.state.tables), self.outputs, by_output[:, None], self.problem.activation, self.masks
        )
        dim = self.problem.dim
        add_rows(by_x[:, :-1], self.rows, by_pairs[:, :dim], 1.0)
        add_rows(by_y[:, :-1], self.items, by_pairs[:, dim:], 1.0)
        return gradients_of(layers)
