"""What goes between the nights: old dates, old files, orphans, and people who asked for it."""

from __future__ import annotations

import os
import time
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys_spark.errors import LakeError
from recsys_spark.inspection.page import Part, write_page
from recsys_spark.lakehouse.locks import WHOLE_LAKE, Lock
from recsys_spark.pipeline.forget import forget
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.maintain import maintain
from recsys_spark.pipeline.publish import publish
from tests.pipeline.shop import DAY, NEXT, Shop
from tests.pipeline.test_publish import recommended

pytestmark = pytest.mark.slow

TODAY = date(2024, 7, 1)


@pytest.fixture
def lake_files(tmp_path):
    """The Parquet files of a table."""
    return lambda name: {path.name for path in (tmp_path / "lake" / name).rglob("*.parquet")}


def aged(folder, seconds):
    then = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
    os.utime(folder, (then, then))


def saved(night, *purposes):
    """As if models of the night had been saved."""
    folder = Path(night.config.lake.models_path) / night.run_id
    night.lake.create("models")
    for purpose in purposes:
        path = folder / purpose / "popularity"
        path.mkdir(parents=True)
        row = {
            "run_id": night.run_id,
            "run_date": night.run_date,
            "model": "popularity",
            "purpose": purpose,
            "state": "candidate",
            "params": "{}",
            "seed": 1,
            "code": "code",
            "ratings_version": 1,
            "split": "split",
            "path": str(path),
            "seconds": 1.0,
        }
        rows = night.spark.createDataFrame([row], night.lake.read("models").schema)
        night.lake.append("models", rows, 1)
    return folder


def shown_on_page(shop, day, user):
    """The page of a night, which shows a user."""
    path = shop.folder / "lake" / "reports" / f"{day}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, "A night", [Part(f"User {user}")])
    return path


def test_old_dates_and_models_go_and_what_is_served_stays(shop, spark):
    folders, pages = {}, {}
    for day in (DAY - timedelta(days=9), DAY, NEXT):
        pages[day] = shown_on_page(shop, day, "user 1")
        night = shop.night(day)
        recommended(night, rows=5)
        folders[day] = saved(night, "serving", *(["baseline"] if day < DAY else []))
    publish(shop.night(DAY))
    config = shop.night(retention={"dates": 1, "days": 7}).config
    done = maintain(spark, config, NEXT + timedelta(days=2))
    assert done.rows["recommendations"] == 10
    assert [day for day, page in pages.items() if page.exists()] == [DAY]
    assert shop.rows("recommendations", "run_date") == [(DAY,)] * 5
    assert {(day, path.parent.name) for day, folder in folders.items() for path in folder.glob("*/*")} == {
        (DAY, "serving"),
        (DAY - timedelta(days=9), "baseline"),
    }
    assert shop.rows("models", "run_date", "purpose") == [
        (DAY - timedelta(days=9), "baseline"),
        (DAY, "serving"),
    ]


def test_model_folders_that_no_run_has_recorded_go_after_a_day(shop, spark):
    kept = saved(shop.night(), "serving")
    fresh, orphan = (Path(shop.night().config.lake.models_path) / name for name in ("fresh", "orphan"))
    for folder in (fresh, orphan):
        (folder / "candidate").mkdir(parents=True)
    aged(orphan, 2 * 86_400)
    assert maintain(spark, shop.night().config, TODAY).folders == 1
    assert (kept.exists(), fresh.exists(), orphan.exists()) == (True, True, False)


def current_files(shop):
    return {path.rpartition("/")[2] for path in shop.night().lake.read("recommendations").inputFiles()}


def test_files_of_old_versions_stay_a_week_unless_otherwise_meant(shop, spark, lake_files):
    for _ in range(2):
        recommended(shop.night(), rows=5)
    with pytest.raises(LakeError, match=r"younger than 7 days may still be read: .* --below-floor"):
        maintain(spark, shop.night().config, TODAY, keep_days=0)
    maintain(spark, shop.night().config, TODAY)
    assert len(lake_files("recommendations")) == 2
    maintain(spark, shop.night().config, TODAY, keep_days=0, below_floor=True)
    assert lake_files("recommendations") == current_files(shop)


