"""Columns of frames that users bring: names of any kind, ids of any type that has whole numbers or texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.ids import whole_number

MAX_SHOWN = 10
"""Columns that an error lists."""


def quoted(name: str) -> str:
    """A column's name as SQL reads it, whatever is in it.

    Parameters
    ----------
    name : str
        Any text.
    """
    return "`" + name.replace("`", "``") + "`"


def shown(names: list[str]) -> str:
    """The columns that there are, ten at most, for an error.

    Parameters
    ----------
    names : list of str
        All of them.
    """
    first = ", ".join(repr(name if len(name) <= 60 else name[:60] + "…") for name in names[:MAX_SHOWN])
    more = len(names) - MAX_SHOWN
    return first + (f" and {more:,} more" if more > 0 else "")


def column_of(dataset: DataFrame, name: str) -> tuple[Column, T.DataType]:
    """A column by its name, or a field in one by ``column.field``; and its type.

    Parameters
    ----------
    dataset : DataFrame
        What the column is in.
    name : str
        Its name; capitals do not matter where the session says so.

    Raises
    ------
    ModelError
        There is none, or several.
    """
    whole = _fields(dataset, dataset.schema, name)
    if len(whole) == 1:
        return F.col(quoted(whole[0].name)), whole[0].dataType
    kind: T.DataType = dataset.schema
    for step in name.split("."):
        inner = _fields(dataset, kind, step) if isinstance(kind, T.StructType) else []
        if len(inner) != 1:
            problem = "is ambiguous" if len(whole) > 1 else "is not there"
            raise ModelError(f"column {name!r} {problem}: the columns are {shown(dataset.columns)}")
        kind = inner[0].dataType
    return F.col(".".join(map(quoted, name.split(".")))), kind


def _fields(dataset: DataFrame, kind: T.StructType, name: str) -> list[T.StructField]:
    """Fields of a type that Spark finds under ``name``."""
    if dataset.sparkSession.conf.get("spark.sql.caseSensitive") == "true":
        return [field for field in kind if field.name == name]
    return [field for field in kind if field.name.casefold() == name.casefold()]


def unused(stem: str, dataset: DataFrame) -> str:
    """A name for a helper column that the frame does not have, capitals aside.

    Parameters
    ----------
    stem : str
        What the name begins with.
    dataset : DataFrame
        What it is to be added to.
    """
    taken = {name.casefold() for name in dataset.columns}
    while stem.casefold() in taken:
        stem += "_"
    return stem


def require_new(dataset: DataFrame, names: Iterable[str], what: str) -> None:
    """Refuse a frame that has a column which is to be added.

    Parameters
    ----------
    dataset : DataFrame
        What it is to be added to.
    names : iterable of str
        Columns to be added.
    what : str
        What adds them.

    Raises
    ------
    ModelError
        It has one of them, capitals aside.
    """
    taken = {name.casefold(): name for name in dataset.columns}
    for name in names:
        if name.casefold() in taken:
            raise ModelError(
                f"the input has a column {taken[name.casefold()]!r} already, which {what} adds: rename it"
            )


def id_column(dataset: DataFrame, name: str, numbers: Literal["int", "bigint"] = "int") -> Column:
    """A column of ids as int, bigint or string, which is what models have.

    Parameters
    ----------
    dataset : DataFrame
        What the column is in.
    name : str
        Its name.
    numbers : str
        Type of whole numbers of other types: of a fit's ``int``, as in Spark's ALS.

    Returns
    -------
    Column
        Null where a number has a fraction or is beyond the type's range, which ``fit`` rejects.

    Raises
    ------
    ModelError
        The column is missing, or of a type that has neither whole numbers nor plain texts.
    """
    column, kind = column_of(dataset, name)
    if kind in (T.StringType(), T.IntegerType(), T.LongType()):
        return column
    return _numbers(column, kind, name).try_cast(numbers)


def matching_id(dataset: DataFrame, name: str, kind: T.DataType) -> Column:
    """A column of ids as the type that a model has.

    Parameters
    ----------
    dataset : DataFrame
        What the column is in.
    name : str
        Its name.
    kind : DataType
        Of the model's ids: int, bigint or string.

    Returns
    -------
    Column
        Of ``kind``; null where the value is no id of it, such as a number with a fraction.

    Raises
    ------
    ModelError
        The column is missing, or of a type that has neither whole numbers nor plain texts.
    """
    column, own = column_of(dataset, name)
    return (column if own == T.StringType() else _numbers(column, own, name)).try_cast(kind)


def _numbers(column: Column, kind: T.DataType, name: str) -> Column:
    if isinstance(kind, T.NumericType):
        return whole_number(column, kind)
    if isinstance(kind, T.StringType):
        raise ModelError(
            f"column {name!r} is {kind.simpleString()}: ids are compared byte by byte, so cast it to string"
        )
    raise ModelError(f"column {name!r} is {kind.simpleString()}: ids must be whole numbers or texts")
