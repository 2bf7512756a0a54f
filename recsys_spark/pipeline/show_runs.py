"""What a person or a program asks of the ledger: runs, lineage, what is served, metrics."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from typing import Any

from recsys_spark.console import Section, duration
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.reader import Reader, as_dicts, require
from recsys_spark.pipeline.details import AFTER, DERIVED, HISTORIES, INPUT, MADE_BY, PATHS, SERVED, SETTINGS
from recsys_spark.pipeline.lookup import TIME, lists_shown, since_1970, told_time
from recsys_spark.schema import EVERYONE, RANK, TEST

_NOT_SHOWN = ("split", DERIVED, SETTINGS, INPUT, AFTER, SERVED, MADE_BY, PATHS, HISTORIES)
_OF_RUNS = ("run_id", "run_date", "step", "state", "started", "seconds", "counts", "details", "code", "error")
_VERSIONS = ("versions_read", "versions_written")


def describe_runs(
    reader: Reader,
    run_date: date | None = None,
    limit: int = 50,
    run_id: str | None = None,
    failed: bool = False,
) -> list[Section]:
    """The ledger, one row for each step of a run, newest last.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    run_date : date, optional
        Only this night.
    limit : int
        Rows at most.
    run_id : str, optional
        Only this run.
    failed : bool
        Only steps that failed or died.

    Raises
    ------
    LakeError
        There is no ledger.
    """
    among: dict[str, Collection[object]] = {}
    if run_date is not None:
        among["run_date"] = [run_date]
    if run_id is not None:
        among["run_id"] = [run_id]
    # of a step's rows that which says how it ended, where it has
    last: dict[Any, dict[str, Any]] = {}
    for row in ledger_rows(reader, among):
        key = row["run_id"], row["step"], row["started"]
        if key not in last or last[key]["state"] == "running":
            last[key] = row
    rows = [row for row in last.values() if not failed or row["state"] in ("failed", "died")][-limit:]
    for row in rows:
        ratings = {
            key: count for key, count in row["counts"].items() if not key.startswith(("users_", "items_"))
        }
        row["started"] = told_time(row["started"])
        row["what"] = _listed({**row["details"], **ratings})
        row["versions"] = f"{_listed(row['versions_read'])} → {_listed(row['versions_written'])}"
        row["seconds"] = round(row["seconds"], 1)
    errors = ["error"] if any(row["error"] for row in rows) else []
    columns = ["run_date", "run_id", "step", "state", "started", "seconds", "what", "versions", *errors]
    return [Section("runs", "Runs (versions: Delta tables read → written)", rows, columns)]


def describe_lineage(reader: Reader, run_date: date) -> list[Section]:
    """What made a date's lists: which models, from which versions of which tables, by which code.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    run_date : date
        The night.

    Raises
    ------
    LakeError
        The date has no lists.
    """
    done = ledger_rows(reader, {"state": ["done"]})
    steps = {row["step"]: row for row in done if row["run_date"] == run_date and row["step"] != "forget"}
    if "recommend" not in steps:
        raise LakeError(f"step 'recommend' has not been done for run date {run_date}: there are no lists")
    made = steps["recommend"]
    rows = [_told("lists", made, f"{made['counts']['rows']:,} rows, by {made['details']['champion']}")]
    paths: dict[str, str] = json.loads(made["details"][PATHS])
    columns = ["model", "purpose", "state", "params", "path", "run_date", "run_id", "code"]
    models = reader.rows("models", columns, {"path": list(paths.values())}).to_pylist() if paths else []
    for row in sorted(models, key=lambda row: str(row["path"])):
        told = f"{row['model']} for {row['purpose']}, {row['state']}: {row['params']}; {row['path']}"
        rows.append(_told("model", row, told))
    for table, version in sorted(made["versions_read"].items()):
        told = f"{table}, version {version}"
        writers = [row for row in done if row["versions_written"].get(table, version + 1) <= version]
        newest = max(writers, key=lambda row: (row["versions_written"][table], row["started"]), default=None)
        rows.append({"what": "table", "is": told} if newest is None else _told("table", newest, told))
    for name in ("ingest", "split", "evaluate", "gate", "publish"):
        if name in steps:
            rows.append(
                _told(name, steps[name], _listed({**steps[name]["details"], **steps[name]["counts"]}))
            )
    columns = ["what", "is", "of", "by run", "code"]
    return [Section("lineage", f"Lineage of the lists of {run_date}", rows, columns)]


def describe_current(reader: Reader, now: datetime) -> list[Section]:
    """What is served: its date, models, age, and the switch that made it so.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    now : datetime
        With a zone; ages are counted until then.

    Raises
    ------
    LakeError
        Nothing has been published.
    """
    run_date, lists, _ = lists_shown(reader, None)
    served = reader.rows(lists, [RANK, "model", "published_at"], {})
    by_model = served.group_by("model").aggregate([([], "count_all")]).to_pylist()
    published = max(since_1970(time) for time in served["published_at"].unique().to_pylist())
    of_date = [row for row in switches_of(reader) if row["details"][SERVED] == run_date.isoformat()]
    # the table is replaced before the ledger says so
    switch = of_date[-1] if of_date else {"step": None, "run_id": None, "details": {}}
    row = {
        "run_date": run_date,
        "lists": served[RANK].to_pylist().count(1),
        "rows_by_model": {of["model"]: of["count_all"] for of in by_model},
        "published": f"{datetime.fromtimestamp(published, UTC):{TIME}}",
        "age": duration(now.timestamp() - published),
        "step": switch["step"],
        "run_id": switch["run_id"],
        "replaced": switch["details"].get("replaced"),
        "gate_overruled": switch["details"].get("forced"),
    }
    return [Section("served", "Served now: current_recommendations", [row], list(row))]


def describe_metrics(reader: Reader, run_id: str, k: int) -> list[Section]:
    """A run's metrics at cut-off ``k``, one row per model, and the checks of the gate.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    run_id : str
        The run that was evaluated.
    k : int
        Cut-off.

    Raises
    ------
    LakeError
        There are no metrics.
    """
    require(reader, "metrics")
    columns = ["model", "metric", "segment", "part", "value", "low", "high", "threshold", "verdict"]
    rows = reader.rows("metrics", columns, {"run_id": [run_id], "k": [0, k]}).to_pylist()
    rows.sort(key=lambda row: (row["model"], row["metric"], row["segment"]))
    models: dict[str, dict[str, object]] = {}
    for row in rows:
        if (row["part"], row["segment"], row["verdict"]) == (TEST, EVERYONE, None):
            models.setdefault(row["model"], {"model": row["model"]})[row["metric"]] = row["value"]
    names = list(dict.fromkeys(name for of_model in models.values() for name in of_model))
    sections = [Section("metrics", f"Metrics at k = {k} on the test part", list(models.values()), names)]
    checks = [row for row in rows if row["verdict"] is not None]
    if checks:
        title = f"Gate: {checks[0]['model']}, each value at most its threshold"
        of_check = ["metric", "segment", "value", "low", "high", "threshold", "verdict"]
        sections.append(Section("gate", title, checks, of_check))
    return sections


def ledger_rows(reader: Reader, among: Mapping[str, Collection[object]]) -> list[dict[str, Any]]:
    """Rows of the ledger in the order in which they started, with their maps as dictionaries."""
    require(reader, "runs")
    rows = as_dicts(reader.rows("runs", [*_OF_RUNS, *_VERSIONS], among))
    return sorted(rows, key=lambda row: since_1970(row["started"]))


def switches_of(reader: Reader) -> list[dict[str, Any]]:
    """The ledger's rows that switched what is served, in their order."""
    return [row for row in ledger_rows(reader, {"state": ["done"]}) if SERVED in row["details"]]


def _told(what: str, row: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A step of the ledger as a line of a lineage."""
    return {"what": what, "is": text, "of": row["run_date"], "by run": row["run_id"], "code": row["code"]}


def _listed(values: Mapping[str, Any]) -> str:
    shown = {
        key: f"{value:,}" if isinstance(value, int) else value
        for key, value in sorted(values.items())
        if key not in _NOT_SHOWN
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())
