"""What it costs to encrypt the exchange between the tasks of a fit: the connection alone, and a whole fit.

Two processes on the loopback interface send each other arrays of ``--mebibytes`` at once, as tasks do; ALS
is fitted on ``--events`` drawn at random in local sessions of their own, with and without
``spark.network.crypto.enabled``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import numpy as np

from recsys_spark.config import Session
from recsys_spark.models import ALS
from recsys_spark.session import get_session
from recsys_spark.training.connections import GroupKey
from recsys_spark.training.group import connect
from tests.benchmarks.als import ITEMS, USERS, make_events
from tests.benchmarks.report import best, publish, seconds

ROUNDS = 10


def exchanging(rank: int, encrypted: bool, mebibytes: int, pipe: Pipe) -> None:
    """One of two tasks: sends the seconds of ``ROUNDS`` exchanges."""

    def exchange(address: str) -> list[str]:
        pipe.send(address)
        addresses: list[str] = pipe.recv()
        return addresses

    array = np.random.default_rng(rank).random(mebibytes * 2**17)
    with connect(rank, 2, GroupKey(b"k" * 32, encrypted), "127.0.0.1", exchange) as group:
        group.all_gather(array)
        pipe.send(seconds(lambda: [group.all_gather(array) for _ in range(ROUNDS)]))


def exchanged(encrypted: bool, mebibytes: int) -> float:
    """MiB in a second, in each direction."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    tasks = [
        context.Process(target=exchanging, args=(rank, encrypted, mebibytes, pipes[rank][1]))
        for rank in range(2)
    ]
    for task in tasks:
        task.start()
    addresses = [pipe.recv() for pipe, _ in pipes]
    for pipe, _ in pipes:
        pipe.send(addresses)
    taken = max(pipe.recv() for pipe, _ in pipes)
    for task in tasks:
        task.join()
    return ROUNDS * mebibytes / float(taken)


def fitted(encrypted: bool, events: int, repeats: int) -> float:
    """Seconds of a fit in this process's session; the shortest."""
    needed = ("spark.authenticate", "spark.network.crypto.enabled")
    settings = dict.fromkeys(needed, "true") if encrypted else {}
    spark = get_session(Session(spark=settings))
    with tempfile.TemporaryDirectory() as folder:
        make_events(Path(folder) / "events.parquet", events, USERS, ITEMS)
        ratings = spark.read.parquet(f"{folder}/events.parquet")
        als = ALS(rank=64, maxIter=10, implicitPrefs=True, solver="cg", seed=1)
        als.fit(ratings)
        return best(partial(als.fit, ratings), repeats)


def main() -> None:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fit", choices=["plain", "encrypted"], help="only this fit; prints its seconds")
    options = parser.parse_args()
    if options.fit:
        print(fitted(options.fit == "encrypted", options.events, options.repeats))
        return
    rows = []
    for name in ("plain", "encrypted"):
        again = [sys.executable, "-m", "tests.benchmarks.exchange", "--fit", name]
        again += ["--events", str(options.events), "--repeats", str(options.repeats)]
        fit = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
        speed = exchanged(name == "encrypted", options.mebibytes)
        rows.append({"exchange": name, "MiB/s each way": speed, "ALS fit, s": float(fit)})
    notes = [
        f"exchange: {options.mebibytes} MiB both ways at once, {ROUNDS} times",
        f"fit: {options.events:,} events, rank 64, implicit, cg, ten iterations; best of {options.repeats}",
    ]
    publish("exchange", "Encrypted exchange between tasks", rows, notes)


if __name__ == "__main__":
    main()
