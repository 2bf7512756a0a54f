"""Logarithms of sums of exponentials, over rows of float32 scores.

A piece of a row stays in the processor's cache while its exponentials are made by vector instructions:
e^x = 2^k p(f), where k + f = x / log 2, k is whole, and p a polynomial.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, jit_with_infinities

PIECE = 512
"""Scores whose exponentials are made at a time."""

_LOWEST, _BIAS, _MANTISSA = np.float32(-126), np.int32(127), np.int32(23)
"""Smallest exponent of float32; what its bits add to an exponent, and the bits after it."""
_PER_LOG_2 = np.float32(1 / np.log(2))
_P0, _P1, _P2, _P3, _P4, _P5 = map(
    np.float32,
    (
        0.99999989271,
        0.693154752501961,
        0.240139712230614,
        0.0558662463045207,
        0.00894282898410912,
        0.00189646114543331,
    ),
)
"""Of 2^f for 0 ≤ f < 1, to within 1.1e-7 of it (fitted to Chebyshev nodes)."""


def log_sums_of(scores: Floats) -> Doubles:
    """Log Σ e^score of each row.

    Parameters
    ----------
    scores : float32 array, shape (n_rows, n_columns), C-contiguous
        Finite, or -inf, which adds nothing.

    Returns
    -------
    float64 array, shape (n_rows,)
        Right to 1e-6; -inf where all scores are.

    Cost: an exponential takes about as long as reading its score from memory. No further memory.
    """
    result = np.empty(len(scores))
    _log_sums(scores, scores.max(axis=1), result)
    return result


@jit_with_infinities
def _log_sums(scores: Floats, largest: Floats, result: Doubles) -> None:
    exponent = np.empty(PIECE, np.int32)
    power, rest = exponent.view(np.float32), np.empty(PIECE, np.float32)
    columns = scores.shape[1]
    for row in range(scores.shape[0]):
        shift = largest[row]
        if shift == -np.inf:
            result[row] = -np.inf
            continue
        total = 0.0
        for begin in range(0, columns, PIECE):
            size = min(PIECE, columns - begin)
            piece = scores[row, begin : begin + size]
            for i in range(size):
                x = (piece[i] - shift) * _PER_LOG_2
                x = x if x > _LOWEST else _LOWEST
                k = np.floor(x)
                f = x - k
                exponent[i] = (np.int32(k) + _BIAS) << _MANTISSA
                rest[i] = ((((_P5 * f + _P4) * f + _P3) * f + _P2) * f + _P1) * f + _P0
            part = np.float32(0)
            for i in range(size):
                part += power[i] * rest[i]
            total += float(part)
        result[row] = np.log(total) + shift
