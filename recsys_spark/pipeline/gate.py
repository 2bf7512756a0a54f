"""Step six: whether these lists may be served without anybody looking at them first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.errors import GateError, LakeError
from recsys_spark.evaluation.comparison import (
    Difference,
    list_overlap,
    list_statistics,
    paired_bootstrap,
    score_drift,
)
from recsys_spark.evaluation.ranking import MetricValue
from recsys_spark.evaluation.segments import SEGMENTS
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.checks import as_lists
from recsys_spark.pipeline.eligibility import Rules
from recsys_spark.pipeline.evaluate import COMPARED_WITH, SERVED
from recsys_spark.pipeline.fitted import BASELINE, POPULAR
from recsys_spark.pipeline.metrics import LISTS, MetricRow, write_metrics
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.served import rows_expected, served_date
from recsys_spark.pipeline.shelves import SHELVES
from recsys_spark.pipeline.similar import NEIGHBOR_ROWS
from recsys_spark.schema import EVERYONE, ITEM, MEASURE, TEST, USER

VERDICT, FAILED, OPEN, CLOSED = "gate", "failed", "open", "closed"
"""Details of the ledger: whether the gate is open or closed, and which checks failed by how much."""

SEGMENT_CONFIDENCE = 0.995
"""Of a segment's interval: with ten segments, as sure as one interval of 95 %."""


@dataclass(frozen=True)
class Check:
    """One condition for being served: a value that must not be above a threshold.

    Parameters
    ----------
    name : str
        The metric's name.
    what : str
        The value, for people: a noun.
    value, threshold : float
        What was found, and the most that is allowed.
    part : str
        What was looked at: ``test`` or ``lists``.
    segment : str
        Whose lists.
    low, high : float or None
        Interval of the value. While it holds 0, a loss may be chance, and the check passes.
    k : int
        Cut-off, 0 where there is none.
    users : int
        Users that were looked at.
    """

    name: str
    what: str
    value: float
    threshold: float
    part: str = LISTS
    segment: str = EVERYONE
    low: float | None = None
    high: float | None = None
    k: int = 0
    users: int = 0

    @property
    def passed(self) -> bool:
        """Whether the condition holds."""
        return self.value <= self.threshold or (self.low is not None and self.low <= 0)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" ({self.low:.4f} to {self.high:.4f})"
        who = "" if self.segment == EVERYONE else f" for {self.segment}"
        return f"{self.what}{who} is {self.value:.4g}{interval}, and at most {self.threshold:.4g} is allowed"

    def row(self, model: str) -> MetricRow:
        """The row for the table ``metrics``.

        Parameters
        ----------
        model : str
            The champion's name.
        """
        measured = MetricValue(model, self.name, self.k, self.value, self.low, self.high, self.users)
        return MetricRow(self.part, measured, self.segment, self.threshold, "pass" if self.passed else "fail")


def gate(night: Night) -> None:
    """Check whether lists may be served: reads user_metrics and recommendations, writes metrics.

    The lists are compared with those in ``current_recommendations``, and the neighbours in ``similar_items``
    with those in ``current_similar_items``.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        There are no recommendations for this date.
    GateError
        A check failed; what is served stays.
    """
    with night.step("gate") as record:
        champion = night.ledger.last_done("recommend")["details"]["champion"]
        of_lists = [*_lists(night, record), *_rules(night, record), *_neighbors(night, record)]
        checks = [*_quality(night, champion), *of_lists]
        rows = [check.row(champion) for check in checks]
        record.versions_written["metrics"] = write_metrics(night, rows)
        failed = [check for check in checks if not check.passed]
        record.counts |= {"checks": len(checks), "failed": len(failed)}
        record.details[VERDICT] = CLOSED if failed else OPEN
        if failed:
            record.details[FAILED] = "; ".join(map(str, failed))
        progress_line(f"  {len(checks) - len(failed)} of {len(checks)} checks passed")
    require_open(night)


