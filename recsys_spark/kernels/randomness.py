"""Counter-based random numbers: a draw is a pure function of (seed, keys), whatever was drawn before and
wherever.

The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom
number generators"), applied once for each key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys_spark.kernels.arrays import Doubles, Hashes

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(seed: int, *keys: npt.ArrayLike) -> Hashes:
    """64 random bits for each combination of ``keys`` (integers or integer arrays that broadcast)."""
    with np.errstate(over="ignore"):
        state = finalise(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + GOLDEN)
        for key in keys:
            state = finalise((state ^ np.asarray(key).astype(np.uint64)) + GOLDEN)
        return np.asarray(state)


def uniform(seed: int, *keys: npt.ArrayLike) -> Doubles:
    """A float64 in [0, 1) for each combination of ``keys``, with 53 random bits."""
    return np.asarray((mix(seed, *keys) >> np.uint64(11)) * 2.0**-53)


def normal(seed: int, *keys: npt.ArrayLike) -> Doubles:
    """A standard normal float64 for each combination of ``keys`` (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(seed, *keys, 0)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(seed, *keys, 1)))


def poisson(seed: int, *keys: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """A Poisson(1) number for each combination of ``keys``: how many of the distribution's sums are at most
    :func:`uniform`'s draw, of which the first 16 bits nearly always decide.
    """
    bits = mix(seed, *keys)
    counts = np.asarray(_COUNT_OF_FIRST_BITS[bits >> np.uint64(48)])
    undecided = counts == _UNDECIDED
    counts[undecided] = _counts((bits[undecided] >> np.uint64(11)) * 2.0**-53)
    return counts


def finalise(word: Any) -> Any:
    """SplitMix64's finaliser of a 64-bit word, or of an array of them."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def _counts(draws: Doubles) -> npt.NDArray[np.uint8]:
    return np.searchsorted(_POISSON_SUMS, draws, side="right").astype(np.uint8)


def _count_of_first_bits() -> npt.NDArray[np.uint8]:
    """By the first 16 bits of a draw its Poisson(1) number, where all such draws have the same."""
    least = np.arange(2.0**16) * 2.0**-16
    of_least, of_largest = _counts(least), _counts(least + (2.0**-16 - 2.0**-53))
    return np.where(of_least == of_largest, of_least, _UNDECIDED)


_POISSON_SUMS = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 16)]))
_UNDECIDED = np.uint8(255)
_COUNT_OF_FIRST_BITS = _count_of_first_bits()

inlined_finalise = njit(nogil=True, inline="always")(finalise)
"""The same for compiled loops."""
