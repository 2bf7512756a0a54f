"""What a night and a search log to MLflow: what the tables have."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient

from recsys_spark.pipeline.steps import STEPS
from recsys_spark.pipeline.tune import tune
from tests.pipeline.shop import DAY, Shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """A night of popular items until they are evaluated, and a search of one trial."""
    shop = Shop(spark, tmp_path_factory.mktemp("logged"))
    rows = [(user, item) for user in range(8) for item in range(6) if (user + item) % 2]
    shop.receive(*(f"u{u},i{i},4,{1_600_000_000 + (u + i) % 8}" for u, i in rows))
    shop.tree |= {"models": ["popularity"], "popularity": {"halfLife": 30.0}}
    shop.tree["mlflow"] = {"tracking_uri": f"sqlite:///{shop.folder}/mlflow.db", "experiment": "shop"}
    shop.tree["tune"] = {
        "ranges": {"popularity": {"halfLife": [30.0]}},
        "trials": 1,
        "study": str(shop.folder / "study.log"),
    }
    for step in ("ingest", "split", "train", "evaluate"):
        STEPS[step](shop.night())
    tune(shop.night())
    return shop


def logged(shop):
    """Name → run."""
    client = MlflowClient(shop.tree["mlflow"]["tracking_uri"])
    experiment = client.get_experiment_by_name("shop").experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_a_model_is_logged_as_the_tables_have_it(shop):
    run = logged(shop)[f"popularity of {DAY}"]
    lake = shop.night().lake
    fit = lake.read("models").where("purpose = 'comparison'").first()
    assert {key: json.loads(value) for key, value in run.data.params.items()} == json.loads(fit["params"])
    rows = lake.read("metrics").where("model = 'popularity' AND segment = 'all'").collect()
    expected = {
        f"{row['part']}/{row['metric']}" + (f"_at_{row['k']}" if row["k"] else ""): row["value"]
        for row in rows
    }
    assert "test/ndcg_at_3" in expected
    assert run.data.metrics == pytest.approx(expected | {"fit/seconds": fit["seconds"]})
    assert run.data.tags["recsys.champion"] == "True"
    assert run.info.status == "FINISHED"
    (output,) = run.outputs.model_outputs
    model = MlflowClient(shop.tree["mlflow"]["tracking_uri"]).get_logged_model(output.model_id)
    assert model.tags["recsys.path"] == fit["path"]


def test_a_trial_is_logged_with_what_was_tried(shop):
    run = logged(shop)[f"popularity of {DAY}, trial 0"]
    row = shop.night().lake.read("metrics").where("segment = 'trial=0' AND metric = 'ndcg'").first()
    assert run.data.params == {"halfLife": "30.0"}
    assert run.data.metrics["validation/ndcg_at_3"] == pytest.approx(row["value"])


def test_a_server_that_is_not_there_fails_no_night(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    other = shop.copied(tmp_path)
    STEPS["evaluate"](other.night(mlflow={"tracking_uri": "http://127.0.0.1:9"}))
    assert f"popularity of {DAY} was not logged to http://127.0.0.1:9: " in capsys.readouterr().err
    assert other.night().ledger.last_done("evaluate")["details"]["champion"] == "popularity"
