"""The normal equations of alternating least squares, solved row by row in compiled code.

The vector ``x`` of each user (and, with the sides exchanged, of each item) minimises

    f(x) = Σ_j [ a_j (x·y_j)² − 2 b_j (x·y_j) + c_j ]  +  xᵀ G x  +  s |x|²

over the events ``j`` of the row: it solves ``(Σ a y yᵀ + G + s I) x = Σ b y``. The modes differ only in the
numbers:

=========  =============  ====================  ====
mode       a              b                     c
=========  =============  ====================  ====
explicit   1              r − μ − offset        b²
implicit   alpha·abs(r)   1 + a where r > 0     b
=========  =============  ====================  ====

where ``G`` is the weight of all pairs times YᵀY, and ``s`` the row's regularisation (Hu, Koren & Volinsky
2008; Rendle et al. 2022).

``cg`` takes a few conjugate-gradient steps from the current ``x`` (Takács, Pilászy & Tikk 2011); ``cholesky``
solves exactly by Cholesky factorisation, ``nonnegative`` by coordinate descent. The conjugate gradients of a
block of rows advance together, so that ``P G`` is one matrix product, and the factors that the block needs
are gathered in a buffer that stays in the processor's cache. A kernel is compiled once for each rank, which
is a constant to the compiler.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, Ints, Longs, jit

BLOCK_ROWS = 128
"""Rows whose conjugate gradients advance together, at most."""
BUFFER_BYTES = 2**21
"""Size of the buffer of factors of a block of rows."""
BUFFER_EVENTS = 4096
"""Events that the buffer has room for at least."""
CONSTANT = 64
"""Smallest rank for which the loops of conjugate gradients are compiled for that rank."""
CHUNK_BYTES = 2**17
"""Factors that the exact solvers add to a normal equation at a time."""
PIVOT = np.float32(1e-7)
"""A pivot below this fraction of its diagonal entry counts as zero, and so does that component of the
solution.
"""
MAX_SWEEPS = 200
SWEEP_TOLERANCE = np.float32(1e-6)

_ZERO, _ONE = np.float32(0), np.float32(1)


class Weights(NamedTuple):
    """The numbers that define the mode: ``implicit``, ``alpha``, and the mean ``μ`` of explicit ratings."""

    implicit: bool
    alpha: np.float32
    mean: np.float32


def _rows_within(size: int, rank: int) -> int:
    return max(64, size // (4 * rank))


def solve(
    solver: str,
    indptr: Longs,
    columns: Ints,
    ratings: Floats,
    offsets: Floats,
    factors: Floats,
    gram: Floats,
    row_reg: Floats,
    weights: Weights,
    steps: int,
    solution: Floats,
) -> float:
    """Solve every row in place.

    Parameters
    ----------
    solver : ``cg``, ``cholesky`` or ``nonnegative``
    indptr : int64 array, shape (n_rows + 1,); events of row u are ``indptr[u]`` to ``indptr[u + 1]`` of the
        next two
    columns : int32 array, shape (≥ indptr[-1],); rows of ``factors``
    ratings : float32 array, as long as ``columns``
    offsets : float32 array, shape (n_columns,), subtracted from the explicit ratings of a column, or empty
    factors : float32 array, shape (n_columns, rank)
    gram : float32 array, shape (rank, rank), symmetric: ``G``
    row_reg : float32 array, shape (n_rows,): ``s``
    weights : numbers of the mode
    steps : conjugate-gradient steps; unused by the others
    solution : float32 array, shape (n_rows, rank): the start of ``cg`` and ``nonnegative``; overwritten

    Returns
    -------
    float
        Σ f over the rows, at the solution.

    Rows are independent, and the sums of a row run over its events in their order: the bits of a row depend
    only on its events, ``factors``, and its neighbours in these arrays. Memory: about ``max(BUFFER_BYTES, 4 *
    BUFFER_EVENTS * rank)`` bytes and ``3 * BLOCK_ROWS * rank`` floats.
    """
    kernel = compiled_solvers(factors.shape[1])[solver]
    return float(kernel(indptr, columns, ratings, offsets, factors, gram, row_reg, *weights, steps, solution))


def equation(columns: Ints, ratings: Floats, offsets: Floats, factors: Floats, weights: Weights) -> Floats:
    """One row's events as a normal equation: ``Σ a y yᵀ`` (rank² numbers), ``Σ b y`` (rank) and ``Σ c``, in
    one float32 array.

    Parameters as in :func:`solve`. The events may be a part of the row's: the equations of its parts are
    summed.
    """
    rank = factors.shape[1]
    matrix, right = np.empty((rank, rank), np.float32), np.empty(rank, np.float32)
    chunk = _rows_within(CHUNK_BYTES, rank)
    buffer = np.empty((chunk, rank), np.float32)
    a, b = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
    indptr, zeros = np.array([0, len(columns)]), np.zeros((rank, rank), np.float32)
    constant = compiled_solvers(rank)["assemble"](
        indptr,
        columns,
        ratings,
        offsets,
        factors,
        zeros,
        zeros[0],
        *weights,
        0,
        buffer,
        a,
        b,
        zeros.copy(),
        matrix,
        right,
    )
    return np.concatenate([matrix.ravel(), right, np.array([constant], np.float32)])


def solve_equation(solver: str, matrix: Doubles, right: Doubles, solution: Floats) -> float:
    """Minimise ``xᵀ matrix x − 2 rightᵀ x`` exactly, with ``nonnegative`` over x ≥ 0.

    Parameters
    ----------
    solver : ``cholesky`` or ``nonnegative``
    matrix : float64 array, shape (rank, rank), symmetric
    right : float64 array, shape (rank,)
    solution : float32 array, shape (rank,): the start of ``nonnegative``; overwritten

    Returns
    -------
    float
        The minimum.
    """
    kernels, A, g = compiled_solvers(len(solution)), matrix.astype(np.float32), right.astype(np.float32)
    if solver == "nonnegative":
        kernels["coordinate_descent"](A, g, solution)
    else:
        solution[:] = A.diagonal()
        kernels["factorise_and_solve"](A, g, solution)
    x = solution.astype(np.float64)
    return float(x @ matrix @ x - 2 * right @ x)


@jit
def _terms(rating: Any, offset: Any, implicit: Any, alpha: Any, mean: Any) -> Any:
    """``a``, ``b`` and ``c`` of one event."""
    if implicit:
        a = alpha * abs(rating)
        b = _ONE + a if rating > _ZERO else _ZERO
        return a, b, b
    b = rating - mean - offset
    return _ONE, b, b * b


@lru_cache(maxsize=8)
def compiled_solvers(rank: int) -> dict[str, Any]:
    """The compiled solvers of ``rank``, and their parts; each is compiled when first called, in about a
    second.
    """
    d, chunk = rank, _rows_within(CHUNK_BYTES, rank)
    # at high ranks the cache would hold the events of too few rows for P G to be a fast matrix product
    capacity = max(BUFFER_EVENTS, _rows_within(BUFFER_BYTES, rank))

    @jit
    def width(row):  # type: ignore[no-untyped-def]
        """Length of a row: a constant to the compiler from ``CONSTANT`` on. It would unroll shorter loops
        and then not vectorise them.
        """
        return len(row) if rank < CONSTANT else rank

    @jit
    def gather(columns, ratings, offsets, factors, implicit, alpha, mean, j0, j1, k, buffer, a, b):  # type: ignore[no-untyped-def]
        """Copy events j0 to j1 to the buffer's rows from k on; returns Σ c."""
        constant = 0.0
        for j in range(j0, j1):
            y = factors[columns[j]]
            for i in range(d):
                buffer[k, i] = y[i]
            offset = offsets[columns[j]] if len(offsets) else _ZERO
            a[k], b[k], c = _terms(ratings[j], offset, implicit, alpha, mean)
            constant += c
            k += 1
        return constant

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
            weight, b, c = _terms(ratings[j], offset, implicit, alpha, mean)
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
            t0 *= _terms(ratings[j], _ZERO, implicit, alpha, mean)[0]
            t1 *= _terms(ratings[j + 1], _ZERO, implicit, alpha, mean)[0]
            t2 *= _terms(ratings[j + 2], _ZERO, implicit, alpha, mean)[0]
            t3 *= _terms(ratings[j + 3], _ZERO, implicit, alpha, mean)[0]
            for i in range(d):
                out[i] += t0 * y0[i] + t1 * y1[i] + t2 * y2[i] + t3 * y3[i]
        for j in range(fours, j1):
            y = factors[columns[j]]
            t = _ZERO
            for i in range(d):
                t += y[i] * p[i]
            t *= _terms(ratings[j], _ZERO, implicit, alpha, mean)[0]
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

    @jit
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
            g[i] = _ZERO
            for j in range(d):
                A[i, j] = gram[i, j]
        constant = 0.0
        for j0 in range(indptr[u], indptr[u + 1], chunk):
            size = min(chunk, indptr[u + 1] - j0)
            constant += gather(
                columns, ratings, offsets, factors, implicit, alpha, mean, j0, j0 + size, 0, buffer, a, b
            )
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

    @jit
    def factorise_and_solve(A, g, x):  # type: ignore[no-untyped-def]
        """Solve ``A x = g`` by ``A = UᵀU``; the upper half of ``A`` and ``g`` are overwritten."""
        for k in range(d):
            floor = PIVOT * abs(x[k])  # the caller leaves the diagonal of A in x
            pivot = A[k, k]
            if pivot > floor:
                root = _ONE / np.sqrt(pivot)
                for j in range(k, d):
                    A[k, j] *= root
            else:
                for j in range(k, d):
                    A[k, j] = _ZERO
            for i in range(k + 1, d):
                factor = A[k, i]
                for j in range(i, d):
                    A[i, j] -= factor * A[k, j]
        for k in range(d):
            if A[k, k] > _ZERO:
                g[k] /= A[k, k]
                for j in range(k + 1, d):
                    g[j] -= A[k, j] * g[k]
            else:
                g[k] = _ZERO
        for k in range(d - 1, -1, -1):
            total = g[k]
            for j in range(k + 1, d):
                total -= A[k, j] * x[j]
            x[k] = total / A[k, k] if A[k, k] > _ZERO else _ZERO

    @jit
    def coordinate_descent(A, g, x):  # type: ignore[no-untyped-def]
        """Minimise ``xᵀAx − 2 gᵀx`` over ``x ≥ 0`` by coordinate descent from ``x``, with the full matrix
        ``A``.
        """
        for k in range(d):
            x[k] = max(x[k], _ZERO)
        for _ in range(MAX_SWEEPS):
            largest, moved = _ZERO, _ZERO
            for k in range(d):
                if A[k, k] <= _ZERO:
                    x[k] = _ZERO
                    continue
                gradient = g[k]
                for j in range(d):
                    gradient -= A[k, j] * x[j]
                new = max(_ZERO, x[k] + gradient / A[k, k])
                moved = max(moved, abs(new - x[k]))
                largest = max(largest, abs(new))
                x[k] = new
            if moved <= SWEEP_TOLERANCE * largest:
                break

    @jit
    def cholesky(  # type: ignore[no-untyped-def]
        indptr, columns, ratings, offsets, factors, gram, row_reg, implicit, alpha, mean, _steps, X
    ):
        buffer = np.empty((chunk, d), np.float32)
        a, b = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
        product, A = np.empty((d, d), np.float32), np.empty((d, d), np.float32)
        g, right = np.empty(d, np.float32), np.empty(d, np.float32)
        value = 0.0
        for u in range(len(indptr) - 1):
            value += assemble(
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
            x = X[u]
            for i in range(d):
                right[i] = g[i]
                x[i] = A[i, i]
            factorise_and_solve(A, g, x)
            gain = _ZERO
            for i in range(d):
                gain += x[i] * right[i]
            value -= gain
        return value

    @jit
    def nonnegative(  # type: ignore[no-untyped-def]
        indptr, columns, ratings, offsets, factors, gram, row_reg, implicit, alpha, mean, _steps, X
    ):
        buffer = np.empty((chunk, d), np.float32)
        a, b = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
        product, A, g = np.empty((d, d), np.float32), np.empty((d, d), np.float32), np.empty(d, np.float32)
        value = 0.0
        for u in range(len(indptr) - 1):
            value += assemble(
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
            x = X[u]
            coordinate_descent(A, g, x)
            for i in range(d):
                row = _ZERO
                for j in range(d):
                    row += A[i, j] * x[j]
                value += x[i] * (row - 2 * g[i])
        return value

    return {
        "cg": conjugate_gradient,
        "cholesky": cholesky,
        "nonnegative": nonnegative,
        "assemble": assemble,
        "coordinate_descent": coordinate_descent,
        "factorise_and_solve": factorise_and_solve,
    }
