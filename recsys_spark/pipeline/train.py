"""Step three: fit the configured models on the training part."""

from __future__ import annotations

import json
import time
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import config_problem
from recsys_spark.console import progress_line
from recsys_spark.data.split import TRAIN
from recsys_spark.errors import ConfigError, LakeError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.tables import absolute_path
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.night import Night


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
            fit_and_save(night, record, name, "candidate", night.part(TRAIN)) for name in night.config.models
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
        ``candidate``, ``champion`` or ``fallback``.
    rows : DataFrame
        Ratings to fit on, where the model's ``history`` does not ask for some types of events.

    Raises
    ------
    ConfigError
        The model names feature columns of users or items, and there is no such table.
    """
    started = time.monotonic()
    estimator: Any = night.estimator(name)
    for side, columns in estimator.feature_columns().items():
        if not night.lake.exists(f"{side}s"):
            allowed = f"nothing, unless ingest.source.{side}s is configured"
            raise ConfigError(
                config_problem(night.config.origin, f"{name}.{side}FeatureCols", columns, allowed)
            )
        version = record.versions_read.setdefault(f"{side}s", night.lake.version(f"{side}s"))
        estimator.set_features(side, night.lake.read(f"{side}s", version))
    model: Any = estimator.fit(night.fitted_on(name, rows))
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
        "params": json.dumps(params, sort_keys=True),
        "ratings_version": night.ratings_version(),
        "path": path,
        "seconds": seconds,
    }


def record_models(night: Night, record: StepRecord, rows: list[dict[str, Any]]) -> None:
    """Append ``rows`` to the ``models`` table in one commit.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; versions and counts are added.
    rows : list of dict
        One for each model, of :func:`fit_and_save`.
    """
    columns = TABLES["models"].columns
    night.lake.create("models")
    schema = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    frame = night.spark.createDataFrame([tuple(row[name] for name in columns) for row in rows], schema)
    record.versions_written["models"] = night.lake.append("models", frame.coalesce(1), len(rows))
    record.counts["models"] = len(rows)


def load_models(night: Night, purpose: str) -> dict[str, RecommenderModel]:
    """The configured models, each as this date's latest training on this split of the pinned ratings saved
    it, by name.

    Models may have been trained apart, by runs of their own.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    purpose : str
        ``candidate``, ``champion`` or ``fallback``.

    Raises
    ------
    LakeError
        A model has not been trained for this date, or on other ratings.
    """
    done = night.ledger.all_done("train")
    newest_first = [row["run_id"] for row in done if row["details"].get("split") == night.split_described()]
    of_date = (F.col("run_date") == F.lit(night.run_date)) & (F.col("purpose") == purpose)
    saved = (
        night.lake.read("models")
        .where(of_date & (F.col("ratings_version") == night.ratings_version()))
        .collect()
    )
    saved = sorted(
        (row for row in saved if row["run_id"] in newest_first),
        key=lambda row: newest_first.index(row["run_id"]),
    )
    rows = {row["model"]: row for row in reversed(saved)}
    missing = [name for name in night.config.models if name not in rows]
    if missing:
        raise LakeError(
            f"for {night.run_date} there is no {', '.join(missing)} trained on this split of ratings version "
            f"{night.ratings_version()}: run the train step"
        )
    return {name: REGISTRY[name].model.load(rows[name]["path"]) for name in night.config.models}