def require_open(night: Night) -> None:
    """Raise unless the gate of this date's lists is open.

    Parameters
    ----------
    night : Night
        The run.

    Raises
    ------
    LakeError
        The gate was not tried, or the lists were made again since.
    GateError
        It is closed: which checks failed, and by how much.
    """
    tried, made = night.ledger.last_done("gate"), night.ledger.last_done("recommend")
    if tried["started"] < made["started"]:
        raise LakeError(
            f"the lists of {night.run_date} were made again since the gate: run the gate step again"
        )
    if tried["details"][VERDICT] == CLOSED:
        served = served_date(night.lake)
        stays = f"the lists of {served} stay served" if served else "nothing is served"
        raise GateError(
            f"the gate for {night.run_date} is closed, and {stays}: {tried['details'][FAILED]}; "
            f"recsys publish --run-date {night.run_date} --force --reason '…' overrules it"
        )


def _quality(night: Night, champion: str) -> list[Check]:
    """The champion on the test part, beside what is served and the baseline."""
    evaluated = night.ledger.last_done("evaluate")
    against = {BASELINE: "popular items"}
    if COMPARED_WITH in evaluated["details"]:
        against = {SERVED: evaluated["details"][COMPARED_WITH], **against}
    users = _losses(night, evaluated["run_id"], champion, list(against))
    columns = [name for other in against for name in (f"loss to {other}", other)]
    found = paired_bootstrap(users, columns, SEGMENTS, night.config.gate.bootstrap, night.config.seed)
    means = {(one.column, one.segment): one.mean for one in found}
    checks = []
    for other, described in against.items():
        what = f"the loss of {champion} in {night.config.evaluate.champion_metric} against {described}"
        for loss in found:
            margin = _margin(night, other, loss)
            if loss.column == f"loss to {other}" and margin is not None:
                threshold = margin * means[other, loss.segment]
                checks.append(_loss_check(night, f"loss_to_{other}", what, loss, threshold))
    return checks


def _losses(night: Night, run_id: str, champion: str, others: list[str]) -> DataFrame:
    """One row per test user: ``user``, the segments, the champion metric of each of ``others``, and the
    champion's loss to it, ``loss to <other>``.
    """
    metric = night.config.evaluate.metric
    of_run = (F.col("run_date") == F.lit(night.run_date)) & (F.col("run_id") == run_id)
    rows = night.lake.read("user_metrics").where(of_run)
    by_user = rows.groupBy(USER, *SEGMENTS).pivot("model", [champion, *others]).agg(F.first(metric))
    losses = [(F.col(name) - F.col(champion)).alias(f"loss to {name}") for name in others]
    return by_user.select(USER, *SEGMENTS, *others, *losses)


def _loss_check(night: Night, name: str, what: str, loss: Difference, threshold: float) -> Check:
    low, high = loss.interval(0.95 if loss.segment == EVERYONE else SEGMENT_CONFIDENCE)
    k = night.config.evaluate.cutoff
    return Check(name, what, loss.mean, threshold, TEST, loss.segment, low, high, k, loss.users)


def _margin(night: Night, other: str, loss: Difference) -> float | None:
    """The fraction of the other's value that may be lost; None for what is not checked."""
    settings = night.config.gate
    if loss.segment == EVERYONE:
        return settings.max_loss
    watched = other == SERVED and loss.users >= settings.segment_users
    return settings.max_segment_loss if watched else None


def _lists(night: Night, record: StepRecord) -> list[Check]:
    """The lists themselves, and beside those that are served."""
    settings, lake, recommended = night.config.gate, night.lake, night.ledger.last_done("recommend")
    made, champion = recommended["counts"], recommended["details"]["champion"]
    version = record.versions_read["recommendations"] = lake.version("recommendations")
    ours = lake.read("recommendations", version).where(F.col("run_date") == F.lit(night.run_date))
    served, theirs = served_date(lake), None
    if served is not None and served <= night.run_date:
        version = record.versions_read["current_recommendations"] = lake.version("current_recommendations")
        theirs = lake.read("current_recommendations", version)
    now, *before = list_statistics([ours] if theirs is None else [ours, theirs], champion)
    uncovered = 1 - made["lists"] / max(made["users"], 1)
    fallback = made["fallback_rows"] / max(made["rows"], 1)
    missing, rows = "the number of rows that were made and are not there", rows_expected(night) - now.rows
    found = [
        _check("rows_missing", missing, rows, 0),
        _check("uncovered_share", "the share of users without a list", uncovered, settings.max_uncovered),
        _check("fallback_share", "the share of rows from popular items", fallback, settings.max_fallback),
    ]
    if theirs is not None:
        since = f"from the lists of {served}"
        change = abs(now.rows / before[0].rows - 1) if before[0].rows else None
        what = f"the change of the number of rows {since}, as a fraction,"
        found.append(_check("row_change", what, change, settings.max_row_change))
        what = f"the drift of {champion}'s mean score {since}, in standard deviations,"
        # popularity's scores are numbers of users, which grow by themselves
        drift = None if champion == POPULAR else score_drift(now, before[0])
        found.append(_check("score_drift", what, drift, settings.max_drift))
        found.append(_churn(night, "churn", f"users' lists {since}", ours, theirs))
    return [check for check in found if check is not None]


