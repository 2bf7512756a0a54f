"""Evaluation of three models' lists at five cut-offs for 138,000 users, with 200 bootstrap resamplings.

The lists are made beforehand and read from Parquet: what is timed is the measuring. Making them is what
``topn`` measures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.session import get_session
from tests.benchmarks.report import best, publish

ITEMS, KS, MODELS, BOOTSTRAP = 27_000, [5, 10, 20, 50, 100], ("one", "two", "three"), 200


def make_data(folder: Path, users: int, train_rows: int) -> None:
    """Random lists of 100 items, train and held-out pairs, items with up to three genres."""
    rng = np.random.default_rng(0)
    chance = 1 / (np.arange(ITEMS) + 30) ** 0.9
    cumulated = np.cumsum(chance / chance.sum())

    def drawn(count: int) -> np.ndarray:
        return np.searchsorted(cumulated, rng.random(count)).clip(max=ITEMS - 1).astype(np.int32)

    for model in MODELS:
        entries = pa.StructArray.from_arrays(
            [pa.array(drawn(users * KS[-1])), pa.array(np.zeros(users * KS[-1], np.float32))],
            names=["item", "score"],
        )
        lists = pa.ListArray.from_arrays(pa.array(np.arange(users + 1, dtype=np.int32) * KS[-1]), entries)
        table = pa.table({"id": np.arange(users, dtype=np.int32), "recommendations": lists})
        pq.write_table(table, folder / f"{model}.parquet", row_group_size=20_000)
    train = {"user": rng.integers(0, users, train_rows).astype(np.int32), "item": drawn(train_rows)}
    pq.write_table(pa.table(train), folder / "train.parquet", row_group_size=1_000_000)
    held = {"user": np.repeat(np.arange(users, dtype=np.int32), 5), "item": drawn(users * 5)}
    pq.write_table(pa.table(held), folder / "test.parquet", row_group_size=100_000)
    genres = [[f"genre {g}" for g in rng.choice(20, rng.integers(1, 4), replace=False)] for _ in range(ITEMS)]
    pq.write_table(
        pa.table({"item": np.arange(ITEMS, dtype=np.int32), "genres": genres}), folder / "items.parquet"
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=138_000)
    options = parser.parse_args()
    spark = get_session()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, options.users, 145 * options.users)
        frames = {
            part: spark.read.parquet(str(folder / f"{part}.parquet"))
            for part in (*MODELS, "train", "test", "items")
        }
        lists = {model: frames[model] for model in MODELS}

        def measure(resamplings: int) -> object:
            return ranking_metrics(
                lists, frames["test"], frames["train"], frames["items"], KS, resamplings, 1
            )

        title = f"Evaluation of {len(MODELS)} models, {options.users:,} users, cut-offs {KS}, "
        title += f"{145 * options.users:,} train rows"
        rows = [
            {
                "what": f"{len(KS) * 10} measures a model, {BOOTSTRAP} resamplings",
                "seconds": best(lambda: measure(BOOTSTRAP), 2),
            },
            {"what": "the same without intervals", "seconds": best(lambda: measure(0), 2)},
        ]
        publish("evaluate", title, rows, ["best of 2 runs, lists read from Parquet"])


if __name__ == "__main__":
    main()
