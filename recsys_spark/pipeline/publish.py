"""Step seven: make this date's recommendations the ones that readers see; and the way back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError, PublishError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.locks import Lock
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.details import MADE_BY, PATHS, SERVED
from recsys_spark.pipeline.fitted import promote
from recsys_spark.pipeline.gate import require_open
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.served import left_out_for_later, rows_expected, served_date
from recsys_spark.pipeline.shelves import SHELF_ROWS, SHELVES
from recsys_spark.pipeline.show_runs import switches_of
from recsys_spark.pipeline.similar import NEIGHBOR_ROWS
from recsys_spark.schema import RANK

WAIT = 120
"""Seconds for which a switch waits for another one."""


def publish(night: Night, reason: str | None = None, unless_later: bool = False) -> bool:
    """Serve this date's lists: reads recommendations, writes current_recommendations and models.

    So are its ``similar_items`` and ``shelves``, in ``current_similar_items`` and ``current_shelves``. A
    table is replaced in one commit: a reader sees all of the old lists or all of the new ones.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    reason : str, optional
        Why the lists are served whatever the gate says; it is recorded.
    unless_later : bool
        Do nothing where a later date is served.

    Returns
    -------
    bool
        Whether they are served; false where a later date is.

    Raises
    ------
    LakeError
        There are no recommendations for this date.
    GateError
        The gate is closed, and there is no ``reason`` to overrule it.
    PublishError
        A table does not hold the rows that the recommend step checked.
    """
    if reason is None:
        require_open(night)
    with _switching(night):
        if unless_later and left_out_for_later(night):
            night.drop_kept_after("publish")
            return False
        with night.step("publish") as record:
            if reason is not None:
                record.details["forced"] = reason
            _serve(night, record)
    return True


def rollback(spark: SparkSession, config: Config, to: date | None = None) -> None:
    """Serve the lists again that were served before: reads recommendations and similar_items, writes
    current_recommendations and current_similar_items.

    Parameters
    ----------
    spark : SparkSession
        With Delta.
    config : Config
        The whole configuration.
    to : date, optional
        A date that has been published; without it the one that was served before the present one.

    Raises
    ------
    LakeError
        Nothing was served before, ``to`` has never been published, or another run of that date is going on.
    PublishError
        The lists of that date were made again after they had been published.
    """
    switches = switches_of(Lakehouse(spark, config.lake).reader())
    dates = _stack(switches)
    if to is None:
        if len(dates) < 2:
            raise LakeError("nothing was published before what is served now: there is no way back")
        to = dates[-2]
    of_date = [row for row in switches if row["details"][SERVED] == to.isoformat()]
    if not of_date:
        known = ", ".join(sorted({row["details"][SERVED] for row in switches})) or "none"
        raise LakeError(f"{to} has never been published; published dates: {known}")
    night = Night(spark, config, to)
    with night.alone(), _switching(night), night.step("rollback") as record:
        made_by = night.ledger.last_done("recommend")["run_id"]
        if made_by != of_date[-1]["details"][MADE_BY]:
            raise PublishError(
                f"the lists of {to} were made again by run {made_by} after they had been published: recsys "
                f"publish --run-date {to} serves the new ones"
            )
        _serve(night, record)


def is_served(night: Night) -> bool:
    """Whether the lists that this date's last recommend step made are what is served.

    Parameters
    ----------
    night : Night
        The run.
    """
    if served_date(night.lake) != night.run_date:
        return False
    switches = switches_of(night.lake.reader())
    made_by = night.ledger.last_done("recommend")["run_id"]
    wanted = {SERVED: night.run_date.isoformat(), MADE_BY: made_by}
    return bool(switches) and wanted.items() <= switches[-1]["details"].items()


@contextmanager
def _switching(night: Night) -> Iterator[None]:
    """Keep other switches out: what is served does not change between a look at it and the switch."""
    until = time.monotonic() + WAIT
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(Lock(night.lake, "current_recommendations", night.run_id))
                break
            except LakeError:
                if time.monotonic() > until:
                    raise
                time.sleep(1)
        yield


def _serve(night: Night, record: StepRecord) -> None:
    """Replace what readers see by this date's partitions, once they are what was checked."""
    lake, done, before = night.lake, night.ledger.last_done("recommend"), served_date(night.lake)
    expected = {
        "similar_items": done["counts"].get(NEIGHBOR_ROWS, 0),
        SHELVES: rows_expected(night, SHELF_ROWS),
        "recommendations": rows_expected(night),
    }
    found = {name: _of_date(night, record, name, checked) for name, checked in expected.items()}
    for name, partition in found.items():
        if partition.frame is not None:
            _replace(night, record, f"current_{name}", partition.frame, partition.rows)
    promote(lake, json.loads(done["details"][PATHS]).values())
    lists = found["recommendations"]
    record.counts |= {"rows": lists.rows, "lists": lists.lists}
    record.details |= {SERVED: night.run_date.isoformat(), MADE_BY: done["run_id"]}
    if before is not None:
        record.details["replaced"] = before.isoformat()
    progress_line(f"  {record.counts['lists']:,} users' lists of {night.run_date} are served")


class _Partition(NamedTuple):
    """A date's rows of a table, None where there is no such table, and how many rows and lists they are."""

    frame: DataFrame | None
    rows: int
    lists: int


def _of_date(night: Night, record: StepRecord, name: str, checked: int) -> _Partition:
    """A table's rows of this date, of which so many were checked."""
    if not checked and not night.lake.exists(name):
        return _Partition(None, 0, 0)
    version = record.versions_read[name] = night.lake.version(name)
    frame = night.lake.read(name, version).where(F.col("run_date") == F.lit(night.run_date))
    totals: Any = frame.agg(F.count("*").alias("rows"), F.count_if(F.col(RANK) == 1).alias("lists")).first()
    if totals["rows"] != checked:
        raise PublishError(
            f"{name} has {totals['rows']:,} rows of {night.run_date}, and {checked:,} were checked: run the "
            "recommend step again"
        )
    return _Partition(frame, totals["rows"], totals["lists"])


def _replace(night: Night, record: StepRecord, name: str, rows: DataFrame, count: int) -> None:
    """Replace what a table holds."""
    night.lake.create(name, *night.config.ingest.id_types)
    published = rows.withColumn("published_at", F.lit(datetime.now(UTC)))
    record.versions_written[name] = night.lake.replace(name, published, None, count)


def _stack(switches: list[dict[str, Any]]) -> list[date]:
    """Served dates from the first to the present one, without those that were taken back."""
    dates: list[date] = []
    for row in switches:
        served = date.fromisoformat(row["details"][SERVED])
        if row["step"] == "rollback" and served in dates:
            del dates[len(dates) - dates[::-1].index(served) :]
        elif not dates or dates[-1] != served:
            dates.append(served)
    return dates
