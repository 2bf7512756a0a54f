"""What the steps of a night share: session, tables, ledger, pinned data."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config, config_problem
from recsys_spark.console import working
from recsys_spark.data.split import FOLD_IN, PART, TEST, TRAIN, split_ratings
from recsys_spark.errors import ConfigError
from recsys_spark.lakehouse.ledger import Entry, Ledger
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.models.registry import REGISTRY, build


def check_models(config: Config) -> None:
    """Check every configured model's parameters, and that it can be measured by the configured split. Needs no session.

    Raises
    ------
    ConfigError
        Key path, what was given, what is allowed.
    """
    for name in config.models:
        estimator_of(config, name)
    fixed = [name for name in config.models if not REGISTRY[name].model.scores_new_users]
    if config.split.method == "strong" and fixed:
        allowed = f"with models that score users they were not fitted on, which {', '.join(fixed)} cannot"
        raise ConfigError(config_problem(config.origin, "split.method", "strong", allowed))


def estimator_of(config: Config, name: str) -> RecommenderEstimator:
    """A new estimator of the configured model ``name``."""
    return build(name, config.params.get(name, {}), config.seed, config.origin)


@dataclass
class Night:
    """One run for one date. Steps reach the session, the tables, the ledger and the pinned data through it.

    Attributes
    ----------
    run_id : unique to this run
    pinned : version of ``ratings`` that every step after the split reads; None until it is known
    """

    spark: SparkSession
    config: Config
    run_date: date
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    pinned: int | None = None

    def __post_init__(self) -> None:
        """Check the configured models and open the lake; nothing is read or written."""
        check_models(self.config)
        self.lake = Lakehouse(self.spark, self.config.lake)
        self.ledger = Ledger(self.lake, self.run_id, self.run_date, self.config.model_dump_json())
        self._parts: DataFrame | None = None

    def estimator(self, name: str) -> RecommenderEstimator:
        """A new estimator of the configured model ``name``.

        Raises
        ------
        ConfigError
            A parameter is unknown, of the wrong type or out of range.
        """
        return estimator_of(self.config, name)

    @contextmanager
    def step(self, name: str) -> Iterator[Entry]:
        """Run a block as a step: shown while it runs, and recorded in the ledger."""
        with working(name), self.ledger.step(name) as entry:
            yield entry

    def ratings_version(self) -> int:
        """Version of ``ratings`` that this date's split pinned.

        Raises
        ------
        LakeError
            The split has not been done for this date.
        """
        if self.pinned is None:
            self.pinned = int(self.ledger.last_done("split")["versions_read"]["ratings"])
        return self.pinned

    def ratings(self) -> DataFrame:
        """All ratings at the pinned version."""
        return self.lake.read("ratings", self.ratings_version())

    def parts(self) -> DataFrame:
        """Ratings of the pinned version with their ``part``; kept in memory for the steps of this process."""
        if self._parts is None:
            self._parts = split_ratings(self.ratings(), self.config.split, self.config.seed).persist()
        return self._parts

    def part(self, name: str) -> DataFrame:
        """The ratings of one part: ``train``, ``fold_in`` or ``test``."""
        return self.parts().where(F.col(PART) == name)

    def known(self) -> DataFrame:
        """What may be shown to a model before the test: ``train`` and ``fold_in``."""
        return self.parts().where(F.col(PART).isin(TRAIN, FOLD_IN))

    def held_out(self) -> DataFrame:
        """The test part."""
        return self.part(TEST)
