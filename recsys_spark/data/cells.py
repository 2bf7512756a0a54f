"""One cell as the value its writer meant: ids, numbers, moments. Spark expressions, null where there is none.

A cell of a text file has no type: there ``17.0`` is how pandas writes the integer 17 beside a missing value.
In JSON, Parquet and Delta a text is a text.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Literal

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.ids import whole_number
from recsys_spark.schema import ID_SQL_TYPES, IdType

TimestampFormat = Literal[
    "auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "excel", "iso8601"
]
"""How timestamps are written: ``ingest.timestamps``."""

_CONTROLS = sorted({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A, 0x0D})
# one by one, as Java looks single characters up in a table, and tries ranges one after the other
CONTROL_CHARACTERS = "[" + "".join(f"\\x{code:02x}" for code in _CONTROLS) + "]"
"""Regular expression of what no id or title has: control characters but tab and line ends."""

MAX_EPOCH_SECONDS = 253_402_300_799  # the end of the year 9999

_WHOLE = r"^\s*[+-]?\d+\.0*\s*$"
_FRACTION = r"^\s*[+-]?\d*\.\d+\s*$"
_WITH_EXPONENT = r"^\s*[+-]?\d+\.\d*[eE][+-]?\d+\s*$"
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_MAX_DOUBLE_DIGITS = 17
_MAX_EXACT = 2**53
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_FIRST_PLAUSIBLE_SECONDS = -2_300_000_000  # 1897
_LAST_PLAUSIBLE_SECONDS = 100_000_000_000  # the year 5138
DAY_MICROS = 86_400 * 10**6
_EXCEL_DAYS = (30_000, 80_000)  # 1982 to 2119
_EXCEL_DAY_OF_EPOCH = 25_569
_COMPACT = ((19000101, 21001231), (197001010000, 209912312359), (19000101000000, 21001231235959))
"""The first and the last compact date, date with minutes and with seconds that is taken for one."""


def untyped_id(cell: Column) -> Column:
    """A text file's cell as the text of an id: ``17``, ``17.0`` and ``1.7000000E1`` are one.

    Parameters
    ----------
    cell : Column
        Of type string.

    Returns
    -------
    Column
        Of type string: the integer's digits where the cell is a whole number written with a point; null where
        it is a number with a fraction, or beyond 2**53 with an exponent, whose last digits are lost; else the
        cell as it is. A text with a point and more than 17 digits was no floating-point number (Google
        Analytics' client ids look so) and is a text.
    """
    digits = F.substring_index(F.trim(cell), ".", 1).try_cast("decimal(38,0)")
    double = cell.try_cast("double")
    whole = (double == F.floor(double)) & (F.abs(double) <= _MAX_EXACT)
    no_double = F.length(F.trim(cell)) > _MAX_DOUBLE_DIGITS + 2
    told = (
        F.when(cell.rlike(_WHOLE), digits.cast("string"))
        .when(cell.rlike(_WITH_EXPONENT), F.when(whole, double.cast("long").cast("string")))
        .when(no_double | ~cell.rlike(_FRACTION), cell)
    )
    return F.when(F.contains(cell, F.lit(".")), told).otherwise(cell)


def has_controls(raw: str, texts: list[Column]) -> Column:
    """Whether a text has control characters; one look at the whole row tells that of most.

    Parameters
    ----------
    raw : str
        Name of the column of raw texts, in which control characters are themselves or escaped by a backslash.
    texts : list of Column
        Of type string.

    Returns
    -------
    Column
        Of type boolean.
    """
    anywhere = F.contains(F.col(raw), F.lit("\\")) | F.col(raw).rlike(CONTROL_CHARACTERS)
    held = F.exists(F.array(*texts), lambda text: F.coalesce(text.rlike(CONTROL_CHARACTERS), F.lit(False)))
    return anywhere & held if texts else F.lit(False)


def typed_id(cell: Column, kind: T.DataType, wanted: IdType) -> Column:
    """An id of the declared type.

    Parameters
    ----------
    cell : Column
        The id as it was read.
    kind : DataType
        Its type: numbers or text.
    wanted : str
        ``integer``, ``long`` or ``string``.

    Returns
    -------
    Column
        Of the declared type. A whole number is that number, whatever its type, and one text; null where the
        cell is no whole number (or, for numeric ids, no text of one) of that type.
    """
    sql_type = ID_SQL_TYPES[wanted]
    if kind.simpleString() == sql_type:
        return cell
    if not isinstance(kind, T.StringType):
        return whole_number(cell, kind).try_cast(sql_type)
    double = cell.try_cast("double")
    exact = cell.rlike(_NUMBER) & (double == F.floor(double)) & (F.abs(double) <= _MAX_EXACT)
    before_point = F.when(cell.rlike(_WHOLE), F.substring_index(F.trim(cell), ".", 1).try_cast(sql_type))
    return F.coalesce(cell.try_cast(sql_type), before_point, F.when(exact, double.try_cast(sql_type)))


def number(cell: Column, kind: T.DataType) -> Column:
    """A cell as a number.

    Parameters
    ----------
    cell : Column
        Text or a number.
    kind : DataType
        Its type.

    Returns
    -------
    Column
        Of type double; null where the cell is not a number.
    """
    if not isinstance(kind, T.StringType):
        return cell.cast("double")
    # Java would also read "4d", "4f" and "0x1p3" as numbers. Regular expressions are slow: other looks first
    suspect = reduce(or_, (F.contains(cell, F.lit(mark)) for mark in "dDfFxX"))
    java_literal = suspect & cell.rlike(r"(?i)(?<!in)[df]\s*$|x")
    return F.when(~java_literal, cell.try_cast("double"))


def time_text(cell: Column, counted: Column) -> Column:
    """A text as extended ISO 8601, as far as it is a time; the first step of :func:`moment`.

    Parameters
    ----------
    cell : Column
        Of type string.
    counted : Column
        The cell as a number, or null.

    Returns
    -------
    Column
        Of type string, with seconds; null where the cell is a number.
    """
    return F.when(counted.isNull(), _extended(cell))


def moment(cell: Column, kind: T.DataType, counted: Column, text: Column, form: TimestampFormat) -> Column:
    """A cell as an instant. Times without a zone are UTC, whatever the session's zone.

    Parameters
    ----------
    cell : Column
        The timestamp as it was read.
    kind : DataType
        Its type.
    counted : Column
        The cell as a number, or null.
    text : Column
        Of texts, :func:`time_text`.
    form : str
        How numbers and texts are written. ``auto`` tells seconds, milliseconds, microseconds and nanoseconds
        by their size, and reads ``20240131``, ``20240131101500`` and ISO 8601, basic or extended. Numbers
        from 30,000 to 80,000 may be days since 1900, as Excel counts them, and are none of these.

    Returns
    -------
    Column
        Of type timestamp; null where the cell is none.
    """
    if isinstance(kind, T.TimestampType):
        return cell
    if isinstance(kind, T.TimestampNTZType):
        return F.concat(cell.cast("string"), F.lit("Z")).try_cast("timestamp")
    if isinstance(kind, T.DateType):
        return F.timestamp_seconds(F.unix_date(cell).cast("long") * 86_400)
    if not isinstance(kind, T.StringType | T.NumericType):
        return F.lit(None).cast("timestamp")
    if form == "iso8601":
        return _iso8601(text)
    if form == "excel":
        # to the millisecond, which is what the digits of a fraction of a day say
        return _since_epoch(F.round((counted - _EXCEL_DAY_OF_EPOCH) * 86_400, 3), "seconds", cell, kind)
    if form != "auto":
        return _since_epoch(counted, form, cell, kind)
    return F.coalesce(_by_size(counted, cell, kind), _iso8601(text))


def date_of(timestamp: Column) -> Column:
    """The day of an instant in UTC, whatever the session's zone.

    Parameters
    ----------
    timestamp : Column
        Of type timestamp.

    Returns
    -------
    Column
        Of type date.
    """
    return F.date_from_unix_date(floor_divide(F.unix_micros(timestamp), DAY_MICROS).cast("int"))


def floor_divide(dividend: Column, divisor: int) -> Column:
    """The largest integer below a quotient, without the rounding of Spark's ``/``, which is a double's.

    Parameters
    ----------
    dividend : Column
        Of type long.
    divisor : int
        Positive.

    Returns
    -------
    Column
        Of type long.
    """
    rest = dividend % divisor
    return F.call_function("div", dividend, F.lit(divisor)) - F.when(rest < 0, 1).otherwise(0)


def _since_epoch(number: Column, unit: str, cell: Column, kind: T.DataType) -> Column:
    # outside these bounds Spark's conversions overflow
    inside = F.abs(number) <= float(MAX_EPOCH_SECONDS * _UNITS[unit])
    return F.when(inside, F.timestamp_micros(_micros(number, unit, cell, kind)))


def _by_size(number: Column, cell: Column, kind: T.DataType) -> Column:
    """The instant of a number in the largest unit in which it is of a year from 1897 to 5138."""
    micros = F.when(number.between(*map(float, _EXCEL_DAYS)), F.lit(None).cast("long"))
    for unit in ("seconds", "milliseconds", "microseconds"):
        size = _UNITS[unit]
        first, last = float(_FIRST_PLAUSIBLE_SECONDS * size), float(_LAST_PLAUSIBLE_SECONDS * size)
        micros = micros.when((number >= first) & (number < last), _micros(number, unit, cell, kind))
    last = float(MAX_EPOCH_SECONDS * _UNITS["nanoseconds"])
    micros = micros.when(F.abs(number) <= last, _micros(number, "nanoseconds", cell, kind))
    return F.coalesce(_compact(number), F.timestamp_micros(micros))


def _micros(number: Column, unit: str, cell: Column, kind: T.DataType) -> Column:
    """The nearest microsecond; of whole nanoseconds, which no double holds, the microsecond they are in."""
    nearest = F.round(number * (1_000_000 / _UNITS[unit])).cast("long")
    if unit != "nanoseconds" or isinstance(kind, T.FractionalType):
        return nearest
    return F.coalesce(F.call_function("div", cell.try_cast("decimal(38,0)"), F.lit(1_000)), nearest)


def _compact(number: Column) -> Column:
    """``20240131``, ``202401311015`` or ``20240131101500`` as an instant; null where it is none."""
    inside = reduce(or_, (number.between(float(lowest), float(highest)) for lowest, highest in _COMPACT))
    text = F.rpad(number.cast("long").cast("string"), 14, "0")
    extended = F.regexp_replace(text, r"^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)$", "$1-$2-$3T$4:$5:$6Z")
    return F.when(inside & (number == F.floor(number)), extended.try_cast("timestamp"))


def _extended(cell: Column) -> Column:
    """ISO 8601 with punctuation and seconds, where it is basic or has none."""
    for pattern, replacement in (
        (
            r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)?(\.\d+)?(Z|[+-]\d\d(?::?\d\d)?)?$",
            "$1-$2-$3T$4:$5:$6$7$8",
        ),
        (r"^(\d{4})(\d\d)(\d\d)$", "$1-$2-$3"),
        (r"(T\d\d:\d\d):(?=$|[Z+-])", "$1"),
        (r"([T ]\d\d?:\d\d)(?=\s*(?:$|[A-Za-z]|[+-]))", "$1:00"),
    ):
        cell = F.regexp_replace(F.trim(cell), pattern, replacement)
    return cell


def _iso8601(text: Column) -> Column:
    """An instant from :func:`time_text`; without a zone UTC."""
    date_only = ~F.contains(text, F.lit(":"))
    in_utc = F.concat(text, F.when(date_only, F.lit("T00:00:00Z")).otherwise(F.lit("Z")))
    zoned = text.rlike(r":\d\d(\.\d+)?\s*([A-Za-z]|[+-]\d)")
    instant = F.coalesce(in_utc.try_cast("timestamp"), F.when(zoned, text.try_cast("timestamp")))
    # Spark would also read a time without a date, as today's
    return F.when(text.rlike(r"^\d{4,}-\d"), instant)
