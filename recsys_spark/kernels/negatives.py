"""Negatives: items that a user has not interacted with, drawn from a distribution over the catalogue.

Draws come from an alias table (Walker 1977; Vose 1991); those that hit one of the user's known items, or an
item that the same positive already has, are repeated. Two cases could repeat for ever and are treated apart:
a user whose known items have nearly all of the distribution's mass draws from a list of the others, and a
positive that still needs items after many draws gets them by an exponential race over that list (Efraimidis &
Spirakis 2006). Neither changes the distribution: item after item, without replacement, each with a
probability proportional to its weight among those that are left.

Every draw is a pure function of the user's key and the number of the user's draws before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, Hashes, Ints, Longs, exact_jit, inlined_exact_jit
from recsys_spark.kernels.randomness import GOLDEN, inlined_finalise

CROWDED = 15 / 16
"""Mass of a user's known items above which the other items are listed, and drawn from the list."""
PATIENCE = 64, 8
"""Draws of a positive before it gets the missing items by a race: in all, and more for each item wanted."""


@dataclass(frozen=True)
class Proposal:
    """A distribution over catalogue positions, as an alias table.

    Attributes
    ----------
    accept : float32 array, shape (n_items,): chance with which a drawn position is kept
    alias : int32 array, shape (n_items,): the position used otherwise
    log_q : float32 array, shape (n_items,): log probability of each position
    """

    accept: Floats
    alias: Ints
    log_q: Floats

    @classmethod
    def build(cls, weights: Doubles) -> Proposal:
        """The distribution proportional to ``weights``, shape (n_items,), all above 0. Linear time.

        Raises
        ------
        ValueError
            There are no weights, or one is not a positive finite number.
        """
        weights = np.asarray(weights, np.float64)
        if not len(weights) or not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError("weights must be positive finite numbers, at least one")
        probabilities = weights / weights.sum()
        accept, alias = _alias_table(probabilities * len(probabilities))
        return cls(accept, alias, np.log(probabilities).astype(np.float32))

    def draw(self, chances: Doubles) -> Ints:
        """A position for each of ``chances``, uniform in [0, 1), with replacement."""
        scaled = chances * len(self.accept)
        position = scaled.astype(np.int32)
        kept = scaled - position < self.accept[position]
        return np.where(kept, position, self.alias[position]).astype(np.int32)


@dataclass(frozen=True)
class Drawn:
    """Negatives of some positives.

    Attributes
    ----------
    items : int32 array: catalogue positions, those of one positive together, in the order of the positives
    counts : int32 array, shape (n_positives,): how many each has; fewer than wanted where no more are unseen
    log_unseen : float64 array, shape (n_users,): log probability that a draw hits none of the user's known
        items
    """

    items: Ints
    counts: Ints
    log_unseen: Doubles


def draw_negatives(
    keys: Hashes, known: tuple[Longs, Ints], positives: Longs, wanted: Ints, proposal: Proposal
) -> Drawn:
    """Draw ``wanted`` negatives for each positive: no known item of its user, and none twice for the same
    positive.

    Parameters
    ----------
    keys : uint64 array, shape (n_users,): what each user's draws depend on, beside the proposal
    known : CSR pair (indptr int64 (n_users + 1,), positions int32), ascending and unique within a user
    positives : int64 array, shape (n_users + 1,): positives of user u are ``positives[u]`` to ``positives[u +
        1]``
    wanted : int32 array, shape (n_positives,)
    proposal : the distribution to draw from

    Returns
    -------
    Drawn

    Notes
    -----
    Memory: the result, and 12 bytes for each unseen item of one user. Cost: for each negative about one draw,
    one look-up in the user's known items by bisection, and one in a small hash table.
    """
    starts = np.concatenate([[0], np.cumsum(wanted)]).astype(np.int64)
    items = np.full(starts[-1], -1, np.int32)
    log_unseen = np.empty(len(keys))
    size = 2 ** int(2 * max(1, wanted.max(initial=1)) - 1).bit_length()
    _draw(
        keys,
        *known,
        positives,
        starts,
        size,
        proposal.accept,
        proposal.alias,
        proposal.log_q,
        items,
        log_unseen,
    )
    drawn = items >= 0
    if drawn.all():
        return Drawn(items, wanted, log_unseen)
    counts = np.diff(np.concatenate([[0], np.cumsum(drawn)])[starts]).astype(np.int32)
    return Drawn(items[drawn], counts, log_unseen)


