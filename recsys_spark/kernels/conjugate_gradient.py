"""Conjugate gradients for the rows of alternating least squares, in float32, preconditioned by the diagonal.

``G`` is diagonal (:func:`recsys_spark.kernels.least_squares.eigenbasis`), so that a step costs what the row's
events cost, and the preconditioner nothing. The factors that a row needs are gathered once, in a buffer that
stays in the processor's cache.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import inlined_jit, jit
from recsys_spark.kernels.normal_equations import event_terms

BUFFER_BYTES = 2**21
"""Size of the buffer of a row's factors."""
CONSTANT = 64
"""Smallest rank for which the loops are compiled for that rank."""

_ZERO = np.float32(0)


@lru_cache(maxsize=8)
def compiled_conjugate_gradient(rank: int) -> Any:
    """The kernel of ``rank``; compiled when first called, in about a second.

    It takes what :func:`recsys_spark.kernels.least_squares.solve` takes, and returns Σ f.
    """
    capacity = max(1, BUFFER_BYTES // (4 * rank))

    @inlined_jit
    def width(row):  # type: ignore[no-untyped-def]
        """Length of a row: a constant to the compiler from ``CONSTANT`` on. It would unroll shorter loops
        and then not vectorise them.
        """
        return len(row) if rank < CONSTANT else rank

    @inlined_jit
    def residual(  # type: ignore[no-untyped-def]
        columns, ratings, offsets, factors, implicit, alpha, mean, j0, j1, keep, buffer, a, x, r, diagonal
    ):
        """Add Σ (b − a x·y) y of events j0 to j1 to r, and Σ a y² to the diagonal; with ``keep``, copy their
        factors to the buffer. Returns their part of f.
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
                a[j - j0] = weight
                for i in range(d):
                    yi = y[i]
                    buffer[j - j0, i] = yi
                    r[i] += g * yi
                    diagonal[i] += weight * yi * yi
            else:
                for i in range(d):
                    yi = y[i]
                    r[i] += g * yi
                    diagonal[i] += weight * yi * yi
        return value

    @inlined_jit
    def apply(buffer, a, n, p, out):  # type: ignore[no-untyped-def]
        """Add Σ a (p·y) y over the first n rows of the buffer to out, four rows at a time."""
        d = width(p)
        fours = n - n % 4
        for k in range(0, fours, 4):
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
        for k in range(fours, n):
            t = _ZERO
            for i in range(d):
                t += buffer[k, i] * p[i]
            t *= a[k]
            for i in range(d):
                out[i] += t * buffer[k, i]

    @inlined_jit
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
        n_rows, d = len(indptr) - 1, width(gram)
        buffer, a = np.empty((capacity, d), np.float32), np.empty(capacity, np.float32)
        r, p, Ap = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
        own, diagonal = np.empty(d, np.float32), np.empty(d, np.float32)
        value: Any = 0.0
        for u in range(n_rows):
            j0, j1, x = indptr[u], indptr[u + 1], X[u]
            fits = j1 - j0 <= capacity
            quadratic = _ZERO
            for i in range(d):
                own[i] = gram[i] + row_reg[u]
                diagonal[i] = own[i]
                g = own[i] * x[i]
                quadratic += x[i] * g
                r[i] = -g
            value += quadratic
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
                buffer,
                a,
                x,
                r,
                diagonal,
            )
            rz = _ZERO
            for i in range(d):
                p[i] = r[i] / diagonal[i] if diagonal[i] > _ZERO else _ZERO
                rz += r[i] * p[i]
            for _ in range(steps):
                if rz <= _ZERO:
                    break
                for i in range(d):
                    Ap[i] = own[i] * p[i]
                if fits:
                    apply(buffer, a, j1 - j0, p, Ap)
                else:
                    apply_unbuffered(columns, ratings, factors, implicit, alpha, mean, j0, j1, p, Ap)
                curvature = _ZERO
                for i in range(d):
                    curvature += p[i] * Ap[i]
                if curvature <= _ZERO:
                    break
                length, before = rz / curvature, rz
                rz = _ZERO
                for i in range(d):
                    x[i] += length * p[i]
                    r[i] -= length * Ap[i]
                    Ap[i] = r[i] / diagonal[i] if diagonal[i] > _ZERO else _ZERO
                    rz += r[i] * Ap[i]
                value -= length * before
                momentum = rz / before
                for i in range(d):
                    p[i] = Ap[i] + momentum * p[i]
        return value

    return conjugate_gradient
