"""Step four: measure the candidates on the held-out part and name the champion."""

from __future__ import annotations

from typing import Any

from pyspark.sql import functions as F

from recsys_spark.console import note
from recsys_spark.errors import ModelError
from recsys_spark.evaluation.ranking import Measure, rank_measures
from recsys_spark.evaluation.rating import rating_measures
from recsys_spark.lakehouse.ledger import Entry
from recsys_spark.lakehouse.tables import TABLES
from recsys_spark.models.base import RecommenderModel
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.train import load_models
from recsys_spark.schema import RATING, USER


def evaluate(night: Night) -> None:
    """Write the measures of every candidate to ``metrics``; the champion's name goes to the ledger.

    Raises
    ------
    LakeError
        Training has not been done for this date.
    """
    with night.step("evaluate") as entry:
        entry.versions_read["ratings"] = night.ratings_version()
        models = load_models(night, "candidate")
        measures = _ranking(night, entry, models) + _rating(night, models)
        entry.versions_written["metrics"] = _write(night, measures)
        entry.counts["measures"] = len(measures)
        champion, value = champion_of(measures, night.config.evaluate.champion, night.config.models)
        entry.details |= {"champion": champion, "metric": night.config.evaluate.champion, "value": f"{value:.6f}"}
        note(f"  champion: {champion}, {night.config.evaluate.champion} = {value:.4f}")


def champion_of(measures: list[Measure], wanted: str, order: list[str]) -> tuple[str, float]:
    """The model with the largest ``wanted`` measure (such as ``ndcg@10``); of equal ones the first in ``order``.

    Raises
    ------
    ModelError
        Nothing was measured.
    """
    metric, k = wanted.split("@")
    values = {m.model: m.value for m in measures if m.metric == metric and m.k == int(k)}
    if not values:
        raise ModelError("no held-out row is relevant, so there is no champion: lower evaluate.min_rating")
    champion = max(order, key=lambda name: values[name])
    return champion, values[champion]


def _ranking(night: Night, entry: Entry, models: dict[str, RecommenderModel]) -> list[Measure]:
    settings, lake = night.config.evaluate, night.lake
    relevant = night.held_out()
    if settings.min_rating is not None:
        relevant = relevant.where(F.col(RATING) >= settings.min_rating)
    users = relevant.select(USER).distinct().persist()
    lists = {
        name: model.lists(users, max(settings.k), night.known(), night.config.recommend.blocks) for name, model in models.items()
    }
    items = None
    if lake.exists("items"):
        entry.versions_read["items"] = lake.version("items")
        items = lake.read("items", entry.versions_read["items"])
    measures = rank_measures(lists, relevant, night.known(), items, settings.k, settings.bootstrap, night.config.seed)
    users.unpersist()
    return measures


def _rating(night: Night, models: dict[str, RecommenderModel]) -> list[Measure]:
    """Errors of the models that predict ratings. With folded-in users there is no prediction to measure."""
    if night.config.split.method == "strong":
        return []
    predicting: dict[str, Any] = {n: m for n, m in models.items() if night.estimator(n).predicts_ratings}
    # rows that a model would drop are to be counted
    dropping = [name for name, model in predicting.items() if model.getOrDefault("coldStartStrategy") == "drop"]
    keeping = {name: predicting[name].copy({predicting[name].coldStartStrategy: "nan"}) for name in dropping}
    predicted = {name: model.transform(night.held_out()) for name, model in {**predicting, **keeping}.items()}
    return rating_measures(predicted)


def _write(night: Night, measures: list[Measure]) -> int:
    split = night.config.split.method
    rows = [
        (night.run_id, night.run_date, m.model, split, m.metric, m.k, "all", m.value, m.low, m.high, m.users) for m in measures
    ]
    schema = ", ".join(f"{name} {kind}" for name, kind in TABLES["metrics"].columns.items())
    night.lake.create("metrics")
    return night.lake.append("metrics", night.spark.createDataFrame(rows, schema).coalesce(1))
