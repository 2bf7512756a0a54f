"""Step four: compare the candidates on the held-out part and name the champion."""

from __future__ import annotations

from typing import Any

from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.errors import ModelError
from recsys_spark.evaluation.ranking import MetricValue, ranking_metrics
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.models.base import RecommenderModel
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.train import load_models
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import RATING, USER


def evaluate(night: Night) -> None:
    """Compare the models and name the champion: reads ratings and models, writes metrics.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        Training has not been done for this date.
    """
    with night.step("evaluate") as record:
        record.versions_read["ratings"] = night.ratings_version()
        models = load_models(night, "candidate")
        metrics = _ranking(night, record, models) + _rating(night, models)
        record.versions_written["metrics"] = _write(night, metrics)
        record.counts["metrics"] = len(metrics)
        wanted = night.config.evaluate.champion_metric
        champion, value = champion_of(metrics, wanted, night.config.models)
        record.details |= {"champion": champion, "metric": wanted, "value": f"{value:.6f}"}
        progress_line(f"  champion: {champion}, {wanted} = {value:.4f}")


def champion_of(metrics: list[MetricValue], wanted: str, order: list[str]) -> tuple[str, float]:
    """The model with the largest ``wanted`` metric (such as ``ndcg@10``); of equal ones the first in
    ``order``.

    Parameters
    ----------
    metrics : list of MetricValue
        Of all models.
    wanted : str
        Metric and cut-off, such as ``ndcg@10``.
    order : list of str
        Names of the models; of equal ones the first wins.

    Raises
    ------
    ModelError
        Nothing was measured.
    """
    metric, k = wanted.split("@")
    values = {m.model: m.value for m in metrics if m.metric == metric and m.k == int(k)}
    if not values:
        raise ModelError(
            "no held-out row counts as relevant, so there is no champion: lower evaluate.min_rating"
        )
    champion = max(order, key=lambda name: values[name])
    return champion, values[champion]


def _ranking(night: Night, record: StepRecord, models: dict[str, RecommenderModel]) -> list[MetricValue]:
    settings, lake = night.config.evaluate, night.lake
    relevant = night.held_out()
    if settings.min_rating is not None:
        relevant = relevant.where(F.col(RATING) >= settings.min_rating)
    users = relevant.select(USER).distinct().persist()
    request = ListRequest(
        max(settings.cutoffs), night.seen(night.known()), block_sizes=night.config.recommend.block_sizes
    )
    lists = {name: model.recommend_lists(users, request) for name, model in models.items()}
    items = None
    if lake.exists("items"):
        record.versions_read["items"] = lake.version("items")
        items = lake.read("items", record.versions_read["items"])
        items = items if "genres" in items.columns else None
    measured = settings.cutoffs, settings.bootstrap, night.config.seed
    # a pair is known once: ``ratings`` has one row of each
    metrics = ranking_metrics(lists, relevant, night.known(), items, *measured, distinct=True)
    users.unpersist()
    return metrics


def _rating(night: Night, models: dict[str, RecommenderModel]) -> list[MetricValue]:
    """Errors of the models that predict ratings. With folded-in users there is no prediction to compare."""
    if night.config.split.method == "holdout_users":
        return []
    predicting: dict[str, Any] = {n: m for n, m in models.items() if night.estimator(n).predicts_ratings}
    # rows that a model would drop are to be counted
    dropping = [
        name for name, model in predicting.items() if model.getOrDefault("coldStartStrategy") == "drop"
    ]
    keeping = {name: predicting[name].copy({predicting[name].coldStartStrategy: "nan"}) for name in dropping}
    predicted = {name: model.transform(night.held_out()) for name, model in {**predicting, **keeping}.items()}
    return rating_metrics(predicted)


def _write(night: Night, metrics: list[MetricValue]) -> int:
    split = night.config.split.method
    rows = [
        (night.run_id, night.run_date, m.model, split, m.metric, m.k, "all", m.value, m.low, m.high, m.users)
        for m in metrics
    ]
    schema = ", ".join(f"{name} {kind}" for name, kind in TABLES["metrics"].columns.items())
    night.lake.create("metrics")
    return night.lake.append("metrics", night.spark.createDataFrame(rows, schema).coalesce(1), len(rows))
