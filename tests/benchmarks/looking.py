"""How long people wait who look at a lake: whole processes of the commands, and the report of a night.

A night over ``--ratings`` synthetic ratings (popularity and ALS, rank 64) is made first, in ``--lake``,
unless one is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import yaml

from tests.benchmarks.report import best, publish, recsys

DAY = "2026-01-31"
NOBODY, UNKNOWN = "an unknown user", 2
"""What is asked of an id that nobody has, and the exit code of that."""

COMMANDS = {
    "a user": ["show", "--user", "4711"],
    "a user, and why": ["show", "--user", "4711", "--why"],
    "an item": ["show", "--item", "42"],
    "neighbours, as served": ["similar", "--item", "42"],
    "neighbours, by another measure": ["similar", "--item", "42", "--measure", "dot"],
    NOBODY: ["show", "--user", "no such"],
    "what is served": ["current"],
    "runs": ["runs"],
}


def main() -> None:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=20_000_000)
    parser.add_argument("--lake", type=Path, default=Path(".recsys/looking"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tree = {
        "lake": {"root": str(options.lake.resolve())},
        "ingest": {"source": {"format": "synthetic", "ratings": options.ratings}, "scale": [1, 5]},
        "models": ["popularity", "als"],
        "als": {"implicitPrefs": True, "rank": 64, "alpha": 5.0, "regParam": 0.05, "solver": "cg"},
    }
    options.lake.mkdir(parents=True, exist_ok=True)
    config = options.lake / "night.yaml"
    config.write_text(yaml.safe_dump(tree), encoding="utf-8")
    if not (options.lake / "reports" / f"{DAY}.html").exists():
        recsys("nightly", "--config", str(config), "--run-date", DAY, "--quiet")
    rows: list[dict[str, object]] = []
    for what, arguments in COMMANDS.items():
        print(what, file=sys.stderr, flush=True)
        code = UNKNOWN if what == NOBODY else 0
        command = partial(recsys, *arguments, "--config", str(config), code=code)
        taken = best(command, options.repeats)
        rows.append({"what": what, "command": " ".join(arguments[:2]), "seconds": taken})
    runs = json.loads(recsys("runs", "--config", str(config), "--json"))["runs"]
    made = [row for row in runs if (row["step"], row["state"]) == ("report", "done")][-1]
    rows.append({"what": "the report, as a step", "command": "report", "seconds": made["seconds"]})
    size = (options.lake / "reports" / f"{DAY}.html").stat().st_size / 1e6
    notes = [
        f"{options.ratings:,} synthetic ratings; whole processes, best of {options.repeats}",
        f"the report once, in the night that made it: {size:.1f} MB",
    ]
    publish("looking", "Looking at a lake", rows, notes)


if __name__ == "__main__":
    main()
