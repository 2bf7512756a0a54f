"""Files and tables as they are: one row per input row, with its cells, its raw text and its file."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.config import Delimited, FileSource, SideTable
from recsys_spark.data.cleaning import HEADER_LINE, UNTYPED
from recsys_spark.data.delimited import decoded, field, readable, unclosed, with_fields
from recsys_spark.data.features import split_list, split_numbers, year_of
from recsys_spark.data.files import literal
from recsys_spark.data.inputs import (
    IDS,
    folder_columns,
    folder_value,
    positions,
    read_lines,
    reader,
    too_long,
)
from recsys_spark.data.json_lines import read_json_lines
from recsys_spark.data.typed import read_typed
from recsys_spark.errors import SourceError
from recsys_spark.schema import FAULT, RATING, RAW, SOURCE_FILE, TIMESTAMP, USUAL_FEATURES

_NUMBERS = ("int", "bigint", "double", "array<float>")


@dataclass(frozen=True)
class RawTables:
    """The tables of one source, not yet cleaned: frames as :mod:`recsys_spark.data.cleaning` takes them.

    Attributes
    ----------
    ratings : one row per input row
    users, items : the same for side features, or None where the source has none
    """

    ratings: DataFrame
    users: DataFrame | None = None
    items: DataFrame | None = None


def read_source(spark: SparkSession, source: FileSource) -> RawTables:
    """Open delimited text, JSON lines, Parquet or Delta, with its side tables.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    source : FileSource
        The configuration's ``ingest.source``: format, path, columns and side tables.

    Returns
    -------
    RawTables
        Lazy: rows are read when they are used; only a CSV header is read at once.

    Raises
    ------
    SourceError
        A path does not exist, is empty, or lacks a mapped column.
    """
    return RawTables(
        read_cells(spark, source.format, source.path, source.columns.given(), source.text),
        _side(spark, source.users, "user"),
        _side(spark, source.items, "item"),
    )


def _side(spark: SparkSession, side: SideTable | None, key: str) -> DataFrame | None:
    if side is None:
        return None
    types = {name: side.types.get(name) or USUAL_FEATURES.get(name) for name in side.columns}
    numbers = [name for name, wanted in types.items() if wanted in _NUMBERS]
    raw = read_cells(spark, side.format, side.path, {key: side.id, **side.columns}, side.text, numbers)
    for name, wanted in types.items():
        if wanted in ("array<string>", "array<float>") and isinstance(
            raw.schema[name].dataType, T.StringType
        ):
            parts = split_list(name, side.list_separator)
            if wanted == "array<float>":
                parts = split_numbers(name, side.list_separator, side.text.decimal)
            if side.format == "json":
                parts = F.coalesce(F.from_json(name, "array<string>"), parts)
            raw = raw.withColumn(name, parts)
    if "year" in side.features and "year" not in types:
        raw = raw.withColumn("year", year_of("title"))
    return raw


def read_cells(
    spark: SparkSession,
    kind: str,
    path: str,
    columns: Mapping[str, str],
    text: Delimited | None = None,
    numbers: Collection[str] = (),
) -> DataFrame:
    """Cells of the mapped columns of one input.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    kind : str
        ``csv``, ``json``, ``parquet`` or ``delta``.
    path : str
        File, folder or glob.
    columns : mapping of str to str
        Role, such as ``user``, → column in the source.
    text : Delimited, optional
        How the lines of ``csv`` are split into fields; by default at commas, with a header.
    numbers : collection of str
        Roles beside rating, time and ids that are numbers, which may have a decimal comma.

    Returns
    -------
    DataFrame
        One row per input row: a column per role (string cells for text and JSON), ``fault`` (why the row
        cannot be read, or null), ``raw``, ``source_file``.

    Raises
    ------
    SourceError
        The path does not exist, is empty, or lacks a mapped column.
    """
    if kind == "csv":
        return _delimited(spark, path, columns, text or Delimited(), numbers)
    if kind == "json":
        return read_json_lines(spark, path, columns)
    return read_typed(spark, kind, path, columns)


def _delimited(
    spark: SparkSession, path: str, columns: Mapping[str, str], text: Delimited, numbers: Collection[str]
) -> DataFrame:
    lines, listing = read_lines(spark, path, text)
    folders = folder_columns(listing)
    names, header = _header(spark, path, text)
    if text.names is not None:
        _require_no_header(path, text.names, names)
        names, header = text.names, None
    in_lines = {role: name for role, name in columns.items() if name in names or name not in folders}
    places = positions(path, names, in_lines, text)
    cells = {role: _in_decimals(role, field(at, text), text, numbers) for role, at in places.items()}
    cells |= {
        role: folder_value(F.col(SOURCE_FILE), name) for role, name in columns.items() if role not in in_lines
    }
    faults = [
        F.when(too_long(), F.lit("line_too_long")),
        F.when(~F.is_valid_utf8(RAW), F.lit("undecodable_bytes")),
        F.when(F.trim(RAW) == "", F.lit("wrong_column_count")),
        F.when(unclosed(text), F.lit("wrong_column_count")),
        F.when(~readable(text), F.lit("malformed_line")),
        F.when(F.size("fields") != len(names), F.lit("wrong_column_count")),
    ]
    if header is not None:
        # as a field of a plain line, and with quotes or after its delimiter as one of a quoted line
        written = [
            *names,
            *(f"{text.delimiter}{mark}{name}{mark}" for name in names for mark in ("", text.quote)),
        ]
        another_header = reduce(and_, (F.get("fields", F.lit(at)).isin(*written) for at in places.values()))
        faults.insert(0, F.when(another_header, F.lit("different_header")))
        faults.insert(0, F.when(F.col(RAW) == header, F.lit(HEADER_LINE)))
    return with_fields(lines, text).select(
        *(cell.alias(role, metadata={UNTYPED: True}) for role, cell in cells.items()),
        F.coalesce(*faults).alias(FAULT),
        RAW,
        SOURCE_FILE,
    )


def _in_decimals(role: str, cell: Column, text: Delimited, numbers: Collection[str]) -> Column:
    """Numbers with the point that Spark reads; with a comma declared, a point is no part of a number."""
    if text.decimal == ".":
        return cell
    if role == RATING or role in numbers:
        return F.translate(cell, ",.", ".,")  # so that 1.234, which may be 1,234 with its thousands, is none
    if role in (TIMESTAMP, *IDS):
        whole = ~F.contains(cell, F.lit(".")) & cell.rlike(r"^\s*[+-]?\d+,\d+\s*$")
        return F.when(whole, F.replace(cell, F.lit(","), F.lit("."))).otherwise(cell)
    return cell


def _header(spark: SparkSession, path: str, text: Delimited) -> tuple[list[str], str | None]:
    """The first line of a file, split into names."""
    # the first split in Spark's order need not be the beginning of a file
    starts = reader(spark).text(literal(path)).where("_metadata.file_block_start = 0")
    shown = decoded(F.col("value"), text.encoding).alias("value")
    first = starts.select(shown, F.is_valid_utf8(shown).alias("valid")).first()
    if first is None:
        raise SourceError(f"{path}: is empty: a header line is expected")
    line: str = first["value"]
    if not first["valid"]:
        if text.names is not None:
            return [], line
        raise SourceError(f"{path}: the header is not {text.encoding}: set text.encoding")
    if len(text.delimiter) > 1:
        return line.split(text.delimiter), line
    quoting: dict[str, Any] = {"quotechar": text.quote} if text.quote else {"quoting": csv.QUOTE_NONE}
    if text.escape:
        quoting |= {"escapechar": text.escape, "doublequote": False}
    try:
        return next(csv.reader([line], delimiter=text.delimiter, **quoting)), line
    except (csv.Error, StopIteration) as error:
        if text.names is not None:
            return [], line
        raise SourceError(f"{path}: the first line is not a header: {error}") from None


def _require_no_header(path: str, names: list[str], first: list[str]) -> None:
    if [name.strip().casefold() for name in first] == [name.casefold() for name in names]:
        raise SourceError(
            f"{path}: begins with a line of the declared names: remove text.names and text.header, so that "
            "it is taken for a header"
        )
