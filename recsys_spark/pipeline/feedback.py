"""What users did with lists that were served: a date's lists beside the events that came after them."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from recsys_spark.console import Section, progress_line
from recsys_spark.data.events import end_of
from recsys_spark.errors import LakeError
from recsys_spark.evaluation.ranking import MetricValue
from recsys_spark.evaluation.segments import ACTIVITY, AGE, with_activity
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.reader import Reader
from recsys_spark.pipeline.details import MADE_BY
from recsys_spark.pipeline.measuring import ages_of
from recsys_spark.pipeline.metrics import MetricRow, write_metrics
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.show_runs import ledger_rows
from recsys_spark.recommend.top_n import REASON
from recsys_spark.schema import (
    EVENT,
    EVERYONE,
    EXPLORATION,
    ITEM,
    PROPENSITY,
    RANK,
    RATING,
    TIMESTAMP,
    USER,
)

SERVED = "served"
"""``part`` of what was measured of lists in use."""

ALL_MODELS = "all"
"""``model`` of what is about whole lists, which may be of several models."""

METRICS = ["hit_rate", "recall", "answered", "ips", "snips"]
"""What is measured, in the order in which it is shown."""

DATES = 14
"""Dates that are shown beside one another."""

_TOLD = ["model", "metric", "segment", "value", "low", "high", "users"]
_WIDTH = 1.96
"""Standard errors from a mean to the end of its interval of 95 %."""


def feedback(night: Night) -> list[MetricRow]:
    """Measure lists by what came after: reads recommendations, ratings, events, users, writes metrics.

    An answer is a pair that a user took in the ``feedback.days`` after the run date, once the lists were
    published; of lists that were published after these days, as a backfill's are, in all of them. Who took
    anything then is counted as having seen the list: nothing says who else did. So these are no rates of
    clicks, but compare models, reasons, ranks and groups of users that were served side by side.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Returns
    -------
    list of MetricRow
        ``answered``: of the rows of lists, those that were answered, for each model and all, by
        ``reason=``, ``rank=``, ``activity=`` and ``age=``; ``hit_rate``: of users, those whose list was
        answered; ``recall``: of what users took, what their lists had. Where slots are drawn also ``ips`` and
        ``snips``, by ``rank=``, ``activity=`` and ``age=``: estimates of ``answered`` in these slots, had
        they always shown what the list has there without drawing (inverse propensity scoring, and the
        same self-normalised: Swaminathan & Joachims 2015). ``snips`` also for each model and by
        ``reason=``. Intervals of 95 %, users being what is drawn.

    Raises
    ------
    LakeError
        The date's lists were not published, the days after it have not been ingested, or nobody took
        anything.
    """
    with night.step("feedback") as record:
        lists, answers = _served(night, record), _answers(night, record).persist()
        try:
            rows = _measured(night, record, lists, answers)
        finally:
            answers.unpersist()
        record.versions_written["metrics"] = write_metrics(night, rows)
        whole = next(row.measured for row in rows if row.measured.metric == "hit_rate")
        record.counts |= {"metrics": len(rows), "users": whole.users}
        progress_line(f"  {whole.users:,} users came back; of {whole.value:.1%} the list was answered")
    return rows


def describe_feedback(rows: list[MetricRow]) -> list[Section]:
    """The rows as a table.

    Parameters
    ----------
    rows : list of MetricRow
        Of :func:`feedback`.
    """
    shown = [
        {
            "model": row.measured.model,
            "metric": row.measured.metric,
            "segment": row.segment,
            "value": row.measured.value,
            "low": row.measured.low,
            "high": row.measured.high,
            "users": row.measured.users,
        }
        for row in rows
    ]
    return [Section("feedback", "Lists in use", shown, _TOLD)]


def lists_in_use(reader: Reader, until: date) -> list[Section]:
    """What came of the lists of the last dates, as far as it was measured.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    until : date
        The last run date.

    Returns
    -------
    list of Section
        One row per date, and the rows of the last date by model and segment; nothing where nothing was
        measured.
    """
    done = ledger_rows(reader, {"step": ["feedback"], "state": ["done"]})
    last = {row["run_date"]: row["run_id"] for row in done if row["run_date"] <= until}
    dates = sorted(last)[-DATES:]
    if not dates:
        return []
    columns = ["run_id", "run_date", *_TOLD]
    rows = reader.rows("metrics", columns, {"run_id": [last[day] for day in dates]}).to_pylist()
    of_dates = {day: dict[str, Any]({"lists of": str(day)}) for day in dates}
    for row in rows:
        if (row["model"], row["segment"]) == (ALL_MODELS, EVERYONE):
            of_dates[row["run_date"]] |= {row["metric"]: row["value"]}
            if row["metric"] == "hit_rate":
                of_dates[row["run_date"]]["users"] = row["users"]
    metrics = [name for name in METRICS if any(name in row for row in of_dates.values())]
    newest = [row for row in rows if row["run_date"] == dates[-1]]
    newest.sort(key=lambda row: (METRICS.index(row["metric"]), row["model"], _order(row["segment"])))
    return [
        Section("in_use", "What came of the lists", list(of_dates.values()), ["lists of", "users", *metrics]),
        Section("feedback", f"What came of those of {dates[-1]}", newest, _TOLD),
    ]


def _served(night: Night, record: StepRecord) -> DataFrame:
    """The date's lists, which were published."""
    published, made = (night.ledger.last_done(step) for step in ("publish", "recommend"))
    if published["details"][MADE_BY] != made["run_id"]:
        raise LakeError(
            f"the lists of {night.run_date} were made again since they were published: publish them"
        )
    version = record.versions_read["recommendations"] = night.lake.version("recommendations")
    return night.lake.read("recommendations", version).where(F.col("run_date") == F.lit(night.run_date))


