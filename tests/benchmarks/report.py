"""What every measurement shares: a clock, the machine, and a table as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_info

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"
PACKAGES = ("recsys-spark", "pyspark", "delta-spark", "numpy", "pyarrow", "numba", "implicit")


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def best(action: Callable[[], object], repeats: int) -> float:
    """The shortest of ``repeats`` calls, in seconds; shown as they come."""
    taken = []
    for _ in range(repeats):
        taken.append(seconds(action))
        print(f"    {taken[-1]:.2f} s", file=sys.stderr, flush=True)
    return min(taken)


def recsys(*arguments: str, code: int = 0) -> str:
    """What a command prints, in a process of its own; where it ends with another exit code, so does the
    measurement.
    """
    program = "from recsys_spark.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(done.stderr)
    return done.stdout


def machine() -> dict[str, str]:
    """Processor, cores, memory, versions."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    found = {"cpu": names[0] if names else platform.processor(), "cores": str(os.cpu_count())}
    found["memory"] = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    found["BLAS kernels"] = next(
        (pool["architecture"] for pool in threadpool_info() if "architecture" in pool), "unknown"
    )
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def publish(name: str, title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> None:
    """Print the table, and write it as ``docs/benchmarks/<name>.json``."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"# {title}", "", " | ".join(f"{k} {v}" for k, v in machine().items()), ""]
    lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes)]
    RESULTS.mkdir(exist_ok=True)
    content = {"title": title, "machine": machine(), "rows": list(rows), "notes": list(notes)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return "" if value is None else str(value)
