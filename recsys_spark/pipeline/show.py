"""What a person or a program asks of the tables: a user, an item, the ledger, what is served, metrics."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from recsys_spark.console import Section, duration
from recsys_spark.errors import LakeError, UnknownIdError
from recsys_spark.lakehouse.reader import Reader, require
from recsys_spark.pipeline.details import AFTER, DERIVED, INPUT, MADE_BY, PATHS, SERVED, SETTINGS
from recsys_spark.schema import EVERYONE, ITEM, RANK, TEST, USER

HISTORY_LENGTH = 10
NEAR, ALIKE = 3, 50
"""So many ids or titles are named where one is unknown, and how alike of 100 they are at least."""

_TIME = "%Y-%m-%d %H:%M:%S"
_NOT_SHOWN = ("split", DERIVED, SETTINGS, INPUT, AFTER, SERVED, MADE_BY, PATHS)
_OF_RUNS = ("run_id", "run_date", "step", "state", "started", "seconds", "counts", "details", "code", "error")
_VERSIONS = ("versions_read", "versions_written")


def describe_user(reader: Reader, user: str, run_date: date | None = None) -> list[Section]:
    """A user's best-rated history and list, with titles where there are any.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    user : str
        The user's id.
    run_date : date, optional
        The night; without it what is served.

    Raises
    ------
    LakeError
        Nothing is published, or nothing was made for that date.
    UnknownIdError
        No user has this id; the nearest ids are named.
    """
    shown, lists, of_date = _lists(reader, run_date)
    known = _ids(require(reader, "ratings"), USER, user)
    columns = [USER, RANK, ITEM, "score", "model", "reason"]
    listed = reader.rows(lists, columns, {**of_date, USER: known}).to_pylist()
    history = reader.rows("ratings", [USER, ITEM, "rating", "timestamp"], {USER: known}).to_pylist()
    if not listed and not history:
        users: dict[str, str | None] = dict.fromkeys(_users(reader, lists, of_date))
        raise _unknown("user", user, users, "neither in ratings nor in recommendations")
    listed.sort(key=lambda row: row[RANK])
    history.sort(key=lambda row: row[ITEM])
    history.sort(key=lambda row: (row["rating"], _seconds(row["timestamp"])), reverse=True)
    history = [{**row, "timestamp": _told_time(row["timestamp"])} for row in history[:HISTORY_LENGTH]]
    titled = _add_titles(reader, history + listed)
    return [
        Section(
            "history",
            f"User {user}: best-rated {len(history)} of the history",
            history,
            [ITEM, *titled, "rating", "timestamp"],
        ),
        Section(
            "recommendations",
            f"User {user}: recommendations of {shown}",
            listed,
            [RANK, ITEM, *titled, *columns[3:]],
        ),
    ]


def describe_item(reader: Reader, item: str, run_date: date | None = None) -> list[Section]:
    """An item: its features, its ratings, and the lists that it is in.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    item : str
        The item's id.
    run_date : date, optional
        The night; without it what is served.

    Raises
    ------
    LakeError
        Nothing is published, or nothing was made for that date.
    UnknownIdError
        No item has this id; the nearest ids and titles are named.
    """
    shown, lists, of_date = _lists(reader, run_date)
    known = _ids(require(reader, "ratings"), ITEM, item)
    schema = reader.schema("items")
    features = reader.rows("items", schema.names, {ITEM: known}).to_pylist() if schema is not None else []
    ratings = reader.rows("ratings", ["rating", "timestamp"], {ITEM: known}).to_pylist()
    ranks = reader.rows(lists, [RANK], {**of_date, ITEM: known})[RANK].to_pylist()
    if not features and not ratings:
        raise _unknown("item", item, _labels(reader, lists, of_date), "neither in items nor in ratings")
    id_ = (known or [item])[0]
    shown_features = [name for name in (features or [{ITEM: id_}])[0] if not _is_vector(schema, name)]
    times = [row["timestamp"] for row in ratings if row["timestamp"] is not None]
    rated = {
        ITEM: id_,
        "ratings": len(ratings),
        "mean": sum(row["rating"] for row in ratings) / len(ratings) if ratings else None,
        "first": _told_time(min(times, default=None)),
        "last": _told_time(max(times, default=None)),
    }
    in_lists = {
        ITEM: id_,
        "lists": len(ranks),
        "mean_rank": sum(ranks) / len(ranks) if ranks else None,
        "at_rank_1": ranks.count(1),
    }
    return [
        Section("item", f"Item {item}", features or [{ITEM: id_}], shown_features),
        Section("ratings", f"Item {item}: ratings", [rated], list(rated)),
        Section("lists", f"Item {item}: in lists of {shown}", [in_lists], list(in_lists)),
    ]


def sample_users(reader: Reader, count: int, run_date: date | None = None) -> list[str]:
    """Some users' ids of those with lists, the same ones each time: those with the smallest checksum.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    count : int
        How many.
    run_date : date, optional
        The night; without it what is served.
    """
    if not count:
        return []
    _, lists, of_date = _lists(reader, run_date)
    users = _users(reader, lists, of_date)
    return sorted(users, key=lambda user: (zlib.crc32(user.encode()), user))[:count]


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
    for row in _runs(reader, among):
        key = row["run_id"], row["step"], row["started"]
        if key not in last or last[key]["state"] == "running":
            last[key] = row
    rows = [row for row in last.values() if not failed or row["state"] in ("failed", "died")][-limit:]
    for row in rows:
        ratings = {
            key: count for key, count in row["counts"].items() if not key.startswith(("users_", "items_"))
        }
        row["started"] = _told_time(row["started"])
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
    done = _runs(reader, {"state": ["done"]})
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
    run_date, lists, _ = _lists(reader, None)
    served = reader.rows(lists, [RANK, "model", "published_at"], {})
    by_model = served.group_by("model").aggregate([([], "count_all")]).to_pylist()
    published = max(_seconds(time) for time in served["published_at"].unique().to_pylist())
    switches = (row for row in _runs(reader, {"state": ["done"]}) if SERVED in row["details"])
    of_date = [row for row in switches if row["details"][SERVED] == run_date.isoformat()]
    # the table is replaced before the ledger says so
    switch = of_date[-1] if of_date else {"step": None, "run_id": None, "details": {}}
    row = {
        "run_date": run_date,
        "lists": served[RANK].to_pylist().count(1),
        "rows_by_model": {of["model"]: of["count_all"] for of in by_model},
        "published": f"{datetime.fromtimestamp(published, UTC):{_TIME}}",
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


def _lists(reader: Reader, run_date: date | None) -> tuple[date, str, dict[str, Collection[object]]]:
    """Date, table and partition of the lists that are served, or that were made for ``run_date``."""
    if run_date is not None:
        of_date: dict[str, Collection[object]] = {"run_date": [run_date]}
        if reader.schema("recommendations") is None or not _some(reader, "recommendations", of_date):
            raise LakeError(f"there are no recommendations of {run_date}: run the night first")
        return run_date, "recommendations", of_date
    lists = "current_recommendations"
    served = [] if reader.schema(lists) is None else _some(reader, lists)
    if not served:
        raise LakeError("nothing has been published: run the night first")
    return served[0], lists, {}


def _users(reader: Reader, lists: str, of_date: Mapping[str, Collection[object]]) -> list[str]:
    return [str(user) for user in reader.rows(lists, [USER], {**of_date, RANK: [1]})[USER].to_pylist()]


def _some(reader: Reader, lists: str, of_date: Mapping[str, Collection[object]] | None = None) -> list[date]:
    """Dates of a table's first ranks."""
    dates = reader.rows(lists, ["run_date"], {**(of_date or {}), RANK: [1]})["run_date"].unique()
    return [value.as_py() for value in dates]


