"""From raw cells to typed rows, with a reason for every row that is rejected.

:mod:`~recsys_spark.data.sources` reads *raw* frames: one row per input row, with its cells as they are in the
source (strings, or typed in Parquet and Delta), its raw text and its file. Here each row gets typed values or
a reason code. Everything is a Spark expression: no Python runs per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import reduce
from operator import or_
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import SourceError
from recsys_spark.schema import ID_SQL_TYPES, ITEM, MAX_ID_LENGTH, RATING, TIMESTAMP, USER, IdType

REASONS: dict[str, str] = {
    "undecodable_bytes": "the bytes are not text in the declared encoding",
    "different_header": "a file begins with another header than the first file",
    "wrong_column_count": "more or fewer fields than the header or the declared names; also a blank line",
    "unparsable": "not JSON, an id of another type, an invalid rating or timestamp, an unknown event",
    "missing_user": "no user id",
    "missing_item": "no item id",
    "id_too_long": f"an id of more than {MAX_ID_LENGTH} characters",
    "not_finite_rating": "the rating is NaN or infinite",
    "rating_out_of_scale": "the rating is outside the declared scale",
    "timestamp_in_future": "the timestamp is after the run date",
    "timestamp_before_start": "the timestamp is before the declared earliest day",
}
"""Reason code → what it means. Where several apply, a row gets the first, in this order."""

HEADER_LINE = "header_line"
"""Marks a line that equals its input's header: neither a row nor rejected, wherever in a file it is."""

FAULT, REASON, RAW, SOURCE_FILE = "fault", "reason", "raw", "source_file"

MAX_EPOCH_SECONDS = 253_402_300_799  # the end of the year 9999
MILLISECONDS_FROM = 1e11
"""From this number on, epoch timestamps of format ``auto`` are milliseconds; as seconds: the year 5138."""

TimestampFormat = Literal["auto", "seconds", "milliseconds", "iso8601"]


@dataclass(frozen=True)
class Rules:
    """What a rating may be.

    Attributes
    ----------
    run_date : rows later than the end of this day (UTC) are rejected
    user_type, item_type : type that ids are cast to
    timestamps : how timestamp cells are written
    events : event type → weight, where the source has an event column
    scale : smallest and largest allowed rating
    earliest : rows before this day (UTC) are rejected
    """

    run_date: date
    user_type: IdType = "string"
    item_type: IdType = "string"
    timestamps: TimestampFormat = "auto"
    events: Mapping[str, float] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    earliest: date | None = None


def clean_ratings(raw: DataFrame, rules: Rules) -> DataFrame:
    """Typed ratings, each with the reason for its rejection or null.

    Parameters
    ----------
    raw : DataFrame
        One row per input row: ``user``, ``item`` and, where the source has them, ``rating``, ``timestamp``,
        ``event``; then ``fault`` (a reason found while reading, or null), ``raw``, ``source_file``.
    rules : Rules
        What is allowed.

    Returns
    -------
    DataFrame
        The same rows: ``user``, ``item`` (of the declared types), ``rating`` double, ``timestamp`` timestamp
        (null where the source has none), ``reason`` (null for a valid row), ``raw``, ``source_file``. Narrow:
        no shuffle.

    Raises
    ------
    SourceError
        A typed source has ids that are neither whole numbers nor strings.
    """
    kinds = {field.name: field.dataType for field in raw.schema.fields}
    # a step of its own, or the optimizer repeats the parsing in every use
    numbers = _with_numbers(raw, kinds)
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
    reason = F.coalesce(F.col(FAULT), *(F.when(applies, F.lit(code)) for code, applies in checks))
    return typed.select(USER, ITEM, RATING, TIMESTAMP, reason.alias(REASON), RAW, SOURCE_FILE)


def rejected_rows(rows: DataFrame) -> DataFrame:
    """The rejected rows of a cleaned frame, as they are stored.

    Parameters
    ----------
    rows : DataFrame
        Result of :func:`clean_ratings` or :func:`clean_side_table`.

    Returns
    -------
    DataFrame
        ``source_file``, ``reason``, ``raw`` (undecodable bytes shown as U+FFFD), ``raw_bytes`` (binary, only
        where the raw text is not valid UTF-8, so that nothing is lost). One row per rejected input row.
    """
    valid = F.is_valid_utf8(RAW)
    return (
        computed_once(rows)
        .where(F.col(REASON).isNotNull() & (F.col(REASON) != HEADER_LINE))
        .select(
            SOURCE_FILE,
            REASON,
            F.make_valid_utf8(RAW).alias(RAW),
            F.when(~valid, F.col(RAW).cast("binary")).alias("raw_bytes"),
        )
    )


