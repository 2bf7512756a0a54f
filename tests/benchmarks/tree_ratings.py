"""Ratings of MovieLens 100K, folds u1 to u5, by gradient-boosted trees on what factor models predict and on
side features, beside the factor models alone.

Trees learn from all training ratings, a fifth at a time, of which the models whose predictions they read know
nothing. Nothing was tuned on the folds.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark.data.download import extract
from recsys_spark.models import RankerRecommender
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.session import get_session
from tests.benchmarks.quality import BIASED, DRAWN, bayesian, biased, fold_error, side_features
from tests.benchmarks.report import publish

ON_BIASED = {"als": {"rank": 60, "regParam": 0.09, "maxIter": 15, "useBiases": True, "seed": 1}}
ON_DRAWN = {"als": {"rank": 20, "bayesian": True, "maxIter": 220, "burnIn": 20, "samples": 100, "seed": 1}}


def by_trees(members: dict[str, Any], **params: Any) -> RankerRecommender:
    """The estimator, of ratings that may be of any time."""
    return RankerRecommender(
        members=members,
        loss="squared",
        labels="folds",
        maxDepth=5,
        timestampCol="",
        seed=1,
        **params,
    )


def main() -> None:
    """Measure and publish."""
    spark = get_session()
    with tempfile.TemporaryDirectory() as name:
        extract(Path(os.environ["RECSYS_DATA_DIR"]) / "ml-100k.zip", Path(name))
        folder = Path(name) / "ml-100k"
        side = side_features(spark, folder)
        models: dict[str, RecommenderEstimator] = {
            BIASED: biased(),
            f"trees on {BIASED}": by_trees(ON_BIASED),
            f"trees on {BIASED}, side features": by_trees(ON_BIASED, **side),
            DRAWN: bayesian(),
            f"trees on {DRAWN}, side features": by_trees(ON_DRAWN, **side),
        }
        rows: list[dict[str, object]] = []
        for what, estimator in models.items():
            started = time.monotonic()
            folds = [fold_error(spark, folder, estimator, fold)["rmse, clipped"] for fold in range(1, 6)]
            taken = (time.monotonic() - started) / len(folds)
            found = {f"u{fold}": error for fold, error in enumerate(folds, 1)}
            rows.append({"what": what} | found | {"mean": float(np.mean(folds)), "seconds a fold": taken})
    publish("tree_ratings", "MovieLens 100K: ratings by trees on factor models, RMSE clipped to 1 to 5", rows)


if __name__ == "__main__":
    main()
