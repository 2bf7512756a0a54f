"""The models behind what is shown: found by the ledger, and read without Spark."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date
from typing import Any

from recsys_spark.config import Config
from recsys_spark.data.events import end_of
from recsys_spark.errors import LakeError
from recsys_spark.inspection.reasons import reasons
from recsys_spark.inspection.saved import SavedModel, SavedPairs, open_model
from recsys_spark.lakehouse.reader import Reader
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.members import MemberParams
from recsys_spark.models.pair_model import NeighborModel
from recsys_spark.models.persistence import member_path
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.details import PATHS
from recsys_spark.pipeline.show import BECAUSE
from recsys_spark.pipeline.show_runs import ledger_rows
from recsys_spark.schema import EVENT, ITEM, RANK, RATING, TIMESTAMP, USER


class SavedModels:
    """The models of a lake, each opened once.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    config : Config
        The whole configuration.
    """

    def __init__(self, reader: Reader, config: Config) -> None:
        self.reader, self.config = reader, config
        self._opened: dict[tuple[date, str, str | None], SavedModel | SavedPairs | None] = {}

    def of(self, run_date: date, name: str, member: str | None = None) -> SavedModel | SavedPairs | None:
        """A model of a date's lists, or of its neighbours; or a member of it.

        Parameters
        ----------
        run_date : date
            The night.
        name : str
            Name of the model.
        member : str, optional
            Name of the member.

        Returns
        -------
        SavedModel or SavedPairs or None
            None for a model without vectors or weights of pairs, as popularity.

        Raises
        ------
        LakeError
            The date has no lists, or the model's files are gone.
        """
        key = run_date, name, member
        if key not in self._opened:
            self._opened[key] = _opened(self.reader, *key)
        return self._opened[key]

    def knows_ratings(self, name: str) -> bool:
        """Whether a model was fitted on the ratings as the table has them: not of some types of events alone,
        and with nothing that fades or is capped when it is read.

        Parameters
        ----------
        name : str
            Name of the model.
        """
        events = self.config.ingest.events
        return name not in self.config.history and events.half_life is None and events.cap is None

    def fitted_on(
        self, name: str, history: Sequence[dict[str, Any]], run_date: date
    ) -> Sequence[dict[str, Any]]:
        """The part of a history that a model was fitted on.

        Parameters
        ----------
        name : str
            Name of the model.
        history : sequence of dict
            A user's ratings: ``user``, ``item``, ``timestamp``.
        run_date : date
            The night.
        """
        end = end_of(run_date)
        known = [row for row in history if row[TIMESTAMP] is None or row[TIMESTAMP] < end]
        types = self.config.history.get(name)
        if types is None or not known:
            return known
        of_types: dict[str, Collection[object]] = {USER: [known[0][USER]], EVENT: types}
        events = self.reader.rows("events", [ITEM, TIMESTAMP], of_types).to_pylist()
        items = {row[ITEM] for row in events if row[TIMESTAMP] is None or row[TIMESTAMP] < end}
        return [row for row in known if row[ITEM] in items]


def neighbors_model(reader: Reader, run_date: date) -> tuple[str, SavedModel | SavedPairs]:
    """The model that a date's neighbours are found by, and its name: that of its ``similar_items``,
    or where there are none the champion.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    run_date : date
        The night.

    Raises
    ------
    LakeError
        The date has no lists, the model's files are gone, or it has neither vectors nor weights.
    """
    name = None
    if reader.schema("similar_items") is not None:
        names = reader.rows("similar_items", ["model"], {"run_date": [run_date], RANK: [1]})["model"].unique()
        name = names[0].as_py() if len(names) else None
    name = name or str(_done(reader, run_date, "recommend")[-1]["details"]["champion"])
    saved = _opened(reader, run_date, name)
    if saved is None:
        raise LakeError(f"{name} made the lists of {run_date}, and to it nothing is like another")
    return name, saved


def _opened(
    reader: Reader, run_date: date, name: str, member: str | None = None
) -> SavedModel | SavedPairs | None:
    if member is not None and member not in REGISTRY:  # of a slot that was drawn, no member is the reason
        return None
    kind = REGISTRY[member or name].model
    if not issubclass(kind, (FactorModel, NeighborModel)):
        return None
    path = path_of(reader, run_date, name)
    if member is not None:
        path = member_path(path, member)
    return open_model(kind, reader.model_metadata(path), path, reader.model_frame)


def _done(reader: Reader, run_date: date, step: str) -> list[dict[str, Any]]:
    """Rows of the ledger of a date's finished step, the oldest first."""
    rows = ledger_rows(reader, {"run_date": [run_date], "state": ["done"], "step": [step]})
    if not rows:
        raise LakeError(f"step {step!r} has not been done for run date {run_date}: run the night first")
    return rows


