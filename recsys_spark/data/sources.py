"""Files and tables as they are: one row per input row, with its cells, its raw text and its file."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyarrow import ArrowInvalid
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from recsys_spark.columns import MAX_SHOWN, quoted, shown
from recsys_spark.config import Delimited, FileSource, SideTable
from recsys_spark.console import progress_line
from recsys_spark.data.cells import untyped_id
from recsys_spark.data.cleaning import FAULT, HEADER_LINE, RAW, SOURCE_FILE, UNTYPED
from recsys_spark.data.delimited import decoded, field, readable, unclosed, with_fields
from recsys_spark.data.features import split_list, split_numbers, year_of
from recsys_spark.data.files import (
    HEAD_BYTES,
    MANY_FILES,
    Listing,
    decompressed,
    list_files,
    literal,
    open_file,
)
from recsys_spark.data.sniffing import excel_note, packed_problem, text_problem
from recsys_spark.errors import SourceError, summary
from recsys_spark.schema import ITEM, RATING, TIMESTAMP, USER, USUAL_FEATURES

SNIFFED_FILES = 64
"""Files whose beginnings are looked at before all are read."""

IDS = (USER, ITEM)

_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F]"
_HALF_CHARACTER = f"{_HIGH}(?!{_LOW})|(?<!{_HIGH}){_LOW}"
"""Half of a pair of escapes that stand for one character: JSON that holds it is no text."""


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
    numbers = [name for name, wanted in types.items() if wanted in ("int", "bigint", "double")]
    raw = read_cells(spark, side.format, side.path, {key: side.id, **side.columns}, side.text, numbers)
    splits = {"array<string>": split_list, "array<float>": split_numbers}
    for name, wanted in types.items():
        if wanted in splits and isinstance(raw.schema[name].dataType, T.StringType):
            parts = splits[wanted](name, side.list_separator)
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
        return _json_lines(spark, path, columns)
    return _typed(spark, kind, path, columns)


def _listed(spark: SparkSession, path: str) -> Listing:
    listing = list_files(spark, path)
    if listing.ignored:
        shown = ", ".join(listing.ignored[:3])
        progress_line(
            f"  ignored, as their names begin with _ or . : {len(listing.ignored):,} files ({shown})"
        )
    if len(listing.files) >= MANY_FILES:
        size = listing.bytes / len(listing.files)
        progress_line(
            f"  {path}: {len(listing.files):,} files of {size:,.0f} bytes on average: fewer, larger ones are "
            "read many times faster"
        )
    if not listing.files:
        raise SourceError(f"{path}: has only files whose names begin with _ or ., which are not read")
    if not listing.bytes:
        raise SourceError(f"{path}: is empty")
    return listing


def _lines(spark: SparkSession, path: str, text: Delimited, json: bool = False) -> tuple[DataFrame, Listing]:
    """One row per line: ``raw``, decoded, and ``source_file``."""
    listing = _listed(spark, path)
    for name in listing.files[:SNIFFED_FILES]:
        _require_text(spark, name, text, json)
    try:
        lines = _reader(spark).text(literal(path))
    except AnalysisException as error:
        raise SourceError(f"{path}: cannot be read: {summary(error)}") from None
    return lines.select(
        decoded(F.col("value"), text.encoding).alias(RAW), F.col("_metadata.file_path").alias(SOURCE_FILE)
    ), listing


def _reader(spark: SparkSession) -> Any:
    """A reader that takes the files of all sub-folders; their names' columns are taken from the paths."""
    return spark.read.option("recursiveFileLookup", True)


def _require_text(spark: SparkSession, name: str, text: Delimited, json: bool) -> None:
    try:
        with open_file(spark, name) as file:
            packed = file.read(4096)
            problem = packed_problem(packed, name)
            if problem is None:
                file.seek(0)
                data = decompressed(file, name, HEAD_BYTES)
                problem = text_problem(data, len(data) < HEAD_BYTES)
    except (OSError, EOFError) as error:
        raise SourceError(f"{name}: cannot be read: {error}") from None
    if problem is None and json and data.lstrip().startswith(b"["):
        problem = "is one JSON array: write one object a line, as jq -c '.[]' does"
    if problem is None and not json and text.quote:
        problem = excel_note(data)
    if problem is not None:
        raise SourceError(f"{name}: {problem}")


