"""The steps of a night, in their order."""

from __future__ import annotations

from collections.abc import Callable

from recsys_spark.console import progress_line
from recsys_spark.errors import GateError, LakeError, summary
from recsys_spark.pipeline.evaluate import evaluate
from recsys_spark.pipeline.gate import gate
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.publish import is_served, publish
from recsys_spark.pipeline.recommend import recommend
from recsys_spark.pipeline.report import report
from recsys_spark.pipeline.resume import input_of, settings_of, steps_of, why_run
from recsys_spark.pipeline.sample_negatives import sample_negatives
from recsys_spark.pipeline.served import later_served
from recsys_spark.pipeline.split import split
from recsys_spark.pipeline.train import train

STEPS: dict[str, Callable[[Night], object]] = {
    "ingest": ingest,
    "split": split,
    "sample_negatives": sample_negatives,
    "train": train,
    "evaluate": evaluate,
    "recommend": recommend,
    "gate": gate,
    "publish": publish,
    "report": report,
}
"""Name → step. Each takes the night, writes its tables and one row of the ledger, and may be run alone,
and again.
"""


def run_night(night: Night, first: str | None = None, again: bool = False) -> None:
    """The steps of a night that still have to run, one after the other; stops at the first that fails.

    A step is left out whose settings and input are what they were when it was done, as long as all before it
    are. Where a later night is served, this one is not published. The report is made also where the gate is
    closed.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    first : str, optional
        Run from this step on, whatever has changed; those before it must be done.
    again : bool
        Run all steps.

    Raises
    ------
    LakeError
        Another run of this date is going on, a step before ``first`` is not done, or ``first`` is none.
    GateError
        The gate is closed.
    """
    steps = steps_of(night.config)
    if first is not None and first not in steps:
        raise LakeError(f"{first!r} is not among the steps of this configuration: {', '.join(steps)}")
    with night.alone():
        at = _first_to_run(night, steps) if first is None and not again else 0
        if first is not None:
            at = steps.index(first)
            for name in steps[:at]:
                if name != "publish":  # lists that are not served have a report too
                    night.ledger.last_done(name)
        for name in steps[at:]:
            try:
                if name == "publish":
                    publish(night, unless_later=True)
                else:
                    STEPS[name](night)
            except GateError:
                if "report" in steps:
                    _report_anyway(night)
                raise


def _report_anyway(night: Night) -> None:
    """The report of lists that are not served; where it cannot be made that is said, and no error."""
    try:
        report(night)
    except Exception as error:
        progress_line(f"the report was not made: {summary(error)}")


def _first_to_run(night: Night, steps: list[str]) -> int:
    """Position of the first step that has to run; what is left out, and why the rest is not, is said."""
    newest, before = night.ledger.newest(), None
    for at, name in enumerate(steps):
        source = input_of(night.spark, night.config) if name == "ingest" and name in newest else None
        why = why_run(name, newest, before, settings_of(night.config, name), source)
        if why is None and name == "publish" and later_served(night) is None and not is_served(night):
            why = "other lists are served"
        if why is not None:
            if at:
                progress_line(f"{name}: {why}")
            return at
        progress_line(f"{name}: done by run {newest[name]['run_id']}, and nothing has changed")
        before = name
    return len(steps)
