"""Most popular items: the baseline every model must beat, and the fallback where a model has nothing to say."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pyspark import keyword_only
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Blocks
from recsys_spark.models.base import InteractionColumns, RecommenderEstimator, RecommenderModel
from recsys_spark.models.persistence import FramesModel
from recsys_spark.params import check_ranges
from recsys_spark.recommend.host import DEFAULT_BLOCKS, recommend_lists
from recsys_spark.schema import USER


class _PopularityParams(InteractionColumns):
    timestampCol: Param[str] = Param(
        Params._dummy(),
        "timestampCol",
        "column name for timestamps; read when halfLife is above 0",
        typeConverter=TypeConverters.toString,
    )
    halfLife: Param[float] = Param(
        Params._dummy(),
        "halfLife",
        "days after which an interaction counts half, back from the last one in the data; 0 counts all alike",
        typeConverter=TypeConverters.toFloat,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(timestampCol="timestamp", halfLife=0.0)


class PopularityRecommender(RecommenderEstimator, _PopularityParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """Scores an item by how many users have it, or by their recency-weighted number.

        score(i) = Σ over rows of i of 2^(-age / halfLife), or their count when halfLife is 0

    ``age`` is the time, in days, between the row and the last row of the data, so the score depends on the rows alone. A row
    without a timestamp counts nothing when halfLife is above 0. Sums are taken in decimals: the same on any partitioning.
    """

    @keyword_only
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
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    def check(self) -> None:
        """Raise ``ValueError`` if ``halfLife`` is negative or not finite."""
        check_ranges(self, {"halfLife": 0}, {})

    def _fit(self, dataset: DataFrame) -> PopularityModel:
        self.check()
        user, item = (F.col(self.getOrDefault(name)) for name in (self.userCol, self.itemCol))
        half_life = self.getOrDefault(self.halfLife)
        rows = dataset.select(user.alias("user"), item.alias("id"))
        score = F.count("*").cast("double")
        if half_life > 0:
            second = F.unix_micros(F.col(self.getOrDefault(self.timestampCol))) / 1e6
            rows = dataset.select(user.alias("user"), item.alias("id"), second.alias("second"))
            last = rows.agg(F.max("second")).first()
            end = last[0] if last is not None and last[0] is not None else 0.0
            weight = F.pow(F.lit(2.0), (F.col("second") - F.lit(end)) / (half_life * 86_400))
            score = F.coalesce(F.sum(weight.cast("decimal(38,18)")).cast("double"), F.lit(0.0))
        scores = rows.groupBy("id").agg(score.alias("score")).localCheckpoint()
        users = rows.select(F.col("user").alias("id")).distinct().localCheckpoint()
        return self._copyValues(PopularityModel(scores, users))


class PopularityModel(FramesModel, RecommenderModel, _PopularityParams):
    """One score per item; the same list for everybody, less what each has seen.

    Attributes
    ----------
    scores : one row per item: ``id``, ``score`` double
    users : one row per user of the training data: ``id``
    """

    scores_new_users: ClassVar[bool] = True

    def __init__(self, scores: DataFrame, users: DataFrame) -> None:
        super().__init__()
        self.scores = scores
        self.users = users

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.users.select(F.col("id").alias(USER))

    def lists(self, users: DataFrame, n: int, seen: DataFrame | None = None, sizes: Blocks = DEFAULT_BLOCKS) -> DataFrame:
        """Most popular ``n`` unseen items of each user, known or not; see :meth:`RecommenderModel.lists`."""
        nothing = F.array().cast("array<float>").alias("features")
        items = self.scores.select("id", nothing, F.col("score").cast("float").alias("bias"))
        return recommend_lists(users.select(F.col(USER).alias("id"), nothing).distinct(), items, n, seen, sizes)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add the item's score as float; 0 for an item that nobody has."""
        scores = self.scores.select(F.col("id").alias("_item"), F.col("score").alias("_score"))
        item = dataset[self.getOrDefault(self.itemCol)]
        joined = dataset.join(F.broadcast(scores), item.try_cast(scores.schema["_item"].dataType) == F.col("_item"), "left")
        score = F.coalesce(F.col("_score"), F.lit(0.0)).cast("float")
        return joined.withColumn(self.getOrDefault(self.predictionCol), score).drop("_item", "_score")

    def frames(self) -> dict[str, DataFrame]:
        """Scores and users."""
        return {"scores": self.scores, "users": self.users}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames."""
        return ("scores", "users")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of scores and users."""
        return cls(frames["scores"], frames["users"])
