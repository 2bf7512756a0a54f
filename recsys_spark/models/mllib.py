"""Spark's own ALS behind the contract: ids of any type, lists without seen items, the top-N engine."""

from __future__ import annotations

from typing import Any, ClassVar

from pyspark.ml.recommendation import ALS, _ALSModelParams
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import column_of, id_column
from recsys_spark.histories import PackedHistories, rows_of
from recsys_spark.models.als_params import SparkALSParams
from recsys_spark.models.base import RecommenderEstimator
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.params import check_interval, check_ranges, keyword_constructor
from recsys_spark.schema import ITEM, RATING, SEEDED, USER

_CODED = {USER: "user_code", ITEM: "item_code"}


class MLlibALS(RecommenderEstimator, SparkALSParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """``pyspark.ml.recommendation.ALS`` with ids of integer, long or string type.

    Every Param is Spark's own, with its default and meaning, except ``seed``, which is 42 in every process.
    Ids that are not integers are numbered first: a sort of the distinct ids in one task and a join each, so
    this is for comparison, not for a hundred million users.

    Parameters
    ----------
    rank : int, default 10
        Length of the factors, at least 1.
    maxIter : int, default 10
        Number of iterations, at least 0.
    regParam : float, default 0.1
        Regularisation, at least 0.
    numUserBlocks, numItemBlocks : int, default 10
        Blocks that users and items are divided into.
    implicitPrefs : bool, default False
        Ratings are weights of preferences, not predicted.
    alpha : float, default 1.0
        Weight of a rating in implicit preferences, at least 0.
    userCol, itemCol : str, default "user", "item"
        Columns of ids in the input.
    seed : int, default 42
        Of the starting factors.
    ratingCol : str, default "rating"
        Column of ratings; empty where every row counts 1.
    nonnegative : bool, default False
        Keep all factors from being negative.
    checkpointInterval : int, default 10
        Iterations between two checkpoints, where the session has a checkpoint directory; -1 for none.
    intermediateStorageLevel, finalStorageLevel : str, default "MEMORY_AND_DISK"
        Storage of intermediate data, and of the factors.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with unknown users and items: ``nan`` or ``drop``.
    blockSize : int, default 4096
        Rows of a block in ``recommendFor…`` of Spark's own model.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: a Param out of range.
    ModelError
        From ``fit``: ids of another type.
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int = SEEDED,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
        predictionCol: str = "prediction",
    ) -> None:
        super().__init__()
        self._setDefault(seed=SEEDED)
        self._set_given()

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for explicit feedback."""
        return not self.getOrDefault(self.implicitPrefs)

    def check(self) -> None:
        """Raise ``ValueError`` for Params that Spark would reject only in the middle of the fit."""
        least = {
            "rank": 1,
            "maxIter": 0,
            "regParam": 0,
            "alpha": 0,
            "numUserBlocks": 1,
            "numItemBlocks": 1,
            "blockSize": 1,
        }
        check_ranges(self, least, {"coldStartStrategy": ("nan", "drop")})
        check_interval(self)

    def _fit(self, dataset: DataFrame | PackedHistories) -> MLlibALSModel:
        self.check()
        dataset = rows_of(dataset)
        user, item = (id_column(dataset, self.getOrDefault(name)) for name in (self.userCol, self.itemCol))
        name = self.getOrDefault(self.ratingCol)
        rating = column_of(dataset, name)[0] if name else F.lit(1.0)
        ratings = dataset.select(user.alias(USER), item.alias(ITEM), rating.alias(RATING))
        numbered, users = _numbered(ratings, USER)
        numbered, items = _numbered(numbered, ITEM)
        inner: ALS = self._copyValues(ALS())
        inner.setUserCol(_CODED[USER]).setItemCol(_CODED[ITEM]).setRatingCol(RATING)
        fitted = inner.fit(numbered)
        model = MLlibALSModel(_named(fitted.userFactors, users), _named(fitted.itemFactors, items))
        return self._copyValues(model)


class MLlibALSModel(FactorModel, _ALSModelParams):
    """Factors that Spark's ALS has found, with external ids."""

    scores_new_users: ClassVar[bool] = False


def _numbered(ratings: DataFrame, column: str) -> tuple[DataFrame, DataFrame | None]:
    """Ratings with the int that stands for each id, and the frame (``id``, ``code``), or None where ids are
    ints already.
    """
    code = _CODED[column]
    if isinstance(ratings.schema[column].dataType, T.IntegerType):
        return ratings.withColumn(code, F.col(column)), None
    ids = ratings.select(F.col(column).alias("id")).distinct()
    codes = ids.select("id", (F.row_number().over(Window.orderBy("id")) - 1).alias(code)).localCheckpoint()
    return ratings.join(codes, ratings[column] == codes["id"]).drop("id"), codes


def _named(factors: DataFrame, codes: DataFrame | None) -> DataFrame:
    if codes is None:
        return factors
    code = next(name for name in codes.columns if name != "id")
    coded = factors.withColumnRenamed("id", "_code")
    return codes.join(coded, codes[code] == coded["_code"]).select("id", "features")
