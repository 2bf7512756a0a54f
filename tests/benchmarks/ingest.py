"""Ingest of one CSV of 5 million ratings, against a plain Spark read of it written straight to Delta.

The plain read parses typed columns and writes them: no refused rows, one row per pair or counts. Both start
cold in a process of their own, as a night does, and are then repeated in it. The synthetic generator's own
speed is measured on the way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from pyspark.sql import functions as F

from recsys_spark.config import load_config
from recsys_spark.data.synthetic import synthetic_inputs, world_of
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import Night
from recsys_spark.session import get_session
from tests.benchmarks.report import publish, seconds

SCHEMA = "userId int, movieId int, rating double, timestamp long"
RATINGS = """
lake: {{root: {lake}}}
ingest:
  source:
    format: csv
    path: {csv}
    columns: {{user: userId, item: movieId, rating: rating, timestamp: timestamp}}
    user_type: integer
    item_type: integer
  scale: [0.5, 5]
"""
EVENTS = """
lake: {{root: {lake}}}
ingest:
  source:
    format: csv
    path: {csv}
    columns: {{user: userId, item: movieId, event: rating, timestamp: timestamp}}
    user_type: integer
    item_type: integer
  events: {{weights: {{"1.0": 1, "2.0": 2, "3.0": 3, "4.0": 4, "5.0": 5}}, half_life: 90}}
"""
DATE, NEXT = date(2026, 1, 31), date(2026, 2, 1)
REPEATS = 3


def one_way(way: str, folder: Path) -> list[float]:
    """Seconds of ``REPEATS`` runs of ``plain``, ``inferred``, ``deduplicated``, ``ingest``, ``events`` or
    ``next``, the second night of events, here; each into a new table.
    """
    spark = get_session()
    taken = []
    for number in range(REPEATS):
        target = str(folder / f"{way}-{number}")
        if way in ("ingest", "events", "next"):
            file = folder / "conf.yaml"
            text = RATINGS if way == "ingest" else EVENTS
            file.write_text(text.format(lake=target, csv=folder / "csv"))
            night = Night(spark, load_config(file, REGISTRY), DATE)
            first = seconds(lambda night=night: ingest(night))
            if way == "next":
                file.write_text(text.format(lake=target, csv=folder / "next"))
                night = Night(spark, load_config(file, REGISTRY), NEXT)
                taken.append(seconds(lambda night=night: ingest(night)))
            else:
                taken.append(first)
        elif way == "deduplicated":
            read = spark.read.csv(str(folder / "csv"), header=True, schema=SCHEMA)
            last = F.max(F.struct("timestamp", "rating")).alias("last")
            rows = read.groupBy("userId", "movieId").agg(last).select("userId", "movieId", "last.*")
            taken.append(seconds(lambda rows=rows, target=target: rows.write.format("delta").save(target)))
        else:
            reading = {"inferSchema": True} if way == "inferred" else {"schema": SCHEMA}
            taken.append(
                seconds(
                    lambda reading=reading, target=target: (
                        spark.read.csv(str(folder / "csv"), header=True, **reading)
                        .write.format("delta")
                        .save(target)
                    )
                )
            )
    return taken


def main() -> None:
    """Measure and publish; with ``--way``, one way only, printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=5_200_000)
    parser.add_argument("--way")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(one_way(options.way, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spark = get_session()
        made = synthetic_inputs(spark, world_of(options.ratings, 1)).ratings
        columns = made.selectExpr(
            "user userId", "item movieId", "rating", "unix_seconds(timestamp) timestamp"
        )
        tonight = columns.where("hash(userId, movieId) % 100 = 0").withColumn(
            "timestamp", F.expr("1769904000 + pmod(hash(movieId), 86400)")
        )
        tonight.write.csv(str(folder / "next"), header=True)
        generating = seconds(lambda: columns.write.csv(str(folder / "csv"), header=True))
        rows = spark.read.csv(str(folder / "csv"), header=True, schema=SCHEMA).count()
        spark.stop()
        results = {}
        for way in ("plain", "inferred", "deduplicated", "ingest", "events", "next"):
            command = [sys.executable, "-m", "tests.benchmarks.ingest", "--way", way, "--folder", str(folder)]
            results[way] = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
        labels = {
            "plain": "plain Spark read with a schema, written to Delta",
            "inferred": "plain Spark read with inferSchema, written to Delta",
            "deduplicated": "plain Spark read with a schema, one row per pair by groupBy, written to Delta",
            "ingest": "recsys ingest: the whole step, ledger row included",
            "events": "the same rows as events, with the ratings derived from them",
            "next": "the night after: events of one in a hundred of these pairs",
        }
        table = [
            {
                "what": labels[way],
                "first run, s": taken[0],
                "best later run, s": min(taken[1:]),
                "first, of plain": taken[0] / results["plain"][0],
                "later, of plain": min(taken[1:]) / min(results["plain"][1:]),
            }
            for way, taken in results.items()
        ]
        notes = [f"the synthetic generator made and wrote these rows as CSV in {generating:.1f} s"]
        publish("ingest", f"Ingest of {rows:,} ratings from CSV", table, notes)


if __name__ == "__main__":
    main()
