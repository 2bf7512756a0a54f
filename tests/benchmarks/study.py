"""What is said of embeddings, held against MovieLens 100K: norms, regularisation, gravity, neighbours.

The claims are those of the study that this project began with; each is answered with a number. Needs
``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Split
from recsys_spark.data.movielens import movielens_inputs
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.comparison import list_overlap
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.inspection.embeddings import norm_correlation
from recsys_spark.models import ALS, SoftmaxRecommender
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, NEIGHBOR, RANK, TEST, TRAIN, USER
from recsys_spark.session import get_session
from tests.benchmarks.report import publish

K = 10
RANK_OF_FACTORS = 30
LEAST_RATINGS = 20
"""Of items whose neighbours are compared."""

MODELS: dict[str, Any] = {
    "explicit, no regularisation": ALS(rank=RANK_OF_FACTORS, regParam=1e-6),
    "explicit, L2": ALS(rank=RANK_OF_FACTORS, regParam=0.1),
    "explicit, L2 and gravity": ALS(rank=RANK_OF_FACTORS, regParam=0.1, gravity=1.0),
    "implicit": ALS(rank=RANK_OF_FACTORS, regParam=0.05, alpha=5.0, implicitPrefs=True),
    "softmax": SoftmaxRecommender(),
}


def popularity_of(rows: DataFrame, column: str, counts: DataFrame) -> float:
    """Mean number of ratings of the items in a column."""
    joined = rows.select(F.col(column).alias(ITEM)).join(counts, ITEM)
    return float(joined.agg(F.avg("ratings")).collect()[0][0])


def by_cosine(model: FactorModel) -> FactorModel:
    """The same model with item vectors of length one, so that lists are by cosine."""
    length = F.sqrt(F.aggregate("features", F.lit(0.0), lambda total, x: total + x * x))
    unit = F.transform("features", lambda x: (x / F.greatest(F.col("length"), F.lit(1e-12))).cast("float"))
    other: FactorModel = model.copy()
    other.itemFactors = model.itemFactors.withColumn("length", length).select("id", unit.alias("features"))
    return other


def neighbors_of(model: FactorModel, measure: str, some: DataFrame) -> DataFrame:
    """Neighbours of some items as lists: ``user`` is the item, ``item`` the neighbour."""
    rows = model.similarItems(K, measure, items=some)
    return rows.select(F.col(ITEM).alias(USER), F.col(NEIGHBOR).alias(ITEM), RANK)


def main() -> None:
    """Run the study; see the module."""
    spark, path = get_session(), Path(os.environ["RECSYS_DATA_DIR"]) / "ml-100k.zip"
    with movielens_inputs(spark, str(path)) as raw:
        types = F.col(USER).cast("int"), F.col(ITEM).cast("int"), F.col("rating").cast("double")
        stamp = F.timestamp_seconds(F.col("timestamp").cast("long")).alias("timestamp")
        rows = raw.ratings.select(*types, stamp)
        parts = split_ratings(rows, Split(method="random", test_fraction=0.1, validation_fraction=0.1), 42)
        parts = parts.persist()
        parts.count()
    train, test = (parts.where(F.col("part") == part) for part in (TRAIN, TEST))
    counts = train.groupBy(ITEM).agg(F.count("*").alias("ratings")).persist()
    some = counts.where(F.col("ratings") >= LEAST_RATINGS).select(ITEM)
    seen, users = train.select(USER, ITEM), test.select(USER).distinct()
    measured, fitted = [], {name: estimator.fit(train) for name, estimator in MODELS.items()}
    for name, model in fitted.items():
        lists = {
            measure: of.recommend_lists(users, ListRequest(K, seen))
            for measure, of in (("dot", model), ("cosine", by_cosine(model)))
        }
        values = {
            (value.model, value.metric): value.value
            for value in ranking_metrics(lists, test, train, None, [K], 0, 42)
        }
        explicit = name.startswith("explicit")
        errors = rating_metrics({name: model.transform(test)}) if explicit else []
        liked = {measure: neighbors_of(model, measure, some) for measure in ("dot", "cosine")}
        others = neighbors_of(fitted["implicit"], "cosine", some)
        overlap = list_overlap(liked["cosine"], others)
        measured.append(
            {
                "model": name,
                "norm ~ popularity": norm_correlation(model, train),
                "RMSE": next((value.value for value in errors if value.metric == "rmse"), None),
                f"NDCG@{K}": values["dot", "ndcg"],
                f"NDCG@{K}, cosine": values["cosine", "ndcg"],
                "novelty, bits": values["dot", "novelty"],
                "novelty, cosine": values["cosine", "novelty"],
                "neighbours' ratings, dot": popularity_of(liked["dot"], ITEM, counts),
                "neighbours' ratings, cosine": popularity_of(liked["cosine"], ITEM, counts),
                "RBO of neighbours with implicit": overlap[0] if overlap else None,
            }
        )
    notes = [
        "MovieLens 100K, 80 % train and 10 % test at random; rank 30, ten iterations; softmax as by default",
        "norm ~ popularity: rank correlation of the items' norms with their numbers of ratings",
        f"neighbours: {K} of each item that has {LEAST_RATINGS} ratings, and their mean number of ratings",
    ]
    publish("study", "What is said of embeddings", measured, notes)


if __name__ == "__main__":
    main()
