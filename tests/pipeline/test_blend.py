"""A night whose lists are a blend's."""

from __future__ import annotations

import pytest

from recsys_spark.pipeline.fitted import load
from recsys_spark.pipeline.steps import STEPS
from tests.pipeline.shop import DAY, Shop

MEMBERS = {"popularity": {}, "item_item": {"regParam": 1.0, "neighbors": 5}}


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    shop = Shop(spark, tmp_path_factory.mktemp("shop"))
    shop.tree |= {"models": ["blend"], "blend": {"members": MEMBERS, "steps": 5}}
    shop.tree.pop("als")
    # even users have even items, odd users odd ones, one day after the other
    lines = [
        f"{user},{item},5,2024-06-{item + 1:02d}T{user:02d}:00:00Z"
        for user in range(1, 21)
        for item in range(user % 2, 20, 2)
        if (user * 7 + item) % 5
    ]
    shop.ingested(*lines)
    for name in ("split", "train", "evaluate", "recommend"):
        STEPS[name](shop.night())
    return shop


def saved(shop, purpose):
    (row,) = shop.night().lake.read("models").where(f"purpose = '{purpose}' and model = 'blend'").collect()
    return load(row)


@pytest.mark.slow
@pytest.mark.long
def test_what_is_served_has_the_weights_that_were_chosen_on_the_validation_part(shop):
    compared, serving = saved(shop, "comparison"), saved(shop, "serving")
    assert serving.getMemberWeights() == compared.getMemberWeights()
    assert sum(compared.getMemberWeights().values()) == pytest.approx(1)
    # taste is all that there is to say
    assert compared.getMemberWeights()["item_item"] > 0.5
    assert compared.getMetric() == "ndcg@3"
    # the serving fit knows what the comparison was not shown
    sizes = [model.histories.selectExpr("sum(size(items))").first()[0] for model in (compared, serving)]
    assert sizes[1] > sizes[0]


@pytest.mark.slow
@pytest.mark.long
def test_reasons_of_rows_are_members(shop):
    rows = shop.night().lake.read("recommendations").where(f"run_date = '{DAY}'").collect()
    assert {int(row.user) for row in rows} == set(range(1, 21))
    reasons = {row.reason for row in rows if row.model == "blend"}
    assert "item_item" in reasons
    assert reasons <= set(MEMBERS)
    for row in rows:
        if row.rank == 1:
            assert int(row.item) % 2 == int(row.user) % 2
