"""The Adam optimizer, on some rows of a table at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys_spark.kernels.arrays import Floats, Ints, jit

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8


def adam(
    table: Floats,
    moments: tuple[Floats, Floats],
    rows: Ints,
    gradients: Floats,
    rate: float,
    step: int,
    decay: float,
) -> None:
    """One step of Adam (Kingma & Ba 2015) on some rows of a table, in place; the other rows and their moments
    are not changed.

    Parameters
    ----------
    table, moments : float32 arrays, shape (n_rows, dim)
    rows : int32 array, shape (n,), unique
    gradients : float32 array, shape (n, dim)
    rate : learning rate
    step : number of this step, from 1
    decay : L2 regularisation: this multiple of the row is added to its gradient
    """
    rate = rate * np.sqrt(1 - SECOND_DECAY**step) / (1 - FIRST_DECAY**step)
    _adam(table, *moments, rows, gradients, np.float32(rate), np.float32(decay))


@jit
def _adam(table: Any, first: Any, second: Any, rows: Any, gradients: Any, rate: Any, decay: Any) -> None:
    one, b1, b2, tiny = np.float32(1), np.float32(FIRST_DECAY), np.float32(SECOND_DECAY), np.float32(EPSILON)
    for k in range(len(rows)):
        x, m, v, g = table[rows[k]], first[rows[k]], second[rows[k]], gradients[k]
        for i in range(table.shape[1]):
            gradient = g[i] + decay * x[i]
            m[i] = b1 * m[i] + (one - b1) * gradient
            v[i] = b2 * v[i] + (one - b2) * gradient * gradient
            x[i] -= rate * m[i] / (np.sqrt(v[i]) + tiny)
