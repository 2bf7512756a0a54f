"""Searching Params: the configured ones first, on validation rows alone, and where it was when it goes on."""

from __future__ import annotations

import json

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.pipeline.steps import STEPS
from recsys_spark.pipeline.tune import tune
from tests.pipeline.shop import Shop

pytestmark = pytest.mark.slow

RANGES = {"als": {"rank": [2, 4], "regParam": {"low": 0.01, "high": 1.0, "log": True}}}


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """After ingest and split; of ALS the search has two trials."""
    shop = Shop(spark, tmp_path_factory.mktemp("tuned"))
    rows = [(user, item) for user in range(16) for item in range(8) if (user + item) % 2]
    shop.receive(*(f"u{u},i{i},4,{1_600_000_000 + (u + i) % 8}" for u, i in rows))
    shop.tree["als"] |= {"regParam": 0.1}
    shop.tree["tune"] = {"ranges": RANGES, "trials": 2, "study": str(shop.folder / "study.log")}
    for step in ("ingest", "split"):
        STEPS[step](shop.night())
    shop.found = tune(shop.night())
    return shop


def trials(shop):
    """Trial → its rows in the metrics."""
    rows = shop.night().lake.read("metrics").where("segment LIKE 'trial=%'").collect()
    found = {}
    for row in rows:
        found.setdefault(int(row["segment"].removeprefix("trial=")), {})[row["metric"]] = row
    return found


def test_configured_values_come_first_and_the_best_is_found(shop):
    (found,) = shop.found
    values = {trial: rows["ndcg"]["value"] for trial, rows in trials(shop).items()}
    assert found.trials == len(values) == 2
    assert (found.model, found.configured) == ("als", pytest.approx(values[0]))
    assert found.value == pytest.approx(max(values.values()))
    details = shop.night().ledger.last_done("tune")["details"]
    first = json.loads(details["als trial=0"])
    assert (first["rank"], first["regParam"]) == (4, 0.1)
    best = json.loads(details[f"als trial={max(values, key=values.get)}"])
    assert {name: best[name] for name in found.params} == found.params


def test_validation_rows_alone_are_looked_at(shop):
    rows = [row for metrics in trials(shop).values() for row in metrics.values()]
    assert {(row["part"], row["model"], row["k"]) for row in rows} == {("validation", "als", 3)}


@pytest.mark.long
def test_a_trial_that_is_behind_ends_early(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_spark.pipeline.tune.STARTING", 1)
    copied = shop.copied(tmp_path)
    copied.tree |= {"als": {**shop.tree["als"], "maxIter": 12, "rank": 4}}
    # under the second nothing is learnt; the same values again are no further fit
    copied.tree["tune"] = {
        "ranges": {"als": {"regParam": [0.1, 1e9]}},
        "trials": 8,
        "study": str(tmp_path / "other.log"),
    }
    (found,) = tune(copied.night())
    details = copied.night().ledger.last_done("tune")["details"]
    ended = [(json.loads(text)["regParam"], json.loads(text)["how"]) for text in details.values()]
    assert sorted(ended) == [(0.1, ""), (1e9, "ended after 3 iterations")]
    assert found.params == {"regParam": 0.1}
    assert found.trials == 8


def test_values_that_contradict_one_another_end_a_trial_and_not_the_search(shop, tmp_path):
    ranges = {"als": {"nonnegative": [False, True], "solver": ["cg", "cholesky"]}}
    wanted = {"ranges": ranges, "trials": 8, "study": str(tmp_path / "other.log")}
    copied = shop.copied(tmp_path)
    (found,) = tune(copied.night(tune=wanted))
    tried = map(json.loads, copied.night().ledger.last_done("tune")["details"].values())
    how = {(one["nonnegative"], one["solver"]): one["how"] for one in tried}
    assert "leave solver at cholesky" in how.pop((True, "cg"))
    assert set(how.values()) == {""}
    assert (found.params["nonnegative"], found.params["solver"]) in how


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"softmax": {"dim": [3]}}, r"tune\.ranges\.softmax: given 'softmax'; allowed: one of"),
        ({"als": {"rnak": [3]}}, r"tune\.ranges\.als\.rnak: given 'rnak'; allowed: a Param of als: .*rank"),
        ({"als": {"rank": [0]}}, "rank must be at least 1"),
        ({"als": {"regParam": {"low": -1.0, "high": 1.0}}}, "regParam must be at least 0"),
        ({"als": {"solver": {"low": 1.0, "high": 2.0}}}, "allowed: a list of values"),
    ],
)
def test_what_cannot_be_searched_is_named(shop, ranges, message):
    with pytest.raises(ConfigError, match=message):
        tune(shop.night(tune={"ranges": ranges}))


@pytest.mark.long
def test_a_search_goes_on_where_it_was(shop):
    before = trials(shop)
    (found,) = tune(shop.night(tune={**shop.tree["tune"], "trials": 3}))
    assert found.trials == 3
    assert trials(shop).keys() == {*before, 2}
