"""What the steps of a night share: session, tables, ledger, pinned data."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config, FileSource, config_problem
from recsys_spark.console import progress_line, working
from recsys_spark.data.events import as_of, end_of, pair_worths
from recsys_spark.data.repeats import BEGINS, Consumption, leaving_out
from recsys_spark.data.split import split_ratings
from recsys_spark.errors import ConfigError, LakeError
from recsys_spark.evaluation.held_out import held_out
from recsys_spark.histories import LEFT_OUT, PARTS, PackedHistories, pack_histories
from recsys_spark.lakehouse.ledger import Ledger, StepRecord
from recsys_spark.lakehouse.locks import Lock
from recsys_spark.lakehouse.tables import Lakehouse, lost_files
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.models.registry import REGISTRY, build
from recsys_spark.pipeline import STEP_NAMES
from recsys_spark.pipeline.details import AFTER, HISTORIES, SETTINGS
from recsys_spark.pipeline.kept_histories import drop_histories, keep_histories, kept_histories
from recsys_spark.pipeline.resume import settings_of, steps_of, unfinished
from recsys_spark.redaction import without_secrets
from recsys_spark.schema import EVENT, FOLD_IN, ITEM, PART, TEST, TIMESTAMP, TRAIN, USER, VALIDATION
from recsys_spark.session import keep_classes

FIRST_ZONE = timedelta(hours=14)
"""How far ahead of UTC the first place is where a day comes."""

KNOWN_BEFORE = {VALIDATION: (TRAIN, FOLD_IN), TEST: (TRAIN, FOLD_IN, VALIDATION)}
"""Held-out part → the parts that may be shown to a model before it."""

CLOCKS_DIFFER = timedelta(minutes=1)
"""How much the clocks of machines that write to one lake may differ."""


def check_models(config: Config) -> None:
    """Check every configured model's parameters, and that it can be measured by the configured split. Needs
    no session.

    Parameters
    ----------
    config : Config
        The whole configuration.

    Raises
    ------
    ConfigError
        Key path, what was given, what is allowed.
    """
    source = config.ingest.source
    for name in config.models:
        estimator = estimator_of(config, name)
        if config.split.repeats:
            try:
                estimator.check_repeats()
            except ValueError as error:
                raise ConfigError(f"{config.origin}: {name} with split.repeats: {error}") from None
        for side, columns in estimator.feature_columns().items():
            if isinstance(source, FileSource):
                table = source.users if side == "user" else source.items
                known = table.features if table is not None else []
                unknown = [column for column in columns if column not in known]
                if unknown:
                    key, allowed = f"{name}.{side}FeatureCols", f"features of ingest.source.{side}s: {known}"
                    raise ConfigError(config_problem(config.origin, key, unknown, allowed))
    fixed = [name for name in config.models if not REGISTRY[name].model.scores_new_users]
    if config.split.method == "holdout_users" and fixed:
        allowed = f"with models that score users they were not fitted on, which {', '.join(fixed)} cannot"
        raise ConfigError(config_problem(config.origin, "split.method", "holdout_users", allowed))


def estimator_of(config: Config, name: str) -> RecommenderEstimator:
    """A new estimator of the configured model ``name``.

    Parameters
    ----------
    config : Config
        The whole configuration.
    name : str
        One of ``models``.
    """
    params = config.params.get(name, {})
    estimator = build(name, params, config.seed, config.origin, config.ingest.has_events)
    if estimator.chooses_on_validation and "metric" not in params:
        estimator.set(estimator.getParam("metric"), config.evaluate.champion_metric)
    return estimator


def redacted(config: Config) -> str:
    """The resolved configuration as JSON, with what looks like a secret masked.

    Parameters
    ----------
    config : Config
        The whole configuration.
    """
    return json.dumps(without_secrets(config.model_dump(mode="json")))


@dataclass
class Night:
    """One run for one date. Steps reach the session, the tables, the ledger and the pinned data through it.

    Parameters
    ----------
    spark : SparkSession
        With Delta.
    config : Config
        The whole configuration.
    run_date : date
        The night.
    run_id : str
        Unique to this run.
    pinned : dict or None
        Table → the version of it that every step after the split reads: of ``ratings``, and of ``events``
        where they are kept; None until it is known.
    """

    spark: SparkSession
    config: Config
    run_date: date
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    pinned: dict[str, int] | None = None

    def __post_init__(self) -> None:
        """Check the configured models and open the lake; nothing is read or written."""
        check_models(self.config)
        self.lake = Lakehouse(self.spark, self.config.lake, self.config.retention)
        self.ledger = Ledger(self.lake, self.run_id, self.run_date, redacted(self.config))
        self._packed: dict[str, PackedHistories] = {}
        self._consumed: dict[tuple[str, ...] | None, Consumption] = {}
        self._split_row: dict[str, Any] | None = None
        self._lock: Lock | None = None

    def estimator(self, name: str) -> RecommenderEstimator:
        """A new estimator of the configured model ``name``.

        Parameters
        ----------
        name : str
            One of ``models``.

        Raises
        ------
        ConfigError
            A parameter is unknown, of the wrong type or out of range.
        """
        return estimator_of(self.config, name)

    @contextmanager
    def step(self, name: str) -> Iterator[StepRecord]:
        """Run a block as a step: shown while it runs, and recorded in the ledger. After the last one of the
        night what was kept for the others is removed.

        Parameters
        ----------
        name : str
            Name of the step.

        Yields
        ------
        StepRecord
            Counts, details and versions, which the block fills in.

        Raises
        ------
        LakeError
            An earlier step of this date failed or died when it was run last, or another run of it has taken
            the lock over.
        """
        with self.ledger.remembering():
            newest = self.ledger.newest()
            broken = unfinished(name, newest)
            if broken is not None:
                raise LakeError(
                    f"step {broken!r} of {self.run_date} {newest[broken]['state']} when it was run last "
                    f"({newest[broken]['error']}): run it again before {name!r}"
                )
            if self._lock is not None:
                self._lock.require()
            with working(name), self.ledger.step(name) as record:
                if name in STEP_NAMES:
                    record.details |= self._told_apart(name, newest)
                try:
                    yield record
                except (PySparkException, Py4JJavaError) as error:
                    lost = lost_files(error)
                    if lost is None:
                        raise
                    raise lost from error
            self.drop_kept_after(name)

    def drop_kept_after(self, name: str) -> None:
        """Remove the histories that were kept for the steps of this date, where a step is the last of them.

        Parameters
        ----------
        name : str
            A step that is done, or that is left out.
        """
        if name == steps_of(self.config)[-1]:
            drop_histories(self.lake, self.ledger.of_step("split"))

    def _told_apart(self, name: str, newest: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """What tells one run of a step from another, for a later run to see whether it still holds."""
        told = {SETTINGS: settings_of(self.config, name)}
        steps = steps_of(self.config)
        at = steps.index(name) if name in steps else 0
        if at > 0 and steps[at - 1] in newest:
            told[AFTER] = newest[steps[at - 1]]["run_id"]
        return told

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs of this date out, and record as ``died`` what others of them left running.

        Yields
        ------
        None
            While nobody else works on the date.

        Raises
        ------
        LakeError
            Another run of this date is going on; who, where and since when. Or :meth:`require_ready` says so.
        """
        self.require_ready()
        named = self.run_date.isoformat()
        with Lock(self.lake, named, self.run_id) as lock, self.ledger.remembering():
            for what in self.ledger.close_died():
                progress_line(f"{what} had died")
            self._lock = lock
            try:
                yield
            finally:
                self._lock = None
        keep_classes()

    def require_ready(self) -> None:
        """Check, before anything is written, the run date, the clock and the tables that exist.

        Raises
        ------
        LakeError
            The date is nowhere on earth yet, or this machine's clock is behind what has been written. A
            column of a table is gone, or it takes appended rows only.
        """
        now = datetime.now(UTC)
        if self.run_date > (now + FIRST_ZONE).date():
            raise LakeError(
                f"run date {self.run_date} is in the future, and the clock of this machine says "
                f"{now:%Y-%m-%d %H:%M} UTC: run it when the day has come, or set the clock"
            )
        if self.lake.exists("runs"):
            last = self.lake.last_written("runs")
            if last > now + CLOCKS_DIFFER:
                raise LakeError(
                    f"the clock of this machine says {now:%Y-%m-%d %H:%M:%S} UTC, and a run has written to "
                    f"the lake at {last:%Y-%m-%d %H:%M:%S} UTC: set the clock"
                )
        self.lake.require_writable()

    def versions(self) -> dict[str, int]:
        """Table → its version that this date's split pinned.

        Raises
        ------
        LakeError
            The split has not been done for this date, or it was done with other settings.
        """
        if self.pinned is None:
            done = self.ledger.last_done("split")
            if done["details"]["split"] != self.split_described():
                raise LakeError(
                    f"the split of {self.run_date} was done as {done['details']['split']}, and the "
                    f"configuration says {self.split_described()}: run the split step again, and all after it"
                )
            self.pinned, self._split_row = done["versions_read"], done
        return self.pinned

    def ratings_version(self) -> int:
        """Version of ``ratings`` that this date's split pinned; raises as :meth:`versions`."""
        return self.versions()["ratings"]

    def split_described(self) -> str:
        """The split's settings and seed: steps of one date must agree on them."""
        return json.dumps({**self.config.split.model_dump(), "seed": self.config.seed}, sort_keys=True)

    def params_described(self, model: str) -> str:
        """The parameters of a model as JSON.

        Parameters
        ----------
        model : str
            One of ``models``.
        """
        values = self.estimator(model).extractParamMap()
        return json.dumps({param.name: value for param, value in values.items()}, sort_keys=True)

    def pin(self, versions: Mapping[str, int]) -> None:
        """Read tables at these versions from now on.

        Parameters
        ----------
        versions : mapping of str to int
            Table → version.
        """
        self.pinned, self._split_row = dict(versions), None
        for packed in self._packed.values():
            packed.unpersist()
        self._packed.clear()
        self._consumed.clear()

    def stored_ratings(self, version: int, run_date: date) -> DataFrame:
        """The rows of ``ratings`` at a version, until a run date; of derived ones also those that are worth
        nothing on it.

        Parameters
        ----------
        version : int
            Version of the table.
        run_date : date
            The night.
        """
        return _until(self.lake.read("ratings", version), run_date)

    def ratings(self) -> DataFrame:
        """All ratings at the pinned version, until the run date; of derived ones those that are worth
        something on it.
        """
        rows = self.stored()
        settings = self.config.ingest
        return as_of(rows, settings.events, self.run_date) if settings.has_events else rows

    def pairs(self) -> PackedHistories:
        """The pairs of the pinned ratings until the run date, also those that are worth nothing on it, with
        their part of the split; packed by the step that asks first, or by the split in another process. With
        ``split.repeats`` those that are rated are all of part ``train``.
        """
        self.versions()  # and so the split that pinned them
        if "pairs" not in self._packed and self._split_row is not None:
            kept = kept_histories(self.lake, self.config, self._split_row)
            if kept is not None:
                self._packed["pairs"] = kept
        return self._kept("pairs", self._in_parts)

    def keep_packed(self, record: StepRecord) -> None:
        """Write the packed pairs beside the models, for steps in other processes, until the night's last step
        is done. With ``split.repeats`` nothing is kept: the split packs other rows.

        Parameters
        ----------
        record : StepRecord
            Of the split.
        """
        drop_histories(self.lake, self.ledger.of_step("split"))
        if not self.config.split.repeats:
            record.details[HISTORIES] = keep_histories(self.lake, self.config, self.run_id, self.pairs())

    def held_out(self) -> DataFrame:
        """What is held out of each user, as :func:`~recsys_spark.evaluation.held_out.held_out` has it."""
        return held_out(self.parts(), self.config.evaluate.min_rating)

    def parts(self) -> PackedHistories:
        """All ratings with their part of the split. With ``split.repeats`` a pair is in each part in which it
        has events, rated by these, but not where it could not have been listed.
        """
        if not self.config.split.repeats:
            return self.rated()
        return self._kept("parts", lambda: self._consumption().in_parts(VALIDATION, TEST))

    def rated(self, *parts: str) -> PackedHistories:
        """The ratings of some parts; with ``split.repeats`` what was rated when the first other part began.

        Parameters
        ----------
        *parts : str
            ``train``, ``fold_in``, ``validation``, ``test``; all where none is given. With ``split.repeats``
            from the first on.

        Raises
        ------
        ValueError
            There is ``split.repeats``, and ``train`` is not among the parts.
        """
        if not self.config.split.repeats:
            return self.pairs().of(*(parts or PARTS))
        if parts and TRAIN not in parts:
            raise ValueError(f"what was rated begins with the training part, got {', '.join(parts)}")
        after = _first_after(parts)
        if after is None:
            return self.pairs().of(*PARTS)
        return self._kept(after, lambda: self._trained_on(after))

    def known_before(self, part: str) -> PackedHistories:
        """What may be shown to a model before a held-out part, the ratings of :data:`KNOWN_BEFORE`.

        Parameters
        ----------
        part : str
            ``validation`` or ``test``.
        """
        return self.rated(*KNOWN_BEFORE[part])

    def seen(self, part: str | None = None) -> PackedHistories | DataFrame | None:
        """What lists leave out, as the configuration's ``exclude_seen`` has it: all that is known, ``user``,
        ``item`` of what was seen of late or has an event of the types that count as seeing, or nothing.

        Parameters
        ----------
        part : str, optional
            ``validation`` or ``test``: lists that are made when it begins, before which all counts that was
            ever seen, unless there is ``split.repeats``. Without it, lists of the run date.
        """
        asked, days = self.config.recommend.exclude_seen, self.config.recommend.seen_days
        if part is not None and self.config.split.repeats:
            return self._consumption().seen_before(part)
        if asked is False:
            return None
        known = self.pairs() if part is None else self.known_before(part)
        if asked is True and (part is not None or days is None):
            return known
        rows = self._events(asked) if isinstance(asked, list) else self.stored()
        if part is None and days is not None:
            rows = rows.where(self.of_last(days))
        return known.rows(USER, ITEM).join(rows, [USER, ITEM], "left_semi")

    def of_last(self, days: int) -> Column:
        """Condition over ``timestamp`` of the last days, the run date the last of them.

        Parameters
        ----------
        days : int
            How many.
        """
        return F.col(TIMESTAMP) >= F.lit(end_of(self.run_date) - timedelta(days=days))

    def fitted_on(self, model: str, *parts: str) -> PackedHistories | DataFrame:
        """What a model is fitted on: the ratings of some parts, or those with events of the types that the
        configuration's ``history`` has for it, rated by these events alone.

        Parameters
        ----------
        model : str
            One of ``models``.
        *parts : str
            As :meth:`rated` takes them.
        """
        types = self.config.history.get(model)
        if types is None:
            return self.rated(*parts)
        if self.config.split.repeats:
            return self._worth(self.consumption(model, *parts).events)
        return self.rated(*parts).rows(USER, ITEM).join(self._worth(self._events(types)), [USER, ITEM])

    def consumption(self, model: str, *parts: str) -> Consumption:
        """The events that a model is fitted on, with ``split.repeats``.

        Parameters
        ----------
        model : str
            One of ``models``.
        *parts : str
            As :meth:`rated` takes them.
        """
        every, after = self._consumption(self.config.history.get(model)), _first_after(parts)
        return every if after is None else every.before(after)

    def stored(self) -> DataFrame:
        """The pinned ratings until the run date, also those that are worth nothing on it."""
        return self.stored_ratings(self.ratings_version(), self.run_date)

    def _kept(self, name: str, rows: Callable[[], DataFrame]) -> PackedHistories:
        """Rows that are packed when they are first asked for."""
        if name not in self._packed:
            most = self.lake.read("ratings", self.ratings_version()).count()
            self._packed[name] = pack_histories(rows(), most)
        return self._packed[name]

    def _events(self, types: Sequence[str] | None = None) -> DataFrame:
        """The events of some types, or of all, until the run date, at the pinned version."""
        events = self.lake.read("events", self.versions()["events"])
        if types is not None:
            events = events.where(F.col(EVENT).isin(*types))
        return _until(events, self.run_date)

    def _worth(self, events: DataFrame) -> DataFrame:
        """The pairs of some events that these make worth something on the run date."""
        settings = self.config.ingest.events
        return as_of(pair_worths(events, settings, self.run_date), settings, self.run_date)

    def _trained_on(self, after: str) -> DataFrame:
        """The pairs that were rated when a held-out part began, all of part ``train``."""
        return self._worth(self._consumption().before(after).events).withColumn(PART, F.lit(TRAIN))

    def _consumption(self, types: Sequence[str] | None = None) -> Consumption:
        """The events of some types, or of all, which know when the held-out parts begin."""
        named = None if types is None else tuple(types)
        if named not in self._consumed:
            self._consumed[named] = self._divided(types)
        return self._consumed[named]

    def _divided(self, types: Sequence[str] | None) -> Consumption:
        how, recommend = self.config.split, self.config.recommend
        parts = split_ratings(self.ratings(), how, self.config.seed)
        events = self._events(types)
        if how.min_user_ratings > 1 or how.min_item_ratings > 1:
            events = events.join(parts.select(USER, ITEM), [USER, ITEM], "left_semi")
        left_out = leaving_out(recommend.exclude_seen, recommend.seen_days)
        return Consumption(events, self._worth, left_out).divided(parts, how.method == "leave_last")

    def _in_parts(self) -> DataFrame:
        """The pairs of the pinned ratings with their rating and part."""
        ratings, how = self.ratings(), self.config.split
        if how.repeats:
            rows = ratings.withColumn(PART, F.lit(TRAIN))
            return self.stored().select(USER, ITEM).join(rows, [USER, ITEM], "left")
        rows = split_ratings(ratings, how, self.config.seed)
        if how.min_user_ratings > 1 or how.min_item_ratings > 1:
            parts = rows.select(USER, ITEM, PART)
            rows = ratings.join(parts, [USER, ITEM], "left").fillna(LEFT_OUT, [PART])
        if self.config.ingest.has_events:  # and those that are worth nothing on the run date
            rows = self.stored().select(USER, ITEM).join(rows, [USER, ITEM], "left")
        return rows


def _first_after(parts: Sequence[str]) -> str | None:
    """The held-out part that begins when some parts, or all where none is given, have ended."""
    return next((part for part in BEGINS if parts and part not in parts), None)


def _until(rows: DataFrame, run_date: date) -> DataFrame:
    """Rows until the end of a run date: a backfill does not know what later nights have brought."""
    return rows.where(F.col(TIMESTAMP).isNull() | (F.col(TIMESTAMP) < F.lit(end_of(run_date))))
