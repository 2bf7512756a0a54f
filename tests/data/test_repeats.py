"""What is known when a part begins, and what is consumed again in it."""

import pytest
from pyspark.sql import functions as F

from recsys_spark.data.repeats import Consumption, leaving_out
from recsys_spark.data.split import leave_last_out, temporal_split

PLAYS = [
    ("ann", "tea", 1, "play"),
    ("ann", "rusk", 2, "like"),
    ("ann", "tea", 3, "play"),
    ("ann", "jam", 5, "play"),
    ("ann", "rusk", 6, "play"),  # of what is held out later, a part of the validation
    ("ann", "tea", 20, "play"),
    ("ann", "rusk", 21, "play"),
    ("bob", "milk", 1, "play"),
    ("bob", "milk", 30, "play"),
    ("cid", "tea", 7, "play"),
    ("cid", "jam", 8, "play"),
]


def consumption(spark, types=False, days=None):
    """The plays, of which a pair is worth their number."""
    events = spark.createDataFrame(PLAYS, "user string, item string, day int, event string")
    events = events.withColumn("timestamp", F.timestamp_seconds(F.col("day") * 86_400))

    def rated(some):
        return some.groupBy("user", "item").agg(
            F.count("*").cast("double").alias("rating"), F.max("timestamp").alias("timestamp")
        )

    return Consumption(events, rated, leaving_out(types, days))


def by_part(rows):
    found = {}
    for row in rows.collect():
        found.setdefault(row["part"], set()).add((row["user"], row["item"], row["rating"]))
    return found


def last_of_each(plays):
    return plays.divided(leave_last_out(plays.rated(plays.events), 1, seed=1), by_user=True)


def test_parts_of_each_user_begin_with_the_last_play_of_its_last_items(spark):
    """Ann's validation begins on day 20 and her test on day 21, cid's on day 8; bob has one item only."""
    divided = last_of_each(consumption(spark))
    assert by_part(divided.in_parts("validation", "test")) == {
        "train": {
            ("ann", "tea", 2.0),
            ("ann", "rusk", 2.0),
            ("ann", "jam", 1.0),
            ("bob", "milk", 2.0),
            ("cid", "tea", 1.0),
        },
        "validation": {("ann", "tea", 1.0)},
        "test": {("ann", "rusk", 1.0), ("cid", "jam", 1.0)},
    }
    known = divided.rated(divided.before("test").events)
    assert {tuple(row)[:3] for row in known.where("user = 'ann'").collect()} == {
        ("ann", "tea", 3.0),
        ("ann", "rusk", 2.0),
        ("ann", "jam", 1.0),
    }


def test_parts_of_all_begin_at_one_time(spark):
    """Of the six pairs one may be test and two validation: from the 30th, and from the 20th on."""
    plays = consumption(spark)
    parts = temporal_split(plays.rated(plays.events), 0.34, 0.17)
    assert by_part(plays.divided(parts, by_user=False).in_parts("validation", "test")) == {
        "train": {
            ("ann", "tea", 2.0),
            ("ann", "rusk", 2.0),
            ("ann", "jam", 1.0),
            ("bob", "milk", 1.0),
            ("cid", "tea", 1.0),
            ("cid", "jam", 1.0),
        },
        "validation": {("ann", "tea", 1.0), ("ann", "rusk", 1.0)},
        "test": {("bob", "milk", 1.0)},
    }


@pytest.mark.parametrize(
    ("types", "days", "left"),
    [
        (["view"], None, {("ann", "rusk", 1.0)}),
        (["like"], None, set()),
        (True, 14, {("ann", "rusk", 1.0)}),  # she liked it on day 2, played it on day 6, and on day 21
        (True, 15, set()),
    ],
)
def test_what_a_list_could_not_have_held_is_not_held_out(spark, types, days, left):
    divided = last_of_each(consumption(spark, types, days))
    assert by_part(divided.in_parts("test")).get("test", set()) == left | {("cid", "jam", 1.0)}


def test_validation_without_a_row_begins_with_the_test(spark):
    plays = consumption(spark)
    parts = temporal_split(plays.rated(plays.events), 0.0, 0.17)
    divided = plays.divided(parts, by_user=False)
    assert (
        divided.before("validation").events.count() == divided.before("test").events.count() == len(PLAYS) - 1
    )
