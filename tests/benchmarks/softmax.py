"""The softmax model: epochs against PyTorch, on one task and on two, and lists against the bare matrix
product.

Needs ``RECSYS_DATA_DIR``, and for PyTorch's rows the extra ``bench-torch``.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from recsys_spark.config import Session
from recsys_spark.kernels.topn import ItemBlock, top_n
from recsys_spark.models import SoftmaxRecommender
from recsys_spark.recommend.approximate import approximate_top_n, build_index, open_index
from recsys_spark.session import get_session
from recsys_spark.training.group import Group
from recsys_spark.training.histories import build_histories
from recsys_spark.training.softmax.program import SoftmaxProgram
from tests.benchmarks.quality import held_out_among_negatives, hits, ncf_arrays, ncf_data
from tests.benchmarks.report import best, publish, seconds

EPOCHS, DIM, BATCH, RATE = 20, 64, 256, 0.01
USERS, ITEMS = 138_000, 27_000
NOTES = [
    "the model of both: bags over the root of their number, 64 dimensions, no hidden layers, half of each "
    "history held out, "
    "a softmax over all 3,704 items, Adam at 0.01 falling to 0, batches of 256 users, 20 epochs of 6,040",
    "an epoch's seconds are the median of all but the first, which compiles",
    "lists: one process, one core; the bare product is of the same matrices, block by block, into one buffer",
]


def ours(cores: int) -> dict[str, object]:
    """A fit in this process on ``cores`` tasks."""
    spark = get_session(Session(cores=cores))
    data, users, candidates = ncf_data(spark, _folder())
    model = SoftmaxRecommender(maxIter=EPOCHS, checkpointInterval=-1, seed=1).fit(data)
    taken = [epoch.seconds for epoch in model.summary.epochs[1:]]
    row = {
        "what": f"SoftmaxRecommender, {cores} task{'s' * (cores > 1)}",
        "epoch, s": float(np.median(taken)),
    }
    return row | held_out_among_negatives(model, users, candidates)


def torch_peer(threads: int) -> dict[str, object]:
    """The same model in PyTorch, on ``threads`` threads."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    pairs, users, candidates = ncf_arrays(_folder())
    n_users, n_items = int(pairs[:, 0].max()) + 1, int(candidates.max()) + 1
    bags, vectors = (nn.Embedding(n_items, DIM) for _ in range(2))
    for table in (bags, vectors):
        nn.init.normal_(table.weight, std=DIM**-0.5)
    optimiser = torch.optim.Adam([*bags.parameters(), *vectors.parameters()], lr=RATE)
    owner, history = (torch.from_numpy(column.copy()) for column in pairs.T)
    taken = []

    def psi_of(rows: Any, chosen: Any, slots: Any) -> Any:
        counts = torch.bincount(slots, minlength=rows).clamp(min=1)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)[:-1]])
        return nn.functional.embedding_bag(chosen, bags.weight, offsets, mode="sum") / counts.sqrt()[:, None]

    def epoch(number: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - number / EPOCHS)
        order = torch.randperm(n_users)
        place = torch.empty_like(order)
        place[order] = torch.arange(n_users)
        held = torch.rand(len(history)) < 0.5
        by_place = torch.argsort(place[owner], stable=True)
        bounds = torch.searchsorted(place[owner][by_place], torch.arange(0, n_users + BATCH, BATCH))
        for step, first in enumerate(range(0, n_users, BATCH)):
            events = by_place[bounds[step] : bounds[step + 1]]
            slots, chosen, out = place[owner[events]] - first, history[events], held[events]
            rows = min(BATCH, n_users - first)
            logits = psi_of(rows, chosen[~out], slots[~out]) @ vectors.weight.T
            numbers = torch.bincount(slots[out], minlength=rows)
            weights = numbers.clamp(min=1)[slots[out]] ** -0.5
            losses = -torch.log_softmax(logits, dim=1)[slots[out], chosen[out]]
            optimiser.zero_grad()
            ((losses * weights).sum() / weights.sum()).backward()
            optimiser.step()

    for number in range(EPOCHS):
        taken.append(seconds(lambda number=number: epoch(number)))  # type: ignore[misc]
    with torch.no_grad():
        scores = (psi_of(n_users, history, owner) @ vectors.weight.T).numpy()
    row = {
        "what": f"PyTorch {torch.__version__}, {threads} thread{'s' * (threads > 1)}",
        "epoch, s": float(np.median(taken[1:])),
    }
    return row | hits(scores[users[:, None], candidates])


PARTS = {
    "bags of histories, without their targets": ("softmax/batch.py", "build"),
    "scores, softmax, and their gradients": ("softmax/batch.py", "score_gradients"),
    "gradients of the items of the bags": ("bags.py", "bag_sums_backward"),
    "sums over the tasks": ("group.py", "all_reduce"),
    "Adam": ("optimizer.py", "adam"),
}


