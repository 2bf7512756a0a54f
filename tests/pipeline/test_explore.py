"""The page of what is explored: each part that there is something of, and no other."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from recsys_spark.pipeline.explore import Explored, explored_parts
from tests.inspection.test_charts import COUNTS, GROUPS, HISTOGRAM, MONTHS, PAIRS

NOTHING = pd.DataFrame()
WHOLE = Explored(
    overview=pd.DataFrame([{"ratings": 40, "first": None}]),
    counts=COUNTS,
    histogram=HISTOGRAM,
    unit="month",
    periods=MONTHS,
    users={"gender": GROUPS},
    genres=PAIRS,
    rejected=pd.DataFrame([("ratings", "no_user", 2)], columns=["input", "reason", "rows"]),
)
BARE = replace(
    WHOLE,
    histogram=HISTOGRAM[HISTOGRAM["genre"] == "all"],
    periods=NOTHING,
    users={},
    genres=NOTHING,
    rejected=NOTHING,
)


def told(explored):
    return {part.heading: (part.chart is not None, len(part.rows)) for part in explored_parts(explored)}


def test_each_part_has_its_chart_and_its_rows():
    assert told(WHOLE) == {
        "What there is": (False, 1),
        "Ratings that users and items have": (True, 2),
        "The long tail": (True, 0),
        "Ratings by value": (True, 2),
        "Ratings by genre": (True, 0),
        "Ratings by month": (True, 2),
        "Users by gender": (True, 3),
        "Items by genre": (True, 2),
        "Rejected rows of all nights, by reason": (False, 1),
    }


def test_what_there_is_nothing_of_is_left_out():
    assert list(told(BARE)) == [
        "What there is",
        "Ratings that users and items have",
        "The long tail",
        "Ratings by value",
    ]
