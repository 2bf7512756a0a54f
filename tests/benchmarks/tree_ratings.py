"""Ratings of MovieLens 100K, folds u1 to u5, by gradient-boosted trees on what a factor model says and on
side features, beside the factor model alone.

Trees learn from what the factor model predicts for ratings that it was not fitted on: a fifth of a fold's
training ratings at a time. Nothing was tuned on the folds.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from xgboost.spark import SparkXGBRegressor

from recsys_spark.data.download import extract
from recsys_spark.session import get_session
from tests.benchmarks.quality import BIASED, FOLD, biased, side_features
from tests.benchmarks.report import publish

INNER, SEED = 5, 7
OF_FACTORS = ["prediction", "bias of user", "bias of item"]
OF_COUNTS = [f"{what} of {side}" for side in ("user", "item") for what in ("mean", "ratings")]
TREES = {"max_depth": 5, "n_estimators": 300, "learning_rate": 0.03, "min_child_weight": 20, "subsample": 0.8}


def told_by_factors(train: DataFrame, asked: DataFrame) -> pd.DataFrame:
    """Pairs with what the factor model that is fitted on ``train``, and its counts, say of them."""
    model: Any = biased().fit(train)
    rows = model.transform(asked)
    for side, factors in (("user", model.userFactors), ("item", model.itemFactors)):
        bias = factors.select(F.col("id").alias(side), F.col("bias").alias(f"bias of {side}"))
        sums = [F.mean("rating").alias(f"mean of {side}"), F.count("*").alias(f"ratings of {side}")]
        rows = rows.join(bias, side, "left").join(train.groupBy(side).agg(*sums), side, "left")
    found = rows.toPandas()
    model.unpersist()
    return found


def numbers(spark: SparkSession, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Side features of users and items as numbers."""
    given = side_features(spark, folder)
    users, items = given["userFeatures"].toPandas(), given["itemFeatures"].toPandas()
    users = pd.get_dummies(users.drop(columns="zip"), columns=["gender", "occupation"], dtype=float)
    genres = items["genres"].str.join("|").str.get_dummies().astype(float)
    return users, pd.concat([items[["item", "year"]], genres], axis=1)


def rmse(frame: pd.DataFrame, column: str) -> float:
    """Of predictions, clipped to the scale."""
    return float(np.sqrt(np.mean((frame[column].fillna(3.5).clip(1, 5) - frame["rating"]) ** 2)))


def vectors(spark: SparkSession, frame: pd.DataFrame, names: list[str]) -> DataFrame:
    """Rows as trees take them: ``rating``, and the named columns as ``features``, an array."""
    rows = zip(frame["rating"].tolist(), frame[names].to_numpy(np.float64).tolist(), strict=True)
    return spark.createDataFrame(list(rows), "rating double, features array<double>")


def fold_errors(spark: SparkSession, folder: Path, fold: int, users: Any, items: Any) -> dict[str, float]:
    """Errors on one fold: of the factor model alone, and of trees."""
    train, test = (
        spark.read.csv(str(folder / f"u{fold}.{part}"), sep="\t", schema=FOLD).drop("timestamp")
        for part in ("base", "test")
    )
    place = F.pmod(F.xxhash64("user", "item", F.lit(SEED)), F.lit(INNER))
    parts = [
        told_by_factors(train.where(place != inner), train.where(place == inner)) for inner in range(INNER)
    ]
    learnt, asked = (
        frame.merge(users, on="user").merge(items, on="item")
        for frame in (pd.concat(parts), told_by_factors(train, test))
    )
    side = [name for name in learnt.columns if name in {*users.columns, *items.columns} - {"user", "item"}]
    found = {BIASED: rmse(asked, "prediction")}
    for what, names in {
        "trees on its predictions, biases and counts": OF_FACTORS + OF_COUNTS,
        "trees on these and side features": OF_FACTORS + OF_COUNTS + side,
        "trees on counts and side features alone": OF_COUNTS + side,
    }.items():
        trees = SparkXGBRegressor(
            features_col="features",
            label_col="rating",
            prediction_col="by trees",
            num_workers=1,
            seed=SEED,
            verbose=False,
            **TREES,
        )
        fit = trees.fit(vectors(spark, learnt, names).coalesce(1))
        predicted = fit.transform(vectors(spark, asked, names))
        found[what] = rmse(predicted.select("rating", "by trees").toPandas(), "by trees")
    return found


def main() -> None:
    """Measure and publish."""
    spark = get_session()
    with tempfile.TemporaryDirectory() as name:
        extract(Path(os.environ["RECSYS_DATA_DIR"]) / "ml-100k.zip", Path(name))
        folder = Path(name) / "ml-100k"
        users, items = numbers(spark, folder)
        folds = [fold_errors(spark, folder, fold, users, items) for fold in range(1, 6)]
    rows = [
        {"what": what, **{f"u{fold}": one[what] for fold, one in enumerate(folds, 1)}}
        | {"mean rmse, clipped": float(np.mean([one[what] for one in folds]))}
        for what in folds[0]
    ]
    publish(
        "tree_ratings", "MovieLens 100K: ratings by trees on a factor model, RMSE clipped to 1 to 5", rows
    )


if __name__ == "__main__":
    main()
