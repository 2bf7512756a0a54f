"""What variety costs: lists of ten for MovieLens 1M, chosen from the best hundred by likeness and by caps.

A tenth of each user's ratings is held out; ratings of 4 and more are interactions.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pyspark.sql import functions as F

from recsys_spark import ALS
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.recommend.rerank import reranked
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.quality import million_features, million_ratings
from tests.benchmarks.report import publish

SHOWN = ("ndcg", "recall", "diversity", "coverage", "novelty")
HOW = {
    "as the model has them": None,
    "diversity 0.1": (0.1, {}),
    "diversity 0.3": (0.3, {}),
    "diversity 0.5": (0.5, {}),
    "at most 4 of a genre": (0.0, {"genres": 4}),
    "at most 2 of a genre": (0.0, {"genres": 2}),
    "diversity 0.3, at most 4 of a genre": (0.3, {"genres": 4}),
}


def main() -> None:
    """Measure and publish."""
    folder, spark = Path(os.environ["RECSYS_DATA_DIR"]) / "ml-1m", get_session()
    items = million_features(spark, folder)["itemFeatures"].persist()
    liked = million_ratings(spark, folder).where("rating >= 4").select("user", "item")
    held = F.pmod(F.xxhash64("user", "item", F.lit(7)), F.lit(10)) == 0
    train, test = liked.where(~held).persist(), liked.where(held).persist()
    params = {"rank": 64, "regParam": 0.01, "unobservedWeight": 0.1, "maxIter": 10, "seed": 1}
    model = ALS(implicitPrefs=True, ratingCol="", **params).fit(train)
    users = test.select("user").distinct()
    candidates = model.recommend_lists(users, ListRequest(100, train)).persist()
    candidates.count()
    lists, taken = {}, {}
    for name, how in HOW.items():
        began = time.monotonic()
        if how is None:
            lists[name] = candidates.withColumn("recommendations", F.slice("recommendations", 1, 10))
        else:
            lists[name] = reranked(candidates, items, 10, how[0], "genres", how[1])
        lists[name].persist().count()
        taken[name] = time.monotonic() - began
    found = ranking_metrics(lists, test, train, items, [10], 200, 42)
    rows = []
    for name in HOW:
        own = {one.metric: one for one in found if one.model == name}
        low, high = own["ndcg"].low, own["ndcg"].high
        rows.append(
            {"what": name}
            | {f"{metric}@10": own[metric].value for metric in SHOWN}
            | {"ndcg, 95 %": f"{low:.4f} to {high:.4f}", "s": taken[name]}
        )
    publish("reranking", f"Lists of ten of {users.count():,} users of MovieLens 1M", rows)


if __name__ == "__main__":
    main()
