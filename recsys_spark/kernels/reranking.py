"""Choosing a list from more candidates than it has room for: one at a time, the best of those that are left.

    (1 - d - c) relevance(i) + boost(i) - d max over the list's j of likeness(i, j) - c KL(taste, list with i)

Relevance is the score, from 0 for the last candidate to 1 for the first. Likeness is the cosine of two sets
of values, such as genres: |A ∩ B| / √(|A| |B|), or of two vectors, where it is above 0 (maximal marginal
relevance, Carbonell & Goldstein 1998). The last term is the Kullback–Leibler divergence of the values of the
user's history from those of the list (calibration, Steck 2018), in which an item's values share its weight,
and the list's are mixed with one in a hundred of the history's.

A list may begin with items that are given, as one that is filled up does: they count for all of this, and are
not chosen again.

A value may have a cap: once so many of the list's items have it, others that have it are passed over, unless
nothing else is left. A floor is a set of items of which a list has at least so many: once what floors lack is
as much as the slots that are left, others are passed over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Ints, Longs, exact_jit, inlined_exact_jit

MIXED = 0.01
"""How much of a list's values are the history's, so that a value that it lacks costs something finite."""


class ItemValues(NamedTuple):
    """Values of items, such as genres and makers, by place.

    Attributes
    ----------
    indptr, values : int64 array (n_items + 1,), int32 array: the values of each item, each once
    alike : bool array, shape (n_values,): whether items are more alike for having it both, and tastes have it
    caps : int32 array, shape (n_values,): how many items of a list may have it
    vectors : float32 array, shape (n_items, n), or None: of length 1 or 0, by which items are alike instead
    """

    indptr: Longs
    values: Ints
    alike: Booleans
    caps: Ints
    vectors: Floats | None = None


class Wishes(NamedTuple):
    """What is wanted of lists beside the scores.

    Attributes
    ----------
    boosts : float64 array, shape (n_items,): added to the relevance
    members : bool array, shape (n_floors, n_items): which items a floor counts
    least : int32 array, shape (n_floors,): how many of them a list has at least
    """

    boosts: Doubles
    members: Booleans
    least: Ints

    @classmethod
    def none(cls, n_items: int) -> Wishes:
        """Nothing."""
        return cls(np.zeros(n_items), np.zeros((0, n_items), bool), np.zeros(0, np.int32))


def rerank(
    scores: Floats,
    items: Ints,
    starts: Longs,
    of_items: ItemValues,
    n: int,
    diversity: float,
    wishes: Wishes | None = None,
    calibration: float = 0.0,
    tastes: Doubles | None = None,
    given: Longs | None = None,
) -> Longs:
    """The places of the entries that are chosen, list by list, in the order of the lists.

    Parameters
    ----------
    scores : float32 array, shape (n_entries,)
        Of the candidates, each list's in descending order, after those that are given.
    items : int32 array, shape (n_entries,)
        Which item; -1 for one of which nothing is known, which is like no other.
    starts : int64 array, shape (n_lists + 1,)
        Where the lists begin.
    of_items : ItemValues
        By item.
    n : int
        Length of the lists.
    diversity, calibration : float
        Weights of likeness and of divergence, at least 0, together below 1.
    wishes : Wishes, optional
        By item.
    tastes : float64 array, shape (n_lists, n_values), optional
        Shares of the values in each user's history, which add up to 1; all 0 for a user without. Wanted where
        ``calibration`` is above 0.
    given : int64 array, shape (n_lists,), optional
        How many of a list's first entries are its beginning already, at most ``n``; 0 without it.

    Returns
    -------
    int64 array, shape (n_lists, n)
        Entries, first those that are given; -1 where a list has fewer candidates.

    Cost: ``n`` passes over a list's candidates and their values.
    """
    owners = np.repeat(np.arange(len(of_items.indptr) - 1), np.diff(of_items.indptr))
    sizes = np.bincount(owners, of_items.alike[of_items.values], len(of_items.indptr) - 1)
    chosen = np.full((len(starts) - 1, n), -1, np.int64)
    asked = Wishes.none(len(sizes)) if wishes is None else wishes
    vectors = np.zeros((len(sizes), 0), np.float32) if of_items.vectors is None else of_items.vectors
    _rerank(
        np.ascontiguousarray(scores, np.float32),
        np.ascontiguousarray(items, np.int32),
        np.ascontiguousarray(starts, np.int64),
        of_items.indptr,
        of_items.values,
        of_items.alike,
        of_items.caps,
        np.ascontiguousarray(vectors, np.float32),
        sizes,
        diversity,
        calibration,
        np.zeros((len(chosen), len(of_items.caps))) if tastes is None else tastes,
        asked.boosts,
        asked.members,
        asked.least,
        np.zeros(len(chosen), np.int64) if given is None else np.ascontiguousarray(given, np.int64),
        chosen,
    )
    return chosen


@exact_jit
def _rerank(
    scores: Floats,
    items: Ints,
    starts: Longs,
    indptr: Longs,
    values: Ints,
    alike: Booleans,
    caps: Ints,
    vectors: Floats,
    sizes: Doubles,
    diversity: float,
    calibration: float,
    tastes: Doubles,
    boosts: Doubles,
    members: Booleans,
    least: Ints,
    given: Longs,
    chosen: Longs,
) -> None:
    n_lists, n = chosen.shape
    have = np.zeros(len(caps), np.int64)  # how many of the list's items have a value
    marked = np.full(len(caps), -1, np.int64)  # the entry that has marked a value last
    share = np.zeros(len(caps))  # the list's values, of which each item's add up to 1
    for row in range(n_lists):
        start, stop = starts[row], starts[row + 1]
        length = stop - start
        taken = np.zeros(length, np.bool_)
        nearest = np.zeros(length)
        lacking = least.copy()
        top, spread = 0.0, 0.0
        if length > given[row]:
            top = np.float64(scores[start + given[row]])
            spread = top - np.float64(scores[stop - 1])
        share[:] = 0.0
        slots, valued = min(n, length), 0
        for slot in range(slots):
            lack = 0
            for floor in range(len(lacking)):
                lack += max(lacking[floor], 0)
            urgent = lack >= slots - slot
            best, best_value, best_fits, best_urgent = -1, 0.0, False, False
            first = given[row]
            if slot < given[row]:
                best, first = slot, length
            base = _divergence(tastes[row], share, 1.0 / (valued + 1.0)) if calibration > 0 else 0.0
            for entry in range(first, length):
                if taken[entry]:
                    continue
                relevance = 1.0
                if spread > 0:
                    relevance = 1.0 - (top - scores[start + entry]) / spread
                value = (1.0 - diversity - calibration) * relevance - diversity * nearest[entry]
                fits, needed = True, False
                item = items[start + entry]
                if item >= 0:
                    value += boosts[item]
                    for at in range(indptr[item], indptr[item + 1]):
                        if have[values[at]] >= caps[values[at]]:
                            fits = False
                    for floor in range(len(lacking)):
                        if lacking[floor] > 0 and members[floor, item]:
                            needed = True
                if calibration > 0:
                    value -= calibration * base
                    if item >= 0 and sizes[item] > 0:
                        for at in range(indptr[item], indptr[item + 1]):
                            one = values[at]
                            if alike[one] and tastes[row, one] > 0:
                                before = share[one] / (valued + 1.0)
                                after = (share[one] + 1.0 / sizes[item]) / (valued + 1.0)
                                taste = tastes[row, one]
                                value += (
                                    calibration * taste * np.log(_mixed(taste, after) / _mixed(taste, before))
                                )
                needed = needed and urgent
                better = best < 0 or (needed and not best_urgent)
                if not better and needed == best_urgent:
                    better = (fits and not best_fits) or (fits == best_fits and value > best_value)
                if better:
                    best, best_value, best_fits, best_urgent = entry, value, fits, needed
            taken[best] = True
            chosen[row, slot] = start + best
            item = items[start + best]
            if item < 0:
                continue
            for floor in range(len(lacking)):
                if members[floor, item]:
                    lacking[floor] -= 1
            for at in range(indptr[item], indptr[item + 1]):
                have[values[at]] += 1
                marked[values[at]] = start + best
            if sizes[item] > 0:
                valued += 1
            for at in range(indptr[item], indptr[item + 1]):
                if alike[values[at]]:
                    share[values[at]] += 1.0 / sizes[item]
            if diversity == 0:
                continue
            for entry in range(length):
                other = items[start + entry]
                if taken[entry] or other < 0:
                    continue
                likeness = 0.0
                for k in range(vectors.shape[1]):
                    likeness += np.float64(vectors[item, k]) * np.float64(vectors[other, k])
                if sizes[item] > 0 and sizes[other] > 0:
                    common = 0
                    for at in range(indptr[other], indptr[other + 1]):
                        if alike[values[at]] and marked[values[at]] == start + best:
                            common += 1
                    likeness = common / np.sqrt(sizes[item] * sizes[other])
                nearest[entry] = max(nearest[entry], likeness)
        for slot in range(slots):
            item = items[chosen[row, slot]]
            if item >= 0:
                for at in range(indptr[item], indptr[item + 1]):
                    have[values[at]] = 0


@inlined_exact_jit
def _mixed(taste: float, share: float) -> float:
    return (1.0 - MIXED) * share + MIXED * taste


@inlined_exact_jit
def _divergence(taste: Doubles, share: Doubles, scale: float) -> float:
    """Of a history's values from those of a list, whose shares are scaled."""
    total = 0.0
    for value in range(len(taste)):
        if taste[value] > 0:
            total += taste[value] * np.log(taste[value] / _mixed(taste[value], share[value] * scale))
    return total
