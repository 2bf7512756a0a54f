"""Training: our ALS against Spark's and ``implicit``'s, same events, one process.

The events are as many and as skewed as MovieLens 20M's (138,000 users x 27,000 items), drawn at random, and
scaled down with ``--events``. An iteration's seconds are those of a fit of several iterations less one of
fewer; whole fits are from the DataFrame (Parquet) to the factors. ``implicit`` regularises every row alike,
so that ours runs once more with ``regExponent=0`` to be compared with it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml import recommendation as mllib
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.config import Session
from recsys_spark.histories import PackedHistories, pack_histories
from recsys_spark.kernels.products import product
from recsys_spark.models import ALS
from recsys_spark.session import get_session
from tests.benchmarks.report import best, publish, seconds

USERS, ITEMS, EVENTS = 138_000, 27_000, 20_000_000
REG = 0.1

NOTES = [
    "ours: best of repeated fits; an iteration: the median of ten",
    "to a peer's objective: the first iteration within 0.1 % of what the peer has after ten",
    "stated: the memory that the docstrings allow all tasks together, beside interpreters (0.25 GiB each)",
]

Factors = npt.NDArray[np.float32]
Targets = dict[str, float]
"""Objective that a peer reached, by its name."""


def make_events(path: Path, events: int, users: int, items: int) -> int:
    """Random distinct events with a power-law catalogue and log-normal users, as Parquet; gives how many
    there are.
    """
    rng = np.random.default_rng(0)
    degree = rng.lognormal(0, 1.2, users)
    degree = np.clip(
        (degree / degree.sum() * events).astype(int), min(20, max(1, events // users)), items // 4
    )
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


def objective(matrix: csr_matrix, x: Factors, y: Factors, implicit: bool, exponent: float) -> float:
    """What a fit minimises, from its factors, in parts of a million events: alpha 1, regularisation
    ``REG``.
    """
    total, (rows, columns) = 0.0, matrix.nonzero()
    for begin in range(0, matrix.nnz, 1_000_000):
        part = slice(begin, begin + 1_000_000)
        r = matrix.data[part].astype(np.float64)
        score = np.einsum("ij,ij->i", x[rows[part]], y[columns[part]], dtype=np.float64)
        total += ((1 + r) * (1 - score) ** 2 - score**2).sum() if implicit else ((r - score) ** 2).sum()
    if implicit:
        total += float(((x.T.astype(np.float64) @ x) * (y.T.astype(np.float64) @ y)).sum())
    for counts, vectors in ((np.diff(matrix.indptr), x), (np.bincount(matrix.indices, minlength=len(y)), y)):
        total += REG * float(
            (counts.astype(np.float64) ** exponent) @ (vectors.astype(np.float64) ** 2).sum(axis=1)
        )
    return float(total)


def factors_of(frame: DataFrame, rows: int) -> Factors:
    """Vectors of a model's frame by id."""
    table = frame.toArrow()
    vectors = np.zeros((rows, len(table["features"][0])), np.float32)
    vectors[table["id"].to_numpy()] = (
        table["features"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    )
    return vectors


def stated_memory(events: int, users: int, items: int, rank: int, tasks: int) -> float:
    """What the docstrings of ``prepare`` and ``train`` allow all tasks together, in GiB, beside the
    interpreters.
    """
    training = 16 * events + 4 * rank * (tasks + 1) * (users + items) + 300 * tasks * rank**2
    return max(80 * events, training) / 2**30


def ours(
    data: DataFrame | PackedHistories,
    rank: int,
    implicit: bool,
    solver: str,
    repeats: int,
    exponent: float = 1.0,
    targets: Targets | None = None,
) -> dict[str, object]:
    """Whole fit of ten iterations, seconds of one, and when it reaches the peers' objectives."""
    als = ALS(
        rank=rank,
        implicitPrefs=implicit,
        solver=solver,
        maxIter=10,
        seed=1,
        regParam=REG,
        regExponent=exponent,
    )
    models = []
    whole = best(lambda: models.append(als.fit(data)), repeats)
    summary = models[-1].summary
    each = [one.seconds for one in summary.iterations]
    for model in models:
        model.unpersist()
    row: dict[str, object] = {
        "what": f"recsys-spark, {solver}"
        + ("" if exponent == 1 else f", regExponent {exponent:g}")
        + (", from histories packed already" if isinstance(data, PackedHistories) else ""),
        "iteration, s": sorted(each)[len(each) // 2],
        "10 iterations, s": whole,
        "before the first and after the last, s": whole - sum(each),
        "objective": summary.objectiveHistory[-1],
    }
    for peer, target in (targets or {}).items():
        reached = next(
            (k + 1 for k, value in enumerate(summary.objectiveHistory) if value <= 1.001 * target), None
        )
        what = f"to {peer}'s objective: iterations, their s"
        row[what] = "not in 10" if reached is None else f"{reached}, {sum(each[:reached]):.2f}"
    return row


def packed(data: DataFrame, count: int) -> PackedHistories:
    """The events as a night keeps them for its steps, in memory."""
    columns = {"timestamp": F.lit(None).cast("timestamp"), "part": F.lit("train")}
    histories = pack_histories(data.withColumns(columns), count)
    histories.counts()
    return histories


def sparks(
    data: DataFrame, matrix: csr_matrix, rank: int, implicit: bool, iterations: int
) -> tuple[dict[str, object], Targets]:
    """Spark's own: a fit of one iteration and one of ``iterations``; its objective, where those are ten."""
    models = []

    def fit(count: int, rows: DataFrame = data) -> None:
        als = mllib.ALS(
            rank=rank,
            implicitPrefs=implicit,
            maxIter=count,
            seed=1,
            regParam=REG,
            numUserBlocks=10,
            numItemBlocks=10,
        )
        models.append(als.fit(rows))
        models[-1].userFactors.count()

    fit(1, data.limit(10_000))  # loads its classes
    first, last = seconds(lambda: fit(1)), seconds(lambda: fit(iterations))
    each = (last - first) / (iterations - 1)
    row: dict[str, object] = {"what": "MLlib", "iteration, s": each, "10 iterations, s": first + 9 * each}
    if iterations != 10:
        return row, {}
    row["10 iterations, s"] = last
    x, y = (
        factors_of(frame, rows)
        for frame, rows in zip((models[-1].userFactors, models[-1].itemFactors), matrix.shape, strict=True)
    )
    reached = row["objective"] = objective(matrix, x, y, implicit, 1.0)
    return row, {"MLlib": reached}


def peers(matrix: csr_matrix, rank: int, solvers: list[str]) -> tuple[list[dict[str, object]], Targets]:
    """``implicit``, by conjugate gradients and exactly, from a matrix in memory; the objective of the first
    after ten iterations.

    Its confidences are ours less 1; it regularises every row alike, as our ``regExponent=0``.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    confidence = csr_matrix((matrix.data + 1, matrix.indices, matrix.indptr), matrix.shape)
    rows: list[dict[str, object]] = []
    targets: Targets = {}
    with threadpool_limits(1):
        ways = {"cg": ("3 conjugate-gradient steps", True, 10), "cholesky": ("exact", False, 2)}
        for name, use_cg, iterations in (ways[solver] for solver in solvers):
            first, last = (
                AlternatingLeastSquares(
                    factors=rank,
                    regularization=REG,
                    iterations=count,
                    use_cg=use_cg,
                    random_state=1,
                    num_threads=os.cpu_count() or 1,
                )
                for count in (1, iterations)
            )
            first_seconds, last_seconds = (
                seconds(partial(model.fit, confidence, show_progress=False)) for model in (first, last)
            )
            each = (last_seconds - first_seconds) / (iterations - 1)
            rows.append(
                {
                    "what": f"implicit, {name}",
                    "iteration, s": each,
                    "10 iterations, s": first_seconds + 9 * each,
                }
            )
            if use_cg:
                reached = objective(matrix, last.user_factors, last.item_factors, True, 0.0)
                rows[-1]["objective"] = targets["implicit"] = reached
    return rows, targets


def bare_products(users: int, items: int, rank: int) -> list[dict[str, object]]:
    """Five products of all rows with a square matrix of the rank, by BLAS and by our own kernel on a thread
    for each core. An iteration has three: one makes the Gram matrices, and two turn.
    """
    rng = np.random.default_rng(0)
    gram = rng.random((rank, rank), np.float32)
    block, cores = rng.random((1024, rank), np.float32), os.cpu_count() or 1
    parts = np.array_split(block, cores)
    flops = 2.0 * (users + items) * rank**2 * (4 + 1)
    product(block, gram)  # compiles it
    with threadpool_limits(cores), ThreadPoolExecutor(cores) as pool:
        by = {
            "BLAS": lambda: [block @ gram for _ in range(50)],
            "our kernel": lambda: [list(pool.map(product, parts, [gram] * cores)) for _ in range(50)],
        }
        taken = {name: min(seconds(run) for _ in range(3)) for name, run in by.items()}
    return [
        {
            "what": f"five products of all rows with a Gram matrix, alone, by {name}",
            "iteration, s": each * flops / (50 * 2.0 * 1024 * rank**2),
        }
        for name, each in taken.items()
    ]


def measure(
    spark: SparkSession, events: int, users: int, items: int, options: argparse.Namespace
) -> list[dict[str, object]]:
    """All rows of one size."""
    rows: list[dict[str, object]] = []
    implicit, tasks = not options.explicit, spark.sparkContext.defaultParallelism
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "events.parquet"
        count = make_events(path, events, users, items)
        data, matrix = spark.read.parquet(str(path)), matrix_of(path, users, items)
        for rank in options.rank:
            theirs, targets, same = [], {}, {}
            if options.mllib_iterations:
                row, targets = sparks(data, matrix, rank, implicit, options.mllib_iterations)
                theirs.append(row)
            if implicit and not options.no_implicit:
                more, same = peers(matrix, rank, options.solvers)
                theirs += more
            measured = [
                ours(data, rank, implicit, solver, options.repeats, 1.0, targets)
                for solver in options.solvers
            ]
            histories = packed(data, count)
            measured.append(ours(histories, rank, implicit, options.solvers[0], options.repeats))
            histories.unpersist()
            if same:
                measured.append(ours(data, rank, implicit, "cg", 1, 0.0, same))
            als = ALS(rank=rank, implicitPrefs=implicit, solver="cg", maxIter=1, seed=1)
            measured[0]["peak of workers, GiB"] = peak_of_workers(lambda als=als: als.fit(data))
            measured[0]["stated, GiB"] = stated_memory(count, users, items, rank, tasks)
            if rank >= 128:
                theirs += bare_products(users, items, rank)
            shape = {
                "events": f"{count:,}",
                "users x items": f"{users:,} x {items:,}",
                "rank": rank,
                "tasks": tasks,
            }
            rows += [{**shape, **row} for row in measured + theirs]
            print(time.strftime("%H:%M:%S"), rows[-len(measured) - len(theirs) :], flush=True)
    return rows


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000, EVENTS])
    parser.add_argument("--rank", type=int, nargs="+", default=[64])
    parser.add_argument("--explicit", action="store_true")
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--mllib-iterations", type=int, default=10, help="fewer than 10: no objective; 0 leaves MLlib out"
    )
    parser.add_argument("--no-implicit", action="store_true", help="leave implicit out")
    parser.add_argument("--solvers", nargs="+", default=["cg", "cholesky"])
    parser.add_argument("--master", help="such as local-cluster[2,1,4096]: two executors of one core")
    parser.add_argument("--name", default="als")
    options = parser.parse_args()
    further = {"spark.master": options.master, "spark.executor.memory": "3g"} if options.master else {}
    spark = get_session(Session(spark=further))
    rows: list[dict[str, object]] = []
    for events in options.events:
        users = options.users or max(1000, USERS * events // EVENTS)
        items = options.items or (
            ITEMS if events == EVENTS else max(500, int(ITEMS * (events / EVENTS) ** 0.5))
        )
        rows += measure(spark, events, users, items, options)
    mode = "explicit" if options.explicit else "implicit"
    publish(options.name, f"ALS, {mode} feedback", rows, NOTES)


if __name__ == "__main__":
    main()
