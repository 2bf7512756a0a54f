"""Params of ``pyspark.ml``: how a class declares them, takes them by keyword, and checks them before it
works.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, Self, TypeVar, cast

from pyspark.ml.param import Param, Params

Constructor = TypeVar("Constructor", bound=Callable[..., None])


def param(name: str, doc: str, converter: Any) -> Any:
    """A Param of the class in whose body this stands.

    Parameters
    ----------
    name : str
        Name of the Param.
    doc : str
        What it does.
    converter : callable
        One of ``pyspark.ml.param.TypeConverters``.
    """
    return Param(Params._dummy(), name, doc, typeConverter=converter)


class KeywordParams(Params):
    """Params that are set by keyword: in the constructor (:func:`keyword_constructor`), and by
    :meth:`setParams`.
    """

    _input_kwargs: dict[str, Any]

    def setParams(self, **params: Any) -> Self:
        """Set Params by name.

        Parameters
        ----------
        **params
            The Params of the constructor.

        Raises
        ------
        TypeError
            An unknown name, with the nearest known one, or a value of the wrong type.
        """
        _require_known(self, "Param", params, [param.name for param in self.params])
        return self._set(**params)

    def _set_given(self) -> None:
        """Set the Params that the constructor was given."""
        given = {name: value for name, value in self._input_kwargs.items() if self.hasParam(name)}
        self._set(**given)


def keyword_constructor(init: Constructor) -> Constructor:
    """A constructor of keyword arguments only, which keeps those that were given; the others have the
    Params' defaults.

    Parameters
    ----------
    init : callable
        ``__init__`` with keyword-only arguments.
    """
    known = [name for name in inspect.signature(init).parameters if name != "self"]

    @wraps(init)
    def constructor(self: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            raise TypeError(f"{type(self).__name__} takes keyword arguments only, got {len(args)} positional")
        _require_known(self, "argument", kwargs, known)
        self._input_kwargs = kwargs
        init(self, **kwargs)

    return cast(Constructor, constructor)


def _require_known(instance: Any, what: str, given: Collection[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise TypeError(f"{type(instance).__name__} has no {what} {name!r}: {hint}")


def check_ranges(
    params: Params,
    least: Mapping[str, float],
    allowed: Mapping[str, tuple[str, ...]],
    fractions: tuple[str, ...] = (),
) -> None:
    """Check the values of Params.

    Parameters
    ----------
    params : whose Params are checked
    least : Param → smallest value; infinity is never allowed
    allowed : Param → the texts it may be
    fractions : Params that must be at least 0 and below 1

    Raises
    ------
    ValueError
        The first that is out of range: its name, what is allowed, and what was given.
    """
    for name, bound in least.items():
        value = params.getOrDefault(name)
        if not bound <= value < math.inf:
            raise ValueError(f"{name} must be at least {bound}, got {value}")
    for name, values in allowed.items():
        if params.getOrDefault(name) not in values:
            raise ValueError(f"{name} must be one of {', '.join(values)}, got {params.getOrDefault(name)!r}")
    for name in fractions:
        if not 0 <= params.getOrDefault(name) < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {params.getOrDefault(name)}")


def check_interval(params: Params) -> None:
    """Raise ``ValueError`` for a ``checkpointInterval`` that is neither at least 1 nor -1.

    Parameters
    ----------
    params : Params
        Has ``checkpointInterval``.
    """
    interval = params.getOrDefault("checkpointInterval")
    if interval < 1 and interval != -1:
        raise ValueError(f"checkpointInterval must be at least 1, or -1, got {interval}")
