"""Rows of the table ``metrics``: what was measured, and what the gate made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recsys_spark.evaluation.ranking import MetricValue
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.pipeline.night import Night
from recsys_spark.schema import EVERYONE

LISTS = "lists"
"""``part`` of what was measured on the night's lists, not on held-out rows."""


@dataclass(frozen=True)
class MetricRow:
    """A row of ``metrics``.

    Parameters
    ----------
    part : str
        ``validation`` or ``test``, ``lists``, or ``served``.
    measured : MetricValue
        What was measured.
    segment : str
        Whom it is about.
    threshold : float or None
        The last value that passes the gate; None for what is not checked.
    verdict : str or None
        ``pass`` or ``fail``; None for what is not checked.
    """

    part: str
    measured: MetricValue
    segment: str = EVERYONE
    threshold: float | None = None
    verdict: str | None = None


def write_metrics(night: Night, rows: Sequence[MetricRow]) -> int:
    """Append rows to the table in one commit; its version.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    rows : sequence of MetricRow
        What was measured.
    """
    of_night = {"run_id": night.run_id, "run_date": night.run_date, "split": night.config.split.method}
    columns = TABLES["metrics"].columns
    values = [
        {**of_night, **vars(row.measured), "part": row.part, "segment": row.segment}
        | {"threshold": row.threshold, "verdict": row.verdict}
        for row in rows
    ]
    night.lake.create("metrics")
    frame = night.lake.rows("metrics", [[row[name] for name in columns] for row in values])
    return night.lake.append("metrics", frame, len(rows))
