"""Delta tables: constraints as the last line of defence, upserts that count right, partitions replaced alone,
under a path and in a catalog.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from recsys_spark.config import Lake
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.ledger import Ledger
from recsys_spark.lakehouse.locks import Lock
from recsys_spark.lakehouse.reader import DeltaReader, SparkReader
from recsys_spark.lakehouse.tables import Lakehouse, Upserted
from recsys_spark.pipeline.ingest import NEWER

DAY = date(2024, 1, 1)
RATING = "user string, item string, rating double, timestamp timestamp, first_run date, last_run date"


@pytest.fixture
def lake(spark, tmp_path):
    return Lakehouse(spark, Lake(root=str(tmp_path / "a lake's %20 \"[*]?; -- \N{SNOWMAN} place")))


def rating(spark, *rows):
    full = [(user, item, value, None, DAY, DAY) for user, item, value in rows]
    return spark.createDataFrame(full, RATING)


@pytest.mark.parametrize(
    "row",
    [
        (None, "i", 1.0, None, DAY, DAY),
        ("u", None, 1.0, None, DAY, DAY),
        ("u", "i", None, None, DAY, DAY),
        ("u", "i", float("nan"), None, DAY, DAY),
        ("u", "i", float("inf"), None, DAY, DAY),
        ("u", "i", 1.0, None, date(2025, 1, 1), DAY),
    ],
)
def test_constraint_rejects_what_must_not_be_in_ratings(spark, lake, row):
    lake.create("ratings")
    with pytest.raises((PySparkException, Py4JJavaError), match=r"(?i)constraint"):
        lake.append("ratings", spark.createDataFrame([row], RATING), 1)
    assert lake.read("ratings").count() == 0


@pytest.mark.parametrize("counted", [True, False], ids=["few", "unknown"])
def test_upsert_counts_and_changes_what_is_newer_only(spark, lake, counted):
    lake.create("ratings")
    newer, updates = F.expr(NEWER), {"rating": "new.rating"}

    def upsert(*rows):
        count = len(rows) if counted else None
        new = rating(spark, *rows)
        return lake.upsert("ratings", new, ("user", "item"), newer=newer, updates=updates, count=count)

    assert upsert(("a", "x", 3.0), ("b", "x", 3.0)) == Upserted(2, 0, 0, 1)
    assert upsert(("a", "x", 4.0), ("b", "x", 2.0), ("c", "x", 1.0)) == Upserted(1, 1, 1, 2)
    assert upsert(("a", "x", 4.0), ("c", "x", 1.0)) == Upserted(0, 0, 2, 2)  # no commit for nothing
    assert upsert(("b", "x", 5.0)) == Upserted(0, 1, 0, 3)
    assert upsert(("d", "x", 2.0)) == Upserted(1, 0, 0, 4)
    assert {row["user"]: row["rating"] for row in lake.read("ratings").collect()} == {
        "a": 4.0,
        "b": 5.0,
        "c": 1.0,
        "d": 2.0,
    }


@pytest.mark.parametrize("count", [1, None], ids=["counted", "unknown"])
def test_nothing_is_committed_where_all_rows_of_a_new_table_are_gone(spark, lake, count):
    lake.create("ratings")
    rows = rating(spark, ("a", "x", 3.0))
    done = lake.upsert("ratings", rows, ("user", "item"), gone=F.expr("new.rating < 4"), count=count)
    assert done == Upserted(0, 0, 0, 0)
    assert lake.version("ratings") == 0


def test_a_corrected_rating_is_written_alone_and_read_once(spark, tmp_path):
    """The file of the old row stays, with a mark on that row; who reads without Spark minds it too."""
    lake = Lakehouse(spark, Lake(root=str(tmp_path)))
    lake.create("ratings")
    old = [("a", "x", 3.0), ("b", "x", 3.0), ("c", "x", 3.0)]
    lake.append("ratings", rating(spark, *old).coalesce(1), 3)
    (file,) = lake.read("ratings").inputFiles()
    updates = {"rating": "new.rating"}
    corrected = rating(spark, ("b", "x", 5.0), ("d", "x", 1.0))
    lake.upsert("ratings", corrected, ("user", "item"), newer=F.expr(NEWER), updates=updates)
    assert file in lake.read("ratings").inputFiles()
    users = ["a", "b", "c", "d"]
    rows = DeltaReader(str(tmp_path)).rows("ratings", ["user", "rating"], {"user": users}).to_pylist()
    assert sorted((row["user"], row["rating"]) for row in rows) == [
        ("a", 3.0),
        ("b", 5.0),
        ("c", 3.0),
        ("d", 1.0),
    ]
    lake.purge("ratings")
    assert file not in lake.read("ratings").inputFiles()
    assert lake.read("ratings").count() == 4


def test_old_versions_stay_readable(spark, lake):
    lake.create("ratings")
    first = lake.append("ratings", rating(spark, ("a", "x", 3.0)), 1)
    lake.append("ratings", rating(spark, ("b", "x", 3.0)), 1)
    assert lake.read("ratings", first).count() == 1


def test_replace_touches_its_partition_only(spark, lake):
    schema = "run_date date, user string, rank int, item string, score float, model string, reason string"

    def rows(day, item):
        return spark.createDataFrame([(date(2024, 1, day), "u", 1, item, 1.0, "m", "model")], schema)

    lake.create("recommendations")
    for day, item in ((1, "x"), (2, "y"), (1, "z")):
        lake.replace("recommendations", rows(day, item), f"run_date = '2024-01-0{day}'", 1)
    assert {(r["run_date"].day, r["item"]) for r in lake.read("recommendations").collect()} == {
        (1, "z"),
        (2, "y"),
    }
    with pytest.raises(PySparkException):
        lake.replace("recommendations", rows(3, "q"), "run_date = '2024-01-01'", 1)
    assert lake.read("recommendations").count() == 2


def test_other_id_type_is_an_error(lake):
    lake.create("ratings", "string", "string")
    lake.create("ratings", "string", "string")
    with pytest.raises(LakeError, match="'item' as string, the data has it as int"):
        lake.create("ratings", "string", "integer")


def test_folder_with_something_else_is_named(lake, tmp_path):
    (tmp_path / "lake" / "ratings").mkdir(parents=True)
    (tmp_path / "lake" / "ratings" / "letter.txt").write_text("dear")
    with pytest.raises(LakeError, match=r"'ratings' cannot be created in .*: .* not a Delta table"):
        Lakehouse(lake.spark, Lake(root=str(tmp_path / "lake"))).create("ratings")
    assert (tmp_path / "lake" / "ratings" / "letter.txt").read_text() == "dear"


def test_root_with_a_backtick_is_named_before_anything_is_made(spark, tmp_path):
    with pytest.raises(LakeError, match=r"lake.root '.*/a`b/lake' has a backtick in it"):
        Lakehouse(spark, Lake(root=str(tmp_path / "a`b" / "lake")))
    assert not (tmp_path / "a`b").exists()


def test_a_few_rows_are_the_same_by_either_reader(spark, tmp_path):
    lake = Lakehouse(spark, Lake(root=str(tmp_path)))
    assert lake.collect("runs") == []  # no table
    lake.create("runs")
    started = [datetime(2024, 1, day, 2, 30, 0, 123_456, tzinfo=UTC) for day in (1, 2, 3)]
    maps = {"train": 3}, {}, {"ratings": 7}, None
    rows = [
        (run, DAY, "split", "done", time, 1.5, *maps, "host", "process", "code", "{}", None)
        for run, time in zip("abc", started, strict=True)
    ]
    lake.append("runs", lake.rows("runs", rows), 3)
    told = ["run_id", "started", "counts", "details", "versions_written"]
    by_delta, by_spark = DeltaReader(str(tmp_path)), SparkReader(lake)
    for reader in (by_delta, by_spark):
        lake.reader = lambda reader=reader: reader
        assert sorted(lake.collect("runs", {"run_id": ["a", "c"]}, told), key=lambda row: row["run_id"]) == [
            {"run_id": run, "started": time, "counts": {"train": 3}, "details": {}, "versions_written": {}}
            for run, time in (("a", started[0]), ("c", started[2]))
        ]
        assert reader.rows("runs", ["run_id"], {}, limit=2).num_rows == 2
        assert reader.schema("runs").names[:2] == ["run_id", "run_date"]
        assert reader.properties("runs")["delta.enableDeletionVectors"] == "false"


def test_path_of_a_cluster_that_has_another_file_system_is_not_looked_for_on_the_disk(spark, tmp_path):
    Lakehouse(spark, Lake(root=str(tmp_path))).create("runs")
    session = spark.newSession()
    session.conf.set("fs.defaultFS", "hdfs://localhost:9000")
    assert isinstance(Lakehouse(session, Lake(root=str(tmp_path))).reader(), SparkReader)
    assert isinstance(Lakehouse(spark, Lake(root=str(tmp_path))).reader(), DeltaReader)


def test_first_load_into_a_table_that_others_made_with_rows_in_it(spark, tmp_path):
    lake = Lakehouse(spark, Lake(root=str(tmp_path)))
    rating(spark, ("a", "x", 3.0)).write.format("delta").save(f"{tmp_path}/ratings")
    added = lake.upsert("ratings", rating(spark, ("a", "x", 4.0), ("b", "x", 1.0)), ("user", "item"))
    assert (added.inserted, added.unchanged) == (1, 1)


def test_missing_table_is_named(lake):
    with pytest.raises(LakeError, match=r"'metrics' is not in .*run the step that writes it first"):
        lake.read("metrics")


def test_tables_of_a_catalog_schema(spark, tmp_path):
    spark.sql("CREATE SCHEMA IF NOT EXISTS nightly")
    lake = Lakehouse(spark, Lake(catalog="nightly", model_store=str(tmp_path)))
    lake.create("ratings")
    version = lake.append("ratings", rating(spark, ("a", "x", 3.0)), 1)
    updates = {"rating": "new.rating"}
    new = rating(spark, ("a", "x", 5.0))
    lake.upsert("ratings", new, ("user", "item"), newer=F.expr(NEWER), updates=updates)
    assert spark.table("nightly.ratings").first()["rating"] == 5.0
    assert lake.read("ratings", version).first()["rating"] == 3.0
    with Lock(lake, "day", "me"), pytest.raises(LakeError, match="day is being run by run me"):
        Lock(lake, "day", "other").__enter__()
    assert lake.collect("locks") == []
    assert (
        spark.sql("SHOW TBLPROPERTIES nightly.locks ('delta.enableDeletionVectors')").first()["value"]
        == "false"
    )
    spark.sql("DROP SCHEMA nightly CASCADE")


def test_ledger_records_done_and_failed_steps(lake):
    ledger = Ledger(lake, "run", DAY, "{}")
    with ledger.step("one") as record:
        record.counts["rows"] = 3
        record.versions_read["ratings"] = 7
    with pytest.raises(RuntimeError), ledger.step("two"):
        raise RuntimeError("it broke\nat line 3")
    ended = lake.read("runs").where("state <> 'running'")
    rows = {row["step"]: row for row in ended.collect()}
    assert (rows["one"]["state"], rows["one"]["counts"], rows["one"]["versions_read"]) == (
        "done",
        {"rows": 3},
        {"ratings": 7},
    )
    assert (rows["two"]["state"], rows["two"]["error"]) == ("failed", "it broke")
    assert ledger.last_done("one")["run_id"] == "run"
    with pytest.raises(LakeError, match="'two' has not been done for run date 2024-01-01"):
        ledger.last_done("two")


WITHOUT_DELTA = """
import sys
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession
from recsys_spark.config import Lake
from recsys_spark.errors import SetupError
from recsys_spark.lakehouse.tables import Lakehouse

builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
if sys.argv[1] == "jar":
    builder = configure_spark_with_delta_pip(builder)
if sys.argv[1] == "old":
    builder = builder.config("spark.jars.packages", "io.delta:delta-spark_2.13:4.0.0")
try:
    Lakehouse(builder.getOrCreate(), Lake(root=sys.argv[2]))
except SetupError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("has", "said"),
    [("nothing", " (it has none of its jars)"), ("jar", ""), ("old", " (it has version 4.0.0)")],
)
def test_session_without_delta_is_told_what_to_add(tmp_path, has, said):
    command = [sys.executable, "-c", WITHOUT_DELTA, has, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = run.stdout.splitlines()
    assert line.startswith(
        f"this Spark session cannot use Delta Lake{said}: start it with --packages io.delta:delta-"
    )
    assert "--conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension --conf" in line
