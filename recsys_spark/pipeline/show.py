"""What a person asks of the tables: a user's history and list, the ledger, the metrics of a run."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.console import duration, table
from recsys_spark.data.split import TEST
from recsys_spark.errors import LakeError
from recsys_spark.evaluation.comparison import EVERYONE
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.derive import DERIVED
from recsys_spark.pipeline.fitted import PATHS
from recsys_spark.pipeline.publish import MADE_BY, SERVED, switch_now
from recsys_spark.pipeline.resume import AFTER, INPUT, SETTINGS
from recsys_spark.pipeline.served import served_lists
from recsys_spark.schema import ITEM, RANK, USER

HISTORY_LENGTH = 10


def show_user(lake: Lakehouse, user: str, run_date: date | None = None) -> None:
    """Print a user's best-rated history and published list, with titles where there are any.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    user : str
        The user's id.
    run_date : date, optional
        The night; without it what is served.

    Raises
    ------
    LakeError
        Nothing is published, or no user has this id.
    """
    shown, lists = served_lists(lake, run_date)
    ratings = lake.read("ratings")
    same = F.col(USER) == F.lit(user).try_cast(ratings.schema[USER].dataType)
    history = _titled(lake, ratings.where(same)).orderBy(
        F.desc("rating"), F.desc_nulls_last("timestamp"), ITEM
    )
    in_utc = F.date_format(
        "timestamp", "yyyy-MM-dd HH:mm:ss"
    )  # collected as a timestamp it would be in local time
    rows = [row.asDict() for row in history.limit(HISTORY_LENGTH).withColumn("timestamp", in_utc).collect()]
    listed = [row.asDict() for row in _titled(lake, lists.where(same)).orderBy(RANK).collect()]
    if not rows and not listed:
        raise LakeError(f"no user {user!r}, neither in ratings nor in recommendations")
    titled = _roles(lake)
    for row in rows + listed:
        row[ITEM] = str(row[ITEM])  # an id, not a number
    table(f"User {user}: best-rated {len(rows)} of the history", rows, [ITEM, *titled, "rating", "timestamp"])
    table(
        f"User {user}: recommendations of {shown}", listed, [RANK, ITEM, *titled, "score", "model", "reason"]
    )


def sample_users(lake: Lakehouse, count: int, run_date: date | None = None) -> list[str]:
    """Some users' ids of those with lists, the same ones each time: those with the smallest hash.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    count : int
        How many.
    run_date : date, optional
        The night; without it what is served.
    """
    _, lists = served_lists(lake, run_date)
    users = lists.select(USER).distinct().orderBy(F.xxhash64(USER)).limit(count)
    return [str(row[USER]) for row in users.collect()]


def show_runs(
    lake: Lakehouse,
    run_date: date | None = None,
    limit: int = 50,
    run_id: str | None = None,
    failed: bool = False,
) -> None:
    """Print the ledger, one row for each step of a run, newest last.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    run_date : date, optional
        Only this night.
    limit : int
        Rows at most.
    run_id : str, optional
        Only this run.
    failed : bool
        Only steps that failed or died.
    """
    runs = lake.read("runs")
    if run_date is not None:
        runs = runs.where(F.col("run_date") == F.lit(run_date))
    if run_id is not None:
        runs = runs.where(F.col("run_id") == run_id)
    # of a step's rows that which says how it ended, where it has
    last = F.row_number().over(
        Window.partitionBy("run_id", "step", "started").orderBy(F.col("state") == "running")
    )
    runs = runs.withColumn("nth", last).where("nth = 1")
    if failed:
        runs = runs.where(F.col("state").isin("failed", "died"))
    in_utc = F.date_format("started", "yyyy-MM-dd HH:mm:ss")
    newest = runs.orderBy(F.desc("started")).limit(limit).withColumn("started", in_utc)
    rows = [row.asDict() for row in newest.collect()][::-1]
    for row in rows:
        ratings = {
            key: count
            for key, count in (row["counts"] or {}).items()
            if not key.startswith(("users_", "items_"))
        }
        row["counts"] = _listed({**row["details"], **ratings})
        row["versions"] = f"{_listed(row['versions_read'])} → {_listed(row['versions_written'])}"
        row["seconds"] = round(row["seconds"], 1)
    errors = ["error"] if any(row["error"] for row in rows) else []
    columns = ["run_date", "run_id", "step", "state", "started", "seconds", "counts", "versions", *errors]
    table("Runs (versions: Delta tables read → written)", rows, columns)


def show_lineage(lake: Lakehouse, run_date: date) -> None:
    """Print what made a date's lists: which models, from which versions of which tables, by which code.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    run_date : date
        The night.

    Raises
    ------
    LakeError
        The date has no lists.
    """
    of_date = (F.col("run_date") == F.lit(run_date)) & (F.col("state") == "done")
    done = lake.read("runs").where(of_date).orderBy("started").collect()
    steps = {row["step"]: row for row in done if row["step"] != "forget"}
    if "recommend" not in steps:
        raise LakeError(f"step 'recommend' has not been done for run date {run_date}: there are no lists")
    made = steps["recommend"]
    paths: dict[str, str] = json.loads(made["details"][PATHS])
    models = lake.read("models").where(F.col("path").isin(*paths.values())).collect() if paths else []
    rows = [_told("lists", made, f"{made['counts']['rows']:,} rows, by {made['details']['champion']}")]
    for row in models:
        told = f"{row['model']} for {row['purpose']}, {row['state']}: {row['params']}; {row['path']}"
        rows.append(_told("model", row, told))
    for table_name, version in sorted(made["versions_read"].items()):
        rows.append(_of_version(lake, table_name, version))
    for name in ("ingest", "split", "evaluate", "gate", "publish"):
        if name in steps:
            rows.append(
                _told(name, steps[name], _listed({**steps[name]["details"], **steps[name]["counts"]}))
            )
    table(f"Lineage of the lists of {run_date}", rows, ["what", "is", "of", "by run", "code"])


def _told(what: str, row: Any, text: str) -> dict[str, Any]:
    """A step of the ledger as a line of a lineage."""
    return {"what": what, "is": text, "of": row["run_date"], "by run": row["run_id"], "code": row["code"]}


def _of_version(lake: Lakehouse, name: str, version: int) -> dict[str, Any]:
    """A table's version as a line of a lineage: which run wrote it."""
    wrote = F.col("versions_written").getItem(name)
    writers = lake.read("runs").where((F.col("state") == "done") & (wrote <= version))
    writer = writers.orderBy(F.desc(wrote), F.desc("started")).first()
    told = f"{name}, version {version}"
    return {"what": "table", "is": told} if writer is None else _told("table", writer, told)


