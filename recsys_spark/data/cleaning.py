"""From raw cells to typed rows, with a reason for every row that is rejected.

:mod:`~recsys_spark.data.sources` reads *raw* frames: one row per input row, with its cells as they are in the
source (strings, or typed in Parquet and Delta), its raw text and its file. Here each row gets typed values or
a reason code. Everything is a Spark expression: no Python runs per row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import quoted
from recsys_spark.data.cells import (
    TimestampFormat,
    has_controls,
    moment,
    number,
    time_text,
    typed_id,
    untyped_id,
)
from recsys_spark.data.features import feature, feature_types, is_given
from recsys_spark.errors import SourceError
from recsys_spark.schema import (
    EVENT,
    FAULT,
    ITEM,
    MAX_ID_LENGTH,
    MAX_LINE_BYTES,
    RATING,
    RAW,
    REASON,
    SOURCE_FILE,
    TIMESTAMP,
    USER,
    FeatureType,
    IdType,
)

REASONS: dict[str, str] = {
    "line_too_long": f"a line of more than {MAX_LINE_BYTES:,} bytes",
    "undecodable_bytes": "the bytes are not text in the declared encoding",
    "different_header": "a file begins with another header than the first file",
    "wrong_column_count": "more or fewer fields than the header or the declared names; also a blank line",
    "malformed_line": "a quoted field with text after its end, or a line that is not one JSON object",
    "control_characters": "a mapped field has control characters, such as NUL",
    "missing_user": "no user id",
    "forgotten": "the user has been forgotten; neither the id nor the row's text is kept",
    "missing_item": "no item id",
    "id_too_long": f"an id of more than {MAX_ID_LENGTH} characters",
    "unparsable_user": "the user id is a number with a fraction, or no number where one is declared",
    "unparsable_item": "the item id is a number with a fraction, or no number where one is declared",
    "unparsable_event": "the event is none of those declared",
    "unparsable_rating": "the rating is missing or not a number",
    "unparsable_<feature>": "a feature of users or items is not of its type",
    "unparsable_timestamp": "the timestamp is missing, not a time, or may be Excel's days",
    "not_finite_rating": "the rating is NaN or infinite",
    "rating_out_of_scale": "the rating is outside the declared scale",
    "timestamp_in_future": "the timestamp is in the future",
    "timestamp_before_start": "the timestamp is before the declared earliest day; a number, before 1970",
}
"""Reason code → what it means. Where several apply, a row gets the first, in this order."""

HEADER_LINE = "header_line"
"""Marks a line that equals its input's header: neither a row nor rejected, wherever in a file it is."""

LATER = "later"
"""Marks a row of a day after the run date, which is left for that day's own night: not rejected."""

UNTYPED = "untyped"
"""Key of the metadata of a text file's columns, whose cells have no type: ``17.0`` may be the integer 17."""


MAX_RAW_LENGTH = 100_000
"""Characters, or bytes, of a rejected row that are kept."""


