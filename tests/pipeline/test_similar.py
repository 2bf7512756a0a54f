"""The neighbours of items: made with the lists, checked, gated, served with them, and taken back."""

from __future__ import annotations

import numpy as np
import pytest
from delta.tables import DeltaTable as SparkTable

from recsys_spark.errors import ModelError, PublishError, UnknownIdError
from recsys_spark.pipeline.checks import check_neighbors
from recsys_spark.pipeline.fitted import load
from recsys_spark.pipeline.publish import publish, rollback
from recsys_spark.pipeline.saved_models import SavedModels
from recsys_spark.pipeline.show import describe_similar, describe_user
from recsys_spark.pipeline.steps import STEPS
from tests.pipeline.shop import DAY, NEXT, TITLES, Shop

pytestmark = [pytest.mark.slow, pytest.mark.long]

ITEMS = 8
TWO = {"n": 4, "similar_items": {"n": 2, "measure": "dot"}}


@pytest.fixture
def shop(two_nights):
    return two_nights


@pytest.fixture
def copied(shop, tmp_path):
    return shop.copied(tmp_path)


def of_date(lake, day, table="similar_items"):
    columns = ["item", "rank", "neighbor", "similarity", "measure", "model"]
    return sorted(
        tuple(row) for row in lake.read(table).where(f"run_date = '{day}'").select(columns).collect()
    )


def vectors(night):
    """Item → vector, of the model that made the lists of DAY."""
    saved = night.lake.read("models").where("purpose = 'serving'").where(f"run_date = '{DAY}'").first()
    return {row["id"]: np.array(row["features"]) for row in load(saved).itemFactors.collect()}


def test_neighbours_are_those_of_the_vectors_that_made_the_lists(shop):
    night = shop.night()
    rows = of_date(night.lake, DAY)
    of = vectors(night)
    assert {item for item, *_ in rows} == set(of)
    assert len(rows) == ITEMS * (ITEMS - 1)
    for item, rank, neighbor, similarity, *rest in rows:
        cosines = sorted(
            (of[item] @ v / np.linalg.norm(of[item]) / np.linalg.norm(v) for i, v in of.items() if i != item),
            reverse=True,
        )
        assert similarity == pytest.approx(cosines[rank - 1], abs=1e-5)
        assert neighbor != item
        assert rest == ["cosine", "als"]


def test_neighbours_are_served_with_the_lists_and_taken_back(copied, spark):
    lake = copied.night().lake
    assert of_date(lake, DAY, "current_similar_items") == of_date(lake, DAY)
    publish(copied.night(NEXT, recommend=TWO), reason="fewer neighbours are meant")
    assert of_date(lake, NEXT, "current_similar_items") == of_date(lake, NEXT)
    assert len(of_date(lake, NEXT)) == 2 * ITEMS
    assert {row[-2] for row in of_date(lake, NEXT)} == {"dot"}
    assert not of_date(lake, DAY, "current_similar_items")
    rollback(spark, copied.night().config)
    assert of_date(lake, DAY, "current_similar_items") == of_date(lake, DAY)
    assert not of_date(lake, NEXT, "current_similar_items")


def test_neighbours_that_are_not_those_that_were_checked_are_not_served(copied, spark):
    path = str(copied.folder / "lake" / "similar_items")
    SparkTable.forPath(spark, path).delete(f"run_date = '{NEXT}' AND rank = 2")
    with pytest.raises(PublishError, match=f"similar_items has {ITEMS} rows of {NEXT}, and {2 * ITEMS} were"):
        publish(copied.night(NEXT, recommend=TWO), reason="fewer neighbours are meant")
    assert copied.served()["run_date"] == DAY
    assert of_date(copied.night().lake, DAY, "current_similar_items")


def test_without_the_section_a_date_has_no_neighbours(copied):
    night = copied.night(NEXT)
    STEPS["recommend"](night)
    assert not of_date(night.lake, NEXT)
    STEPS["gate"](night)
    for _ in range(2):  # nothing is replaced by nothing
        publish(night)
        assert night.lake.read("current_similar_items").isEmpty()


def test_the_gate_compares_neighbours_with_those_that_are_served(copied):
    night = copied.night(NEXT, recommend={"n": 4, "similar_items": {}})
    STEPS["recommend"](night)
    STEPS["gate"](night)
    found = night.lake.read("metrics").where(f"run_id = '{night.run_id}' AND metric LIKE 'similar%'")
    assert {row["metric"]: (row["value"], row["users"]) for row in found.collect()} == {
        "similar_rows_missing": (0.0, 0),
        "similar_row_change": (0.0, 0),
        "similar_churn": (pytest.approx(0.0, abs=1e-9), ITEMS),  # the same ratings, the same neighbours
    }


