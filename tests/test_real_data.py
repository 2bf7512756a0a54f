"""MovieLens 100K as published: known counts, known errors, and a model that beats popularity."""

from __future__ import annotations

from datetime import date

import pytest
import yaml
from pyspark.sql import functions as F

from recsys_spark.config import load_config
from recsys_spark.data.download import extract
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.models import MLlibALS
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.explore import explore, explored_sections
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.steps import run_night

pytestmark = pytest.mark.slow

FOLD = "user int, item int, rating double, timestamp long"


@pytest.fixture(scope="module")
def night(spark, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ml-100k")
    tree = {
        "lake": {"root": str(folder / "lake")},
        "ingest": {"source": {"format": "movielens", "path": str(data_dir / "ml-100k.zip")}, "scale": [1, 5]},
        "split": {"method": "leave_last"},
        "als": {"implicitPrefs": True, "rank": 32, "alpha": 5.0, "regParam": 0.05},
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(tree))
    night = Night(spark, load_config(folder / "conf.yaml", REGISTRY, environment={}), date(2026, 1, 31))
    run_night(night)
    return night


def test_published_counts(night):
    counts = night.ledger.last_done("ingest")["counts"]
    assert (counts["read"], counts["inserted"], counts["rejected"]) == (100_000, 100_000, 0)
    assert (counts["users_inserted"], counts["items_inserted"]) == (943, 1_682)


def test_side_tables_are_typed(night):
    item = night.lake.read("items").where("item = 1").first()
    assert (item["title"], item["year"], item["genres"]) == (
        "Toy Story (1995)",
        1995,
        ["Animation", "Children's", "Comedy"],
    )
    accented = night.lake.read("items").where("item = 1633").first()["title"]
    assert accented == "\u00c1 k\u00f6ldum klaka (Cold Fever) (1994)"
    user = night.lake.read("users").where("user = 1").first()
    assert (user["age"], user["gender"], user["occupation"], user["zip"]) == (24, "M", "technician", "85711")


def test_exploring_tells_what_is_published(night):
    """Of the data set's README and of its paper's figures."""
    told = {section.name: section.rows for section in explored_sections(explore(night.lake))}
    (totals,) = told["overview"]
    assert (totals["ratings"], totals["users"], totals["items"]) == (100_000, 943, 1_682)
    assert (totals["first"][:10], totals["last"][:10]) == ("1997-09-20", "1998-04-22")
    assert [row["ratings"] for row in told["rating_histogram"]] == [6_110, 11_370, 27_145, 34_174, 21_201]
    assert {row["gender"]: row["users"] for row in told["gender"]} == {"M": 670, "F": 273}
    assert (told["occupation"][0]["occupation"], told["occupation"][0]["users"]) == ("student", 196)
    assert (told["genres"][0]["genre"], told["genres"][0]["items"]) == ("Drama", 725)
    assert {row["of"]: (row["0%"], row["100%"]) for row in told["shares"]} == {
        "users": (20, 737),
        "items": (1, 583),
    }


def test_implicit_als_beats_popularity_on_ndcg(night):
    of_all = "part = 'test' and segment = 'all' and metric = 'ndcg' and k = 10"
    found = {row["model"]: row for row in night.lake.read("metrics").where(of_all).collect()}
    assert found["als"]["low"] > found["popularity"]["value"]
    assert night.ledger.last_done("evaluate")["details"]["champion"] == "als"


def test_every_user_gets_ten_unseen_items(night):
    lists = night.lake.read("recommendations")
    assert lists.groupBy("user").count().groupBy("count").count().collect() == [(10, 943)]
    assert lists.join(night.lake.read("ratings"), ["user", "item"]).count() == 0


@pytest.mark.long
def test_explicit_als_reaches_the_measured_error_over_u1_to_u5(spark, data_dir, tmp_path):
    """Mean RMSE .928 +- .01: rank 10, regParam 0.1, predictions clipped to the scale, as measured
    elsewhere.
    """
    extract(data_dir / "ml-100k.zip", tmp_path, lambda name: name.endswith((".base", ".test")))
    errors = []
    for fold in range(1, 6):
        train, test = (
            spark.read.csv(str(tmp_path / f"ml-100k/u{fold}.{part}"), sep="\t", schema=FOLD)
            for part in ("base", "test")
        )
        model = MLlibALS(rank=10, regParam=0.1, maxIter=15, seed=1).fit(train)
        clipped = F.when(~F.isnan("prediction"), F.greatest(F.lit(1.0), F.least(F.lit(5.0), "prediction")))
        predicted = model.transform(test).withColumn("prediction", clipped)
        errors.append({m.metric: m.value for m in rating_metrics({"als": predicted})}["rmse"])
    assert sum(errors) / 5 == pytest.approx(0.928, abs=0.01)
