"""Training: our ALS against Spark's and ``implicit``'s, same events, one process.

The events are as many and as skewed as MovieLens 20M's (138,000 users x 27,000 items), drawn at random, and scaled down with
``--events``. An iteration's seconds are those of a fit of several iterations less one of fewer; whole fits are from the
DataFrame (Parquet) to the factors. ``implicit`` weighs its regularisation otherwise, so only its seconds are compared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml import recommendation as mllib
from pyspark.sql import DataFrame
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.models import ALS
from recsys_spark.session import get_session
from tests.benchmarks.report import best, publish, seconds

USERS, ITEMS, EVENTS = 138_000, 27_000, 20_000_000


def make_events(path: Path, events: int, users: int, items: int) -> int:
    """Random distinct events with a power-law catalogue and log-normal users, as Parquet; gives how many there are."""
    rng = np.random.default_rng(0)
    degree = rng.lognormal(0, 1.2, users)
    degree = np.clip((degree / degree.sum() * events).astype(int), min(20, max(1, events // users)), items // 4)
    chance = 1 / (np.arange(items) + 30) ** 0.9
    drawn = np.searchsorted(np.cumsum(chance / chance.sum()), rng.random(degree.sum())).clip(max=items - 1)
    key = rng.permutation(np.unique(np.repeat(np.arange(users, dtype=np.int64), degree) * items + drawn))
    columns = {"user": (key // items).astype(np.int32), "item": (key % items).astype(np.int32)}
    columns["rating"] = rng.integers(1, 11, len(key)).astype(np.float32) / 2
    pq.write_table(pa.table(columns), path, row_group_size=1_000_000)
    return len(key)


def matrix_of(path: Path, users: int, items: int) -> csr_matrix:
    """The events as ``implicit`` takes them."""
    table = pq.read_table(path)
    pair = (table["user"].to_numpy(), table["item"].to_numpy())
    return csr_matrix((table["rating"].to_numpy(), pair), (users, items))


def peak_of_workers(action: Callable[[], object]) -> float:
    """Largest sum of the Python workers' resident memory while ``action`` runs, in GiB."""
    largest, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark.daemon" in " ".join(process.cmdline()):
                        total += process.memory_info().rss - process.memory_info().shared
                except psutil.Error:
                    continue
            largest = max(largest, total / 2**30)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return largest


def ours(data: DataFrame, rank: int, implicit: bool, solver: str, repeats: int) -> dict[str, object]:
    """Whole fit of ten iterations, seconds of one, and the objective."""
    als = ALS(rank=rank, implicitPrefs=implicit, solver=solver, maxIter=10, seed=1)
    models = []
    whole = best(lambda: models.append(als.fit(data)), repeats)
    summary = models[-1].summary
    iterations = sorted(one.seconds for one in summary.iterations)
    for model in models:
        model.unpersist()
    return {
        "what": f"recsys-spark, {solver}",
        "iteration, s": iterations[len(iterations) // 2],
        "10 iterations, s": whole,
        "before the first and after the last, s": whole - sum(one.seconds for one in summary.iterations),
        "objective": summary.objectiveHistory[-1],
    }


def sparks(data: DataFrame, rank: int, implicit: bool, iterations: int) -> dict[str, object]:
    """Spark's own: a fit of one iteration and one of ``iterations``."""

    def fit(count: int) -> float:
        als = mllib.ALS(rank=rank, implicitPrefs=implicit, maxIter=count, seed=1, numUserBlocks=10, numItemBlocks=10)
        return seconds(lambda: als.fit(data).userFactors.count())

    first, last = fit(1), fit(iterations)
    each = (last - first) / (iterations - 1)
    return {"what": "MLlib", "iteration, s": each, "10 iterations, s": first + 9 * each}


def peers(path: Path, rank: int, users: int, items: int, solvers: list[str]) -> list[dict[str, object]]:
    """``implicit``, by conjugate gradients and exactly, from a matrix in memory."""
    from implicit.cpu.als import AlternatingLeastSquares

    matrix = matrix_of(path, users, items)
    rows: list[dict[str, object]] = []
    with threadpool_limits(1):
        ways = {"cg": ("3 conjugate-gradient steps", True, 4), "cholesky": ("exact", False, 2)}
        for name, use_cg, iterations in (ways[solver] for solver in solvers):

            def fit(count: int, use_cg: bool = use_cg) -> float:
                model = AlternatingLeastSquares(
                    factors=rank,
                    regularization=0.1,
                    iterations=count,
                    use_cg=use_cg,
                    num_threads=os.cpu_count() or 1,
                    random_state=1,
                )
                return seconds(lambda: model.fit(matrix, show_progress=False))

            first, last = fit(1), fit(iterations)
            each = (last - first) / (iterations - 1)
            rows.append({"what": f"implicit, {name}", "iteration, s": each, "10 iterations, s": first + 9 * each})
    return rows


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 5_000_000, EVENTS])
    parser.add_argument("--rank", type=int, nargs="+", default=[64])
    parser.add_argument("--explicit", action="store_true")
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--mllib-iterations", type=int, default=3, help="0 leaves MLlib out")
    parser.add_argument("--solvers", nargs="+", default=["cg", "cholesky"])
    parser.add_argument("--name", default="als")
    options = parser.parse_args()
    spark = get_session()
    rows: list[dict[str, object]] = []
    for events in options.events:
        users = options.users or max(1000, USERS * events // EVENTS)
        items = options.items or (ITEMS if events == EVENTS else max(500, int(ITEMS * (events / EVENTS) ** 0.5)))
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "events.parquet"
            count = make_events(path, events, users, items)
            data = spark.read.parquet(str(path))
            for rank in options.rank:
                shape = {"events": f"{count:,}", "users x items": f"{users:,} x {items:,}", "rank": rank}
                measured = [ours(data, rank, not options.explicit, solver, options.repeats) for solver in options.solvers]
                memory = peak_of_workers(
                    lambda data=data, rank=rank: ALS(rank=rank, implicitPrefs=True, solver="cg", maxIter=1, seed=1).fit(data)
                )
                measured[0]["peak of workers, GiB"] = memory
                if not options.explicit:
                    measured += peers(path, rank, users, items, options.solvers)
                if options.mllib_iterations:
                    measured.append(sparks(data, rank, not options.explicit, options.mllib_iterations))
                rows += [{**shape, **row} for row in measured]
                print(time.strftime("%H:%M:%S"), rows[-len(measured) :], flush=True)
    mode = "explicit" if options.explicit else "implicit"
    publish(options.name, f"ALS, {mode} feedback", rows, ["ours: best of repeated fits; an iteration: the median of ten"])


if __name__ == "__main__":
    main()
