"""What several retrievers found for some users, as one table of candidates, and the best by new scores.

A retriever's lists are compressed rows: entries of all users one after the other, best first. Candidates are
in the order of users and items, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Floats, Ints, Longs
from recsys_spark.kernels.sets import distinct


class Retrieved(NamedTuple):
    """Lists of one retriever.

    Attributes
    ----------
    indptr : int64 array, shape (n_users + 1,)
    items, scores : int32 and float32 arrays, shape (n_entries,): places, each once in a list, and scores
    """

    indptr: Longs
    items: Ints
    scores: Floats


class Candidates(NamedTuple):
    """Of each user the items that any retriever found.

    Attributes
    ----------
    users, items : int32 arrays, shape (n,): rows, ascending, and in each the places of items, ascending
    scores, ranks : float32 arrays, shape (n, n_retrievers): NaN where a retriever did not find it; ranks
        count from 1
    """

    users: Ints
    items: Ints
    scores: Floats
    ranks: Floats


def merged(lists: Sequence[Retrieved], n_items: int) -> Candidates:
    """The union of several retrievers' lists of the same users.

    Parameters
    ----------
    lists : sequence of Retrieved
        At least one.
    n_items : int
        Places are below it.
    """
    rows = [np.repeat(np.arange(len(one.indptr) - 1), np.diff(one.indptr)) for one in lists]
    keys = [row * max(n_items, 1) + one.items for row, one in zip(rows, lists, strict=True)]
    every = distinct(np.concatenate(keys))
    users, items = np.divmod(every, max(n_items, 1))
    scores = np.full((len(every), len(lists)), np.nan, np.float32)
    ranks = scores.copy()
    for column, (row, key, one) in enumerate(zip(rows, keys, lists, strict=True)):
        at = np.searchsorted(every, key)
        scores[at, column] = one.scores
        ranks[at, column] = np.arange(len(key)) - one.indptr[row] + 1
    return Candidates(users.astype(np.int32), items.astype(np.int32), scores, ranks)


def best_candidates(found: Candidates, scores: Floats, n_users: int, n: int) -> tuple[Longs, Longs]:
    """The best ``n`` of each user by ``scores``; of equal ones that which a retriever ranks higher, and then
    the smaller item.

    Parameters
    ----------
    found : Candidates
        Of all users.
    scores : float32 array, shape (n_candidates,)
        Finite.
    n_users : int
        Rows.
    n : int
        Length of the lists, at least 1.

    Returns
    -------
    indptr, chosen : int64 arrays
        Compressed rows of places among the candidates, best first.
    """
    highest = np.fmin.reduce(found.ranks, axis=1, initial=np.inf)
    order = np.lexsort((found.items, highest, -scores, found.users))
    starts = np.searchsorted(found.users, np.arange(n_users + 1))
    place = np.arange(len(order)) - starts[found.users]  # users ascend, before and after
    chosen = order[place < n]
    return np.concatenate([[0], np.minimum(np.diff(starts), n).cumsum()]), chosen


def likeness(profiles: Floats, values: Floats) -> Floats:
    """How much of what an item is a user's history is: Σ over values, the missing ones as 0.

    Parameters
    ----------
    profiles, values : float32 arrays, shape (n_candidates, n_values)
        Mean values of the user's items, and the item's own.

    Returns
    -------
    float32 array, shape (n_candidates,)
        NaN where the item has no values at all.
    """
    total = np.einsum("ij,ij->i", profiles, np.nan_to_num(values))
    return np.where(np.isnan(values).all(axis=1), np.float32(np.nan), total).astype(np.float32)
