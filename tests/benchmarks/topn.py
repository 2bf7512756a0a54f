"""Top-N lists for everybody: ours against MLlib's ``recommendForAllUsers`` and ``implicit``'s ``recommend``,
same factors.

138,000 users x 27,000 items, rank 64, 20 million seen pairs, n = 10. MLlib does not leave seen items out;
ours and ``implicit`` do. ``--users`` scales everything down.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.histories import PackedHistories, pack_histories
from recsys_spark.kernels import topn as kernel
from recsys_spark.recommend.top_n import DEFAULT_BLOCK_SIZES, ListRequest, explode_lists, recommend_lists
from recsys_spark.session import get_session
from tests.benchmarks.report import best, publish

ITEMS, RANK, SEEN_PER_USER, N = 27_000, 64, 145, 10


def make_data(folder: Path, users: int) -> tuple[np.ndarray, np.ndarray, csr_matrix]:
    """Random factors and seen pairs, written as Parquet in the shape Spark's ALSModel has."""
    rng = np.random.default_rng(0)
    user_factors = (rng.standard_normal((users, RANK)) * 0.1).astype(np.float32)
    item_factors = (rng.standard_normal((ITEMS, RANK)) * 0.1).astype(np.float32)
    chance = 1 / (np.arange(ITEMS) + 30) ** 0.9
    drawn = np.searchsorted(np.cumsum(chance / chance.sum()), rng.random(users * SEEN_PER_USER)).clip(
        max=ITEMS - 1
    )
    key = np.unique(np.repeat(np.arange(users), SEEN_PER_USER) * ITEMS + drawn)
    rows, columns = (key // ITEMS).astype(np.int32), (key % ITEMS).astype(np.int32)
    for name, factors in (("userFactors", user_factors), ("itemFactors", item_factors)):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(factors.ravel()), RANK).cast(
            pa.list_(pa.float32())
        )
        table = pa.table({"id": pa.array(np.arange(len(factors), dtype=np.int32)), "features": lists})
        (folder / name).mkdir()
        for part in range(4):
            size = -(-len(factors) // 4)
            pq.write_table(table.slice(part * size, size), folder / name / f"{part}.parquet")
    shuffled = rng.permutation(len(rows))
    pairs = pa.table({"user": rows[shuffled], "item": columns[shuffled]})
    pq.write_table(pairs, folder / "seen.parquet", row_group_size=1_000_000)
    seen = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (users, ITEMS))
    return user_factors, item_factors, seen


def mllib_model(spark: SparkSession, folder: Path) -> ALSModel:
    """Spark's own model with our factors: a saved toy model whose factors are exchanged."""
    toy = spark.createDataFrame([(0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0)], "user int, item int, rating float")
    path = folder / "mllib"
    ALS(rank=1, maxIter=1, seed=1).fit(toy).save(str(path))
    (file,) = (path / "metadata").glob("part-*")
    metadata = json.loads(file.read_text()) | {"rank": RANK}
    for stale in (path / "metadata").iterdir():
        stale.unlink()
    file.write_text(json.dumps(metadata))
    for name in ("userFactors", "itemFactors"):
        for stale in (path / name).iterdir():
            stale.unlink()
        for part in (folder / name).iterdir():
            (path / name / part.name).hardlink_to(part)
    return ALSModel.load(str(path))


