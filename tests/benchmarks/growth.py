"""Nights of more and more ratings, each in one process; and a night with two executors of one core, against
one.

As in MovieLens, users and items grow with the ratings, a little slower: the scores that lists are chosen from
are users times items, and grow faster than the ratings do.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from recsys_spark.data.synthetic import world_of
from tests.benchmarks.night import configured, make_ratings, measured
from tests.benchmarks.report import publish

MILLIONS = (2.5, 5.0, 10.0, 20.0, 60.0)
LARGE, SMALL_HEAP = 60.0, "4g"
"""From so many million ratings on Java gets no more than this."""

WORK = ("train", "evaluate", "recommend")
"""Steps that executors share."""


def grown(folder: Path, millions: float) -> dict[str, Any]:
    """A night of so many million ratings."""
    world, own = world_of(round(millions * 1e6), 1), folder / f"{millions:g}"
    own.mkdir(exist_ok=True)
    rows = make_ratings(own, world.ratings)
    session = {"memory": SMALL_HEAP} if millions >= LARGE else None
    found = measured(configured(own, own / "lake", session=session), None)
    return {
        "ratings, M": rows / 1e6,
        "users": world.users,
        "items": world.items,
        "heap": SMALL_HEAP if session else "usual",
        **found,
        "whole, s a million": found["whole"] * 1e6 / rows,
    }


def shared(folder: Path, millions: float, executors: int) -> dict[str, Any]:
    """A night with so many executors of one core."""
    own = folder / f"{millions:g}"
    own.mkdir(exist_ok=True)
    make_ratings(own, round(millions * 1e6))
    master = {"spark.master": f"local-cluster[{executors},1,4096]", "spark.executor.memory": "4g"}
    found = measured(configured(own, own / "lake", session={"spark": master}), None)
    return {"executors": executors, **found, " + ".join(WORK): sum(found[step] for step in WORK)}


def main() -> None:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, nargs="*", default=MILLIONS)
    parser.add_argument("--executors-millions", type=float, default=5.0, help="0 for none of it")
    parser.add_argument("--folder", type=Path, help="keeps the ratings and lakes; default: for the run only")
    parser.add_argument("--name", default="growth", help="of the JSON of the nights of more and more ratings")
    options = parser.parse_args()
    notes = ["popular items and ALS of rank 64, ten iterations; lists of ten; seconds but for the memory"]
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.executors_millions:
            rows = [shared(folder, options.executors_millions, executors) for executors in (1, 2)]
            title = f"A night on {options.executors_millions:g} M ratings, executors of one core"
            publish("executors", title, rows, notes)
        rows = []
        for millions in options.millions:
            rows.append(grown(folder, millions))
            publish(options.name, "Nights of more and more ratings, in one process", rows, notes)


if __name__ == "__main__":
    main()
