"""What is served: one table, replaced in one commit, that any reader can read; and the way back."""

from __future__ import annotations

import threading
from datetime import date, datetime, timedelta

import pytest
from delta.tables import DeltaTable as SparkTable
from deltalake import DeltaTable
from pyspark.sql import functions as F

from recsys_spark.errors import LakeError, PublishError
from recsys_spark.pipeline.details import PATHS
from recsys_spark.pipeline.gate import OPEN, VERDICT
from recsys_spark.pipeline.publish import publish, rollback
from recsys_spark.pipeline.served import served_lists
from recsys_spark.pipeline.show_runs import describe_current
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import DAY, Shop

pytestmark = pytest.mark.slow

USERS = 50


def recommended(night, *, rows=USERS):
    """As if the night had made its lists: one item for each user, called after the date."""
    lake, today = night.lake, night.run_date.isoformat()
    lake.create("recommendations", "string", "string")
    with night.step("recommend") as record:
        lists = night.spark.range(0, rows, 1, 1).select(
            F.lit(night.run_date).alias("run_date"),
            F.format_string("user %d", "id").alias("user"),
            F.lit(1).alias("rank"),
            F.lit(f"item of {today}").alias("item"),
            F.lit(1.0).cast("float").alias("score"),
            F.lit("als").alias("model"),
            F.lit("model").alias("reason"),
        )
        lake.replace("recommendations", lists, f"run_date = '{today}'", rows)
        record.counts |= {"rows": rows, "lists": rows}
        record.details[PATHS] = "{}"
    lake.create("models")
    with night.step("gate") as record:
        record.details[VERDICT] = OPEN


def day(number):
    return DAY + timedelta(days=number)


def items(lake):
    return {row["item"] for row in lake.read("current_recommendations").collect()}


@pytest.fixture(scope="module")
def served(spark, tmp_path_factory):
    """Three dates, published one after the other."""
    shop = Shop(spark, tmp_path_factory.mktemp("served"))
    for number in range(3):
        recommended(shop.night(day(number)))
        publish(shop.night(day(number)))
    return shop


@pytest.fixture
def copied(served, tmp_path):
    """The same lake, for one test alone."""
    return served.copied(tmp_path)


def test_rollback_goes_back_step_by_step(copied, spark):
    shop = copied
    for number in (1, 0):
        rollback(spark, shop.night().config)
        assert items(shop.night().lake) == {f"item of {day(number)}"}
    with pytest.raises(LakeError, match="there is no way back"):
        rollback(spark, shop.night().config)
    publish(shop.night(day(2)))
    rollback(spark, shop.night().config)
    assert items(shop.night().lake) == {f"item of {day(0)}"}  # which was served before
    rollback(spark, shop.night().config, day(1))
    assert items(shop.night().lake) == {f"item of {day(1)}"}
    steps = [row["step"] for row in shop.night().lake.read("runs").where("state = 'done'").collect()]
    assert steps.count("publish") == 4  # three of them of the lake that was copied
    assert steps.count("rollback") == 4


def test_rollback_serves_nothing_that_was_not_published(served, spark):
    recommended(served.night(day(3)))
    with pytest.raises(LakeError, match=rf"{day(3)} has never been published; published dates: {day(0)}, "):
        rollback(spark, served.night().config, day(3))
    recommended(served.night(day(1)))  # again, after it was published
    with pytest.raises(PublishError, match=f"the lists of {day(1)} were made again by run .* recsys publish"):
        rollback(spark, served.night().config, day(1))
    assert items(served.night().lake) == {f"item of {day(2)}"}


def test_an_older_date_is_served_when_it_is_published_again(copied):
    publish(copied.night(day(0)))
    assert items(copied.night().lake) == {f"item of {day(0)}"}


def test_lists_that_are_not_those_that_were_checked_are_not_served(copied, spark):
    path = str(copied.folder / "lake" / "recommendations")
    SparkTable.forPath(spark, path).delete(f"run_date = '{day(1)}' AND user = 'user 3'")
    with pytest.raises(PublishError, match=f"has 49 rows of {day(1)}, and 50 were checked"):
        publish(copied.night(day(1)))
    assert items(copied.night().lake) == {f"item of {day(2)}"}


def test_current_says_what_is_served_and_why(served):
    now = served.served()
    wanted = {"run_date": day(2), "rows_by_model": {"als": 50}, "lists": 50, "step": "publish"}
    assert {name: now[name] for name in wanted} == wanted
    published = datetime.fromisoformat(f"{now['published']}+00:00")
    (later,) = describe_current(served.reader(), published + timedelta(hours=7, seconds=1))
    assert later.rows[0]["age"] == "7 h 0 min"


def test_before_the_first_publish_nothing_is_served(shop):
    with pytest.raises(LakeError, match="nothing has been published: run the night first"):
        served_lists(shop.night().lake)
    recommended(shop.night())
    with pytest.raises(LakeError, match="there are no recommendations of 1999-01-01"):
        served_lists(shop.night().lake, date(1999, 1, 1))


def test_readers_see_whole_lists_while_dates_are_switched(copied, spark):
    path, done = f"{copied.folder}/lake/current_recommendations", threading.Event()
    other = spark.newSession()

    def by_deltalake():
        return DeltaTable(path).to_pyarrow_table(columns=["user", "run_date"]).to_pylist()

    def by_spark():
        return other.read.format("delta").load(path).select("user", "run_date").collect()

    seen: dict[str, list] = {"deltalake": [], "spark": []}

    def read(name, reader):
        while not done.is_set():
            rows = reader()
            seen[name].append(
                (len(rows), len({row["user"] for row in rows}), {row["run_date"] for row in rows})
            )

    threads = [
        threading.Thread(target=read, args=pair)
        for pair in (("deltalake", by_deltalake), ("spark", by_spark))
    ]
    for thread in threads:
        thread.start()
    publish(copied.night(day(1)))
    rollback(spark, copied.night().config)
    publish(copied.night(day(1)))
    done.set()
    for thread in threads:
        thread.join()
    for reads in seen.values():
        assert len(reads) > 5
        assert {(rows, users, len(dates)) for rows, users, dates in reads} == {(USERS, USERS, 1)}
        assert len({min(dates) for _, _, dates in reads}) == 2


def test_a_backfilled_night_leaves_what_is_served(shop, capsys):
    shop.receive(
        *(
            f"u{u},i{i},{1 + (u + i) % 5},{1_600_000_000 + i}"
            for u in range(8)
            for i in range(6)
            if (u + i) % 3
        )
    )
    recommended(shop.night(day(1)))
    publish(shop.night(day(1)))
    run_night(shop.night(day(0)))
    assert served_lists(shop.night().lake)[0] == day(1)
    assert "publish: left out, as lists of" in capsys.readouterr().err
    assert served_lists(shop.night().lake, day(0))[1].count() > 0
    assert publish(shop.night(day(0)), unless_later=True) is False
