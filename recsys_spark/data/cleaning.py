"""From raw cells to clean ratings, with a reason for every row that is refused.

``sources`` gives *raw* frames: one row per input row, cells as they stood (strings, or typed in Parquet and
Delta), beside the row's raw text and file. Here each row gets typed values or a reason code, and the ratings
are reduced to one row per (user, item). Everything is a Spark expression: no Python runs per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import reduce
from operator import or_
from typing import Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import SourceError
from recsys_spark.schema import ID_SQL_TYPES, ITEM, MAX_ID_LENGTH, RATING, TIMESTAMP, USER, IdType

REASONS: dict[str, str] = {
    "undecodable_bytes": "the bytes are not text in the declared encoding",
    "different_header": "a file begins with another header than the first file",
    "wrong_column_count": "more or fewer fields than the header or the declared names; also a blank line",
    "unparsable": "not JSON, an id of another type, a rating or timestamp that is none, an unknown event",
    "missing_user": "no user id",
    "missing_item": "no item id",
    "id_too_long": f"an id of more than {MAX_ID_LENGTH} characters",
    "not_finite_rating": "the rating is NaN or infinite",
    "rating_out_of_scale": "the rating lies outside the declared scale",
    "timestamp_in_future": "the timestamp lies after the run date",
    "timestamp_before_start": "the timestamp lies before the declared earliest day",
}
"""Reason code → what it means. Where several hold, a row gets the first, in this order."""

HEADER_LINE = "header_line"
"""Marks a line that equals its input's header: neither a row nor refused, wherever in a file it stands."""

FAULT, REASON, RAW, SOURCE_FILE = "fault", "reason", "raw", "source_file"

MAX_EPOCH_SECONDS = 253_402_300_799  # the end of the year 9999
MILLISECONDS_FROM = 1e11
"""From this number on, an epoch timestamp of format ``auto`` is taken as milliseconds (in seconds: the
year 5138).
"""

TimestampFormat = Literal["auto", "seconds", "milliseconds", "iso8601"]


@dataclass(frozen=True)
class Rules:
    """What a rating may be.

    Attributes
    ----------
    run_date : rows later than the end of this day (UTC) are refused
    user_type, item_type : type that ids are cast to
    timestamps : how timestamp cells are written
    events : event type → weight, where the source has an event column
    scale : smallest and largest allowed rating
    earliest : rows before this day (UTC) are refused
    """

    run_date: date
    user_type: IdType = "string"
    item_type: IdType = "string"
    timestamps: TimestampFormat = "auto"
    events: Mapping[str, float] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    earliest: date | None = None


def clean_ratings(raw: DataFrame, rules: Rules) -> DataFrame:
    """Typed ratings and reasons.

    Parameters
    ----------
    raw : one row per input row: ``user``, ``item`` and, where the source has them, ``rating``, ``timestamp``,
        ``event``; then ``fault`` (a reason found while reading, or null), ``raw``, ``source_file``
    rules : what is allowed

    Returns
    -------
    DataFrame
        The same rows: ``user``, ``item`` (of the declared types), ``rating`` double, ``timestamp`` timestamp
        (null where the source has none), ``reason`` (null for a good row), ``raw``, ``source_file``. Narrow:
        no shuffle.

    Raises
    ------
    SourceError
        A typed source has ids that are neither whole numbers nor strings.
    """
    kinds = {field.name: field.dataType for field in raw.schema.fields}
    numbers = _with_numbers(
        raw, kinds
    )  # a step of its own, or the optimizer repeats the parsing in every use
    timestamp = _timestamp(kinds[TIMESTAMP], rules.timestamps) if TIMESTAMP in kinds else F.lit(None)
    typed = numbers.select(
        F.col(USER).cast("string").alias("user_cell"),
        F.col(ITEM).cast("string").alias("item_cell"),
        _id(USER, kinds[USER], rules.user_type).alias(USER),
        _id(ITEM, kinds[ITEM], rules.item_type).alias(ITEM),
        _rating(kinds, rules).alias(RATING),
        timestamp.cast("timestamp").alias(TIMESTAMP),
        FAULT,
        RAW,
        SOURCE_FILE,
    )
    checks = _checks(rules, TIMESTAMP in kinds)
    reason = F.coalesce(F.col(FAULT), *(F.when(found, F.lit(code)) for code, found in checks))
    return typed.select(USER, ITEM, RATING, TIMESTAMP, reason.alias(REASON), RAW, SOURCE_FILE)


