"""Events and what they are worth: the rating of a pair is derived from its events, as of a day.

A pair's worth fades by the same factor from day to day, whatever its events. So it is kept as of the pair's
last event, where it changes with the pair's events only, and fades when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Events
from recsys_spark.data.cells import DAY_MICROS, date_of
from recsys_spark.data.cleaning import midnight
from recsys_spark.schema import EVENT, ITEM, RATING, REASON, TIMESTAMP, USER

UNNAMED = "event"
"""The type of all events of a source that has no column of types."""

DIGITS = 9
"""Decimals that a worth is kept with: sums that differ by their order of summation are the same."""

SMALLEST = 2.0**-126
"""What is worth less is worth nothing: a float32 holds it with fewer digits, if at all."""

_FADED = 1_000  # half-lives, after which a double is next to nothing


def distinct_events(rows: DataFrame) -> DataFrame:
    """One row per event of the valid rows, and one per reason of the rejected ones.

    Parameters
    ----------
    rows : DataFrame
        Result of :func:`~recsys_spark.data.cleaning.clean_ratings`; without ``event`` all are of the type
        :data:`UNNAMED`.

    Returns
    -------
    DataFrame
        ``user``, ``item``, ``event``, ``timestamp``, ``reason``, ``rows`` (how many input rows this one
        stands for). All but the last two are null where ``reason`` is not. One shuffle.
    """
    if EVENT not in rows.columns:
        rows = rows.withColumn(EVENT, F.lit(UNNAMED))
    valid = F.col(REASON).isNull()
    keys = [F.when(valid, F.col(name)).alias(name) for name in (USER, ITEM, EVENT, TIMESTAMP)]
    return (
        rows.select(*keys, REASON)
        .groupBy(USER, ITEM, EVENT, TIMESTAMP, REASON)
        .agg(F.count("*").alias("rows"))
    )


def month_of(timestamp: Column) -> Column:
    """First day of a timestamp's month in UTC, whatever the session's zone.

    Parameters
    ----------
    timestamp : Column
        Of type timestamp.

    Returns
    -------
    Column
        Of type date.
    """
    return F.trunc(date_of(timestamp), "MM")


def end_of(day: date) -> datetime:
    """The first instant, in UTC, after a day.

    Parameters
    ----------
    day : date
        A run date.
    """
    return midnight(day + timedelta(days=1))


def pair_worths(events: DataFrame, settings: Events, day: date) -> DataFrame:
    """What each pair's events are worth, as of the pair's last event.

    Parameters
    ----------
    events : DataFrame
        ``user``, ``item``, ``event``, ``timestamp`` (or null): one row per event. Types that have no weight
        are worth nothing; a row whose type is null is no event.
    settings : Events
        The configuration's ``ingest.events``.
    day : date
        The run date; later events do not count.

    Returns
    -------
    DataFrame
        One row per pair: ``user``, ``item``, ``rating`` double, with :data:`DIGITS` decimals, 0 or negative
        where no more was given than taken back, and null where there is no event until ``day``;
        ``timestamp``, that of the last event that counts, or else of the last. One shuffle.
    """
    end = F.lit(end_of(day))
    known = F.col(EVENT).isNotNull() & (F.col(TIMESTAMP).isNull() | (F.col(TIMESTAMP) < end))
    counts = known
    if settings.window is not None:
        counts = known & (F.col(TIMESTAMP) >= F.lit(end_of(day) - timedelta(days=settings.window)))
    weighed = events.select(
        USER,
        ITEM,
        known.alias("known"),
        F.when(known, F.col(TIMESTAMP)).alias(TIMESTAMP),
        F.when(counts, _weight(settings.weights)).alias("weight"),
    )
    weight, faded = F.col("weight"), F.lit(1.0)
    if settings.half_life is not None:
        faded = _fading(F.col(TIMESTAMP), end, settings.half_life)
    if settings.combine == "sum":
        value = F.sum(weight * faded)
    elif settings.combine == "count":
        value = F.sum(F.signum(weight) * faded)
    elif settings.combine == "latest":
        last = F.max(F.when(weight.isNotNull(), F.struct(TIMESTAMP, weight)))
        value = last["weight"]
    else:
        value = _largest(settings.weights, weight, faded)
    pairs = weighed.groupBy(USER, ITEM).agg(
        F.bool_or("known").alias("known"),
        value.alias("value"),
        F.coalesce(F.max(F.when(weight.isNotNull(), F.col(TIMESTAMP))), F.max(TIMESTAMP)).alias(TIMESTAMP),
    )
    worth = F.col("value")
    if settings.half_life is not None and settings.combine != "latest":
        since = _fading(F.col(TIMESTAMP), end, settings.half_life)
        worth = F.when(since >= 2.0**-_FADED, worth / since)
    rounded = F.when(F.col("known"), F.round(F.coalesce(worth, F.lit(0.0)), DIGITS))
    return pairs.select(USER, ITEM, rounded.alias(RATING), TIMESTAMP)


def as_of(pairs: DataFrame, settings: Events, day: date) -> DataFrame:
    """The pairs that are worth something on a day.

    Parameters
    ----------
    pairs : DataFrame
        ``rating`` and ``timestamp`` as :func:`pair_worths` has them.
    settings : Events
        The configuration's ``ingest.events``.
    day : date
        The run date.

    Returns
    -------
    DataFrame
        The same columns: ``rating`` is above 0, faded to the end of ``day``, and at most ``settings.cap``.
        Narrow: no shuffle.
    """
    rating = F.col(RATING)
    if settings.half_life is not None:
        rating = rating * _fading(F.col(TIMESTAMP), F.lit(end_of(day)), settings.half_life)
    if settings.cap is not None:
        rating = F.least(rating, F.lit(float(settings.cap)))
    return pairs.withColumn(RATING, rating).where(F.col(RATING) >= SMALLEST)


def _weight(weights: Mapping[str, float]) -> Column:
    """An event's weight; null for a type that has none."""
    if not weights:
        return F.lit(1.0)
    weight = F.lit(None).cast("double")
    for event, value in weights.items():
        weight = F.when(F.col(EVENT) == event, F.lit(float(value))).otherwise(weight)
    return weight


def _fading(timestamp: Column, end: Column, half_life: float) -> Column:
    """What is left at ``end`` of a weight at ``timestamp``."""
    age = (F.unix_micros(end) - F.unix_micros(timestamp)) / float(DAY_MICROS)
    return F.pow(F.lit(2.0), -age / float(half_life))


def _largest(weights: Mapping[str, float], weight: Column, faded: Column) -> Column:
    """The largest weight of a size of which more events give than take."""
    sizes = sorted({abs(size) for size in weights.values()} or {1.0})
    best = []
    for size in sizes:
        left = F.sum(F.when(weight == size, 1).when(weight == -size, -1))
        best.append(F.when(left > 0, F.max(F.when(weight == size, weight * faded))))
    return F.greatest(*best) if len(best) > 1 else best[0]
