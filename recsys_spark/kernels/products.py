"""A matrix product whose bits do not depend on what else is multiplied.

BLAS adds the terms of a product in an order that differs from one row of a block to the next on some
processors (with OpenBLAS's kernels for Haswell, by a row's place among twelve). Where a result must be the
same however rows are divided among tasks, the order has to be the same for every row.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.kernels.arrays import Floats, exact_jit

_ROWS, _COLUMNS = 16, 256
"""Rows and columns of the result that are summed up together, near the processor: a few rows of the other
matrix's columns are there for all of them.
"""


def product(x: Floats, y: Floats, out: Floats | None = None) -> Floats:
    """``x @ y``; each row has the same bits whatever the others are, and on every machine.

    Parameters
    ----------
    x : float32 array, shape (n_rows, length)
    y : float32 array, shape (length, n_columns)
    out : float32 array, shape (n_rows, n_columns), in C order, or None: where the result is written

    Cost: 1.4 to 2 times the time of BLAS; the benchmark of ALS prints both.
    """
    result = np.empty((len(x), y.shape[1]), np.float32) if out is None else out
    _multiply(np.ascontiguousarray(x), np.ascontiguousarray(y), result)
    return result


@exact_jit
def _multiply(x: Floats, y: Floats, result: Floats) -> None:
    n_rows, length = x.shape
    n_columns = y.shape[1]
    by_four = length - length % 4
    panel = np.empty((length, min(_COLUMNS, n_columns)), np.float32)
    sums = np.empty((_ROWS, panel.shape[1]), np.float32)
    for left in range(0, n_columns, _COLUMNS):
        width = min(_COLUMNS, n_columns - left)
        panel[:, :width] = y[:, left : left + width]
        for begin in range(0, n_rows, _ROWS):
            rows = min(_ROWS, n_rows - begin)
            sums[:] = np.float32(0.0)
            for k in range(0, by_four, 4):
                for row in range(rows):
                    at = begin + row
                    a, b, c, d = x[at, k], x[at, k + 1], x[at, k + 2], x[at, k + 3]
                    for column in range(width):
                        first = a * panel[k, column] + b * panel[k + 1, column]
                        sums[row, column] += first + (c * panel[k + 2, column] + d * panel[k + 3, column])
            for k in range(by_four, length):
                for row in range(rows):
                    for column in range(width):
                        sums[row, column] += x[begin + row, k] * panel[k, column]
            result[begin : begin + rows, left : left + width] = sums[:rows, :width]
