"""The training program of the pair models: what every task of a group runs
(:mod:`recsys_spark.training.barrier`).

A user's vector is their embedding plus those of their features, an item's likewise, and both have a bias:

    s(u, i) = mean + b_u + b_i + x_u·y_i          dot
                             + network(x_u, y_i)  mlp
                             + both               dot+mlp

learnt from ratings (squared error), or from positives and sampled negatives (logistic, BPR, cosine
contrastive), other negatives in each epoch. Users stay with their tasks; items, features and the network are
the same in every task. A mini-batch is all pairs whose hash falls into it, wherever they are, so that it is
the same on any number of tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Floats, Hashes, Ints
from recsys_spark.kernels.negatives import Proposal, draw_negatives
from recsys_spark.kernels.network import forward
from recsys_spark.kernels.randomness import mix, uniform
from recsys_spark.training.barrier import IdTypes, Outcome
from recsys_spark.training.gradient.program import GradientOutcome, GradientProgram
from recsys_spark.training.gradient.steps import (
    Epoch,
    State,
    adam_step,
    derive_seed,
    initial_layers,
    network_from_tables,
    normalized,
    random_table,
    scheduled_rate,
)
from recsys_spark.training.group import Group, Report
from recsys_spark.training.histories import Histories
from recsys_spark.training.pairwise.batch import DROPOUT, ITEMS, USERS, MiniBatch
from recsys_spark.training.pairwise.config import PairwiseConfig
from recsys_spark.training.side_features import ITEM_FEATURES, USER_FEATURES, Features

_ORDER, _NEGATIVES, _, _START = 0, 1, DROPOUT, 3
_SCORED_AT_ONCE = 65_536


@dataclass(frozen=True)
class PairwiseOutcome(GradientOutcome):
    """What a job of a pair model reports.

    Attributes
    ----------
    global_mean : what predictions start from
    user_average, item_average : mean embeddings of users and items, with their biases
    """

    global_mean: float
    user_average: list[float]
    item_average: list[float]


@dataclass(frozen=True)
class PairwiseProgram(GradientProgram[PairwiseOutcome]):
    """A pair model as a barrier job trains it.

    Serves vectors with their bias as a last column, and of items the number of events after it.
    """

    config: PairwiseConfig
    id_types: IdTypes

    step_name: ClassVar[str] = "pairwise epoch"
    outcome_type: ClassVar[type[Outcome]] = PairwiseOutcome

    @property
    def max_steps(self) -> int:
        """Number of epochs."""
        return self.config.max_epochs

    @property
    def explicit(self) -> bool:
        """Whether ratings are predicted."""
        return self.config.explicit

    def initial_state(self, data: Histories) -> State:
        """Random vectors, each a pure function of its id or its feature's name, without biases, and a
        random network.
        """
        config = self.config
        id_hashes = {USERS: data.id_hashes, ITEMS: hash_ids(data.catalogue)}
        id_hashes |= {
            USER_FEATURES: hash_ids(data.user_features.names),
            ITEM_FEATURES: hash_ids(data.item_features.names),
        }
        tables = {}
        for number, (name, hashes) in enumerate(id_hashes.items()):
            seed = derive_seed(config.seed, _START, number)
            vectors = random_table(seed, hashes, config.embedding_dim, config.init_std)
            tables[name] = np.column_stack([vectors, np.zeros(len(hashes), np.float32)])
        if config.network:
            tables |= initial_layers((2 * config.embedding_dim, *config.hidden, 1), config.seed)
        return State.initial(tables)

    def train(
        self, group: Group, data: Histories, state: State, until: int, report: Report = None
    ) -> list[Epoch]:
        """Continue from ``state``, in place, to the epoch ``until``.

        Parameters
        ----------
        group : the tasks; all call this at once
        data : this task's users
        state : the same in every task, but for the table of the users
        until : epoch after which to end
        report : called after each epoch with its number from 1, its loss and its seconds

        Notes
        -----
        Memory of a task: ``(40 + 10 * negatives) * events`` bytes, ``12 * (dim + 1) * (users + n_items +
        features)`` for the tables and their moments, and for a mini-batch's part of the pairs ``8 * (1 +
        negatives)`` bytes each, with a network ``8 * (1 + negatives) * (2 * dim + sum of hidden)``. A step
        sends the gradients of the items that it touches, in all-reduce.
        """
        config, pairs = self.config, TrainingPairs.build(data, self.config)
        steps = max(1, round(int(group.all_reduce(np.array([len(data.items)]))[0]) / config.batch_size))
        mean = self.global_mean(group, data)
        epochs: list[Epoch] = []
        while state.epochs < until:
            started = time.perf_counter()
            negatives = pairs.negatives(state.epochs)
            rate = scheduled_rate(
                config.learning_rate, config.schedule, state.epochs / max(config.max_epochs, 1)
            )
            total = np.zeros(2)
            for chosen in pairs.mini_batches(state.epochs, steps):
                candidates = np.column_stack([data.items[chosen], negatives[chosen]])
                batch = MiniBatch.build(group, data, config, pairs.rows[chosen], candidates)
                losses, gradients = batch.gradients(state, data.ratings[chosen], mean)
                loss = float(losses.sum(dtype=np.float64)), len(losses)
                total += adam_step(group, state, gradients, loss, rate, config.weight_decay)
            state.epochs += 1
            epochs.append(Epoch(float(total[0] / max(total[1], 1)), None, time.perf_counter() - started))
            if report is not None:
                report(np.array([len(epochs), epochs[-1].loss, epochs[-1].seconds]))
        return epochs

    def finished(self, state: State) -> bool:
        """Whether all epochs are done."""
        return state.epochs >= self.max_steps

    def served_vectors(self, data: Histories, state: State) -> tuple[Floats, Floats]:
        """Vectors of the own users and of the catalogue."""
        tables = state.tables
        users = combined_vectors(tables[USERS], data.user_features, tables[USER_FEATURES], self.config)
        items = combined_vectors(tables[ITEMS], data.item_features, tables[ITEM_FEATURES], self.config)
        return users, np.column_stack([items, data.counts.astype(np.float32)])

    def extend_outcome(
        self, outcome: GradientOutcome, group: Group, data: Histories, state: State
    ) -> PairwiseOutcome:
        """The outcome, with the means that the model starts from for unknown users and items."""
        own = np.append(state.tables[USERS].sum(axis=0, dtype=np.float64), len(data.ids))
        users = group.all_reduce(own)
        items = state.tables[ITEMS].mean(axis=0, dtype=np.float64)
        return PairwiseOutcome(
            **vars(outcome),
            global_mean=self.global_mean(group, data),
            user_average=list(users[:-1] / users[-1]),
            item_average=list(items),
        )

    def global_mean(self, group: Group, data: Histories) -> float:
        """What is added to every score."""
        if self.config.mean is not None:
            return self.config.mean
        total = group.all_reduce(np.array([data.ratings.sum(dtype=np.float64), len(data.ratings)]))
        return float(total[0] / max(total[1], 1)) if self.explicit else 0.0


@dataclass(frozen=True)
class TrainingPairs:
    """A task's pairs, and what is drawn for them.

    Attributes
    ----------
    data, config : this task's histories, and the hyperparameters
    rows : user of each pair
    keys : 64 bits of each, a pure function of the pair
    proposal : what negatives are drawn from; None where ratings are predicted
    """

    data: Histories
    config: PairwiseConfig
    rows: Ints
    keys: Hashes
    proposal: Proposal | None

    @classmethod
    def build(cls, data: Histories, config: PairwiseConfig) -> TrainingPairs:
        """All pairs of the own users."""
        rows = np.repeat(np.arange(len(data.ids), dtype=np.int32), np.diff(data.indptr))
        # the place among the user's events tells repeated pairs apart
        place = np.arange(len(rows)) - data.indptr[rows]
        proposal = None
        if not config.explicit:
            proposal = Proposal.build(np.maximum(data.counts, 1.0) ** config.popularity_exponent)
        return cls(
            data, config, rows, mix(derive_seed(config.seed, _ORDER), data.id_hashes[rows], place), proposal
        )

    def mini_batches(self, epoch: int, steps: int) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
        """Pairs of each of an epoch's mini-batches, ascending."""
        drawn = uniform(derive_seed(self.config.seed, _ORDER), epoch, self.keys) * steps
        batch = drawn.astype(np.uint16 if steps < 2**16 else np.int32)
        order = np.argsort(batch, kind="stable")
        bounds = np.searchsorted(batch[order], np.arange(steps + 1))
        return [np.sort(order[begin:end]) for begin, end in pairwise(bounds)]

    def negatives(self, epoch: int) -> Ints:
        """Negatives of every pair in this epoch, shape (n_pairs, n_negatives); -1 where a user has seen
        too much.
        """
        if self.proposal is None:
            return np.zeros((len(self.rows), 0), np.int32)
        data, config = self.data, self.config
        round_ = epoch if config.rotate_negatives else 0
        keys = mix(derive_seed(config.seed, _NEGATIVES), round_, data.id_hashes)
        wanted = np.full(len(self.rows), config.n_negatives, np.int32)
        drawn = draw_negatives(keys, (data.indptr, data.items), data.indptr, wanted, self.proposal)
        negatives = np.full((len(wanted), config.n_negatives), -1, np.int32)
        negatives[np.arange(config.n_negatives) < drawn.counts[:, None]] = drawn.items
        return negatives


def combined_vectors(
    own: Floats | np.float32, features: Features, table: Floats, config: PairwiseConfig
) -> Floats:
    """Vectors with their bias as a last column, shape (n, dim + 1): embeddings plus those of their features.

    Parameters
    ----------
    own : embeddings and biases, shape (n, dim + 1) or (dim + 1,)
    features : of the same n ids
    table : embeddings and biases of the features
    config : whether vectors have length 1
    """
    vectors = own + features.sums(slice(None), table)
    if config.cosine:
        vectors[:, :-1] = normalized(vectors[:, :-1])[0]
    return vectors


def network_scores(x: Floats, y: Floats, tables: dict[str, Floats], config: PairwiseConfig) -> Floats:
    """What the network makes of pairs: (n, dim) vectors of users beside (n, dim) of items; shape (n,)."""
    scores = np.empty(len(x), np.float32)
    layers = network_from_tables(tables)
    for begin in range(0, len(x), _SCORED_AT_ONCE):
        part = slice(begin, begin + _SCORED_AT_ONCE)
        scores[part] = forward(layers, np.concatenate([x[part], y[part]], axis=1), config.activation)[-1][
            :, 0
        ]
    return scores
