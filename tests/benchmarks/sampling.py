"""Negatives: the kernel, a task of a pair model, and the whole transform, against RecBole's way of sampling
and an anti-join in Spark; growth.

Positives are drawn at random with a power-law catalogue (``--users``, ``--items``, 20 positives a user).
RecBole's sampler (``recbole.sampler.AbstractSampler.sample_by_key_ids``) draws all at once with numpy and
draws again, as long as there are any, those that a Python set of the user's items holds; its loop is written
down here, as its package brings torch. The anti-join draws random items by ``rand`` and removes the users'
own with a left anti join.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Ints, Longs
from recsys_spark.kernels.negatives import Proposal, draw_negatives
from recsys_spark.kernels.randomness import mix
from recsys_spark.sampling import NegativeSampler
from recsys_spark.session import get_session
from recsys_spark.training.histories import Histories
from recsys_spark.training.pairwise.config import PairwiseConfig
from recsys_spark.training.pairwise.program import TrainingPairs
from recsys_spark.training.side_features import Features
from tests.benchmarks.als import peak_of_workers
from tests.benchmarks.report import best, publish, seconds

EACH = 20
HEAVY = 100_000
"""Positives of the one user who has very many."""


def make_positives(users: int, items: int) -> tuple[Longs, Ints]:
    """About ``EACH`` distinct items of each user, as compressed rows."""
    rng = np.random.default_rng(0)
    chance = 1 / (np.arange(items) + 30) ** 0.9
    drawn = np.searchsorted(np.cumsum(chance / chance.sum()), rng.random(users * EACH)).clip(max=items - 1)
    keys = np.unique(np.repeat(np.arange(users, dtype=np.int64), EACH) * items + drawn)
    return np.searchsorted(keys, np.arange(users + 1) * items), (keys % items).astype(np.int32)


def weights_of(known: tuple[Longs, Ints], items: int, power: float) -> np.ndarray:
    """Weights by popularity, each item at least once."""
    return np.asarray(np.maximum(np.bincount(known[1], minlength=items), 1.0) ** power)


def kernel(known: tuple[Longs, Ints], proposal: Proposal, ratio: int) -> Callable[[], object]:
    """One core."""
    keys = mix(1, np.arange(len(known[0]) - 1))
    wanted = np.full(len(known[1]), ratio, np.int32)
    return lambda: draw_negatives(keys, known, known[0], wanted, proposal)


def in_a_fit(known: tuple[Longs, Ints], items: int, power: float, ratio: int) -> Callable[[], object]:
    """An epoch's, as a task of a pair model draws them for its users; one core."""
    users, catalogue = (pa.array(np.arange(size, dtype=np.int32)) for size in (len(known[0]) - 1, items))
    counts, ones = np.bincount(known[1], minlength=items), np.ones(len(known[1]), np.float32)
    features = Features.none(len(users)), Features.none(items)
    data = Histories(users, hash_ids(users), *known, ones, catalogue, counts, *features)
    config = PairwiseConfig(embedding_dim=1, n_negatives=ratio, popularity_exponent=power)
    pairs = TrainingPairs.build(data, config)
    return lambda: pairs.negatives(0)


def recbole(known: tuple[Longs, Ints], items: int, ratio: int) -> Callable[[], object]:
    """Its loop: uniform draws for all, and again for those that a set of used items holds."""
    indptr, columns = known
    used = np.array([set(columns[a:b].tolist()) for a, b in pairwise(indptr)])
    users = np.tile(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), ratio)
    rng = np.random.default_rng(0)

    def sample() -> object:
        values = np.zeros(len(users), np.int64)
        check = np.arange(len(users))
        while len(check):
            values[check] = rng.integers(0, items, len(check))
            held = zip(check, used[users[check]], values[check], strict=True)
            check = np.array([place for place, taken, item in held if item in taken], np.int64)
        return values

    return sample


