"""What a ranker learns of what users have again and again: the kinds of films (their set of genres, such as
Action|Thriller) that people of MovieLens 100K watch next, watched before or not.

A night with ``split.repeats``: each user's last kind is the test, the one before it the validation.
Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, cast

import yaml
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.data.movielens import movielens_inputs
from recsys_spark.lakehouse.reader import DeltaReader
from recsys_spark.schema import EVERYONE, ITEM, TEST, TIMESTAMP, USER
from recsys_spark.session import get_session
from tests.benchmarks.night import DAY, recsys
from tests.benchmarks.report import publish

ALS: dict[str, Any] = {"rank": 16, "alpha": 5.0, "regParam": 0.05}
MEMBERS: dict[str, Any] = {"als": ALS, "popularity": {}}


def night_of(folder: Path) -> dict[str, Any]:
    """The configuration."""
    columns = {"user": USER, "item": ITEM, "timestamp": TIMESTAMP}
    return {
        "lake": {"root": str(folder / "lake")},
        "ingest": {"source": {"format": "parquet", "path": str(folder / "kinds"), "columns": columns}},
        "split": {"method": "leave_last", "repeats": True},
        "models": ["popularity", "als", "ranker"],
        "als": ALS,
        "ranker": {"members": MEMBERS, "metric": "ndcg@10"},
        "evaluate": {"cutoffs": [5, 10]},
        "recommend": {"exclude_seen": False, "similar_items": None},
        "report": None,
    }


def main() -> None:
    """Measure and publish."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spark = get_session()
        with movielens_inputs(spark, str(Path(os.environ["RECSYS_DATA_DIR"]) / "ml-100k.zip")) as tables:
            films = cast(DataFrame, tables.items)
            kinds = films.select(ITEM, F.array_join("genres", "|").alias("kind"))
            events = tables.ratings.join(kinds, ITEM).select(USER, F.col("kind").alias(ITEM), TIMESTAMP)
            events.write.parquet(str(folder / "kinds"))
        spark.stop()
        file = folder / "night.yaml"
        file.write_text(yaml.safe_dump(night_of(folder)), encoding="utf-8")
        recsys("nightly", "--config", str(file), "--run-date", DAY, "--quiet")
        asked = {"k": [10], "segment": [EVERYONE], "part": [TEST], "metric": ["ndcg", "hit_rate"]}
        columns = ["model", "metric", "value", "low", "high"]
        metrics = DeltaReader(str(folder / "lake")).rows("metrics", columns, asked).to_pylist()
    rows = sorted(metrics, key=lambda row: (row["metric"], row["value"]))
    publish("repeats", "What is watched again: lists of kinds of films, MovieLens 100K", rows, [])


if __name__ == "__main__":
    main()
