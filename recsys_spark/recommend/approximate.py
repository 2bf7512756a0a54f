"""Approximate top-n for very large catalogues: a graph of items that is searched from user to user, instead
of all products.

The index is usearch's HNSW (Malkov & Yashunin 2018) over vectors with their bias as a further column, by
inner product. It needs the extra ``index``. Lists hold the right scores, but may miss an item; ``make
bench-softmax`` measures how many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_spark.errors import SetupError
from recsys_spark.kernels.arrays import Floats, Ints, Longs
from recsys_spark.kernels.sets import contained

EXPANSION = 256
"""Items that a search keeps in sight, at least; twice as many as are asked for, if that is more."""
_USERS_AT_ONCE = 256


def build_index(factors: Floats, biases: Floats) -> bytes:
    """The index of a catalogue, whose keys are positions: about ``n_items * (4 * rank + 200)`` bytes.

    Parameters
    ----------
    factors, biases : float32 arrays, shape (n_items, rank) and (n_items,)

    Raises
    ------
    SetupError
        The extra is not installed.
    """
    index = _index_class()(
        ndim=factors.shape[1] + 1, metric="ip", dtype="f32", connectivity=32, expansion_add=EXPANSION
    )
    # one thread: the same graph every time
    index.add(np.arange(len(factors)), np.column_stack([factors, biases]), threads=1)
    return bytes(index.save())


def open_index(saved: bytes) -> Any:
    """What :func:`build_index` gave, ready to be searched.

    Parameters
    ----------
    saved : bytes
        Of :func:`build_index`.
    """
    return _index_class().restore(saved)  # a copy: a view would outlive its bytes


def approximate_top_n(
    users: Floats, index: Any, seen: tuple[Longs, Ints], n: int, n_items: int
) -> tuple[Ints, Floats]:
    """As :func:`recsys_spark.kernels.topn.top_n`, but an item may be missed.

    Parameters
    ----------
    users : float32 array, shape (n_users, rank)
    index : of :func:`open_index`
    seen : compressed rows of positions never to return
    n_items : size of the catalogue

    Returns
    -------
    items, scores : shape (n_users, n); -1 and -inf where fewer were found
    """
    indptr, positions = seen
    items, scores = np.full((len(users), n), -1, np.int32), np.full((len(users), n), -np.inf, np.float32)
    counts, positions = np.diff(indptr), positions.astype(np.int64)  # for keys of user and item together
    queries = np.column_stack([users, np.ones(len(users), np.float32)])
    # as many more are asked for as may be seen: users with similar numbers of them together
    by_count = np.argsort(counts, kind="stable")
    for begin in range(0, len(users), _USERS_AT_ONCE):
        rows = by_count[begin : begin + _USERS_AT_ONCE]
        wanted = min(n_items, n + int(counts[rows].max()))
        index.expansion_search = max(EXPANSION, 2 * wanted)
        # never one query alone, whose answer has another shape
        matches = index.search(queries[np.resize(rows, max(2, len(rows)))], wanted, threads=1)
        keys, products = matches.keys[: len(rows)].astype(np.int64), 1 - matches.distances[: len(rows)]
        eligible = np.arange(keys.shape[1]) < matches.counts[: len(rows), None]
        taken = np.concatenate(
            [row * n_items + positions[indptr[u] : indptr[u + 1]] for row, u in enumerate(rows)]
        )
        eligible &= ~contained(np.arange(len(rows))[:, None] * n_items + keys, taken)
        place = np.cumsum(eligible, axis=1) - 1
        row, column = np.nonzero(eligible & (place < n))
        items[rows[row], place[row, column]] = keys[row, column]
        scores[rows[row], place[row, column]] = products[row, column]
    return items, scores


def _index_class() -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise SetupError(
            "approximate lists need the package usearch: pip install 'recsys-spark[index]'"
        ) from None
    return Index
