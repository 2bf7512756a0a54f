"""One mini-batch of the pair models: its pairs with their candidates, the loss, and the gradients of all
that is learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels import losses
from recsys_spark.kernels.arrays import Booleans, Floats, Ints
from recsys_spark.kernels.bags import add_rows
from recsys_spark.kernels.network import backward, forward
from recsys_spark.kernels.pairs import pair_scores, pair_scores_backward
from recsys_spark.kernels.randomness import mix, uniform
from recsys_spark.kernels.sets import distinct
from recsys_spark.training.gradient.steps import (
    Gradient,
    State,
    derive_seed,
    index_among,
    layer_gradients,
    network_from_tables,
    normalized,
    union_of_rows,
)
from recsys_spark.training.group import Group
from recsys_spark.training.histories import Histories
from recsys_spark.training.pairwise.config import PairwiseConfig
from recsys_spark.training.side_features import ITEM_FEATURES, USER_FEATURES

USERS, ITEMS = "users", "items"
DROPOUT = 2
"""Key of the dropout's draws."""


@dataclass(frozen=True)
class MiniBatch:
    """Own share of a mini-batch: one row for each pair.

    Attributes
    ----------
    group, data, config : the tasks, this task's histories, and the hyperparameters
    users : own users that occur, ascending
    items : items that occur in any task, ascending
    rows : index of each pair's user among ``users``
    candidates : int32 array, shape (n_pairs, 1 + n_negatives): index among ``items`` of each pair's item, and
        of its negatives; -1 for none
    """

    group: Group
    data: Histories
    config: PairwiseConfig
    users: Ints
    items: Ints
    rows: Ints
    candidates: Ints

    @classmethod
    def build(
        cls, group: Group, data: Histories, config: PairwiseConfig, rows: Ints, candidates: Ints
    ) -> MiniBatch:
        """Number the users and items of pairs: ``rows`` are own users, ``candidates`` catalogue positions."""
        n_items = len(data.catalogue)
        users, items = distinct(rows), union_of_rows(group, candidates[candidates >= 0], n_items)
        index = np.where(candidates >= 0, index_among(items, n_items)[candidates], -1).astype(np.int32)
        return cls(group, data, config, users, items, np.searchsorted(users, rows).astype(np.int32), index)

    @property
    def mask(self) -> Booleans:
        """Which candidates exist."""
        return self.candidates >= 0

    def gradients(self, state: State, ratings: Floats, mean: float) -> tuple[Floats, dict[str, Gradient]]:
        """Loss of each pair, and the gradients of their sum with respect to all that is learnt.

        Parameters
        ----------
        state : what is learnt; ``steps`` keys the dropout
        ratings : float32 array, shape (n_pairs,)
        mean : added to every score
        """
        config = self.config
        x, y, backwards = self._vectors(state.tables)
        scores = pair_scores(x, y, self.rows, self.candidates, config.product) + np.float32(mean)
        hidden = HiddenLayers.build(self, x, y, state) if config.network else None
        if hidden is not None:
            scores[self.mask] += hidden.outputs[-1][:, 0]
        pair_loss, grad_scores = pair_losses(scores, self.mask, ratings, config)
        grad_x, grad_y = np.zeros_like(x), np.zeros_like(y)
        pair_scores_backward(x, y, self.rows, self.candidates, config.product, grad_scores, grad_x, grad_y)
        gradients: dict[str, Gradient] = {}
        if hidden is not None:
            gradients |= hidden.gradients(grad_scores[self.mask], grad_x, grad_y)
        for side, normalized_backward in zip((grad_x, grad_y), backwards, strict=False):
            side[:, :-1] = normalized_backward(side[:, :-1])
        if not config.biases:
            grad_y[:, -1] = 0.0
        if (
            not config.biases or config.loss == "bpr"
        ):  # where a user's bias cancels, and rounding would be all its gradient
            grad_x[:, -1] = 0.0
        return pair_loss, gradients | self._table_gradients(grad_x, grad_y)

    def _vectors(self, tables: dict[str, Floats]) -> tuple[Floats, Floats, list[Callable[[Floats], Floats]]]:
        """Vectors of the users and items, biases last; and with cosine the backward pass of their
        normalisation.
        """
        x = tables[USERS][self.users] + self.data.user_features.sums(self.users, tables[USER_FEATURES])
        y = tables[ITEMS][self.items] + self.data.item_features.sums(self.items, tables[ITEM_FEATURES])
        backwards = []
        if self.config.cosine:
            for side in (x, y):
                side[:, :-1], normalized_backward = normalized(side[:, :-1])
                backwards.append(normalized_backward)
        return x, y, backwards

    def _table_gradients(self, grad_x: Floats, grad_y: Floats) -> dict[str, Gradient]:
        """Gradients of the tables of users, items and their features, from those of the vectors."""
        data = self.data
        gradients = {USERS: Gradient(self.users, grad_x, own=True), ITEMS: Gradient(self.items, grad_y)}
        if len(data.user_features.names):
            own = data.user_features.columns_of(self.users)
            columns = union_of_rows(self.group, own, len(data.user_features.names))
            gradients[USER_FEATURES] = Gradient(
                columns, data.user_features.sums_backward(self.users, grad_x, columns)
            )
        if len(data.item_features.names):
            columns = data.item_features.columns_of(self.items)
            gradients[ITEM_FEATURES] = Gradient(
                columns, data.item_features.sums_backward(self.items, grad_y, columns)
            )
        return gradients


