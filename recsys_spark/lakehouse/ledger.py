"""The ledger: one row in ``runs`` for each step of a run, whether it was done or failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import functions as F

from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.tables import TABLES, Lakehouse


@dataclass
class StepRecord:
    """What a step says of itself while it runs: row counts, details, and the versions of the tables it
    read and wrote.
    """

    counts: dict[str, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    versions_read: dict[str, int] = field(default_factory=dict)
    versions_written: dict[str, int] = field(default_factory=dict)


class Ledger:
    """The ``runs`` table of a lakehouse, written for one run.

    Parameters
    ----------
    lake : where the table is
    run_id : unique to this run; a second run of a date has another
    run_date : the night
    config : the resolved configuration, as JSON
    """

    def __init__(self, lake: Lakehouse, run_id: str, run_date: date, config: str) -> None:
        self.lake, self.run_id, self.run_date, self.config = lake, run_id, run_date, config

    @contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Record the block as step ``name``: done when it ends, failed, with the error's first line, when
        it raises.
        """
        record, started = StepRecord(), datetime.now(UTC)
        try:
            yield record
        except BaseException as error:
            try:
                self._record(name, "failed", record, started, summary(error))
            except Exception as second:
                error.add_note(f"the failure could not be recorded in runs either: {summary(second)}")
            raise
        self._record(name, "done", record, started, None)

    def all_done(self, step: str) -> list[dict[str, Any]]:
        """The rows of a finished ``step`` for this run's date: this run's own first, then the newest.

        Raises
        ------
        LakeError
            The step has not been done for this date.
        """
        done = self.lake.read("runs").where((F.col("state") == "done") & (F.col("step") == step))
        own = F.desc(F.col("run_id") == self.run_id)
        rows = done.where(F.col("run_date") == F.lit(self.run_date)).orderBy(own, F.desc("started")).collect()
        if not rows:
            raise LakeError(f"step {step!r} has not been done for run date {self.run_date}: run it first")
        return [row.asDict() for row in rows]

    def last_done(self, step: str) -> dict[str, Any]:
        """The first of :meth:`all_done`."""
        return self.all_done(step)[0]

    def _record(
        self, step: str, state: str, record: StepRecord, started: datetime, error: str | None
    ) -> None:
        seconds = (datetime.now(UTC) - started).total_seconds()
        row = (
            self.run_id,
            self.run_date,
            step,
            state,
            started,
            seconds,
            record.counts,
            record.details,
            record.versions_read,
            record.versions_written,
            self.config,
            error,
        )
        schema = ", ".join(f"{name} {kind}" for name, kind in TABLES["runs"].columns.items())
        self.lake.create("runs")
        self.lake.append("runs", self.lake.spark.createDataFrame([row], schema).coalesce(1))
