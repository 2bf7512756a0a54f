"""Step four: choose the champion on the validation part, and judge it on the test part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.data.split import TEST, TRAIN, VALIDATION
from recsys_spark.errors import ModelError
from recsys_spark.evaluation.hits import with_lists
from recsys_spark.evaluation.ranking import MetricValue, list_metrics
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.evaluation.segments import AGE, FIT, SEGMENTS, age_band, with_activity
from recsys_spark.evaluation.users import user_metrics
from recsys_spark.kernels.metrics import ACCURACY
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.base import RecommenderModel
from recsys_spark.pipeline.fitted import (
    BASELINE,
    COMPARISON,
    baseline,
    compared,
    last_champion,
    load,
    record_models,
    set_metrics,
)
from recsys_spark.pipeline.metrics import MetricRow, write_metrics
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import Folded, ListMaker, folded, kept_fit
from recsys_spark.pipeline.train import fit, save
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, RATING, USER

SERVED = "served"
"""Name, among the metrics, of the champion of the last night that was published before."""

COMPARED_WITH = "compared_with"
"""Detail of the ledger: which model that is; missing where there is none."""

POPULAR = "popularity"


def evaluate(night: Night) -> None:
    """Choose the champion, and judge it: reads ratings, users, items and models, writes metrics and models.

    It is chosen on the validation part, and judged on the test part beside what is served and the baseline,
    user by user in ``user_metrics``. Lists are compared as they would be served: filled with popular items.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        Training has not been done for this date.
    ModelError
        Nothing was measured.
    """
    with night.step("evaluate") as record:
        record.versions_read["ratings"] = night.ratings_version()
        kept, wanted = kept_fit(night), night.config.evaluate.champion_metric
        rows = compared(night) if kept is None else {kept.model: kept.rows[COMPARISON]}
        candidates: dict[str, ListMaker] = {}
        if kept is None:
            candidates |= {name: load(row) for name, row in rows.items()}
        else:
            candidates[kept.model] = folded(night, record, kept, COMPARISON, night.known_before(TEST))
        popular: Any = candidates.get(POPULAR) or fit(night, record, POPULAR, night.part(TRAIN))
        chosen = _accuracy(night, candidates, popular)
        champion, value = champion_of(chosen, wanted, list(candidates))
        compared_models = {**candidates, **_others(night, record, popular)}
        with _lists(night, compared_models, popular, TEST) as lists:
            judged = _ranking(night, record, lists, list(compared_models)) + _rating(night, candidates)
            segments = _by_user(night, record, lists, list(compared_models), candidates[champion])
        metrics = [MetricRow(VALIDATION, m) for m in chosen] + [MetricRow(TEST, m) for m in judged] + segments
        record.versions_written["metrics"] = write_metrics(night, metrics)
        record.counts["metrics"] = len(metrics)
        values = {VALIDATION: _values(chosen, wanted), TEST: _values(judged, wanted)}
        if kept is None:
            measured = {
                row["path"]: {f"{part} {wanted}": values[part][name] for part in values}
                for name, row in rows.items()
            }
            set_metrics(night.lake, measured)
        record.details |= {"champion": champion, "metric": wanted, "value": f"{value:.6f}"}
        on_test = values[TEST][champion]
        progress_line(f"  champion: {champion}, {wanted} = {value:.4f} on validation, {on_test:.4f} on test")
        _say_folded_in(segments, champion, wanted)


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
    values = _values(metrics, wanted)
    champion = max(order, key=lambda name: values[name])
    return champion, values[champion]


def _values(metrics: list[MetricValue], wanted: str) -> dict[str, float]:
    """Model → its value of the ``wanted`` metric."""
    metric, k = wanted.split("@")
    values = {m.model: m.value for m in metrics if m.metric == metric and m.k == int(k)}
    if not values:
        raise ModelError(
            "no held-out row counts as relevant, so there is no champion: lower evaluate.min_rating"
        )
    return values


def _others(night: Night, record: StepRecord, popular: Any) -> dict[str, RecommenderModel]:
    """What the champion is to be no worse than: what is served, and popular items that were stored once."""
    stored = baseline(night)
    if stored is None:
        frozen = popular.copy()
        frozen.users = frozen.users.limit(0)  # nobody's id is kept for good
        record_models(night, record, [save(night, POPULAR, BASELINE, frozen, time.monotonic())])
        stored = baseline(night)
    others = {} if stored is None else {BASELINE: load(stored)}
    served = last_champion(night)
    if served is None:
        progress_line("  nothing was published before: the champion is compared with the baseline only")
        return others
    what = f"{served['model']} of {served['run_date']}"
    if served["split"] != night.split_described():
        progress_line(f"  {what} was trained on another split, and may know this test part: not compared")
        return others
    record.details[COMPARED_WITH] = what
    return {**others, SERVED: load(served)}


def _relevant(night: Night, part: str) -> DataFrame:
    """The held-out rows that a list should have."""
    least, rows = night.config.evaluate.min_rating, night.part(part)
    return rows if least is None else rows.where(F.col(RATING) >= least)


@contextmanager
def _lists(
    night: Night, models: Mapping[str, ListMaker], popular: ListMaker, part: str
) -> Iterator[DataFrame]:
    """Held-out items of a part's users beside the models' lists, filled up; kept while they are measured."""
    with ExitStack() as kept:

        def keep(frame: DataFrame) -> DataFrame:
            kept.callback(frame.persist().unpersist)
            return frame

        relevant = _relevant(night, part).select(USER, ITEM)
        users = keep(relevant.select(USER).distinct())
        seen, sizes = night.seen(night.known_before(part)), night.config.recommend.block_sizes
        request = ListRequest(max(night.config.evaluate.cutoffs), seen, block_sizes=sizes)
        filling = keep(popular.recommend_lists(users, request))
        lists = {
            name: filling if model is popular else model.recommend_lists(users, request)
            for name, model in models.items()
        }
        yield keep(with_lists(lists, relevant, filling))


def _accuracy(night: Night, models: Mapping[str, ListMaker], popular: ListMaker) -> list[MetricValue]:
    """Accuracy on the validation part, which is all that the choice needs."""
    k = int(night.config.evaluate.champion_metric.split("@")[1])
    with _lists(night, models, popular, VALIDATION) as lists:
        means = [F.avg(name).alias(name) for name in ACCURACY]
        rows = user_metrics(lists, list(models), k).groupBy("model").agg(F.count("*").alias("users"), *means)
        return [
            MetricValue(row["model"], name, k, row[name], None, None, row["users"])
            for row in rows.collect()
            for name in ACCURACY
        ]


def _ranking(night: Night, record: StepRecord, lists: DataFrame, names: list[str]) -> list[MetricValue]:
    """All metrics on the test part."""
    settings, lake, items = night.config.evaluate, night.lake, None
    if lake.exists("items"):
        version = record.versions_read.setdefault("items", lake.version("items"))
        items = lake.read("items", version)
        items = items if "genres" in items.columns else None
    # a pair is known once: ``ratings`` has one row of each
    known = night.known_before(TEST).select(USER, ITEM)
    return list_metrics(lists, names, known, items, settings.cutoffs, settings.bootstrap, night.config.seed)


def _by_user(
    night: Night, record: StepRecord, lists: DataFrame, names: list[str], champion: ListMaker
) -> list[MetricRow]:
    """Write each user's metrics, and return their means by segment."""
    k = int(night.config.evaluate.champion_metric.split("@")[1])
    users = with_activity(lists.select(F.col("id").alias(USER)), night.known_before(TEST))
    ages = _ages(night, record)
    users = (
        users.withColumn(AGE, F.lit(None).cast("string")) if ages is None else users.join(ages, USER, "left")
    )
    users = _with_fit(users, champion)
    night.lake.create("user_metrics", *night.config.ingest.id_types)
    of_run = {"run_id": F.lit(night.run_id), "run_date": F.lit(night.run_date), "k": F.lit(k)}
    rows = user_metrics(lists, names, k).join(users, USER).withColumns(of_run)
    where, count = f"run_date = '{night.run_date}'", lists.count() * len(names)
    version = night.lake.replace("user_metrics", rows, where, count)
    record.versions_written["user_metrics"] = version
    record.counts["user_metrics"] = count
    written = night.lake.read("user_metrics", version).where(F.col("run_date") == F.lit(night.run_date))
    labels = F.array(*(F.concat(F.lit(f"{column}="), column) for column in SEGMENTS))
    segments = written.withColumn("segment", F.explode(F.array_compact(labels)))
    means = [F.avg(name).alias(name) for name in ACCURACY]
    found = segments.groupBy("model", "segment").agg(F.count("*").alias("users"), *means)
    return [
        MetricRow(
            TEST, MetricValue(row["model"], name, k, row[name], None, None, row["users"]), row["segment"]
        )
        for row in found.orderBy("model", "segment").collect()
        for name in ACCURACY
    ]