def latest_per_pair(rows: DataFrame) -> DataFrame:
    """One row per (user, item) of the good rows, and one per reason of the others.

    Of several good rows of a pair the latest timestamp wins, and of equal timestamps the larger rating; a row
    without a timestamp is older than any with one. Both kinds of rows come out of one hash aggregation, so
    counting the refused costs no further pass. Where rows of a pair differ in timestamp *and* rating,
    ``disputed`` is true and :func:`settle` decides.

    Parameters
    ----------
    rows : result of :func:`clean_ratings`

    Returns
    -------
    DataFrame
        ``user``, ``item``, ``reason``, ``rating``, ``timestamp``, ``rows`` (how many input rows stand behind
        this one), ``disputed``. User and item are null where ``reason`` is not. One shuffle.
    """
    good = F.col(REASON).isNull()
    keyed = rows.select(
        F.when(good, F.col(USER)).alias(USER),
        F.when(good, F.col(ITEM)).alias(ITEM),
        REASON,
        RATING,
        TIMESTAMP,
    )
    # min and max keep the aggregation on hashes; max(struct(timestamp, rating)) would sort twice
    grouped = keyed.groupBy(USER, ITEM, REASON).agg(
        F.count("*").alias("rows"),
        F.count(TIMESTAMP).alias("timed"),
        F.max(TIMESTAMP).alias(TIMESTAMP),
        F.min(TIMESTAMP).alias("earliest"),
        F.max(RATING).alias(RATING),
        F.min(RATING).alias("lowest"),
    )
    several_ratings = F.col("lowest") < F.col(RATING)
    several_times = (F.col("earliest") < F.col(TIMESTAMP)) | F.col("timed").between(
        F.lit(1), F.col("rows") - 1
    )
    disputed = F.col(REASON).isNull() & F.coalesce(several_ratings & several_times, F.lit(False))
    return grouped.select(USER, ITEM, REASON, RATING, TIMESTAMP, "rows", disputed.alias("disputed"))


def settle(pairs: DataFrame, rows: DataFrame) -> DataFrame:
    """Decide the disputed rows of :func:`latest_per_pair` by going back to the input rows of those pairs.

    Parameters
    ----------
    pairs : result of :func:`latest_per_pair`
    rows : the rows it was made from

    Returns
    -------
    DataFrame
        ``pairs`` with the winning rating and timestamp, and ``disputed`` false throughout. A second pass over
        ``rows``, one shuffle.
    """
    keys = pairs.where("disputed").select(USER, ITEM, F.col("rows").alias("rows"))
    order = Window.partitionBy(USER, ITEM).orderBy(F.desc_nulls_last(TIMESTAMP), F.desc(RATING))
    winners = (
        _computed_once(rows)
        .where(F.col(REASON).isNull())
        .join(keys, [USER, ITEM])
        .withColumn("place", F.row_number().over(order))
        .where("place = 1")
        .select(USER, ITEM, REASON, RATING, TIMESTAMP, "rows", F.lit(False).alias("disputed"))
    )
    return pairs.where("not disputed").unionByName(winners)


def refused(rows: DataFrame) -> DataFrame:
    """The refused rows of a cleaned frame, ready to be kept.

    Returns
    -------
    DataFrame
        ``source_file``, ``reason``, ``raw`` (undecodable bytes shown as U+FFFD), ``raw_bytes`` (binary, only
        where the raw text is not valid UTF-8, so that nothing is lost). One row per refused input row.
    """
    valid = F.is_valid_utf8(RAW)
    return (
        _computed_once(rows)
        .where(F.col(REASON).isNotNull() & (F.col(REASON) != HEADER_LINE))
        .select(
            SOURCE_FILE,
            REASON,
            F.make_valid_utf8(RAW).alias(RAW),
            F.when(~valid, F.col(RAW).cast("binary")).alias("raw_bytes"),
        )
    )


def clean_side_table(raw: DataFrame, key: str, id_type: IdType, types: Mapping[str, str]) -> DataFrame:
    """Typed features of users or items, one row per id, with refused rows marked.

    Parameters
    ----------
    raw : ``key``, the features of ``types`` that the source has, ``fault``, ``raw``, ``source_file``
    key : ``user`` or ``item``
    id_type : type of the id
    types : feature → Spark SQL type; a cell that cannot be cast becomes null, and a missing feature is null
        throughout

    Returns
    -------
    DataFrame
        ``key``, features, ``reason``, ``raw``, ``source_file``; not yet one row per id.
    """
    kinds = {field.name: field.dataType for field in raw.schema.fields}
    cell = F.col(key).cast("string")
    typed = _id(key, kinds[key], id_type)
    missing = f"missing_{key}"
    reason = F.coalesce(
        F.col(FAULT),
        F.when(_blank(cell), F.lit(missing)),
        F.when(F.length(cell) > MAX_ID_LENGTH, F.lit("id_too_long")),
        F.when(typed.isNull(), F.lit("unparsable")),
    )
    features = [
        (_feature(name, kind) if name in kinds else F.lit(None).cast(kind)).alias(name)
        for name, kind in types.items()
    ]
    return raw.select(typed.alias(key), *features, reason.alias(REASON), RAW, SOURCE_FILE)


def _computed_once(rows: DataFrame) -> DataFrame:
    """The same rows behind a generator, through which the optimizer does not push a filter.

    Pushed down, a filter on ``reason`` holds all of the parsing again, once for every mention.
    """
    return rows.select(F.inline(F.array(F.struct("*"))))


