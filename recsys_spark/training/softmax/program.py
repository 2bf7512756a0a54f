"""The training program of the softmax model: what every task of a group runs
(:mod:`recsys_spark.training.barrier`).

A user's history is a bag of items. A part of each history is held out, and the network that sees the rest is
to give the items of that part a large probability under

    p(i | history) = softmax_i( s(ψ(bag), v_i) ),   ψ the network, s the dot product or the cosine over a
    temperature

(Covington, Adams & Sargin 2016; that as many as half are held out at once is what makes autoencoders of
histories good, Liang et al. 2018). The bag is the sum of its items' vectors over their number to a power,
plus the vectors of the user's features. The tables of items and the network are the same in every task, and
so is the order of the users, who stay with their tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from recsys_spark.errors import ModelError
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Hashes, Ints, Longs
from recsys_spark.kernels.bags import add_rows, bag_sums, bag_sums_backward
from recsys_spark.kernels.negatives import Proposal
from recsys_spark.kernels.network import backward, forward
from recsys_spark.kernels.randomness import mix, uniform
from recsys_spark.training.barrier import IdTypes, Outcome
from recsys_spark.training.gradient.program import GradientOutcome, GradientProgram
from recsys_spark.training.gradient.steps import (
    Epoch,
    Gradient,
    State,
    adam_step,
    derive_seed,
    index_among,
    initial_layers,
    layer_gradients,
    network_from_tables,
    normalized,
    random_table,
    scheduled_rate,
    union_of_rows,
)
from recsys_spark.training.group import Group, Report
from recsys_spark.training.histories import Histories
from recsys_spark.training.side_features import USER_FEATURES, Features
from recsys_spark.training.softmax.batch import INPUTS, MiniBatch, SampledItems, score_gradients
from recsys_spark.training.softmax.config import SoftmaxConfig

OUTPUTS = "outputs"
_ORDER, _TARGETS, _DROPOUT, _NEGATIVES, _VALIDATION, _START = range(6)
_FIXED = 2**31
"""The epoch that keys the validation's targets."""


