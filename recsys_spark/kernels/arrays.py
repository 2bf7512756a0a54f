"""Array types and compiler settings of the kernels: one vocabulary for all of them."""

from __future__ import annotations

import mmap
import tempfile
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from recsys_spark.kernels.code_cache import kept_on_disk

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Reals = npt.NDArray[Any]
"""Floats of either precision: networks and losses keep the dtype they come in."""
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]
Booleans = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
"""64-bit hashes of ids: what random draws and logical buckets are keyed by."""


def in_mapped_file(array: Any) -> Any:
    """A copy that lies in an unlinked temporary file mapped into memory, which the system may page out."""
    if not array.nbytes:
        return array
    with tempfile.TemporaryFile() as file:
        np.ascontiguousarray(array).tofile(file)
        file.flush()
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), array.dtype)
    return mapped.reshape(array.shape)


class Mapped:
    """A value that, once it has reached another process, has its arrays in mapped files.

    A broadcast's value stays with a Python worker for good; mapped, the system can page it out.

    Parameters
    ----------
    value : array, named tuple or dataclass
        Arrays in tuples and dataclasses are mapped too; all else is carried as it is.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.value = _mapped(state["value"])


def _mapped(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return in_mapped_file(value)
    if isinstance(value, tuple):
        parts = map(_mapped, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _mapped(getattr(value, one.name)) for one in fields(value)})
    return value


def jit(function: Any) -> Any:
    """Compile floating-point loops: sums may be reordered so that they vectorise, and a division by zero
    is infinite.
    """
    return kept_on_disk(njit(nogil=True, fastmath=True, error_model="numpy")(function))


def inlined_jit(function: Any) -> Any:
    """Compile a part of such loops, into each kernel that calls it."""
    return kept_on_disk(njit(nogil=True, fastmath=True, error_model="numpy", inline="always")(function))


def jit_with_infinities(function: Any) -> Any:
    """Compile floating-point loops that vectorise likewise, and meet infinities."""
    flags = {"reassoc", "contract", "nsz"}
    return kept_on_disk(njit(nogil=True, fastmath=flags, error_model="numpy")(function))


def exact_jit(function: Any) -> Any:
    """Compile loops whose floats must keep their order, and loops over integers."""
    return kept_on_disk(njit(nogil=True, error_model="numpy")(function))


def inlined_exact_jit(function: Any) -> Any:
    """Compile a part of such loops, into each kernel that calls it."""
    return kept_on_disk(njit(nogil=True, error_model="numpy", inline="always")(function))