def _answers(night: Night, record: StepRecord) -> DataFrame:
    """``user``, ``item``, distinct: what was taken in the days after the run date, once there were lists."""
    settings, lake = night.config.feedback, night.lake
    last = night.run_date + timedelta(days=settings.days)
    first, end = end_of(night.run_date), end_of(last)
    ingested = lake.collect("runs", {"step": ["ingest"], "state": ["done"]}, ["run_date"])
    newest = max((row["run_date"] for row in ingested), default=None)
    if newest is None or newest < last:
        raise LakeError(
            f"what came after {night.run_date} is known until {newest}: run this again when {last} "
            "has been ingested, or set feedback.days to fewer"
        )
    name = "events" if night.config.ingest.has_events else "ratings"
    version = record.versions_read[name] = lake.version(name)
    published = _published(night)
    if first < published < end:
        first = published
    elif published >= end:
        progress_line(
            f"  published on {published:%Y-%m-%d}, after the days that count: as if shown in all of them"
        )
    in_time = (F.col(TIMESTAMP) >= F.lit(first)) & (F.col(TIMESTAMP) < F.lit(end))
    rows = lake.read(name, version).where(in_time)
    if settings.events is not None:
        rows = rows.where(F.col(EVENT).isin(*settings.events))
    if settings.min_rating is not None:
        rows = rows.where(F.col(RATING) >= settings.min_rating)
    return rows.select(USER, ITEM).distinct()


def _published(night: Night) -> datetime:
    """When the date's lists became those that are served."""
    row = night.ledger.last_done("publish")
    return datetime.fromtimestamp(row["started"] + row["seconds"], UTC)


def _measured(night: Night, record: StepRecord, lists: DataFrame, answers: DataFrame) -> list[MetricRow]:
    n = night.config.recommend.n
    back = answers.groupBy(USER).agg(F.count("*").alias("taken"))
    hit = answers.withColumn("hit", F.lit(1))
    shown = (
        lists.join(back.select(USER), USER, "left_semi").join(hit, [USER, ITEM], "left").fillna(0, ["hit"])
    )
    shown = shown.select(USER, RANK, "model", REASON, PROPENSITY, "hit").persist()
    try:
        users = _with_segments(night, record, shown.select(USER).distinct()).localCheckpoint()
        found = _answered(shown, users, n) + _undrawn(shown, users, n)
        of_users = shown.groupBy(USER).agg(F.sum("hit").alias("hits")).join(back, USER)
        whole: dict[str, MetricValue] = {}
        for metric, top, bottom in (("hit_rate", F.col("hits") > 0, F.lit(1)), ("recall", "hits", "taken")):
            part = F.col(top).cast("int") if isinstance(top, str) else top.cast("int")
            of = F.col(bottom) if isinstance(bottom, str) else bottom
            (row,) = of_users.agg(*_sums(part, of)).collect()
            if not row["users"]:
                raise LakeError(
                    f"nobody who has a list of {night.run_date} took anything in the days after it"
                )
            whole[metric] = _ratio(ALL_MODELS, metric, n, row)
    finally:
        shown.unpersist()
    return [MetricRow(SERVED, value) for value in whole.values()] + found


