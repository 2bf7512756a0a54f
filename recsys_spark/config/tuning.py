"""What ``recsys tune`` searches."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from recsys_spark.config.section import Count, Section


class Range(Section):
    """Numbers from ``low`` to ``high``, both included: whole ones for a Param that is whole."""

    low: float = Field(allow_inf_nan=False)
    """The smallest."""
    high: float = Field(allow_inf_nan=False)
    """The largest."""
    log: bool = False
    """Whether each power of ten is searched alike, as for a regularisation; ``low`` is then above 0."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must not be above high, and above 0 where log is true")
        return self


class Tune(Section):
    """What ``recsys tune`` searches, by ``evaluate.champion_metric`` on the validation part."""

    ranges: dict[str, dict[str, Range | list[bool | int | float | str]]] = Field(min_length=1)
    """Model → Param → a list of values, or a range: ``{low: 0.001, high: 0.1, log: true}``."""
    trials: Count = 20
    """Trials of each model, the configured values first."""
    prune: bool = True
    """Fit a quarter of the iterations first, where the model has ``maxIter``, and end a trial that is below
    the median of the others there.
    """
    study: str = Field("recsys-study.log", min_length=1)
    """File that remembers the trials: a search that was stopped goes on where it was."""
