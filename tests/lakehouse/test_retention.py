"""How long old versions can be read, and what is said when they cannot."""

from __future__ import annotations

import os
import shutil
import time
from datetime import date

import pytest
from delta.tables import DeltaTable

from recsys_spark.config import Lake, Retention
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.split import split
from recsys_spark.pipeline.train import train
from tests.pipeline.shop import Shop

DAYS = 86_400


def grown_old(folder, days):
    """Set the times of a table's commits and files back."""
    then = time.time() - days * DAYS
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


@pytest.fixture
def shop(spark, tmp_path):
    """Ratings were read by a split, and then changed."""
    shop = Shop(spark, tmp_path)
    shop.tree["models"] = ["popularity"]
    rated = [f"u{u},i{i},3,{1_600_000_000 + i}" for u in range(6) for i in range(4)]
    shop.ingested(*rated)
    split(shop.night())
    shop.ingested(*rated, "u9,i1,4,1600000000", day=date(2024, 7, 1))
    return shop


@pytest.mark.parametrize(("days", "readable"), [(29, True), (31, False)])
def test_what_was_read_stays_readable_for_the_configured_days(spark, tmp_path, shop, days, readable):
    grown_old(tmp_path / "lake" / "ratings", days)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    if readable:
        train(shop.night())
        assert shop.night().lake.read("models").count() == 1
    else:
        with pytest.raises(
            LakeError, match=r"version 1 of table 'ratings' is no longer kept: run this date's steps again"
        ):
            train(shop.night())


def test_files_that_someone_removed_are_one_sentence(spark, tmp_path, shop):
    for path in (tmp_path / "lake" / "ratings").glob("*.parquet"):
        path.unlink()
    for folder in (tmp_path / "lake" / "model_store").glob("*-histories"):  # which would do
        shutil.rmtree(folder)
    spark.catalog.clearCache()  # in which the split has left the rows
    with pytest.raises(LakeError, match=r"a version of table 'ratings' is no longer kept: .* been removed"):
        train(shop.night())
    (failed,) = shop.night().lake.read("runs").where("state = 'failed'").collect()
    assert "no longer kept" in failed["error"]


def properties(spark, path):
    return DeltaTable.forPath(spark, str(path)).detail().first()["properties"]


def test_tables_that_exist_follow_the_configuration(spark, tmp_path):
    location = Lake(root=str(tmp_path))
    for days in (30, 90):
        Lakehouse(spark, location, Retention(days=days)).create("ratings")
        kept = properties(spark, tmp_path / "ratings")
        assert kept["delta.deletedFileRetentionDuration"] == f"interval {days} days"
        assert kept["delta.logRetentionDuration"] == f"interval {days} days"
