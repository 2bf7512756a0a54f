"""Searching a model's Params on the validation part of a date's ratings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.ml.param import TypeConverters
from pyspark.sql import DataFrame

from recsys_spark.config import Config, Range, Tune, config_problem
from recsys_spark.console import progress_line
from recsys_spark.errors import ConfigError, SetupError
from recsys_spark.evaluation.ranking import MetricValue
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.fitted import POPULAR
from recsys_spark.pipeline.measuring import accuracy_on_validation
from recsys_spark.pipeline.metrics import MetricRow, write_metrics
from recsys_spark.pipeline.night import Night, estimator_of
from recsys_spark.pipeline.resume import settings_of
from recsys_spark.pipeline.tracking import log_trial, require_mlflow
from recsys_spark.pipeline.train import fit
from recsys_spark.schema import TRAIN, VALIDATION

QUARTER = 4
"""The first part of a fit, which may end a trial, has so many times fewer iterations."""

STARTING = 5
"""Trials before any may be ended, or chosen by what the others found."""


@dataclass(frozen=True)
class Tuned:
    """What a search found for one model.

    Attributes
    ----------
    model : its name
    params : the best values of the Params that were searched
    value : the metric on the validation part with them
    configured : the same with the configured values; None where these are outside the ranges
    trials : how many there have been, earlier ones of the same search included
    """

    model: str
    params: dict[str, Any]
    value: float
    configured: float | None
    trials: int


def tune(night: Night) -> list[Tuned]:
    """Search the configured ranges: reads ratings, users and items, writes metrics.

    A trial is a fit on the training part, measured on the validation part as a night measures its models;
    the test part is not touched. Values that were tried already are not fitted again, and a trial whose
    values contradict one another ends. Each fit is written to ``metrics`` when it ends, with
    ``trial=<number>`` as its segment, and remembered in the study's file; its Params are in the ledger.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Returns
    -------
    list of Tuned
        One for each model of ``tune.ranges``.

    Raises
    ------
    ConfigError
        Nothing is to be searched, or a range is not that of a Param.
    LakeError
        The split has not been done for this date.
    SetupError
        Optuna, or MLflow where it is wanted, is not installed.
    """
    require_mlflow(night)
    wanted = night.config.tune
    if wanted is None:
        raise ConfigError(
            config_problem(night.config.origin, "tune", None, "a section, with ranges to search")
        )
    for name in wanted.ranges:
        _require_params(night.config, name, wanted.ranges[name])
    with night.step("tune") as record:
        record.versions_read |= night.versions()
        popular = fit(night, record, POPULAR, [TRAIN])
        held = night.held_out().persist()
        try:
            return [_Search(night, record, wanted, name, held, popular).run() for name in wanted.ranges]
        finally:
            held.unpersist()
            popular.unpersist()


@dataclass
class _Search:
    """The search of one model's Params."""

    night: Night
    record: StepRecord
    wanted: Tune
    name: str
    held: DataFrame
    popular: Any

    def run(self) -> Tuned:
        study = self._study()
        first = self._configured()
        if first is not None and all(one.params != first for one in _ended(study)):
            study.enqueue_trial(first)
        left = self.wanted.trials - len(_ended(study))
        if left > 0:
            study.optimize(self._trial, n_trials=left)
        complete = [one for one in _ended(study) if one.state.name == "COMPLETE"]
        if not complete:
            tried = f"tune.ranges.{self.name}: no values that were tried can be set together"
            raise ConfigError(f"{self.night.config.origin}: {tried}")
        configured = [one.value for one in complete if one.params == first]
        best = study.best_trial
        return Tuned(
            self.name, best.params, best.value, configured[0] if configured else None, len(_ended(study))
        )

    def _study(self) -> Any:
        """The study of this search, with its earlier trials, where all is the same that values depend on."""
        optuna = _optuna()
        night, searched = self.night, self.wanted.model_dump()["ranges"][self.name]
        config = night.config
        same = [
            config.lake.root or config.lake.catalog,
            night.versions(),
            night.split_described(),
            settings_of(config, "evaluate"),
            config.history.get(self.name),
            config.params.get(self.name, {}),
            searched,
        ]
        digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]
        backend = optuna.storages.journal.JournalFileBackend(self.wanted.study)
        study = optuna.create_study(
            study_name=f"{self.name} {night.run_date} {digest}",
            storage=optuna.storages.JournalStorage(backend),
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTING),
        )
        # a search that goes on does not draw again what it began with
        seed = night.config.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTING)
        return study

    def _configured(self) -> dict[str, Any] | None:
        """The values that the configuration has; None where one is outside what is searched."""
        estimator: Any = self.night.estimator(self.name)
        values = dict[str, Any]()
        for name, allowed in self.wanted.ranges[self.name].items():
            if not estimator.isDefined(name):
                progress_line(f"  {self.name}.{name} is not set: no trial has it so")
                return None
            value = values[name] = estimator.getOrDefault(name)
            inside = allowed.low <= value <= allowed.high if isinstance(allowed, Range) else value in allowed
            if not inside:
                progress_line(f"  {self.name}.{name} is {value}, which is not searched: no trial has it")
                return None
        return values

    def _trial(self, trial: Any) -> float:
        """The metric on the validation part, of one choice of values."""
        estimator: Any = self.night.estimator(self.name)
        given = {
            name: _suggested(trial, estimator, name, allowed)
            for name, allowed in self.wanted.ranges[self.name].items()
        }
        known = next((one for one in _ended(trial.study) if one.params == trial.params), None)
        if known is not None:  # as lists of values soon are: nothing else would come out
            if known.state.name == "PRUNED":
                raise _optuna().TrialPruned
            return float(known.value)
        with self._with(given):
            self._require_together(trial, given)
            iterations = self._iterations()
            for step, count in enumerate(iterations):
                with self._with(given if count is None else {**given, "maxIter": count}):
                    measured = self._measured()
                value = next(one.value for one in measured if one.metric == self.night.config.evaluate.metric)
                trial.report(value, step)
                if step + 1 < len(iterations) and trial.should_prune():
                    self._keep(trial, given, measured, f"ended after {count} iterations")
                    raise _optuna().TrialPruned
        self._keep(trial, given, measured, "")
        return value

    def _require_together(self, trial: Any, given: Mapping[str, Any]) -> None:
        """End a trial whose values may each be set, but not together."""
        try:
            self.night.estimator(self.name)
        except ConfigError as error:
            self.record.details[f"{self.name} trial={trial.number}"] = json.dumps(
                {**given, "how": str(error)}
            )
            progress_line(f"  {self.name}, trial {trial.number}: {error}")
            raise _optuna().TrialPruned from None

    def _iterations(self) -> list[int | None]:
        """``maxIter`` of a trial's fits; None for the estimator's own."""
        estimator: Any = self.night.estimator(self.name)
        if not self.wanted.prune or not estimator.hasParam("maxIter"):
            return [None]
        return [max(1, estimator.getOrDefault("maxIter") // QUARTER), None]

    @contextmanager
    def _with(self, given: Mapping[str, Any]) -> Iterator[None]:
        """The night with other Params of the model."""
        before = self.night.config
        self.night.config = _with_params(before, self.name, given)
        try:
            yield
        finally:
            self.night.config = before

    def _measured(self) -> list[MetricValue]:
        model = fit(self.night, self.record, self.name, [TRAIN])
        try:
            return accuracy_on_validation(
                self.night, self.record, self.held, {self.name: model}, self.popular
            )
        finally:
            model.unpersist()

    def _keep(self, trial: Any, given: Mapping[str, Any], measured: list[MetricValue], how: str) -> None:
        """Write a trial's metrics, its Params, and a line."""
        rows = [MetricRow(VALIDATION, one, f"trial={trial.number}") for one in measured]
        self.record.versions_written["metrics"] = write_metrics(self.night, rows)
        log_trial(self.night, self.name, trial.number, given, rows, how)
        self.record.details[f"{self.name} trial={trial.number}"] = json.dumps({**given, "how": how})
        wanted = self.night.config.evaluate
        value = next(one.value for one in measured if one.metric == wanted.metric)
        told = ", ".join(f"{name} {_shown(value)}" for name, value in given.items())
        progress_line(
            f"  {self.name}, trial {trial.number}: {wanted.champion_metric} {value:.4f}: {told}"
            + (f"; {how}" if how else "")
        )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise SetupError("`recsys tune` needs Optuna: pip install 'recsys-spark[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _ended(study: Any) -> list[Any]:
    """Trials that came to an end of their own; not those that were broken off."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _with_params(config: Config, name: str, given: Mapping[str, Any]) -> Config:
    params = {**config.params, name: {**config.params.get(name, {}), **given}}
    return config.model_copy(update={"params": params})


def _require_params(config: Config, name: str, ranges: Mapping[str, Any]) -> None:
    """Check that what is searched are numbers, or values, of Params of a configured model."""
    if name not in config.models:
        raise ConfigError(
            config_problem(config.origin, f"tune.ranges.{name}", name, f"one of {config.models}")
        )
    estimator: Any = estimator_of(config, name)
    for param, allowed in ranges.items():
        key = f"tune.ranges.{name}.{param}"
        if not estimator.hasParam(param):
            known = sorted(one.name for one in estimator.params)
            raise ConfigError(
                config_problem(config.origin, key, param, f"a Param of {name}: {', '.join(known)}")
            )
        if isinstance(allowed, Range):
            if estimator.getParam(param).typeConverter not in (TypeConverters.toInt, TypeConverters.toFloat):
                raise ConfigError(config_problem(config.origin, key, "a range", "a list of values"))
            for end in (allowed.low, allowed.high):
                estimator_of(_with_params(config, name, {param: _number(estimator, param, end)}), name)
        else:
            for value in allowed:
                estimator_of(_with_params(config, name, {param: value}), name)


def _number(estimator: Any, param: str, value: float) -> float:
    return int(value) if estimator.getParam(param).typeConverter is TypeConverters.toInt else value


def _suggested(trial: Any, estimator: Any, name: str, allowed: Range | list[Any]) -> Any:
    if not isinstance(allowed, Range):
        return trial.suggest_categorical(name, allowed)
    if estimator.getParam(name).typeConverter is TypeConverters.toInt:
        return trial.suggest_int(name, int(allowed.low), int(allowed.high), log=allowed.log)
    return trial.suggest_float(name, allowed.low, allowed.high, log=allowed.log)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
