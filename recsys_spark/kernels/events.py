"""Events (row, column, value) into compressed sparse rows, by counting sort: linear, stable, and without
comparisons.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Floats, Ints, Longs, exact_jit


def group_events(rows: Ints, columns: Ints, values: Floats, n_rows: int) -> tuple[Longs, Ints, Floats]:
    """Events grouped by row, in their present order within a row.

    Parameters
    ----------
    rows : int32 array, shape (n,), from 0 to ``n_rows - 1``
    columns : int32 array, shape (n,)
    values : float32 array, shape (n,)

    Returns
    -------
    indptr : int64 array, shape (n_rows + 1,)
    columns, values : as given, in the new order

    Cost: two passes.
    """
    grouped: tuple[Longs, Ints, Floats] = _group(rows, columns, values, n_rows)
    return grouped


def sort_events(
    rows: Ints, columns: Ints, values: Floats, n_rows: int, n_columns: int
) -> tuple[Longs, Ints, Floats]:
    """Events by row, then column, then value: the one order that does not depend on how they arrived."""
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
    place = indptr[:-1].copy()
    columns_out, values_out = np.empty_like(columns), np.empty_like(values)
    for k in range(len(rows)):
        at = place[rows[k]]
        place[rows[k]] += 1
        columns_out[at] = columns[k]
        values_out[at] = values[k]
    return indptr, columns_out, values_out


@exact_jit
def _order_repeated(indptr: Any, columns: Any, values: Any) -> None:
    """Sort the values of events of one (row, column), which stand together; most pairs have one."""
    for row in range(len(indptr) - 1):
        for k in range(indptr[row] + 1, indptr[row + 1]):
            value, at = values[k], k
            while at > indptr[row] and columns[at - 1] == columns[k] and values[at - 1] > value:
                values[at] = values[at - 1]
                at -= 1
            values[at] = value
