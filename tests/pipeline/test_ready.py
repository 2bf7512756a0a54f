"""What is looked at before a run writes anything: its date, the clock, and the tables as others left them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import functions as F

from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import NEXT, Shop

RATED = [f"u{u},i{i},{1 + (u + i) % 5},{1_600_000_000 + 100 * i + u}" for u in range(9) for i in range(5)]


@pytest.fixture
def shop(spark, tmp_path):
    return Shop(spark, tmp_path)


def today():
    return datetime.now(UTC).date()


def test_date_that_has_come_nowhere_is_refused(shop):
    with (
        pytest.raises(LakeError, match=r"is in the future, and the clock of this machine says .* UTC"),
        shop.night(today() + timedelta(days=2)).alone(),
    ):
        pass
    assert not (shop.folder / "lake").exists()


def test_date_of_today_is_run(shop):
    with shop.night(today()).alone():
        assert shop.night().lake.read("locks").first()["name"] == today().isoformat()


@pytest.mark.parametrize(("ahead", "runs"), [(30, True), (7_200, False)])
def test_clock_behind_what_was_written_is_refused(spark, shop, ahead, runs):
    shop.night().lake.create("runs")
    (commit,) = (shop.folder / "lake" / "runs" / "_delta_log").glob("*.json")
    written = datetime.now(UTC) + timedelta(seconds=ahead)
    lines = [json.loads(line) for line in commit.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["timestamp"] = int(written.timestamp() * 1_000)
    commit.write_text("\n".join(map(json.dumps, lines)))
    commit.with_name(f".{commit.name}.crc").unlink()
    if runs:
        with shop.night().alone():
            assert shop.night().lake.read("locks").count() == 1
    else:
        said = (
            rf"the clock of this machine says .*, and a run has written .* at {written:%Y-%m-%d %H:%M:%S} UTC"
        )
        with pytest.raises(LakeError, match=said), shop.night().alone():
            pass
        assert not shop.night().lake.exists("locks")


RENAMABLE = "'delta.columnMapping.mode' = 'name'"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            [
                f"ALTER TABLE {{}} SET TBLPROPERTIES ({RENAMABLE})",
                "ALTER TABLE {} RENAME COLUMN model TO name",
            ],
            "table 'user_metrics' has no column 'model', and has 'name': give it its name back",
        ),
        (
            ["ALTER TABLE {} SET TBLPROPERTIES ('delta.appendOnly' = 'true')"],
            "table 'user_metrics' takes appended rows only: ALTER TABLE",
        ),
    ],
)
def test_table_that_cannot_be_written_is_named_before_anything_is(spark, shop, statements, said):
    shop.night().lake.create("user_metrics")
    for statement in statements:
        spark.sql(statement.format(f"delta.`{shop.folder}/lake/user_metrics`"))
    with pytest.raises(LakeError, match=re.escape(said)), shop.night().alone():
        pass
    assert not shop.night().lake.exists("locks")


@pytest.mark.slow
@pytest.mark.long
def test_columns_that_users_have_added_stay(spark, shop):
    shop.tree |= {"models": ["popularity"], "recommend": {"n": 4, "exclude_seen": False}}
    shop.tree["gate"] = {"max_loss": 1.0, "max_row_change": 9.0}
    shop.receive(*RATED)
    run_night(shop.night())
    lake = shop.night().lake
    kept = [name for name in TABLES if lake.exists(name)]
    for name in kept:
        spark.sql(f"ALTER TABLE delta.`{shop.folder}/lake/{name}` ADD COLUMNS (note string)")
    lake.update("ratings", F.lit(True), {"note": F.lit("mine")})
    shop.receive(*RATED[1:], "u0,i0,5,1700000000", "u9,i1,4,1600000000")  # one is newer, one is new
    run_night(shop.night(NEXT))
    noted = {(row["user"], row["item"]): row["note"] for row in lake.read("ratings").collect()}
    assert noted.pop(("u9", "i1")) is None
    assert set(noted.values()) == {"mine"}
    assert all("note" in lake.read(name).columns for name in kept)
    assert {row["run_date"] for row in lake.read("current_recommendations").collect()} == {NEXT}
    assert lake.read("recommendations").where("run_date = '2024-06-30'").count() == 9 * 4