def _blank(cell: Column) -> Column:
    return cell.isNull() | (F.trim(cell) == "")


def _id(name: str, kind: T.DataType, wanted: IdType) -> Column:
    if not isinstance(kind, T.StringType | T.IntegralType | T.DecimalType):
        raise SourceError(
            f"the {name} column is {kind.simpleString()}: ids must be integers, longs or strings"
        )
    sql_type = ID_SQL_TYPES[wanted]
    return F.col(name) if kind.simpleString() == sql_type else F.col(name).cast("string").try_cast(sql_type)


def _with_numbers(raw: DataFrame, kinds: Mapping[str, T.DataType]) -> DataFrame:
    """Add ``rating_number`` and ``timestamp_number``: text cells as double, null where they are no number."""
    numbers = [
        _number(F.col(name), kinds[name]).alias(f"{name}_number")
        for name in (RATING, TIMESTAMP)
        if name in kinds and isinstance(kinds[name], T.StringType | T.NumericType)
    ]
    return raw.select("*", *numbers)


def _feature(name: str, kind: str) -> Column:
    cell = F.col(name)
    # "25.0", as pandas writes whole numbers beside missing ones
    return (
        F.coalesce(cell.try_cast(kind), cell.try_cast("double").try_cast(kind))
        if kind == "int"
        else cell.try_cast(kind)
    )


def _number(cell: Column, kind: T.DataType) -> Column:
    if not isinstance(kind, T.StringType):
        return cell.cast("double")
    # Java would also read "4d", "4f" and "0x1p3" as numbers; the expression is slow: letters first
    suspect = reduce(or_, (F.contains(cell, F.lit(letter)) for letter in "dDfFxX"))
    javas_own = suspect & cell.rlike(r"(?i)(?<!in)[df]\s*$|x")
    return F.when(~javas_own, cell.try_cast("double"))


def _rating(kinds: Mapping[str, T.DataType], rules: Rules) -> Column:
    if "event" in kinds:
        weight = F.lit(None).cast("double")
        for event, value in rules.events.items():
            weight = F.when(F.col("event").cast("string") == event, F.lit(float(value))).otherwise(weight)
        return weight
    if RATING not in kinds:
        return F.lit(1.0)
    return (
        F.col("rating_number")
        if isinstance(kinds[RATING], T.StringType | T.NumericType)
        else F.lit(None).cast("double")
    )


def _timestamp(kind: T.DataType, written: TimestampFormat) -> Column:
    cell, number = F.col(TIMESTAMP), F.col("timestamp_number")
    if isinstance(kind, T.TimestampType | T.TimestampNTZType | T.DateType):
        return cell.cast("timestamp")
    if not isinstance(kind, T.StringType | T.NumericType):
        return F.lit(None)
    # Spark would also read a time without a day, as today's
    text = cell.cast("string")
    iso8601 = F.when(text.rlike(r"^\s*\d{4,}-"), text.try_cast("timestamp"))
    if written == "iso8601":
        return iso8601
    # outside these bounds Spark's conversions overflow
    seconds = F.when(F.abs(number) <= MAX_EPOCH_SECONDS, F.timestamp_seconds(number))
    milliseconds = F.when(F.abs(number) <= MAX_EPOCH_SECONDS * 1000, F.timestamp_millis(number.cast("long")))
    if written == "seconds":
        return seconds
    if written == "milliseconds":
        return milliseconds
    epoch = F.when(F.abs(number) < MILLISECONDS_FROM, seconds).otherwise(milliseconds)
    if isinstance(kind, T.StringType):
        return F.when(number.isNull(), iso8601).otherwise(epoch)
    return epoch


def _checks(rules: Rules, timed: bool) -> list[tuple[str, Column]]:
    """(code, condition) in the order of :data:`REASONS`; the first that holds names the row's reason."""
    user, item, rating, timestamp = F.col("user_cell"), F.col("item_cell"), F.col(RATING), F.col(TIMESTAMP)
    unparsable = F.col(USER).isNull() | F.col(ITEM).isNull() | rating.isNull()
    checks = [
        ("missing_user", _blank(user)),
        ("missing_item", _blank(item)),
        ("id_too_long", (F.length(user) > MAX_ID_LENGTH) | (F.length(item) > MAX_ID_LENGTH)),
        ("unparsable", unparsable | timestamp.isNull() if timed else unparsable),
        # NaN is larger than any number in Spark
        ("not_finite_rating", F.abs(rating) >= float("inf")),
    ]
    if rules.scale is not None:
        checks.append(("rating_out_of_scale", ~rating.between(float(rules.scale[0]), float(rules.scale[1]))))
    if timed:
        end = rules.run_date + timedelta(days=1)
        checks.append(("timestamp_in_future", timestamp >= F.lit(end.isoformat()).cast("timestamp")))
        if rules.earliest is not None:
            start = F.lit(rules.earliest.isoformat()).cast("timestamp")
            checks.append(("timestamp_before_start", timestamp < start))
    return checks
