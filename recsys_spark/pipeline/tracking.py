"""Runs of MLflow, beside the tables: what was fitted, with which Params, and how it did."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recsys_spark.console import progress_line
from recsys_spark.errors import SetupError, summary
from recsys_spark.pipeline.metrics import MetricRow
from recsys_spark.pipeline.night import Night
from recsys_spark.schema import EVERYONE

MOST_METRICS = 1_000
"""Of a request, as MLflow allows."""


def require_mlflow(night: Night) -> None:
    """Check that what logs is there, where it is wanted.

    Parameters
    ----------
    night : Night
        The run.

    Raises
    ------
    SetupError
        MLflow is not installed.
    """
    if night.config.mlflow is not None:
        _mlflow()


def log_models(
    night: Night, fits: Iterable[Mapping[str, Any]], measured: Sequence[MetricRow], champion: str
) -> None:
    """One run of MLflow for each compared model, with the model where the night has saved it.

    Parameters
    ----------
    night : Night
        The run; nothing is done where its configuration has no ``mlflow``.
    fits : iterable of mapping
        Rows of the table ``models``.
    measured : sequence of MetricRow
        Of all models; those of everyone are logged.
    champion : str
        The model's name.
    """
    for fit in fits:
        name = fit["model"]
        metrics = {
            f"{row.part}/{_metric(row)}": row.measured.value
            for row in measured
            if (row.measured.model, row.segment) == (name, EVERYONE)
        }
        tags = {key: fit[key] for key in ("seed", "code", "ratings_version", "split", "path")}
        tags |= {"model": name, "champion": name == champion}
        params = json.loads(fit["params"])
        curve = list(fit["objectives"] or ())
        seconds = {"fit/seconds": fit["seconds"]}
        _log(night, f"{name} of {night.run_date}", params, metrics | seconds, tags, curve, fit["path"])


def log_trial(
    night: Night, name: str, trial: int, params: Mapping[str, Any], measured: Sequence[MetricRow], how: str
) -> None:
    """One run of MLflow for a trial of a search.

    Parameters
    ----------
    night : Night
        The run; nothing is done where its configuration has no ``mlflow``.
    name : str
        The model's name.
    trial : int
        Its number.
    params : mapping
        What was tried.
    measured : sequence of MetricRow
        On the validation part.
    how : str
        How it ended, if not as it should.
    """
    metrics = {f"{row.part}/{_metric(row)}": row.measured.value for row in measured}
    tags = {"model": name, "trial": trial, "how": how}
    _log(night, f"{name} of {night.run_date}, trial {trial}", params, metrics, tags)


def _metric(row: MetricRow) -> str:
    """A name that MLflow allows."""
    return f"{row.measured.metric}_at_{row.measured.k}" if row.measured.k else row.measured.metric


def _log(
    night: Night,
    what: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, Any],
    curve: Sequence[float] = (),
    path: str | None = None,
) -> None:
    """Log a run. A server that is not there fails no night: it is said, and the tables have it all."""
    wanted = night.config.mlflow
    if wanted is None:
        return
    mlflow = _mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=wanted.tracking_uri)
        found = client.get_experiment_by_name(wanted.experiment)
        experiment = client.create_experiment(wanted.experiment) if found is None else found.experiment_id
        told = {"run_id": night.run_id, "run_date": night.run_date, **tags}
        texts = {f"recsys.{key}": str(value) for key, value in told.items()}
        run = client.create_run(experiment, run_name=what, tags=texts).info.run_id
        now, entities = int(time.time() * 1000), mlflow.entities
        values = [entities.Metric(key, float(value), now, 0) for key, value in metrics.items()]
        values += [entities.Metric("fit/objective", float(one), now, at) for at, one in enumerate(curve, 1)]
        given = [entities.Param(key, json.dumps(value)) for key, value in params.items()]
        client.log_batch(run, params=given)
        for first in range(0, len(values), MOST_METRICS):
            client.log_batch(run, values[first : first + MOST_METRICS])
        if path is not None:
            texts["recsys.path"] = path
            made = client.create_logged_model(experiment, source_run_id=run, tags=texts, model_type="recsys")
            client.finalize_logged_model(made.model_id, entities.LoggedModelStatus.READY)
            client.log_outputs(run, [entities.LoggedModelOutput(made.model_id, 0)])
        client.set_terminated(run)
    except (mlflow.MlflowException, OSError) as error:
        progress_line(f"  {what} was not logged to {wanted.tracking_uri}: {summary(error)}")


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError:
        raise SetupError("`mlflow` needs MLflow: pip install 'recsys-spark[mlflow]'") from None
    return mlflow
