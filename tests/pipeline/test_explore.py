"""The page of what is explored: each part that there is something of, and no other."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from recsys_spark.cli import main
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


@pytest.mark.slow
def test_the_command_writes_a_page_that_shows_the_tables(shop, opened, tmp_path, capsys):
    shop.ingested(
        *(f"u{user},i{item},{1 + item},2024-05-0{1 + item}" for user in range(16) for item in range(4))
    )
    file = tmp_path / "explored.html"
    with pytest.raises(SystemExit, match="0"):
        main(["explore", "-c", str(shop.folder / "conf.yaml"), "--html", str(file)])
    assert capsys.readouterr().out == f"{file}: {file.stat().st_size / 1e6:.1f} MB\n"
    page, problems = opened(file)
    assert problems == []
    assert page.get_by_role("heading", name="Ratings by month").is_visible()
    first_table = page.locator("table").first.inner_text()
    assert "64" in first_table  # ratings: four of each of sixteen users