def _rules(night: Night, record: StepRecord) -> list[Check]:
    """The stored rows by each rule of who may be shown what, whose tables and files may have changed since
    the lists were made.
    """
    lake = night.lake
    names = [name for name in ("recommendations", SHELVES) if lake.exists(name)]
    for name in names:
        record.versions_read.setdefault(name, lake.version(name))
    stored = [lake.read(name, record.versions_read[name]) for name in names]
    tables = reduce(DataFrame.unionAll, (table.select("run_date", USER, ITEM) for table in stored))
    rows = tables.where(F.col("run_date") == F.lit(night.run_date)).persist()  # each rule reads them
    try:
        broken = Rules(night, record).broken(rows)
    finally:
        rows.unpersist()
    return [
        Check(
            f"rows_against_{key.removeprefix('recommend.').replace('.', '_')}",
            f"the number of rows against {key}",
            number,
            0,
        )
        for key, number in broken.items()
    ]


def _neighbors(night: Night, record: StepRecord) -> list[Check]:
    """The neighbours of items, and beside those that are served."""
    lake, checked = night.lake, night.ledger.last_done("recommend")["counts"].get(NEIGHBOR_ROWS, 0)
    if night.config.recommend.similar_items is None or not lake.exists("similar_items"):
        return []
    version = record.versions_read["similar_items"] = lake.version("similar_items")
    ours = lake.read("similar_items", version).where(F.col("run_date") == F.lit(night.run_date))
    missing = "the number of neighbours that were made and are not there"
    found = [_check("similar_rows_missing", missing, checked - ours.count(), 0)]
    if lake.exists("current_similar_items"):
        version = record.versions_read["current_similar_items"] = lake.version("current_similar_items")
        theirs = lake.read("current_similar_items", version)
        dates, measure = F.max("run_date").alias("date"), F.max(MEASURE).alias("measure")
        served: Any = theirs.agg(F.count("*").alias("rows"), dates, measure).first()
        if served["rows"] and served["date"] <= night.run_date:
            since, change = f"neighbours from those of {served['date']}", abs(checked / served["rows"] - 1)
            what = f"the change of the number of {since}, as a fraction,"
            found.append(_check("similar_row_change", what, change, night.config.gate.max_row_change))
            alike = ours.where(F.col(MEASURE) == served["measure"])
            found.append(_churn(night, "similar_churn", f"items' {since}", as_lists(alike), as_lists(theirs)))
    return [check for check in found if check is not None]


def _churn(night: Night, name: str, what: str, ours: DataFrame, theirs: DataFrame) -> Check | None:
    """How much lists differ from those that are served."""
    limit = night.config.gate.max_churn
    overlap = None if limit is None else list_overlap(ours, theirs)
    churn, lists = (None, 0) if overlap is None else (1 - overlap[0], overlap[1])
    return _check(name, f"what changes in {what} (1 - rank-biased overlap)", churn, limit, lists)


def _check(
    name: str, what: str, value: float | None, threshold: float | None, users: int = 0
) -> Check | None:
    """A check of the lists; None where there is nothing to compare, or no limit."""
    if value is None or threshold is None:
        return None
    return Check(name, what, float(value), float(threshold), users=users)
