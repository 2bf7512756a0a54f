"""Parquet and Delta: the mapped columns, with the types that they have."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyarrow import ArrowInvalid
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from recsys_spark.columns import MAX_SHOWN, quoted
from recsys_spark.data.cells import floor_divide, untyped_id
from recsys_spark.data.files import Listing, literal, open_file
from recsys_spark.data.inputs import IDS, folder_columns, folder_value, listed_files, positions, reader
from recsys_spark.errors import SourceError, summary
from recsys_spark.schema import FAULT, RAW, SOURCE_FILE


def read_typed(spark: SparkSession, kind: str, path: str, columns: Mapping[str, str]) -> DataFrame:
    """Cells of the mapped columns of Parquet or Delta; see :func:`recsys_spark.data.sources.read_cells`.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    kind : str
        ``parquet`` or ``delta``.
    path : str
        File, folder or glob; of Delta the table's folder.
    columns : mapping of str to str
        Role → column, or the path to a nested field, with points.
    """
    try:
        folders: set[str] = set()
        if kind == "delta":
            table, nanoseconds = spark.read.format("delta").load(path), set[str]()
        else:
            listing = listed_files(spark, path)
            folders = folder_columns(listing)
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
        value = folder_value(F.col("_metadata.file_path"), name)
        return untyped_id(value) if role in IDS else value
    keys = [name] if name in table.columns else name.split(".")
    kind: T.DataType = table.schema
    for key in keys:
        if not isinstance(kind, T.StructType) or key not in kind.names:
            positions(path, table.columns, {role: name})
        kind = kind[key].dataType  # type: ignore[index]
    if role in IDS and isinstance(kind, T.StructType):
        nested = ", ".join(f"{name}.{key}" for key in kind.names[:MAX_SHOWN])
        raise SourceError(f"{path}: column {name!r} is a structure: map columns.{role} to one of {nested}")
    cell = F.col(".".join(map(quoted, keys)))
    if nanoseconds:
        return F.timestamp_micros(floor_divide(cell, 1_000))
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
    return reader(spark).schema(T.StructType(fields)).parquet(literal(path)), nanoseconds


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
