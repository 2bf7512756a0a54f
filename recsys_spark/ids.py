"""64-bit hashes of ids: what random draws and logical buckets are keyed by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

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