def clean_side_table(raw: DataFrame, key: str, id_type: IdType, types: Mapping[str, str]) -> DataFrame:
    """Typed features of users or items, each row with the reason for its rejection or null.

    Parameters
    ----------
    raw : DataFrame
        ``key``, the features of ``types`` that the source has, ``fault``, ``raw``, ``source_file``.
    key : str
        ``user`` or ``item``.
    id_type : str
        Type of the id: ``integer``, ``long`` or ``string``.
    types : mapping of str to str
        Feature → Spark SQL type. A cell that cannot be cast becomes null; a feature that the source lacks is
        null in every row.

    Returns
    -------
    DataFrame
        The same rows: ``key``, features, ``reason``, ``raw``, ``source_file``; an id may have several.
        Narrow: no shuffle.

    Raises
    ------
    SourceError
        A typed source has ids that are neither whole numbers nor strings.
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


def computed_once(rows: DataFrame) -> DataFrame:
    """The same rows behind a generator, through which the optimizer does not push a filter.

    Pushed down, a filter on ``reason`` would repeat all of the parsing, once for every mention.

    Parameters
    ----------
    rows : DataFrame
        Any rows.

    Returns
    -------
    DataFrame
        The same rows.
    """
    return rows.select(F.inline(F.array(F.struct("*"))))


def _blank(cell: Column) -> Column:
    return cell.isNull() | (F.trim(cell) == "")


def _id(name: str, kind: T.DataType, wanted: IdType) -> Column:
    if not isinstance(kind, T.StringType | T.IntegralType | T.DecimalType):
        raise SourceError(
            f"the {name} column is {kind.simpleString()}: ids must be integers, longs or strings, so cast it"
        )
    sql_type = ID_SQL_TYPES[wanted]
    return F.col(name) if kind.simpleString() == sql_type else F.col(name).cast("string").try_cast(sql_type)


def _with_numbers(raw: DataFrame, kinds: Mapping[str, T.DataType]) -> DataFrame:
    """Add ``rating_number`` and ``timestamp_number``: cells as double, null where they are not numbers."""
    numbers = [
        _number(F.col(name), kinds[name]).alias(f"{name}_number")
        for name in (RATING, TIMESTAMP)
        if name in kinds and isinstance(kinds[name], T.StringType | T.NumericType)
    ]
    return raw.select("*", *numbers)


def _feature(name: str, kind: str) -> Column:
    cell = F.col(name)
    if kind != "int":
        return cell.try_cast(kind)
    # "25.0" is 25: pandas writes whole numbers so where others are missing
    return F.coalesce(cell.try_cast(kind), cell.try_cast("double").try_cast(kind))


def _number(cell: Column, kind: T.DataType) -> Column:
    if not isinstance(kind, T.StringType):
        return cell.cast("double")
    # Java would also read "4d", "4f" and "0x1p3" as numbers. The regular expression is slow: letters first
    suspect = reduce(or_, (F.contains(cell, F.lit(letter)) for letter in "dDfFxX"))
    java_literal = suspect & cell.rlike(r"(?i)(?<!in)[df]\s*$|x")
    return F.when(~java_literal, cell.try_cast("double"))


def _rating(kinds: Mapping[str, T.DataType], rules: Rules) -> Column:
    if "event" in kinds:
        weight = F.lit(None).cast("double")
        for event, value in rules.events.items():
            weight = F.when(F.col("event").cast("string") == event, F.lit(float(value))).otherwise(weight)
        return weight
    if RATING not in kinds:
        return F.lit(1.0)
    is_number = isinstance(kinds[RATING], T.StringType | T.NumericType)
    return F.col("rating_number") if is_number else F.lit(None).cast("double")


def _timestamp(kind: T.DataType, form: TimestampFormat) -> Column:
    cell, number = F.col(TIMESTAMP), F.col("timestamp_number")
    if isinstance(kind, T.TimestampType | T.TimestampNTZType | T.DateType):
        return cell.cast("timestamp")
    if not isinstance(kind, T.StringType | T.NumericType):
        return F.lit(None)
    # Spark would also read a time without a date, as today's
    text = cell.cast("string")
    iso8601 = F.when(text.rlike(r"^\s*\d{4,}-"), text.try_cast("timestamp"))
    if form == "iso8601":
        return iso8601
    # outside these bounds Spark's conversions overflow
    seconds = F.when(F.abs(number) <= MAX_EPOCH_SECONDS, F.timestamp_seconds(number))
    milliseconds = F.when(F.abs(number) <= MAX_EPOCH_SECONDS * 1000, F.timestamp_millis(number.cast("long")))
    if form == "seconds":
        return seconds
    if form == "milliseconds":
        return milliseconds
    epoch = F.when(F.abs(number) < MILLISECONDS_FROM, seconds).otherwise(milliseconds)
    if isinstance(kind, T.StringType):
        return F.when(number.isNull(), iso8601).otherwise(epoch)
    return epoch


def _checks(rules: Rules, timed: bool) -> list[tuple[str, Column]]:
    """(code, condition) in the order of :data:`REASONS`; the first that applies is the row's reason."""
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
