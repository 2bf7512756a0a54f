"""Spark's own ALS behind the contract: ids of any type, lists without seen items, the top-N host."""

from __future__ import annotations

from typing import Any, ClassVar

from pyspark.ml.recommendation import ALS, _ALSModelParams, _ALSParams
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.models.factors import FactorModel
from recsys_spark.params import check_interval, check_ranges
from recsys_spark.schema import SEEDED

_CODED = {"userCol": "_user_code", "itemCol": "_item_code"}


class MLlibALS(RecommenderEstimator, _ALSParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """``pyspark.ml.recommendation.ALS`` with ids of integer, long or string type.

    Every Param is Spark's own, with its default, except ``seed``, which is 42 in every process. Ids that are not integers are
    numbered first: a sort of the distinct ids in one task and a join each, so this is for comparison, not for a hundred
    million users.
    """

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for explicit feedback."""
        return not self.getOrDefault(self.implicitPrefs)

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._setDefault(seed=SEEDED)
        self._set(**params)

    def check(self) -> None:
        """Raise ``ValueError`` for Params that Spark would refuse only in the middle of the fit."""
        least = {"rank": 1, "maxIter": 0, "regParam": 0, "alpha": 0, "numUserBlocks": 1, "numItemBlocks": 1, "blockSize": 1}
        check_ranges(self, least, {"coldStartStrategy": ("nan", "drop")})
        check_interval(self)

    def _fit(self, dataset: DataFrame) -> MLlibALSModel:
        self.check()
        user, item = self.getOrDefault(self.userCol), self.getOrDefault(self.itemCol)
        rating = self.getOrDefault(self.ratingCol)
        ratings = dataset.select(user, item, rating) if rating else dataset.select(user, item)
        numbered, users = _numbered(ratings, user, _CODED["userCol"])
        numbered, items = _numbered(numbered, item, _CODED["itemCol"])
        inner: ALS = self._copyValues(ALS())
        inner.setUserCol(_CODED["userCol"]).setItemCol(_CODED["itemCol"])
        fitted = inner.fit(numbered)
        model = MLlibALSModel(_named(fitted.userFactors, users), _named(fitted.itemFactors, items))
        return self._copyValues(model)


class MLlibALSModel(FactorModel, _ALSModelParams):
    """Factors that Spark's ALS has found, with external ids."""

    scores_new_users: ClassVar[bool] = False


def _numbered(ratings: DataFrame, column: str, code: str) -> tuple[DataFrame, DataFrame | None]:
    """Ratings with an int column ``code``, and the frame (``id``, ``code``), or None where ids are ints already."""
    kind = ratings.schema[column].dataType
    if isinstance(kind, T.IntegerType | T.ShortType | T.ByteType):
        return ratings.withColumn(code, F.col(column).cast("int")), None
    if not isinstance(kind, T.LongType | T.StringType):
        raise ModelError(f"column {column!r} is {kind.simpleString()}: ids must be integers, longs or strings")
    ids = ratings.select(F.col(column).alias("id")).distinct()
    codes = ids.select("id", (F.row_number().over(Window.orderBy("id")) - 1).alias(code)).localCheckpoint()
    return ratings.join(codes, ratings[column] == codes["id"]).drop("id"), codes


def _named(factors: DataFrame, codes: DataFrame | None) -> DataFrame:
    if codes is None:
        return factors
    code = next(name for name in codes.columns if name != "id")
    coded = factors.withColumnRenamed("id", "_code")
    return codes.join(coded, codes[code] == coded["_code"]).select("id", "features")
