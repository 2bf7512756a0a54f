"""Users and items of whom nothing is known but their features, on MovieLens 1M: lists for a tenth of the
users and lists of a tenth of the items, none of which any model was fitted on, against popular items.

Ratings of 4 and 5 are interactions. Users have age, gender and occupation, items genres and year. Lists for
new users are of the items that the models know; those of new items are for the users that they know, among
new items alone, of which nothing is popular yet. Nothing was tuned.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.models import (
    PairwiseRecommender,
    PopularityModel,
    PopularityRecommender,
    SegmentPopularityRecommender,
)
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.quality import million_cells, million_features
from tests.benchmarks.report import publish, seconds

NDCG, RECALL = 10, 50
LEAST, SEED = 4, 7


def measured(what: str, wanted: DataFrame, catalogue: DataFrame, lists: DataFrame) -> dict[str, Any]:
    """NDCG and recall of lists, with intervals of 95 %; ``catalogue`` has all items that may be listed."""
    found = {
        (one.metric, one.k): one
        for one in ranking_metrics({"it": lists}, wanted, catalogue, None, [NDCG, RECALL], 1000, SEED)
    }
    row: dict[str, Any] = {"what": what}
    for metric, k in (("ndcg", NDCG), ("recall", RECALL)):
        one = found[metric, k]
        row |= {f"{metric}@{k}": one.value, f"{metric}@{k}, 95 %": f"{one.low:.4f} to {one.high:.4f}"}
    return row


def main() -> None:
    """Measure and publish."""
    spark, folder = get_session(), Path(os.environ["RECSYS_DATA_DIR"]) / "ml-1m"
    cells, features = million_cells(folder), million_features(spark, folder)
    pairs = pd.DataFrame(cells[cells[:, 2] >= LEAST, :2].astype(np.int32), columns=["user", "item"])
    rng = np.random.default_rng(SEED)
    new = {}
    for side in ("user", "item"):
        ids = rng.permutation(pairs[side].unique())
        new[side] = ids[: len(ids) // 10]
    of_new = {side: pairs[side].isin(ids) for side, ids in new.items()}

    def frame(rows: pd.DataFrame) -> DataFrame:
        return spark.createDataFrame(rows).repartition(2).persist()

    train = frame(pairs[~of_new["user"] & ~of_new["item"]])
    by_new_users = frame(pairs[of_new["user"] & ~of_new["item"]])
    of_new_items = frame(pairs[~of_new["user"] & of_new["item"]])
    estimator = PairwiseRecommender(ratingCol="", seed=SEED, maxIter=30, **features)
    fits = list[Any]()
    taken = seconds(lambda: fits.append(estimator.fit(train)))
    model = fits[0].foldIn(userFeatures=features["userFeatures"], itemFeatures=features["itemFeatures"])

    people = by_new_users.select("user").distinct().persist()
    request = ListRequest(RECALL, allowed_items=train.select("item").distinct())
    popular = PopularityRecommender().fit(train)
    of_age = {"userFeatureCols": ["age"], "userFeatures": features["userFeatures"]}
    by_age = SegmentPopularityRecommender(**of_age).fit(train).recommend_lists(people, request)
    rows = [
        measured("new users, by their features", by_new_users, train, model.recommend_lists(people, request)),
        measured("new users, popular items", by_new_users, train, popular.recommend_lists(people, request)),
        measured("new users, popular items of their age", by_new_users, train, by_age),
    ]
    fresh = spark.createDataFrame(pd.DataFrame({"item": new["item"].astype(np.int32)}))
    request = ListRequest(RECALL, allowed_items=fresh)
    known = of_new_items.select("user").distinct().persist()
    drawn = fresh.select(F.col("item").alias("id"), F.rand(SEED).alias("score"))
    one_order = PopularityModel(drawn.localCheckpoint(), known.select(F.col("user").alias("id")))
    by_chance = one_order.recommend_lists(known, request)
    lists, everything = model.recommend_lists(known, request), train.unionByName(of_new_items)
    rows += [
        measured("new items, by their features", of_new_items, everything, lists),
        measured("new items, one order for all, at random", of_new_items, everything, by_chance),
    ]
    notes = [
        f"{people.count():,} new users, {len(new['item']):,} new items, {known.count():,} users of them",
        f"a fit of pairwise, 30 epochs with features: {taken:.0f} s",
    ]
    publish("cold_start", "MovieLens 1M, users and items without a rating", rows, notes)


if __name__ == "__main__":
    main()
