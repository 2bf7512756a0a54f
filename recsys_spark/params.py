"""Params of ``pyspark.ml``: how a class writes one down, and what it checks before it works."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyspark.ml.param import Param, Params


def param(name: str, doc: str, converter: Any) -> Any:
    """A Param of the class in whose body this stands."""
    return Param(Params._dummy(), name, doc, typeConverter=converter)


def check_ranges(
    params: Params, least: Mapping[str, float], allowed: Mapping[str, tuple[str, ...]], shares: tuple[str, ...] = ()
) -> None:
    """Raise ``ValueError`` for a number below its bound or infinite, a text that is not allowed, a share not in [0, 1)."""
    for name, bound in least.items():
        value = params.getOrDefault(name)
        if not bound <= value < math.inf:
            raise ValueError(f"{name} must be at least {bound}, got {value}")
    for name, values in allowed.items():
        if params.getOrDefault(name) not in values:
            raise ValueError(f"{name} must be one of {', '.join(values)}, got {params.getOrDefault(name)!r}")
    for name in shares:
        if not 0 <= params.getOrDefault(name) < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {params.getOrDefault(name)}")


def check_interval(params: Params) -> None:
    """Raise ``ValueError`` for a ``checkpointInterval`` that is neither at least 1 nor -1."""
    interval = params.getOrDefault("checkpointInterval")
    if interval < 1 and interval != -1:
        raise ValueError(f"checkpointInterval must be at least 1, or -1, got {interval}")
