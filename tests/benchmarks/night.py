"""A whole night on synthetic ratings that lie in Parquet: in one process, and step by step in a process for
each, as an orchestrator runs it. Then the same with neighbours and the report.

The steps' seconds are those of the ledger; whole processes are timed from outside, with Java's start. Both
sides' memory is the largest sum that was resident at a time, Java's beside that of its Python workers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from recsys_spark.data.synthetic import synthetic_inputs, world_of
from recsys_spark.session import get_session
from tests.benchmarks.report import publish, recsys, seconds

DAY = "2026-01-31"
STEPS = ("ingest", "split", "train", "evaluate", "recommend", "gate", "publish")
WAYS: dict[str, tuple[tuple[str, ...] | None, bool]] = {
    "one process": (None, False),
    "a process for each step": (STEPS, False),
    "one, with neighbours and report": (None, True),
}
"""Way → the commands that are run, None for ``nightly``; and whether neighbours and report are made."""


def make_ratings(folder: Path, ratings: int) -> int:
    """Write the ratings, unless they are there; how many there are."""
    spark, written = get_session(), folder / "ratings"
    if not (written / "_SUCCESS").exists():
        synthetic_inputs(spark, world_of(ratings, 1)).ratings.write.parquet(str(written), mode="overwrite")
    rows = spark.read.parquet(str(written)).count()
    spark.stop()
    return rows


def configured(
    folder: Path, lake: Path, everything: bool = False, session: dict[str, Any] | None = None
) -> Path:
    """A configuration with popular items and ALS; its lake is empty."""
    shutil.rmtree(lake, ignore_errors=True)
    columns = {name: name for name in ("user", "item", "rating", "timestamp")}
    types = {"user_type": "integer", "item_type": "integer"}
    source = {"format": "parquet", "path": str(folder / "ratings"), "columns": columns, **types}
    tree: dict[str, Any] = {
        "session": session or {},
        "lake": {"root": str(lake)},
        "ingest": {"source": source, "scale": [1, 5]},
        "models": ["popularity", "als"],
        "als": {"implicitPrefs": True, "rank": 64, "alpha": 5.0, "regParam": 0.05, "solver": "cg"},
        "recommend": {"n": 10},
    }
    if not everything:
        tree["recommend"]["similar_items"] = None
        tree["report"] = None
    file = folder / "night.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def with_peaks(action: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds of an action, and the largest memory of Java and of Python workers meanwhile, in GiB."""
    done, peaks = threading.Event(), {"java": 0, "python": 0}

    def watch() -> None:
        while not done.wait(0.5):
            now = {"java": 0, "python": 0}
            for process in psutil.Process().children(recursive=True):
                try:
                    name, command = process.name(), " ".join(process.cmdline())
                    kind = "java" if name == "java" else "python" if "pyspark.daemon" in command else None
                    if kind is not None:
                        now[kind] += process.memory_info().rss
                except psutil.Error:  # it has ended meanwhile
                    continue
            for kind, bytes_ in now.items():
                peaks[kind] = max(peaks[kind], bytes_)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        taken = seconds(action)
    finally:
        done.set()
        watcher.join()
    return taken, peaks["java"] / 2**30, peaks["python"] / 2**30


def measured(config: Path, steps: tuple[str, ...] | None, day: str = DAY) -> dict[str, Any]:
    """A night: seconds of each step, of the whole and its processes, and the memory."""
    arguments = ["--config", str(config), "--run-date", day, "--quiet"]

    def run() -> None:
        for step in steps or ("nightly",):
            recsys(step, *arguments)

    whole, java, python = with_peaks(run)
    runs = json.loads(recsys("runs", "--config", str(config), "--json"))["runs"]
    taken = {row["step"]: float(row["seconds"]) for row in runs if row["state"] == "done"}
    return {**taken, "whole": whole, "Java, GiB": java, "Python, GiB": python}


def main() -> None:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=19_900_000)
    parser.add_argument("--folder", type=Path, help="keeps the ratings and lakes; default: for the run only")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--name", default="night", help="of the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = make_ratings(folder, options.ratings)
        lake = folder / "lake"
        found = {way: measured(configured(folder, lake, WAYS[way][1]), WAYS[way][0]) for way in options.ways}
    what = list(dict.fromkeys(key for column in found.values() for key in column))
    what.sort(key=("whole", "Java, GiB", "Python, GiB").__contains__)
    table = [{"what": key, **{way: column.get(key) for way, column in found.items()}} for key in what]
    notes = ["popular items and ALS of rank 64, ten iterations; lists of ten; seconds but for the memory"]
    publish(options.name, f"A night on {rows:,} ratings", table, notes)


if __name__ == "__main__":
    main()
