"""Step four: choose the champion on the validation part, and judge it on the test part."""

from __future__ import annotations

import time
from typing import Any

from recsys_spark.console import progress_line
from recsys_spark.errors import ModelError
from recsys_spark.evaluation.ranking import MetricValue
from recsys_spark.evaluation.segments import FIT
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.base import RecommenderModel
from recsys_spark.pipeline.fitted import (
    BASELINE,
    COMPARISON,
    LISTS_SECONDS,
    POPULAR,
    baseline,
    compared,
    last_champion,
    load,
    record_models,
    set_metrics,
)
from recsys_spark.pipeline.measuring import accuracy_on_validation, judge_on_test
from recsys_spark.pipeline.metrics import MetricRow, write_metrics
from recsys_spark.pipeline.night import KNOWN_BEFORE, Night
from recsys_spark.pipeline.refit import ListMaker, folded, kept_fit
from recsys_spark.pipeline.tracking import log_models
from recsys_spark.pipeline.train import fit, save
from recsys_spark.schema import EVERYONE, TEST, TRAIN, VALIDATION

SERVED = "served"
"""Name, among the metrics, of the champion of the last night that was published before."""

COMPARED_WITH = "compared_with"
"""Detail of the ledger: which model that is; missing where there is none."""


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
        wanted, kept = night.config.evaluate.champion_metric, kept_fit(night)
        rows = compared(night) if kept is None else {kept.model: kept.rows[COMPARISON]}
        candidates: dict[str, ListMaker] = {}
        if kept is None:
            candidates |= {name: load(row) for name, row in rows.items()}
        else:
            candidates[kept.model] = folded(night, record, kept, COMPARISON, KNOWN_BEFORE[TEST])
        popular: Any = candidates.get(POPULAR) or fit(night, record, POPULAR, [TRAIN])
        held = night.held_out().persist()
        try:
            # a kept model is the champion already, and knows the validation part
            chosen = (
                [] if kept is not None else accuracy_on_validation(night, record, held, candidates, popular)
            )
            champion = kept.model if kept is not None else champion_of(chosen, wanted, list(candidates))
            models = {**candidates, **_others(night, record, popular)}
            judged, by_segment, seconds = judge_on_test(night, record, held, models, popular)
        finally:
            held.unpersist()
        metrics = (
            [MetricRow(VALIDATION, m) for m in chosen] + [MetricRow(TEST, m) for m in judged] + by_segment
        )
        record.versions_written["metrics"] = write_metrics(night, metrics)
        record.counts["metrics"] = len(metrics)
        value = _values(judged, wanted)[champion]
        record.details |= {"champion": champion, "metric": wanted, "value": f"{value:.6f}"}
        if kept is None:
            measured = {VALIDATION: _values(chosen, wanted), TEST: _values(judged, wanted)}
            of_path = {
                row["path"]: {f"{part} {wanted}": values[name] for part, values in measured.items()}
                | {LISTS_SECONDS: seconds[name]}
                for name, row in rows.items()
            }
            set_metrics(night.lake, of_path)
        log_models(night, list(rows.values()), metrics, champion)
        _say(champion, wanted, metrics)


def _say(champion: str, wanted: str, metrics: list[MetricRow]) -> None:
    """One line of how the champion did, and one of the users that were folded in to it."""
    metric, k = wanted.split("@")
    found = {
        (row.part, row.segment): row.measured
        for row in metrics
        if (row.measured.model, row.measured.metric, row.measured.k) == (champion, metric, int(k))
    }
    told = [
        f"{found[part, EVERYONE].value:.4f} on {part}"
        for part in (VALIDATION, TEST)
        if (part, EVERYONE) in found
    ]
    progress_line(f"  champion: {champion}, {wanted} = {', '.join(told)}")
    new = found.get((TEST, f"{FIT}=folded_in"))
    if new is not None:
        progress_line(f"  {new.users:,} test users are folded in: {wanted} = {new.value:.4f} of theirs")


def champion_of(metrics: list[MetricValue], wanted: str, order: list[str]) -> str:
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
    return max(order, key=lambda name: values[name])


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
    others = {BASELINE: popular if stored is None else load(stored)}
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
