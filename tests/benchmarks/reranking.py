"""What lists that are fit to show cost: ten items for each user of MovieLens 1M, chosen from the best hundred
by likeness, by what the user's history is made of, by caps, floors and boosts.

A tenth of each user's ratings is held out; ratings of 4 and more are interactions.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pyspark.sql import Window
from pyspark.sql import functions as F

from recsys_spark import ALS
from recsys_spark.evaluation.ranking import HEAD, ranking_metrics
from recsys_spark.histories import pack_histories
from recsys_spark.recommend.rerank import Reranking, reranked
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.quality import million_features, million_ratings
from tests.benchmarks.report import publish

SHOWN = ("ndcg", "recall", "diversity", "coverage", "novelty", "popularity_share")
TAIL = "not head"
HOW: dict[str, Reranking | None] = {
    "as the model has them": None,
    "diversity 0.1": Reranking(diversity=0.1),
    "diversity 0.3": Reranking(diversity=0.3),
    "diversity 0.5": Reranking(diversity=0.5),
    "calibration 0.3": Reranking(calibration=0.3),
    "calibration 0.6": Reranking(calibration=0.6),
    "at most 4 of a genre": Reranking(caps={"genres": 4}),
    "at most 2 of a genre": Reranking(caps={"genres": 2}),
    "diversity 0.3, at most 4 of a genre": Reranking(diversity=0.3, caps={"genres": 4}),
    "at least 3 of the long tail": Reranking(floors={TAIL: 3}),
    "the long tail boosted by 0.2": Reranking(boosts={TAIL: 0.2}),
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
    counts = train.groupBy("item").agg(F.count("*").alias("ratings"))
    place = F.row_number().over(Window.orderBy(F.desc("ratings"), "item"))
    head = counts.select("item", (place <= HEAD * counts.count()).alias("head"))
    known = items.join(head, "item", "left").fillna(False, ["head"]).persist()
    parts = train.selectExpr("*", "1.0 AS rating", "CAST(NULL AS timestamp) AS timestamp", "'train' AS part")
    histories = pack_histories(parts, train.count())
    candidates = model.recommend_lists(users, ListRequest(100, train)).persist()
    candidates.count()
    lists, taken = {}, {}
    for name, how in HOW.items():
        began = time.monotonic()
        if how is None:
            lists[name] = candidates.withColumn("recommendations", F.slice("recommendations", 1, 10))
        else:
            lists[name] = reranked(candidates, known, 10, how, histories)
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