def test_nothing_is_maintained_while_a_night_is_running(shop, spark):
    night = shop.night()
    with night.alone(), pytest.raises(LakeError, match=f"2024-06-30 is being run by run {night.run_id}"):
        maintain(spark, shop.night().config, TODAY)
    other = Lock(night.lake, WHOLE_LAKE, "maintenance")
    with other, pytest.raises(LakeError, match="the lake is being run by run maintenance"):
        shop.night().alone().__enter__()
    with night.alone():
        assert [row[0] for row in shop.rows("locks", "name")] == ["2024-06-30"]


@pytest.fixture(scope="module")
def that_forgot(spark, tmp_path_factory):
    """A shop that has forgotten ``ann``: her ratings, her lists, a row of hers that was rejected, and a page
    that showed her.
    """
    shop = Shop(spark, tmp_path_factory.mktemp("forgotten"))
    shop.ingested("ann,x,4,1500000000")  # which the next input corrects
    rows = ("ann,x,3", "bob,x,3", "bob,y,3", "ann,y,9", "anna,y,9")
    shop.receive(*(f"{row},1600000000" for row in rows))
    ingest(shop.night())
    recommended(shop.night(), rows=2)
    for day, user in ((DAY, "ann"), (NEXT, "bob")):
        shown_on_page(shop, day, user)
    shop.gone = forget(spark, shop.night().config, ["ann", "user 1"], TODAY)
    return shop


@pytest.fixture
def forgotten(that_forgot, tmp_path):
    """The same lake, for one test alone."""
    shop = that_forgot.copied(tmp_path)
    shop.gone = that_forgot.gone
    return shop


def test_forgotten_people_leave_every_table(forgotten):
    assert {name: count for name, count in forgotten.gone.items() if count} == {
        "ratings": 1,
        "rejected_ratings": 1,
        "recommendations": 1,
        "reports": 1,
    }
    assert forgotten.rows("ratings", "user", "item") == [("bob", "x"), ("bob", "y")]
    assert forgotten.rows("rejected_ratings", "raw") == [("anna,y,9,1600000000",)]
    assert forgotten.rows("recommendations", "user") == [("user 0",)]


def test_the_others_lists_can_still_be_published(forgotten):
    publish(forgotten.night())
    assert forgotten.rows("current_recommendations", "user") == [("user 0",)]


def test_folders_of_a_store_outside_the_lake_are_left_alone(shop, spark, tmp_path):
    shop.tree["lake"]["model_store"] = str(tmp_path / "store")
    saved(shop.night(), "serving")
    other = tmp_path / "store" / "another lake's"
    other.mkdir()
    aged(other, 2 * 86_400)
    assert maintain(spark, shop.night().config, TODAY).folders == 0
    assert other.exists()


def test_forgotten_people_do_not_come_back(forgotten):
    counts = forgotten.ingested("ann,x,3,1700000000", "ann,,9,1700000000", "bob,x,4,1700000000", "ann,z,1,1")
    assert counts == {"updated": 1, "rejected": 3}
    assert forgotten.rows("ratings", "user", "item") == [("bob", "x"), ("bob", "y")]
    rejected = [row for row in forgotten.rows("rejected_ratings", "reason", "raw") if row[0] == "forgotten"]
    assert rejected == [("forgotten", None)] * 3


def test_after_maintenance_no_file_holds_what_was_forgotten(forgotten, spark, tmp_path):
    maintain(spark, forgotten.night().config, TODAY, keep_days=0, below_floor=True)
    for path in (tmp_path / "lake" / "ratings").glob("*.parquet"):
        assert "ann" not in pq.read_table(path)["user"].to_pylist(), path


def test_forgetting_says_from_when_on_nothing_is_left(forgotten, spark, capsys):
    forget(spark, forgotten.night().config, ["bob"], TODAY)
    said = " ".join(capsys.readouterr().err.split())
    assert "ratings: 2 rows removed, gone from version" in said
    assert "after 2024-07-31, saved models with the first after 2024-09-29" in said
