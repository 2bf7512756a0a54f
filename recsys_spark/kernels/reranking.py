"""Choosing a list from more candidates than it has room for: one at a time, the best of those that are left.

An item is good by its score, and less so the more it is like an item that is in the list already (maximal
marginal relevance, Carbonell & Goldstein 1998):

    (1 - w) relevance(i) - w max over the list's j of likeness(i, j)

where relevance is the score, from 0 for the last candidate to 1 for the first, and likeness the cosine of two
sets of values, such as genres: |A ∩ B| / √(|A| |B|). A value may have a cap: once so many of the list's items
have it, others that have it are passed over, unless nothing else is left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Ints, Longs, exact_jit


class ItemValues(NamedTuple):
    """Values of items, such as genres and makers, by place.

    Attributes
    ----------
    indptr, values : int64 array (n_items + 1,), int32 array: the values of each item, each once
    alike : bool array, shape (n_values,): whether items are more alike for having it both
    caps : int32 array, shape (n_values,): how many items of a list may have it
    """

    indptr: Longs
    values: Ints
    alike: Booleans
    caps: Ints


def rerank(scores: Floats, items: Ints, starts: Longs, of_items: ItemValues, n: int, weight: float) -> Longs:
    """The places of the entries that are chosen, list by list, in the order of the lists.

    Parameters
    ----------
    scores : float32 array, shape (n_entries,)
        Of the candidates, each list's in descending order.
    items : int32 array, shape (n_entries,)
        Which item; -1 for one of which nothing is known, which is like no other.
    starts : int64 array, shape (n_lists + 1,)
        Where the lists begin.
    of_items : ItemValues
        By item.
    n : int
        Length of the lists.
    weight : float
        0 for relevance alone, below 1.

    Returns
    -------
    int64 array, shape (n_lists, n)
        Entries, -1 where a list has fewer candidates.

    Cost: ``n`` passes over a list's candidates and their values.
    """
    owners = np.repeat(np.arange(len(of_items.indptr) - 1), np.diff(of_items.indptr))
    sizes = np.bincount(owners, of_items.alike[of_items.values], len(of_items.indptr) - 1)
    chosen = np.full((len(starts) - 1, n), -1, np.int64)
    _rerank(
        np.ascontiguousarray(scores, np.float32),
        np.ascontiguousarray(items, np.int32),
        np.ascontiguousarray(starts, np.int64),
        of_items.indptr,
        of_items.values,
        of_items.alike,
        of_items.caps,
        sizes,
        weight,
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
    sizes: Doubles,
    weight: float,
    chosen: Longs,
) -> None:
    n_lists, n = chosen.shape
    have = np.zeros(len(caps), np.int64)  # how many of the list's items have a value
    marked = np.full(len(caps), -1, np.int64)  # the entry that has marked a value last
    for row in range(n_lists):
        start, stop = starts[row], starts[row + 1]
        length = stop - start
        taken = np.zeros(length, np.bool_)
        nearest = np.zeros(length)
        top, spread = 0.0, 0.0
        if length:
            top = np.float64(scores[start])
            spread = top - np.float64(scores[stop - 1])
        for slot in range(min(n, length)):
            best, best_value, best_fits = -1, 0.0, False
            for entry in range(length):
                if taken[entry]:
                    continue
                relevance = 1.0
                if spread > 0:
                    relevance = 1.0 - (top - scores[start + entry]) / spread
                value = (1.0 - weight) * relevance - weight * nearest[entry]
                fits = True
                item = items[start + entry]
                if item >= 0:
                    for at in range(indptr[item], indptr[item + 1]):
                        if have[values[at]] >= caps[values[at]]:
                            fits = False
                if best < 0 or (fits and not best_fits) or (fits == best_fits and value > best_value):
                    best, best_value, best_fits = entry, value, fits
            taken[best] = True
            chosen[row, slot] = start + best
            item = items[start + best]
            if item < 0:
                continue
            for at in range(indptr[item], indptr[item + 1]):
                have[values[at]] += 1
                marked[values[at]] = start + best
            if weight == 0 or sizes[item] == 0:
                continue
            for entry in range(length):
                other = items[start + entry]
                if taken[entry] or other < 0 or sizes[other] == 0:
                    continue
                common = 0
                for at in range(indptr[other], indptr[other + 1]):
                    if alike[values[at]] and marked[values[at]] == start + best:
                        common += 1
                likeness = common / np.sqrt(sizes[item] * sizes[other])
                nearest[entry] = max(nearest[entry], likeness)
        for slot in range(min(n, length)):
            item = items[chosen[row, slot]]
            if item >= 0:
                for at in range(indptr[item], indptr[item + 1]):
                    have[values[at]] = 0
