"""Prior means of one side's vectors by regression on side features (Simm et al. 2017, "Macau").

    x_u ~ N(m + βᵀ f_u, Λ⁻¹)        β ~ N(0, (λ I)⁻¹ ⊗ Λ⁻¹)        λ ~ Gamma

β, of a row for each feature, is drawn by one task from ``Fᵀ(X - m)``, which all tasks sum bucket by bucket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from scipy.linalg import cho_factor, solve_triangular

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Doubles, Floats, Ints
from recsys_spark.kernels.randomness import mix
from recsys_spark.packing import one_array, table_from_bytes
from recsys_spark.training.group import Group
from recsys_spark.training.histories import features_among
from recsys_spark.training.interactions import Side
from recsys_spark.training.ownership import send_to_owners
from recsys_spark.training.side_features import Features

MOST_FEATURES = 10_000
"""Features of a side, whose products one task holds and factorises: 2 GB at that number."""
WEAK = 1e-3
"""Shape and rate of the prior of λ."""
BETA = 4
"""What a random number is for; others are in :mod:`recsys_spark.training.als.gibbs`."""


@dataclass(frozen=True)
class SideFeatures:
    """Features of one side in one task.

    Attributes
    ----------
    others : ids that have features and no events, ascending
    matrix : float32 compressed rows, shape (own rows + others, features)
    """

    others: pa.Array
    matrix: sparse.csr_matrix


def side_features(group: Group, side: Side, entries: list[pa.Table], bag: sparse.csr_matrix) -> SideFeatures:
    """Features of the own rows, and of other ids that this task would own.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    side : Side
        Of this task.
    entries : list of pyarrow.Table
        ``id``, ``names``, ``weights``; any in any task.
    bag : csr matrix, shape (own rows, n)
        Further features of the own rows.

    Raises
    ------
    ModelError
        There are more than ``MOST_FEATURES``.
    """
    received = table_from_bytes(send_to_owners(group, entries, "id", side.owners))
    others = side.ids.slice(0, 0)
    if received is not None:
        ids = one_array(received["id"]).cast(side.ids.type)
        others = pc.unique(ids.filter(pc.invert(pc.is_in(ids, value_set=side.ids))))
        others = others.take(pc.sort_indices(others))
    named = features_among(group, side.ids, received)
    weights = named.weights
    if received is not None:  # what no rating was seen with is no feature
        weights = Features.build(pa.concat_arrays([side.ids, others]), received, named.names).weights
    own_bag = sparse.vstack([bag, sparse.csr_matrix((len(others), bag.shape[1]), dtype=np.float32)])
    matrix = sparse.hstack([weights, own_bag]).tocsr()
    if matrix.shape[1] > MOST_FEATURES:
        raise ModelError(
            f"there are {matrix.shape[1]:,} features of a side, and a Bayesian fit takes {MOST_FEATURES:,}: "
            "leave out columns of many values, or useHistories"
        )
    return SideFeatures(others, matrix)


def bag_of_columns(group: Group, side: Side, other: Side) -> sparse.csr_matrix:
    """What each own row has events with, as features: a weight of one over the root of their number.

    Rows that all tasks share have none.
    """
    positions = [(other.start + rows).astype(np.int32) for rows in other.rows_to_send]
    of_columns: Ints = np.concatenate(group.all_to_all(positions))
    counts = np.diff(side.indptr)
    weights = np.repeat(np.maximum(counts, 1) ** -0.5, counts).astype(np.float32)
    shape = len(side.ids), other.total
    bag = sparse.csr_matrix((weights, of_columns[side.columns], side.indptr), shape)
    bag.sum_duplicates()
    return bag


@dataclass
class PriorMeans:
    """The regression of one side; the same in every task.

    Attributes
    ----------
    group, side : the tasks, and this one's share
    features : of the own rows and of others
    width : of the vectors
    seed, number : what random numbers are keyed by
    beta : float64 array, shape (features, width)
    """

    group: Group
    side: Side
    features: SideFeatures
    width: int
    seed: int
    number: int
    beta: Doubles = field(init=False)

    def __post_init__(self) -> None:
        """Bring all features to the task that draws."""
        own = self.features.matrix[: len(self.side.ids)]
        self.beta = np.zeros((own.shape[1], self.width))
        self._strength, self._gram, self._factor = 1.0, np.zeros((0, 0)), None
        parts = self._gathered(own)
        if self.group.rank == 0:
            every = sparse.vstack(parts).tocsr().astype(np.float64)
            self._gram = (every.T @ every).toarray()
        self._own = own.astype(np.float64)

    @property
    def strength(self) -> float:
        """λ."""
        return self._strength

    def means(self, precision: Doubles | None = None) -> Doubles:
        """``βᵀ f`` of the own rows, shape (own rows, width); times Λ, where it is given.

        Sparse rows times a small matrix, which no number of tasks changes.
        """
        beta = self.beta if precision is None else self.beta @ precision
        return np.asarray(self._own @ beta)

    def of_others(self, mean: Doubles) -> Floats:
        """Prior means of the other ids."""
        others = self.features.matrix[len(self.side.ids) :].astype(np.float64)
        return (mean + np.asarray(others @ self.beta)).astype(np.float32)

    def draw(self, vectors: Floats, mean: Doubles, precision: Doubles, sweep: int) -> None:
        """Draw β, and λ, from the vectors of all rows.

        Parameters
        ----------
        vectors : float32 array, shape (own rows, width)
        mean, precision : m and Λ
        sweep : number of the sweep
        """
        n_features = len(self.beta)
        buckets = self.side.bucket_rows
        parts = (
            np.asarray(self._own[begin:end].T @ (vectors[begin:end] - mean)).ravel()
            for begin, end in pairwise(buckets)
        )
        right = self.group.ordered_sum(parts, len(buckets) - 1, n_features * self.width)
        drawn = np.zeros(0)
        if self.group.rank == 0:
            drawn = self._drawn(right.reshape(n_features, self.width), precision, sweep)
        shared = self.group.all_gather(drawn)[0]
        self._strength, self.beta = float(shared[0]), shared[1:].reshape(n_features, self.width)

    def _drawn(self, right: Doubles, precision: Doubles, sweep: int) -> Doubles:
        """λ and β, in one array; in the task that draws."""
        random = np.random.Generator(np.random.Philox(int(mix(self.seed, sweep, self.number, BETA))))
        strength, n_features = self._strength, len(self.beta)
        # a new factorisation for each draw of λ would be most of a sweep where there are many features
        if self._factor is None or sweep % max(1, n_features // 256) == 0:
            rate = WEAK + 0.5 * float(np.einsum("fi,ij,fj->", self.beta, precision, self.beta, optimize=True))
            if self.beta.any():
                strength = float(random.gamma(WEAK + 0.5 * self.beta.size, 1 / rate))
            self._factor = None
            system = np.array(self._gram, order="F")
            system[np.diag_indices(n_features)] += strength
            self._factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)[0]
        factor = self._factor
        upper = np.linalg.cholesky(precision).T
        noise = np.linalg.solve(upper, random.standard_normal((n_features, self.width)).T).T
        half = solve_triangular(factor, right, lower=True, check_finite=False)
        beta = solve_triangular(factor, half + noise, lower=True, trans=1, check_finite=False)
        return np.concatenate([[strength], beta.ravel()])

    def _gathered(self, own: sparse.csr_matrix) -> list[sparse.csr_matrix]:
        """The rows of all tasks, in the task that draws; nothing in the others."""
        nothing = [np.zeros(0, kind) for kind in (np.int64, np.int32, np.float32)]
        mine = own.indptr.astype(np.int64), own.indices.astype(np.int32), own.data
        received = [
            self.group.all_to_all([part, *[empty] * (self.group.size - 1)])
            for part, empty in zip(mine, nothing, strict=True)
        ]
        if self.group.rank:
            return []
        return [
            sparse.csr_matrix((data, indices, indptr), (len(indptr) - 1, own.shape[1]))
            for indptr, indices, data in zip(*received, strict=True)
        ]
