"""The table ``models``: every fit, from candidate to champion to retired.

A night fits models on its training part, to compare them (``comparison``); the best of them on all ratings,
to make the lists (``serving``), with popular items for short lists (``fallback``); and once in a lake popular
items that later nights are measured by (``baseline``). What the served lists were made with is ``champion``;
what served before is ``retired``; everything else stays ``candidate``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.night import Night

LISTS_SECONDS = "lists_seconds"
"""Among a compared model's metrics: what its lists for the users of the test part took."""

COMPARISON, SERVING, FALLBACK, BASELINE = "comparison", "serving", "fallback", "baseline"
POPULAR = "popularity"
"""Name of the model that fills lists up, and that others are measured by."""


def record_models(night: Night, record: StepRecord, rows: list[dict[str, Any]]) -> None:
    """Append ``rows`` to the table in one commit.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; versions and counts are added.
    rows : list of dict
        One for each model, of :func:`~recsys_spark.pipeline.train.fit_and_save`.
    """
    columns = TABLES["models"].columns
    night.lake.create("models")
    frame = night.lake.rows("models", [[row[name] for name in columns] for row in rows])
    record.versions_written["models"] = night.lake.append("models", frame, len(rows))
    record.counts["models"] = len(rows)


def load(row: Mapping[str, Any]) -> RecommenderModel:
    """The saved model.

    Parameters
    ----------
    row : mapping
        Of the table.
    """
    return REGISTRY[row["model"]].model.load(row["path"])


def compared(night: Night) -> dict[str, dict[str, Any]]:
    """The configured models' rows, each of this date's latest training on this split of the pinned ratings,
    by name.

    Models may have been trained apart, by runs of their own.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        A model has not been trained for this date, or on other ratings.
    """
    done = night.ledger.all_done("train")
    newest_first = [row["run_id"] for row in done if row["details"].get("split") == night.split_described()]
    asked: dict[str, Collection[object]] = {
        "run_date": [night.run_date],
        "purpose": [COMPARISON],
        "ratings_version": [night.ratings_version()],
        "run_id": newest_first,
    }
    saved = sorted(night.lake.collect("models", asked), key=lambda row: newest_first.index(row["run_id"]))
    rows = {row["model"]: row for row in reversed(saved)}
    missing = [name for name in night.config.models if name not in rows]
    if missing:
        raise LakeError(
            f"for {night.run_date} there is no {', '.join(missing)} trained on this split of ratings version "
            f"{night.ratings_version()}: run the train step"
        )
    return {name: rows[name] for name in night.config.models}


def last_champion(night: Night) -> dict[str, Any] | None:
    """The model that was compared and chosen for the last published night before this one: of what is served,
    or where that is not before this night, of what was served before.

    Parameters
    ----------
    night : Night
        The run.

    Returns
    -------
    dict or None
        A row of the table, of purpose ``comparison``; None where nothing was published before.
    """
    chosen = night.lake.collect("models", {"purpose": [COMPARISON], "state": ["champion", "retired"]})
    before = [row for row in chosen if row["run_date"] < night.run_date]
    return max(
        before, key=lambda row: (row["state"] == "champion", row["run_date"], row["run_id"]), default=None
    )


def baseline(night: Night) -> dict[str, Any] | None:
    """The popular items that this night is measured by: the newest that were stored for a date not after it.

    Parameters
    ----------
    night : Night
        The run.

    Returns
    -------
    dict or None
        A row of the table; None where none is stored yet.
    """
    stored = night.lake.collect("models", {"purpose": [BASELINE]})
    known = sorted(
        (row for row in stored if row["run_date"] <= night.run_date), key=lambda row: row["run_id"]
    )
    return max(known, key=lambda row: row["run_date"], default=None)


def set_metrics(lake: Lakehouse, metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Write beside models how they did.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    metrics : mapping of str to mapping
        Path → name of a metric → value.
    """
    values: Column = F.lit(None)
    for path, of_model in metrics.items():
        pairs = [F.lit(part) for pair in of_model.items() for part in pair]
        values = F.when(F.col("path") == path, F.create_map(*pairs)).otherwise(values)
    lake.update("models", F.col("path").isin(*metrics), {"metrics": values})


def promote(lake: Lakehouse, paths: Collection[str]) -> None:
    """Make the models of the lists that are now served ``champion``, and those before them ``retired``.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    paths : collection of str
        Of the models that the served lists were made with.
    """
    served, champion = F.col("path").isin(*paths), F.col("state") == "champion"
    state = F.when(served, "champion").otherwise("retired")
    lake.update("models", (served & ~champion) | (champion & ~served), {"state": state})
