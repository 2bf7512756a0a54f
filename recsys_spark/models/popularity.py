"""Most popular items: the baseline every model must beat, and the fallback where a model has nothing to
say.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import column_of, id_column, matching_id, require_new, unused
from recsys_spark.histories import PackedHistories, rows_of
from recsys_spark.models.base import InteractionColumns, RecommenderEstimator, RecommenderModel
from recsys_spark.models.persistence import FramesModel
from recsys_spark.params import KeywordParams, check_ranges, keyword_constructor, param
from recsys_spark.recommend.scores import LinearScores
from recsys_spark.recommend.top_n import ListRequest, no_vector, recommend_lists
from recsys_spark.schema import ITEM, USER


class PopularityParams(InteractionColumns):
    """The Params that the estimator shares with its model."""

    timestampCol: Param[str] = param(
        "timestampCol", "column of timestamps; read when halfLife is above 0", TypeConverters.toString
    )
    halfLife: Param[float] = param(
        "halfLife",
        "days after which an interaction counts half, back from the last one in the data; 0 for all the same",
        TypeConverters.toFloat,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(timestampCol="timestamp", halfLife=0.0)

    def getTimestampCol(self) -> str:
        """Column of timestamps."""
        return self.getOrDefault(self.timestampCol)

    def getHalfLife(self) -> float:
        """Days after which an interaction counts half."""
        return self.getOrDefault(self.halfLife)


class PopularityRecommender(
    RecommenderEstimator, KeywordParams, PopularityParams, DefaultParamsReadable[Any], DefaultParamsWritable
):
    """Scores an item by how many users have it, or by their recency-weighted number.

        score(i) = Σ over rows of i of 2^(-age / halfLife), or their count when halfLife is 0

    ``age`` is the time, in days, between the row and the last row of the data, so the score depends on the
    rows alone. Sums are taken in decimals: the same on any partitioning.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of the input.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds.
    timestampCol : str, default "timestamp"
        Column of timestamps; read when ``halfLife`` is above 0. A row without one then counts nothing.
    halfLife : float, default 0.0
        Days after which an interaction counts half, at least 0; 0 for all the same.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: ``halfLife`` is negative or not finite.
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = "user",
        itemCol: str = "item",
        predictionCol: str = "prediction",
        timestampCol: str = "timestamp",
        halfLife: float = 0.0,
    ) -> None:
        super().__init__()
        self._set_given()

    def setTimestampCol(self, value: str) -> Self:
        """Set the column of timestamps.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(timestampCol=value)

    def setHalfLife(self, value: float) -> Self:
        """Set the days after which an interaction counts half.

        Parameters
        ----------
        value : float
            Days after which an interaction counts half, back from the last one in the data; 0 for all the
            same.
        """
        return self._set(halfLife=value)

    def check(self) -> None:
        """Raise ``ValueError`` if ``halfLife`` is negative or not finite."""
        check_ranges(self, {"halfLife": 0}, {})

    def _fit(self, dataset: DataFrame | PackedHistories) -> PopularityModel:
        self.check()
        if isinstance(dataset, PackedHistories):
            names = self.getOrDefault(self.userCol), self.getOrDefault(self.itemCol)
            if names == (USER, ITEM) and not self.getOrDefault(self.halfLife):
                return self._model(dataset.item_counts().toDF("id", "score"), dataset.user_counts())
            dataset = rows_of(dataset)
        user, item = (id_column(dataset, self.getOrDefault(name)) for name in (self.userCol, self.itemCol))
        half_life = self.getOrDefault(self.halfLife)
        rows = dataset.select(user.alias(USER), item.alias("id"))
        score = F.count("*")
        if half_life > 0:
            second = F.unix_micros(column_of(dataset, self.getOrDefault(self.timestampCol))[0]) / 1e6
            rows = dataset.select(user.alias(USER), item.alias("id"), second.alias("second"))
            last = rows.agg(F.max("second")).first()
            end = last[0] if last is not None and last[0] is not None else 0.0
            weight = F.pow(F.lit(2.0), (F.col("second") - F.lit(end)) / (half_life * 86_400))
            score = F.coalesce(F.sum(weight.cast("decimal(38,18)")).cast("double"), F.lit(0.0))
        return self._model(rows.groupBy("id").agg(score.alias("score")), rows.select(USER).distinct())

    def _model(self, scores: DataFrame, users: DataFrame) -> PopularityModel:
        scores = scores.select("id", F.col("score").cast("double").alias("score"))
        ids = users.select(F.col(USER).alias("id"))
        return self._copyValues(PopularityModel(scores.localCheckpoint(), ids.localCheckpoint()))


class PopularityModel(FramesModel, RecommenderModel, PopularityParams):
    """One score per item; the same list for every user, without the items they have seen.

    Attributes
    ----------
    scores : DataFrame
        One row per item: ``id``, ``score`` double.
    users : DataFrame
        One row per user of the training data: ``id``.
    """

    scores_new_users: ClassVar[bool] = True
    folds_in: ClassVar[bool] = True

    def __init__(self, scores: DataFrame, users: DataFrame) -> None:
        super().__init__()
        self.scores = scores
        self.users = users

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None) -> PopularityModel:
        """A model that knows other users, who get the same lists.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``.
        ratingCol : str, optional
            Not read.

        Returns
        -------
        PopularityModel
            Its known users are those of ``histories``. One shuffle, when they are used.
        """
        model = self.copy()
        user = id_column(histories, self.getOrDefault(self.userCol)).alias("id")
        model.users = histories.select(user).distinct()
        return model

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.users.select(F.col("id").alias(USER))

    def linear_scores(self) -> LinearScores:
        """Vectors of length 0, and the scores as the items' biases."""
        items = self.scores.select("id", no_vector(), F.col("score").cast("float").alias("bias"))
        return LinearScores(self.users.select("id", no_vector()), items, None)

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Most popular unseen items of each user, known or not; see
        :meth:`RecommenderModel.recommend_lists`.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        wanted = users.select(F.col(USER).alias("id"), no_vector()).distinct()
        return recommend_lists(wanted, self.linear_scores().items, request)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add the item's score as float; 0 for an unknown item."""
        prediction = self.getOrDefault(self.predictionCol)
        require_new(dataset, [prediction], "transform")
        key, score = unused("item id", dataset), unused("item score", dataset)
        scores = self.scores.select(F.col("id").alias(key), F.col("score").alias(score))
        item = matching_id(dataset, self.getOrDefault(self.itemCol), self.scores.schema["id"].dataType)
        joined = dataset.join(F.broadcast(scores), item == F.col(key), "left")
        predicted = F.coalesce(F.col(score), F.lit(0.0)).cast("float")
        return joined.withColumn(prediction, predicted).drop(key, score)

    def frames(self) -> dict[str, DataFrame]:
        """Scores and users."""
        return {"scores": self.scores, "users": self.users}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames."""
        return ("scores", "users")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of scores and users.

        Parameters
        ----------
        frames : dict
            Name of a frame → DataFrame.
        """
        return cls(frames["scores"], frames["users"])
