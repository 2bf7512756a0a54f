"""What the log of a table says, beside what Delta itself says of it."""

from __future__ import annotations

import pytest
from delta.tables import DeltaTable

from recsys_spark.lakehouse.log import commit_info, newest_version


@pytest.fixture
def table(spark, tmp_path):
    """Three commits, of which the log keeps the last, and a checkpoint of the others."""
    path = str(tmp_path / "a table's \N{SNOWMAN} place")
    for rows in (1, 2, 3):
        writer = spark.range(rows).write.format("delta").mode("append")
        writer.option("delta.checkpointInterval", "1").save(path)
    for old in (tmp_path / "a table's \N{SNOWMAN} place" / "_delta_log").glob("*0[01].json"):
        old.unlink()
    return path


def test_newest_version_is_that_of_the_history(spark, table):
    assert newest_version(spark, table) == DeltaTable.forPath(spark, table).history(1).first()["version"] == 2


def test_newest_version_without_its_commit_is_that_of_the_checkpoint(spark, table, tmp_path):
    for commit in tmp_path.rglob("*.json"):
        commit.unlink()
    assert newest_version(spark, table) == 2


def test_commit_says_what_the_history_says(spark, table):
    said = commit_info(spark, table, 2)
    row = DeltaTable.forPath(spark, table).history(1).first()
    assert (said["operation"], said["readVersion"]) == (row["operation"], row["readVersion"]) == ("WRITE", 1)
    assert said["operationMetrics"] == row["operationMetrics"]
    assert said["operationMetrics"]["numOutputRows"] == "3"
