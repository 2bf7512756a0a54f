"""Side features of users and items, for the estimators that read them."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from recsys_spark.columns import matching_id
from recsys_spark.errors import ModelError
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.schema import ITEM, USER
from recsys_spark.training.barrier import IdTypes
from recsys_spark.training.side_features import (
    ITEM_FEATURES,
    USER_FEATURES,
    Scales,
    check_columns,
    entries_of,
    has_scale,
    scales_of,
)

SIDES = {"user": USER, "item": ITEM}
"""Sides that may have features → the column of ratings that their ids are in."""
KINDS = {"user": USER_FEATURES, "item": ITEM_FEATURES}


class FeaturedEstimator(RecommenderEstimator):
    """An estimator with ``userFeatureCols``, ``itemFeatureCols`` or both.

    Attributes
    ----------
    userFeatures, itemFeatures : DataFrame or None
        One row per id, with the columns of :meth:`feature_columns`.
    """

    userFeatures: DataFrame | None = None
    itemFeatures: DataFrame | None = None

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

    def side_entries(self, id_types: IdTypes) -> tuple[dict[str, DataFrame], dict[str, Scales]]:
        """Features as tasks read them.

        Parameters
        ----------
        id_types : pair of pyarrow.DataType
            Of the ids of users and items among the ratings.

        Returns
        -------
        entries : dict
            ``user features`` and ``item features`` → ``id``, ``names``, ``weights``, for sides that have any.
        scales : dict
            Side → numeric feature column → its mean and deviation.

        Raises
        ------
        ModelError
            As :meth:`side_frames` and :func:`feature_entries` do.
        """
        entries, scales = dict[str, DataFrame](), dict[str, Scales]()
        kinds = dict(zip(SIDES, map(from_arrow_type, id_types), strict=True))
        for side, frame in self.side_frames().items():
            columns, name = self.feature_columns()[side], self.getOrDefault(f"{side}Col")
            scales[side] = scales_of(frame, columns)
            entries[KINDS[side]] = feature_entries(frame, name, columns, scales[side], kinds[side])
        return entries, scales


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
