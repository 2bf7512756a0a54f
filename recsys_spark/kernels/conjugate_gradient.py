"""Conjugate gradients for the rows of alternating least squares, in float32, a block of rows at a time.

The conjugate gradients of a block of rows advance together, so that ``P G`` is one matrix product, and the
factors that the block needs are gathered in a buffer that stays in the processor's cache.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import jit
from recsys_spark.kernels.normal_equations import event_terms

BLOCK_ROWS = 128
"""Rows whose conjugate gradients advance together, at most."""
BUFFER_BYTES = 2**21
"""Size of the buffer of factors of a block of rows."""
BUFFER_EVENTS = 4096
"""Events that the buffer has room for at least."""
CONSTANT = 64
"""Smallest rank for which the loops are compiled for that rank."""

_ZERO = np.float32(0)


@lru_cache(maxsize=8)
def compiled_conjugate_gradient(rank: int) -> Any:
    """The kernel of ``rank``; compiled when first called, in about a second.

    It takes what :func:`recsys_spark.kernels.least_squares.solve` takes, and returns Σ f.
    """
    # at high ranks the cache would hold the events of too few rows for P G to be a fast matrix product
    capacity = max(BUFFER_EVENTS, BUFFER_BYTES // (4 * rank))

    @jit
    def width(row):  # type: ignore[no-untyped-def]
        """Length of a row: a constant to the compiler from ``CONSTANT`` on. It would unroll shorter loops
        and then not vectorise them.
        """
        return len(row) if rank < CONSTANT else rank

    @jit
    def residual(  # type: ignore[no-untyped-def]
        columns, ratings, offsets, factors, implicit, alpha, mean, j0, j1, keep, first, buffer, a, x, r
    ):
        """Add Σ (b − a x·y) y of events j0 to j1 to r and, with ``keep``, copy their factors to the buffer;
        returns their part of f.
        """
        d = width(x)
        value = _ZERO
        for j in range(j0, j1):
            y = factors[columns[j]]
            offset = offsets[columns[j]] if len(offsets) else _ZERO
            weight, b, c = event_terms(ratings[j], offset, implicit, alpha, mean)
            t = _ZERO
            for i in range(d):
                t += y[i] * x[i]
            value += (weight * t - 2 * b) * t + c
            g = b - weight * t
            if keep:
                a[j - first] = weight
                for i in range(d):
                    yi = y[i]
                    buffer[j - first, i] = yi
                    r[i] += g * yi
            else:
                for i in range(d):
                    r[i] += g * y[i]
        return value

    @jit
    def apply(buffer, a, k0, k1, p, out):  # type: ignore[no-untyped-def]
        """Add Σ a (p·y) y over the buffer's rows k0 to k1 to out, four rows at a time."""
        d = width(p)
        fours = k1 - (k1 - k0) % 4
        for k in range(k0, fours, 4):
            t0, t1, t2, t3 = _ZERO, _ZERO, _ZERO, _ZERO
            for i in range(d):
                pi = p[i]
                t0 += buffer[k, i] * pi
                t1 += buffer[k + 1, i] * pi
                t2 += buffer[k + 2, i] * pi
                t3 += buffer[k + 3, i] * pi
            t0 *= a[k]
            t1 *= a[k + 1]
            t2 *= a[k + 2]
            t3 *= a[k + 3]
            for i in range(d):
                out[i] += (
                    t0 * buffer[k, i] + t1 * buffer[k + 1, i] + t2 * buffer[k + 2, i] + t3 * buffer[k + 3, i]
                )
        for k in range(fours, k1):
            t = _ZERO
            for i in range(d):
                t += buffer[k, i] * p[i]
            t *= a[k]
            for i in range(d):
                out[i] += t * buffer[k, i]

    @jit
    def apply_unbuffered(columns, ratings, factors, implicit, alpha, mean, j0, j1, p, out):  # type: ignore[no-untyped-def]
        """The same over events j0 to j1, which are too many for the buffer."""
        d = width(p)
        fours = j1 - (j1 - j0) % 4
        for j in range(j0, fours, 4):
            y0, y1, y2, y3 = (
                factors[columns[j]],
                factors[columns[j + 1]],
                factors[columns[j + 2]],
                factors[columns[j + 3]],
            )
            t0, t1, t2, t3 = _ZERO, _ZERO, _ZERO, _ZERO
            for i in range(d):
                pi = p[i]
                t0 += y0[i] * pi
                t1 += y1[i] * pi
                t2 += y2[i] * pi
                t3 += y3[i] * pi
            t0 *= event_terms(ratings[j], _ZERO, implicit, alpha, mean)[0]
            t1 *= event_terms(ratings[j + 1], _ZERO, implicit, alpha, mean)[0]
            t2 *= event_terms(ratings[j + 2], _ZERO, implicit, alpha, mean)[0]
            t3 *= event_terms(ratings[j + 3], _ZERO, implicit, alpha, mean)[0]
            for i in range(d):
                out[i] += t0 * y0[i] + t1 * y1[i] + t2 * y2[i] + t3 * y3[i]
        for j in range(fours, j1):
            y = factors[columns[j]]
            t = _ZERO
            for i in range(d):
                t += y[i] * p[i]
            t *= event_terms(ratings[j], _ZERO, implicit, alpha, mean)[0]
            for i in range(d):
                out[i] += t * y[i]

    @jit
    def conjugate_gradient(  # type: ignore[no-untyped-def]
        indptr, columns, ratings, offsets, factors, gram, row_reg, implicit, alpha, mean, steps, X
    ):
        n_rows, d = len(indptr) - 1, width(gram[0])
        buffer, a = np.empty((capacity, d), np.float32), np.empty(capacity, np.float32)
        R, P = np.empty((BLOCK_ROWS, d), np.float32), np.empty((BLOCK_ROWS, d), np.float32)
        AP, rr = np.empty((BLOCK_ROWS, d), np.float32), np.empty(BLOCK_ROWS, np.float32)
        # of one row: the compiler knows that they do not overlap
        r, p = np.empty(d, np.float32), np.empty(d, np.float32)
        value: Any = 0.0
        low = 0
        while low < n_rows:
            high = low + 1
            while high < n_rows and high - low < BLOCK_ROWS and indptr[high + 1] - indptr[low] <= capacity:
                high += 1
            first, size = indptr[low], high - low
            fits = indptr[high] - first <= capacity
            np.dot(X[low:high], gram, R[:size])
            for u in range(size):
                x, s = X[low + u], row_reg[low + u]
                quadratic = _ZERO
                for i in range(d):
                    g = R[u, i] + s * x[i]
                    quadratic += x[i] * g
                    r[i] = -g
                value += quadratic
                j0, j1 = indptr[low + u], indptr[low + u + 1]
                value += residual(
                    columns,
                    ratings,
                    offsets,
                    factors,
                    implicit,
                    alpha,
                    mean,
                    j0,
                    j1,
                    fits,
                    first,
                    buffer,
                    a,
                    x,
                    r,
                )
                square = _ZERO
                for i in range(d):
                    P[u, i] = r[i]
                    R[u, i] = r[i]
                    square += r[i] * r[i]
                rr[u] = square
            for _ in range(steps):
                np.dot(P[:size], gram, AP[:size])
                for u in range(size):
                    if rr[u] <= _ZERO:
                        continue
                    s = row_reg[low + u]
                    for i in range(d):
                        p[i] = P[u, i]
                        r[i] = AP[u, i] + s * p[i]
                    j0, j1 = indptr[low + u], indptr[low + u + 1]
                    if fits:
                        apply(buffer, a, j0 - first, j1 - first, p, r)
                    else:
                        apply_unbuffered(columns, ratings, factors, implicit, alpha, mean, j0, j1, p, r)
                    curvature = _ZERO
                    for i in range(d):
                        curvature += p[i] * r[i]
                    if curvature <= _ZERO:
                        rr[u] = _ZERO
                        continue
                    length = rr[u] / curvature
                    x = X[low + u]
                    square = _ZERO
                    for i in range(d):
                        x[i] += length * p[i]
                        R[u, i] -= length * r[i]
                        square += R[u, i] * R[u, i]
                    value -= length * rr[u]
                    momentum = square / rr[u]
                    rr[u] = square
                    for i in range(d):
                        P[u, i] = R[u, i] + momentum * p[i]
            low = high
        return value

    return conjugate_gradient
