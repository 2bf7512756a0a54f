"""What the models reach on MovieLens 100K: errors over u1 to u5, and ranking with each user's last rating held out.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Split
from recsys_spark.data.download import extract
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.ranking import rank_measures
from recsys_spark.evaluation.rating import rating_measures
from recsys_spark.models import MLlibALS, PopularityRecommender
from recsys_spark.session import get_session
from tests.benchmarks.report import publish

FOLD = "user int, item int, rating double, timestamp long"


def rating_error(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """RMSE on each of the five published folds, as predicted and clipped to 1 to 5."""
    rows = []
    for fold in range(1, 6):
        train, test = (spark.read.csv(str(folder / f"u{fold}.{part}"), sep="\t", schema=FOLD) for part in ("base", "test"))
        plain = MLlibALS(rank=10, regParam=0.1, maxIter=15, seed=1).fit(train).transform(test).persist()
        inside = F.when(~F.isnan("prediction"), F.greatest(F.lit(1.0), F.least(F.lit(5.0), "prediction")))
        frames = {"rmse": plain, "rmse, clipped": plain.withColumn("prediction", inside)}
        found = {(m.model, m.metric): m.value for m in rating_measures(frames)}
        row: dict[str, object] = {"what": f"explicit ALS, rank 10, regParam 0.1, u{fold}"}
        row |= {name: found[name, "rmse"] for name in frames} | {"unpredicted": found["rmse", "unpredicted"]}
        rows.append(row)
    mean = {name: sum(float(str(row[name])) for row in rows) / 5 for name in ("rmse", "rmse, clipped")}
    return [*rows, {"what": "mean over u1 to u5 (elsewhere: .928 clipped)", **mean}]


def ranking(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """Popularity, recent popularity and implicit ALS on each user's last rating, with 95 % intervals."""
    ratings = spark.read.csv(str(folder / "u.data"), sep="\t", schema=FOLD)
    ratings = ratings.withColumn("timestamp", F.timestamp_seconds("timestamp"))
    parts = split_ratings(ratings, Split(method="leave_last"), 42).persist()
    train, test = parts.where("part = 'train'"), parts.where("part = 'test'")
    models = {
        "popularity": PopularityRecommender().fit(train),
        "popularity, half-life 30 days": PopularityRecommender(halfLife=30.0).fit(train),
        "implicit ALS, rank 32, alpha 5, regParam 0.05": MLlibALS(
            implicitPrefs=True, rank=32, alpha=5.0, regParam=0.05, seed=42
        ).fit(train),
    }
    users = test.select("user").distinct()
    lists = {name: model.lists(users, 10, train) for name, model in models.items()}
    found = {(m.model, m.metric): m for m in rank_measures(lists, test, train, None, [10], 1000, 42)}
    return [
        {
            "what": name,
            "NDCG@10": found[name, "ndcg"].value,
            "95 %": f"{found[name, 'ndcg'].low:.4f} to {found[name, 'ndcg'].high:.4f}",
            "HR@10": found[name, "hit_rate"].value,
            "coverage@10": found[name, "coverage"].value,
        }
        for name in models
    ]


def main() -> None:
    """Measure and publish."""
    data = Path(os.environ["RECSYS_DATA_DIR"])
    spark = get_session()
    with tempfile.TemporaryDirectory() as name:
        extract(data / "ml-100k.zip", Path(name))
        folder = Path(name) / "ml-100k"
        rows = rating_error(spark, folder) + ranking(spark, folder)
    publish("quality", "MovieLens 100K (Harper & Konstan 2015)", rows)


if __name__ == "__main__":
    main()
