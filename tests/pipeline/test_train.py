"""Models of others that a night has fitted for themselves."""

from __future__ import annotations

import pytest
import yaml

from recsys_spark.config import load_config
from recsys_spark.models import BlendModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.fitted import load
from recsys_spark.pipeline.steps import STEPS
from recsys_spark.pipeline.train import fit, members_alike
from recsys_spark.recommend.top_n import ListRequest, explode_lists
from recsys_spark.schema import TRAIN
from tests.pipeline.shop import Shop

PAIRS = {"regParam": 1.0, "neighbors": 5}


@pytest.fixture
def alike(tmp_path):
    """What is alike of a blend of ``members``, in a configuration."""

    def told(members, ingest=None, **tree):
        source = {"format": "movielens", "path": "ml-100k.zip"}
        tree = {
            "lake": {"root": "lake"},
            "ingest": ingest or {"source": source},
            "models": ["popularity", "als", "item_item", "blend"],
            "blend": {"members": members},
            **tree,
        }
        path = tmp_path / "conf.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return members_alike(load_config(path, REGISTRY, environment={}), "blend")

    return told


def test_a_member_is_alike_where_all_its_params_are(alike):
    members = {"als": {"rank": 8}, "item_item": PAIRS, "popularity": {}}
    assert alike(members, als={"rank": 8}, item_item=PAIRS) == ["als", "item_item", "popularity"]
    assert alike(members, als={"rank": 9}, item_item=PAIRS) == ["item_item", "popularity"]
    assert alike(members, als={"rank": 8}, popularity={"halfLife": 30}) == ["als"]
    assert alike({**members, "als": {"rank": 8, "seed": 7}}, als={"rank": 8}) == ["popularity"]


def test_a_member_is_not_alike_where_it_is_fitted_on_other_events(alike):
    events = {
        "format": "csv",
        "path": "in",
        "columns": {"user": "u", "item": "i", "timestamp": "t", "event": "e"},
    }
    ingest = {"source": events, "events": {"weights": {"view": 1, "buy": 5}}}
    members = {"als": {}, "popularity": {}}
    assert alike(members, ingest) == ["als", "popularity"]
    assert alike(members, ingest, history={"als": ["buy"]}) == ["popularity"]
    assert alike(members, ingest, history={"blend": ["buy"]}) == []
    assert alike(members, ingest, history={"als": ["buy"], "blend": ["buy"]}) == ["als"]


def test_a_member_that_was_fitted_for_itself_is_not_fitted_again_and_lists_are_the_same(
    spark, tmp_path, capsys
):
    shop = Shop(spark, tmp_path)
    members = {"item_item": PAIRS, "popularity": {}, "als": {"rank": 2, "maxIter": 2}}
    weights = {"item_item": 0.5, "popularity": 0.2, "als": 0.3}
    shop.tree |= {
        "models": ["blend", "item_item", "popularity", "als"],  # the first of them is fitted last
        "blend": {"members": members, "memberWeights": weights},
        "item_item": PAIRS,
    }
    shop.ingested(
        *(
            f"{user},{item},{1 + (user + item) % 5},2024-06-{item + 1:02d}T{user:02d}:00:00Z"
            for user in range(1, 13)
            for item in range(10)
            if (user * 7 + item) % 3
        )
    )
    STEPS["split"](shop.night())
    capsys.readouterr()
    STEPS["train"](shop.night())
    told = capsys.readouterr()
    for name in ("item_item", "popularity"):
        assert f"{name}, a member, is fitted already" in told.out + told.err
    assert "als, a member, is fitted in" in told.out + told.err  # its rank is another
    (row,) = shop.night().lake.read("models").where("model = 'blend'").collect()
    night = shop.night()
    with night.step("train") as record:
        afresh = fit(night, record, "blend", [TRAIN])
    kept = load(row)
    assert isinstance(kept, BlendModel)
    request = ListRequest(10)
    found, expected = (
        {(one.user, one.item): one.score for one in lists.collect()}
        for lists in (
            explode_lists(model.recommend_lists(afresh.known_users(), request)) for model in (kept, afresh)
        )
    )
    assert len(expected) > 50
    assert found == pytest.approx(expected, abs=1e-6)
