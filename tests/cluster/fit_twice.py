"""Program of test_fits: fits a model twice on the master it is given, and says whether both have the same
result.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import numpy as np
from pyspark.sql import functions as F

from recsys_spark.config import Session
from recsys_spark.errors import GroupError
from recsys_spark.models import ALS, SoftmaxRecommender
from recsys_spark.session import get_session
from recsys_spark.training.group import group_size


def where_loaded(_: object) -> list[str]:
    import recsys_spark.kernels.least_squares as module

    return [str(module.__file__)]


MODELS = {
    "als": ALS(rank=32, maxIter=150, implicitPrefs=True, checkpointInterval=-1, seed=1),
    "softmax": SoftmaxRecommender(maxIter=40, batchSize=64, checkpointInterval=20, seed=1),
}


def main(master: str, package: str, model_name: str) -> None:
    settings = {
        "spark.master": master,
        "spark.executor.cores": "1",
        "spark.executor.memory": "1g",
        "spark.driver.memory": "1g",
    }
    spark = get_session(Session(spark=settings))
    spark.sparkContext.addPyFile(package)
    wait_for_two_executors(spark)
    user, item = (
        F.pmod(F.xxhash64("id", F.lit(key)), F.lit(size)).alias(key)
        for key, size in (("user", 3000), ("item", 2000))
    )
    events = spark.range(150_000).select(user, item, F.lit(1.0).alias("rating"))

    def fit() -> tuple[str, list[float]]:
        model = MODELS[model_name].fit(events)
        factors = model.userFactors.unionAll(model.itemFactors).collect()
        digest = hashlib.sha256(
            np.array(sorted([row["id"], *row["features"]] for row in factors)).tobytes()
        ).hexdigest()
        return digest, model.summary.objectiveHistory

    first = fit()
    print("and again", file=sys.stderr, flush=True)
    second = fit()
    module = spark.sparkContext.parallelize([0], 1).flatMap(where_loaded).collect()[0]
    print(
        json.dumps(
            {
                "same factors": first[0] == second[0],
                "same objectives": first[1] == second[1],
                "module": module,
            }
        )
    )
    spark.stop()


def wait_for_two_executors(spark: object) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if group_size(spark) == 2:
                return
        except GroupError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the workers did not come")


if __name__ == "__main__":
    main(*sys.argv[1:])
