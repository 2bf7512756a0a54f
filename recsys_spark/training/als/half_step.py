"""One half of an ALS iteration: every row of one side solved from the vectors of the other.

Only factor rows travel, each to the tasks that need it. Where all pairs count, both sides are first turned
into the basis in which the fixed side's Gram matrix is diagonal, which changes no score. Gram matrices and
the objective are summed over a fixed number of logical buckets, and a row's own sums run over its events in
order, so that the result is the same to the last bit on any number of tasks. Rows with very many events are
solved by all tasks together: the normal equation of each is summed, bucket by bucket, where its columns'
vectors are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, Integers, Reals
from recsys_spark.kernels.least_squares import (
    Weights,
    eigenbasis,
    equation,
    is_rounding,
    solve,
    solve_equation,
)
from recsys_spark.kernels.products import product
from recsys_spark.training.als.config import ALSConfig
from recsys_spark.training.group import Group
from recsys_spark.training.interactions import Side


def row_regularization(
    counts: Integers, other_rows: int, config: ALSConfig, all_pairs_weight: float
) -> Floats:
    """λ s of each row: from its number of events and, in iALS, of the ``other_rows``.

    Parameters
    ----------
    counts : int array, shape (n_rows,)
        Events of each row, in implicit modes the positive ones.
    other_rows : int
        Number of rows of the other side.
    config : ALSConfig
        ``regularization``, ``reg_exponent`` and ``regularize_all_pairs`` are read.
    all_pairs_weight : float
        w₀.

    Returns
    -------
    float32 array, shape (n_rows,)
    """
    base = (
        counts + all_pairs_weight * other_rows if config.regularize_all_pairs else counts.astype(np.float64)
    )
    return (config.regularization * base**config.reg_exponent).astype(np.float32)


@dataclass(frozen=True)
class HalfStep:
    """Solves the own rows of one side from the other side's vectors; called once in each iteration.

    Attributes
    ----------
    group, config : the tasks, and the hyperparameters
    side, other : the side that is solved, and the one that is held
    row_reg : float32 array, shape (own rows,): λ s of each row
    all_pairs_weight : w₀
    weights : what makes an event's weight and target
    """

    group: Group
    config: ALSConfig
    side: Side
    other: Side
    row_reg: Floats
    all_pairs_weight: float
    weights: Weights

    def __call__(self, other_vectors: Floats, vectors: Floats) -> Doubles:
        """Fetch the other side's vectors, then solve every own row in place.

        Parameters
        ----------
        other_vectors : float32 array, shape (own rows of the other side, width); turned, where all pairs
            count, unless the solver is ``nonnegative``
        vectors : float32 array, shape (own rows, width); overwritten

        Returns
        -------
        float64 array, shape (own buckets, 1)
            The rows' part of the objective, for each own bucket.
        """
        side, config = self.side, self.config
        gram = self._gram(other_vectors)
        if config.solver != "nonnegative":
            gram = self._turn(gram, other_vectors, vectors)
        heavy = self._solve_heavy(other_vectors, gram)
        received = self.group.all_to_all([other_vectors[rows] for rows in self.other.rows_to_send])
        factors, offsets = self.with_offsets(np.concatenate(received))
        losses = np.zeros((len(side.bucket_rows) - 1, 1))
        vectors[list(heavy)] = 0.0  # without events here, they stay at zero and cost nothing
        for bucket in range(len(losses)):
            rows = slice(side.bucket_rows[bucket], side.bucket_rows[bucket + 1])
            losses[bucket] = solve(
                config.solver,
                side.indptr[rows.start : rows.stop + 1],
                side.columns,
                side.ratings,
                offsets,
                factors,
                gram,
                self.row_reg[rows],
                self.weights,
                config.cg_steps,
                vectors[rows],
            )
        for row, (vector, loss) in heavy.items():
            vectors[row] = vector
            losses[np.searchsorted(side.bucket_rows, row, side="right") - 1] += loss
        return losses

    def penalty(self, vectors: Floats) -> float:
        """λ Σ s |v|² over all rows of the side, of all tasks."""
        weighted = self.row_reg.astype(np.float64) * np.einsum("ij,ij->i", vectors, vectors)
        sums = np.array([[weighted[a:b].sum()] for a, b in pairwise(self.side.bucket_rows)]).reshape(-1, 1)
        return float(self.group.ordered_sum(sums, *sums.shape)[0])

    def _gram(self, vectors: Floats) -> Doubles:
        """w₀ · VᵀV over all rows of the other side, without biases, shape (width, width)."""
        rank, width = self.config.rank, self.config.width
        gram = np.zeros((width, width))
        if self.all_pairs_weight:
            precision = np.float32 if self.config.solver == "cg" else np.float64
            factors: Reals = vectors[:, :rank].astype(precision)
            buckets = list(pairwise(self.other.bucket_rows))
            parts = ((factors[begin:end].T @ factors[begin:end]).ravel() for begin, end in buckets)
            total = self.group.ordered_sum(parts, len(buckets), rank * rank)
            gram[:rank, :rank] = self.all_pairs_weight * total.reshape(rank, rank)
        return gram

    def _turn(self, gram: Doubles, other_vectors: Floats, vectors: Floats) -> Doubles:
        """Turn both sides into the basis in which ``gram`` is diagonal; returns the diagonal, shape (width,).

        One task decomposes: another's basis need not have the same signs.
        """
        rank, width = self.config.rank, self.config.width
        diagonal = np.zeros(width)
        if not self.all_pairs_weight:
            return diagonal
        own = eigenbasis(gram[:rank, :rank]) if self.group.rank == 0 else np.zeros((0, 0), np.float32)
        basis = self.group.all_gather(own)[0]
        for rows in (other_vectors, vectors):
            rows[:, :rank] = product(rows[:, :rank], basis)
        buckets = list(pairwise(self.other.bucket_rows))
        parts = (np.square(other_vectors[a:b, :rank], dtype=np.float64).sum(axis=0) for a, b in buckets)
        squares = self.group.ordered_sum(parts, len(buckets), rank)
        # or a solver would divide one rounding error by another
        nothing = np.flatnonzero(is_rounding(squares))
        squares[nothing] = 0.0
        for rows in (other_vectors, vectors):
            rows[:, nothing] = 0.0
        diagonal[:rank] = self.all_pairs_weight * squares
        return diagonal

    def _solve_heavy(self, other_vectors: Floats, gram: Doubles) -> dict[int, tuple[Floats, float]]:
        """Vector and part of the objective of each own row that all tasks share: exact, whatever the
        solver.
        """
        solved: dict[int, tuple[Floats, float]] = {}
        for row, matrix, right, constant in self.heavy_equations(other_vectors):
            matrix += np.diag(gram) if gram.ndim == 1 else gram
            matrix += self.row_reg[row] * np.eye(len(right))
            vector = np.zeros(len(right), np.float32)
            value = solve_equation(self.config.solver, matrix, right, vector)
            solved[row] = vector, constant + value
        return solved

    def heavy_equations(self, other_vectors: Floats) -> Iterator[tuple[int, Doubles, Doubles, float]]:
        """The events of each heavy row as a normal equation, summed over all tasks: of own ones the row,
        Σ a y yᵀ, Σ b y and Σ c. All tasks go through this to its end.

        Parameters
        ----------
        other_vectors : float32 array, shape (own rows of the other side, width)
        """
        side, width = self.side, self.config.width
        if not len(side.heavy.positions):
            return
        factors, offsets = self.with_offsets(other_vectors.copy())
        for heavy_row, position in enumerate(side.heavy.positions.tolist()):
            parts = self._equations(heavy_row, factors, offsets)
            total = self.group.ordered_sum(parts, len(self.other.bucket_rows) - 1, width * width + width + 1)
            row = position - side.start
            if 0 <= row < len(side.ids):
                matrix = total[: width * width].reshape(width, width)
                yield row, matrix, total[width * width : -1], float(total[-1])

    def _equations(self, heavy_row: int, factors: Floats, offsets: Floats) -> Iterator[Doubles]:
        """Own part of a heavy row's normal equation, for each own bucket of the other side."""
        heavy = self.side.heavy
        begin, end = heavy.indptr[heavy_row : heavy_row + 2]
        cuts = begin + np.searchsorted(heavy.columns[begin:end], self.other.bucket_rows)
        for low, high in pairwise(cuts):
            events = heavy.columns[low:high], heavy.ratings[low:high]
            yield equation(*events, offsets, factors, self.weights)

    def with_offsets(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Vectors as an equation takes them, and the columns' biases, which are 1 in ``vectors`` then;
        none without biases.

        Parameters
        ----------
        vectors : float32 array, shape (n, width); with biases the last column is overwritten
        """
        if not self.config.biases:
            return vectors, np.zeros(0, np.float32)
        offsets = vectors[:, -1].copy()
        vectors[:, -1] = 1.0
        return vectors, offsets
