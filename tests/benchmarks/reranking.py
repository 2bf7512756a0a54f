"""What lists that are fit to show cost: ten items for each user of MovieLens 1M, chosen from the best hundred
by likeness, by what the user's history is made of, by caps, floors, boosts and burials; with slots that are
pinned or drawn; and without what was listed the night before.

A tenth of each user's ratings is held out; ratings of 4 and more are interactions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark import ALS, PopularityRecommender
from recsys_spark.evaluation.ranking import HEAD, ranking_metrics
from recsys_spark.histories import pack_histories
from recsys_spark.kernels.slots import Slot
from recsys_spark.recommend.rerank import Reranking, reranked
from recsys_spark.recommend.slots import Pool, with_slots
from recsys_spark.recommend.top_n import ListRequest, explode_lists
from recsys_spark.session import get_session
from tests.benchmarks.quality import million_features, million_ratings
from tests.benchmarks.report import publish

N, CANDIDATES = 10, 100
SHOWN = ("ndcg", "recall", "diversity", "coverage", "novelty", "popularity_share")
TAIL, RECENT = "not head", "year >= 1999"
HOW: dict[str, Reranking] = {
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
    "the most rated fifth buried by 0.2": Reranking(boosts={"head": -0.2}),
    "a promotion: at least 2 of the last two years": Reranking(floors={RECENT: 2}),
}


def slots_of(candidates: DataFrame, popular: DataFrame, tail: DataFrame) -> dict[str, DataFrame]:
    """Lists with slots, by how they are filled: of a campaign, of the model's next, of the long tail."""
    first = candidates.withColumn("recommendations", F.slice("recommendations", 1, 2 * N))
    rows = explode_lists(first).withColumns({"model": F.lit("als"), "reason": F.lit("model")})
    pools = {
        "rank 1 pinned to the most rated unseen item": (popular, [Slot(1, 0, 0.0)]),
        "ranks 5 and 10 drawn in a fifth of the lists, of the best 50": (
            candidates.withColumn("recommendations", F.slice("recommendations", 1, 50)),
            [Slot(5, 0, 0.2), Slot(10, 0, 0.2)],
        ),
        "rank 9 drawn of items with 5 to 20 ratings": (tail, [Slot(9, 0, 1.0)]),
    }
    return {
        name: lists_of(with_slots(rows, [Pool(lists, "slots", "slot")], slots, N, 1, 1))
        for name, (lists, slots) in pools.items()
    }


def lists_of(rows: DataFrame) -> DataFrame:
    """Rows as lists."""
    entries = F.sort_array(F.collect_list(F.struct("rank", "item", "score")))
    short = F.transform(
        entries, lambda entry: F.struct(entry["item"].alias("item"), entry["score"].alias("score"))
    )
    return rows.groupBy(F.col("user").alias("id")).agg(short.alias("recommendations"))


def divergence(lists: DataFrame, train: DataFrame, genres: DataFrame) -> float:
    """Mean Kullback-Leibler divergence of the genres of lists from those of histories (Steck 2018, with his
    smoothing by a hundredth of the history).
    """

    def mixed(pairs: DataFrame) -> pd.DataFrame:
        each = pairs.join(genres, "item").select(
            "user", F.explode("genres").alias("genre"), (1 / F.size("genres")).alias("w")
        )
        table = (
            each.groupBy("user", "genre")
            .agg(F.sum("w").alias("w"))
            .toPandas()
            .pivot(index="user", columns="genre", values="w")
        )
        return table.fillna(0.0).div(table.sum(axis=1), axis=0)

    history, shown = mixed(train), mixed(explode_lists(lists).select("user", "item"))
    p, q = history.loc[shown.index].align(shown, axis=1, fill_value=0.0)
    p, q = p.to_numpy(), 0.99 * q.to_numpy() + 0.01 * p.to_numpy()
    return float(
        np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0)), 0.0).sum(axis=1).mean()
    )


def main() -> None:
    """Measure and publish."""
    folder, spark = Path(os.environ["RECSYS_DATA_DIR"]) / "ml-1m", get_session()
    items = million_features(spark, folder)["itemFeatures"].persist()
    liked = million_ratings(spark, folder).where("rating >= 4").select("user", "item")
    held = F.pmod(F.xxhash64("user", "item", F.lit(7)), F.lit(10)) == 0
    train, test = liked.where(~held).persist(), liked.where(held).persist()
    params = {"rank": 64, "regParam": 0.01, "unobservedWeight": 0.1, "maxIter": 10, "seed": 1}
    model = ALS(implicitPrefs=True, ratingCol="", **params).fit(train)
    users = test.select("user").distinct().persist()
    counts = train.groupBy("item").agg(F.count("*").alias("ratings"))
    place = F.row_number().over(Window.orderBy(F.desc("ratings"), "item"))
    head = counts.select("item", "ratings", (place <= HEAD * counts.count()).alias("head"))
    known = items.join(head, "item", "left").fillna(False, ["head"]).persist()
    parts = train.selectExpr("*", "1.0 AS rating", "CAST(NULL AS timestamp) AS timestamp", "'train' AS part")
    histories = pack_histories(parts, train.count())
    candidates = model.recommend_lists(users, ListRequest(CANDIDATES, train)).persist()
    candidates.count()
    best = candidates.withColumn("recommendations", F.slice("recommendations", 1, N)).persist()
    most_rated = PopularityRecommender().fit(train)
    popular = most_rated.recommend_lists(users, ListRequest(2 * N, train)).persist()
    seldom = known.where("ratings BETWEEN 5 AND 20").select("item")
    tail = most_rated.recommend_lists(users, ListRequest(50, train, allowed_items=seldom)).persist()
    shown = explode_lists(best).select("user", "item")
    again = ListRequest(N, train.unionByName(shown))
    ways: dict[str, Callable[[], DataFrame]] = {"as the model has them": lambda: best}
    ways |= {
        name: lambda how=how: reranked(candidates, known, N, how, histories) for name, how in HOW.items()
    }
    ways |= {name: lambda lists=lists: lists for name, lists in slots_of(candidates, popular, tail).items()}
    ways["the second night, nothing again"] = lambda: model.recommend_lists(users, again)
    lists, taken = {}, {}
    for name, make in ways.items():
        began = time.monotonic()
        lists[name] = make().persist()
        lists[name].count()
        taken[name] = time.monotonic() - began
    found = ranking_metrics(lists, test, train, items, [N], 200, 42)
    recent, rows = known.where(RECENT).select("item"), []
    for name, made in lists.items():
        own = {one.metric: one for one in found if one.model == name}
        low, high = own["ndcg"].low, own["ndcg"].high
        rows_of = explode_lists(made)
        of_recent = rows_of.join(recent, "item", "left_semi").count() / rows_of.count()
        rows.append(
            {"what": name}
            | {f"{metric}@{N}": own[metric].value for metric in SHOWN}
            | {"divergence of genres": divergence(made, train, items), "of the last two years": of_recent}
            | {"ndcg, 95 %": f"{low:.4f} to {high:.4f}", "s": taken[name]}
        )
    publish("reranking", f"Lists of ten of {users.count():,} users of MovieLens 1M", rows)


if __name__ == "__main__":
    main()