@dataclass(frozen=True)
class SoftmaxProgram(GradientProgram[GradientOutcome]):
    """The softmax model as a barrier job trains it; serves ψ of users and v of items."""

    config: SoftmaxConfig
    id_types: IdTypes

    step_name: ClassVar[str] = "softmax epoch"
    outcome_type: ClassVar[type[Outcome]] = GradientOutcome

    @property
    def max_steps(self) -> int:
        """Largest number of epochs."""
        return self.config.max_epochs

    @property
    def explicit(self) -> bool:
        """Ratings above 0 are positives."""
        return False

    def initial_state(self, data: Histories) -> State:
        """Random vectors, each a pure function of its id or its feature's name, and random layers."""
        config, item_hashes = self.config, hash_ids(data.catalogue)
        widths = {INPUTS: config.embedding_dim} | ({} if config.tie_items else {OUTPUTS: config.width})
        tables = {
            name: random_table(derive_seed(config.seed, _START, number), item_hashes, width, width**-0.5)
            for number, (name, width) in enumerate(widths.items())
        }
        dim, feature_hashes = config.embedding_dim, hash_ids(data.user_features.names)
        tables[USER_FEATURES] = random_table(
            derive_seed(config.seed, _START, 2), feature_hashes, dim, dim**-0.5
        )
        return State.initial(tables | initial_layers((dim, *config.hidden), config.seed))

    def train(
        self, group: Group, data: Histories, state: State, until: int, report: Report = None
    ) -> list[Epoch]:
        """Continue from ``state``, in place, to the epoch ``until`` or to where it stops improving.

        Parameters
        ----------
        group : the tasks; all call this at once
        data : this task's histories
        state : the same in every task
        until : epoch after which to end
        report : called after each epoch with its number from 1, its loss and its seconds

        Notes
        -----
        Memory of a task: 16 bytes for each of its events, 16 for each user of all tasks, ``12 * n_items *
        (dim + width)`` for the tables and their moments, as much again for gradients where a step touches all
        items, and for a mini-batch's scores ``12 * batch * n_items`` over the tasks, or with sampled items
        ``24 * batch * negatives``. Validation scores all items. A step sends the gradients of the rows that
        it touches, in all-reduce.

        Raises
        ------
        ModelError
            A validation part without a user of at least two items.
        """
        config = self.config
        in_validation = (
            uniform(derive_seed(config.seed, _VALIDATION), data.id_hashes) < config.validation_fraction
        )
        proposal = None
        if config.n_negatives:
            proposal = Proposal.build(np.maximum(data.counts, 1.0) ** config.popularity_exponent)
        epochs: list[Epoch] = []
        while state.epochs < until and not self.stalled(state):
            started = time.perf_counter()
            keys = mix(derive_seed(config.seed, _TARGETS), state.epochs, data.id_hashes)
            losses = np.zeros(2)
            for rows in self._mini_batches(group, data, state, ~in_validation):
                losses += self._step(group, data, state, rows, keys, proposal)
            state.epochs += 1
            validation = None
            if config.validation_fraction:
                validation = self._validate(
                    group, data, state, np.flatnonzero(in_validation).astype(np.int32)
                )
            epochs.append(
                Epoch(float(losses[0] / max(losses[1], 1)), validation, time.perf_counter() - started)
            )
            if report is not None:
                report(np.array([len(epochs), epochs[-1].loss, epochs[-1].seconds]))
        return epochs

    def finished(self, state: State) -> bool:
        """Whether all epochs are done, or the validation has stalled."""
        return state.epochs >= self.max_steps or self.stalled(state)

    def stalled(self, state: State) -> bool:
        """Whether the validation's loss has not fallen for ``patience`` epochs."""
        patience = self.config.patience
        return bool(patience and state.best is not None and state.epochs - state.best[1] >= patience)

    def served_vectors(self, data: Histories, state: State) -> tuple[Floats, Floats]:
        """ψ of the own users, and v."""
        psi = user_vectors(data.indptr, data.items, data.user_features, state.tables, self.config)
        return psi, item_vectors(state.tables, self.config)

    def extend_outcome(self, outcome: GradientOutcome, *_: object) -> GradientOutcome:
        """The outcome as it is."""
        return outcome

    def _mini_batches(self, group: Group, data: Histories, state: State, trained_on: Booleans) -> list[Ints]:
        """Own users of each mini-batch of an epoch; all users of all tasks are shuffled, and cut at
        multiples of the batch size.
        """
        keys = mix(derive_seed(self.config.seed, _ORDER), state.epochs, data.id_hashes)
        all_keys = np.sort(np.concatenate(group.all_gather(keys[trained_on])))
        place = np.where(trained_on, np.searchsorted(all_keys, keys), -1)
        order = np.argsort(place).astype(np.int32)
        size = self.config.batch_size
        bounds = np.searchsorted(place[order], np.arange(0, len(all_keys) + size, size))
        return [order[begin:end] for begin, end in pairwise(bounds)]

    def _step(
        self, group: Group, data: Histories, state: State, rows: Ints, keys: Hashes, proposal: Proposal | None
    ) -> Doubles:
        """One step of Adam; returns the mini-batch's summed loss and the weight of its examples, over all
        tasks.
        """
        config = self.config
        batch = MiniBatch.build(data, rows, keys, state.tables, config)
        masks = self._dropout_masks(data.id_hashes[rows], state)
        network = network_from_tables(state.tables)
        outputs = forward(network, batch.bags, config.activation, masks)
        sampled = self.sample_items(state, proposal)
        losses, grad_psi, grad_scored = score_gradients(
            outputs[-1], output_vectors(state.tables), batch, sampled, config
        )
        grad_layers, grad_bags = backward(network, outputs, grad_psi, config.activation, masks)
        gradients = self._item_gradients(group, data, state, rows, batch, sampled, grad_bags, grad_scored)
        if len(data.user_features.names):
            columns = union_of_rows(group, data.user_features.columns_of(rows), len(data.user_features.names))
            sums = data.user_features.sums_backward(rows, grad_bags, columns)
            gradients[USER_FEATURES] = Gradient(columns, sums)
        gradients |= layer_gradients(grad_layers)
        rate = scheduled_rate(config.learning_rate, config.schedule, state.epochs / max(config.max_epochs, 1))
        loss = float(losses.sum(dtype=np.float64)), float(batch.weights.sum(dtype=np.float64))
        return adam_step(group, state, gradients, loss, rate, config.weight_decay)

    def _item_gradients(
        self,
        group: Group,
        data: Histories,
        state: State,
        rows: Ints,
        batch: MiniBatch,
        sampled: SampledItems | None,
        grad_bags: Floats,
        grad_scored: Floats,
    ) -> dict[str, Gradient]:
        """Gradients of the items' tables: through the bags, and through the scores."""
        n_items, grad_sums = len(data.counts), grad_bags * batch.scales[:, None]
        in_bags = np.concatenate(
            [data.items[:0], *(data.items[data.indptr[row] : data.indptr[row + 1]] for row in rows)]
        )
        bounds = np.concatenate([[0], np.cumsum(np.diff(data.indptr)[rows])]).astype(np.int64)
        all_items, all_bags = np.arange(n_items, dtype=np.int32), np.arange(len(rows), dtype=np.int32)
        scored = all_items if sampled is None else np.concatenate([batch.targets, sampled.items])
        tied = self.config.tie_items
        touched = {INPUTS: np.concatenate([in_bags, scored])} if tied else {INPUTS: in_bags, OUTPUTS: scored}
        gradients = {}
        for name, items in touched.items():
            is_scored = tied or name == OUTPUTS
            named = all_items if sampled is None and is_scored else union_of_rows(group, items, n_items)
            index, sums = (
                index_among(named, n_items),
                np.zeros((len(named), state.tables[name].shape[1]), np.float32),
            )
            if name == INPUTS:
                bag_sums_backward(bounds, index[in_bags], all_bags, grad_sums, sums)
                bag_sums_backward(batch.bounds, index[batch.targets], all_bags, -grad_sums, sums)
            if is_scored:
                add_rows(sums, index[scored], grad_scored, 1.0)
            gradients[name] = Gradient(named, sums)
        return gradients

    def _validate(self, group: Group, data: Histories, state: State, rows: Ints) -> float:
        """Mean loss, over the whole catalogue, of the own histories ``rows`` of all tasks; keeps the best
        in ``state``.
        """
        config = self.config
        keys = mix(derive_seed(config.seed, _TARGETS), _FIXED, data.id_hashes)
        own = np.zeros(2)
        for begin in range(0, len(rows), config.batch_size):
            batch = MiniBatch.build(data, rows[begin : begin + config.batch_size], keys, state.tables, config)
            psi = forward(network_from_tables(state.tables), batch.bags, config.activation)[-1]
            losses = score_gradients(psi, output_vectors(state.tables), batch, None, config)[0]
            own += losses.sum(dtype=np.float64), batch.weights.sum(dtype=np.float64)
        total = group.all_reduce(own)
        if not total[1]:
            raise ModelError(
                "validation has no user with two items: raise validationFraction, or leave patience at 0"
            )
        validation = float(total[0] / total[1])
        if state.best is None or validation < state.best[0]:
            state.best = validation, state.epochs
        return validation

    def sample_items(self, state: State, proposal: Proposal | None) -> SampledItems | None:
        """Negatives of this step, the same in every task; None where the whole catalogue is scored."""
        if proposal is None:
            return None
        n_negatives, seed = self.config.n_negatives, derive_seed(self.config.seed, _NEGATIVES)
        items = proposal.draw(uniform(seed, state.steps, np.arange(n_negatives)))
        return SampledItems(items, proposal.log_q[items] + np.float32(np.log(n_negatives)))

    def _dropout_masks(self, id_hashes: Hashes, state: State) -> list[Floats]:
        """Dropout of each user, keyed by the step."""
        config = self.config
        if not config.dropout:
            return []
        masks = []
        keys = mix(derive_seed(config.seed, _DROPOUT), state.steps, id_hashes)
        for number, size in enumerate(config.hidden[:-1]):
            kept = uniform(number, keys[:, None], np.arange(size)) >= config.dropout
            masks.append((kept / (1 - config.dropout)).astype(np.float32))
        return masks


