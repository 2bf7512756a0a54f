"""Sums of a sequence of arrays that have the same bits however the sequence is cut into runs.

Neighbours are added in pairs, pairs in pairs of pairs, and so on: a binary tree over the whole sequence, of
which a run holds some complete branches. Only the sums of those need to be brought together.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Reals


class TreeSum:
    """Sum of the parts that have been added, in order, to a run of a sequence.

    Parameters
    ----------
    start : int
        Position of the run's first part in the sequence.

    Attributes
    ----------
    branches : list of float64 array
        Sums of the complete branches, in order; of n parts there are at most ``2 * log2(n)``.
    """

    def __init__(self, start: int) -> None:
        self.branches: list[Doubles] = []
        self._starts, self._sizes, self._end = list[int](), list[int](), start

    def add(self, total: Doubles, size: int = 1) -> None:
        """Add the next part, or the sum of a complete branch of ``size`` parts; ``total`` is taken over."""
        self.branches.append(total)
        self._starts.append(self._end)
        self._sizes.append(size)
        self._end += size
        while len(self._sizes) > 1 and self._sizes[-2] == size and self._starts[-2] % (2 * size) == 0:
            right = self.branches.pop()
            self.branches[-1] += right
            self._starts.pop()
            self._sizes.pop()
            size *= 2
            self._sizes[-1] = size

    def total(self, length: int) -> Doubles:
        """The sum of all parts, each of ``length`` numbers."""
        result = np.zeros(length)
        for branch in self.branches:
            result += branch
        return result


def branches_of(start: int, parts: Iterable[Reals], length: int) -> Doubles:
    """Sums of the complete branches of a run.

    Parameters
    ----------
    start : int
        Position of the first of ``parts``.
    parts : iterable of float arrays
        Each of ``length`` numbers.
    length : int
        How many.

    Returns
    -------
    float64 array, shape (branches, length)
    """
    tree = TreeSum(start)
    for part in parts:
        tree.add(part.astype(np.float64))
    return np.concatenate(tree.branches).reshape(-1, length) if tree.branches else np.zeros((0, length))


def branch_sizes(start: int, count: int) -> list[int]:
    """How many parts each complete branch of a run of ``count`` parts has, in order."""
    sizes = []
    while count:
        largest = 1 << (count.bit_length() - 1)
        sizes.append(min(start & -start, largest) if start else largest)
        start, count = start + sizes[-1], count - sizes[-1]
    return sizes