@dataclass(frozen=True)
class Rules:
    """What a rating may be.

    Attributes
    ----------
    run_date : rows after the end of this day (UTC) are of a later night
    user_type, item_type : type that ids are cast to
    timestamps : how timestamp cells are written
    events : the known types, where the source has an event column
    scale : smallest and largest allowed rating
    earliest : rows before this day (UTC) are rejected; without it, numbers before 1970
    today : rows after the end of this day (UTC) are rejected; without it, those after the run date
    """

    run_date: date
    user_type: IdType = "string"
    item_type: IdType = "string"
    timestamps: TimestampFormat = "auto"
    events: Collection[str] = ()
    scale: tuple[float, float] | None = None
    earliest: date | None = None
    today: date | None = None


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
        The same rows: ``user``, ``item`` (of the declared types), ``rating`` double (1 where the source has
        none), ``timestamp`` timestamp (null where the source has none), ``event`` where the source has it,
        ``reason`` (null for a valid row, :data:`LATER` for one of a later night), ``raw``, ``source_file``.
        Narrow: no shuffle.

    Raises
    ------
    SourceError
        A typed source has ids that are neither whole numbers nor strings.
    """
    kinds = {field.name: field.dataType for field in raw.schema.fields}
    # a step of its own, or the optimizer repeats the parsing in every use
    raw = raw.select(
        "*", _number(raw, RATING).alias("rating_number"), _number(raw, TIMESTAMP).alias("timestamp_number")
    )
    counted = F.col("timestamp_number")
    # for ISO 8601 a number is a date without punctuation
    number = F.lit(None) if rules.timestamps == "iso8601" else counted
    text = F.lit(None).cast("string")
    if TIMESTAMP in kinds and (isinstance(kinds[TIMESTAMP], T.StringType) or rules.timestamps == "iso8601"):
        text = time_text(F.col(TIMESTAMP).cast("string"), number)
    # a step between those that are compiled, each of which is small enough to be
    cells = raw.select("*", text.alias("timestamp_text"), _has_controls(raw).alias("controls"))
    timestamp = F.lit(None).cast("timestamp")
    if TIMESTAMP in kinds:
        timestamp = moment(
            F.col(TIMESTAMP), kinds[TIMESTAMP], counted, F.col("timestamp_text"), rules.timestamps
        )
    event = [F.col(EVENT).cast("string").alias(EVENT)] if EVENT in kinds else []
    typed = cells.select(
        F.col(USER).cast("string").alias("user_cell"),
        F.col(ITEM).cast("string").alias("item_cell"),
        _id(raw.schema[USER], rules.user_type).alias(USER),
        _id(raw.schema[ITEM], rules.item_type).alias(ITEM),
        _rating(raw, rules).alias(RATING),
        timestamp.alias(TIMESTAMP),
        *event,
        counted.isNotNull().alias("counted"),
        "controls",
        FAULT,
        RAW,
        SOURCE_FILE,
    )
    checks = _checks(rules, TIMESTAMP in kinds, EVENT in kinds)
    reason = F.coalesce(F.col(FAULT), *(F.when(applies, F.lit(code)) for code, applies in checks))
    return typed.select(USER, ITEM, RATING, TIMESTAMP, *event, reason.alias(REASON), RAW, SOURCE_FILE)


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
        where the raw text is not valid UTF-8, so that nothing is lost); of both the first
        :data:`MAX_RAW_LENGTH`. One row per rejected input row.
    """
    valid = F.is_valid_utf8(RAW)
    text, start = F.make_valid_utf8(RAW), F.lit(1)
    length = F.when(F.col(REASON) == "line_too_long", f"more than {MAX_LINE_BYTES}").otherwise(
        F.length(text).cast("string")
    )
    kept = F.substr(text, start, F.lit(MAX_RAW_LENGTH))
    ends = F.concat(kept, F.lit(" … of "), length, F.lit(" characters"))
    return (
        computed_once(rows)
        .where(F.col(REASON).isNotNull() & ~F.col(REASON).isin(HEADER_LINE, LATER))
        .select(
            SOURCE_FILE,
            REASON,
            F.when(F.length(text) > MAX_RAW_LENGTH, ends).otherwise(text).alias(RAW),
            F.when(~valid, F.substr(F.col(RAW).cast("binary"), start, F.lit(MAX_RAW_LENGTH))).alias(
                "raw_bytes"
            ),
        )
    )


def clean_side_table(
    raw: DataFrame, key: str, id_type: IdType, declared: Mapping[str, FeatureType] | None = None
) -> DataFrame:
    """Typed features of users or items, each row with the reason for its rejection or null.

    Parameters
    ----------
    raw : DataFrame
        ``key``, any features, ``fault``, ``raw``, ``source_file``.
    key : str
        ``user`` or ``item``.
    id_type : str
        Type of the id: ``integer``, ``long`` or ``string``.
    declared : mapping of str to str, optional
        Feature → its type; the others have the usual types of their names, or those of their columns.

    Returns
    -------
    DataFrame
        The same rows: ``key``, features, ``reason``, ``raw``, ``source_file``; an id may have several.
        Narrow: no shuffle.

    Raises
    ------
    SourceError
        A typed source has ids that are neither whole numbers nor strings, or columns that are no features.
    """
    kinds = {
        field.name: field.dataType for field in raw.schema if field.name not in (key, FAULT, RAW, SOURCE_FILE)
    }
    types = feature_types(kinds, declared or {})
    values = {name: feature(name, kinds[name], wanted) for name, wanted in types.items()}
    cell = F.col(key).cast("string")
    typed = _id(raw.schema[key], id_type)
    reason = F.coalesce(
        F.col(FAULT),
        F.when(_has_controls(raw), F.lit("control_characters")),
        F.when(_blank(cell), F.lit(f"missing_{key}")),
        F.when(F.length(cell) > MAX_ID_LENGTH, F.lit("id_too_long")),
        F.when(typed.isNull(), F.lit(f"unparsable_{key}")),
        *(
            F.when(value.isNull() & is_given(name, kinds[name]), F.lit(f"unparsable_{name}"))
            for name, value in values.items()
        ),
    )
    features = [value.alias(name) for name, value in values.items()]
    return raw.select(typed.alias(key), *features, reason.alias(REASON), RAW, SOURCE_FILE)


def clean_ids(raw: DataFrame, id_types: Mapping[str, IdType], others: Sequence[str] = ()) -> DataFrame:
    """Typed ids of rows that have nothing else, each row with the reason why it cannot be read or null.

    Parameters
    ----------
    raw : DataFrame
        The keys of ``id_types``, ``fault``, ``raw``, ``source_file``.
    id_types : mapping of str to str
        ``user``, ``item`` or both → the type of its ids.
    others : sequence of str
        Columns that stay as they are.

    Returns
    -------
    DataFrame
        The same rows: the ids, the others, ``reason``. Narrow: no shuffle.

    Raises
    ------
    SourceError
        A typed source has ids that are neither whole numbers nor strings.
    """
    typed = {key: _id(raw.schema[key], kind) for key, kind in id_types.items()}
    missing = (F.when(_blank(F.col(key).cast("string")), F.lit(f"missing_{key}")) for key in typed)
    unparsable = (F.when(value.isNull(), F.lit(f"unparsable_{key}")) for key, value in typed.items())
    reason = F.coalesce(F.col(FAULT), *missing, *unparsable)
    ids = (value.alias(key) for key, value in typed.items())
    return raw.select(*ids, *(F.col(quoted(name)) for name in others), reason.alias(REASON))


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