def anti_join(positives: DataFrame, items: int, ratio: int) -> DataFrame:
    """Random items beside each positive, without those that the user has."""
    drawn = positives.withColumn("k", F.explode(F.sequence(F.lit(1), F.lit(ratio))))
    drawn = drawn.select("user", F.floor(F.rand(1) * items).cast("int").alias("item"))
    return drawn.join(positives, ["user", "item"], "left_anti")


def written(spark: SparkSession, folder: Path, user: Ints, item: Ints) -> DataFrame:
    """Positives as a Parquet file."""
    folder.mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"user": user, "item": item}), folder / "positives.parquet", row_group_size=500_000
    )
    return spark.read.parquet(str(folder / "positives.parquet"))


def write(frame: DataFrame) -> None:
    """Compute every row and throw it away."""
    frame.write.format("noop").mode("overwrite").save()


def sampled(sampler: NegativeSampler, positives: DataFrame) -> None:
    """Draw negatives of ``positives`` and use them."""
    write(sampler.transform(positives))


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=27_000)
    parser.add_argument("--negatives", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--ratio", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--name", default="sampling")
    options = parser.parse_args()
    spark = get_session()
    cores = spark.sparkContext.defaultParallelism
    rows: list[dict[str, object]] = []

    def add(what: str, count: int, taken: float, used_cores: int, memory: float | None = None) -> None:
        speed = count / taken / used_cores / 1e6
        rows.append(
            {
                "what": what,
                "negatives": f"{count:,}",
                "s": taken,
                "M a second and core": speed,
                "workers' peak, GiB": memory,
            }
        )
        print(time.strftime("%H:%M:%S"), rows[-1], flush=True)

    for negatives in options.negatives:
        users = max(1, negatives // options.ratio // EACH)
        known = make_positives(users, options.items)
        count = len(known[1]) * options.ratio
        for what, power in (("uniform", 0.0), ("popularity^0.75", 0.75)):
            run = kernel(known, Proposal.build(weights_of(known, options.items, power)), options.ratio)
            run()
            add(f"kernel, {what}", count, best(run, options.repeats), 1)
            run = in_a_fit(known, options.items, power, options.ratio)
            add(f"an epoch of a pair model, {what}", count, best(run, options.repeats), 1)
        if negatives == options.negatives[0]:
            add("RecBole's loop, uniform", count, seconds(recbole(known, options.items, options.ratio)), 1)
        with tempfile.TemporaryDirectory() as name:
            user = np.repeat(np.arange(users, dtype=np.int32), np.diff(known[0]))
            positives = written(spark, Path(name), user, known[1])
            for strategy in ("uniform", "popularity"):
                sampler = NegativeSampler(strategy=strategy, ratio=options.ratio)
                action = partial(sampled, sampler, positives)
                taken = best(action, options.repeats)
                add(f"transform, {strategy}", count, taken, cores, peak_of_workers(action))
            if negatives <= 10_000_000:
                joined = anti_join(positives, options.items, options.ratio)
                add("anti-join", count, best(partial(write, joined), 1), cores)
    with tempfile.TemporaryDirectory() as name:
        for kind, taken_by_one in (("one user has 100,000 of", HEAVY), ("no user has many of", 0)):
            rng = np.random.default_rng(1)
            user = np.concatenate(
                [
                    np.zeros(taken_by_one, np.int32),
                    1 + rng.integers(0, 50_000, 1_000_000 - taken_by_one, np.int32),
                ]
            )
            item = np.concatenate(
                [
                    np.arange(taken_by_one, dtype=np.int32),
                    rng.integers(0, 10 * HEAVY, len(user) - taken_by_one, np.int32),
                ]
            )
            positives = written(spark, Path(name) / str(taken_by_one), user, item).dropDuplicates()
            action = partial(sampled, NegativeSampler(ratio=options.ratio), positives)
            what = f"transform, uniform, {10 * HEAVY:,} items: {kind} 1,000,000 positives"
            add(
                what, len(user) * options.ratio, best(action, options.repeats), cores, peak_of_workers(action)
            )
    publish(options.name, f"Negatives, {options.ratio} for each positive, {options.items:,} items", rows)


if __name__ == "__main__":
    main()
