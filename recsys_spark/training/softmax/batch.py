"""One mini-batch of the softmax model: what the network sees of each user, what it is asked for, and the
loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Floats, Hashes, Ints, Longs
from recsys_spark.kernels.bags import add_rows, bag_sums, hold_out
from recsys_spark.kernels.losses import sampled_softmax_loss, softmax_loss
from recsys_spark.kernels.sets import contained
from recsys_spark.training.gradient.steps import normalized
from recsys_spark.training.histories import Histories
from recsys_spark.training.side_features import USER_FEATURES
from recsys_spark.training.softmax.config import SoftmaxConfig

INPUTS = "inputs"
_EXCLUDED = -1e9
"""Logit of a drawn item that does not count for a user."""


@dataclass(frozen=True)
class MiniBatch:
    """Own share of a mini-batch: inputs, targets, target weights.

    Attributes
    ----------
    bags : what the network sees of each user, without the targets; float32, shape (n_users, dim)
    scales : what the sum of a bag was multiplied by
    slots, targets, weights : of each target its user, ascending; its item; and its weight in the loss
    bounds : targets of user u are ``bounds[u]`` to ``bounds[u + 1]``
    """

    bags: Floats
    scales: Floats
    slots: Ints
    targets: Ints
    weights: Floats
    bounds: Longs

    @classmethod
    def build(
        cls, data: Histories, rows: Ints, keys: Hashes, tables: dict[str, Floats], config: SoftmaxConfig
    ) -> MiniBatch:
        """Hold out the targets of the own users ``rows``, as ``keys`` (of each own user) choose them, and
        sum up the rest.
        """
        slots, events = hold_out(keys, data.indptr, rows, config.target_fraction)
        targets, table = data.items[events], tables[INPUTS]
        n_targets = np.bincount(slots, minlength=len(rows))
        bounds = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
        sums = bag_sums(data.indptr, data.items, rows, table)
        sums -= bag_sums(bounds, targets, np.arange(len(rows), dtype=np.int32), table)
        n_inputs = np.maximum(np.diff(data.indptr)[rows] - n_targets, 1)
        scales = (n_inputs**-config.bag_exponent).astype(np.float32)
        bags = sums * scales[:, None] + data.user_features.sums(rows, tables[USER_FEATURES])
        weights = np.maximum(n_targets, 1)[slots] ** (config.user_exponent - 1)
        return cls(bags, scales, slots, targets, weights.astype(np.float32), bounds)


@dataclass(frozen=True)
class SampledItems:
    """Items drawn for a mini-batch, the same in every task, and the log of how often each is expected
    among them.
    """

    items: Ints
    log_expected: Floats


def score_gradients(
    psi: Floats, vectors: Floats, batch: MiniBatch, sampled: SampledItems | None, config: SoftmaxConfig
) -> tuple[Floats, Floats, Floats]:
    """Loss of each target, and the gradients of their sum with respect to ``psi`` and to the scored vectors.

    The scored vectors are the whole catalogue's or, of ``sampled`` items, those of the targets and then of
    the drawn items. The latter's scores are corrected by the logs of how often each is expected among them
    (Bengio & Senécal 2003), and a drawn item that is one of the user's targets does not count for that user:
    so the mean of the normaliser over all draws is that of the whole catalogue.

    Parameters
    ----------
    psi : shape (n_users, width)
    vectors : shape (n_items, width), as they are learnt
    batch : the targets
    sampled : drawn items, or None for the whole catalogue
    config : similarity, temperature and gravity
    """
    scale = np.float32(1 / config.temperature if config.cosine else 1.0)
    scored = vectors if sampled is None else vectors[np.concatenate([batch.targets, sampled.items])]
    if not config.cosine:
        return _losses(psi, scored, scale, batch, sampled, config.gravity)
    unit_psi, psi_backward = normalized(psi)
    unit_scored, scored_backward = normalized(scored)
    losses, grad_psi, grad_scored = _losses(unit_psi, unit_scored, scale, batch, sampled, config.gravity)
    return losses, psi_backward(grad_psi), scored_backward(grad_scored)


def _losses(
    psi: Floats,
    scored: Floats,
    scale: np.float32,
    batch: MiniBatch,
    sampled: SampledItems | None,
    gravity: float,
) -> tuple[Floats, Floats, Floats]:
    if sampled is None:
        return _catalogue_losses(psi, scored, scale, batch, gravity)
    return _sampled_losses(psi, scored, scale, batch, sampled, gravity)


def _catalogue_losses(
    psi: Floats, vectors: Floats, scale: np.float32, batch: MiniBatch, gravity: float
) -> tuple[Floats, Floats, Floats]:
    scaled = psi * scale
    logits = scaled @ vectors.T
    scores = logits.copy() if gravity else logits
    losses, gradient = softmax_loss(logits, batch.slots, batch.targets, batch.weights)
    if gravity:
        losses = losses + gravity * batch.weights * (scores**2).mean(axis=1)[batch.slots]
        user_weights = np.bincount(batch.slots, batch.weights, len(psi)).astype(psi.dtype)
        gradient += (2 * gravity / scores.shape[1]) * user_weights[:, None] * scores
    return losses, gradient @ vectors * scale, gradient.T @ scaled


def _sampled_losses(
    psi: Floats, vectors: Floats, scale: np.float32, batch: MiniBatch, sampled: SampledItems, gravity: float
) -> tuple[Floats, Floats, Floats]:
    slots, n = batch.slots, len(batch.targets)
    own = np.einsum("ij,ij->i", psi[slots], vectors[:n]) * scale
    shared = psi @ vectors[n:].T * scale
    corrected = shared - sampled.log_expected
    corrected[_targets_drawn(batch, sampled.items, len(psi))] = _EXCLUDED
    losses, grad_own, grad_shared = sampled_softmax_loss(own, corrected, slots, batch.weights)
    if gravity:
        each = gravity / (1 + len(sampled.items))
        losses = losses + each * batch.weights * (own**2 + (shared**2).sum(axis=1)[slots])
        grad_own = grad_own + 2 * each * batch.weights * own
        grad_shared = grad_shared + 2 * each * np.bincount(slots, batch.weights, len(psi))[:, None] * shared
    grad_own, grad_shared = (grad_own * scale).astype(psi.dtype), (grad_shared * scale).astype(psi.dtype)
    grad_psi = grad_shared @ vectors[n:]
    add_rows(grad_psi, slots, grad_own[:, None] * vectors[:n], 1.0)
    return losses, grad_psi, np.concatenate([grad_own[:, None] * psi[slots], grad_shared.T @ psi])


def _targets_drawn(
    batch: MiniBatch, items: Ints, n_users: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which of the drawn ``items`` are targets of each user, shape (n_users, n_items)."""
    n_items = int(max(items.max(), batch.targets.max(initial=0))) + 1
    keys = np.arange(n_users)[:, None] * n_items + items
    return contained(keys, batch.slots.astype(np.int64) * n_items + batch.targets)
