"""One model of item pairs of another library, in a process of its own: seconds, memory, scores.

Run by ``peers``, with the Python of the library's own environment: it imports nothing of this project. Reads
``pairs`` (n, 2), ``users`` (m,) and ``candidates`` (m, c), of whole numbers, from ``data.npz`` in a folder;
leaves the candidates' scores there as ``scores.npy``, and prints the rest as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

N = 10


def rectools(pairs: Any, name: str) -> tuple[Any, float, float]:
    """EASE, or neighbours by cosine: weights by position, seconds of the fit and of the lists."""
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import EASEModel, ImplicitItemKNNWrapperModel

    rows = pd.DataFrame(pairs, columns=[Columns.User, Columns.Item])
    data = Dataset.construct(rows.assign(**{Columns.Weight: 1.0, Columns.Datetime: "2000-01-01"}))
    if name.startswith("EASE"):
        model = EASEModel(regularization=float(name.split()[-1]), recommend_n_threads=2)
    else:
        settings = {"cls": "CosineRecommender", "K": 200, "num_threads": 2}
        model = ImplicitItemKNNWrapperModel.from_config({"model": settings})
    taken = seconds(lambda: model.fit(data))
    users = data.user_id_map.external_ids
    lists = seconds(lambda: model.recommend(users, data, k=N, filter_viewed=True))
    weights = model.weight if name.startswith("EASE") else model.model.similarity.T.toarray()
    at = data.item_id_map.external_ids
    full = np.zeros((pairs[:, 1].max() + 1,) * 2, np.float32)
    full[np.ix_(at, at)] = weights
    return full, taken, lists


def implicit(pairs: Any, name: str) -> tuple[Any, float, float]:
    """A model of neighbours: the same of it."""
    from implicit import nearest_neighbours

    model = getattr(nearest_neighbours, f"{name}Recommender")(K=200, num_threads=2)
    matrix = csr_matrix((np.ones(len(pairs), np.float32), pairs.T))
    taken = seconds(lambda: model.fit(matrix, show_progress=False))
    users = np.unique(pairs[:, 0])
    lists = seconds(lambda: model.recommend(users, matrix[users], N=N))
    return model.similarity.toarray().T, taken, lists


def seconds(action: Any) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main(folder: str, library: str, name: str) -> None:
    """Fit, list, score."""
    with np.load(Path(folder) / "data.npz") as data:
        pairs, users, candidates = data["pairs"], data["users"], data["candidates"]
    weights, taken, lists = {"RecTools": rectools, "implicit": implicit}[library](pairs, name)
    peak = memory()
    history = csr_matrix((np.ones(len(pairs), np.float32), pairs.T), (pairs[:, 0].max() + 1, len(weights)))
    known = np.where(candidates < len(weights), candidates, 0)
    scores = np.take_along_axis(np.asarray(history[users] @ weights), known, axis=1)
    np.save(Path(folder) / "scores.npy", np.where(candidates < len(weights), scores, 0))
    print(
        json.dumps(
            {
                "what": f"{library} {version(library)}, {name}",
                "fit, s": taken,
                "lists of everybody, s": lists,
                "memory, GiB": peak,
            }
        )
    )


def memory() -> float:
    """The largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main(*sys.argv[1:])