def where_time_goes() -> list[dict[str, object]]:
    """Shares of an epoch on one task without Spark, by Python's own profiler."""
    pairs, *_ = ncf_arrays(_folder())
    ids = [pa.array(column).dictionary_encode() for column in pairs.T]
    events = pa.table([*ids, pa.array(np.ones(len(pairs), np.float32))], ["user", "item", "rating"])
    group = Group(0, {})
    data = build_histories(group, events)
    config = SoftmaxRecommender().to_config(batch_size=BATCH, max_epochs=EPOCHS, learning_rate=RATE)
    program = SoftmaxProgram(config, (ids[0].type, ids[1].type))
    state = program.initial_state(data)
    with threadpool_limits(1):
        program.train(group, data, state, 1)  # compiles
        profile = cProfile.Profile()
        profile.runcall(program.train, group, data, state, 6)
    stats: Any = pstats.Stats(profile)
    rows: list[dict[str, object]] = []
    for what, (file, function) in PARTS.items():
        taken = sum(
            entry[3] for key, entry in stats.stats.items() if key[0].endswith(file) and key[2] == function
        )
        rows.append({"what": f"of an epoch on one task: {what}", "share": taken / stats.total_tt})
    return rows


def lists() -> list[dict[str, object]]:
    """Top ten of every user, with and without probabilities, against the product of the same matrices
    alone.
    """
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, DIM)).astype(np.float32) for n in (USERS // 10, ITEMS))
    block = ItemBlock.build(items, np.zeros(ITEMS, np.float32))
    nothing = np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int32)
    buffer = np.empty((64, len(block.biases)), np.float32)

    def product() -> None:
        for begin in range(0, len(users) - 63, 64):
            np.matmul(users[begin : begin + 64], block.factors, out=buffer)

    sums = np.zeros(len(users))
    with threadpool_limits(1):
        bare = best(product, 3)
        taken = {
            "product alone": bare,
            "top 10": best(lambda: top_n(users, [block], nothing, 10, 64), 3),
            "top 10 with probabilities": best(lambda: top_n(users, [block], nothing, 10, 64, sums), 3),
        }
    shape = f"{len(users):,} users x {ITEMS:,} items"
    return [
        {"what": f"{what}, {shape}", "seconds": one, "speed of the product": bare / one}
        for what, one in taken.items()
    ]


def retrieval(n_items: int) -> list[dict[str, object]]:
    """Exact lists against approximate ones, on one core: users and items gathered around 500 tastes."""
    rng = np.random.default_rng(0)
    tastes = rng.normal(size=(500, DIM))
    users, items = (
        (tastes[rng.integers(0, 500, n)] + 0.7 * rng.normal(size=(n, DIM))).astype(np.float32)
        for n in (5000, n_items)
    )
    biases, nothing = (
        np.zeros(n_items, np.float32),
        (np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int32)),
    )
    started = time.perf_counter()
    index = open_index(build_index(items, biases))
    built = time.perf_counter() - started
    with threadpool_limits(1):
        blocks = [
            ItemBlock.build(items[at : at + 32_768], biases[at : at + 32_768], at)
            for at in range(0, n_items, 32_768)
        ]
        exact = best(lambda: top_n(users, blocks, nothing, 10, 64), 2)
        searched = best(lambda: approximate_top_n(users, index, nothing, 10, n_items), 2)
    truth, found = (
        top_n(users, blocks, nothing, 10, 64)[0],
        approximate_top_n(users, index, nothing, 10, n_items)[0],
    )
    hit = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)])
    shape = f"{len(users):,} users x {n_items:,} items"
    return [
        {"what": f"top 10, exact, {shape}", "seconds": exact},
        {
            "what": f"top 10, approximate, {shape}",
            "seconds": searched,
            "recall@10": float(hit),
            "index built in, s": built,
        },
    ]


def _folder() -> Path:
    return Path(os.environ["RECSYS_DATA_DIR"]) / "ncf-ml-1m"


def _apart(part: str, number: int) -> dict[str, object]:
    """A row that a process of its own measures: a session has one number of cores, PyTorch one of threads."""
    command = [sys.executable, "-m", "tests.benchmarks.softmax", "--part", part, "--number", str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["ours", "torch"], help="one row alone, as JSON")
    parser.add_argument("--number", type=int, default=1, help="tasks or threads of it")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(ours(options.number) if options.part == "ours" else torch_peer(options.number)))
        return
    rows = [_apart("ours", 1), _apart("ours", 2)]
    if find_spec("torch"):
        rows += [_apart("torch", 1), _apart("torch", 2)]
    publish(
        "softmax",
        "Softmax model, MovieLens 1M as NCF has it, and lists",
        [*rows, *where_time_goes(), *lists(), *retrieval(ITEMS), *retrieval(200_000)],
        NOTES,
    )


if __name__ == "__main__":
    main()