@exact_jit
def _alias_table(scaled: Any) -> Any:
    n = len(scaled)
    accept, alias = np.ones(n, np.float32), np.arange(n).astype(np.int32)
    small, large = np.empty(n, np.int32), np.empty(n, np.int32)
    n_small, n_large = 0, 0
    for i in range(n):
        if scaled[i] < 1.0:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        i, j = small[n_small], large[n_large - 1]
        accept[i], alias[i] = scaled[i], j
        scaled[j] -= 1.0 - scaled[i]
        if scaled[j] < 1.0:
            n_large -= 1
            small[n_small] = j
            n_small += 1
    return accept, alias


@inlined_exact_jit
def _uniform(key: Any, counter: Any) -> Any:
    """A float64 in [0, 1), with the mixing of ``randomness.uniform``."""
    return (inlined_finalise((key ^ np.uint64(counter)) + GOLDEN) >> np.uint64(11)) * 2.0**-53


@inlined_exact_jit
def _contains(ascending: Any, item: Any) -> Any:
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) >> 1
        if ascending[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < len(ascending) and ascending[low] == item


@inlined_exact_jit
def _slot(table: Any, stamps: Any, stamp: Any, item: Any) -> Any:
    """Slot of ``item`` in the hash table of the positive ``stamp``, or the free slot for it."""
    mask = len(table) - 1
    slot = (item * 0x9E3779B1 >> 7) & mask
    while stamps[slot] == stamp and table[slot] != item:
        slot = (slot + 1) & mask
    return slot


@inlined_exact_jit
def _unseen_items(seen: Any, log_q: Any) -> Any:
    """Items that are not in ``seen``, and the running sums of their probabilities."""
    items, sums = np.empty(len(log_q) - len(seen), np.int32), np.empty(len(log_q) - len(seen), np.float64)
    k, total, n_seen = 0, 0.0, 0
    for item in range(len(log_q)):
        if n_seen < len(seen) and seen[n_seen] == item:
            n_seen += 1
            continue
        total += np.exp(np.float64(log_q[item]))
        items[k], sums[k] = item, total
        k += 1
    return items, sums


@exact_jit
def _draw(keys, known_indptr, known, positives, starts, size, accept, alias, log_q, items, log_unseen):  # type: ignore[no-untyped-def]
    n = len(accept)
    table, stamps = np.empty(size, np.int64), np.full(size, -1, np.int64)
    for u in range(len(keys)):
        key, counter = keys[u], 0
        seen = known[known_indptr[u] : known_indptr[u + 1]]
        mass = 0.0
        for item in seen:
            mass += np.exp(np.float64(log_q[item]))
        crowded = mass > CROWDED
        unseen, sums = _unseen_items(seen if crowded else known[:0], log_q if crowded else log_q[:0])
        log_unseen[u] = np.log(sums[-1]) if len(unseen) else np.log(max(0.0, 1.0 - mass))
        n_unseen = n - len(seen)
        for positive in range(positives[u], positives[u + 1]):
            index = starts[positive]
            stop = min(starts[positive + 1], index + n_unseen)
            last = counter + PATIENCE[0] + PATIENCE[1] * (stop - index)
            while index < stop and counter < last:
                chance = _uniform(key, counter)
                counter += 1
                if crowded:
                    nth = np.searchsorted(sums, chance * sums[-1], side="right")
                    item = np.int64(unseen[min(nth, len(unseen) - 1)])
                else:
                    scaled = chance * n
                    item = np.int64(scaled)
                    if scaled - item >= accept[item]:
                        item = np.int64(alias[item])
                    if _contains(seen, item):
                        continue
                slot = _slot(table, stamps, positive, item)
                if stamps[slot] != positive:
                    table[slot], stamps[slot] = item, positive
                    items[index] = item
                    index += 1
            if index < stop:
                if not len(unseen):
                    unseen, sums = _unseen_items(seen, log_q)
                arrivals = np.full(len(unseen), np.inf)
                for k in range(len(unseen)):
                    slot = _slot(table, stamps, positive, np.int64(unseen[k]))
                    if stamps[slot] != positive:
                        rate = np.exp(np.float64(log_q[unseen[k]]))
                        arrivals[k] = -np.log(1.0 - _uniform(key, counter)) / rate
                    counter += 1
                order = np.argsort(arrivals)
                for k in range(stop - index):
                    items[index + k] = unseen[order[k]]
