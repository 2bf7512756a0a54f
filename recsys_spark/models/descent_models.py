"""What the estimators and models that are trained by gradients have in common: Params, side features, what a fit keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pyspark import StorageLevel, keyword_only
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasMaxIter, HasRegParam, HasSeed
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.kernels.network import ACTIVATIONS
from recsys_spark.models.base import InteractionColumns, RecommenderEstimator, id_column
from recsys_spark.models.descent import SCHEDULES, Epoch
from recsys_spark.models.descent_stage import Fitted, Inputs, Learner, fit
from recsys_spark.models.factors import FactorModel
from recsys_spark.models.side_features import Scales, check_columns, entries_of, scales_of
from recsys_spark.params import check_interval, check_ranges, param
from recsys_spark.schema import ITEM, RATING, SEEDED, USER


class NetworkParams(InteractionColumns, HasSeed):
    """The Params that an estimator shares with its model, which scores others by them."""

    embeddingDim: Param[int] = param("embeddingDim", "length of an embedding", TypeConverters.toInt)
    hiddenDims: Param[list[int]] = param("hiddenDims", "sizes of the network's layers", TypeConverters.toListInt)
    activation: Param[str] = param("activation", f"of hidden layers: {', '.join(ACTIVATIONS)}", TypeConverters.toString)
    userFeatureCols: Param[list[str]] = param(
        "userFeatureCols", "columns of the users' table that are features: text, arrays, or numbers", TypeConverters.toListString
    )
    coldStartStrategy: Param[str] = param(
        "coldStartStrategy", "what transform does with unknown users and items", TypeConverters.toString
    )
    featureScales: Param[dict[str, Scales]] = param(
        "featureScales", "mean and deviation of each numeric feature, by side; set by the fit", TypeConverters.identity
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            embeddingDim=64, hiddenDims=[], activation="relu", userFeatureCols=[], coldStartStrategy="nan", featureScales={},
            seed=SEEDED,
        )  # fmt: skip


class DescentParams(NetworkParams, HasMaxIter, HasRegParam):
    """The Params of a fit."""

    ratingCol: Param[str] = param("ratingCol", "column of ratings; where it is missing all are 1", TypeConverters.toString)
    dropout: Param[float] = param("dropout", "share of a hidden layer's outputs left out of a step", TypeConverters.toFloat)
    stepSize: Param[float] = param("stepSize", "learning rate of Adam", TypeConverters.toFloat)
    schedule: Param[str] = param("schedule", f"of the learning rate: {', '.join(SCHEDULES)}", TypeConverters.toString)
    batchSize: Param[int] = param("batchSize", "size of a mini-batch, over all tasks", TypeConverters.toInt)
    numNegatives: Param[int] = param("numNegatives", "items drawn as negatives", TypeConverters.toInt)
    power: Param[float] = param("power", "exponent of an item's count in drawing negatives", TypeConverters.toFloat)
    checkpointInterval: Param[int] = param(
        "checkpointInterval",
        "epochs of one Spark job: what a lost executor costs at most; -1 for all in one",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(ratingCol=RATING, dropout=0.0, schedule="linear", checkpointInterval=10, regParam=0.0)


@dataclass(frozen=True)
class TrainingSummary:
    """How a fit went: of every epoch its loss, that of the validation's users where there are some, and its seconds."""

    epochs: list[Epoch]

    @property
    def objectiveHistory(self) -> list[float]:
        """Mean loss of the training steps of each epoch."""
        return [epoch.loss for epoch in self.epochs]


class DescentEstimator(RecommenderEstimator, DescentParams):
    """An estimator trained by gradients.

    Parameters
    ----------
    initialModel : a model of the same shape to go on from, with fresh moments; ids it does not know start fresh
    userFeatures : one row per user: ``userCol``, and the columns named in ``userFeatureCols``
    **params
        Params by name. Frames and the initial model are not saved with the estimator.
    """

    def __init__(self, *, initialModel: Any = None, userFeatures: DataFrame | None = None, **params: Any) -> None:
        super().__init__()
        self.initialModel = initialModel
        self.userFeatures = userFeatures
        self._set(**params)

    @keyword_only
    def setParams(self, **params: Any) -> Self:
        """Set Params by name."""
        return self._set(**params)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        of = self.getOrDefault
        least = {"embeddingDim": 1, "maxIter": 0, "regParam": 0, "numNegatives": 0, "power": 0, "batchSize": 1, "stepSize": 0}
        check_ranges(self, least, {"activation": tuple(ACTIVATIONS), "schedule": SCHEDULES}, shares=("dropout",))
        if any(size < 1 for size in of("hiddenDims")):
            raise ValueError(f"hiddenDims must be at least 1 each, got {of('hiddenDims')}")
        check_interval(self)

    def _train(self, dataset: DataFrame, learner: Learner) -> tuple[Fitted, dict[str, Scales]]:
        """What a fit gives, and the scales of numeric features."""
        of = self.getOrDefault
        named = self.isSet("ratingCol") and of("ratingCol")
        if of("ratingCol") not in dataset.columns and (named or self.predicts_ratings):
            raise ModelError(f"there is no column {of('ratingCol')!r} of ratings among {', '.join(dataset.columns)}")
        ratings = rating_rows(dataset, of("userCol"), of("itemCol"), of("ratingCol"))
        features, scales = {}, {}
        for side, frame, id_name in side_frames(self):
            columns = of(f"{side}FeatureCols")
            scales[side] = scales_of(frame, columns)
            features[f"{side} features"] = feature_entries(frame, of(f"{side}Col"), columns, scales[side], ratings, id_name)
        start = None
        if self.initialModel is not None:  # its ids as the ratings have them, or they would be sought in other tasks
            casts = {name: F.col(name).try_cast(ratings.schema[name].dataType) for name in (USER, ITEM)}
            start = self.initialModel.tables.withColumns(casts)
        interval = of("checkpointInterval")
        per_job = max(1, of("maxIter")) if interval == -1 else interval
        return fit(Inputs(ratings, features, start), learner, per_job, StorageLevel.MEMORY_AND_DISK), scales