def pair_losses(
    scores: Floats, mask: Booleans, ratings: Floats, config: PairwiseConfig
) -> tuple[Floats, Floats]:
    """Loss of each pair under ``config.loss``, and the gradients with respect to ``scores``."""
    if config.loss == "squared":
        return losses.squared(scores, ratings)
    if config.loss == "logistic":
        return losses.logistic(scores, mask)
    if config.loss == "bpr":
        return losses.bpr(scores, mask)
    return losses.contrastive(scores, mask, config.margin, config.negative_weight)


@dataclass(frozen=True)
class HiddenLayers:
    """The network's part of a mini-batch: one row for each candidate that exists."""

    rows: Ints
    items: Ints
    outputs: list[Floats]
    masks: list[Floats]
    state: State
    config: PairwiseConfig

    @classmethod
    def build(cls, batch: MiniBatch, x: Floats, y: Floats, state: State) -> HiddenLayers:
        """Run the network over the vectors of every pair's user and candidate."""
        config = batch.config
        rows = np.repeat(batch.rows, batch.mask.sum(axis=1))
        items = batch.candidates[batch.mask]
        masks = []
        if config.dropout:
            id_hashes = batch.data.id_hashes[batch.users][rows]
            keys = mix(derive_seed(config.seed, DROPOUT), state.steps, id_hashes, batch.items[items])
            for number, size in enumerate(config.hidden):
                kept = uniform(number, keys[:, None], np.arange(size)) >= config.dropout
                masks.append((kept / (1 - config.dropout)).astype(np.float32))
        pairs = np.concatenate([x[rows, :-1], y[items, :-1]], axis=1)
        outputs = forward(network_from_tables(state.tables), pairs, config.activation, masks)
        return cls(rows, items, outputs, masks, state, config)

    def gradients(self, grad_output: Floats, grad_x: Floats, grad_y: Floats) -> dict[str, Gradient]:
        """Gradients of the layers; those of the vectors are added to ``grad_x`` and ``grad_y``."""
        network, dim = network_from_tables(self.state.tables), self.config.embedding_dim
        layers, grad_pairs = backward(
            network, self.outputs, grad_output[:, None], self.config.activation, self.masks
        )
        add_rows(grad_x[:, :-1], self.rows, grad_pairs[:, :dim], 1.0)
        add_rows(grad_y[:, :-1], self.items, grad_pairs[:, dim:], 1.0)
        return layer_gradients(layers)