def kernel_seconds(
    user_factors: np.ndarray, item_factors: np.ndarray, seen: csr_matrix, sample: int
) -> dict[str, float]:
    """Seconds of product, masking and selection on one core, over ``sample`` users, scaled to all of them
    on all cores.
    """
    sizes, total = DEFAULT_BLOCK_SIZES, {"product": 0.0, "masking": 0.0, "selection": 0.0}
    blocks = [
        kernel.ItemBlock.build(
            item_factors[s : s + sizes.item_block], np.zeros(len(item_factors[s : s + sizes.item_block])), s
        )
        for s in range(0, len(item_factors), sizes.item_block)
    ]
    buffer = np.empty(sizes.user_block * max(len(block.biases) for block in blocks), np.float32)
    for start in range(0, sample, sizes.user_block):
        part = seen[start : start + sizes.user_block]
        rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        for block in blocks:
            users = user_factors[start : start + sizes.user_block]
            begun = time.perf_counter()
            scores = kernel.score_block(users, block, buffer)
            multiplied = time.perf_counter()
            kernel.mask_seen(scores, block, rows, part.indices)
            masked = time.perf_counter()
            kernel.select(scores, N)
            total["product"] += multiplied - begun
            total["masking"] += masked - multiplied
            total["selection"] += time.perf_counter() - masked
    scale = len(user_factors) / sample / (os.cpu_count() or 1)
    return {name: value * scale for name, value in total.items()}


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=138_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-mllib", action="store_true")
    parser.add_argument("--name", default="topn", help="of the file of results")
    options = parser.parse_args()
    spark = get_session()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        user_factors, item_factors, seen = make_data(folder, options.users)
        users, items = (spark.read.parquet(str(folder / part)) for part in ("userFactors", "itemFactors"))
        pairs = spark.read.parquet(str(folder / "seen.parquet"))
        nothing = {"rating": F.lit(None).cast("double"), "timestamp": F.lit(None).cast("timestamp")}
        histories = pack_histories(pairs.withColumns({**nothing, "part": F.lit("train")}), seen.nnz)
        histories.counts()  # packs them

        def ours(left_out: DataFrame | PackedHistories | None, sink: str) -> None:
            rows = explode_lists(recommend_lists(users, items, ListRequest(N, left_out)))
            writer = rows.write.mode("overwrite").format(sink)
            writer.save() if sink == "noop" else writer.save(str(folder / f"ours-{sink}"))

        rows = []
        written = best(lambda: ours(pairs, "parquet"), options.repeats)
        from_histories = best(lambda: ours(histories, "parquet"), options.repeats)
        unwritten = best(lambda: ours(pairs, "noop"), options.repeats)
        unseen = best(lambda: ours(None, "noop"), options.repeats)
        delta = best(lambda: ours(pairs, "delta"), options.repeats)
        rows.append({"what": "recsys-spark, seen left out, written as Parquet", "seconds": written})
        rows.append({"what": "  the same, what is seen packed already", "seconds": from_histories})
        rows.append({"what": "recsys-spark, seen left out, written as Delta", "seconds": delta})
        with threadpool_limits(1):
            parts = kernel_seconds(user_factors, item_factors, seen, min(options.users, 8_192))

        from implicit.cpu.als import AlternatingLeastSquares

        peer = AlternatingLeastSquares(factors=RANK, num_threads=os.cpu_count() or 1)
        peer.user_factors, peer.item_factors = user_factors, item_factors
        everybody = np.arange(options.users)
        with threadpool_limits(1):
            implicit = best(
                lambda: peer.recommend(everybody, seen, N, filter_already_liked_items=True), options.repeats
            )
        rows.append(
            {
                "what": f"implicit recommend, {os.cpu_count()} threads, seen left out, not written",
                "seconds": implicit,
            }
        )

        def whole_peer() -> None:
            table = pq.read_table(folder / "seen.parquet")
            pair = (table["user"].to_numpy(), table["item"].to_numpy())
            matrix = csr_matrix((np.ones(len(pair[0]), np.float32), pair), (options.users, ITEMS))
            ids, scores = peer.recommend(everybody, matrix, N, filter_already_liked_items=True)
            columns = {"user": np.repeat(everybody, N), "item": ids.ravel(), "score": scores.ravel()}
            pq.write_table(pa.table(columns), folder / "implicit.parquet")

        with threadpool_limits(1):
            whole = best(whole_peer, options.repeats)
        rows.append(
            {"what": "  the same from Parquet to Parquet, in one process without Spark", "seconds": whole}
        )
        if not options.skip_mllib:
            model = mllib_model(spark, folder)
            lists = folder / "mllib-lists"
            mllib = best(lambda: model.recommendForAllUsers(N).write.mode("overwrite").parquet(str(lists)), 1)
            rows.append(
                {"what": "MLlib recommendForAllUsers, seen kept, written as Parquet", "seconds": mllib}
            )
        for row in rows:
            row["of ours"] = row["seconds"] / written
        packing = unwritten - unseen - parts["masking"]
        rest = unwritten - sum(parts.values()) - packing
        rows += [
            {"what": f"  of ours: {part} (kernel, one core, scaled)", "seconds": value}
            for part, value in parts.items()
        ]
        rows += [
            {"what": "  of ours: reading, packing and shuffling seen pairs", "seconds": packing},
            {"what": "  of ours: the rest (Arrow, jobs, item collection)", "seconds": rest},
            {"what": "  of ours: writing Parquet", "seconds": written - unwritten},
        ]
        title = f"Top-{N}: {options.users:,} users x {ITEMS:,} items, rank {RANK}, {seen.nnz:,} seen pairs"
        notes = [f"best of {options.repeats} runs (MLlib: one), all in one process"]
        publish(options.name, title, rows, notes)


if __name__ == "__main__":
    main()
