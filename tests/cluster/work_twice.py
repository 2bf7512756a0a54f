"""Program of test_lost_executors: does a piece of work twice on the master it is given, and says whether both
times have the same result.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Session
from recsys_spark.errors import GroupError
from recsys_spark.models import ALS, SoftmaxRecommender
from recsys_spark.sampling import NegativeSampler
from recsys_spark.session import get_session
from recsys_spark.training.group import group_size

TASKS = 12


def where_loaded(_: object) -> list[str]:
    import recsys_spark.kernels.least_squares as module

    return [str(module.__file__)]


def als(events: DataFrame) -> DataFrame:
    model = ALS(rank=32, maxIter=80, implicitPrefs=True, checkpointInterval=-1, seed=1).fit(events)
    return model.userFactors.unionAll(model.itemFactors)


def softmax(events: DataFrame) -> DataFrame:
    model = SoftmaxRecommender(maxIter=24, batchSize=64, checkpointInterval=12, seed=1).fit(events)
    return model.userFactors.unionAll(model.itemFactors)


def sampling(events: DataFrame) -> DataFrame:
    return NegativeSampler(ratio=40, seed=1).transform(events.repartition(TASKS, "user"))


def lists(events: DataFrame) -> DataFrame:
    model = ALS(rank=32, maxIter=1, implicitPrefs=True, solver="cg", seed=1).fit(events)
    return model.recommendForAllUsers(500, excludeSeen=events)


WORK = {work.__name__: work for work in (als, softmax, sampling, lists)}


def fingerprint(frame: DataFrame) -> str:
    """One number for all rows, in any order."""
    return str(frame.select(F.sum(F.xxhash64(*frame.columns).cast("decimal(38,0)"))).collect()[0][0])


def main(master: str, package: str, name: str, more: str) -> None:
    settings = {
        "spark.master": master,
        "spark.executor.cores": "1",
        "spark.executor.memory": "1g",
        "spark.driver.memory": "1g",
    }
    spark = get_session(Session(spark=settings | json.loads(more)))
    spark.sparkContext.addPyFile(package)
    wait_for_two_executors(spark)
    user, item = (
        F.pmod(F.xxhash64("id", F.lit(key)), F.lit(size)).alias(key)
        for key, size in (("user", 3000), ("item", 2000))
    )
    events = spark.range(150_000).select(user, item, F.lit(1.0).alias("rating"))
    threading.Thread(target=tell_progress, args=(spark,), daemon=True).start()
    first = fingerprint(WORK[name](events))
    print("and again", file=sys.stderr, flush=True)
    second = fingerprint(WORK[name](events))
    module = spark.sparkContext.parallelize([0], 1).flatMap(where_loaded).collect()[0]
    print(json.dumps({"same": first == second, "module": module}))
    spark.stop()


def tell_progress(spark: SparkSession) -> None:
    """One line for each state of each stage."""
    told, tracker = set(), spark.sparkContext.statusTracker()
    while True:
        for stage in tracker.getActiveStageIds():
            info = tracker.getStageInfo(stage)
            line = f"stage {stage}: {info.numCompletedTasks} of {info.numTasks} tasks" if info else ""
            if line and line not in told:
                told.add(line)
                print(line, file=sys.stderr, flush=True)
        time.sleep(0.02)


def wait_for_two_executors(spark: SparkSession) -> None:
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
