"""How large a cluster a night needs: measured costs of one core, and the stated memory, for larger data.

Times are the measured seconds of a core, divided by the cores: reading and shuffling at a larger scale, and
what the network takes, are beside them. Nothing here was run at the sizes that are printed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from recsys_spark.training.group import MAX_TASKS
from tests.benchmarks.als import stated_memory
from tests.benchmarks.report import RESULTS, publish

RANK, ITERATIONS = 64, 10
CORES_OF_AN_EXECUTOR = 4
NETWORK = 1.25e9 / 2**30
"""GiB a second of an executor's network: ten gigabits."""
MEASURED_LISTS = 138_000 * 27_000, 19_420_020
"""User–item pairs and seen pairs of the measured lists."""
SIZES = [
    (20_000_000, 140_000, 27_000, 2),
    (100_000_000, 1_000_000, 100_000, 16),
    (300_000_000, 10_000_000, 200_000, 64),
    (1_000_000_000, 50_000_000, 500_000, 256),
]
"""Events, users, items, cores."""


@dataclass(frozen=True)
class Costs:
    """Seconds of one core: of an event in one iteration, of an event before and after them, of a user–item
    pair that is scored, and of a seen pair that is read and left out.
    """

    iteration: float
    around: float
    pair: float
    seen: float


def measured() -> Costs:
    """From what `make bench-als` and `make bench-topn` have written."""
    fit = json.loads((RESULTS / "als.json").read_text(encoding="utf-8"))
    lists = json.loads((RESULTS / "topn.json").read_text(encoding="utf-8"))
    cg = next(row for row in fit["rows"] if row["what"] == "recsys-spark, cg")
    events, cores = int(cg["events"].replace(",", "")), int(fit["machine"]["cores"])
    seconds = {row["what"].strip(): row["seconds"] for row in lists["rows"]}
    kernel = sum(value for what, value in seconds.items() if "(kernel" in what)
    whole = seconds["recsys-spark, seen left out, written as Parquet"]
    pairs, seen = MEASURED_LISTS
    cores_of_lists = int(lists["machine"]["cores"])
    return Costs(
        cg["iteration, s"] * cores / events,
        cg["before the first and after the last, s"] * cores / events,
        kernel * cores_of_lists / pairs,
        (whole - kernel) * cores_of_lists / seen,
    )


def main() -> None:
    costs = measured()
    rows = []
    for events, users, items, cores in SIZES:
        tasks = min(cores, MAX_TASKS)
        fit = events * (ITERATIONS * costs.iteration + costs.around) / tasks
        lists = (users * items * costs.pair + events * costs.seen) / cores
        of_task = stated_memory(events, users, items, RANK, tasks) / tasks + 0.25
        exchanged = 4 * RANK * (users + items) / 2**30
        executors, per_executor = math.ceil(cores / CORES_OF_AN_EXECUTOR), min(cores, CORES_OF_AN_EXECUTOR)
        rows.append(
            {
                "events": f"{events / 1e6:,.0f} M",
                "users": f"{users:,}",
                "items": f"{items:,}",
                "executors × cores": f"{executors} × {per_executor}",
                "tasks of a fit": tasks,
                "a task of a fit, GiB": of_task,
                "broadcast items, GiB": items * (4 * RANK + 4 + 8) / 2**30,
                "exchanged in an iteration, GiB to each task": exchanged,
                "fit, min": fit / 60,
                "its network, min": (executors > 1) * ITERATIONS * per_executor * exchanged / NETWORK / 60,
                "lists, min": lists / 60,
            }
        )
    publish(
        "sizing",
        f"ALS with conjugate gradients, rank {RANK}, {ITERATIONS} iterations, and lists of all users",
        rows,
        [f"seconds of one core, from als.json and topn.json: {costs}"],
    )


if __name__ == "__main__":
    main()
