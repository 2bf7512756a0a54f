"""Nights between two fits: the last fit is kept, and users whose ratings have changed are folded in to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError
from recsys_spark.histories import rows_of
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.blend import BlendModel
from recsys_spark.models.ranker_model import RankerModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.fitted import COMPARISON, POPULAR, SERVING, load
from recsys_spark.pipeline.night import Night
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, RATING, USER

KEPT = "kept"
"""Detail of the ledger's row of ``train``: the run whose fit is kept."""


class ListMaker(Protocol):
    """What makes lists: a model, or one with users folded in."""

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """As :meth:`RecommenderModel.recommend_lists`."""

    def with_reasons(self, lists: DataFrame) -> DataFrame:
        """As :meth:`RecommenderModel.with_reasons`."""


@dataclass(frozen=True)
class Kept:
    """An earlier night's fit.

    Attributes
    ----------
    rows : purpose (``comparison``, ``serving``) → row of ``models``
    """

    rows: dict[str, dict[str, Any]]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.rows[SERVING]["model"])


@dataclass(frozen=True)
class Folded:
    """A kept model, and the same with other users, from their histories.

    Attributes
    ----------
    kept, folded_in : RecommenderModel
        For users whose ratings are as they were, and for the others.
    users : DataFrame
        ``user``: the others.
    """

    kept: RecommenderModel
    folded_in: RecommenderModel
    users: DataFrame

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """As :meth:`RecommenderModel.recommend_lists`.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        same = self.kept.recommend_lists(users.join(self.users, USER, "left_anti"), request)
        changed = self.folded_in.recommend_lists(users.join(self.users, USER, "left_semi"), request)
        columns = [name for name in same.columns if name in changed.columns]
        return same.select(columns).unionByName(changed.select(columns))

    def with_reasons(self, lists: DataFrame) -> DataFrame:
        """As :meth:`RecommenderModel.with_reasons`.

        Parameters
        ----------
        lists : DataFrame
            Of :meth:`recommend_lists`.
        """
        if not isinstance(self.kept, BlendModel):
            return self.kept.with_reasons(lists)
        others, changed = self.users.select(F.col(USER).alias("id")), cast(BlendModel, self.folded_in)
        every = self.kept.copy()
        same = self.kept.histories.join(others, "id", "left_anti")
        every.histories = same.unionByName(changed.histories.select(same.columns))
        return every.with_reasons(lists)


def fit_to_keep(night: Night) -> str | None:
    """The run whose fit this night keeps; None where it is time to fit again. What speaks for it is said.

    Parameters
    ----------
    night : Night
        The run.
    """
    every = night.config.recommend.refit_every
    if every == 1:
        return None
    published = night.lake.collect("models", {"purpose": [SERVING], "state": ["champion", "retired"]})
    first = night.run_date - timedelta(days=every)
    recent = [row for row in published if first < row["run_date"] < night.run_date]
    last = max(recent, key=lambda row: (row["run_date"], row["run_id"]), default=None)
    if last is None:
        return None
    why_not = _why_not(night, last)
    if why_not is not None:
        progress_line(f"  all models are fitted again: {why_not}")
        return None
    next_fit = last["run_date"] + timedelta(days=every)
    progress_line(f"  {last['model']} of {last['run_date']} is kept; the next fit is due on {next_fit}")
    return str(last["run_id"])


def _why_not(night: Night, last: Mapping[str, Any]) -> str | None:
    """Why a fit cannot be kept although it is recent enough."""
    if last["model"] not in night.config.models:
        return f"{last['model']} of {last['run_date']} is no longer among models"
    if last["model"] == POPULAR:
        return "popular items, which are served, are counted each night"
    able = night.estimator(last["model"]).makes_models_that_fold_in
    events = night.config.split.repeats and issubclass(REGISTRY[last["model"]].model, RankerModel)
    if events or not (able and REGISTRY[last["model"]].model.folds_in):
        return f"{last['model']} of {last['run_date']} cannot fold users in"
    if last["split"] != night.split_described():
        return "the split is another"
    if last["params"] != night.params_described(last["model"]):
        return f"parameters of {last['model']} have changed"
    return None


def kept_fit(night: Night) -> Kept | None:
    """The fit that this night's train step kept, if it did.

    Parameters
    ----------
    night : Night
        The run.

    Raises
    ------
    LakeError
        Training has not been done for this date, or the kept models are gone.
    """
    run_id = night.ledger.last_done("train")["details"].get(KEPT)
    if run_id is None:
        return None
    asked = {"run_id": [run_id], "state": ["champion", "retired"], "purpose": [COMPARISON, SERVING]}
    rows = {row["purpose"]: row for row in night.lake.collect("models", asked)}
    if len(rows) < 2:
        raise LakeError(f"the models of run {run_id}, which {night.run_date} keeps, are gone: train it again")
    return Kept(rows)


def folded(night: Night, record: StepRecord, kept: Kept, purpose: str, parts: Sequence[str]) -> Folded:
    """A kept model with the users folded in whose ratings have changed since it was fitted.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself: the version of ``users`` that it names is read, or the newest, which is
        added.
    kept : Kept
        The earlier fit.
    purpose : str
        ``comparison`` or ``serving``.
    parts : sequence of str
        Whose ratings may be shown to the model, as :meth:`Night.rated` takes them.
    """
    row = kept.rows[purpose]
    model: Any = load(row)
    users = _changed_users(night, row).persist()
    histories = rows_of(night.fitted_on(row["model"], *parts)).join(users, USER, "left_semi")
    features: dict[str, DataFrame] = {}
    if "user" in night.estimator(row["model"]).feature_columns():
        version = record.versions_read.setdefault("users", night.lake.version("users"))
        features["userFeatures"] = night.lake.read("users", version)
    return Folded(model, model.foldIn(histories, RATING, **features), users)


def _changed_users(night: Night, row: Mapping[str, Any]) -> DataFrame:
    """``user``: who has a rating now that was not there, or was another, when the model was fitted."""
    columns = [USER, ITEM, RATING]
    now = night.stored_ratings(night.ratings_version(), night.run_date).select(columns)
    then = night.stored_ratings(row["ratings_version"], row["run_date"]).select(columns)
    return now.join(then, columns, "left_anti").select(USER).distinct()
