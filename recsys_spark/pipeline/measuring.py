"""Measuring models' lists on the held-out parts, as they would be served: filled up with popular items."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.held_out import KNOWN
from recsys_spark.evaluation.hits import with_lists
from recsys_spark.evaluation.ranking import MetricValue, list_metrics
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.evaluation.retrieval import retrieval
from recsys_spark.evaluation.segments import AGE, FIT, SEGMENTS, age_band, with_activity
from recsys_spark.evaluation.users import user_metrics
from recsys_spark.kernels.metrics import ACCURACY
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.ranker_model import RankerModel
from recsys_spark.pipeline.metrics import MetricRow
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import Folded, ListMaker
from recsys_spark.pipeline.reranking import Shown
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import EVERYONE, ITEM, RATING, TEST, USER, VALIDATION

RETRIEVED, RETRIEVED_AT = 10_000, (50, 100, 500)
"""Users whose candidates are looked at, at most, and how many of each list."""

CANDIDATE_RECALL, CANDIDATES, MEMBER = "candidate_recall", "candidates", "member"
"""Metrics of candidates, and the kind of segment that says who has found them."""


class Judged(NamedTuple):
    """How models did on the test part.

    Attributes
    ----------
    metrics : all metrics of everyone
    by_segment : means of those of each segment's users, and what members of models of two stages find
    seconds : model → seconds of its lists
    """

    metrics: list[MetricValue]
    by_segment: list[MetricRow]
    seconds: dict[str, float]


def accuracy_on_validation(
    night: Night, record: StepRecord, held: DataFrame, models: Mapping[str, ListMaker], popular: ListMaker
) -> list[MetricValue]:
    """Accuracy on the validation part, which is all that the choice of a champion needs.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; versions are added.
    held : DataFrame
        Of :func:`~recsys_spark.evaluation.held_out.held_out`.
    models : mapping of str to ListMaker
        What is compared, by name.
    popular : ListMaker
        What fills lists up.
    """
    k = night.config.evaluate.cutoff
    with _lists(night, record, held, models, popular, VALIDATION, k) as (lists, _):
        means = [F.avg(name).alias(name) for name in ACCURACY]
        rows = user_metrics(lists, list(models), k).groupBy("model").agg(F.count("*").alias("users"), *means)
        return [
            MetricValue(row["model"], name, k, row[name], None, None, row["users"])
            for row in rows.collect()
            for name in ACCURACY
        ]


def judge_on_test(
    night: Night, record: StepRecord, held: DataFrame, models: Mapping[str, ListMaker], popular: ListMaker
) -> Judged:
    """All metrics on the test part, those of each user in ``user_metrics``, and those of each segment.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; versions and counts are added.
    held : DataFrame
        Of :func:`~recsys_spark.evaluation.held_out.held_out`.
    models : mapping of str to ListMaker
        What is judged, by name.
    popular : ListMaker
        What fills lists up.
    """
    active = held.where(F.col(KNOWN) > 0).select(USER, F.col(KNOWN).alias("ratings"))
    longest = max(night.config.evaluate.cutoffs)
    with _lists(night, record, held, models, popular, TEST, longest, timed=True) as (lists, seconds):
        by_segment = _by_user(night, record, lists, models, active)
        judged = _ranking(night, record, lists, list(models), active.count()) + _rating(night, models)
        return Judged(judged, by_segment + _retrieved(night, held, models), seconds)


@contextmanager
def _lists(
    night: Night,
    record: StepRecord,
    held: DataFrame,
    models: Mapping[str, ListMaker],
    popular: ListMaker,
    part: str,
    n: int,
    timed: bool = False,
) -> Iterator[tuple[DataFrame, dict[str, float]]]:
    """Held-out items of a part's users beside the models' lists of ``n``, filled up; kept while they are
    measured. And where it is ``timed`` the seconds of each model's lists, which are then made one after the
    other.
    """
    with ExitStack() as kept:

        def keep(frame: DataFrame) -> DataFrame:
            if not frame.is_cached:
                kept.callback(frame.persist().unpersist)
            return frame

        relevant = held.where(F.col(part).isNotNull()).select(
            F.col(USER).alias("id"), F.col(part).alias("items")
        )
        users = relevant.select(F.col("id").alias(USER))
        known, sizes = night.known_before(part), night.config.recommend.block_sizes
        seen = night.seen(part)
        request = ListRequest(n, seen, block_sizes=sizes, only_supported=True)
        shown = Shown.of(night, record, known)
        filling = keep(shown.lists(popular, users, request))
        lists, seconds = dict[str, DataFrame](), dict[str, float]()
        for name, model in models.items():
            lists[name] = filling if model is popular else shown.lists(model, users, request)
            if timed:
                started = time.monotonic()
                keep(lists[name]).count()
                seconds[name] = time.monotonic() - started
        yield keep(with_lists(lists, relevant, filling)), seconds


def _ranking(
    night: Night, record: StepRecord, lists: DataFrame, names: list[str], n_users: int
) -> list[MetricValue]:
    """All metrics on the test part."""
    settings, lake, items = night.config.evaluate, night.lake, None
    if lake.exists("items"):
        version = record.versions_read.setdefault("items", lake.version("items"))
        items = lake.read("items", version)
        items = items if "genres" in items.columns else None
    catalogue = night.known_before(TEST).item_counts().toDF(ITEM, "users")
    further = items, settings.cutoffs, settings.bootstrap, night.config.seed
    return list_metrics(lists, names, catalogue, n_users, *further)


def _by_user(
    night: Night, record: StepRecord, lists: DataFrame, models: Mapping[str, ListMaker], active: DataFrame
) -> list[MetricRow]:
    """Write each user's metrics, and return their means by segment."""
    k = night.config.evaluate.cutoff
    users = with_activity(lists.select(F.col("id").alias(USER)), active)
    ages = ages_of(night, record)
    users = (
        users.withColumn(AGE, F.lit(None).cast("string")) if ages is None else users.join(ages, USER, "left")
    )
    users = _with_fit(users, models)
    night.lake.create("user_metrics", *night.config.ingest.id_types)
    of_run = {"run_id": F.lit(night.run_id), "run_date": F.lit(night.run_date), "k": F.lit(k)}
    rows = user_metrics(lists, list(models), k).join(users, USER).withColumns(of_run).persist()
    try:
        count = record.counts["user_metrics"] = lists.count() * len(models)
        where = f"run_date = '{night.run_date}'"
        record.versions_written["user_metrics"] = night.lake.replace("user_metrics", rows, where, count)
        return _by_segment(rows, k)
    finally:
        rows.unpersist()


