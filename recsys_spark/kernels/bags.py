"""Histories as bags of embeddings: what is held out of them, their sums, and the way back for gradients; and Adam by rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys_spark.kernels.randomness import GOLDEN, Words, finalise

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8


def hold_out(keys: Words, indptr: Longs, rows: Ints, share: float) -> tuple[Ints, Longs]:
    """Choose a share of each history at random: distinct items, at least one, and never all of them.

    Parameters
    ----------
    keys : uint64 array, shape (n_histories,): what the choice depends on
    indptr : int64 array, shape (n_histories + 1,)
    rows : int32 array, shape (n,): the histories to choose from
    share : of a history; rounded to the nearest number of items

    Returns
    -------
    slots : int32 array: which of ``rows`` each choice is of, ascending; histories of fewer than two items have none
    places : int64 array: where it stands, between ``indptr[rows[slot]]`` and the next
    """
    lengths = np.diff(indptr)[rows]
    wanted = np.where(lengths > 1, np.clip(np.rint(share * lengths), 1, lengths - 1), 0).astype(np.int64)
    chosen: tuple[Ints, Longs] = _hold_out(keys, indptr, rows, wanted)
    return chosen


def bag_sums(indptr: Longs, items: Ints, rows: Ints, table: Floats) -> Floats:
    """Sums of ``table``'s rows over the histories ``rows``, shape (n, dim)."""
    sums = np.zeros((len(rows), table.shape[1]), np.float32)
    _bag_sums(indptr, items, rows, table, sums)
    return sums


def spread_over_bags(indptr: Longs, places: Ints, rows: Ints, gradients: Floats, out: Floats) -> None:
    """Add ``gradients[k]`` to the rows of ``out`` that the history ``rows[k]`` names: the way back of :func:`bag_sums`."""
    _spread_over_bags(indptr, places, rows, gradients, out)


def add_rows(out: Floats, places: Ints, gradients: Floats, sign: float) -> None:
    """Add ``sign * gradients[k]`` to ``out[places[k]]``, one after the other."""
    _add_rows(out, places, gradients, np.float32(sign))


def adam(
    table: Floats, moments: tuple[Floats, Floats], rows: Ints, gradients: Floats, rate: float, step: int, decay: float
) -> None:
    """One step of Adam (Kingma & Ba 2015) on some rows of a table, in place; the others, and their moments, stay as they are.

    Parameters
    ----------
    table, moments : float32 arrays, shape (n_rows, dim)
    rows : int32 array, shape (n,), unique
    gradients : float32 array, shape (n, dim)
    rate : learning rate
    step : number of this step, from 1
    decay : weight of the row itself, which is added to its gradient (L2 regularisation)
    """
    rate = rate * np.sqrt(1 - SECOND_DECAY**step) / (1 - FIRST_DECAY**step)
    _adam(table, *moments, rows, gradients, np.float32(rate), np.float32(decay))


def _jit(function: Any) -> Any:
    return njit(nogil=True, fastmath=True, error_model="numpy")(function)


_finalise = njit(nogil=True, inline="always")(finalise)


@_jit
def _hold_out(keys: Any, indptr: Any, rows: Any, numbers: Any) -> Any:
    total = numbers.sum()
    slots, places = np.empty(total, np.int32), np.empty(total, np.int64)
    at = 0
    for k in range(len(rows)):
        row, wanted = rows[k], numbers[k]
        begin, left = indptr[row], indptr[row + 1] - indptr[row]
        place = begin
        while wanted:  # selection sampling (Knuth, The Art of Computer Programming 2, algorithm S)
            chance = (_finalise((keys[row] ^ np.uint64(place - begin)) + GOLDEN) >> np.uint64(11)) * 2.0**-53
            if chance * left < wanted:
                slots[at], places[at] = k, place
                at += 1
                wanted -= 1
            left -= 1
            place += 1
    return slots, places


@_jit
def _bag_sums(indptr: Any, items: Any, rows: Any, table: Any, sums: Any) -> None:
    dim = table.shape[1]
    for k in range(len(rows)):
        total = sums[k]
        for j in range(indptr[rows[k]], indptr[rows[k] + 1]):
            row = table[items[j]]
            for i in range(dim):
                total[i] += row[i]


@_jit
def _spread_over_bags(indptr: Any, places: Any, rows: Any, gradients: Any, out: Any) -> None:
    dim = out.shape[1]
    for k in range(len(rows)):
        gradient = gradients[k]
        for j in range(indptr[rows[k]], indptr[rows[k] + 1]):
            row = out[places[j]]
            for i in range(dim):
                row[i] += gradient[i]


@_jit
def _add_rows(out: Any, places: Any, gradients: Any, sign: Any) -> None:
    for k in range(len(places)):
        row, gradient = out[places[k]], gradients[k]
        for i in range(out.shape[1]):
            row[i] += sign * gradient[i]


@_jit
def _adam(table: Any, first: Any, second: Any, rows: Any, gradients: Any, rate: Any, decay: Any) -> None:
    one, b1, b2, tiny = np.float32(1), np.float32(FIRST_DECAY), np.float32(SECOND_DECAY), np.float32(EPSILON)
    for k in range(len(rows)):
        x, m, v, g = table[rows[k]], first[rows[k]], second[rows[k]], gradients[k]
        for i in range(table.shape[1]):
            gradient = g[i] + decay * x[i]
            m[i] = b1 * m[i] + (one - b1) * gradient
            v[i] = b2 * v[i] + (one - b2) * gradient * gradient
            x[i] -= rate * m[i] / (np.sqrt(v[i]) + tiny)
