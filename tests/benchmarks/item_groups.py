"""What it would gain and cost to fit groups of items at once (Steck 2019, "Markov random fields for
collaborative filtering"): one inverse of the Gram matrix of an item's neighbours serves the item and some of
these, instead of one for each item. On NCF's MovieLens 1M, with numpy alone.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.kernels.arrays import Doubles, Floats, Longs
from tests.benchmarks.quality import hits, ncf_arrays
from tests.benchmarks.report import publish

GROUPS = [1, 2, 4, 8, 16]
NEIGHBORS, REGULARIZATION = 200, 200.0


def fitted(gram: Doubles, neighbors: Longs, regularization: float, group: int) -> tuple[Floats, int]:
    """Weights, column by column those that make an item's score, and how many inverses they took.

    Popular items come first; each takes those of its nearest neighbours along that have no weights yet.
    """
    weights, done, inverses = np.zeros(gram.shape, np.float32), np.zeros(len(gram), bool), 0
    for item in np.argsort(-np.diag(gram), kind="stable"):
        if done[item]:
            continue
        support = np.concatenate([[item], neighbors[item]])
        inverse = np.linalg.inv(gram[np.ix_(support, support)] + regularization * np.eye(len(support)))
        inverses += 1
        for place in np.flatnonzero(~done[support])[:group]:
            own = -inverse[:, place] / inverse[place, place]
            own[place] = 0.0
            weights[support, support[place]] = own
            done[support[place]] = True
    return weights, inverses


def main() -> None:
    """Measure and publish."""
    train, users, candidates = ncf_arrays(Path(os.environ["RECSYS_DATA_DIR"]) / "ncf-ml-1m")
    shape = int(train[:, 0].max()) + 1, int(max(train[:, 1].max(), candidates.max())) + 1
    events = csr_matrix((np.ones(len(train), np.float32), (train[:, 0], train[:, 1])), shape)
    gram = (events.T @ events).toarray().astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(gram), 1))
    alike = gram / np.outer(lengths, lengths)
    np.fill_diagonal(alike, 0.0)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :NEIGHBORS]
    rows = list[dict[str, object]]()
    with threadpool_limits(1, "blas"):
        for group in GROUPS:
            started = time.process_time()
            weights, inverses = fitted(gram, nearest, REGULARIZATION, group)
            taken = time.process_time() - started
            scores = np.take_along_axis(np.asarray(events[users] @ weights), candidates, axis=1)
            what = f"groups of {group}"
            rows.append({"what": what, "inverses": inverses, "s on one core": taken, **hits(scores)})
    notes = [f"{NEIGHBORS} neighbours, regularisation {REGULARIZATION:g}"]
    publish("item_groups", "Item pairs on NCF's MovieLens 1M, groups of items fitted at once", rows, notes)


if __name__ == "__main__":
    main()
