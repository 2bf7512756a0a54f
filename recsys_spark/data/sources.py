"""Files and tables as they are: one row per input row, with its cells, its raw text and its file.

Text is read line by line, so that a line that cannot be split into fields can still be shown. A quoted field
may contain delimiters and doubled quotes, but no line break.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Delimited, FileSource, SideTable
from recsys_spark.data.cleaning import FAULT, HEADER_LINE, RAW, SOURCE_FILE
from recsys_spark.errors import SourceError, summary

MAX_COLUMNS = 20_000
"""Lines with quotes and more fields than this are rejected unparsed: Spark's CSV parser allows 20,480."""


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
    columns = {key: side.id, **{str(role): name for role, name in side.columns.items()}}
    raw = read_cells(spark, side.format, side.path, columns, side.text)
    if "genres" in raw.columns and raw.schema["genres"].dataType.simpleString() == "string":
        texts = split_list("genres", side.list_separator)
        arrays = F.from_json("genres", "array<string>") if side.format == "json" else F.lit(None)
        raw = raw.withColumn("genres", F.coalesce(arrays, texts))
    if "year" not in raw.columns and "title" in raw.columns:
        raw = raw.withColumn("year", year_of("title"))
    return raw


def read_cells(
    spark: SparkSession, kind: str, path: str, columns: Mapping[str, str], text: Delimited | None = None
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
        return _delimited(spark, path, columns, text or Delimited())
    if kind == "json":
        return _json_lines(spark, path, columns)
    return _typed(spark, kind, path, columns)


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


def _lines(spark: SparkSession, path: str, encoding: str) -> DataFrame:
    try:
        lines = spark.read.text(_literal(path)).select(
            F.col("value").alias(RAW), F.col("_metadata.file_path").alias(SOURCE_FILE)
        )
    except AnalysisException as error:
        raise SourceError(f"{path}: cannot be read: {summary(error)}") from None
    return lines.withColumn(RAW, _decoded(RAW, encoding))


def _literal(path: str) -> str:
    """``path`` with the wildcards of globs escaped, where a file or folder of exactly this name exists."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path) if Path(path).exists() else path


def _decoded(line: str, encoding: str) -> Column:
    return F.decode(F.col(line).cast("binary"), "ISO-8859-1") if encoding == "latin-1" else F.col(line)


def _delimited(spark: SparkSession, path: str, columns: Mapping[str, str], text: Delimited) -> DataFrame:
    lines = _lines(spark, path, text.encoding)
    names, header = (text.names, None) if text.names else _header(spark, path, text)
    positions = _positions(path, names, columns)
    split = _fields(lines, text, len(names))
    cells = {role: F.get("fields", position) for role, position in positions.items()}
    faults = [
        F.when(~F.is_valid_utf8(RAW), F.lit("undecodable_bytes")),
        F.when(F.trim(RAW) == "", F.lit("wrong_column_count")),
        F.when(_odd_quotes(text.quote), F.lit("wrong_column_count")),
        F.when(F.coalesce(F.size("fields"), F.lit(0)) != len(names), F.lit("wrong_column_count")),
    ]
    if header is not None:
        another_header = reduce(and_, (cell.isin(*names) for cell in cells.values()))
        faults.insert(0, F.when(another_header, F.lit("different_header")))
        faults.insert(0, F.when(F.col(RAW) == header, F.lit(HEADER_LINE)))
    return split.select(
        *(cell.alias(role) for role, cell in cells.items()),
        F.coalesce(*faults).alias(FAULT),
        RAW,
        SOURCE_FILE,
    )


def _odd_quotes(quote: str) -> Column:
    """Whether a quoted field is not closed on its line, which is then only a part of a row."""
    if not quote:
        return F.lit(False)
    quotes = F.length(RAW) - F.length(F.replace(F.col(RAW), F.lit(quote), F.lit("")))
    return F.contains(F.col(RAW), F.lit(quote)) & (quotes % 2 == 1)


def _fields(lines: DataFrame, text: Delimited, count: int) -> DataFrame:
    """Add ``fields``, the array of a line's fields; null where a quoted line does not have ``count`` of them.

    Only lines with a quote go through Spark's CSV parser; splitting the others is faster.
    """
    plain = F.split(RAW, re.escape(text.delimiter), -1)
    if not text.quote:
        return lines.withColumn("fields", plain)
    schema = ", ".join(f"c{index} string" for index in range(count)) + ", corrupt string"
    options = {
        "sep": text.delimiter,
        "quote": text.quote,
        "escape": text.quote,
        "columnNameOfCorruptRecord": "corrupt",
    }
    # beyond its limit of columns the parser would end the job instead of marking the line
    quoted = F.contains(F.col(RAW), F.lit(text.quote)) & (F.size(plain) < MAX_COLUMNS)
    # a column of its own, so that a line is parsed once and not once for each field
    parsed = lines.withColumn("parsed", F.when(quoted, F.from_csv(F.col(RAW), schema, options)))
    whole = F.array(*(F.col(f"parsed.c{index}") for index in range(count)))
    fields = F.when(F.col("parsed").isNull(), plain).when(F.col("parsed.corrupt").isNull(), whole)
    return parsed.withColumn("fields", fields)


def _header(spark: SparkSession, path: str, text: Delimited) -> tuple[list[str], str]:
    # the first split in Spark's order need not be the beginning of a file
    starts = spark.read.text(_literal(path)).where("_metadata.file_block_start = 0")
    decoded = _decoded("value", text.encoding).alias("value")
    first = starts.select(decoded, F.is_valid_utf8(decoded).alias("valid")).first()
    if first is None:
        raise SourceError(f"{path}: is empty: a header line is expected")
    if not first["valid"]:
        raise SourceError(f"{path}: the header is not {text.encoding}: set text.encoding")
    line: str = first["value"]
    if len(text.delimiter) == 1:
        quoting = {"quotechar": text.quote} if text.quote else {"quoting": csv.QUOTE_NONE}
        try:
            return next(csv.reader([line], delimiter=text.delimiter, **quoting)), line
        except csv.Error as error:
            raise SourceError(f"{path}: the first line is not a header: {error}") from None
    return line.split(text.delimiter), line


def _positions(path: str, names: list[str], columns: Mapping[str, str]) -> dict[str, int]:
    for role, name in columns.items():
        if name not in names:
            raise SourceError(
                f"{path}: has no column {name!r}, which columns.{role} names; it has {', '.join(names)}"
            )
        if names.count(name) > 1:
            raise SourceError(f"{path}: has column {name!r} twice, so that columns.{role} is ambiguous")
    return {role: names.index(name) for role, name in columns.items()}


def _json_lines(spark: SparkSession, path: str, columns: Mapping[str, str]) -> DataFrame:
    lines = _lines(spark, path, "utf-8")
    names = dict.fromkeys(columns.values())
    corrupt = "_corrupt" + "_" * max(map(len, names))  # longer than every column's name
    fields = ", ".join(f"`{name.replace('`', '``')}` string" for name in (*names, corrupt))
    # as a list of one: Spark would ignore what follows the first object of a line
    listed = F.from_json(
        F.concat(F.lit("["), RAW, F.lit("]")),
        f"array<struct<{fields}>>",
        {"columnNameOfCorruptRecord": corrupt},
    )
    parsed = F.get("listed", F.lit(0))
    whole = F.coalesce((F.size("listed") == 1) & parsed.isNotNull() & parsed[corrupt].isNull(), F.lit(False))
    fault = F.coalesce(
        F.when(~F.is_valid_utf8(RAW), F.lit("undecodable_bytes")), F.when(~whole, F.lit("unparsable"))
    )
    cells = (parsed[name].alias(role) for role, name in columns.items())
    with_list = lines.select(RAW, SOURCE_FILE, listed.alias("listed"))
    return with_list.select(*cells, fault.alias(FAULT), RAW, SOURCE_FILE)


def _typed(spark: SparkSession, kind: str, path: str, columns: Mapping[str, str]) -> DataFrame:
    try:
        table = spark.read.format(kind).load(_literal(path) if kind != "delta" else path)
        _positions(path, table.columns, columns)
        cells = {role: F.col(f"`{name.replace('`', '``')}`") for role, name in columns.items()}
        raw = F.to_json(F.struct(*(cell.alias(columns[role]) for role, cell in cells.items())))
        texts = [
            cells[role]
            for role, name in columns.items()
            if table.schema[name].dataType.simpleString() == "string"
        ]
        invalid = reduce(or_, (~F.is_valid_utf8(cell) for cell in texts), F.lit(False))
        return table.select(
            *(cell.alias(role) for role, cell in cells.items()),
            F.when(invalid, F.lit("undecodable_bytes")).alias(FAULT),
            raw.alias(RAW),
            F.col("_metadata.file_path").alias(SOURCE_FILE),
        )
    except (PySparkException, Py4JJavaError) as error:
        raise SourceError(f"{path}: cannot be read as {kind}: {summary(error)}") from None
