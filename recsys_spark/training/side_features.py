"""Side features of users and items: any columns, as names with weights, of which each has an embedding.

A categorical value is the feature ``column=value`` of weight 1; an array is all its values', of weight 1 / n
each; a number is the feature ``column``, weighted by the number itself, scaled to mean 0 and deviation 1, and
so is a date or a time, in days. An array of floats is an embedding: the features ``column[0]``, ``column[1]``
…, weighted by its numbers, scaled so that its mean square length is 1. What is null, or was never seen in
training, is no feature. The vector of a user or item is its own embedding plus the weighted sum of its
features' (Kula 2015), so that those without a history have one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from scipy import sparse

from recsys_spark.columns import quoted, shown
from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats, Integers, Ints
from recsys_spark.kernels.sets import distinct
from recsys_spark.packing import lists_of, one_array

USER_FEATURES, ITEM_FEATURES = "user features", "item features"
"""Kinds of payloads, and names of tables, of each side's features."""
Scales = dict[str, list[float]]


@dataclass(frozen=True)
class Features:
    """Features of some users or items.

    Attributes
    ----------
    names : of all features, the same in every task
    weights : float32 compressed rows, shape (n_ids, n_features)
    """

    names: pa.Array
    weights: sparse.csr_matrix

    @classmethod
    def none(cls, ids: int) -> Features:
        """No features of ``ids`` ids."""
        return cls(pa.array([], pa.string()), sparse.csr_matrix((ids, 0), dtype=np.float32))

    @classmethod
    def build(cls, ids: pa.Array, entries: pa.Table, names: pa.Array) -> Features:
        """Features of ``ids`` among ``names``, from ``entries`` (``id``, ``names``, ``weights``; repeated
        ids add up).
        """
        row = pc.index_in(one_array(entries["id"]).cast(ids.type), value_set=ids)
        lists = one_array(entries["names"])
        rows = np.repeat(pc.fill_null(row, -1).to_numpy(), pc.list_value_length(lists).to_numpy())
        columns = pc.fill_null(pc.index_in(lists.flatten(), value_set=names), -1).to_numpy()
        weights = np.asarray(one_array(entries["weights"]).flatten(), np.float32)
        known = (rows >= 0) & (columns >= 0)
        matrix = sparse.coo_matrix(
            (weights[known], (rows[known], columns[known])), (len(ids), len(names)), np.float32
        )
        return cls(names, matrix.tocsr())

    def sums(self, rows: Integers | slice, table: Floats) -> Floats:
        """Weighted sums of ``table``'s rows for some ids, shape (n, width)."""
        return np.asarray(self.weights[rows] @ table, np.float32)

    def columns_of(self, rows: Integers) -> Ints:
        """Columns of the distinct features of some ids, ascending."""
        return np.asarray(distinct(self.weights[rows].indices), np.int32)

    def sums_backward(self, rows: Integers, gradients: Floats, features: Ints) -> Floats:
        """Gradients of ``features`` from those of the sums of ``rows``: the backward pass of :meth:`sums`."""
        return np.asarray(self.weights[rows][:, features].T @ gradients, np.float32)


def scales_of(frame: DataFrame, columns: list[str]) -> Scales:
    """Mean and deviation of the numbers and times among ``columns``; 0 and the length of the embeddings. One
    pass, none where no column has a scale.

    Raises
    ------
    ModelError
        A column is missing, or of a type that makes no feature; or embeddings are of several lengths.
    """
    check_columns(frame, columns)
    numeric = [column for column in columns if _is_numeric(frame, column)]
    embeddings = [column for column in columns if _is_embedding(frame, column)]
    if not numeric and not embeddings:
        return {}
    wanted = [statistic(_finite(frame, column)) for column in numeric for statistic in (F.mean, F.stddev_pop)]
    for column in embeddings:
        cell = F.col(quoted(column))
        square = F.aggregate(cell, F.lit(0.0), lambda total, value: total + value * value)
        wanted += [F.sqrt(F.mean(square)), F.min(F.size(cell)), F.max(F.size(cell))]
    values: list[Any] = list(frame.agg(*wanted).first() or ())
    scales = {}
    for column in numeric:
        mean, deviation, *values = values
        scales[column] = [mean or 0.0, deviation or 1.0]
    for column in embeddings:
        length, shortest, longest, *values = values
        if shortest != longest:
            raise ModelError(
                f"feature column {column!r} has embeddings of {shortest} to {longest} numbers: all must have "
                "one length"
            )
        scales[column] = [0.0, length or 1.0]
    return scales


