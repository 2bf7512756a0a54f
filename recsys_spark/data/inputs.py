"""What all formats share: the files of a path, their lines, mapped columns, and those that folders carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.columns import shown
from recsys_spark.config import Delimited
from recsys_spark.console import progress_line
from recsys_spark.data.delimited import decoded
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
from recsys_spark.schema import ITEM, MAX_LINE_BYTES, RAW, SOURCE_FILE, USER

SNIFFED_FILES = 64
"""Files whose beginnings are looked at before all are read."""

IDS = (USER, ITEM)


def listed_files(spark: SparkSession, path: str) -> Listing:
    """The files of a path; what is passed over, and what makes reading slow, is said.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    path : str
        File, folder or glob.

    Raises
    ------
    SourceError
        There are none, or they are empty.
    """
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


def read_lines(
    spark: SparkSession, path: str, text: Delimited, json: bool = False
) -> tuple[DataFrame, Listing]:
    """The lines of text files.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    path : str
        File, folder or glob.
    text : Delimited
        How the files are written.
    json : bool
        Whether each line is a JSON object.

    Returns
    -------
    DataFrame, Listing
        One row per line: ``raw``, decoded, of a line that is :func:`too_long` its beginning, and
        ``source_file``; and the files.

    Raises
    ------
    SourceError
        There are no files, or one of the first :data:`SNIFFED_FILES` is of another kind.
    """
    listing = listed_files(spark, path)
    for name in listing.files[:SNIFFED_FILES]:
        _require_text(spark, name, text, json)
    try:
        lines = reader(spark).text(literal(path))
    except AnalysisException as error:
        raise SourceError(f"{path}: cannot be read: {summary(error)}") from None
    whole = F.octet_length("value") <= MAX_LINE_BYTES
    line = F.when(whole, F.col("value")).otherwise(F.left("value", F.lit(MAX_LINE_BYTES + 1)))
    return lines.select(
        decoded(line, text.encoding).alias(RAW), F.col("_metadata.file_path").alias(SOURCE_FILE)
    ), listing


def too_long() -> Column:
    """Whether a line of :func:`read_lines` is only the beginning of one that was too long to be read."""
    return F.octet_length(RAW) > MAX_LINE_BYTES


def reader(spark: SparkSession) -> Any:
    """A reader that takes the files of all sub-folders; their names' columns are taken from the paths.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    """
    return spark.read.option("recursiveFileLookup", True)


def positions(
    path: str, names: list[str], columns: Mapping[str, str], text: Delimited | None = None
) -> dict[str, int]:
    """Role → position of its column.

    Parameters
    ----------
    path : str
        The input, for errors.
    names : list of str
        Its columns.
    columns : mapping of str to str
        Role → column.
    text : Delimited, optional
        How lines divide into fields, where the first may be no header.

    Raises
    ------
    SourceError
        A column is missing, or there twice.
    """
    for role, name in columns.items():
        if name not in names:
            hint = _no_header_hint(names) if text is not None and text.header else ""
            raise SourceError(
                f"{path}: has no column {name!r}, which columns.{role} names; it has {shown(names)}{hint}"
            )
        if names.count(name) > 1:
            raise SourceError(f"{path}: has column {name!r} twice, so that columns.{role} is ambiguous")
    return {role: names.index(name) for role, name in columns.items()}


def folder_columns(listing: Listing) -> set[str]:
    """Names of the columns that folders carry, as in ``dt=2024-01-31/part-0.csv``.

    Parameters
    ----------
    listing : Listing
        The files.
    """
    pairs = (part.partition("=") for name in listing.files for part in PurePosixPath(name).parts[:-1])
    return {name for name, equals, _ in pairs if equals and name}


def folder_value(file: Column, name: str) -> Column:
    """What a file's folder says of a column; its writer escapes it, and Spark escapes the path.

    Parameters
    ----------
    file : Column
        The file's path.
    name : str
        The folders' column.

    Returns
    -------
    Column
        Of type string; null for none.
    """
    written = F.regexp_extract(file, f"/{re.escape(name)}=([^/]*)/", 1)
    value = written
    for _ in range(2):
        value = F.try_url_decode(F.replace(value, F.lit("+"), F.lit("%2B")))
    return F.when(~written.isin("", "__HIVE_DEFAULT_PARTITION__"), value)


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


def _no_header_hint(names: list[str]) -> str:
    if any(re.fullmatch(r"\s*[+-]?\d+([.,]\d+)?\s*", name) for name in names):
        return ". Its first line looks like a row: if it is, set text.header: false and give text.names"
    return ""
