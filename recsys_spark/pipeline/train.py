"""Step three: fit the configured models on the training part."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from pyspark.sql import functions as F

from recsys_spark.config import Config, config_problem
from recsys_spark.console import progress_line
from recsys_spark.errors import ConfigError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.paths import absolute_path
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.models.members import MembersEstimator
from recsys_spark.pipeline.fitted import COMPARISON, load, record_models
from recsys_spark.pipeline.night import Night, estimator_of
from recsys_spark.pipeline.refit import KEPT, fit_to_keep
from recsys_spark.revision import code_version
from recsys_spark.schema import ITEM, TRAIN, USER, VALIDATION


def train(night: Night) -> None:
    """Fit the configured models on the training part: reads ratings, users and items, writes models.

    On nights between two fits (``recommend.refit_every``) the last published fit is kept instead.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        The split has not been done for this date.
    """
    with night.step("train") as record:
        record.versions_read["ratings"] = night.ratings_version()
        record.details["split"] = night.split_described()
        kept = fit_to_keep(night)
        if kept is not None:
            record.details[KEPT] = kept
            return
        rows = dict[str, dict[str, Any]]()
        for name in sorted(night.config.models, key=lambda one: has_members(night.estimator(one))):
            rows[name] = fit_and_save(night, record, name, COMPARISON, [TRAIN], fitted=rows)
        record_models(night, record, [rows[name] for name in night.config.models])


def fit_and_save(
    night: Night,
    record: StepRecord,
    name: str,
    purpose: str,
    parts: Sequence[str],
    compared: Mapping[str, Any] | None = None,
    fitted: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Fit model ``name`` on the ratings of some parts, save it, and return its row for the ``models`` table.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; versions and counts are added.
    name : str
        One of ``models``.
    purpose : str
        As :mod:`recsys_spark.pipeline.fitted` has it.
    parts : sequence of str
        As :meth:`Night.rated` takes them.
    compared : mapping, optional
        Of the table ``models``: a fit on a part of the ratings, whose choices are kept. Without it, a model
        that chooses does so by the validation part.
    fitted : mapping
        Name of a model → its row: what was fitted on these parts before. A member with equal Params is not
        fitted again.

    Raises
    ------
    ConfigError
        The model names feature columns of users or items, and there is no such table.
    """
    started = time.monotonic()
    model = fit(night, record, name, parts, compared, fitted)
    row = save(night, name, purpose, model, started)
    model.unpersist()
    progress_line(f"  {name} fitted and saved in {row['seconds']:.1f} s")
    return row


def save(night: Night, name: str, purpose: str, model: Any, started: float) -> dict[str, Any]:
    """Save a fitted model, and return its row for the ``models`` table.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    name : str
        One of the registered models.
    purpose : str
        As :mod:`recsys_spark.pipeline.fitted` has it.
    model : RecommenderModel
        What was fitted.
    started : float
        When, of the monotonic clock.
    """
    estimator: Any = night.estimator(name)
    path = f"{absolute_path(night.config.lake.models_path)}/{night.run_id}/{purpose}/{name}"
    model.write().overwrite().save(path)
    summary = getattr(model, "summary", None)
    return {
        "run_id": night.run_id,
        "run_date": night.run_date,
        "model": name,
        "purpose": purpose,
        "state": "candidate",
        "params": night.params_described(name),
        "seed": estimator.getOrDefault("seed") if estimator.hasParam("seed") else night.config.seed,
        "code": code_version(),
        "ratings_version": night.ratings_version(),
        "split": night.split_described(),
        "path": path,
        "seconds": time.monotonic() - started,
        "objectives": None if summary is None else list(summary.objectiveHistory),
        "metrics": None,
        "importances": getattr(model, "gains", None),
    }


def fit(
    night: Night,
    record: StepRecord,
    name: str,
    parts: Sequence[str],
    compared: Mapping[str, Any] | None = None,
    fitted: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Any:
    """Fit model ``name`` on the ratings of some parts.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself: the versions of ``users`` and ``items`` that it names are read, or the
        newest, which are added.
    name : str
        One of the registered models.
    parts : sequence of str
        As :meth:`Night.rated` takes them.
    compared : mapping, optional
        As :func:`fit_and_save` has it.
    fitted : mapping
        As :func:`fit_and_save` has it.

    Returns
    -------
    RecommenderModel
        What came out.

    Raises
    ------
    ConfigError
        The model names feature columns of users or items, and there is no such table.
    """
    estimator: Any = night.estimator(name)
    for side, columns in estimator.feature_columns().items():
        if not night.lake.exists(f"{side}s"):
            allowed = f"nothing, unless ingest.source.{side}s is configured"
            raise ConfigError(
                config_problem(night.config.origin, f"{name}.{side}FeatureCols", columns, allowed)
            )
        version = record.versions_read.setdefault(f"{side}s", night.lake.version(f"{side}s"))
        estimator.set_features(side, night.lake.read(f"{side}s", version))
    if estimator.chooses_on_validation:
        if compared is not None:
            estimator.keep_choices(load(compared))
        else:
            held = night.held_out()
            rows, left_out = held.select(USER, F.explode(VALIDATION).alias(ITEM)), None
            if night.config.split.repeats:
                left_out = night.seen(VALIDATION)
                left_out = rows.limit(0) if left_out is None else left_out
            estimator.set_validation(rows, left_out)
    if night.config.split.repeats:
        estimator.set_consumption(night.consumption(name, *parts))
    if has_members(estimator):
        alike = members_alike(night.config, name)
        estimator.set_fitted({member: load(fitted[member]) for member in alike if member in fitted})
    return estimator.fit(night.fitted_on(name, *parts))


def has_members(estimator: Any) -> bool:
    """Whether a model is made of others.

    Parameters
    ----------
    estimator : RecommenderEstimator
        Of any model.
    """
    return isinstance(estimator, MembersEstimator)


def members_alike(config: Config, name: str) -> list[str]:
    """Members of a model that would be fitted as the configured models of their names are: with equal Params,
    on the same ratings.

    Parameters
    ----------
    config : Config
        The whole configuration.
    name : str
        A model that is made of others.
    """
    estimator, ratings_of = cast(MembersEstimator, estimator_of(config, name)), config.history.get
    return [
        member
        for member, own in estimator.estimators().items()
        if ratings_of(member) == ratings_of(name)
        and not own.chooses_on_validation
        and _values_of(own) == _values_of(estimator_of(config, member))
    ]


def _values_of(estimator: RecommenderEstimator) -> dict[str, Any]:
    """An estimator's Params by name."""
    return {param.name: value for param, value in estimator.extractParamMap().items()}
