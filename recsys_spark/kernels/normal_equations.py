"""The whole normal equation of a row of alternating least squares, and its exact solution.

A row with fewer events than the rank has a smaller equation, of its events: with D = G + s I, which is
diagonal, and Z the rows √a y D^(-1/2), x = D^(-1/2) Zᵀ (I + Z Zᵀ)⁻¹ b/√a (Woodbury's identity).

Each kernel is compiled for a rank and a precision. In float32, which is faster, a row is solved where
its equation allows it: the pivots of the factorisation, as fractions of the diagonal, say how many digits
were lost. What is left is solved in float64, in which products of float32 factors are exact.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import inlined_jit, jit

CHUNK_BYTES = 2**17
"""Factors that are added to a normal equation at a time."""
ENOUGH = 2e-2
"""Smallest pivot, as a fraction of its diagonal entry, of a row that float32 solves to four digits."""
ENOUGH_OF_EVENTS = {np.float32: ENOUGH, np.float64: 1e-6}
"""Smallest pivot, likewise, of a row whose events' equation is solved; elsewhere the whole one is."""
FAINT = 1e-30
"""Weight of an event that is too small to divide by its root."""
NEGLIGIBLE = {np.float32: 1e-7, np.float64: 1e-13}
"""A pivot below this fraction of its diagonal entry counts as zero, and so does that component of the
solution.
"""
ROUNDINGS = 30
"""Rounding errors of a gradient, in units of the last place of its largest sum."""
SWEEPS = 8
"""Sweeps of coordinate descent, at most, that tell which components are above zero, nearly."""

_ZERO, _ONE = np.float32(0), np.float32(1)


class ExactKernels(NamedTuple):
    """What is compiled for one rank and one precision; each when first called, in about a second.

    Attributes
    ----------
    cholesky, nonnegative : solve rows, as :func:`recsys_spark.kernels.least_squares.solve` does
    draw : draw rows, as :func:`recsys_spark.kernels.least_squares.draw` does
    assemble : the equation of one row
    factorise_and_solve, minimise_nonnegative : the solution of one equation
    """

    cholesky: Any
    nonnegative: Any
    draw: Any
    assemble: Any
    factorise_and_solve: Any
    minimise_nonnegative: Any


@inlined_jit
def event_terms(rating: Any, offset: Any, implicit: Any, alpha: Any, mean: Any) -> Any:
    """``a``, ``b`` and ``c`` of one event, in the precision of ``alpha`` and ``mean``."""
    if implicit:
        a = alpha * abs(rating)
        b = _ONE + a if rating > _ZERO else a * _ZERO
        return a, b, b
    b = rating - mean - offset
    return mean * _ZERO + _ONE, b, b * b