def _delimited(
    spark: SparkSession, path: str, columns: Mapping[str, str], text: Delimited, numbers: Collection[str]
) -> DataFrame:
    lines, listing = _lines(spark, path, text)
    folders = _folder_columns(listing)
    names, header = _header(spark, path, text)
    if text.names is not None:
        _require_no_header(path, text.names, names)
        names, header = text.names, None
    in_lines = {role: name for role, name in columns.items() if name in names or name not in folders}
    positions = _positions(path, names, in_lines, text)
    cells = {
        role: _in_decimals(role, field(at, text), text, (TIMESTAMP, *IDS, *numbers))
        for role, at in positions.items()
    }
    cells |= {
        role: _folder_value(F.col(SOURCE_FILE), name)
        for role, name in columns.items()
        if role not in in_lines
    }
    faults = [
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
        another_header = reduce(
            and_, (F.get("fields", F.lit(at)).isin(*written) for at in positions.values())
        )
        faults.insert(0, F.when(another_header, F.lit("different_header")))
        faults.insert(0, F.when(F.col(RAW) == header, F.lit(HEADER_LINE)))
    return with_fields(lines, text).select(
        *(cell.alias(role, metadata={UNTYPED: True}) for role, cell in cells.items()),
        F.coalesce(*faults).alias(FAULT),
        RAW,
        SOURCE_FILE,
    )


def _in_decimals(role: str, cell: Column, text: Delimited, numbers: Collection[str]) -> Column:
    """Numbers with the point that Spark reads; with a comma declared, a point is no part of a rating."""
    if text.decimal == ".":
        return cell
    commas = F.replace(cell, F.lit(","), F.lit("."))
    pointed = F.contains(cell, F.lit("."))
    if role == RATING:
        return F.when(~pointed, commas)
    if role in numbers:
        return F.when(~pointed & cell.rlike(r"^\s*[+-]?\d+,\d+\s*$"), commas).otherwise(cell)
    return cell


def _header(spark: SparkSession, path: str, text: Delimited) -> tuple[list[str], str | None]:
    """The first line of a file, split into names."""
    # the first split in Spark's order need not be the beginning of a file
    starts = _reader(spark).text(literal(path)).where("_metadata.file_block_start = 0")
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


def _positions(
    path: str, names: list[str], columns: Mapping[str, str], text: Delimited | None = None
) -> dict[str, int]:
    for role, name in columns.items():
        if name not in names:
            hint = _no_header_hint(names) if text is not None and text.header else ""
            raise SourceError(
                f"{path}: has no column {name!r}, which columns.{role} names; it has {shown(names)}{hint}"
            )
        if names.count(name) > 1:
            raise SourceError(f"{path}: has column {name!r} twice, so that columns.{role} is ambiguous")
    return {role: names.index(name) for role, name in columns.items()}


def _no_header_hint(names: list[str]) -> str:
    if any(re.fullmatch(r"\s*[+-]?\d+([.,]\d+)?\s*", name) for name in names):
        return ". Its first line looks like a row: if it is, set text.header: false and give text.names"
    return ""


def _folder_columns(listing: Listing) -> set[str]:
    """Names of the columns that folders carry, as in ``dt=2024-01-31/part-0.csv``."""
    pairs = (part.partition("=") for name in listing.files for part in PurePosixPath(name).parts[:-1])
    return {name for name, equals, _ in pairs if equals and name}


def _folder_value(file: Column, name: str) -> Column:
    """What a file's folder says of column ``name``; its writer escapes it, and Spark escapes the path."""
    written = F.regexp_extract(file, f"/{re.escape(name)}=([^/]*)/", 1)
    value = written
    for _ in range(2):
        value = F.try_url_decode(F.replace(value, F.lit("+"), F.lit("%2B")))
    return F.when(~written.isin("", "__HIVE_DEFAULT_PARTITION__"), value)


def _json_lines(spark: SparkSession, path: str, columns: Mapping[str, str]) -> DataFrame:
    lines, listing = _lines(spark, path, Delimited(), json=True)
    folders = _folder_columns(listing)
    roots = {name.partition(".")[0] for name in columns.values()}
    names = sorted({*columns.values(), *roots})
    corrupt = "_corrupt" + "_" * max(map(len, names))  # longer than every column's name
    fields = ", ".join([*(f"{quoted(name)} variant" for name in names), f"{quoted(corrupt)} string"])
    # as a list of one: Spark would ignore what follows the first object of a line
    listed = F.from_json(
        F.concat(F.lit("["), RAW, F.lit("]")),
        f"array<struct<{fields}>>",
        {"columnNameOfCorruptRecord": corrupt, "allowNonNumericNumbers": "false"},
    )
    parsed = F.get("listed", F.lit(0))
    whole = F.coalesce((F.size("listed") == 1) & parsed.isNotNull() & parsed[corrupt].isNull(), F.lit(False))
    with_list = lines.select(RAW, SOURCE_FILE, listed.alias("listed"))
    found = with_list.select(
        RAW,
        SOURCE_FILE,
        whole.alias("whole"),
        *(_nested(parsed, name).alias(role) for role, name in columns.items()),
    )
    cells = {role: F.try_variant_get(role, "$", "string") for role in columns}
    cells |= {role: _json_id(role) for role in columns if role in IDS}
    for role, name in columns.items():
        if name in folders:
            cells[role] = F.coalesce(cells[role], _folder_value(F.col(SOURCE_FILE), name))
    given = {
        role: F.col(role).isNotNull() & (F.schema_of_variant(role) != "VOID")
        for role in columns
        if role in IDS
    }
    lost = reduce(or_, (F.col(role).isNull() for role in columns))
    faults = [
        F.when(~F.is_valid_utf8(RAW), F.lit("undecodable_bytes")),
        F.when(~F.col("whole") | (F.col(RAW).rlike(_HALF_CHARACTER) & lost), F.lit("malformed_line")),
        *(F.when(given[role] & cells[role].isNull(), F.lit(f"unparsable_{role}")) for role in given),
    ]
    return found.select(
        *(cell.alias(role) for role, cell in cells.items()),
        F.coalesce(*faults).alias(FAULT),
        RAW,
        SOURCE_FILE,
    )


def _nested(parsed: Column, name: str) -> Column:
    """The field called ``name``, or the one that its points lead to."""
    root, point, rest = name.partition(".")
    if not point:
        return parsed[name]
    steps = "".join(f"[{_json_key(key)}]" for key in rest.split("."))
    return F.coalesce(parsed[name], F.try_variant_get(parsed[root], f"${steps}", "variant"))


def _json_key(key: str) -> str:
    return f'"{key}"' if "'" in key else f"'{key}'"


def _json_id(role: str) -> Column:
    """Texts as they are and whole numbers as their digits; null for anything else."""
    kind = F.schema_of_variant(role)
    number = F.try_variant_get(role, "$", "decimal(38,10)")
    inexact = (kind == "DOUBLE") & (F.abs(number) > 2**53)
    digits = F.when((number == F.floor(number)) & ~inexact, F.floor(number).cast("string"))
    is_number = kind.isin("BIGINT", "DOUBLE", "FLOAT") | F.startswith(kind, F.lit("DECIMAL"))
    return F.when(kind == "STRING", F.try_variant_get(role, "$", "string")).when(is_number, digits)


def _typed(spark: SparkSession, kind: str, path: str, columns: Mapping[str, str]) -> DataFrame:
    try:
        folders: set[str] = set()
        if kind == "delta":
            table, nanoseconds = spark.read.format("delta").load(path), set[str]()
        else:
            listing = _listed(spark, path)
            folders = _folder_columns(listing)
            table, nanoseconds = _parquet(spark, path, listing, columns)
        cells = {
            role: _typed_cell(path, table, role, name, folders, name in nanoseconds)
            for role, name in columns.items()
        }
        raw = F.to_json(F.struct(*(cell.alias(columns[role]) for role, cell in cells.items())))
        read = table.select(
            *(cell.alias(role) for role, cell in cells.items()),
            raw.alias(RAW),
            F.col("_metadata.file_path").alias(SOURCE_FILE),
        )
    except (PySparkException, Py4JJavaError) as error:
        raise SourceError(f"{path}: cannot be read as {kind}: {summary(error)}") from None
    texts = [
        F.col(field.name)
        for field in read.schema
        if field.name in columns and field.dataType == T.StringType()
    ]
    invalid = reduce(or_, (~F.is_valid_utf8(cell) for cell in texts), F.lit(False))
    fault = F.when(invalid, F.lit("undecodable_bytes"))
    return read.select(*columns, fault.alias(FAULT), RAW, SOURCE_FILE)


def _typed_cell(
    path: str, table: DataFrame, role: str, name: str, folders: set[str], nanoseconds: bool
) -> Column:
    """A mapped column, a field inside one, or what the folders say; ``nanoseconds`` since 1970 as a time."""
    if name not in table.columns and name in folders:
        value = _folder_value(F.col("_metadata.file_path"), name)
        return untyped_id(value) if role in IDS else value
    keys = [name] if name in table.columns else name.split(".")
    kind: T.DataType = table.schema
    for key in keys:
        if not isinstance(kind, T.StructType) or key not in kind.names:
            _positions(path, table.columns, {role: name})
        kind = kind[key].dataType  # type: ignore[index]
    if role in IDS and isinstance(kind, T.StructType):
        nested = ", ".join(f"{name}.{key}" for key in kind.names[:MAX_SHOWN])
        raise SourceError(f"{path}: column {name!r} is a structure: map columns.{role} to one of {nested}")
    cell = F.col(".".join(map(quoted, keys)))
    if nanoseconds:
        return F.timestamp_micros(F.floor(cell / 1000).cast("long"))
    return cell.cast("string") if isinstance(kind, T.BinaryType) else cell


def _parquet(
    spark: SparkSession, path: str, listing: Listing, columns: Mapping[str, str]
) -> tuple[DataFrame, set[str]]:
    """The mapped columns only, as others may be of types that Spark does not know; and which of them are
    nanoseconds since 1970, as a number.
    """
    first = listing.files[0]
    try:
        with open_file(spark, first) as file:
            written = pq.ParquetFile(file).schema
    except (ArrowInvalid, OSError) as error:
        raise SourceError(f"{first}: is not a Parquet file: {' '.join(str(error).split())}") from None
    schema = written.to_arrow_schema()
    names = list(schema.names)
    wanted = {name if name in names else name.partition(".")[0] for name in columns.values()}
    stored = {written.column(index).path: written.column(index) for index in range(len(written))}
    fields, nanoseconds = [], set()
    for column in schema:
        if column.name not in wanted:
            continue
        kind = _spark_type(first, column)
        primitive = stored.get(column.name)
        if primitive is not None and primitive.physical_type == "INT96":
            kind = T.TimestampType()
        elif primitive is not None and "nanoseconds" in str(primitive.logical_type):
            nanoseconds.add(column.name)
            kind = T.LongType()
        fields.append(T.StructField(column.name, kind))
    if nanoseconds:  # otherwise Spark refuses such files; it has no option of the reader for it
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    return _reader(spark).schema(T.StructType(fields)).parquet(literal(path)), nanoseconds


_UNSIGNED = {pa.uint8(): T.ShortType(), pa.uint16(): T.IntegerType(), pa.uint32(): T.LongType()}
_UNSIGNED |= {pa.uint64(): T.DecimalType(20, 0)}


def _spark_type(file: str, column: pa.Field) -> T.DataType:
    if column.type in _UNSIGNED:
        return _UNSIGNED[column.type]
    try:
        return from_arrow_type(column.type, prefer_timestamp_ntz=True)
    except PySparkException:
        raise SourceError(
            f"{file}: column {column.name!r} is of the type {column.type}, which Spark cannot read: cast it"
        ) from None
