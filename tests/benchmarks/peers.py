"""Models of item pairs beside those of RecTools and ``implicit`` on MovieLens 1M as divided for NCF: seconds
of a fit and of lists of everybody, memory, HR@10 and NDCG@10.

Each model of another library runs in a process of its own, RecTools in an environment of its own
(``.venv-peers``), as it wants an older numpy. Ours runs on Spark, from rows. Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark.models import ItemItemRecommender
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks import peer_models
from tests.benchmarks.night import with_peaks
from tests.benchmarks.quality import held_out_among_negatives, hits, ncf_arrays, ncf_data
from tests.benchmarks.report import publish, seconds

HERE = Path(__file__).parents[2]
PEERS = [
    ("RecTools", "EASE 500"),
    ("RecTools", "EASE 1000"),
    ("RecTools", "cosine"),
    ("implicit", "Cosine"),
    ("implicit", "TFIDF"),
    ("implicit", "BM25"),
]
OURS: dict[str, dict[str, Any]] = {
    "exact, regParam 500": {"weighting": "exact", "neighbors": 4000, "regParam": 500.0},
    "exact, regParam 1000": {"weighting": "exact", "neighbors": 4000, "regParam": 1000.0},
    "ridge, 500 neighbours, regParam 500": {"neighbors": 500, "regParam": 500.0},
    "ridge, 200 neighbours, regParam 200": {"neighbors": 200, "regParam": 200.0},
    "cosine, 200 neighbours": {"weighting": "cosine"},
}


def ours(folder: Path) -> list[dict[str, object]]:
    """The models of this project; the first fit of the process is not counted."""
    spark, rows = get_session(), list[dict[str, object]]()
    data, users, candidates = ncf_data(spark, folder)
    everybody = data.select("user").distinct().persist()
    everybody.count()
    ItemItemRecommender(neighbors=10, ratingCol="").fit(data).recommend(everybody, 10).count()
    for what, params in OURS.items():
        models: list[Any] = []

        def fit(models: list[Any] = models, params: dict[str, Any] = params) -> None:
            models.append(ItemItemRecommender(**params, ratingCol="").fit(data))
            models[0].weights.count()

        taken, java, python = with_peaks(fit)
        request = ListRequest(peer_models.N, data)
        lists = seconds(models[0].recommend_lists(everybody, request).count)
        measured = held_out_among_negatives(models[0], users, candidates)
        models[0].unpersist()
        rows.append(
            {"what": f"recsys-spark, {what}", "fit, s": taken, "lists of everybody, s": lists}
            | {"memory, GiB": java + python, **measured}
        )
    return rows


def theirs(folder: Path, library: str, name: str) -> dict[str, object]:
    """A model of another library."""
    pairs, users, candidates = ncf_arrays(folder)
    python = sys.executable if library == "implicit" else str(HERE / ".venv-peers" / "bin" / "python")
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "data.npz", pairs=pairs, users=users, candidates=candidates)
        command = [python, peer_models.__file__, scratch, library, name]
        threads = {"OPENBLAS_NUM_THREADS": "1" if library == "implicit" else "2"}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
        if done.returncode:
            raise SystemExit(done.stderr)
        scores = np.load(Path(scratch) / "scores.npy")
    return json.loads(done.stdout.splitlines()[-1]) | hits(scores)


def main() -> None:
    """Measure and publish."""
    folder = Path(os.environ["RECSYS_DATA_DIR"]) / "ncf-ml-1m"
    rows = [theirs(folder, library, name) for library, name in PEERS] + ours(folder)
    notes = [
        "memory of the process, and of Java and all Python workers; 6,040 users, 3,704 items, 994,169 pairs"
    ]
    publish(
        "peers", "Models of item pairs on MovieLens 1M, the held-out item among 99 negatives", rows, notes
    )


if __name__ == "__main__":
    main()
