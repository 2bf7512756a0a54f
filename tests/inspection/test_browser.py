"""The page in Chromium: what is drawn, found, read aloud and printed, and that nothing of the data runs."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from recsys_spark.console import Section
from recsys_spark.inspection.charts import map_chart, over_time_chart, ratings_by_genre_chart
from recsys_spark.inspection.page import Part, Search, write_page
from tests.inspection.test_charts import HISTOGRAM, HOSTILE, MONTHS, PLACES

TITLES = ["Heat (1995)", HOSTILE, "Ran (1985)", "Heathers (1989)"]
LONG = [f"a column with a long name {number}" for number in range(5)]
COLUMNS = ["rank", "item", "title", "score", *LONG, "because"]
ROWS = [{"rank": 1, "item": 2, "title": HOSTILE, "score": 0.5, "because": [{"title": HOSTILE, "item": 2}]}]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    neighbors = {0: [(1, 0.91), (2, 0.5)], 1: [(0, 0.91)], 3: [(2, 0.2)]}
    parts = [
        Part("Lists", "Words.", None, ROWS, COLUMNS, more=[Section("h", "History", ROWS, COLUMNS)]),
        Part(HOSTILE, "Words.", ratings_by_genre_chart(HISTOGRAM), ROWS, COLUMNS, folded=True),
        Part("Months", chart=over_time_chart(MONTHS, "month")),
        Part("Map", chart=map_chart(PLACES.assign(title=[HOSTILE, "b", "c"], genre=[HOSTILE, "War", "War"]))),
        Part("Similar", search=Search("A title", TITLES, neighbors)),
    ]
    write_page(path, f"Of {HOSTILE}", parts)
    return path


def test_charts_draw_without_network_and_nothing_of_the_data_runs(opened, path):
    page, problems = opened(path)
    assert page.locator("[data-chart] svg").count() == 3
    assert problems == []
    assert page.title() == f"Of {HOSTILE}"  # which the script in it would have changed
    assert page.locator("td").nth(2).inner_text() == HOSTILE


def test_charts_follow_the_colours_that_the_reader_has_chosen(opened, path):
    page, _ = opened(path, theme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.locator("[data-chart] svg text").first.get_attribute("fill")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("body[data-drawn=light]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert page.locator("[data-chart] svg text").first.get_attribute("fill") != ink


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("heat", [f"{HOSTILE} – 0.91", "Ran (1985) – 0.50"]),
        ("heathers (1989)", ["Ran (1985) – 0.20"]),
        ("<script>", ["Heat (1995) – 0.91"]),
        ("Ran", []),
        ("", []),
    ],
)
def test_neighbours_are_looked_up_by_the_keyboard_alone(opened, path, typed, found):
    page, problems = opened(path)
    page.get_by_label("A title").focus()
    page.keyboard.type(typed)
    assert page.locator(".search li").all_inner_texts() == found
    assert (
        page.locator(".search p").all_inner_texts()
        == {
            "heat": ["Most like Heat (1995):"],
            "heathers (1989)": ["Most like Heathers (1989):"],
            "<script>": [f"Most like {HOSTILE}:"],
            "Ran": ["No such item here."],
            "": [],
        }[typed]
    )
    assert problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_nothing_keeps_people_from_reading_it(opened, path, theme, width):
    page, _ = opened(path, width, theme)
    for details in page.locator("details summary").all():
        details.click()
    found = Axe().run(page)
    serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
    assert not serious, found.generate_report()


def test_on_a_phone_nothing_is_wider_than_the_screen(opened, path):
    page, _ = opened(path, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cell = page.locator("table.wide td").last
    assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"because"'
    assert cell.bounding_box()["x"] + cell.bounding_box()["width"] <= 390


def test_on_paper_it_is_dark_on_white_without_what_one_cannot_use_there(opened, path):
    page, _ = opened(path, theme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 36, 48)"
    assert not page.locator("nav").is_visible()
    assert not page.locator(".search").is_visible()
    assert page.locator("[data-chart] svg").first.is_visible()
