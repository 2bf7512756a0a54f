"""Sets of whole numbers, by sorting. numpy's own functions hash since version 2.3, which takes many times as
long where there are many numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_spark.kernels.arrays import Booleans, Integers, Ints, Longs


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Different numbers, ascending, of the same dtype; of values of any shape."""
    ordered = np.sort(values, axis=None)
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def numbered(values: Integers, below: int) -> tuple[Longs, Ints]:
    """Different numbers, ascending, and the place of each value among them; by a table of ``below`` places,
    one for each number that there may be, from 0 on.
    """
    occurs = np.zeros(below, bool)
    occurs[values] = True
    place = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(occurs), place[values]


def contained(values: npt.NDArray[Any], among: npt.NDArray[Any]) -> Booleans:
    """Which of the ``values``, of any shape, are among others, which come in any order, repeated or not."""
    if not len(among):
        return np.zeros(np.shape(values), bool)
    ordered = np.sort(among)
    places = np.searchsorted(ordered, values)
    np.minimum(places, len(ordered) - 1, out=places)
    return np.asarray(ordered[places] == values)
