"""Side features of users and items: which types they have, and their cells as values.

A feature is text, a number, true or false, a date, a time, a list of texts, or an embedding: a list of
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.data.cells import date_of, moment, number, time_text, typed_id
from recsys_spark.errors import SourceError
from recsys_spark.schema import USUAL_FEATURES, FeatureType, IdType

_NOTHING = ("", "nan", "null", "none", r"\n")
_OWN_TYPES: dict[type[T.DataType], FeatureType] = {
    T.StringType: "string",
    T.ByteType: "int",
    T.ShortType: "int",
    T.IntegerType: "int",
    T.LongType: "bigint",
    T.FloatType: "double",
    T.DoubleType: "double",
    T.DecimalType: "double",
    T.BooleanType: "boolean",
    T.DateType: "date",
    T.TimestampType: "timestamp",
    T.TimestampNTZType: "timestamp",
}
_WHOLE: dict[str, IdType] = {"int": "integer", "bigint": "long"}


def feature_types(
    kinds: Mapping[str, T.DataType], declared: Mapping[str, FeatureType]
) -> dict[str, FeatureType]:
    """The type of each feature: the declared one, the usual one of its name, or else that of its column.

    Parameters
    ----------
    kinds : mapping of str to DataType
        Feature → type of its column; text, in text files.
    declared : mapping of str to str
        Feature → type.

    Returns
    -------
    dict of str to str
        Feature → type, in the order of ``kinds``.

    Raises
    ------
    SourceError
        A column is of a type that is no feature, or cannot become the declared one.
    """
    types = {}
    for name, kind in kinds.items():
        own = _own_type(kind)
        if own is None:
            raise SourceError(
                f"feature {name!r} is {kind.simpleString()}: features are texts, numbers, dates, true or "
                "false, or arrays of texts or numbers"
            )
        wanted = declared.get(name) or USUAL_FEATURES.get(name) or own
        if not _convertible(own, wanted):
            raise SourceError(f"feature {name!r} is {kind.simpleString()}, which cannot be read as {wanted}")
        types[name] = wanted
    return types


def feature(name: str, kind: T.DataType, wanted: FeatureType) -> Column:
    """A cell as a feature of the type ``wanted``.

    Parameters
    ----------
    name : str
        Name of the column.
    kind : DataType
        Its type.
    wanted : str
        The feature's type.

    Returns
    -------
    Column
        Of the type ``wanted``; null where the cell is blank, NaN, or nothing of this type.
    """
    cell = F.col(name)
    if isinstance(kind, T.ArrayType):
        return _list(cell, wanted)
    if wanted in _WHOLE:
        return typed_id(cell, kind, _WHOLE[wanted])
    if wanted == "double":
        value = number(cell, kind)
        return F.when(F.abs(value) < float("inf"), value)
    if wanted in ("date", "timestamp"):
        counted = number(cell, kind) if isinstance(kind, T.StringType | T.NumericType) else F.lit(None)
        text = time_text(cell, counted) if isinstance(kind, T.StringType) else F.lit(None)
        instant = moment(cell, kind, counted, text, "auto")
        return instant if wanted == "timestamp" else date_of(instant)
    return cell.try_cast(wanted)


def is_given(name: str, kind: T.DataType) -> Column:
    """Whether a cell holds anything: no null, blank or NaN.

    Parameters
    ----------
    name : str
        Name of the column.
    kind : DataType
        Its type.

    Returns
    -------
    Column
        Of type boolean.
    """
    cell = F.col(name)
    if isinstance(kind, T.StringType):
        return _holds_text(cell)
    if isinstance(kind, T.FloatType | T.DoubleType):
        return cell.isNotNull() & ~F.isnan(cell)
    return cell.isNotNull()


def split_list(column: str, separator: str) -> Column:
    """A field such as ``Comedy|Drama`` as an array, without blanks; "(no genres listed)" is an empty one.

    Parameters
    ----------
    column : str
        Name of the field's column.
    separator : str
        What stands between two entries, taken literally.

    Returns
    -------
    Column
        Of type array<string>.
    """
    parts = F.split(F.col(column), re.escape(separator), -1)
    return F.filter(parts, lambda part: (F.trim(part) != "") & (part != "(no genres listed)"))


def split_numbers(column: str, separator: str, decimal: str = ".") -> Column:
    """A field such as ``0.1|0.2`` or ``[0.1, 0.2]`` as an array of its numbers' texts.

    Parameters
    ----------
    column : str
        Name of the field's column.
    separator : str
        What may stand between two numbers, beside semicolons, blanks and commas.
    decimal : str
        The decimal mark that the file was written with; a comma then stands between no numbers.

    Returns
    -------
    Column
        Of type array<string>; null where the field is blank or says that there is nothing.
    """
    inside = F.regexp_replace(F.trim(F.col(column)), r"^\[|\]$", "")
    between = r"[\s;]+" if decimal == "," else r"[\s,;]+"
    parts = F.split(F.replace(inside, F.lit(separator), F.lit(" ")), between, -1)
    return F.when(_holds_text(F.col(column)), F.filter(parts, lambda part: part != ""))


def year_of(title: str) -> Column:
    """The year that ends a title, as in ``Toy Story (1995)`` or ``A Series (2009–2012)``.

    Parameters
    ----------
    title : str
        Name of the title's column.

    Returns
    -------
    Column
        Of type int; null where the title ends with no year.
    """
    year = F.regexp_extract(F.col(title), r"\((\d{4})[^()]*\)\s*$", 1)
    return F.when(year != "", year.try_cast("int"))


def _holds_text(cell: Column) -> Column:
    return cell.isNotNull() & ~F.lower(F.trim(cell)).isin(*_NOTHING)


def _own_type(kind: T.DataType) -> FeatureType | None:
    if isinstance(kind, T.ArrayType):
        if isinstance(kind.elementType, T.FloatType | T.DoubleType | T.DecimalType):
            return "array<float>"
        simple = isinstance(kind.elementType, T.StringType | T.IntegralType)
        return "array<string>" if simple else None
    return next((own for of, own in _OWN_TYPES.items() if isinstance(kind, of)), None)


def _convertible(own: FeatureType, wanted: FeatureType) -> bool:
    if own == wanted or own == "string":
        return True
    if own.startswith("array"):
        return wanted.startswith("array")
    numbers, times = {"int", "bigint", "double"}, {"date", "timestamp"}
    if own in numbers:
        return wanted in {"string", *numbers, *times}
    return wanted == "string" or {own, wanted} == times


def _list(cells: Column, wanted: FeatureType) -> Column:
    if wanted == "array<string>":
        return F.filter(cells.cast("array<string>"), lambda part: part.isNotNull())
    numbers = F.transform(cells, lambda part: part.try_cast("float"))
    faulty = F.exists(numbers, lambda part: part.isNull() | ~(F.abs(part) < float("inf")))
    return F.when(~faulty, numbers)