def chunk_rows(rank: int, real: Any) -> int:
    """Events that are added to a normal equation at a time."""
    return max(64, CHUNK_BYTES // (np.dtype(real).itemsize * rank))


@lru_cache(maxsize=16)
def compiled_exact(rank: int, real: Any) -> ExactKernels:
    """The kernels of ``rank`` in ``real``, which is ``np.float32`` or ``np.float64``.

    Parameters of the kernels are as in :func:`recsys_spark.kernels.least_squares.solve`. ``pending``, a
    boolean array of shape (n_rows,), says which rows to solve, and afterwards, which are left, as ``real`` is
    too short for them.
    """
    d, chunk = rank, chunk_rows(rank, real)
    zero, one = real(0), real(1)
    negligible = real(NEGLIGIBLE[real])
    enough = real(ENOUGH if real is np.float32 else -1)  # float64 is the last to try
    enough_of_events = real(ENOUGH_OF_EVENTS[real])
    rounding, faint = real(np.finfo(real).eps), real(FAINT)

    @inlined_jit
    def assemble(  # type: ignore[no-untyped-def]
        indptr,
        columns,
        ratings,
        offsets,
        factors,
        gram,
        row_reg,
        implicit,
        alpha,
        mean,
        u,
        buffer,
        a,
        b,
        product,
        A,
        g,
    ):
        """The whole normal equation of row u, in A and g; returns Σ c."""
        # loops, not array expressions, which take seconds to compile
        for i in range(d):
            g[i] = zero
            for j in range(d):
                A[i, j] = gram[i, j]
        constant = 0.0
        for j0 in range(indptr[u], indptr[u + 1], chunk):
            size = min(chunk, indptr[u + 1] - j0)
            for k in range(size):
                column = columns[j0 + k]
                y = factors[column]
                for i in range(d):
                    buffer[k, i] = y[i]
                offset = offsets[column] if len(offsets) else _ZERO
                a[k], b[k], c = event_terms(ratings[j0 + k], offset, implicit, real(alpha), real(mean))
                constant += c
            for k in range(size):
                for i in range(d):
                    g[i] += b[k] * buffer[k, i]
                if implicit:
                    root = np.sqrt(a[k])
                    for i in range(d):
                        buffer[k, i] *= root
            np.dot(buffer[:size].T, buffer[:size], product)
            for i in range(d):
                for j in range(d):
                    A[i, j] += product[i, j]
        for i in range(d):
            A[i, i] += row_reg[u]
        return constant

    @inlined_jit
    def factorise_and_solve(A, g, x, d):  # type: ignore[no-untyped-def]
        """Solve ``A x = g``, of length d, by ``A = UᵀU``; returns the smallest pivot as a fraction of its
        diagonal entry.

        The upper half of ``A``, and ``g``, are overwritten. The caller leaves the diagonal of A in x.
        """
        smallest = one
        for k in range(d):
            diagonal, pivot = abs(x[k]), A[k, k]
            smallest = min(smallest, pivot / diagonal if diagonal > zero else one)
            if pivot > negligible * diagonal:
                root = one / np.sqrt(pivot)
                for j in range(k, d):
                    A[k, j] *= root
            else:
                for j in range(k, d):
                    A[k, j] = zero
            for i in range(k + 1, d):
                factor = A[k, i]
                for j in range(i, d):
                    A[i, j] -= factor * A[k, j]
        for k in range(d):
            if A[k, k] > zero:
                g[k] /= A[k, k]
                for j in range(k + 1, d):
                    g[j] -= A[k, j] * g[k]
            else:
                g[k] = zero
        for k in range(d - 1, -1, -1):
            total = g[k]
            for j in range(k + 1, d):
                total -= A[k, j] * x[j]
            x[k] = total / A[k, k] if A[k, k] > zero else zero
        return smallest

    @inlined_jit
    def minimise_nonnegative(A, g, x, free, part, right, s):  # type: ignore[no-untyped-def]
        """Minimise ``xᵀAx − 2 gᵀx`` over ``x ≥ 0`` from ``x``, with the full matrix ``A``; returns the
        smallest pivot, as a fraction of its diagonal entry, of what is above 0; and 0 where rounding hides
        whether a component is.

        A few sweeps of coordinate descent, then the active-set method of Lawson & Hanson. ``free`` (bool),
        ``part`` (d, d), ``right`` and ``s`` are workspace.
        """
        for k in range(d):
            x[k] = max(x[k], zero)
        for _ in range(SWEEPS):
            changed = False
            for k in range(d):
                if A[k, k] <= zero:
                    x[k] = zero
                    continue
                gradient = g[k]
                for j in range(d):
                    gradient -= A[k, j] * x[j]
                new = max(zero, x[k] + gradient / A[k, k])
                changed |= (new > zero) != (x[k] > zero)
                x[k] = new
            if not changed:
                break
        for k in range(d):
            free[k] = x[k] > zero
        smallest, entered = one, -1
        for _ in range(10 * d):
            # what is bound to zero has the equation s = 0
            for i in range(d):
                right[i] = g[i] if free[i] else zero
                for j in range(d):
                    part[i, j] = A[i, j] if free[i] and free[j] else zero
                if not free[i]:
                    part[i, i] = one
                s[i] = part[i, i]
            smallest = factorise_and_solve(part, right, s, d)
            step, bound = one, -1
            for k in range(d):
                if free[k] and s[k] <= zero:
                    length = x[k] / (x[k] - s[k]) if x[k] > zero else zero
                    if length <= step:
                        step, bound = length, k
            for k in range(d):
                x[k] = max(zero, x[k] + step * (s[k] - x[k])) if free[k] else zero
            if bound >= 0:
                x[bound], free[bound] = zero, False
                if bound == entered:  # its gradient was rounding
                    break
                continue
            entered, steepest, undecided = -1, zero, False
            for k in range(d):
                if free[k] or A[k, k] <= zero:
                    continue
                gradient, size = g[k], abs(g[k])
                for j in range(d):
                    gradient -= A[k, j] * x[j]
                    size += abs(A[k, j] * x[j])
                undecided |= abs(gradient) < ROUNDINGS * rounding * size
                if gradient > d * rounding * size and gradient / np.sqrt(A[k, k]) > steepest:
                    entered, steepest = k, gradient / np.sqrt(A[k, k])
            if entered < 0:
                return zero if undecided else smallest
            free[entered] = True
        return smallest

    @inlined_jit
    def solve_events(  # type: ignore[no-untyped-def]
        columns, ratings, offsets, factors, gram, s, implicit, alpha, mean, j0, j1, Z, K, right, w, root, x
    ):
        """Solve a row with fewer events than the rank into x; returns the smallest pivot, as a fraction of
        its diagonal entry, and its part of f.

        ``Z`` (d, d), ``K`` (d²,) and ``right``, ``w``, ``root`` (d,) are workspace.
        """
        n, value = 0, 0.0
        for i in range(d):
            own = gram[i] + s
            if own <= zero:
                return zero, value
            root[i] = one / np.sqrt(own)
        for j in range(j0, j1):
            y = factors[columns[j]]
            offset = offsets[columns[j]] if len(offsets) else _ZERO
            weight, b, _ = event_terms(ratings[j], offset, implicit, real(alpha), real(mean))
            if weight < faint:
                if weight > zero or b != zero:
                    return zero, value
                continue
            size = np.sqrt(weight)
            for i in range(d):
                Z[n, i] = size * root[i] * y[i]
            right[n] = b / size
            n += 1
        square = K[: n * n].reshape(n, n)
        np.dot(Z[:n], Z[:n].T, square)
        for i in range(n):
            square[i, i] += one
            w[i] = square[i, i]
        smallest = factorise_and_solve(square, right, w, n)
        turned = right
        for i in range(d):
            turned[i] = zero
        for k in range(n):
            for i in range(d):
                turned[i] += w[k] * Z[k, i]
        for i in range(d):
            x[i] = root[i] * turned[i]
            value += turned[i] * turned[i]
        k = 0
        for j in range(j0, j1):
            offset = offsets[columns[j]] if len(offsets) else _ZERO
            if event_terms(ratings[j], offset, implicit, real(alpha), real(mean))[0] < faint:
                continue
            weight, b, _ = event_terms(ratings[j], offset, implicit, np.float64(alpha), np.float64(mean))
            score = zero
            for i in range(d):
                score += turned[i] * Z[k, i]
            t = score / np.sqrt(weight)
            # squares: with large weights, little of a difference of sums would be left
            value += b * (1 - t) ** 2 + (weight - b) * t**2 if implicit else (b - t) ** 2
            k += 1
        return smallest, value

    @jit
    def cholesky(  # type: ignore[no-untyped-def]
        indptr, columns, ratings, offsets, factors, gram, row_reg, implicit, alpha, mean, pending, X
    ):
        buffer, a, b = np.empty((chunk, d), real), np.empty(chunk, real), np.empty(chunk, real)
        product, A, diagonal = np.empty((d, d), real), np.empty((d, d), real), np.diag(gram)
        g, right, x, root = np.empty(d, real), np.empty(d, real), np.empty(d, real), np.empty(d, real)
        value = 0.0
        for u in range(len(indptr) - 1):
            if not pending[u]:
                continue
            if indptr[u + 1] - indptr[u] < d:
                pivot, part = solve_events(
                    columns,
                    ratings,
                    offsets,
                    factors,
                    gram,
                    row_reg[u],
                    implicit,
                    alpha,
                    mean,
                    indptr[u],
                    indptr[u + 1],
                    A,
                    product.reshape(d * d),
                    g,
                    x,
                    root,
                    X[u],
                )
                if pivot >= enough_of_events:
                    pending[u] = False
                    value += part
                    continue
            constant = assemble(
                indptr,
                columns,
                ratings,
                offsets,
                factors,
                diagonal,
                row_reg,
                implicit,
                alpha,
                mean,
                u,
                buffer,
                a,
                b,
                product,
                A,
                g,
            )
            for i in range(d):
                right[i] = g[i]
                x[i] = A[i, i]
            pending[u] = factorise_and_solve(A, g, x, d) < enough
            if pending[u]:
                continue
            gain = zero
            for i in range(d):
                gain += x[i] * right[i]
                X[u, i] = x[i]
            value += constant - gain
        return value

    @jit
    def nonnegative(  # type: ignore[no-untyped-def]
        indptr, columns, ratings, offsets, factors, gram, row_reg, implicit, alpha, mean, pending, X
    ):
        buffer, a, b = np.empty((chunk, d), real), np.empty(chunk, real), np.empty(chunk, real)
        product, A, part = np.empty((d, d), real), np.empty((d, d), real), np.empty((d, d), real)
        g, right, x, s = np.empty(d, real), np.empty(d, real), np.empty(d, real), np.empty(d, real)
        free = np.empty(d, np.bool_)
        value = 0.0
        for u in range(len(indptr) - 1):
            if not pending[u]:
                continue
            constant = assemble(
                indptr,
                columns,
                ratings,
                offsets,
                factors,
                gram,
                row_reg,
                implicit,
                alpha,
                mean,
                u,
                buffer,
                a,
                b,
                product,
                A,
                g,
            )
            for i in range(d):
                x[i] = X[u, i]
            pending[u] = minimise_nonnegative(A, g, x, free, part, right, s) < enough
            if pending[u]:
                continue
            for i in range(d):
                X[u, i] = x[i]
                row = zero
                for j in range(d):
                    row += A[i, j] * x[j]
                constant += x[i] * (row - 2 * g[i])
            value += constant
        return value

    @jit
    def draw(  # type: ignore[no-untyped-def]
        indptr, columns, ratings, offsets, factors, prior, shift, mean, deviation, normals, X
    ):
        buffer, a, b = np.empty((chunk, d), real), np.empty(chunk, real), np.empty(chunk, real)
        product, A, nothing = np.empty((d, d), real), np.empty((d, d), real), np.zeros(1, np.float32)
        g, x, w = np.empty(d, real), np.empty(d, real), np.empty(d, real)
        value = 0.0
        for u in range(len(indptr) - 1):
            own = indptr[u : u + 2]
            assemble(
                own,
                columns,
                ratings,
                offsets,
                factors,
                prior,
                nothing,
                False,
                one,
                mean,
                0,
                buffer,
                a,
                b,
                product,
                A,
                g,
            )
            for i in range(d):
                g[i] += shift[u, i]
                x[i] = A[i, i]
            factorise_and_solve(A, g, x, d)
            for k in range(d - 1, -1, -1):
                total = normals[u, k]
                for j in range(k + 1, d):
                    total -= A[k, j] * w[j]
                w[k] = total / A[k, k] if A[k, k] > zero else zero
                x[k] += deviation * w[k]
            for i in range(d):
                X[u, i] = x[i]
            for j in range(indptr[u], indptr[u + 1]):
                column = columns[j]
                offset = offsets[column] if len(offsets) else _ZERO
                error = real(ratings[j]) - mean - offset
                for i in range(d):
                    error -= factors[column, i] * x[i]
                value += error * error
        return value

    return ExactKernels(cholesky, nonnegative, draw, assemble, factorise_and_solve, minimise_nonnegative)