def _ids(schema: pa.Schema, column: str, given: str) -> list[object]:
    """What is given as an id of the column's type; nothing where it cannot be one."""
    kind = schema.field(column).type
    if not pa.types.is_integer(kind):
        return [given]
    if not re.fullmatch(r"-?[0-9]{1,19}", given):
        return []
    try:
        return [pa.scalar(int(given), kind).as_py()]
    except (pa.ArrowInvalid, OverflowError):  # too large for the type
        return []


def _is_vector(schema: pa.Schema | None, name: str) -> bool:
    kind = None if schema is None else schema.field(name).type
    return kind is not None and pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)


def _unknown(kind: str, given: str, choices: Mapping[str, str | None], where: str) -> UnknownIdError:
    """An error that names the ids and titles nearest to what was given; choices are ids and their titles."""
    from rapidfuzz import fuzz, process, utils

    titled = [id_ for id_, title in choices.items() if title]
    ids, labels = [*choices, *titled], [*choices, *(str(choices[id_]) for id_ in titled)]
    found = process.extract(given, labels, scorer=fuzz.WRatio, processor=utils.default_process, limit=NEAR)
    near = dict.fromkeys(ids[at] for _, score, at in found if score > ALIKE)
    told = [f"{id_!r} ({choices[id_]})" if choices[id_] else repr(id_) for id_ in near]
    return UnknownIdError(f"no {kind} {given!r}, {where}" + (f"; near: {', '.join(told)}" if told else ""))


def _labels(reader: Reader, lists: str, of_date: Mapping[str, Collection[object]]) -> dict[str, str | None]:
    """Ids of the items, and their titles where there are any; without side table those of the lists."""
    schema = reader.schema("items")
    if schema is None:
        return {str(item): None for item in reader.rows(lists, [ITEM], of_date)[ITEM].unique().to_pylist()}
    rows = reader.rows("items", [ITEM, *(["title"] if "title" in schema.names else [])], {}).to_pylist()
    return {str(row[ITEM]): None if row.get("title") is None else str(row["title"]) for row in rows}


def _add_titles(reader: Reader, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Add titles and genres to rows of items; which of them the items have."""
    rows, schema = list(rows), reader.schema("items")
    titled = [name for name in ("title", "genres") if schema is not None and name in schema.names]
    if titled:
        items = reader.rows("items", [ITEM, *titled], {ITEM: {row[ITEM] for row in rows}})
        known = {row.pop(ITEM): row for row in items.to_pylist()}
        for row in rows:
            row.update(known.get(row[ITEM], dict.fromkeys(titled)))
    return titled


def _runs(reader: Reader, among: Mapping[str, Collection[object]]) -> list[dict[str, Any]]:
    """Rows of the ledger in the order in which they started, with their maps as dictionaries."""
    require(reader, "runs")
    rows = reader.rows("runs", [*_OF_RUNS, *_VERSIONS], among).to_pylist()
    for row in rows:
        for column in ("counts", "details", *_VERSIONS):
            row[column] = dict(row[column] or ())
    return sorted(rows, key=lambda row: _seconds(row["started"]))


def _told(what: str, row: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A step of the ledger as a line of a lineage."""
    return {"what": what, "is": text, "of": row["run_date"], "by run": row["run_id"], "code": row["code"]}


def _seconds(time: datetime | None) -> float:
    return float("-inf") if time is None else time.timestamp()


def _told_time(time: datetime | None) -> str | None:
    return None if time is None else f"{time.astimezone(UTC):{_TIME}}"


def _listed(values: Mapping[str, Any]) -> str:
    shown = {
        key: f"{value:,}" if isinstance(value, int) else value
        for key, value in sorted(values.items())
        if key not in _NOT_SHOWN
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())