def _by_segment(rows: DataFrame, k: int) -> list[MetricRow]:
    """Means of the rows of ``user_metrics`` of each segment."""
    # of the few groups that users are in, and not of every user, the segments are listed
    sums = [F.sum(name).alias(name) for name in ACCURACY]
    groups = rows.groupBy("model", *SEGMENTS).agg(F.count("*").alias("users"), *sums)
    labels = F.array(*(F.concat(F.lit(f"{column}="), column) for column in SEGMENTS))
    segments = groups.withColumn("segment", F.explode(F.array_compact(labels)))
    means = [(F.sum(name) / F.sum("users")).alias(name) for name in ACCURACY]
    found = segments.groupBy("model", "segment").agg(F.sum("users").alias("users"), *means)
    return [
        MetricRow(
            TEST, MetricValue(row["model"], name, k, row[name], None, None, row["users"]), row["segment"]
        )
        for row in found.orderBy("model", "segment").collect()
        for name in ACCURACY
    ]


def _retrieved(night: Night, held: DataFrame, models: Mapping[str, ListMaker]) -> list[MetricRow]:
    """How much of the test part the candidates of models of two stages have, by member and together, of some
    users.
    """
    tested = held.where(F.col(TEST).isNotNull()).select(F.col(USER).alias("id"), F.col(TEST).alias("items"))
    some = tested.orderBy(F.xxhash64("id"), "id").limit(RETRIEVED)
    rows, sizes = list[MetricRow](), night.config.recommend.block_sizes
    for name, model in models.items():
        if not isinstance(model, RankerModel):
            continue
        relevant, numbers = some.persist(), model.numbers()
        try:
            users = relevant.select(F.col("id").alias(USER))
            found = model.candidate_rows(users, ListRequest(1, night.seen(TEST), block_sizes=sizes))
            ks = [k for k in RETRIEVED_AT if k < max(numbers.values())] + [max(numbers.values())]
            told = retrieval(found, relevant, list(numbers), ks)
        finally:
            relevant.unpersist()
        for one in told:
            segment = EVERYONE if one.retriever is None else f"{MEMBER}={one.retriever}"
            for metric, value in ((CANDIDATE_RECALL, one.recall), (CANDIDATES, one.candidates)):
                measured = MetricValue(name, metric, one.k, value, None, None, one.users)
                rows.append(MetricRow(TEST, measured, segment))
    return rows


def ages_of(night: Night, record: StepRecord) -> DataFrame | None:
    """``user`` and band of age, where the users have ages.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``users`` is added.
    """
    if not night.lake.exists("users"):
        return None
    version = record.versions_read.setdefault("users", night.lake.version("users"))
    users = night.lake.read("users", version)
    if AGE not in users.columns or users.schema[AGE].dataType.typeName() not in ("integer", "long", "double"):
        return None
    return users.select(USER, age_band(F.col(AGE)).alias(AGE))


def _with_fit(users: DataFrame, models: Mapping[str, ListMaker]) -> DataFrame:
    """Users with how the night's model knows them, where it was kept from an earlier night."""
    for model in models.values():
        if isinstance(model, Folded):
            changed = model.users.withColumn(FIT, F.lit("folded_in"))
            return users.join(changed, USER, "left").fillna("kept", [FIT])
    return users.withColumn(FIT, F.lit(None).cast("string"))


def _rating(night: Night, models: Mapping[str, ListMaker]) -> list[MetricValue]:
    """Errors of the models that predict ratings. With folded-in users there is no prediction to compare."""
    if night.config.split.method == "holdout_users":
        return []
    predicting = {
        name: model
        for name, model in models.items()
        if isinstance(model, RecommenderModel)
        and name in night.config.models
        and night.estimator(name).predicts_ratings
    }
    # rows that a model would drop are to be counted
    for name, model in predicting.items():
        if model.getOrDefault("coldStartStrategy") == "drop":
            predicting[name] = model.copy({model.getParam("coldStartStrategy"): "nan"})
    test = night.parts().of(TEST).rows(USER, ITEM, RATING)
    return rating_metrics({name: model.transform(test) for name, model in predicting.items()})
