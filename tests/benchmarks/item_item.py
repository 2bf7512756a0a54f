"""Weights of item pairs, and singular vectors, on ten million synthetic ratings: time and memory by the
size of the catalogue, and lists of everybody from them, beside ``implicit``'s neighbours by cosine.

A fit is timed from packed histories, as a night has them, to weights that are counted. ``implicit``'s reads a
matrix that is in memory already.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from implicit.nearest_neighbours import CosineRecommender
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.data.synthetic import synthetic_inputs, world_of
from recsys_spark.histories import PackedHistories, pack_histories
from recsys_spark.models import ItemItemRecommender, SpectralRecommender
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.night import with_peaks
from tests.benchmarks.report import best, publish, seconds

NEIGHBORS, N = 200, 10


def packed(spark: SparkSession, ratings: int, users: int, items: int) -> PackedHistories:
    """Histories of a synthetic data set, in memory."""
    rows = synthetic_inputs(spark, world_of(ratings, 1, users, items)).ratings
    parts = {"part": F.lit("train"), "rating": F.col("rating").cast("double")}
    made = pack_histories(rows.withColumns(parts), ratings).of("train")
    made.counts()
    return made


def matrix(rows: DataFrame, users: int, items: int) -> csr_matrix:
    """The same as users by items."""
    table = rows.select("user", "item").toArrow()
    at = tuple(table[name].to_numpy() for name in ("user", "item"))
    return csr_matrix((np.ones(len(table), np.float32), at), (users + 1, items + 1))


MODELS: dict[str, Any] = {
    "cosine": ItemItemRecommender(weighting="cosine", neighbors=NEIGHBORS),
    "ridge": ItemItemRecommender(neighbors=NEIGHBORS),
    "spectral, rank 256": SpectralRecommender(rank=256, neighbors=NEIGHBORS, seed=1),
}


def measured(spark: SparkSession, ratings: int, users: int, items: int, name: str) -> dict[str, Any]:
    """One fit, and the lists of everybody that it makes."""
    histories, models = packed(spark, ratings, users, items), []

    def fit() -> None:
        models.append(MODELS[name].fit(histories))
        models[-1].weights.count()

    taken, java, python = with_peaks(fit)
    model = models[0]
    everybody = model.known_users().persist()
    everybody.count()
    request = ListRequest(N, histories)

    def listing() -> None:
        model.recommend_lists(everybody, request).write.format("noop").mode("overwrite").save()

    found: dict[str, Any] = {
        "what": f"{name}, {items:,} items",
        "weights": model.weights.count(),
        "fit, s": taken,
        "Java, GiB": java,
        "Python, GiB": python,
        "lists of everybody, s": best(listing, 2),
    }
    model.unpersist()
    histories.unpersist()
    return found


def peer(spark: SparkSession, ratings: int, users: int, items: int) -> dict[str, Any]:
    """``implicit``'s cosine neighbours."""
    histories = packed(spark, ratings, users, items)
    rated = matrix(histories.rows("user", "item"), users, items)
    histories.unpersist()
    with threadpool_limits(1, "blas"):
        model = CosineRecommender(K=NEIGHBORS, num_threads=2)
        taken = seconds(lambda: model.fit(rated, show_progress=False))
        everybody = np.flatnonzero(np.diff(rated.indptr))
        lists = best(lambda: model.recommend(everybody, rated[everybody], N=N), 1)
    what = f"implicit, cosine, {items:,} items"
    return {"what": what, "weights": model.similarity.nnz, "fit, s": taken, "lists of everybody, s": lists}


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=70_000)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--name", default="item_item", help="of the file of results")
    options = parser.parse_args()
    size = options.ratings, options.users
    spark = get_session()
    measured(spark, 100_000, 1_000, 1_000, "ridge")  # compiles
    rows = list[dict[str, Any]]()
    for items in options.items:
        rows += [measured(spark, *size, items, name) for name in options.models]
        if "cosine" in options.models:
            rows.append(peer(spark, *size, items))
    notes = [f"{options.users:,} users; {NEIGHBORS} neighbours; lists of {N}, without what is in the history"]
    publish(options.name, f"Weights of item pairs on {options.ratings:,} ratings", rows, notes)


if __name__ == "__main__":
    main()