class DescentModel(FactorModel, NetworkParams):
    """A model trained by gradients.

    Attributes
    ----------
    tables : all that was learnt, as :class:`recsys_spark.models.descent_stage.Fitted` has it
    summary : :class:`TrainingSummary` of the fit; None for a loaded model
    """

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame, tables: DataFrame) -> None:
        super().__init__(user_factors, item_factors)
        self.tables = tables
        self.summary: TrainingSummary | None = None
        self._kept: DataFrame | None = None

    def unpersist(self) -> None:
        """Let go of what the fit keeps in Spark's storage; used again, it would be trained again."""
        if self._kept is not None:
            self._kept.unpersist()

    def frames(self) -> dict[str, DataFrame]:
        """Users, items and tables."""
        return {**super().frames(), "tables": self.tables}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames."""
        return (*super().frame_names(), "tables")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of the frames."""
        return cls(frames["userFactors"], frames["itemFactors"], frames["tables"])


def check_initial_model(estimator: DescentEstimator, kind: type[DescentModel], shape: Sequence[str]) -> None:
    """Raise ``ValueError`` for an initial model of another class than ``kind``, or with another value of a Param of ``shape``."""
    model = estimator.initialModel
    if model is None:
        return
    if not isinstance(model, kind):
        raise ValueError(f"initialModel must be a {kind.__name__}, got a {type(model).__name__}")
    for name in shape:
        if model.getOrDefault(name) != estimator.getOrDefault(name):
            raise ValueError(f"initialModel has {name} {model.getOrDefault(name)!r}, not {estimator.getOrDefault(name)!r}")


def rating_rows(dataset: DataFrame, user: str, item: str, rating: str | None) -> DataFrame:
    """``user, item, rating`` (float; 1 without a column of ratings)."""
    value = F.col(rating) if rating and rating in dataset.columns else F.lit(1.0)
    ids = [id_column(dataset, name).alias(to) for name, to in ((user, USER), (item, ITEM))]
    return dataset.select(*ids, value.cast("float").alias(RATING))


def feature_entries(
    frame: DataFrame, column: str, columns: list[str], scales: Scales, ratings: DataFrame, id_name: str
) -> DataFrame:
    """Features of a frame's rows (:func:`recsys_spark.models.side_features.entries_of`), with ids of the type in ``ratings``.

    Raises
    ------
    ModelError
        A column is missing or of another kind than in the fit, or an id has several rows (which one shuffle finds).
    """
    if not columns:
        raise ModelError("the model was fitted without such features")
    check_columns(frame, [column, *columns])
    text = [name for name in columns if name in scales and not isinstance(frame.schema[name].dataType, T.NumericType)]
    numeric = [name for name in columns if name not in scales and isinstance(frame.schema[name].dataType, T.NumericType)]
    if text or numeric:
        raise ModelError(f"feature column {(text + numeric)[0]!r} was {'a number' if text else 'text'} in the fit")
    ids = id_column(frame, column).try_cast(ratings.schema[id_name].dataType)
    twice = frame.groupBy(ids.alias(column)).count().where((F.col("count") > 1) & F.col(column).isNotNull()).first()
    if twice is not None:
        raise ModelError(f"the features of {column} {twice[0]!r} stand in {twice[1]} rows: they must be one")
    return entries_of(frame, ids, columns, scales)


def side_frames(estimator: Any) -> list[tuple[str, DataFrame, str]]:
    """Sides that have features: ``user`` or ``item``, its frame, and the column of ratings that its ids are in.

    Raises
    ------
    ModelError
        Columns are named, and there is no frame; or the other way round.
    """
    found = []
    for side in ("user", "item"):
        if getattr(estimator, f"{side}Features", None) is not None and side not in feature_columns(estimator):
            raise ModelError(f"there is a frame {side}Features, and {side}FeatureCols names none of its columns")
    for side, columns in feature_columns(estimator).items():
        frame = getattr(estimator, f"{side}Features")
        if frame is None:
            raise ModelError(f"{side}FeatureCols names {', '.join(columns)}, and there is no {side}Features")
        found.append((side, frame, {"user": USER, "item": ITEM}[side]))
    return found


def feature_columns(estimator: Any) -> dict[str, list[str]]:
    """Columns that an estimator takes features from, by side, ``user`` or ``item``; sides without any are not in it."""
    sides = [side for side in ("user", "item") if estimator.hasParam(f"{side}FeatureCols")]
    return {side: estimator.getOrDefault(f"{side}FeatureCols") for side in sides if estimator.getOrDefault(f"{side}FeatureCols")}