def output_vectors(tables: dict[str, Floats]) -> Floats:
    """Vectors v, shape (n_items, width), as they are learnt."""
    return tables.get(OUTPUTS, tables[INPUTS])


def user_vectors(
    indptr: Longs, items: Ints, features: Features, tables: dict[str, Floats], config: SoftmaxConfig
) -> Floats:
    """ψ of whole histories, shape (n, width); with cosine of length 1 / temperature, so that a dot product is
    the score.

    Parameters
    ----------
    indptr, items : histories as compressed rows; ``items`` are rows of the tables
    features : of the same users
    tables : what was learnt
    config : the network
    """
    sums = bag_sums(indptr, items, np.arange(len(indptr) - 1, dtype=np.int32), tables[INPUTS])
    bags = sums / np.maximum(np.diff(indptr), 1)[:, None].astype(np.float32) ** config.bag_exponent
    bags += features.sums(slice(None), tables[USER_FEATURES])
    psi = forward(network_from_tables(tables), bags, config.activation)[-1]
    return np.asarray(normalized(psi)[0] / config.temperature if config.cosine else psi, np.float32)


def item_vectors(tables: dict[str, Floats], config: SoftmaxConfig) -> Floats:
    """Vectors v, with cosine of length 1."""
    vectors = output_vectors(tables)
    return normalized(vectors)[0] if config.cosine else vectors
