"""Ingest of the nights after the first: one in a hundred ratings, new or corrected, into a large table."""

from __future__ import annotations

import argparse
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from recsys_spark.config import load_config
from recsys_spark.data.synthetic import synthetic_inputs, world_of
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import Night
from recsys_spark.session import get_session
from tests.benchmarks.report import publish, seconds

CONFIG = """
lake: {{root: {folder}/lake}}
ingest:
  source:
    format: parquet
    path: {folder}/night-{number}
    columns: {{user: user, item: item, rating: rating, timestamp: timestamp}}
    user_type: integer
    item_type: integer
"""
FIRST = date(2026, 1, 31)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=20_000_000)
    parser.add_argument("--nights", type=int, default=4)
    parser.add_argument("--name", default="second_night")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, spark = Path(name), get_session()
        made = synthetic_inputs(spark, world_of(options.ratings, 1)).ratings
        made.where("pmod(hash(user, item), 200) <> 0").write.parquet(str(folder / "night-0"))
        for number in range(
            1, options.nights
        ):  # half of them are new in the first night only, and then corrected
            kept = f"pmod(hash(user, item), 200) = 0 OR pmod(hash(item, user), 200) = {number}"
            at = F.lit(FIRST + timedelta(days=number)).cast("timestamp")
            rows = made.where(kept).withColumns({"timestamp": at, "rating": F.lit(1.0 + number)})
            rows.write.parquet(str(folder / f"night-{number}"))
        table: list[dict[str, Any]] = []
        for number in range(options.nights):
            (folder / "conf.yaml").write_text(CONFIG.format(folder=folder, number=number))
            night = Night(spark, load_config(folder / "conf.yaml", REGISTRY), FIRST + timedelta(days=number))
            taken = seconds(lambda night=night: ingest(night))
            counts = night.ledger.last_done("ingest")["counts"]
            row = {what: counts[what] for what in ("inserted", "updated")}
            table.append({"night": number + 1, "ingest, s": taken, **row})
            print(table[-1], flush=True)
        rows = spark.read.format("delta").load(str(folder / "lake" / "ratings"))
        table.append({"night": "count of all ratings then", "ingest, s": seconds(rows.count)})
        publish(options.name, f"Nights of 1 % after a first of {options.ratings:,} ratings", table)


if __name__ == "__main__":
    main()
