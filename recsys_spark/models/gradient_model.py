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
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from recsys_spark.columns import column_of, id_column, matching_id, shown
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, rows_of
from recsys_spark.kernels.network import ACTIVATIONS
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.gradient_params import GradientParams, NetworkParams
from recsys_spark.params import check_interval, check_ranges
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.barrier import id_types_of
from recsys_spark.training.gradient.job import GradientFit, TrainingData, fit_gradient
from recsys_spark.training.gradient.program import GradientOutcome, GradientProgram
from recsys_spark.training.gradient.steps import SCHEDULES, Epoch
from recsys_spark.training.side_features import Scales, check_columns, entries_of, has_scale, scales_of

OutcomeT = TypeVar("OutcomeT", bound=GradientOutcome)

SIDES = {"user": USER, "item": ITEM}
"""Sides that may have features → the column of ratings that their ids are in."""


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


class GradientEstimator(RecommenderEstimator, GradientParams):
    """An estimator trained by gradients.

    Attributes
    ----------
    initialModel : GradientModel or None
        A model of the same shape to continue from.
    userFeatures, itemFeatures : DataFrame or None
        One row per id, with the columns of :meth:`feature_columns`.
    """

    initialModel: Any = None
    userFeatures: DataFrame | None = None
    itemFeatures: DataFrame | None = None

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

    def feature_columns(self) -> dict[str, list[str]]:
        """Columns that the estimator reads features from, by side, ``user`` or ``item``; sides without
        any are not in it.
        """
        columns = {
            side: self.getOrDefault(f"{side}FeatureCols")
            for side in SIDES
            if self.hasParam(f"{side}FeatureCols")
        }
        return {side: names for side, names in columns.items() if names}

    def side_frames(self) -> dict[str, DataFrame]:
        """Frames of the sides that have features.

        Raises
        ------
        ModelError
            Columns are named, and there is no frame; or the other way round.
        """
        columns = self.feature_columns()
        frames: dict[str, DataFrame] = {}
        for side in SIDES:
            frame: DataFrame | None = getattr(self, f"{side}Features")
            if frame is not None and side not in columns:
                raise ModelError(f"{side}Features is given, but {side}FeatureCols names none of its columns")
            if frame is None and side in columns:
                names = ", ".join(columns[side])
                raise ModelError(
                    f"{side}FeatureCols names {names}, but {side}Features is missing: give it a DataFrame"
                )
            if frame is not None:
                frames[side] = frame
        return frames

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
        features, scales = {}, {}
        for side, frame in self.side_frames().items():
            columns = self.feature_columns()[side]
            scales[side] = scales_of(frame, columns)
            entries = feature_entries(
                frame, self.getOrDefault(f"{side}Col"), columns, scales[side], kinds[side]
            )
            features[f"{side} features"] = entries
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


def feature_entries(
    frame: DataFrame, id_name: str, columns: list[str], scales: Scales, id_type: T.DataType
) -> DataFrame:
    """Features of a frame's rows (:func:`recsys_spark.training.side_features.entries_of`), with ids of
    ``id_type``.

    Parameters
    ----------
    frame : one row per id: ``id_name`` and the ``columns``
    id_name, columns : of the id, and of the features
    scales : of the numeric columns
    id_type : of the ids that the features are joined with

    Raises
    ------
    ModelError
        A column is missing or of another kind than in the fit, or an id has several rows (which one shuffle
        finds).
    """
    if not columns:
        raise ModelError("the model was fitted without features of this side")
    check_columns(frame, [id_name, *columns])
    for name in columns:
        is_number = has_scale(frame, name)
        if is_number != (name in scales):
            fitted, found = ("text", "a number") if is_number else ("a number", "text")
            raise ModelError(f"feature column {name!r} is {found} here and was {fitted} in the fit: cast it")
    ids = matching_id(frame, id_name, id_type)
    counts = frame.groupBy(ids.alias("id")).count()
    repeated = counts.where((F.col("count") > 1) & F.col("id").isNotNull()).first()
    if repeated is not None:
        raise ModelError(
            f"{id_name} {repeated[0]!r} has {repeated[1]} rows of features: give one row for each id"
        )
    return entries_of(frame, ids, columns, scales)
