"""What pairs' events are worth: against hand-made values and a loop in Python."""

from __future__ import annotations

import random
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from recsys_spark.config import Events
from recsys_spark.data.events import as_of, month_of, pair_worths

DAY = date(2024, 3, 31)
END = datetime(2024, 4, 1, tzinfo=UTC)
WEIGHTS = {"view": 1.0, "purchase": 5.0, "return": -5.0}
SCHEMA = "user string, item string, event string, timestamp timestamp"


def before(days):
    return END - timedelta(days=days)


def worths(spark, events, day=DAY, **settings):
    """(item → (rating, days before the end)) of one user's events: (item, type, days before the end)."""
    rows = [("u", item, event, None if days is None else before(days)) for item, event, days in events]
    settings = Events(**{"weights": WEIGHTS, **settings})
    frame = pair_worths(spark.createDataFrame(rows, SCHEMA), settings, day)
    ages = (F.unix_micros(F.lit(END)) - F.unix_micros("timestamp")) / 86_400e6
    found = frame.select("item", "rating", ages.alias("age")).collect()
    return {row["item"]: (row["rating"], row["age"]) for row in found}


EVENTS = [
    ("bought, then viewed", "purchase", 3),
    ("bought, then viewed", "view", 1),
    ("viewed twice", "view", 4),
    ("viewed twice", "view", 2),
    ("returned", "view", 6),
    ("returned", "purchase", 5),
    ("returned", "return", 4),
    ("bought twice, returned once", "purchase", 9),
    ("bought twice, returned once", "purchase", 8),
    ("bought twice, returned once", "return", 7),
]


@pytest.mark.parametrize(
    ("combine", "ratings"),
    [
        ("sum", [6, 2, 1, 5]),
        ("max", [5, 1, 1, 5]),
        ("latest", [1, 1, -5, -5]),
        ("count", [2, 2, 1, 1]),
    ],
)
def test_events_of_a_pair_are_combined(spark, combine, ratings):
    found = worths(spark, EVENTS, combine=combine)
    names = ["bought, then viewed", "viewed twice", "returned", "bought twice, returned once"]
    assert [found[name] for name in names] == list(zip(ratings, [1.0, 2.0, 4.0, 7.0], strict=True))


def test_weights_fade_to_the_last_event_of_the_pair(spark):
    events = [("a", "purchase", 20), ("a", "view", 10), ("b", "purchase", 10)]
    assert worths(spark, events, half_life=10.0) == {"a": (1 + 5 / 2, 10.0), "b": (5.0, 10.0)}
    assert worths(spark, events, half_life=5.0, combine="max") == {"a": (5 / 4, 10.0), "b": (5.0, 10.0)}
    assert worths(spark, events, half_life=5.0, combine="count") == {"a": (1.25, 10.0), "b": (1.0, 10.0)}


def test_worth_fades_on_when_it_is_read_and_is_capped_then(spark):
    pairs = spark.createDataFrame(
        [
            ("fresh", 8.0, before(0)),
            ("older", 8.0, before(20)),
            ("taken back", 0.0, before(1)),
            ("owed", -1.0, before(1)),
        ],
        "item string, rating double, timestamp timestamp",
    )

    def read(**settings):
        rows = as_of(pairs, Events(weights=WEIGHTS, **settings), DAY).collect()
        return {row["item"]: row["rating"] for row in rows}

    assert read() == {"fresh": 8.0, "older": 8.0}
    assert read(half_life=10.0) == {"fresh": 8.0, "older": 2.0}
    assert read(half_life=10.0, cap=5.0) == {"fresh": 5.0, "older": 2.0}


def test_what_has_faded_below_the_smallest_number_is_gone(spark):
    age = 1.0 * 127  # 2 ** -127 is below, 2 ** -126 above what a float32 holds with all digits
    pairs = spark.createDataFrame(
        [(1.0, before(age)), (1.0, before(age - 1))], "rating double, timestamp timestamp"
    )
    left = as_of(pairs, Events(half_life=1.0), DAY).collect()
    assert [row["rating"] for row in left] == [2.0**-126]


def test_ancient_events_are_worth_nothing_and_no_error(spark):
    events = [("a", "view", 40_000), ("b", "view", 1)]
    assert worths(spark, events, half_life=1.0) == {"a": (0.0, 40_000.0), "b": (1.0, 1.0)}


