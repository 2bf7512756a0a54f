"""What an id is, whatever its type; and its 64-bit hash, which random draws and buckets are keyed by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.kernels.arrays import Hashes
from recsys_spark.kernels.randomness import mix


def hash_ids(ids: pa.Array) -> Hashes:
    """64-bit hash of each id, the same for an integer as for a long.

    Parameters
    ----------
    ids : Array
        Ids of an integer type or strings, without nulls.

    Returns
    -------
    uint64 array, shape (n,)
    """
    if pa.types.is_integer(ids.type):
        return mix(0, ids.to_numpy(zero_copy_only=False).astype(np.int64))
    texts = ids.to_numpy(zero_copy_only=False).astype(object)
    return mix(0, pd.util.hash_array(texts, categorize=False))


def whole_number(column: Column, kind: T.DataType) -> Column:
    """A numeric column's whole numbers.

    Parameters
    ----------
    column : Column
        Of a numeric type.
    kind : DataType
        Its type.

    Returns
    -------
    Column
        Of an integer type, or decimal without a fraction; null for numbers with a fraction, NaN, infinities,
        and floating-point numbers so large that they stand for several integers.
    """
    if isinstance(kind, T.IntegralType):
        return column
    whole = column == F.floor(column)
    if isinstance(kind, T.DecimalType):
        return F.when(whole, F.floor(column))
    exact = float(2**24 if isinstance(kind, T.FloatType) else 2**53)
    return F.when(whole & (F.abs(column) <= exact), column.cast("long"))
