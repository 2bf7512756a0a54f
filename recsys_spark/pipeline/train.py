"""Step three: fit the configured models on the training part."""

from __future__ import annotations

import json
import time
from typing import Any

from pyspark.sql import DataFrame

from recsys_spark.config import config_problem
from recsys_spark.console import progress_line
from recsys_spark.data.split import TRAIN
from recsys_spark.errors import ConfigError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.tables import absolute_path
from recsys_spark.pipeline.fitted import COMPARISON, record_models
from recsys_spark.pipeline.night import Night
from recsys_spark.revision import code_version


def train(night: Night) -> None:
    """Fit the configured models on the training part: reads ratings, users and items, writes models.

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
        rows = [
            fit_and_save(night, record, name, COMPARISON, night.part(TRAIN)) for name in night.config.models
        ]
        record_models(night, record, rows)


def fit_and_save(
    night: Night, record: StepRecord, name: str, purpose: str, rows: DataFrame
) -> dict[str, Any]:
    """Fit model ``name`` on ``rows``, save it, and return its row for the ``models`` table.

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
    rows : DataFrame
        Ratings to fit on, where the model's ``history`` does not ask for some types of events.

    Raises
    ------
    ConfigError
        The model names feature columns of users or items, and there is no such table.
    """
    started = time.monotonic()
    estimator, model = fit(night, record, name, rows)
    path = f"{absolute_path(night.config.lake.models_path)}/{night.run_id}/{purpose}/{name}"
    model.write().overwrite().save(path)
    model.unpersist()
    seconds = time.monotonic() - started
    params = {param.name: value for param, value in estimator.extractParamMap().items()}
    progress_line(f"  {name} fitted and saved in {seconds:.1f} s")
    return {
        "run_id": night.run_id,
        "run_date": night.run_date,
        "model": name,
        "purpose": purpose,
        "state": "candidate",
        "params": json.dumps(params, sort_keys=True),
        "seed": params.get("seed", night.config.seed),
        "code": code_version(),
        "ratings_version": night.ratings_version(),
        "split": night.split_described(),
        "path": path,
        "seconds": seconds,
        "metrics": None,
    }


def fit(night: Night, record: StepRecord, name: str, rows: DataFrame) -> tuple[Any, Any]:
    """Fit model ``name`` on ``rows``.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself: the versions of ``users`` and ``items`` that it names are read, or the
        newest, which are added.
    name : str
        One of the registered models.
    rows : DataFrame
        Ratings to fit on, where the model's ``history`` does not ask for some types of events.

    Returns
    -------
    RecommenderEstimator, RecommenderModel
        What was fitted, and what came out.

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
    return estimator, estimator.fit(night.fitted_on(name, rows))