def path_of(reader: Reader, run_date: date, name: str) -> str:
    """Where a model of a date is: one that made the lists, or else the newest that was compared.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    run_date : date
        The night.
    name : str
        Name of the model.

    Raises
    ------
    LakeError
        The date has no lists, or the model is gone.
    """
    by_purpose: dict[str, str] = json.loads(_done(reader, run_date, "recommend")[-1]["details"][PATHS])
    columns = ["path", "model", "purpose", "run_id"]
    of_lists = reader.rows("models", columns, {"path": list(by_purpose.values())}).to_pylist()
    of_lists.sort(key=lambda row: row["purpose"] == "serving")
    paths = [str(row["path"]) for row in of_lists if row["model"] == name]
    if not paths:
        of_date: dict[str, Collection[object]] = {
            "run_date": [run_date],
            "purpose": ["comparison"],
            "model": [name],
        }
        compared = {row["run_id"]: row["path"] for row in reader.rows("models", columns, of_date).to_pylist()}
        trained = [row["run_id"] for row in _done(reader, run_date, "train")]
        paths = [compared[run_id] for run_id in trained if run_id in compared]
    if not paths:
        raise LakeError(f"{name} of {run_date} is gone: recsys maintain removes old models")
    return paths[-1]


def add_reasons(
    models: SavedModels, run_date: date, history: Sequence[dict[str, Any]], listed: Sequence[dict[str, Any]]
) -> None:
    """Add to a user's recommendations the items of the history that add most to each score.

    Parameters
    ----------
    models : SavedModels
        Of the lake.
    run_date : date
        The night of the lists.
    history : sequence of dict
        All of the user's ratings: ``user``, ``item``, ``rating``, ``timestamp``; those after the run date are
        left out.
    listed : sequence of dict
        The user's recommendations: ``item``, ``model``, ``reason``; gets ``because``, a list of ``item`` and
        ``contribution``, the largest first. It is empty for popular items. Of a model of others it is what
        the member has that the row's reason names. There is no contribution where it would be to a member's
        score, or the model was fitted on other ratings than those of the table: of some types of events,
        faded or capped.
    """
    by_model: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in listed:
        made_of_others = issubclass(REGISTRY[row["model"]].model, MemberParams)
        by_model.setdefault((row["model"], row["reason"] if made_of_others else None), []).append(row)
    for (name, member), of_model in by_model.items():
        saved = models.of(run_date, name, member)
        wanted = [row[ITEM] for row in of_model]
        known = models.fitted_on(name, history, run_date)
        items, ratings = [row[ITEM] for row in known], [row[RATING] for row in known]
        found = [[] for _ in of_model] if saved is None else reasons(saved, items, ratings, wanted)
        for row, of_item in zip(of_model, found, strict=True):
            told = [reason._asdict() for reason in of_item if reason.item != row[ITEM]]
            exact = member is None and models.knows_ratings(name)
            row[BECAUSE] = told if exact else [{**reason, "contribution": None} for reason in told]
