"""What the estimators and models that are trained by gradients have in common: side features, training,
what a fit keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type

from recsys_spark.columns import column_of, id_column, shown
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, rows_of
from recsys_spark.kernels.network import ACTIVATIONS
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.featured import SIDES, FeaturedEstimator
from recsys_spark.models.gradient_params import GradientParams, NetworkParams
from recsys_spark.params import check_interval, check_ranges
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.barrier import id_types_of
from recsys_spark.training.gradient.job import GradientFit, TrainingData, fit_gradient
from recsys_spark.training.gradient.program import GradientOutcome, GradientProgram
from recsys_spark.training.gradient.steps import SCHEDULES, Epoch
from recsys_spark.training.side_features import Scales

OutcomeT = TypeVar("OutcomeT", bound=GradientOutcome)


@dataclass(frozen=True)
class TrainingSummary:
    """How a fit went.

    Parameters
    ----------
    epochs : list of Epoch
        Of every epoch its loss, that of the validation users where there are some, and its seconds.
    """

    epochs: list[Epoch]

    @property
    def objectiveHistory(self) -> list[float]:
        """Mean loss of the training steps of each epoch."""
        return [epoch.loss for epoch in self.epochs]


class GradientEstimator(FeaturedEstimator, GradientParams):
    """An estimator trained by gradients.

    Attributes
    ----------
    initialModel : GradientModel or None
        A model of the same shape to continue from.
    """

    initialModel: Any = None

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        least = {"embeddingDim": 1, "maxIter": 0, "regParam": 0, "numNegatives": 0, "popularityExponent": 0}
        least |= {"batchSize": 1, "stepSize": 0}
        check_ranges(
            self, least, {"activation": tuple(ACTIVATIONS), "schedule": SCHEDULES}, fractions=("dropout",)
        )
        if any(size < 1 for size in self.getHiddenDims()):
            raise ValueError(f"hiddenDims must be at least 1 each, got {self.getHiddenDims()}")
        check_interval(self)

    def _train(
        self,
        dataset: DataFrame | PackedHistories,
        program_type: type[GradientProgram[OutcomeT]],
        config: Any,
    ) -> tuple[GradientFit[OutcomeT], dict[str, Scales]]:
        """Result of a fit, and the scales of numeric features."""
        ratings = self._ratings(dataset)
        id_types = id_types_of(ratings)
        kinds = dict(zip(SIDES, map(from_arrow_type, id_types), strict=True))
        features, scales = self.side_entries(id_types)
        start = None
        if (
            self.initialModel is not None
        ):  # its ids as the ratings have them, or they would be sought in other tasks
            casts = {name: F.col(name).try_cast(kinds[side]) for side, name in SIDES.items()}
            start = self.initialModel.tables.withColumns(casts)
        interval = self.getCheckpointInterval()
        per_job = max(1, self.getOrDefault("maxIter")) if interval == -1 else interval
        program = program_type(config, id_types)  # type: ignore[call-arg]
        data = TrainingData(ratings, features, start)
        return fit_gradient(data, program, per_job, StorageLevel.MEMORY_AND_DISK), scales

    def _ratings(self, dataset: DataFrame | PackedHistories) -> DataFrame | PackedHistories:
        rating = self.getRatingCol()
        if isinstance(dataset, PackedHistories):
            if (self.getUserCol(), self.getItemCol(), rating) == (USER, ITEM, RATING):
                return dataset
            dataset = rows_of(dataset)
        required = self.predicts_ratings or (self.isSet("ratingCol") and rating)
        if rating not in dataset.columns and required:
            raise ModelError(f"ratingCol {rating!r} is not among the columns {shown(dataset.columns)}")
        return rating_rows(dataset, self.getUserCol(), self.getItemCol(), rating)

    def _check_initial_model(self, kind: type[GradientModel], shape: Sequence[str]) -> None:
        """Raise ``ValueError`` for an initial model of another class, or with another value of a Param of
        ``shape``.
        """
        model = self.initialModel
        if model is None:
            return
        if not isinstance(model, kind):
            raise ValueError(f"initialModel must be a {kind.__name__}, got a {type(model).__name__}")
        for name in shape:
            if model.getOrDefault(name) != self.getOrDefault(name):
                raise ValueError(
                    f"initialModel has {name} {model.getOrDefault(name)!r}, not {self.getOrDefault(name)!r}"
                )


class GradientModel(FactorModel, NetworkParams):
    """A model trained by gradients.

    Attributes
    ----------
    tables : DataFrame
        All that was learnt, as :class:`recsys_spark.training.gradient.job.GradientFit` has it.
    featureScales : dict
        Side → numeric feature column → its mean and standard deviation in the fit.
    summary : TrainingSummary or None
        Of the fit; None for a loaded model.
    """

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame, tables: DataFrame) -> None:
        super().__init__(user_factors, item_factors)
        self.tables = tables
        self.featureScales: dict[str, Scales] = {}
        self.summary: TrainingSummary | None = None

    def frames(self) -> dict[str, DataFrame]:
        """Users, items and tables."""
        return {**super().frames(), "tables": self.tables}

    def fitted_values(self) -> dict[str, Any]:
        """The global mean, and the scales of features."""
        return {**super().fitted_values(), "featureScales": self.featureScales}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames."""
        return (*super().frame_names(), "tables")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of the frames.

        Parameters
        ----------
        frames : dict
            Name of a frame → DataFrame.
        """
        return cls(frames["userFactors"], frames["itemFactors"], frames["tables"])


def rating_rows(dataset: DataFrame, user: str, item: str, rating: str | None) -> DataFrame:
    """``user, item, rating`` (float; 1 without a column of ratings).

    Parameters
    ----------
    dataset : DataFrame
        Rows with ids.
    user, item : str
        Names of the columns of ids.
    rating : str or None
        Name of the column of ratings; without it every row counts 1.
    """
    value = column_of(dataset, rating)[0] if rating and rating in dataset.columns else F.lit(1.0)
    ids = [id_column(dataset, name).alias(to) for name, to in ((user, USER), (item, ITEM))]
    return dataset.select(*ids, value.cast("float").alias(RATING))
