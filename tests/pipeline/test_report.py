"""The report of a night: what it shows is what the tables have, whether the lists are served or not."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from recsys_spark.data.split import split_ratings
from recsys_spark.errors import GateError
from recsys_spark.inspection.lists import calibration, calibration_error
from recsys_spark.inspection.page import Part, write_page
from recsys_spark.models.softmax import SoftmaxModel
from recsys_spark.pipeline.reports import drop_reports_of
from recsys_spark.pipeline.resume import steps_of
from recsys_spark.pipeline.show import sample_users
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import DAY, NEXT, TITLES, Shop

pytestmark = pytest.mark.slow


def report_of(shop, day):
    return shop.folder / "lake" / "reports" / f"{day}.html"


def cells(page, heading):
    """The first table under a heading, row by row."""
    part = page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))
    rows = part.locator("table").first.locator("tbody tr")
    return [row.locator("td").all_inner_texts() for row in rows.all()]


@pytest.fixture(scope="module")
def two_nights(spark, tmp_path_factory):
    """Sixteen users of four of eight items each: DAY is served, with seven neighbours of each item by cosine,
    and NEXT was made and is not served, as it has two by dot product. Each has a report.
    """
    shop = Shop(spark, tmp_path_factory.mktemp("two nights"))
    lines = [
        f"user {user},item {(user + 2 * place) % 8},{3 + place % 3},2024-05-{1 + place:02}"
        for user in range(16)
        for place in range(4)
    ]
    shop.receive(*lines)
    titles = ["item,title,genres", *(f"item {item},{TITLES[item]},Drama|War" for item in range(8))]
    (shop.folder / "items.csv").write_text("\n".join(titles) + "\n", encoding="utf-8")
    shop.tree["ingest"]["source"]["items"] = {
        "path": str(shop.folder / "items.csv"),
        "id": "item",
        "columns": {"title": "title", "genres": "genres"},
    }
    shop.tree |= {"report": {"users": 2}, "models": ["als"], "als": {"rank": 4, "maxIter": 3}}
    run_night(shop.night(recommend={"n": 4, "similar_items": {}}))
    with pytest.raises(GateError, match="the number of neighbours from those of 2024-06-30") as closed:
        run_night(shop.night(NEXT, recommend={"n": 4, "similar_items": {"n": 2, "measure": "dot"}}))
    assert "is 0.7143, and at most 0.5 is allowed" in str(closed.value)  # 2 of 7
    return shop


@pytest.fixture
def served(opened, two_nights):
    return opened(report_of(two_nights, DAY))


def test_summary_and_gate_come_first_and_say_what_the_tables_say(served, two_nights):
    page, _ = served
    assert page.locator("h2").all_inner_texts()[:2] == ["Summary", "Gate"]
    told = dict(cells(page, "Summary"))
    made = two_nights.night().ledger.last_done("recommend")
    assert told["champion"] == made["details"]["champion"]
    assert (told["users with a list"], told["rows"]) == ("16", "64")
    assert page.get_by_text("The lists are served.").is_visible()
    checks = two_nights.night().lake.read("metrics").where("verdict IS NOT NULL")
    names = {row["metric"] for row in checks.where(f"run_date = '{DAY}'").collect()}
    assert {row[0] for row in cells(page, "Gate")} == names


def test_a_closed_gate_is_told_first_of_all(opened, two_nights):
    page, problems = opened(report_of(two_nights, NEXT))
    assert page.get_by_text(f"The lists are not served; those of {DAY} are.").is_visible()
    assert page.get_by_text("The gate is closed: the change of the number of neighbours").is_visible()
    failed = [row for row in cells(page, "Gate") if row[-1] == "fail"]
    assert [row[0] for row in failed] == ["similar_row_change"]
    assert problems == []


def test_all_charts_draw_without_network_and_no_title_runs(served):
    page, problems = served
    charts = page.locator("[data-chart]").count()
    assert charts >= 9
    assert page.locator("[data-chart] svg").count() == charts
    assert problems == []
    assert page.title() == f"Recommendations of {DAY}"


def test_sample_users_have_their_lists_with_reasons_of_their_own_history(served, two_nights):
    page, _ = served
    lake = two_nights.night().lake
    for user in sample_users(two_nights.reader(), 2, DAY):
        rows = lake.read("recommendations").where(f"run_date = '{DAY}'").where(f"user = '{user}'")
        items = [row["item"] for row in rows.orderBy("rank").collect()]
        told = cells(page, f"User {user}")
        assert [row[1] for row in told] == items
        assert [row[2] for row in told] == [TITLES[int(item.split()[1])] for item in items]
        rated = lake.read("ratings").where(f"user = '{user}'").collect()
        mine = {TITLES[int(row["item"].split()[1])] for row in rated}
        because = [set(row[-1].split(", ")) for row in told if row[-1] != ""]
        assert because
        assert all(reasons <= mine for reasons in because)


def test_seconds_are_those_of_each_step_and_of_each_models_fit_and_lists(served, two_nights):
    page, _ = served
    page.locator("section", has=page.get_by_role("heading", name="Seconds", exact=True)).locator(
        "details summary"
    ).click()
    told = {row[0]: float(row[1]) for row in cells(page, "Seconds")}
    steps = {"ingest", "split", "train", "evaluate", "recommend", "gate", "publish"}
    fits = {"fit of als (comparison)", "fit of als (serving)"}
    assert told.keys() >= {*steps, *fits, "lists of als (test part)"}
    assert 0 < told["lists of als (test part)"] < told["evaluate"]


def test_neighbours_that_are_found_are_those_of_the_table(served, two_nights):
    page, problems = served
    page.get_by_label("A title, or a part of it").fill("stalker")
    rows = two_nights.night().lake.read("similar_items").where(f"run_date = '{DAY}' AND item = 'item 4'")
    expected = [TITLES[int(row["neighbor"].split()[1])] for row in rows.orderBy("rank").collect()]
    assert [text.split(" – ")[0] for text in page.locator(".search li").all_inner_texts()] == expected
    assert problems == []


def test_nothing_keeps_people_from_reading_it(served):
    page, _ = served
    for details in page.locator("details summary").all():
        details.click()
    found = Axe().run(page)
    serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
    assert not serious, found.generate_report()


def test_on_a_phone_nothing_is_wider_than_the_screen(opened, two_nights):
    page, _ = opened(report_of(two_nights, DAY), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.long
def test_probabilities_that_a_model_predicts_are_held_against_what_came(opened, shop):
    shop.receive(
        *(f"user {u},item {(u + 2 * p) % 8},4,2024-05-{1 + p:02}" for u in range(16) for p in range(4))
    )
    night = shop.night(models=["softmax"], softmax={"embeddingDim": 4, "maxIter": 2}, report={"users": 1})
    run_night(night)
    page, problems = opened(report_of(shop, DAY))
    heading = "Probabilities of softmax"
    part = page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))
    assert part.locator("[data-chart] svg").count() == 1
    assert problems == []
    compared = night.lake.read("models").where("model = 'softmax' AND purpose = 'comparison'").first()
    rows = split_ratings(night.ratings(), night.config.split, night.config.seed)
    held, seen = rows.where("part = 'test'"), rows.where("part != 'test'")
    assert held.count() == 16  # the last of each user
    groups = calibration(SoftmaxModel.load(compared["path"]), held.select("user", "item"), seen)
    assert f"The expected calibration error is {calibration_error(groups):.4f}." in part.inner_text()


def test_a_page_goes_with_who_is_on_it(two_nights, tmp_path, spark):
    shop = two_nights.copied(tmp_path)
    shown = {day: set(sample_users(shop.reader(), 2, day)) for day in (DAY, NEXT)}
    config, (user, *_) = shop.night().config, sorted(shown[DAY])
    nobody, *_ = {f"user {number}" for number in range(16)} - shown[DAY] - shown[NEXT]
    assert drop_reports_of(spark, config, [nobody]) == 0
    assert drop_reports_of(spark, config, [user]) == sum(user in users for users in shown.values())
    assert [report_of(shop, day).exists() for day in shown] == [user not in users for users in shown.values()]


def test_a_page_is_known_by_ids_of_any_characters(spark, shop):
    """The page and the search for it have to escape alike."""
    config, ids = shop.night().config, ["o'brien", 'a "b" & <c>', "user 1"]
    folder = shop.folder / "lake" / "reports"
    folder.mkdir(parents=True)
    for place, user in enumerate(ids, 1):
        write_page(folder / f"2024-01-0{place}.html", "A night", [Part(f"User {user}")])
    assert drop_reports_of(spark, config, ["user", "brien", "user 11"]) == 0
    for place, user in enumerate(ids, 1):
        assert drop_reports_of(spark, config, [user]) == 1
        assert not (folder / f"2024-01-0{place}.html").exists()


def test_a_night_without_the_section_has_no_report(two_nights):
    assert "report" in steps_of(two_nights.night().config)
    assert "report" not in steps_of(two_nights.night(report=None).config)