def check_columns(frame: DataFrame, columns: list[str]) -> None:
    """Raise ``ModelError`` for a column that is missing, or of a type that makes no feature."""
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        raise ModelError(f"feature column {missing[0]!r} is not among the columns {shown(frame.columns)}")
    for column in columns:
        kind = frame.schema[column].dataType
        inner = kind.elementType if isinstance(kind, T.ArrayType) else kind
        if isinstance(inner, T.ArrayType | T.MapType | T.StructType | T.BinaryType):
            raise ModelError(
                f"feature column {column!r} is {kind.simpleString()}: it must be text, a number, or an "
                "array of them"
            )


def entries_of(frame: DataFrame, id_column: Column, columns: list[str], scales: Scales) -> DataFrame:
    """One row per row of ``frame`` with an id: ``id``, ``names`` array<string>, ``weights`` array<float>."""
    parts = [_entries(frame, column, scales) for column in columns]
    rows = frame.select(id_column.alias("id"), F.concat(*parts).alias("entries")).where(
        F.col("id").isNotNull()
    )
    return rows.select("id", F.col("entries.name").alias("names"), F.col("entries.weight").alias("weights"))


def vectors_by_features(
    entries: DataFrame, names: pa.Array, vectors: Callable[[Features], Floats]
) -> DataFrame:
    """One row per row of ``entries`` with a known feature: ``id`` and ``values`` array<float>, what
    ``vectors`` makes of them.

    Parameters
    ----------
    entries : of :func:`entries_of`, with unique ids
    names : of the features that ``vectors`` knows
    """

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            features = Features.build(batch["id"], pa.Table.from_batches([batch]), names)
            has_features = np.diff(features.weights.indptr) > 0
            values = vectors(features)[has_features]
            yield pa.RecordBatch.from_arrays(
                [batch["id"].filter(pa.array(has_features)), lists_of(values)], names=["id", "values"]
            )

    schema = T.StructType([entries.schema["id"], T.StructField("values", T.ArrayType(T.FloatType()))])
    return entries.mapInArrow(make, schema)


def has_scale(frame: DataFrame, column: str) -> bool:
    """Whether a feature column holds numbers, times or embeddings, which :func:`scales_of` has scales of."""
    return _is_numeric(frame, column) or _is_embedding(frame, column)


def _is_numeric(frame: DataFrame, column: str) -> bool:
    return isinstance(frame.schema[column].dataType, T.NumericType | T.DateType | T.TimestampType)


def _is_embedding(frame: DataFrame, column: str) -> bool:
    kind = frame.schema[column].dataType
    return isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.FloatType | T.DoubleType)


def _finite(frame: DataFrame, column: str) -> Column:
    """A number, or the days of a date or time since 1970; null for what is not finite."""
    kind, cell = frame.schema[column].dataType, F.col(quoted(column))
    if isinstance(kind, T.DateType):
        cell = F.unix_date(cell)
    elif isinstance(kind, T.TimestampType):
        cell = F.unix_micros(cell) / 86_400e6
    value = cell.cast("double")
    return F.when(~F.isnan(value) & (F.abs(value) != float("inf")), value)


def _entries(frame: DataFrame, column: str, scales: Scales) -> Column:
    """Array of (name, weight) of a column."""

    def entry(name: Column, weight: Column) -> Column:
        return F.struct(name.alias("name"), weight.cast("float").alias("weight"))

    kind = frame.schema[column].dataType
    nothing = F.array().cast("array<struct<name:string,weight:float>>")
    if _is_numeric(frame, column):
        mean, deviation = scales[column]
        value = _finite(frame, column)
        return F.when(value.isNotNull(), F.array(entry(F.lit(column), (value - mean) / deviation))).otherwise(
            nothing
        )
    if _is_embedding(frame, column):
        _, length = scales[column]

        def component(value: Column, at: Column) -> Column:
            name = F.concat(F.lit(f"{column}["), at.cast("string"), F.lit("]"))
            return entry(name, F.coalesce(value, F.lit(0.0)) / length)

        return F.coalesce(F.transform(F.col(quoted(column)), component), nothing)
    values = F.col(quoted(column)) if isinstance(kind, T.ArrayType) else F.array(F.col(quoted(column)))
    distinct = F.array_distinct(F.filter(values.cast("array<string>"), lambda value: value.isNotNull()))
    weight = 1 / F.size(distinct)
    listed = F.transform(distinct, lambda value: entry(F.concat(F.lit(f"{column}="), value), weight))
    return F.coalesce(listed, nothing)
