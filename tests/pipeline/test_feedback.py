"""What users did with lists that were served, counted by hand."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from delta.tables import DeltaTable

from recsys_spark.errors import LakeError
from recsys_spark.pipeline.details import MADE_BY
from recsys_spark.pipeline.feedback import feedback, lists_in_use
from recsys_spark.pipeline.ingest import ingest
from tests.pipeline.shop import DAY, NEXT, Shop

pytestmark = pytest.mark.slow

BEFORE, IN_TIME, TOO_LATE = 1_719_700_000, 1_719_835_200, 1_719_921_700
"""29 June, 1 July at noon, and 2 July of 2024."""


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """Lists of a and b for four users, and one row that is filled in; the second slot is drawn. Three take
    something the day after.
    """
    shop = Shop(spark, tmp_path_factory.mktemp("answered"))
    old = [f"u{user},o{item},3,{BEFORE + item}" for user in range(4) for item in range(4)]
    shop.receive(*old, f"u0,a,3,{BEFORE}")
    night = shop.night()
    ingest(night)
    rows = [
        {
            "run_date": DAY,
            "user": f"u{user}",
            "rank": rank,
            "item": item,
            "score": 1.0,
            "model": "als",
            "reason": "model",
        }
        for user in range(4)
        for rank, item in enumerate("ab", 1)
    ]
    rows[3] |= {"model": "popularity", "reason": "fallback"}
    for row, reason, propensity in ((1, "exploration", 0.25), (3, "fallback", 0.5), (5, "model", 0.8)):
        rows[row] |= {"reason": reason, "propensity": propensity}
    night.lake.create("recommendations")
    frame = spark.createDataFrame(rows, night.lake.read("recommendations").schema)
    night.lake.append("recommendations", frame, len(rows))
    with night.step("recommend"):
        pass
    with night.step("publish") as record:
        record.details[MADE_BY] = night.run_id
    later = [f"u0,a,5,{IN_TIME}", f"u1,b,1,{IN_TIME}", f"u1,z,4,{IN_TIME}", f"u2,z,5,{IN_TIME}"]
    shop.receive(*later, f"u3,a,5,{TOO_LATE}", f"u9,a,5,{IN_TIME}")
    ingest(shop.night(NEXT))
    return shop


def measured(shop, **changes):
    """(metric, model, segment) → the value and its interval, as the table has them."""
    night = shop.night(**changes)
    feedback(night)
    rows = night.lake.read("metrics").where(f"run_id = '{night.run_id}'").collect()
    assert {row["part"] for row in rows} == {"served"}
    return {(row["metric"], row["model"], row["segment"]): row for row in rows}


def test_rows_users_and_what_was_taken_are_counted(shop):
    found = {key: row["value"] for key, row in measured(shop).items()}
    assert found == pytest.approx(
        {
            ("hit_rate", "all", "all"): 2 / 3,
            ("recall", "all", "all"): 2 / 4,
            ("answered", "all", "all"): 2 / 6,
            ("answered", "all", "rank=1"): 1 / 3,
            ("answered", "all", "rank=2"): 1 / 3,
            ("answered", "all", "reason=model"): 1 / 4,
            ("answered", "all", "reason=exploration"): 0.0,
            ("answered", "all", "reason=fallback"): 1.0,
            ("answered", "all", "activity=q4"): 1 / 2,
            ("answered", "all", "activity=q3"): 1 / 4,
            ("answered", "als", "all"): 1 / 5,
            ("answered", "als", "rank=1"): 1 / 3,
            ("answered", "als", "rank=2"): 0.0,
            ("answered", "als", "reason=model"): 1 / 4,
            ("answered", "als", "reason=exploration"): 0.0,
            ("answered", "als", "activity=q4"): 1 / 2,
            ("answered", "als", "activity=q3"): 0.0,
            ("answered", "popularity", "all"): 1.0,
            ("answered", "popularity", "rank=2"): 1.0,
            ("answered", "popularity", "reason=fallback"): 1.0,
            ("answered", "popularity", "activity=q3"): 1.0,
            # of three slots one is answered, and stands for two; the two that are as ever stand for 2 + 1.25
            ("ips", "all", "all"): 2 / 3,
            ("ips", "all", "rank=2"): 2 / 3,
            ("ips", "all", "activity=q4"): 0.0,
            ("ips", "all", "activity=q3"): 2 / 2,
            ("snips", "all", "all"): 2 / 3.25,
            ("snips", "all", "rank=2"): 2 / 3.25,
            ("snips", "all", "activity=q3"): 2 / 3.25,
            ("snips", "all", "reason=fallback"): 1.0,
            ("snips", "all", "reason=model"): 0.0,
            ("snips", "als", "all"): 0.0,
            ("snips", "als", "rank=2"): 0.0,
            ("snips", "als", "activity=q3"): 0.0,
            ("snips", "als", "reason=model"): 0.0,
            ("snips", "popularity", "all"): 1.0,
            ("snips", "popularity", "rank=2"): 1.0,
            ("snips", "popularity", "activity=q3"): 1.0,
            ("snips", "popularity", "reason=fallback"): 1.0,
        }
    )


def test_what_came_before_the_lists_were_published_is_no_answer(shop, tmp_path):
    """They are published at half past three of the day after, and u0 has taken a at noon."""
    copied = shop.copied(tmp_path)
    for minutes, hit_rate in ((210, 2 / 3), (1_000, None), (1_450, 2 / 3)):
        took = "make_dt_interval(0, 0, 0, seconds)"
        begun = f"TIMESTAMP'2024-07-01 00:00:00' + make_dt_interval(0, 0, {minutes}) - {took}"
        runs = DeltaTable.forPath(shop.spark, str(copied.folder / "lake" / "runs"))
        runs.update("step = 'publish'", {"started": begun})
        if hit_rate is None:
            with pytest.raises(LakeError, match="nobody who has a list of 2024-06-30 took anything"):
                measured(copied)
        else:
            assert measured(copied)["hit_rate", "all", "all"]["value"] == pytest.approx(hit_rate)


def test_interval_is_that_of_a_ratio_over_users(shop):
    """Of two rows each, one, one and none were answered: 1/3, 1/3 and -2/3 more than a third of them."""
    row = measured(shop)["answered", "all", "all"]
    width = 1.96 * math.sqrt((1 / 9 + 1 / 9 + 4 / 9) * 3 / 2) / 6
    assert (row["low"], row["high"], row["users"]) == pytest.approx((1 / 3 - width, 1 / 3 + width, 3))


def test_dates_are_shown_beside_one_another_by_what_was_measured_last(shop):
    measured(shop)
    measured(shop, feedback={"min_rating": 3.0})
    assert lists_in_use(shop.reader(), DAY - timedelta(days=1)) == []
    dates, newest = lists_in_use(shop.reader(), NEXT)
    assert dates.columns == ["lists of", "users", "hit_rate", "recall", "answered", "ips", "snips"]
    (row,) = dates.rows
    assert (row["lists of"], row["users"], row["hit_rate"]) == ("2024-06-30", 3, 1 / 3)
    told = {(row["metric"], row["model"], row["segment"]): row["value"] for row in newest.rows}
    assert told["ips", "all", "rank=2"] == 0.0
    assert told["answered", "als", "rank=1"] == 1 / 3


def test_low_ratings_are_no_answers(shop):
    found = measured(shop, feedback={"min_rating": 3.0})
    assert found["hit_rate", "all", "all"]["value"] == 1 / 3
    assert found["recall", "all", "all"]["value"] == 1 / 3


def test_days_that_have_not_come_in_are_named(shop):
    with pytest.raises(LakeError, match=r"known until 2024-07-01: run this again when 2024-07-03 has been"):
        feedback(shop.night(feedback={"days": 3}))


def test_lists_that_were_not_published_are_an_error(shop):
    with pytest.raises(LakeError, match="step 'publish' has not been done for run date 2024-07-01"):
        feedback(shop.night(NEXT))
