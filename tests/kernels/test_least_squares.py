"""The compiled solvers against a plain numpy twin: the normal equation of each row, written out in double
precision.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from recsys_spark.kernels import conjugate_gradient, normal_equations
from recsys_spark.kernels.least_squares import Weights, eigenbasis, equation, solve, solve_equation

NONE = np.zeros(0, np.float32)
EXPLICIT = Weights(False, np.float32(1), np.float32(0.25))
IMPLICIT = Weights(True, np.float32(3), np.float32(0))


def case(rank, lengths=(3, 0, 17, 1, 60), n_columns=40, seed=0):
    """Events of a few rows, factors of the other side, the diagonal of G, and a regularisation that keeps
    every row well-posed.
    """
    rng = np.random.default_rng(seed)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = np.concatenate([np.sort(rng.integers(0, n_columns, k)) for k in lengths]).astype(np.int32)
    ratings = rng.choice([-1.0, 0.0, 0.5, 2.0, 5.0], len(columns)).astype(np.float32)
    offsets = rng.normal(size=n_columns).astype(np.float32)
    factors = rng.normal(size=(n_columns, rank)).astype(np.float32)
    diagonal = np.sort(rng.chisquare(3, rank))[::-1].copy()
    row_reg = (0.5 + np.array(lengths)).astype(np.float32)
    return indptr, columns, ratings, offsets, factors, diagonal, row_reg


def full(rank, seed=0):
    """A full matrix G."""
    spread = np.random.default_rng(seed).normal(size=(rank, rank))
    return spread @ spread.T / rank


def twin(indptr, columns, ratings, offsets, factors, gram, row_reg, weights):
    """(A, b, c) of every row: minimise xᵀAx − 2 bᵀx + c."""
    equations = []
    for row, s in enumerate(row_reg):
        A, b, c = (
            (np.diag(gram) if gram.ndim == 1 else gram) + float(s) * np.eye(factors.shape[1]),
            np.zeros(factors.shape[1]),
            0.0,
        )
        for j in range(indptr[row], indptr[row + 1]):
            y, r = factors[columns[j]].astype(float), float(ratings[j])
            if weights.implicit:
                confidence = float(weights.alpha) * abs(r)
                A += confidence * np.outer(y, y)
                b += (1 + confidence) * (r > 0) * y
                c += (1 + confidence) * (r > 0)
            else:
                target = r - float(weights.mean) - (float(offsets[columns[j]]) if len(offsets) else 0.0)
                A += np.outer(y, y)
                b += target * y
                c += target**2
        equations.append((A, b, c))
    return equations


def value(equations, solution):
    return sum(
        x @ A @ x - 2 * b @ x + c for (A, b, c), x in zip(equations, solution.astype(float), strict=True)
    )


@pytest.mark.parametrize("weights", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
@pytest.mark.parametrize(
    ("solver", "rank"),
    [
        ("cholesky", 7),
        ("cg", 7),
        ("cg", 64),
        # each compiles kernels that no other test here needs
        pytest.param("cholesky", 1, marks=pytest.mark.slow),
        pytest.param("cholesky", 64, marks=pytest.mark.slow),
        pytest.param("cg", 1, marks=pytest.mark.slow),
    ],
)
def test_rows_solve_their_normal_equations(solver, rank, weights):
    indptr, columns, ratings, offsets, factors, gram, row_reg = case(rank)
    offsets = NONE if weights.implicit else offsets
    equations = twin(indptr, columns, ratings, offsets, factors, gram, row_reg, weights)
    solution = np.zeros((len(row_reg), rank), np.float32)
    loss = solve(
        solver, indptr, columns, ratings, offsets, factors, gram, row_reg, weights, 3 * rank + 10, solution
    )
    expected = np.array([np.linalg.solve(A, b) for A, b, _ in equations])
    np.testing.assert_allclose(solution, expected, rtol=2e-3, atol=2e-3)
    assert loss == pytest.approx(value(equations, solution), rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("solver", ["cholesky", "nonnegative"])
@pytest.mark.parametrize(
    ("usual", "largest"),
    [(1.0, 1.0), (1.0, 1e5), (1.0, 1e6), (1.0, 1e8), (1e3, 1e3), (1e-3, 1e8), (1e8, 1e8), (1e-3, 1e-3)],
)
def test_exact_rows_solve_their_normal_equations_whatever_the_weights(solver, usual, largest):
    indptr, columns, ratings, _, factors, gram, _ = case(7, (20, 20, 20, 3, 60))
    gram = full(7) if solver == "nonnegative" else gram
    ratings = (np.abs(ratings) * usual).astype(np.float32)
    ratings[indptr[:-1]] = largest
    row_reg = np.full(5, 0.1, np.float32)
    weights = Weights(True, np.float32(40), np.float32(0))
    equations = twin(indptr, columns, ratings, NONE, factors, gram, row_reg, weights)
    solution = np.zeros((5, 7), np.float32)
    loss = solve(solver, indptr, columns, ratings, NONE, factors, gram, row_reg, weights, 0, solution)
    shared = np.zeros((5, 7), np.float32)
    expected = np.zeros((5, 7))
    for row, (A, b, _) in enumerate(equations):
        part = slice(indptr[row], indptr[row + 1])
        summed = equation(columns[part], ratings[part], NONE, factors, weights)
        whole = summed[:49].reshape(7, 7) + (np.diag(gram) if gram.ndim == 1 else gram) + 0.1 * np.eye(7)
        solve_equation(solver, whole, summed[49:-1], shared[row])
        root = np.linalg.cholesky(A).T
        expected[row] = (
            nnls(root, np.linalg.solve(root.T, b))[0] if solver == "nonnegative" else np.linalg.solve(A, b)
        )
    size = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(solution - expected, axis=1) <= 1e-4 * size).all()
    assert (np.linalg.norm(shared - expected, axis=1) <= 1e-4 * size).all()
    assert loss == pytest.approx(value(equations, expected), rel=1e-4)


def test_a_few_steps_lower_the_objective_from_where_the_solution_is():
    indptr, columns, ratings, offsets, factors, gram, row_reg = case(7)
    equations = twin(indptr, columns, ratings, offsets, factors, gram, row_reg, EXPLICIT)
    solution = np.random.default_rng(1).normal(size=(len(row_reg), 7)).astype(np.float32)
    before = value(equations, solution)
    loss = solve("cg", indptr, columns, ratings, offsets, factors, gram, row_reg, EXPLICIT, 2, solution)
    assert loss < before
    assert loss == pytest.approx(value(equations, solution), rel=1e-4)


def test_nonnegative_rows_agree_with_lawson_and_hanson():
    indptr, columns, ratings, offsets, factors, _, row_reg = case(7)
    gram = full(7)
    equations = twin(indptr, columns, ratings, offsets, factors, gram, row_reg, EXPLICIT)
    solution = np.zeros((len(row_reg), 7), np.float32)
    loss = solve(
        "nonnegative", indptr, columns, ratings, offsets, factors, gram, row_reg, EXPLICIT, 0, solution
    )
    for (A, b, _), x in zip(equations, solution, strict=True):
        root = np.linalg.cholesky(A).T  # |root x − root⁻ᵀ b|² is xᵀAx − 2 bᵀx and a constant
        np.testing.assert_allclose(x, nnls(root, np.linalg.solve(root.T, b))[0], atol=1e-3)
    assert loss == pytest.approx(value(equations, solution), rel=1e-3)


@pytest.mark.parametrize("seed", [None, *range(5)])
def test_singular_equation_gives_a_solution(seed):
    factors = np.ones((3, 7), np.float32)  # every row of A is the same
    if seed is not None:
        factors = np.random.default_rng(seed).normal(size=(3, 7)).astype(np.float32)
    solution = np.zeros((1, 7), np.float32)
    events = (np.array([0, 3]), np.array([0, 1, 2], np.int32), np.array([3.0, 3.0, 3.0], np.float32))
    nothing = np.zeros(7)
    weights = Weights(False, np.float32(1), np.float32(0))
    loss = solve("cholesky", *events, NONE, factors, nothing, np.zeros(1, np.float32), weights, 0, solution)
    np.testing.assert_allclose(factors @ solution[0], [3.0, 3.0, 3.0], rtol=1e-3)
    assert loss == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("confidence", [1e-6, 1.0, 1e6, 1e12])
def test_row_of_one_item_again_and_again_solves_its_normal_equation(confidence):
    factors = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    events = (np.array([0, 4]), np.array([0, 0, 0, 1], np.int32), np.full(4, confidence, np.float32))
    weights, row_reg = Weights(True, np.float32(1), np.float32(0)), np.full(1, 0.1, np.float32)
    solution = np.zeros((1, 7), np.float32)
    solve("cholesky", *events, NONE, factors, np.zeros(7), row_reg, weights, 0, solution)
    ((A, b, _),) = twin(*events, NONE, factors, np.zeros(7), row_reg, weights)
    size = np.linalg.norm(A, 2) * np.linalg.norm(solution)
    assert np.linalg.norm(A @ solution[0] - b) <= 1e-4 * size
    assert solution.any()


def test_rows_without_weight_solve_their_normal_equations():
    _, _, _, _, factors, gram, _ = case(7)
    events = (
        np.array([0, 3, 5]),
        np.array([0, 1, 2, 3, 4], np.int32),
        np.array([0, 2, -1, 2, 0], np.float32),
    )
    for alpha in (0.0, 1e-40, 1e-20, 3.0):
        weights, row_reg = Weights(True, np.float32(alpha), np.float32(0)), np.full(2, 0.5, np.float32)
        solution = np.zeros((2, 7), np.float32)
        loss = solve("cholesky", *events, NONE, factors, gram, row_reg, weights, 0, solution)
        equations = twin(*events, NONE, factors, gram, row_reg, weights)
        expected = [np.linalg.solve(A, b) for A, b, _ in equations]
        np.testing.assert_allclose(solution, expected, rtol=1e-4, atol=1e-5)
        assert loss == pytest.approx(value(equations, solution), rel=1e-4)


def test_gram_matrix_is_diagonal_in_its_eigenbasis():
    gram = full(5) * 10
    gram[:, 3] = gram[3] = 0.0  # one component that nothing has
    basis = eigenbasis(gram)
    diagonal = np.diag(basis.T @ gram @ basis)
    np.testing.assert_allclose(basis.T @ gram @ basis, np.diag(diagonal), atol=1e-4)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-6)
    assert (np.diff(diagonal) <= 0).all()


@pytest.mark.parametrize(("solver", "rank"), [("cholesky", 7), ("cg", 64)])
def test_rows_larger_than_the_buffers_solve_their_normal_equations(solver, rank):
    n = 9_000
    assert n > conjugate_gradient.BUFFER_BYTES // (4 * 64)  # of cg at rank 64
    assert n > normal_equations.CHUNK_BYTES // (4 * 7)  # of cholesky at rank 7
    indptr, columns, ratings, offsets, factors, gram, row_reg = case(rank, (n, 2, n // 2, 5, n + 1), 2 * n)
    equations = twin(indptr, columns, ratings, offsets, factors, gram, row_reg, EXPLICIT)
    solution = np.zeros((len(row_reg), rank), np.float32)
    solve(solver, indptr, columns, ratings, offsets, factors, gram, row_reg, EXPLICIT, 100, solution)
    expected = np.array([np.linalg.solve(A, b) for A, b, _ in equations])
    np.testing.assert_allclose(solution, expected, rtol=1e-3, atol=1e-4)
