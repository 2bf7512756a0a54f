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

No score changes when both sides are turned by one orthogonal matrix, and in the :func:`eigenbasis` of ``G``
it is a row of numbers: with it goes a product of every row with a matrix (Pilászy, Zibriczky & Tikk 2010 turn
for another solver). There, ``cg`` takes a few conjugate-gradient steps from the current ``x`` (Takács,
Pilászy & Tikk 2011), in float32: :mod:`~recsys_spark.kernels.conjugate_gradient`. ``cholesky`` solves exactly
by Cholesky factorisation, of the events' equation where they are fewer than the rank; ``nonnegative``, which
cannot turn, by an active-set method (Lawson & Hanson 1974): each in float32 where that gives about four
digits and in float64 elsewhere, :mod:`~recsys_spark.kernels.normal_equations`. A kernel is compiled once for
each rank, which is a constant to the compiler.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Ints, Longs
from recsys_spark.kernels.conjugate_gradient import compiled_conjugate_gradient
from recsys_spark.kernels.normal_equations import chunk_rows, compiled_exact

ROUNDING_SQUARED = 1e-12
"""Square of a rounding error of float32 factors that have been turned, as a fraction, and more."""


class Weights(NamedTuple):
    """The numbers that define the mode: ``implicit``, ``alpha``, and the mean ``μ`` of explicit ratings."""

    implicit: bool
    alpha: np.float32
    mean: np.float32


def solve(
    solver: str,
    indptr: Longs,
    columns: Ints,
    ratings: Floats,
    offsets: Floats,
    factors: Floats,
    gram: Doubles,
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
    gram : float64 array: ``G``, symmetric, of shape (rank, rank) with ``nonnegative``; with the others its
        diagonal, shape (rank,), in its :func:`eigenbasis`
    row_reg : float32 array, shape (n_rows,): ``s``
    weights : numbers of the mode
    steps : conjugate-gradient steps; unused by the others
    solution : float32 array, shape (n_rows, rank): the start of ``cg`` and ``nonnegative``; overwritten

    Returns
    -------
    float
        Σ f over the rows, at the solution.

    Rows are independent, and the sums of a row run over its events in their order: the bits of a row depend
    only on its events and ``factors``. Memory, in bytes: at most ``2**22`` with ``cg``, else about
    ``max(2**17, 512 * rank) + 24 * rank**2``.
    """
    rank, events = factors.shape[1], (indptr, columns, ratings, offsets, factors)
    single = gram.astype(np.float32)
    if solver == "cg":
        kernel = compiled_conjugate_gradient(rank)
        return float(kernel(*events, single, row_reg, *weights, steps, solution))
    pending = np.ones(len(row_reg), np.bool_)
    value = _exact(solver, rank, np.float32)(*events, single, row_reg, *weights, pending, solution)
    if pending.any():
        value += _exact(solver, rank, np.float64)(*events, gram, row_reg, *weights, pending, solution)
    return float(value)


def draw(
    indptr: Longs,
    columns: Ints,
    ratings: Floats,
    offsets: Floats,
    factors: Floats,
    precision: Doubles,
    shift: Doubles,
    mean: float,
    noise: float,
    normals: Doubles,
    drawn: Floats,
) -> float:
    """Draw every row from its posterior: of ratings ``y_j · x`` plus noise, and a normal prior of x.

    Parameters
    ----------
    indptr, columns, ratings, offsets, factors : as of :func:`solve`; targets are ratings less mean and offset
    precision : float64 array, shape (rank, rank): Λ of the prior
    shift : float64 array, shape (n_rows, rank): Λ times each row's prior mean
    mean : of all ratings
    noise : precision of a rating, above 0
    normals : float64 array, shape (n_rows, rank): standard normals
    drawn : float32 array, shape (n_rows, rank); overwritten

    Returns
    -------
    float
        Σ (target − y_j · x)² over the events, at what was drawn.
    """
    kernel = compiled_exact(factors.shape[1], np.float64).draw
    prior, of_mean = precision / noise, shift / noise
    events = (indptr, columns, ratings, offsets, factors)
    return float(kernel(*events, prior, of_mean, mean, noise**-0.5, normals, drawn))


def eigenbasis(gram: Doubles) -> Floats:
    """The basis in which ``G`` is diagonal, descending: factors of both sides, as rows, are multiplied by it.

    Parameters
    ----------
    gram : float64 array, shape (rank, rank), symmetric and positive semidefinite

    Returns
    -------
    float32 array, shape (rank, rank)
        Orthogonal; the identity where ``gram`` is not finite, as the objective is not either then.
    """
    if not np.isfinite(gram).all():
        return np.eye(len(gram), dtype=np.float32)
    return np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1].astype(np.float32))


def is_rounding(squares: Doubles) -> Booleans:
    """Which components of turned factors are rounding errors of the others, and count as zero.

    Parameters
    ----------
    squares : float64 array, shape (rank,)
        Sum of the squares of each component.
    """
    return np.asarray(squares <= ROUNDING_SQUARED * squares.max(initial=0))


def equation(columns: Ints, ratings: Floats, offsets: Floats, factors: Floats, weights: Weights) -> Doubles:
    """One row's events as a normal equation: ``Σ a y yᵀ`` (rank² numbers), ``Σ b y`` (rank) and ``Σ c``, in
    one float64 array.

    Parameters as in :func:`solve`. The events may be a part of the row's: the equations of its parts are
    summed.
    """
    rank = factors.shape[1]
    result = np.empty(rank * rank + rank + 1)
    matrix, right = result[: rank * rank].reshape(rank, rank), result[rank * rank : -1]
    chunk = chunk_rows(rank, np.float64)
    nothing = np.zeros((rank, rank))
    result[-1] = compiled_exact(rank, np.float64).assemble(
        np.array([0, len(columns)]),
        columns,
        ratings,
        offsets,
        factors,
        nothing,
        np.zeros(1, np.float32),
        *weights,
        0,
        np.empty((chunk, rank)),
        np.empty(chunk),
        np.empty(chunk),
        np.empty((rank, rank)),
        matrix,
        right,
    )
    return result


def solve_equation(solver: str, matrix: Doubles, right: Doubles, solution: Floats) -> float:
    """Minimise ``xᵀ matrix x − 2 rightᵀ x`` exactly, with ``nonnegative`` over x ≥ 0.

    Parameters
    ----------
    solver : any of :func:`solve`; ``cg`` is exact here too
    matrix : float64 array, shape (rank, rank), symmetric
    right : float64 array, shape (rank,)
    solution : float32 array, shape (rank,): the start of ``nonnegative``; overwritten

    Returns
    -------
    float
        The minimum.
    """
    rank = len(solution)
    kernels, square, line = compiled_exact(rank, np.float64), np.empty((rank, rank)), np.empty(rank)
    if solver == "nonnegative":
        x = solution.astype(np.float64)
        kernels.minimise_nonnegative(matrix, right, x, np.empty(rank, np.bool_), square, line, line.copy())
    else:
        x = matrix.diagonal().copy()
        kernels.factorise_and_solve(matrix.copy(), right.copy(), x, rank)
    solution[:] = x
    return float(x @ matrix @ x - 2 * right @ x)


def _exact(solver: str, rank: int, real: type) -> Any:
    kernels = compiled_exact(rank, real)
    return kernels.nonnegative if solver == "nonnegative" else kernels.cholesky