def test_window_counts_whole_days_to_the_run_date(spark):
    second = 1 / 86_400
    events = [("first second", "view", 7.0), ("one before", "view", 7.0 + second)]
    assert worths(spark, events, window=7) == {
        "first second": (1.0, 7.0),
        "one before": (0.0, pytest.approx(7.0 + second)),
    }


def test_events_after_the_run_date_do_not_count(spark):
    events = [("a", "view", 0.5), ("a", "purchase", -0.5), ("b", "view", 0.0), ("c", "view", 2)]
    assert worths(spark, events) == {"a": (1.0, 0.5), "b": (None, None), "c": (1.0, 2.0)}


def test_events_without_times_and_types_without_weight(spark):
    events = [("a", "view", None), ("a", "purchase", None), ("b", "gone from the configuration", None)]
    assert worths(spark, events) == {"a": (6.0, None), "b": (0.0, None)}


def test_sums_cancel_whatever_their_order(spark):
    weights = {"a": 0.1, "b": 0.2, "back": -0.3}
    events = [("i", "a", 3), ("i", "b", 2), ("i", "back", 1)]
    assert worths(spark, events, weights=weights)["i"] == (0.0, 1.0)


@pytest.mark.parametrize("combine", ["sum", "max", "latest", "count"])
@pytest.mark.parametrize("settings", [{}, {"half_life": 3.0, "window": 12}])
def test_worths_are_those_of_a_loop(spark, combine, settings):
    draw = random.Random(7)
    events = [
        (str(draw.randrange(12)), draw.choice([*WEIGHTS]), draw.randrange(1, 40 * 86_400) / 86_400)
        for _ in range(150)
    ]
    found = worths(spark, events, combine=combine, **settings)
    expected = {}
    for item in {event[0] for event in events}:
        mine = sorted((e for e in events if e[0] == item), key=lambda e: -e[2])
        counted = [e for e in mine if e[2] <= settings.get("window", 10**6)]
        if not counted:
            expected[item] = (0.0, pytest.approx(mine[-1][2]))
            continue
        last = counted[-1][2]
        now = [(WEIGHTS[e[1]], 0.5 ** ((e[2] - last) / settings.get("half_life", 1e12))) for e in counted]
        if combine == "sum":
            value = sum(weight * left for weight, left in now)
        elif combine == "count":
            value = sum((1 if weight > 0 else -1) * left for weight, left in now)
        elif combine == "latest":
            value = now[-1][0]
        else:
            value = 0.0
            for size in (1.0, 5.0):
                given, taken = (sum(weight == sign * size for weight, _ in now) for sign in (1, -1))
                if given > taken:
                    value = max(value, *(weight * left for weight, left in now if weight == size))
        expected[item] = (pytest.approx(value, abs=1e-8), pytest.approx(last))
    assert found == expected


def test_months_are_those_of_utc_in_any_session(spark):
    times = [
        datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
        datetime(2024, 3, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, tzinfo=UTC),
    ]
    frame = spark.createDataFrame([(time,) for time in times], "timestamp timestamp")
    before = spark.conf.get("spark.sql.session.timeZone")
    try:
        spark.conf.set("spark.sql.session.timeZone", "Pacific/Auckland")
        months = [row[0] for row in frame.select(month_of(F.col("timestamp"))).collect()]
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)
    assert months == [date(2024, 2, 1), date(2024, 3, 1), date(1969, 12, 1)]


def test_sql_of_the_documents_gives_the_same(spark):
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.S)
    day = date(2026, 1, 31)
    times = [datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2025, 11, 3, tzinfo=UTC)]
    rows = [("u", str(n), 25.0, time) for n, time in enumerate(times)]
    pairs = spark.createDataFrame(rows, "user string, item string, rating double, timestamp timestamp")
    pairs.createOrReplaceTempView("ratings")
    told = {row["item"]: row["worth"] for row in spark.sql(query).collect()}
    spark.catalog.dropTempView("ratings")
    read = as_of(pairs, Events(half_life=90.0, cap=20.0), day).collect()
    assert told == {row["item"]: pytest.approx(row["rating"], rel=1e-12) for row in read}
    assert told == {"0": 20.0, "1": pytest.approx(12.5)}
