"""A night by spark-submit, from a folder that is not the repository, by an interpreter without packages."""

from __future__ import annotations

import json

import pytest
import yaml
from deltalake import DeltaTable

USERS, DAY = 52, "2026-01-31"
QUICK = [
    "spark.sql.codegen.wholeStage=false",
    "spark.sql.codegen.factoryMode=NO_CODEGEN",
    *(f"spark.{where}.extraJavaOptions=-XX:TieredStopAtLevel=1" for where in ("driver", "executor")),
]
"""What three new Javas do once costs more to compile well than to run."""


def configured(folder):
    tree = {
        "lake": {"root": str(folder / "lake")},
        "ingest": {"source": {"format": "synthetic", "ratings": 5_000}, "scale": [1, 5]},
        "models": ["popularity", "als"],
        "als": {"implicitPrefs": True, "rank": 8, "solver": "cg"},
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(tree))
    return ["--config", "night.yaml", "--run-date", DAY]


def test_what_is_packed_is_small_and_holds_no_spark(packed):
    assert (packed / "recsys-libraries.tar.gz").stat().st_size < 250e6
    unpacked = {path.name for path in (packed / "unpacked").iterdir()}
    assert {"recsys_spark", "numpy", "numba", "pyarrow", "delta"} < unpacked
    assert not {"pyspark", "py4j"} & unpacked
    names = [path.name for path in (packed / "jars").iterdir()]
    assert any("delta-spark_4.2_2.13-4.4.0" in name for name in names)
    assert not any("hadoop" in name.replace("unitycatalog-hadoop", "") for name in names)


@pytest.fixture(scope="module")
def submitted(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "events").mkdir()
    events = ("enabled=true", "compress=false", "rolling.enabled=false", f"dir={folder / 'events'}")
    settings = [f"spark.eventLog.{setting}" for setting in events]
    settings += QUICK
    done = cluster.submit(folder, "nightly.py", *configured(folder), settings=settings)
    assert done.returncode == 0, done.stdout
    return folder, done.stdout.splitlines()


def test_night_is_served(submitted):
    folder, lines = submitted
    lists = DeltaTable(str(folder / "lake" / "current_recommendations")).to_pyarrow_table().to_pylist()
    assert {row["run_date"].isoformat() for row in lists} == {DAY}
    assert {row["rank"] for row in lists} == set(range(1, 11))
    assert any("users' lists of 2026-01-31 are served" in line for line in lines)


def test_nights_own_lines_are_not_among_thousands(submitted):
    _, lines = submitted
    assert sum(" INFO " in line for line in lines) < 10
    assert len(lines) < 150


def test_no_more_tasks_than_there_is_work(submitted):
    folder, _ = submitted
    (log,) = (folder / "events").iterdir()
    events = map(json.loads, log.read_text().splitlines())
    stages = [event["Stage Info"] for event in events if event["Event"] == "SparkListenerStageCompleted"]
    assert len(stages) > 100
    assert max(stage["Number of Tasks"] for stage in stages) <= 8  # of two cores; Spark's default is 200


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (
            "packages",
            "recsys: this Spark session cannot use Delta Lake (it has none of its jars): start it with",
        ),
        pytest.param(
            "libraries", "the executors lack it: run recsys pack, and submit", marks=pytest.mark.long
        ),
    ],
)
def test_what_is_missing_is_said_in_the_last_line(cluster, tmp_path, missing, said):
    done = cluster.submit(tmp_path, "nightly.py", *configured(tmp_path), **{missing: False})
    assert done.returncode == 1
    assert said in done.stdout.splitlines()[-1]