def _ages(night: Night, record: StepRecord) -> DataFrame | None:
    """``user`` and band of age, where the users have ages."""
    if not night.lake.exists("users"):
        return None
    version = record.versions_read.setdefault("users", night.lake.version("users"))
    users = night.lake.read("users", version)
    if AGE not in users.columns or users.schema[AGE].dataType.typeName() not in ("integer", "long", "double"):
        return None
    return users.select(USER, age_band(F.col(AGE)).alias(AGE))


def _with_fit(users: DataFrame, champion: ListMaker) -> DataFrame:
    """Users with how the champion knows them, where it was kept from an earlier night."""
    if not isinstance(champion, Folded):
        return users.withColumn(FIT, F.lit(None).cast("string"))
    changed = champion.users.withColumn(FIT, F.lit("folded_in"))
    return users.join(changed, USER, "left").fillna("kept", [FIT])


def _say_folded_in(segments: list[MetricRow], champion: str, wanted: str) -> None:
    metric = wanted.split("@")[0]
    for row in segments:
        if (row.measured.model, row.measured.metric, row.segment) == (champion, metric, f"{FIT}=folded_in"):
            value, users = row.measured.value, row.measured.users
            progress_line(f"  {users:,} test users are folded in: {wanted} = {value:.4f} of theirs")


def _rating(night: Night, models: Mapping[str, ListMaker]) -> list[MetricValue]:
    """Errors of the models that predict ratings. With folded-in users there is no prediction to compare."""
    if night.config.split.method == "holdout_users":
        return []
    predicting = {
        name: model
        for name, model in models.items()
        if isinstance(model, RecommenderModel) and night.estimator(name).predicts_ratings
    }
    # rows that a model would drop are to be counted
    for name, model in predicting.items():
        if model.getOrDefault("coldStartStrategy") == "drop":
            predicting[name] = model.copy({model.getParam("coldStartStrategy"): "nan"})
    test = night.part(TEST)
    return rating_metrics({name: model.transform(test) for name, model in predicting.items()})
