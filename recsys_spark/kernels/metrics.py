"""Ranking metrics of recommendation lists, one value per user, at one cut-off k.

Throughout, ``hits`` is a bool array, shape (n_users, length): whether the item at each rank of a user's list
is relevant; ranks beyond a list's end are False. ``n_relevant`` is an int array, shape (n_users,): how many
relevant items a user has in all, at least 1. Ranks count from 1, so column j is rank j + 1. All results are
float64, shape (n_users,).
"""

from __future__ import annotations

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Longs


def hit_rate(hits: Booleans, n_relevant: Longs, k: int) -> Doubles:
    """Whether any of the first k items is relevant: 1 or 0 (Deshpande & Karypis 2004).

    Parameters
    ----------
    hits : bool array, shape (n_users, length)
        Whether the item at each rank is relevant.
    n_relevant : int array, shape (n_users,)
        Relevant items of each user, at least 1.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import hit_rate
    >>> hits = np.array([[False, True, True, False]])
    >>> hit_rate(hits, np.array([4]), k=3).round(3).tolist()
    [1.0]
    """
    return np.asarray(hits[:, :k].any(axis=1), np.float64)


def precision(hits: Booleans, n_relevant: Longs, k: int) -> Doubles:
    """Relevant items among the first k, divided by k, even where the list is shorter (Herlocker et al.
    2004).

    Parameters
    ----------
    hits : bool array, shape (n_users, length)
        Whether the item at each rank is relevant.
    n_relevant : int array, shape (n_users,)
        Relevant items of each user, at least 1.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import precision
    >>> hits = np.array([[False, True, True, False]])
    >>> precision(hits, np.array([4]), k=3).round(3).tolist()
    [0.667]
    """
    return np.asarray(hits[:, :k].sum(axis=1) / k)


def recall(hits: Booleans, n_relevant: Longs, k: int) -> Doubles:
    """Relevant items among the first k, divided by ``n_relevant`` (Herlocker et al. 2004).

    Parameters
    ----------
    hits : bool array, shape (n_users, length)
        Whether the item at each rank is relevant.
    n_relevant : int array, shape (n_users,)
        Relevant items of each user, at least 1.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import recall
    >>> hits = np.array([[False, True, True, False]])
    >>> recall(hits, np.array([4]), k=3).round(3).tolist()
    [0.5]
    """
    return np.asarray(hits[:, :k].sum(axis=1) / n_relevant)


def average_precision(hits: Booleans, n_relevant: Longs, k: int) -> Doubles:
    """Precision at each relevant rank up to k, summed and divided by min(n_relevant, k) (Manning et al.
    2008, ch. 8).

    Parameters
    ----------
    hits : bool array, shape (n_users, length)
        Whether the item at each rank is relevant.
    n_relevant : int array, shape (n_users,)
        Relevant items of each user, at least 1.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import average_precision
    >>> hits = np.array([[False, True, True, False]])
    >>> average_precision(hits, np.array([4]), k=3).round(3).tolist()
    [0.389]
    """
    first = hits[:, :k]
    precision_at = np.cumsum(first, axis=1) / np.arange(1, first.shape[1] + 1)
    return np.asarray((precision_at * first).sum(axis=1) / np.minimum(n_relevant, k))


def reciprocal_rank(hits: Booleans, n_relevant: Longs, k: int) -> Doubles:
    """One over the rank of the first relevant item, 0 if there is none up to k (Voorhees 1999).

    Parameters
    ----------
    hits : bool array, shape (n_users, length)
        Whether the item at each rank is relevant.
    n_relevant : int array, shape (n_users,)
        Relevant items of each user, at least 1.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import reciprocal_rank
    >>> hits = np.array([[False, True, True, False]])
    >>> reciprocal_rank(hits, np.array([4]), k=3).round(3).tolist()
    [0.5]
    """
    first = hits[:, :k]
    if not first.shape[1]:
        return np.zeros(len(hits))
    return np.where(first.any(axis=1), 1.0 / (first.argmax(axis=1) + 1), 0.0)


def ndcg(hits: Booleans, n_relevant: Longs, k: int) -> Doubles:
    """Sum over relevant ranks j ≤ k of 1/log2(j + 1), divided by that sum for a perfect list (Järvelin &
    Kekäläinen 2002).

    Parameters
    ----------
    hits : bool array, shape (n_users, length)
        Whether the item at each rank is relevant.
    n_relevant : int array, shape (n_users,)
        Relevant items of each user, at least 1.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import ndcg
    >>> hits = np.array([[False, True, True, False]])
    >>> ndcg(hits, np.array([4]), k=3).round(3).tolist()
    [0.531]
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    gained = hits[:, :k] @ discount[: hits[:, :k].shape[1]]
    ideal = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    return np.asarray(gained / ideal)


ACCURACY = {
    "hit_rate": hit_rate,
    "precision": precision,
    "recall": recall,
    "map": average_precision,
    "mrr": reciprocal_rank,
    "ndcg": ndcg,
}
"""Name of a metric → its function of (hits, n_relevant, k)."""


def mean_at(values: Doubles, present: Booleans, k: int) -> Doubles:
    """Mean of ``values`` over the present ones of the first k ranks; NaN for an empty list.

    Parameters
    ----------
    values : float64 array, shape (n_users, length)
        One for each listed item.
    present : bool array, shape (n_users, length)
        Which items exist; lists may be shorter than the array.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        One value for each user.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import mean_at
    >>> mean_at(np.array([[1.0, 3.0, 9.0]]), np.array([[True, True, True]]), k=2).tolist()
    [2.0]
    """
    count = present[:, :k].sum(axis=1)
    total = np.where(present[:, :k], values[:, :k], 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def intra_list_diversity(directions: Doubles, present: Booleans, k: int) -> Doubles:
    """Mean of 1 - cosine over all pairs of the first k items (Ziegler et al. 2005).

    The sum over pairs comes from ``|Σ v|² = Σ |v|² + 2 Σ_{i<j} v_i·v_j``, so the cost is linear in k.

    Parameters
    ----------
    directions : float64 array, shape (n_users, length, n_genres)
        Unit vectors of the items' genres. An item without genres has the zero vector: its distance to any
        other is 1.
    present : bool array, shape (n_users, length)
        Which items exist; lists may be shorter than the array.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    float64 array, shape (n_users,)
        NaN for a list with fewer than two items.

    Examples
    --------
    >>> import numpy as np
    >>> from recsys_spark.kernels.metrics import intra_list_diversity
    >>> drama, comedy = [1.0, 0.0], [0.0, 1.0]  # of the three pairs, one is equal
    >>> directions = np.array([[drama, drama, comedy]])
    >>> intra_list_diversity(directions, np.array([[True, True, True]]), k=3).round(3).tolist()
    [0.667]
    """
    vectors = np.where(present[:, :k, None], directions[:, :k], 0.0)
    count = present[:, :k].sum(axis=1)
    cosines = (vectors.sum(axis=1) ** 2).sum(axis=1) - (vectors**2).sum(axis=(1, 2))
    pairs = count * (count - 1)  # ordered pairs, as in the sum of the cosines
    return np.divide(pairs - cosines, pairs, out=np.full(len(count), np.nan), where=pairs > 0)
