"""Charts as they are drawn, and the page that they are on; without a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
import vl_convert

from recsys_spark.errors import SetupError
from recsys_spark.inspection.charts import (
    MOST_COLOURS,
    counts_chart,
    genres_chart,
    long_tail_chart,
    map_chart,
    norms_chart,
    over_time_chart,
    ratings_by_genre_chart,
    ratings_chart,
    users_chart,
)
from recsys_spark.inspection.model_charts import (
    calibration_chart,
    coverage_chart,
    exposure_chart,
    learning_chart,
    metrics_chart,
    scores_chart,
    seconds_chart,
    segments_chart,
)
from recsys_spark.inspection.page import Part, require_writable, write_page

HOSTILE = "<script>document.title='gone'</script>"
COUNTS = {
    "users": pd.DataFrame({"ratings": [1, 2, 10], "entities": [30, 12, 1]}),
    "items": pd.DataFrame({"ratings": [3, 64], "entities": [2, 1]}),
}
HISTOGRAM = pd.DataFrame(
    [("all", 1.0, 5), ("all", 2.0, 15), (HOSTILE, 1.0, 5), ("War", 1.0, 5), ("War", 2.0, 15)],
    columns=["genre", "rating", "ratings"],
)
MONTHS = pd.DataFrame({"period": [date(1997, 9, 1), date(1997, 10, 1)], "ratings": [7, 9], "users": [3, 4]})
GROUPS = pd.DataFrame({"gender": ["M", "F", "unknown"], "users": [3, 2, 1]})
PAIRS = pd.DataFrame(
    [("Drama", "Drama", 4), ("Drama", "War", 1), ("War", "Drama", 1), ("War", "War", 2)],
    columns=["genre", "other", "items"],
)


def drawn(chart):
    """The chart as SVG, drawn 400 pixels wide."""
    svg = vl_convert.vegalite_to_svg({**chart.to_dict(), "width": 400})
    return ElementTree.fromstring(svg)  # noqa: S314 – of our own making


def marks(svg, kind):
    return [
        path
        for group in svg.iter("{http://www.w3.org/2000/svg}g")
        if group.get("class", "").startswith(f"mark-{kind} role-mark")
        for tag in ("path", "line")
        for path in group.iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    ]


PLACES = pd.DataFrame(
    {
        "item": [1, 2, 3],
        "x": [0.0, 1.0, 2.0],
        "y": [1.0, 0.0, 2.0],
        "ratings": [1, 2, 3],
        "norm": [0.1, 1.0, 2.0],
    }
)


@pytest.mark.parametrize(
    ("chart", "kind", "number", "told"),
    [
        (counts_chart(COUNTS), "symbol", 5, "43 users have 1 to 10 ratings each; 3 items have 3 to 64"),
        (long_tail_chart(COUNTS), "line", 3, "of the ratings are of the tenth of users with most"),
        (ratings_chart(HISTOGRAM), "rect", 2, "The most frequent rating is 2: 15 of them."),
        (ratings_by_genre_chart(HISTOGRAM), "rect", 3, "highest in War (1.75) and lowest in <script>"),
        (over_time_chart(MONTHS, "month"), "rect", 2, "9, came in the month from 1997-10-01 on."),
        (users_chart(GROUPS), "rect", 3, "Of 6 users 3 have gender M."),
        (norms_chart(PLACES, 0.987), "symbol", 3, "with numbers of ratings is 0.99."),
        (map_chart(PLACES.assign(genre=["War", "War", HOSTILE])), "symbol", 3, "genres, most often War."),
        (genres_chart(PAIRS), "rect", 4, "most frequent together are Drama and War."),
    ],
    ids=["counts", "long tail", "ratings", "by genre", "over time", "users", "norms", "map", "genres"],
)
def test_every_row_is_drawn_and_told_in_words(chart, kind, number, told):
    assert len(marks(drawn(chart), kind)) == number
    assert told in chart.to_dict()["description"]


METRICS = pd.DataFrame(
    {"model": ["als", HOSTILE], "value": [0.2, 0.3], "low": [0.1, None], "high": [0.25, None]}
)
SEGMENTS = pd.DataFrame(
    [("als", "age=18-24", 0.1, 1_234), ("als", "age=55 and over", 0.3, 5), (HOSTILE, "age=18-24", 0.2, 9)],
    columns=["model", "segment", "value", "users"],
)
STEPS = pd.DataFrame({"model": ["als", "als", "als"], "step": [1, 2, 3], "objective": [8.0, 4.0, 2.0]})
SECONDS = pd.DataFrame({"what": ["ingest", "fit of als"], "seconds": [1.5, 2.0]})
EXPOSURE = pd.DataFrame(
    {"share_of_items": [0, 0.1, 1], "share_of_ratings": [0, 0.5, 1], "share_of_lists": [0, 0.8, 1]}
)
COVERED = pd.DataFrame({"rank": [1, 2], "items": [3, 4], "share": [0.3, 0.4]})
QUANTILES = pd.DataFrame({"share": [0.0, 0.5, 1.0], "score": [1.0, 2.0, 9.0]})
CALIBRATED = pd.DataFrame({"pairs": [5, 5], "predicted": [0.1, 0.2], "observed": [0.1, 0.3]})


@pytest.mark.parametrize(
    ("chart", "kind", "number", "told"),
    [
        (metrics_chart(METRICS, "ndcg@10"), "symbol", 2, f"{HOSTILE} has the highest ndcg@10, 0.3000."),
        (metrics_chart(METRICS.iloc[:1], "ndcg@10"), "rule", 1, "als has the highest"),
        (segments_chart(SEGMENTS, "ndcg@10"), "symbol", 3, "ndcg@10 is 0.1000: als for age=18-24."),
        (learning_chart(STEPS), "symbol", 3, "als ends at 25% of its first."),
        (seconds_chart(SECONDS), "rect", 2, "The longest was fit of als, with 2.0 seconds."),
        (
            exposure_chart(EXPOSURE),
            "line",
            2,
            "tenth of the items has 50% of the ratings, and 80% of the lists",
        ),
        (coverage_chart(COVERED), "symbol", 2, "Up to rank 2 the lists show 40% of the items."),
        (
            scores_chart({"now": QUANTILES, "then": QUANTILES}),
            "line",
            2,
            "2 in lists of now and 2 in lists of",
        ),
        (calibration_chart(CALIBRATED, 0.05), "line", 2, "The expected calibration error is 0.0500."),
    ],
    ids=[
        "metrics",
        "intervals",
        "segments",
        "learning",
        "seconds",
        "exposure",
        "coverage",
        "scores",
        "softmax",
    ],
)
def test_every_row_of_models_is_drawn_and_told_in_words(chart, kind, number, told):
    assert len(marks(drawn(chart), kind)) == number
    assert told in chart.to_dict()["description"]


def test_a_year_long_ago_and_one_to_come_are_drawn():
    years = MONTHS.assign(period=[date(1, 1, 1), date(3000, 1, 1)])
    assert len(marks(drawn(over_time_chart(years, "year")), "rect")) == 2


def test_a_map_without_genres_has_one_colour():
    assert len(marks(drawn(map_chart(PLACES.assign(genre=None))), "symbol")) == 3


def test_months_are_not_moved_by_the_zone_of_who_looks():
    program = "import sys, vl_convert; print(vl_convert.vegalite_to_svg(sys.stdin.read()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps({**over_time_chart(MONTHS, "month").to_dict(), "width": 400}),
        env={"TZ": "America/New_York"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "Sep 1997" in done.stdout
    assert "Aug 1997" not in done.stdout


def test_large_frames_are_drawn_whole(tmp_path):
    many = pd.DataFrame({"ratings": range(1, 3_002), "entities": 1})
    write_page(tmp_path / "page.html", "", [Part("", chart=counts_chart({"users": many, "items": many}))])
    (spec,) = Read((tmp_path / "page.html").read_text()).specifications()
    assert len(spec["datasets"][spec["data"]["name"]]) == 6_002


def test_a_page_that_cannot_be_written_is_named_first(tmp_path):
    with pytest.raises(SetupError, match="cannot be written: Is a directory; name another file"):
        require_writable(tmp_path)


def test_the_tenth_with_most_is_read_off_the_curve():
    """Of ten users one has 91 ratings and nine have one: 91 %."""
    counts = {"users": pd.DataFrame({"ratings": [1, 91], "entities": [9, 1]})}
    assert long_tail_chart(counts).to_dict()["description"].startswith("91% of the ratings")


class Read(HTMLParser):
    """What a browser would run, load and show."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.loaded, self.headings, self.labels, self.cells, self.within = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.feed(text)

    def specifications(self):
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.within.append(tag)
        self.loaded += [found[name] for name in ("src", "href") if name in found]
        if found.get("role") == "img":
            self.labels.append(found["aria-label"])
        if tag == "script":
            self.scripts.append((found.get("type"), ""))
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.within[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.within[-1:] == ["td"]:
            self.cells[-1] += data
        elif self.within[-1:] in (["h1"], ["h2"]):
            self.headings.append(data)

    def handle_endtag(self, tag):
        while self.within and self.within.pop() != tag:
            pass


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new" / "page.html"
    require_writable(path)
    rows = [{"item": 1234, "title": HOSTILE, "mean": 3.5}, {"item": 7, "title": None, "mean": 4.0}]
    parts = [
        Part(
            HOSTILE, "Words.", ratings_by_genre_chart(HISTOGRAM), rows, ["item", "title", "mean"], folded=True
        ),
        Part("Months", chart=over_time_chart(MONTHS, "month")),
    ]
    written = write_page(path, "A & B", parts)
    assert written == path.stat().st_size < 5e6
    return Read(path.read_text(encoding="utf-8"))


def test_everything_from_data_is_shown_and_nothing_of_it_runs(page):
    kinds = [kind for kind, _ in page.scripts]
    assert kinds == ["application/json", "application/json", "module", "module"]
    assert HOSTILE in page.headings
    assert page.cells == ["1234", HOSTILE, "3.5", "7", "–", "4"]  # ids are no numbers


def test_charts_of_the_page_are_those_that_were_given(page):
    assert page.specifications()[1]["encoding"] == over_time_chart(MONTHS, "month").to_dict()["encoding"]
    assert page.labels[1].endswith("came in the month from 1997-10-01 on.")


def test_nothing_is_loaded_from_elsewhere(page):
    assert page.loaded == ["#part-0", "#part-1"]
    own = page.scripts[-1][1]
    assert not re.search(r"fetch|import\b|https?:", own)


def test_only_the_most_frequent_genres_have_colours():
    rows = PLACES.loc[[0] * 30].assign(genre=[f"genre {min(at, 11)}" for at in range(30)])
    shown = {row["genre"] for row in next(iter(map_chart(rows).to_dict()["datasets"].values()))}
    assert len(shown) == MOST_COLOURS + 1
    assert {"genre 11", "others"} <= shown
