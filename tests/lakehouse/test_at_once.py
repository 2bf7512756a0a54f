"""Several writers at one instant: all succeed, one after the other, and count what they did."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from threading import Barrier

import pytest
from pyspark.sql import functions as F

from recsys_spark.config import Lake
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.ingest import NEWER

DAY = date(2024, 1, 1)


@pytest.fixture
def at_once(spark, tmp_path):
    """Runs a function of (lake, number) in as many sessions as asked for, all starting together."""
    location = Lake(root=str(tmp_path / "lake"))

    def run(work, count):
        start = Barrier(count)

        def one(number):
            lake = Lakehouse(spark.newSession(), location)
            start.wait()
            return work(lake, number)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    return run


def ratings(lake, first, last):
    """Of the users from ``first`` to ``last``."""
    users = lake.spark.range(first, last, 1, 1).select(F.col("id").cast("string").alias("user"))
    return users.select(
        "user", F.lit("x").alias("item"), F.lit(3.0).alias("rating"),
        F.lit(None).cast("timestamp").alias("timestamp"),
        F.lit(DAY).alias("first_run"), F.lit(DAY).alias("last_run"),
    )  # fmt: skip


def load(lake, rows):
    updates = {"rating": "new.rating"}
    return lake.upsert("ratings", rows, ("user", "item"), newer=F.expr(NEWER), updates=updates)


def test_tables_are_created_once(at_once):
    def create(lake, _):
        lake.create("ratings")
        lake.create("runs")
        return lake.version("ratings")

    assert at_once(create, 6) == [0] * 6


def test_revisions_of_one_table_each_see_the_one_before(at_once, spark, tmp_path):
    now = datetime(2024, 1, 1, tzinfo=UTC)

    def add(lake, number):
        lake.create("forgotten")
        lake.revise("forgotten", lambda rows: [*(tuple(row.values()) for row in rows), (number, now)])

    at_once(add, 4)
    lake = Lakehouse(spark, Lake(root=str(tmp_path / "lake")))
    assert sorted(row["user_hash"] for row in lake.collect("forgotten")) == [0, 1, 2, 3]
    lake.revise("forgotten", lambda _: None)
    assert lake.version("forgotten") == 4  # one commit each, and none where all is to stay
    lake.revise("forgotten", lambda _: [])
    assert lake.collect("forgotten") == []


def test_first_loads_of_one_table_both_arrive(spark, tmp_path, at_once):
    def first_load(lake, number):
        lake.create("ratings")
        return load(lake, ratings(lake, 50 * number, 50 * number + 100))  # every two share fifty users

    done = at_once(first_load, 3)
    assert (
        Lakehouse(spark, Lake(root=str(tmp_path / "lake"))).read("ratings").select("user").distinct().count()
        == 200
    )
    assert sum(one.inserted for one in done) == 200
    assert [one.inserted + one.unchanged for one in done] == [100] * 3


def test_merges_into_one_table_both_arrive(spark, tmp_path, at_once):
    lake = Lakehouse(spark, Lake(root=str(tmp_path / "lake")))
    lake.create("ratings")
    load(lake, ratings(lake, 0, 10))
    done = at_once(lambda lake, number: load(lake, ratings(lake, 5, 60 + 10 * number)), 3)
    assert lake.read("ratings").count() == 80
    assert sum(one.inserted for one in done) == 70
    assert [one.inserted + one.unchanged for one in done] == [55, 65, 75]
    assert sorted(one.version for one in done)[0] > 1


def test_what_several_remove_at_once_is_removed_once_and_not_inserted(spark, tmp_path, at_once):
    lake = Lakehouse(spark, Lake(root=str(tmp_path / "lake")))
    lake.create("ratings")
    load(lake, ratings(lake, 0, 20))

    def remove(lake, _):
        rows = ratings(lake, 10, 30).withColumn("rating", F.lit(None).cast("double"))
        return lake.upsert("ratings", rows, ("user", "item"), gone=F.expr("new.rating IS NULL"))

    assert sum(one.removed for one in at_once(remove, 3)) == 10
    assert lake.read("ratings").count() == 10