def _with_segments(night: Night, record: StepRecord, users: DataFrame) -> DataFrame:
    """``user`` and ``segments``: names of the groups that the user is in."""
    version = record.versions_read["ratings"] = night.lake.version("ratings")
    known = night.lake.read("ratings", version).where(F.col("first_run") <= F.lit(night.run_date))
    counted = with_activity(users, known.groupBy(USER).agg(F.count("*").alias("ratings")))
    labels = [F.concat(F.lit(f"{ACTIVITY}="), ACTIVITY)]
    ages = ages_of(night, record)
    if ages is not None:
        counted = counted.join(ages, USER, "left")
        labels.append(F.concat(F.lit(f"{AGE}="), AGE))
    return counted.select(USER, F.array(F.lit(EVERYONE), *labels).alias("segments"))


def _answered(shown: DataFrame, users: DataFrame, n: int) -> list[MetricRow]:
    """Of the rows of each group, how many were answered."""
    own = F.array(F.concat(F.lit("reason="), REASON), F.concat(F.lit("rank="), RANK))
    answered = shown.withColumns({"own": own, "top": F.col("hit"), "bottom": F.lit(1)})
    rows = answered.select(USER, _models(), "own", "top", "bottom")
    return _ratios("answered", rows, users, n)


def _undrawn(shown: DataFrame, users: DataFrame, n: int) -> list[MetricRow]:
    """What the slots that are drawn would be worth without drawing: rows that would be there anyway stand for
    the others, each for as many as its propensity says.
    """
    drawn = shown.where(F.col(PROPENSITY).isNotNull())
    if drawn.isEmpty():
        return []
    rank, reason = (F.concat(F.lit(f"{name}="), name) for name in (RANK, REASON))
    weight = F.when(F.col(REASON) == EXPLORATION, 0.0).otherwise(1 / F.col(PROPENSITY))
    weighted = drawn.select(
        USER,
        _models(),
        F.array(rank, reason).alias("own"),
        (F.col("hit") * weight).alias("top"),
        weight.alias("bottom"),
    )
    # what else a slot whose item was drawn would show is not known: of whole slots alone it does not matter
    of_slots = weighted.where(F.col("model") == ALL_MODELS)
    of_slots = of_slots.withColumns({"own": F.slice("own", 1, 1), "bottom": F.lit(1.0)})
    return _ratios("ips", of_slots, users, n) + _ratios("snips", weighted, users, n)


def _models() -> Column:
    """``model``: a row's, and all."""
    return F.explode(F.array(F.lit(ALL_MODELS), "model")).alias("model")


def _ratios(metric: str, rows: DataFrame, users: DataFrame, n: int) -> list[MetricRow]:
    """Of each model and group, the sum of ``top`` over that of ``bottom``; of rows ``user``, ``model``, and
    ``own``, the groups that they are in beside their users'.
    """
    groups = F.explode(F.array_compact(F.concat("segments", "own"))).alias("segment")
    grouped = rows.join(users, USER).select(USER, "model", groups, "top", "bottom")
    per_user = grouped.groupBy("model", "segment", USER).agg(
        F.sum("top").alias("t"), F.sum("bottom").alias("b")
    )
    sums = per_user.groupBy("model", "segment").agg(*_sums(F.col("t"), F.col("b")))
    found = sorted(sums.where("b > 0").collect(), key=lambda row: (row["model"], _order(row["segment"])))
    return [MetricRow(SERVED, _ratio(row["model"], metric, n, row), row["segment"]) for row in found]


def _order(segment: str) -> tuple[str, int, str]:
    """Ranks as numbers."""
    kind, _, name = segment.partition("=")
    return kind, int(name) if name.isdigit() else 0, name


def _sums(top: Column, bottom: Column) -> list[Column]:
    """What the ratio of two sums over users, and its error, are made of."""
    products = {"tt": top * top, "tb": top * bottom, "bb": bottom * bottom}
    sums = [F.sum(value).alias(name) for name, value in {"t": top, "b": bottom, **products}.items()]
    return [F.count("*").alias("users"), *sums]


def _ratio(model: str, metric: str, k: int, row: Row) -> MetricValue:
    """A ratio of two sums over users, with an interval: the users are a sample, and a user's rows are not
    independent (the linearised variance of a ratio; Deng, Knoblich & Lu 2018).
    """
    users, value = row["users"], row["t"] / row["b"]
    squares = row["tt"] - 2 * value * row["tb"] + value**2 * row["bb"]
    if users < 2:
        return MetricValue(model, metric, k, value, None, None, users)
    width = _WIDTH * math.sqrt(max(squares, 0.0) * users / (users - 1)) / row["b"]
    high = min(max(1.0, value), value + width)  # an estimate by few propensities may be above 1
    return MetricValue(model, metric, k, value, max(0.0, value - width), high, users)
