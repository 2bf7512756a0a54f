"""A matrix product whose bits do not depend on what else is multiplied.

BLAS adds the terms of a product in an order that differs from one row of a block to the next on some
processors (with OpenBLAS's kernels for Haswell, by a row's place among twelve). Where a result must be the
same however rows are divided among tasks, the order has to be the same for every row.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.kernels.arrays import Floats, exact_jit

_ROWS = 16
"""Rows that are multiplied together, while a few rows of the other matrix are near."""


def product(x: Floats, y: Floats, out: Floats | None = None) -> Floats:
    """``x @ y``; each row has the same bits whatever the others are, and on every machine.

    Parameters
    ----------
    x : float32 array, shape (n_rows, length)
    y : float32 array, shape (length, n_columns)
    out : float32 array, shape (n_rows, n_columns), in C order, or None: where the result is written

    Cost: about twice the time of BLAS.
    """
    result = np.empty((len(x), y.shape[1]), np.float32) if out is None else out
    _multiply(np.ascontiguousarray(x), np.ascontiguousarray(y), result)
    return result


@exact_jit
def _multiply(x: Floats, y: Floats, result: Floats) -> None:
    n_rows, length = x.shape
    n_columns = y.shape[1]
    by_four = length - length % 4
    for begin in range(0, n_rows, _ROWS):
        end = min(begin + _ROWS, n_rows)
        result[begin:end] = np.float32(0.0)
        for k in range(0, by_four, 4):
            for row in range(begin, end):
                a, b, c, d = x[row, k], x[row, k + 1], x[row, k + 2], x[row, k + 3]
                for column in range(n_columns):
                    first = a * y[k, column] + b * y[k + 1, column]
                    result[row, column] += first + (c * y[k + 2, column] + d * y[k + 3, column])
        for k in range(by_four, length):
            for row in range(begin, end):
                for column in range(n_columns):
                    result[row, column] += x[row, k] * y[k, column]
