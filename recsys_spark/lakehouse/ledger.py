"""The ledger: rows in ``runs`` for each step of a run, as it starts and as it is done, failed or died."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.processes import this_process
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.revision import code_version

_TOLD = [column for column in TABLES["runs"].columns if column != "config"]
"""Columns of the ledger without the configuration, which is long."""


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
        self._remembers = False
        self._known: list[dict[str, Any]] | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Record the block as step ``name``: running, then done when it ends, or failed, with the error's
        summary, when it raises.

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
        self._record(name, "running", record, started, None)
        try:
            yield record
        except BaseException as error:
            try:
                self._record(name, "failed", record, started, summary(error))
            except Exception as second:
                error.add_note(f"the failure could not be recorded in runs either: {summary(second)}")
            raise
        self._record(name, "done", record, started, None)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Read the date's rows once for the whole block, and remember those that this run adds."""
        if self._remembers:
            yield
            return
        self._remembers = True
        try:
            yield
        finally:
            self._remembers, self._known = False, None

    def all_done(self, step: str) -> list[dict[str, Any]]:
        """The rows of a finished ``step`` for this run's date: that of this run first, then the newest.

        Parameters
        ----------
        step : str
            Name of the step.

        Returns
        -------
        list of dict
            Rows of ``runs`` without their configuration, at least one; ``started`` in seconds since 1970.

        Raises
        ------
        LakeError
            The step has not been done for this date.
        """
        rows = self.rows_done(step)
        if not rows:
            raise LakeError(f"step {step!r} has not been done for run date {self.run_date}: run it first")
        return sorted(rows, key=lambda row: (row["run_id"] != self.run_id, -row["started"]))

    def of_step(self, step: str) -> list[dict[str, Any]]:
        """The rows of a step for this run's date, each run's last, in whatever state; there may be none.

        Parameters
        ----------
        step : str
            Name of the step.
        """
        return [row for row in self._of_date() if row["step"] == step]

    def rows_done(self, step: str) -> list[dict[str, Any]]:
        """The rows of a finished ``step`` for this run's date, the oldest first; there may be none.

        Parameters
        ----------
        step : str
            Name of the step.
        """
        return [row for row in self.of_step(step) if row["state"] == "done"]

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

    def newest(self) -> dict[str, dict[str, Any]]:
        """The newest row of each step of this run's date, in whatever state.

        Returns
        -------
        dict of str to dict
            Step → row of ``runs``, without its configuration.
        """
        return {row["step"]: row for row in self._of_date()}

    def close_died(self) -> list[str]:
        """Record as ``died`` the steps of this date that are said to run; for who holds the date's lock.

        Returns
        -------
        list of str
            What died, for people.
        """
        died = [row for row in self._of_date() if row["state"] == "running"]
        for row in died:
            kept = StepRecord(row["counts"], row["details"], row["versions_read"], row["versions_written"])
            error = f"process {row['process'].split()[0]} on {row['host']} ended without a word"
            started = datetime.fromtimestamp(row["started"], UTC)
            self._record(row["step"], "died", kept, started, error, row)
        return [f"{row['step']} of run {row['run_id']}" for row in died]

    def _of_date(self) -> list[dict[str, Any]]:
        """The last state of each step of each run of this date, in the order in which they started."""
        rows = self._read() if self._known is None else self._known
        if self._remembers:
            self._known = rows
        last: dict[Any, dict[str, Any]] = {}
        for row in rows:
            key = row["run_id"], row["step"], row["started"]
            if key not in last or last[key]["state"] == "running":
                last[key] = row
        return sorted(last.values(), key=lambda row: float(row["started"]))

    def _read(self) -> list[dict[str, Any]]:
        rows = self.lake.collect("runs", {"run_date": [self.run_date]}, _TOLD)
        return [{**row, "started": row["started"].timestamp()} for row in rows]

    def newest_done(self, step: str) -> dict[str, Any] | None:
        """The newest row of a finished ``step``, whatever its date.

        Parameters
        ----------
        step : str
            Name of the step.

        Returns
        -------
        dict or None
            A row of ``runs`` without its configuration; None where there is none.
        """
        rows = self.lake.collect("runs", {"state": ["done"], "step": [step]}, _TOLD)
        return max(rows, key=lambda row: row["started"], default=None)

    def _record(
        self,
        step: str,
        state: str,
        record: StepRecord,
        started: datetime,
        error: str | None,
        of: Mapping[str, Any] | None = None,
    ) -> None:
        """Append a row of this run and process, or ``of`` another that died."""
        seconds = (datetime.now(UTC) - started).total_seconds()
        of = of or {
            "run_id": self.run_id,
            "host": socket.gethostname(),
            "process": this_process(),
            "code": code_version(),
        }
        row = (
            of["run_id"],
            self.run_date,
            step,
            state,
            started,
            seconds,
            record.counts,
            record.details,
            record.versions_read,
            record.versions_written,
            of["host"],
            of["process"],
            of["code"],
            self.config,
            error,
        )
        if self._known is not None:
            known = dict(zip(TABLES["runs"].columns, row, strict=True))
            self._known = [*self._known, {**known, "started": started.timestamp()}]
        self.lake.create("runs")
        self.lake.append("runs", self.lake.rows("runs", [row]), None)
