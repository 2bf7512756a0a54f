"""Compiled kernels, kept in a folder of the user's cache: a process that needs one loads it in milliseconds.

Loaded code does what compiled code does, bit for bit, as each kernel is compiled whole. A kernel that called
another one would run whichever copy of it the process met first: the callee's own, or the one that was
optimised within the caller. What kernels call is inlined by numba instead, and what is not is refused.

numba has a cache of its own, which is not for these: it does not see that a kernel which is called has
changed, kernels of two ranks have one name in it, by which loaded code is found, and two processes that
compile for one function at once may each take the other's code.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

from recsys_spark.user_cache import cache_folder

_DIGEST = hashlib.sha256().digest_size


def kept_on_disk(kernel: Any) -> Any:
    """The kernel, which looks for its code in the cache before it compiles it.

    Parameters
    ----------
    kernel : Dispatcher
        As numba's ``njit`` makes it. What its function encloses becomes part of the function's name, by which
        code that is loaded is found among what the process has compiled.
    """
    function = kernel.py_func
    if function.__closure__:
        function.__qualname__ += f"_{_digest(_told(_enclosed(function)))}"
    kernel._cache = CodeCache(kernel)
    return kernel


class CodeCache(NullCache):
    """A kernel's machine code by signature: a file for each, in a folder for each version of the kernels.

    Parameters
    ----------
    kernel : Dispatcher
        Whose code it is.

    Notes
    -----
    A file's name is a hash of all that its code depends on: the sources of all kernels, what the kernel
    encloses, its compiler settings, the signature, the processor, Python, numba and its settings. A file that
    cannot be read is compiled anew; where the folder cannot be written, nothing is kept.
    """

    def __init__(self, kernel: Any) -> None:
        """Nothing is read or written but the sources, once: it is these that are being imported."""
        self._kernel, self._folder = kernel, folder_of_sources()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for a signature, or None where there is none, as numba asks for it.

        Parameters
        ----------
        sig : tuple of numba types
            Types of the arguments.
        target_context : numba target context
            What code is for.
        """
        target_context.refresh()
        file = self._file(sig, target_context)
        if file is None:
            return None
        try:
            data = file.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(data[_DIGEST:]))  # noqa: S301 - of the user's own cache

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for a signature.

        Parameters
        ----------
        sig : tuple of numba types
            Types of the arguments.
        data : CompileResult
            The code.

        Raises
        ------
        TypeError
            The kernel calls another one, which is not inlined.
        """
        _check_whole(data)
        file = self._file(sig, data.target_context)
        if file is None or data.lifted or data.library.has_dynamic_globals:
            return
        code = dumps(data._reduce())
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            written = file.with_name(f"{file.name}.{uuid4().hex}")
            written.write_bytes(hashlib.sha256(code).digest() + code)
            written.replace(file)

    def _file(self, sig: Any, target_context: Any) -> Path | None:
        """Where the code for a signature is; None where it depends on what cannot be told."""
        if self._folder is None:
            return None
        try:
            told = _told((sig, target_context.codegen().magic_tuple(), self._kernel))
        except TypeError:
            return None
        return self._folder / f"{self._kernel.__name__}-{_digest(told)}"


@lru_cache(maxsize=1)
def folder_of_sources() -> Path | None:
    """The folder for this version of the kernels; None where the user has no home."""
    cache = cache_folder()
    if cache is None:
        return None
    state = hashlib.sha256()
    for source in sorted(files(__package__).iterdir(), key=lambda one: one.name):
        if source.name.endswith(".py"):
            state.update(source.read_bytes())
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    settings.pop("NUMBA_NUM_THREADS", None)  # a kernel has no threads of its own
    versions = sys.version, numba.__version__, version("llvmlite"), np.__version__
    state.update(repr((sorted(settings.items()), versions)).encode())
    return cache / "kernels" / state.hexdigest()[:16]


def _told(value: Any) -> str:
    """What code depends on, as a text that is the same in every process.

    Raises
    ------
    TypeError
        It is of a kind that is not known.
    """
    if isinstance(value, Dispatcher):
        function = value.py_func
        made_of = _told((value.targetoptions, *_enclosed(function)))
        return f"{function.__module__}.{function.__qualname__}{made_of}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_told, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_told(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    if isinstance(value, numba.types.Type) and "Dispatcher" not in value.name and " at 0x" not in value.name:
        return str(value.name)
    if value is None or isinstance(value, bool | int | float | str | np.generic | type):
        return repr(value)
    raise TypeError(f"what {value!r} is cannot be told")


def _enclosed(function: Any) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__ or ()]


def _digest(told: str) -> str:
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _check_whole(compiled: Any) -> None:
    """A kernel's code holds no function but its own, numba's, and those of numba's runtime."""
    own = compiled.fndesc.mangled_name.removeprefix("_ZN")
    for function in compiled.library.get_defined_functions():
        name = function.name
        if name.startswith("_ZN") and own not in name and not name.startswith("_ZN5numba"):
            raise TypeError(
                f"{compiled.fndesc.qualname} calls {name}, which is not inlined: "
                "decorate it with inlined_jit or inlined_exact_jit"
            )
