"""Events (row, column, value) into compressed sparse rows, by counting sort: linear, stable, and without
comparisons.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Floats, Ints, Longs, exact_jit


def group_events(rows: Ints, columns: Ints, values: Floats, n_rows: int) -> tuple[Longs, Ints, Floats]:
    """Events grouped by row; within a row they keep their order.

    Parameters
    ----------
    rows : int32 array, shape (n,), from 0 to ``n_rows - 1``
    columns : int32 array, shape (n,)
    values : float32 array, shape (n,)

    Returns
    -------
    indptr : int64 array, shape (n_rows + 1,)
    columns, values : the same, in the new order

    Cost: two passes.
    """
    grouped: tuple[Longs, Ints, Floats] = _group(rows, columns, values, n_rows)
    return grouped


def sort_events(
    rows: Ints, columns: Ints, values: Floats, n_rows: int, n_columns: int
) -> tuple[Longs, Ints, Floats]:
    """Events by row, then column, then value: the order that does not depend on how they arrived."""
    by_column, rows, values = group_events(columns, rows, values, n_columns)
    columns = np.repeat(np.arange(n_columns, dtype=np.int32), np.diff(by_column))
    indptr, columns, values = group_events(rows, columns, values, n_rows)
    _order_repeated(indptr, columns, values)
    return indptr, columns, values


@exact_jit
def _group(rows: Any, columns: Any, values: Any, n_rows: Any) -> Any:
    indptr = np.zeros(n_rows + 1, np.int64)
    for row in rows:
        indptr[row + 1] += 1
    for row in range(n_rows):
        indptr[row + 1] += indptr[row]
    next_index = indptr[:-1].copy()
    columns_out, values_out = np.empty_like(columns), np.empty_like(values)
    for k in range(len(rows)):
        index = next_index[rows[k]]
        next_index[rows[k]] += 1
        columns_out[index] = columns[k]
        values_out[index] = values[k]
    return indptr, columns_out, values_out


@exact_jit
def _order_repeated(indptr: Any, columns: Any, values: Any) -> None:
    """Sort the values of events of the same (row, column), which are neighbours; most pairs have one."""
    for row in range(len(indptr) - 1):
        for k in range(indptr[row] + 1, indptr[row + 1]):
            value, index = values[k], k
            while index > indptr[row] and columns[index - 1] == columns[k] and values[index - 1] > value:
                values[index] = values[index - 1]
                index -= 1
            values[index] = value