def forgotten_hash(user: Column) -> Column:
    """What a forgotten user's id is remembered as.

    Parameters
    ----------
    user : Column
        An id of any type.

    Returns
    -------
    Column
        Of type long: 64 bits of the id's text.
    """
    return F.xxhash64(user.cast("string"))


def without_forgotten(rows: DataFrame, hashes: Collection[int]) -> DataFrame:
    """Cleaned rows of which those of forgotten users are rejected, and hold nothing of them.

    Parameters
    ----------
    rows : DataFrame
        Result of :func:`clean_ratings`, or of :func:`clean_side_table` of users.
    hashes : collection of int
        :func:`forgotten_hash` of each forgotten user.
    """
    theirs = F.coalesce(forgotten_hash(F.col(USER)).isin(*hashes), F.lit(False))
    kept = {RAW: F.when(~theirs, F.col(RAW)), REASON: F.when(theirs, "forgotten").otherwise(F.col(REASON))}
    return rows.withColumns(kept)


def midnight(day: date) -> datetime:
    """The first instant of a day in UTC.

    Parameters
    ----------
    day : date
        Any day.
    """
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _blank(cell: Column) -> Column:
    return cell.isNull() | (F.trim(cell) == "")


def _id(field: T.StructField, wanted: IdType) -> Column:
    if not isinstance(field.dataType, T.StringType | T.NumericType):
        raise SourceError(
            f"the {field.name} column is {field.dataType.simpleString()}: ids must be whole numbers or texts"
        )
    cell = F.col(field.name)
    # what a number is, a declared type tells by itself
    untyped = UNTYPED in field.metadata and wanted == "string"
    return typed_id(untyped_id(cell) if untyped else cell, field.dataType, wanted)


def _has_controls(raw: DataFrame) -> Column:
    """Whether a mapped text has control characters."""
    texts = [
        F.col(field.name)
        for field in raw.schema
        if field.name not in (FAULT, RAW, SOURCE_FILE) and isinstance(field.dataType, T.StringType)
    ]
    return has_controls(RAW, texts)


def _number(raw: DataFrame, name: str) -> Column:
    """A column as double; null where there is none, and where its cells are not numbers."""
    kind = raw.schema[name].dataType if name in raw.columns else None
    if not isinstance(kind, T.StringType | T.NumericType):
        return F.lit(None).cast("double")
    return number(F.col(name), kind)


def _rating(raw: DataFrame, rules: Rules) -> Column:
    if EVENT in raw.columns:
        return F.when(F.col(EVENT).cast("string").isin(*rules.events), F.lit(1.0))
    return F.col("rating_number") if RATING in raw.columns else F.lit(1.0)


def _checks(rules: Rules, timed: bool, has_events: bool) -> list[tuple[str, Column]]:
    """(code, condition) in the order of :data:`REASONS`; the first that applies is the row's reason."""
    user, item, rating, timestamp = F.col("user_cell"), F.col("item_cell"), F.col(RATING), F.col(TIMESTAMP)
    checks = [
        ("control_characters", F.col("controls")),
        ("missing_user", _blank(user)),
        ("missing_item", _blank(item)),
        ("id_too_long", (F.length(user) > MAX_ID_LENGTH) | (F.length(item) > MAX_ID_LENGTH)),
        ("unparsable_user", F.col(USER).isNull()),
        ("unparsable_item", F.col(ITEM).isNull()),
        ("unparsable_event" if has_events else "unparsable_rating", rating.isNull()),
    ]
    if timed:
        checks.append(("unparsable_timestamp", timestamp.isNull()))
    # NaN is larger than any number in Spark
    checks.append(("not_finite_rating", F.abs(rating) >= float("inf")))
    if rules.scale is not None:
        checks.append(("rating_out_of_scale", ~rating.between(float(rules.scale[0]), float(rules.scale[1]))))
    if timed:
        last = max(rules.run_date, rules.today or rules.run_date)
        checks.append(("timestamp_in_future", timestamp >= F.lit(midnight(last + timedelta(days=1)))))
        before = timestamp < F.lit(midnight(rules.earliest or date(1970, 1, 1)))
        checks.append(("timestamp_before_start", before if rules.earliest else before & F.col("counted")))
        checks.append((LATER, timestamp >= F.lit(midnight(rules.run_date + timedelta(days=1)))))
    return checks
