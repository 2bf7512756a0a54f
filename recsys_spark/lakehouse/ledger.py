"""The ledger: one row in ``runs`` for each step of a run, whether it was done or failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.tables import Lakehouse


@dataclass
class StepRecord:
    """What a step records while it runs.

    Attributes
    ----------
    counts : name → number, such as rows read
    details : name → text
    versions_read, versions_written : table → its version
    """

    counts: dict[str, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    versions_read: dict[str, int] = field(default_factory=dict)
    versions_written: dict[str, int] = field(default_factory=dict)


class Ledger:
    """The ``runs`` table of a lakehouse, written for one run.

    Parameters
    ----------
    lake : Lakehouse
        Where the table is.
    run_id : str
        Unique to this run; a second run of a date has another.
    run_date : date
        The date that the run is for.
    config : str
        The resolved configuration, as JSON.
    """

    def __init__(self, lake: Lakehouse, run_id: str, run_date: date, config: str) -> None:
        self.lake, self.run_id, self.run_date, self.config = lake, run_id, run_date, config

    @contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Record the block as step ``name``: done when it ends, or failed, with the error's summary, when it
        raises.

        Parameters
        ----------
        name : str
            Name of the step.

        Yields
        ------
        StepRecord
            To be filled in by the block; it is written at the end.
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
        """The rows of a finished ``step`` for this run's date: that of this run first, then the newest.

        Parameters
        ----------
        step : str
            Name of the step.

        Returns
        -------
        list of dict
            Rows of ``runs``, at least one.

        Raises
        ------
        LakeError
            The step has not been done for this date.
        """
        of_date = self._done(step).where(F.col("run_date") == F.lit(self.run_date))
        this_run_first = F.desc(F.col("run_id") == self.run_id)
        rows = of_date.orderBy(this_run_first, F.desc("started")).collect()
        if not rows:
            raise LakeError(f"step {step!r} has not been done for run date {self.run_date}: run it first")
        return [row.asDict() for row in rows]

    def last_done(self, step: str) -> dict[str, Any]:
        """The first of :meth:`all_done`.

        Parameters
        ----------
        step : str
            Name of the step.

        Returns
        -------
        dict
            A row of ``runs``.

        Raises
        ------
        LakeError
            The step has not been done for this date.
        """
        return self.all_done(step)[0]

    def newest_done(self, step: str) -> dict[str, Any] | None:
        """The newest row of a finished ``step``, whatever its date.

        Parameters
        ----------
        step : str
            Name of the step.

        Returns
        -------
        dict or None
            A row of ``runs``; None where there is none.
        """
        if not self.lake.exists("runs"):
            return None
        rows = self._done(step).orderBy(F.desc("started")).limit(1).collect()
        return rows[0].asDict() if rows else None

    def _done(self, step: str) -> DataFrame:
        return self.lake.read("runs").where((F.col("state") == "done") & (F.col("step") == step))

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
        self.lake.append("runs", self.lake.spark.createDataFrame([row], schema).coalesce(1), 1)
