"""The notebooks run from top to bottom, and what their words say is seen in their numbers."""

from __future__ import annotations

import runpy
from datetime import date
from pathlib import Path

import jupytext
import pytest
import yaml

from recsys_spark.config import load_config
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import Night

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))
MOST_BYTES = 700_000


@pytest.fixture(scope="module")
def lake(spark, tmp_path_factory):
    """A lake as the demo's, with a fifth of its ratings."""
    folder = tmp_path_factory.mktemp("notebooks")
    source = {"format": "synthetic", "ratings": 20_000}
    tree = {"lake": {"root": f"{folder}/lake"}, "ingest": {"source": source, "scale": [1, 5]}}
    (folder / "night.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    ingest(Night(spark, load_config(folder / "night.yaml", REGISTRY, environment={}), date(2026, 1, 31)))
    return f"{folder}/lake"


def explored(told):
    assert len(told["histogram"].query("genre == 'all'")) == 5
    assert set(told["counts"]) == {"users", "items"}


def gravity(told):
    values = told["table"].pivot(index="model", columns="metric", values="value")
    assert values.loc["L2 and gravity", "rmse"] > values.loc["L2", "rmse"]
    assert values.loc["L2 and gravity", "ndcg"] > values.loc["L2", "ndcg"]


def softmax(told):
    assert set(told["models"]) == {*told["estimators"], "one hidden layer, ten more epochs"}
    assert len(told["models"]["one hidden layer, ten more epochs"].summary.epochs) == 10
    assert told["groups"]["pairs"].sum() > 0


def embeddings(told):
    assert told["correlation"] > 0
    means = told["neighbors"].groupby("measure")["ratings"].mean()
    assert means["dot"] >= means["cosine"]


def night(told):
    assert "the gate for 2026-01-27 is closed" in told["refused"]
    served = told["spark"].read.format("delta").load(f"{told['folder']}/lake/current_recommendations")
    assert [row["run_date"] for row in served.select("run_date").distinct().collect()] == [date(2026, 1, 26)]


def negatives(told):
    predictions = told["alone"].transform(told["test"].unionByName(told["never"])).agg({"prediction": "min"})
    assert predictions.collect()[0][0] == pytest.approx(1.0, abs=0.01)
    found = told["table"].pivot(index="model", columns="metric", values="value")["ndcg"]
    assert found["1:8"] > 2 * found["none"]


def second_stage(told):
    found = told["recalls"].iloc[0]
    assert found["union"] > found[["als", "item_item", "popularity"]].max()
    values = told["chosen"]
    assert values.loc["diverse", "diversity"] > values.loc["by score", "diversity"]
    assert values.loc["two of the long tail", "popularity_share"] <= 0.8 + 1e-9


CHECKS = [explored, gravity, softmax, embeddings, night, negatives, second_stage]
SAID = dict(zip([path.stem for path in NOTEBOOKS], CHECKS, strict=True))


ALWAYS = ("02_als_and_gravity",)
"""What every submission runs; all of them take five minutes."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in ALWAYS else pytest.mark.long) for p in NOTEBOOKS],
)
def test_a_notebook_runs_and_shows_what_it_says(path, lake, spark, monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_LAKE", lake)
    monkeypatch.chdir(tmp_path)
    SAID[path.stem](runpy.run_path(str(path)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_text_with_small_outputs(path):
    notebook = path.with_suffix(".ipynb")
    pair = [jupytext.read(file) for file in (path, notebook)]
    sources = [[(cell["cell_type"], cell["source"]) for cell in one["cells"]] for one in pair]
    assert sources[0] == sources[1]
    assert any(cell.get("outputs") for cell in pair[1]["cells"])
    assert notebook.stat().st_size < MOST_BYTES