def show_current(lake: Lakehouse, now: datetime) -> None:
    """Print what is served: its date, models, age, and the switch that made it so.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    now : datetime
        With a zone; ages are counted until then.

    Raises
    ------
    LakeError
        Nothing has been published.
    """
    served = switch_now(lake)
    age = duration((now - served["published_at"]).total_seconds())
    models = ", ".join(f"{name} {rows:,}" for name, rows in sorted(served["models"].items()))
    replaced = f", instead of {served['replaced']}" if served["replaced"] else ""
    forced = f"; the gate was overruled: {served['forced']}" if served["forced"] else ""
    row = {
        "run_date": served["run_date"],
        "lists": served["lists"],
        "rows by model": models,
        "published": f"{served['published_at']:%Y-%m-%d %H:%M:%S} UTC, {age} ago",
        "by": f"{served['step']}, run {served['run_id']}{replaced}{forced}",
    }
    table("Served now: current_recommendations", [row], list(row))


def show_metrics(lake: Lakehouse, run_id: str, k: int) -> None:
    """Print a run's metrics at cut-off ``k``, one row per model, and the checks of the gate.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    run_id : str
        The run that was evaluated.
    k : int
        Cut-off.
    """
    rows = lake.read("metrics").where((F.col("run_id") == run_id) & F.col("k").isin(0, k)).collect()
    measured = [
        row for row in rows if (row["part"], row["segment"], row["verdict"]) == (TEST, EVERYONE, None)
    ]
    names = list(dict.fromkeys(row["metric"] for row in measured))
    models: dict[str, dict[str, object]] = {}
    for row in measured:
        models.setdefault(row["model"], {"model": row["model"]})[row["metric"]] = row["value"]
    table(f"Metrics at k = {k} on the test part", models.values(), ["model", *names])
    checks = [row.asDict() for row in rows if row["verdict"] is not None]
    columns = ["metric", "segment", "value", "low", "high", "threshold", "verdict"]
    if checks:
        table(f"Gate: {checks[0]['model']}, each value at most its threshold", checks, columns)


def _roles(lake: Lakehouse) -> list[str]:
    """Which of title and genres the items have."""
    columns = lake.read("items").columns if lake.exists("items") else []
    return [name for name in ("title", "genres") if name in columns]


def _titled(lake: Lakehouse, rows: DataFrame) -> DataFrame:
    roles = _roles(lake)
    if not roles:
        return rows
    shown = {"title": F.col("title"), "genres": F.array_join("genres", ", ").alias("genres")}
    items = lake.read("items").select(ITEM, *(shown[role] for role in roles))
    return rows.join(F.broadcast(items), ITEM, "left")


def _listed(values: dict[str, Any]) -> str:
    shown = {
        key: f"{value:,}" if isinstance(value, int) else value
        for key, value in sorted(values.items())
        if key not in ("split", DERIVED, SETTINGS, INPUT, AFTER, SERVED, MADE_BY, PATHS)
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())
