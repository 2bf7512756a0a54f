"""Which steps of a date still have to run: those that are not done, and those whose input or settings differ.

Each row of the ledger keeps what told it apart: a hash of the step's settings, one of its input, and the run
that did the step before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark import __version__
from recsys_spark.config import Config, FileSource, MovieLensSource
from recsys_spark.data.files import list_files
from recsys_spark.pipeline import STEP_NAMES
from recsys_spark.pipeline.details import AFTER, INPUT, SETTINGS


def steps_of(config: Config) -> list[str]:
    """Names of the steps of a configured night: negatives and a report only where a section asks for them.

    Parameters
    ----------
    config : Config
        The whole configuration.
    """
    left_out = {"sample_negatives": config.negatives is None, "report": config.report is None}
    return [name for name in STEP_NAMES if not left_out.get(name, False)]


def settings_of(config: Config, step: str) -> str:
    """Hash of all settings that a step's result depends on, and of this package's version.

    Parameters
    ----------
    config : Config
        The whole configuration.
    step : str
        Name of the step.
    """
    whole = config.model_dump(mode="json")
    models = {name: config.params.get(name, {}) for name in config.models}
    recommend = whole["recommend"]
    fitted = {"models": models, "history": whole["history"], "seed": config.seed}
    seen = [recommend["exclude_seen"], recommend["seen_days"]]
    parts: dict[str, Any] = {
        "ingest": whole["ingest"],
        "split": [whole["split"], config.seed],
        "sample_negatives": [whole["negatives"], config.seed],
        "train": [fitted, recommend["refit_every"], *(seen if config.split.repeats else [])],
        "evaluate": [
            whole["evaluate"],
            *seen,
            recommend["rerank"],
            config.seed,
        ],
        "recommend": [recommend, fitted],
        "gate": [whole["gate"], whole["evaluate"]["champion_metric"], config.seed],
        "publish": None,
        "report": whole["report"],
    }
    return _hash([__version__, parts[step]])


def input_of(spark: SparkSession, config: Config) -> str:
    """Hash of what the source holds: of its files their names, sizes and times; of Delta its log.

    Parameters
    ----------
    spark : SparkSession
        Session that lists files.
    config : Config
        The whole configuration.

    Raises
    ------
    SourceError
        A path names no file.
    """
    source = config.ingest.source
    if isinstance(source, MovieLensSource):
        return _hash([list_files(spark, source.path).fingerprint])
    if not isinstance(source, FileSource):
        return _hash([])
    tables = [table for table in (source, source.users, source.items) if table is not None]
    paths = [f"{table.path}/_delta_log" if table.format == "delta" else table.path for table in tables]
    return _hash([list_files(spark, path).fingerprint for path in paths])


def why_run(
    step: str, newest: Mapping[str, Mapping[str, Any]], before: str | None, settings: str, source: str | None
) -> str | None:
    """Why a step has to run; None where its last run still holds.

    Parameters
    ----------
    step : str
        Name of the step.
    newest : mapping of str to mapping
        Step → its newest row of the ledger, of this date.
    before : str or None
        The configured step before it.
    settings : str
        :func:`settings_of` the step.
    source : str or None
        :func:`input_of` the source, for ingest.
    """
    row = newest.get(step)
    if row is None:
        return "not done yet"
    if row["state"] != "done":
        return f"{row['state']} when it was run last"
    if row["details"].get(SETTINGS) != settings:
        return "its settings have changed"
    if source is not None and row["details"].get(INPUT) != source:
        return "its input has changed"
    if before is not None and row["details"].get(AFTER) != newest[before]["run_id"]:
        return f"{before} has been done again"
    return None


def unfinished(step: str, newest: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first step before ``step`` that failed or died when it was run last, if any did.

    Parameters
    ----------
    step : str
        Name of the step.
    newest : mapping of str to mapping
        Step → its newest row of the ledger, of this date.
    """
    earlier = STEP_NAMES[: STEP_NAMES.index(step)] if step in STEP_NAMES else ()
    return next((name for name in earlier if newest.get(name, {}).get("state") in ("failed", "died")), None)


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
