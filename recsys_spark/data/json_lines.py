"""JSON lines: one object a line, nested fields by their paths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.columns import quoted
from recsys_spark.config import Delimited
from recsys_spark.data.inputs import IDS, folder_columns, folder_value, read_lines, too_long
from recsys_spark.schema import FAULT, RAW, SOURCE_FILE

_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F]"
_HALF_CHARACTER = f"{_HIGH}(?!{_LOW})|(?<!{_HIGH}){_LOW}"
"""Half of a pair of escapes that stand for one character: JSON that holds it is no text."""


def read_json_lines(spark: SparkSession, path: str, columns: Mapping[str, str]) -> DataFrame:
    """Cells of the mapped fields of JSON lines; see :func:`recsys_spark.data.sources.read_cells`.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    path : str
        File, folder or glob.
    columns : mapping of str to str
        Role → field, or the path to a nested one, with points.
    """
    lines, listing = read_lines(spark, path, Delimited(), json=True)
    folders = folder_columns(listing)
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
            cells[role] = F.coalesce(cells[role], folder_value(F.col(SOURCE_FILE), name))
    given = {
        role: F.col(role).isNotNull() & (F.schema_of_variant(role) != "VOID")
        for role in columns
        if role in IDS
    }
    lost = reduce(or_, (F.col(role).isNull() for role in columns))
    faults = [
        F.when(too_long(), F.lit("line_too_long")),
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