def test_where_the_champion_has_no_vectors_another_models_are_taken(copied):
    night = copied.night(NEXT, models=["popularity", "als"], recommend={**TWO, "refit": False})
    STEPS["train"](night)
    with night.step("evaluate") as record:
        record.details["champion"] = "popularity"
    STEPS["recommend"](night)
    rows = of_date(night.lake, NEXT)
    assert {row[-1] for row in rows} == {"als"}
    assert {
        row["model"] for row in night.lake.read("recommendations").where(f"run_date = '{NEXT}'").collect()
    } == {"popularity"}


def test_neighbours_are_shown_as_they_are_served_or_by_another_measure(shop):
    reader, of = shop.reader(), vectors(shop.night())
    (section,) = describe_similar(reader, "item 1", n=3)
    assert section.title == f"Item item 1 ({TITLES[1]}): most similar by cosine, as als of {DAY} has it"
    stored = [row for row in of_date(shop.night().lake, DAY) if row[0] == "item 1"]
    assert [(row["rank"], row["neighbor"]) for row in section.rows] == [row[1:3] for row in stored[:3]]
    (section,) = describe_similar(reader, "item 1", "dot", n=99)
    products = {item: of["item 1"] @ vector for item, vector in of.items() if item != "item 1"}
    assert [row["neighbor"] for row in section.rows] == sorted(products, key=products.get, reverse=True)
    with pytest.raises(UnknownIdError, match="no item 'item 11', which the model does not know; near: "):
        describe_similar(reader, "item 11", "dot")


def test_recommendations_name_what_of_the_history_is_behind_them(shop):
    models = SavedModels(shop.reader(), shop.night().config)
    history, lists = describe_user(shop.reader(), "user 1", why=models)
    mine = {row["item"] for row in history.rows}
    assert lists.columns[-1] == "because"
    by_model = [row for row in lists.rows if row["reason"] == "model"]
    assert by_model
    for row in by_model:
        assert {reason["item"] for reason in row["because"]} <= mine
        assert sum(reason["contribution"] for reason in row["because"]) > 0
    assert not any(row["because"] for row in lists.rows if row["model"] == "popularity")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([(1, 2, 1), (1, 3, 3)], "1 of 1 items' lists of neighbours have gaps in their ranks"),
        ([(1, 2, 1), (1, 2, 2)], "1 of 1 items' lists of neighbours hold an item twice"),
        ([(1, 2, 1), (2, 2, 1)], "1 of 2 items' lists of neighbours hold the item itself"),
    ],
)
def test_a_broken_list_of_neighbours_is_not_written(spark, rows, problem):
    with pytest.raises(PublishError, match=problem):
        check_neighbors(spark.createDataFrame(rows, "item int, neighbor int, rank int"))


def test_a_night_of_item_pairs_says_what_speaks_for_each_item(spark, tmp_path):
    shop = Shop(spark, tmp_path)
    shop.tree |= {"models": ["item_item"], "item_item": {"regParam": 1.0}}
    shop.tree["recommend"] = {"n": 4, "similar_items": {"n": 8}}
    taste = [(user, (user + place) % 8, place) for user in range(16) for place in range(4)]
    shop.receive(*(f"user {u},item {i},4,{1_600_000_000 + 10 * u + place}" for u, i, place in taste))
    for step in ("ingest", "split", "train", "evaluate", "recommend"):
        STEPS[step](shop.night())
    rows = of_date(shop.night().lake, DAY)
    assert {(measure, model) for *_, measure, model in rows} == {("weight", "item_item")}
    saved = SavedModels(shop.reader(), shop.night().config)
    history, lists = describe_user(shop.reader(), "user 1", DAY, why=saved)
    of_model = [row for row in lists.rows if row["reason"] == "model" and row["score"] > 0]
    assert of_model
    for row in of_model:
        told = {reason["item"]: reason["contribution"] for reason in row["because"]}
        assert set(told) <= {known["item"] for known in history.rows}
        weights = {other: value for item, _, other, value, *_ in rows if item == row["item"]}
        assert told == pytest.approx({item: weights[item] for item in told})
    (section,) = describe_similar(shop.reader(), row["item"], run_date=DAY)
    assert section.rows[0]["neighbor"] == max(weights, key=weights.get)
    with pytest.raises(ModelError, match="'cosine' compares vectors, and the model has weights of pairs"):
        describe_similar(shop.reader(), row["item"], "cosine", DAY)
