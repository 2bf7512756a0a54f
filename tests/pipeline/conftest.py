"""One shop for each test."""

from __future__ import annotations

import pytest

from recsys_spark.errors import GateError
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import NEXT, TITLES, Shop


@pytest.fixture(autouse=True, scope="package")
def nothing_is_compiled(spark):
    """Queries of a few rows cost more to compile than to interpret; the results are the same."""
    spark.conf.set("spark.sql.codegen.wholeStage", "false")
    spark.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    yield
    spark.conf.unset("spark.sql.codegen.wholeStage")
    spark.conf.unset("spark.sql.codegen.factoryMode")


@pytest.fixture(scope="package")
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
def shop(spark, tmp_path):
    return Shop(spark, tmp_path)
