"""Tables of users and items whose columns come, change and go; models that name them."""

from __future__ import annotations

from datetime import date

import pytest

from recsys_spark.errors import ConfigError, LakeError, RejectedFractionError
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.show import describe_user
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import NEXT

pytestmark = pytest.mark.slow


def give(shop, header, *lines, types=None):
    """Items of these columns, all of them mapped to their own names."""
    (shop.folder / "items.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    names = header.split(",")
    shop.tree["ingest"]["source"]["items"] = {
        "path": str(shop.folder / "items.csv"),
        "id": names[0],
        "columns": {name: name for name in names[1:]},
        "types": types or {},
    }


def items(shop):
    return {row["item"]: row.asDict() for row in shop.night().lake.read("items").collect()}


def test_columns_come_change_and_go(shop, capfd):
    shop.receive("ann,tea,5,2024-06-01")
    give(shop, "sku,brand,price", "tea,Leaf,4.5", "jam,Pot,3", types={"price": "double"})
    ingest(shop.night())
    assert items(shop) == {
        "tea": {"item": "tea", "brand": "Leaf", "price": 4.5},
        "jam": {"item": "jam", "brand": "Pot", "price": 3.0},
    }
    types = {"price": "double", "launched": "date"}
    give(shop, "sku,price,launched", "tea,4.75,2024-01-31", "pan,9,", types=types)
    ingest(shop.night(NEXT))
    assert items(shop) == {
        "tea": {"item": "tea", "brand": "Leaf", "price": 4.75, "launched": date(2024, 1, 31)},
        "jam": {"item": "jam", "brand": "Pot", "price": 3.0, "launched": None},
        "pan": {"item": "pan", "brand": None, "price": 9.0, "launched": None},
    }
    assert "items: brand not in the source, left as in the table" in capfd.readouterr().err
    counts = shop.night(NEXT).ledger.last_done("ingest")["counts"]
    assert (counts["items_inserted"], counts["items_updated"], counts["items_unchanged"]) == (1, 1, 0)
    give(shop, "sku,price", "tea,cheap")
    message = r"'items' has column 'price' as double, the source has 'price' as string: .*items\.types"
    with pytest.raises(LakeError, match=message):
        ingest(shop.night(NEXT))
    give(shop, "sku,Brand", "tea,Leaf")
    with pytest.raises(LakeError, match=r"'items' has column 'brand' as string, the source has 'Brand'"):
        ingest(shop.night(NEXT))
    assert items(shop)["tea"]["price"] == 4.75


def test_items_without_any_feature(shop):
    shop.receive("ann,tea,5,2024-06-01")
    give(shop, "sku", "tea", "jam", "tea")
    ingest(shop.night())
    assert shop.rows("items", "item") == [("jam",), ("tea",)]
    counts = shop.night().ledger.last_done("ingest")["counts"]
    assert (counts["items_inserted"], counts["items_duplicates"]) == (2, 1)


def test_rejected_features_are_shown_with_their_column(shop):
    shop.receive("ann,tea,5,2024-06-01")
    give(shop, "sku,price", "tea,cheap", "jam,dear", types={"price": "double"})
    message = r"unparsable_price 2.*items\.csv:2 \(unparsable_price\): 'tea,cheap'"
    with pytest.raises(RejectedFractionError, match=message):
        ingest(shop.night())


@pytest.mark.parametrize(
    ("key", "columns", "message"),
    [
        ("itemFeatureCols", ["brand", "colour"], r"given \['colour'\]; allowed: .*items: \['brand'\]"),
        ("userFeatureCols", ["age"], r"given \['age'\]; allowed: features of .*users: \[\]"),
    ],
)
def test_model_that_names_a_column_that_is_not_there(shop, key, columns, message):
    give(shop, "sku,brand", "tea,Leaf")
    with pytest.raises(ConfigError, match=rf"pairwise\.{key}: {message}"):
        shop.night(models=["pairwise"], pairwise={key: columns})


def test_night_of_a_shop_with_prices_brands_dates_and_embeddings(shop):
    pairs = [(u, i) for u in range(16) for i in range(12) if (u + i) % 2]
    shop.receive(*(f"u{u},i{i:02d},{1 + (u * i) % 5},2024-06-{1 + i:02d}" for u, i in pairs))
    lines = [
        f"i{i:02d},Thing {i},{'ab'[i % 2]},{i}.5,2024-01-{1 + i:02d},{i % 2}|{1 - i % 2}" for i in range(13)
    ]
    types = {"price": "double", "launched": "date", "vector": "array<float>"}
    give(shop, "sku,title,brand,price,launched,vector", *lines, types=types)
    features = ["brand", "price", "launched", "vector"]
    small = {"embeddingDim": 4, "maxIter": 5, "batchSize": 20, "itemFeatureCols": features}
    shop.tree |= {"models": ["popularity", "pairwise"], "pairwise": small}
    run_night(shop.night())
    measured = {(row[0], row[1]) for row in shop.rows("metrics", "model", "metric")}
    assert ("pairwise", "ndcg") in measured
    assert ("pairwise", "diversity") not in measured  # there are no genres
    history, _ = describe_user(shop.reader(), "u3")
    assert all(row["title"].startswith("Thing") for row in history.rows)
