"""What a second stage adds: lists of a ranker over the whole catalogue, beside those of each of its
retrievers and of a blend, on MovieLens 1M, a random rating of each user, and on MovieLens 100K, the last
fifth of the ratings by time.

The order of MovieLens 1M's file is nearly the same for all users. Who can tell items apart learns from it
which one is a user's last, so that it is of no use here.

All ratings are interactions. Settings were not tuned on the test rows; weights of the blend are chosen on
what the ranker's trees learn from. Intervals of differences are of a paired bootstrap over users.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import argparse
import os
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.data.split import leave_last_out, random_per_user, temporal_split
from recsys_spark.evaluation.comparison import paired_bootstrap
from recsys_spark.evaluation.hits import by_user, with_lists
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.evaluation.users import user_metrics
from recsys_spark.models.registry import build
from recsys_spark.recommend.candidates import candidates
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.quality import million_cells, million_features
from tests.benchmarks.report import publish

SEED, LONGEST, NUMBERS = 7, 500, (50, 100, 500)
MEMBERS: dict[str, dict[str, Any]] = {
    "als": {"implicitPrefs": True, "rank": 64, "regParam": 0.01, "unobservedWeight": 0.1, "regExponent": 1.0},
    "item_item": {"neighbors": 200, "regParam": 200.0},
    "softmax": {"embeddingDim": 64, "maxIter": 20},
    "popularity": {"halfLife": 0.0},
}
BLENDED = ("als", "item_item", "softmax")
RANKED = "ranker"
RANKERS: dict[str, dict[str, Any]] = {RANKED: {}, "ranker, lambdarank": {"loss": "lambdarank"}}
RANKERS["ranker, lambdarank, deep"] = {"loss": "lambdarank", "maxDepth": 6, "featureFraction": 1.0}
RANKERS["ranker, with block scores"] = {"scoreBlocks": ["als", "softmax"]}


class Data(NamedTuple):
    """Rows, and side features.

    Attributes
    ----------
    train, test : ``user``, ``item``, ``rating``, ``timestamp``
    features : as estimators take them
    labels : of the ranker
    """

    train: DataFrame
    test: DataFrame
    features: dict[str, Any]
    labels: str


def million(spark: SparkSession, folder: Path) -> Data:
    """MovieLens 1M, which has no times."""
    cells = million_cells(folder / "ml-1m")
    frame = pd.DataFrame(cells, columns=["user", "item", "rating"]).astype({"user": "int32", "item": "int32"})
    rows = spark.createDataFrame(frame).withColumn("timestamp", F.lit(None).cast("timestamp"))
    parts = random_per_user(rows, 1, SEED).persist()
    test = F.col("part") == "test"
    features = million_features(spark, folder / "ml-1m")
    return Data(parts.where(~test).drop("part"), parts.where(test).drop("part"), features, "leave_last")


def hundred_thousand(spark: SparkSession, folder: Path) -> Data:
    """MovieLens 100K by time."""
    with TemporaryDirectory() as unpacked:
        zipfile.ZipFile(folder / "ml-100k.zip").extractall(unpacked)
        (place,) = Path(unpacked).rglob("u.data")
        frame = pd.read_csv(place, sep="\t", names=["user", "item", "rating", "at"])
        names = [line.split("|")[0] for line in (place.parent / "u.genre").read_text().splitlines() if line]
        users = pd.read_csv(
            place.parent / "u.user", sep="|", names=["user", "age", "gender", "occupation", "zip"]
        )
        cells = pd.read_csv(place.parent / "u.item", sep="|", header=None, encoding="latin-1")
    genres = [
        [name for name, has in zip(names, row, strict=True) if has] for row in cells.iloc[:, 5:].to_numpy()
    ]
    year = cells[1].str.extract(r"\((\d{4})\)")[0].astype(float)
    items = pd.DataFrame({"item": cells[0], "genres": genres, "year": year})
    rows = spark.createDataFrame(frame).withColumn("timestamp", F.timestamp_seconds("at")).drop("at")
    parts = temporal_split(rows, 0.0, 0.2).persist()
    test = F.col("part") == "test"
    known = parts.where(~test).select("user").distinct()
    features = {
        "userFeatures": spark.createDataFrame(users.drop(columns="zip")).persist(),
        "itemFeatures": spark.createDataFrame(items).persist(),
        "userFeatureCols": ["gender", "occupation", "age"],
        "itemFeatureCols": ["genres", "year"],
    }
    later = parts.where(test).join(known, "user", "left_semi")
    return Data(parts.where(~test).drop("part"), later.drop("part"), features, "temporal")


def blend_of(data: Data) -> Any:
    """A blend whose weights are chosen on the last rows of what is learnt from."""
    how = (
        temporal_split(data.train, 0.0, 0.1)
        if data.labels == "temporal"
        else leave_last_out(data.train, 1, SEED)
    )
    last = F.col("part") == "test"
    params = {"members": {name: MEMBERS[name] for name in BLENDED}}
    chooser: Any = build("blend", params, SEED)
    chooser.set_validation(how.where(last))
    chosen = chooser.fit(how.where(~last).drop("part"))
    return build("blend", params | {"memberWeights": chosen.getMemberWeights()}, SEED)


def ranker_of(data: Data, how: dict[str, Any]) -> Any:
    """A ranker."""
    estimator: Any = build("ranker", {"members": MEMBERS, "labels": data.labels, **how}, SEED)
    for side in ("user", "item"):
        estimator.set(estimator.getParam(f"{side}FeatureCols"), data.features[f"{side}FeatureCols"])
        estimator.set_features(side, data.features[f"{side}Features"])
    return estimator


def estimator_of(name: str, data: Data) -> Any:
    """One of what is compared."""
    if name in MEMBERS:
        return build(name, MEMBERS[name], SEED)
    return ranker_of(data, RANKERS[name]) if name in RANKERS else blend_of(data)


def measured(data: Data, what: str) -> tuple[list[dict[str, Any]], str]:
    """All models on one data set."""
    train, test = data.train.persist(), data.test.persist()
    users = test.select("user").distinct().persist()
    lists, taken, gains = dict[str, DataFrame](), dict[str, float](), None
    for name in (*MEMBERS, "blend", *RANKERS):
        started = time.monotonic()
        model: Any = estimator_of(name, data).fit(train)
        n = LONGEST if name in MEMBERS else 10
        lists[name] = model.recommend_lists(users, ListRequest(n, train)).persist()
        lists[name].count()
        taken[name] = time.monotonic() - started
        if name == RANKED:
            gains = model.importances().orderBy(F.desc("gain")).limit(8).collect()
    values = ranking_metrics(lists, test, train, None, [10, *NUMBERS], 1000, SEED)
    found = {(one.model, one.metric, one.k): one for one in values}
    single = max(MEMBERS, key=lambda name: found[name, "ndcg", 10].value)
    differences = paired(lists, test, [single, "blend"])
    rows = []
    for name in lists:
        ndcg = found[name, "ndcg", 10]
        row: dict[str, Any] = {"data": what, "what": name, "NDCG@10": ndcg.value}
        row["95 %"] = f"{ndcg.low:.4f} to {ndcg.high:.4f}"
        if name in MEMBERS:
            row |= {f"R@{k}": found[name, "recall", k].value for k in NUMBERS}
        if name in differences:
            row["the ranker's gain over it"] = differences[name]
        rows.append(row | {"fit and lists, s": taken[name]})
    rows.insert(len(MEMBERS), {"data": what, "what": "union of the retrievers"} | union(lists, test))
    asked = ", ".join(row["feature"] for row in gains or [])
    return rows, f"{what}: what questions of the trees gain most by, on average: {asked}"


def union(lists: dict[str, DataFrame], test: DataFrame) -> dict[str, Any]:
    """Recall of what any retriever lists among its first, and how many items that is."""
    found = candidates({name: lists[name] for name in MEMBERS}).persist()
    wanted = test.select("user", "item").join(found, ["user", "item"], "left")
    row: dict[str, Any] = {}
    for k in NUMBERS:
        among = F.least(*(F.coalesce(F.col(f"{name}_rank"), F.lit(10**6)) for name in MEMBERS)) <= k
        (mean,) = (
            wanted.groupBy("user").agg(F.avg(among.cast("double")).alias("it")).agg(F.avg("it")).collect()
        )
        row[f"R@{k}"] = mean[0]
        row[f"items of {k} each"] = found.where(among).count() / found.select("user").distinct().count()
    return row


def paired(lists: dict[str, DataFrame], test: DataFrame, others: list[str]) -> dict[str, str]:
    """How much more NDCG@10 the ranker has than others, with 95 % intervals."""
    per_user = user_metrics(with_lists(lists, by_user(test.select("user", "item"))), list(lists), 10)
    wide = per_user.groupBy("user").pivot("model", list(lists)).agg(F.first("ndcg"))
    gains = wide.select("user", *((F.col(RANKED) - F.col(name)).alias(name) for name in others))
    told = {}
    for one in paired_bootstrap(gains, others, [], 1000, SEED):
        low, high = one.interval()
        told[one.column] = f"{one.mean:+.4f} ({low:+.4f} to {high:+.4f})"
    return told


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["100k", "1m"], choices=["100k", "1m"])
    parser.add_argument("--name", default="ranker", help="of the file of results")
    options = parser.parse_args()
    folder, spark = Path(os.environ["RECSYS_DATA_DIR"]), get_session()
    sets = {"100k": ("MovieLens 100K", hundred_thousand), "1m": ("MovieLens 1M", million)}
    rows, notes = list[dict[str, Any]](), list[str]()
    for name in options.data:
        what, read = sets[name]
        found, note = measured(read(spark, folder), what)
        rows, notes = [*rows, *found], [*notes, note]
    publish(options.name, "A ranker beside its retrievers and a blend, over the whole catalogue", rows, notes)


if __name__ == "__main__":
    main()
