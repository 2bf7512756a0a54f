"""Reading a file as ingest does."""

from __future__ import annotations

from datetime import date

from pyspark.sql import functions as F

from recsys_spark.config import Columns, Delimited, FileSource
from recsys_spark.data.cleaning import HEADER_LINE, Rules, clean_ratings
from recsys_spark.data.sources import read_source

RULES = Rules(run_date=date(2026, 1, 31))


def read(spark, path, kind="csv", rules=RULES, text=None, **columns):
    """Cleaned rows as dictionaries, without header lines."""
    source = FileSource(format=kind, path=str(path), columns=Columns(**columns), text=text or Delimited())
    rows = clean_ratings(read_source(spark, source).ratings, rules)
    seconds = rows.withColumn("seconds", F.unix_seconds("timestamp")).withColumn(
        "micros", F.unix_micros("timestamp")
    )
    return [row.asDict() for row in seconds.drop("timestamp").collect() if row["reason"] != HEADER_LINE]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path
