"""Histories as bags of embeddings: which items are held out, the sums of the rest, and the gradients of
those sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Floats, Hashes, Ints, Longs, jit
from recsys_spark.kernels.randomness import GOLDEN, inlined_finalise


def hold_out(keys: Hashes, indptr: Longs, rows: Ints, fraction: float) -> tuple[Ints, Longs]:
    """Choose a fraction of each history at random: distinct items, at least one, and never all of them.

    Parameters
    ----------
    keys : uint64 array, shape (n_histories,): what the choice depends on
    indptr : int64 array, shape (n_histories + 1,)
    rows : int32 array, shape (n,): the histories to choose from
    fraction : of each history; rounded to the nearest number of items

    Returns
    -------
    slots : int32 array: the index in ``rows`` of each chosen item's history, ascending; histories of fewer
        than two items have none
    positions : int64 array: the position of each chosen item, from ``indptr[rows[slot]]`` on
    """
    lengths = np.diff(indptr)[rows]
    wanted = np.where(lengths > 1, np.clip(np.rint(fraction * lengths), 1, lengths - 1), 0).astype(np.int64)
    chosen: tuple[Ints, Longs] = _hold_out(keys, indptr, rows, wanted)
    return chosen


def bag_sums(indptr: Longs, items: Ints, rows: Ints, table: Floats) -> Floats:
    """Sums of ``table``'s rows over the histories ``rows``, shape (n, dim)."""
    sums = np.zeros((len(rows), table.shape[1]), np.float32)
    _bag_sums(indptr, items, rows, table, sums)
    return sums


def bag_sums_backward(indptr: Longs, items: Ints, rows: Ints, gradients: Floats, out: Floats) -> None:
    """Add ``gradients[k]`` to the rows of ``out`` of the items of history ``rows[k]``: the backward pass
    of :func:`bag_sums`.
    """
    _bag_sums_backward(indptr, items, rows, gradients, out)


def add_rows(out: Floats, indices: Ints, gradients: Floats, sign: float) -> None:
    """Add ``sign * gradients[k]`` to ``out[indices[k]]``, one after the other."""
    _add_rows(out, indices, gradients, np.float32(sign))


@jit
def _hold_out(keys: Any, indptr: Any, rows: Any, numbers: Any) -> Any:
    total = numbers.sum()
    slots, positions = np.empty(total, np.int32), np.empty(total, np.int64)
    n_chosen = 0
    for k in range(len(rows)):
        row, wanted = rows[k], numbers[k]
        begin, left = indptr[row], indptr[row + 1] - indptr[row]
        position = begin
        while wanted:  # selection sampling (Knuth, The Art of Computer Programming 2, algorithm S)
            bits = inlined_finalise((keys[row] ^ np.uint64(position - begin)) + GOLDEN)
            chance = (bits >> np.uint64(11)) * 2.0**-53
            if chance * left < wanted:
                slots[n_chosen], positions[n_chosen] = k, position
                n_chosen += 1
                wanted -= 1
            left -= 1
            position += 1
    return slots, positions


@jit
def _bag_sums(indptr: Any, items: Any, rows: Any, table: Any, sums: Any) -> None:
    dim = table.shape[1]
    for k in range(len(rows)):
        total = sums[k]
        for j in range(indptr[rows[k]], indptr[rows[k] + 1]):
            row = table[items[j]]
            for i in range(dim):
                total[i] += row[i]


@jit
def _bag_sums_backward(indptr: Any, items: Any, rows: Any, gradients: Any, out: Any) -> None:
    dim = out.shape[1]
    for k in range(len(rows)):
        gradient = gradients[k]
        for j in range(indptr[rows[k]], indptr[rows[k] + 1]):
            row = out[items[j]]
            for i in range(dim):
                row[i] += gradient[i]


@jit
def _add_rows(out: Any, indices: Any, gradients: Any, sign: Any) -> None:
    for k in range(len(indices)):
        row, gradient = out[indices[k]], gradients[k]
        for i in range(out.shape[1]):
            row[i] += sign * gradient[i]
