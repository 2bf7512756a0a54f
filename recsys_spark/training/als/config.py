"""Hyperparameters of ALS, as the tasks see them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ALSConfig:
    """Hyperparameters of one fit, as plain values.

    Attributes
    ----------
    rank : length of the factors
    max_iterations : largest number of iterations
    solver : ``cg``, ``cholesky`` or ``nonnegative``
    cg_steps : conjugate-gradient steps of each row
    implicit : whether ratings are weights, ``alpha`` · abs(r), of a preference for r > 0
    binary : whether every positive rating counts as 1, and others as 0
    alpha, regularization : as in Spark's ALS
    reg_exponent : of the number of events in a row's regularisation
    all_pairs_weight : w₀
    regularize_all_pairs : whether w₀ counts in the regularisation, as in iALS
    gravity : w₀ · n_users · n_items / n_events
    biases : whether a global mean and a bias for each row are fitted
    tolerance : stop when an iteration lowers the objective by less than this fraction; 0 for never
    seed : of the users' starting factors
    burn_in, samples : of a Bayesian fit: iterations that are thrown away, and how many of the others are
        kept; 0 samples for a point estimate
    histories : whether a user's prior mean depends on which items it has
    """

    rank: int
    max_iterations: int
    solver: str
    cg_steps: int
    implicit: bool
    binary: bool
    alpha: float
    regularization: float
    reg_exponent: float
    all_pairs_weight: float
    regularize_all_pairs: bool
    gravity: float
    biases: bool
    tolerance: float
    seed: int
    burn_in: int = 0
    samples: int = 0
    histories: bool = False

    @property
    def width(self) -> int:
        """Length of a row's vector: its factors, and its bias where there is one."""
        return self.rank + self.biases

    @property
    def served(self) -> ALSConfig:
        """The same with the rank of the result, in which samples stand side by side, each with two numbers
        for the biases.
        """
        return replace(self, rank=(self.rank + 2) * self.samples) if self.samples else self
