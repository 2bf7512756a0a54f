"""The part of ingest that derives ``ratings`` from ``events``, as of the run date."""

from __future__ import annotations

import json
from datetime import date, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

from recsys_spark.data.events import end_of, month_of, pair_worths
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.details import DERIVED
from recsys_spark.pipeline.night import Night
from recsys_spark.schema import ITEM, TIMESTAMP, USER

PAIR = (USER, ITEM)

GONE = "new.rating IS NULL"
DIFFERS = "NOT (new.rating <=> old.rating AND new.timestamp <=> old.timestamp)"


def require_one_kind(night: Night) -> None:
    """Check that the lake has the kind of ratings that the source gives: given ones, or derived ones.

    Parameters
    ----------
    night : Night
        The run.

    Raises
    ------
    LakeError
        It has the other kind.
    """
    lake = night.lake
    kept = lake.exists("events") and not lake.read("events").isEmpty()
    if night.config.ingest.has_events:
        if not kept and lake.exists("ratings") and not lake.read("ratings").isEmpty():
            raise LakeError(
                "table 'ratings' was not derived from events, and the source has no ratings: map "
                "columns.rating, or start a new lake"
            )
    elif kept:
        raise LakeError(
            "table 'ratings' is derived from the table 'events', and the source has ratings: map "
            "columns.event instead, or start a new lake"
        )


def derive_ratings(night: Night, record: StepRecord, before: int) -> None:
    """Bring ``ratings`` up to date with ``events``: reads events, writes ratings.

    Only pairs are touched whose worth can have changed: those with events of this run, and those with events
    that have come into what counts on the run date, or left it, since ``ratings`` was derived last. All are,
    where the settings have changed, or a table was written by anything but the last ingest.

    Parameters
    ----------
    night : Night
        The run.
    record : StepRecord
        What the step says of itself; counts, versions and details are added.
    before : int
        Version of ``events`` before this run.
    """
    lake, settings = night.lake, night.config.ingest.events
    lake.create("ratings", *night.config.ingest.id_types)
    events = lake.read("events", record.versions_written["events"])
    last = _last_derived(night, before)
    if last is None:
        # of a pair that events no longer has the worth is null, which removes it
        pairs = lake.read("ratings").select(*PAIR)
        wanted = events.unionByName(pairs, allowMissingColumns=True)
    else:
        touched = events.where(_may_differ(night, last)).select(*PAIR).distinct()
        wanted = events.join(touched, [*PAIR], "left_semi")
    today = F.lit(night.run_date)
    rows = pair_worths(wanted, settings, night.run_date).withColumns({"first_run": today, "last_run": today})
    updates = {
        "rating": "new.rating",
        "timestamp": "new.timestamp",
        "last_run": "greatest(new.last_run, old.last_run)",
    }
    # of a night they are few, which an upsert need not shuffle the table to meet, if it knows that
    count = None if last is None else rows.persist().count()
    newer, gone = F.expr(DIFFERS), F.expr(GONE)
    try:
        done = lake.upsert("ratings", rows, PAIR, newer=newer, updates=updates, gone=gone, count=count)
    finally:
        rows.unpersist()
    counts = {
        "inserted": done.inserted,
        "updated": done.updated,
        "unchanged": done.unchanged,
        "removed": done.removed,
    }
    record.counts |= {f"ratings_{what}": count for what, count in counts.items()}
    record.versions_written["ratings"] = done.version
    record.details[DERIVED] = _described(night)


def _described(night: Night) -> str:
    return json.dumps(
        {"as_of": night.run_date.isoformat(), **night.config.ingest.events.model_dump()}, sort_keys=True
    )


def _last_derived(night: Night, before: int) -> date | None:
    """The day as of which ratings are, if they were derived from the events that were there, by the same
    settings.
    """
    done = night.ledger.newest_done("ingest")
    if done is None or DERIVED not in done["details"]:
        return None
    versions = {"events": before, "ratings": night.lake.version("ratings")}
    settings, wanted = json.loads(done["details"][DERIVED]), json.loads(_described(night))
    day, _ = settings.pop("as_of"), wanted.pop("as_of")
    same = settings == wanted and all(
        done["versions_written"].get(name) == version for name, version in versions.items()
    )
    return date.fromisoformat(day) if same else None


def _may_differ(night: Night, last: date) -> Column:
    """Events of this run, and those between the ends, and between the beginnings, of what counted on the
    ``last`` day and what counts now.
    """
    may = F.col("first_run") == F.lit(night.run_date)
    days = sorted((last, night.run_date))
    shifts = [timedelta(0)]
    if night.config.ingest.events.window is not None:
        shifts.append(timedelta(days=night.config.ingest.events.window))
    for shift in shifts:
        low, high = (F.lit(end_of(day) - shift) for day in days)
        inside = (F.col(TIMESTAMP) >= low) & (F.col(TIMESTAMP) < high)
        may |= inside & F.col("month").between(month_of(low), month_of(high))  # so that others are not read
    return may
