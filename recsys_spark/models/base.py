"""The contract that every model keeps.

An **estimator** is a ``pyspark.ml.Estimator``: keyword-only constructor, Params with Spark's names (``userCol``, ``itemCol``,
``ratingCol``, ``predictionCol``, ``seed`` …), ``fit(df) → model``, and

* ``check()``: raises ``ValueError`` with a sentence for Params out of range or in contradiction; ``fit`` calls it first.

A **model** is a :class:`RecommenderModel`:

* ``transform(df)`` adds ``predictionCol`` (float) to (user, item) rows;
* ``lists(users, n, seen)`` and ``recommend(users, n, seen)`` give the best n unseen items of each user, nested or as rows;
* ``recommendForAllUsers(n)`` and ``recommendForUserSubset(df, n)`` give Spark's nested shape, seen items included, as Spark's do;
* ``unpersist()`` lets go of what a fit keeps in Spark's storage;
* ``write().save(path)`` and ``load(path)``: JSON and Parquet, never pickle; a loaded model gives the same rows;
* ids go in and come out as they are: int, long or string;
* a user the model does not know gets no row from ``lists``, unless :attr:`RecommenderModel.scores_new_users`;
* fewer than n eligible items give a shorter list; ties go to the smaller item;
* the same rows and seed give the same lists on any partitioning.

``tests/model_contract.py`` is this contract as a test suite; every model's tests inherit it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

from pyspark import keyword_only
from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasPredictionCol
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.config import Blocks
from recsys_spark.errors import ModelError
from recsys_spark.params import param
from recsys_spark.recommend.host import DEFAULT_BLOCKS, RECOMMENDATIONS, explode_lists
from recsys_spark.schema import ITEM, RATING, SCORE, USER

__all__ = ["InteractionColumns", "RecommenderEstimator", "RecommenderModel", "id_column", "keyword_only"]


class InteractionColumns(HasPredictionCol):
    """``userCol``, ``itemCol`` and ``predictionCol``, with the names and defaults of Spark's ALS."""

    userCol: Param[str] = param("userCol", "column name for user ids", TypeConverters.toString)
    itemCol: Param[str] = param("itemCol", "column name for item ids", TypeConverters.toString)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol="user", itemCol="item", predictionCol="prediction")

    def getUserCol(self) -> str:
        """Column of user ids."""
        return self.getOrDefault(self.userCol)

    def getItemCol(self) -> str:
        """Column of item ids."""
        return self.getOrDefault(self.itemCol)


class RecommenderEstimator(Estimator):  # type: ignore[type-arg]
    """An estimator of the contract."""

    predicts_ratings: ClassVar[bool] = False
    """Whether, with the Params as they are, ``transform`` predicts on the scale of the ratings."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""


class RecommenderModel(Model):
    """A fitted model of the contract. Subclasses give :meth:`lists` and :meth:`known_users`."""

    scores_new_users: ClassVar[bool] = False
    """Whether ``lists`` serves users that were not in the training data."""

    @abstractmethod
    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""

    @abstractmethod
    def lists(self, users: DataFrame, n: int, seen: DataFrame | None = None, sizes: Blocks = DEFAULT_BLOCKS) -> DataFrame:
        """Best ``n`` items of each user, none of them in ``seen``.

        Parameters
        ----------
        users : ``user``, unique
        n : at least 1
        seen : ``user``, ``item`` pairs never to return, or None
        sizes : bounds of a task's memory

        Returns
        -------
        DataFrame
            One row per user: ``id`` and ``recommendations``, array<struct<item, score: float>>, best first.
        """

    def recommend(self, users: DataFrame, n: int, seen: DataFrame | None = None, sizes: Blocks = DEFAULT_BLOCKS) -> DataFrame:
        """:meth:`lists` as rows ``user, item, score, rank`` (rank from 1), one per recommendation."""
        return explode_lists(self.lists(users, n, seen, sizes))

    def recommendForAllUsers(self, numItems: int) -> DataFrame:
        """Top ``numItems`` items of every known user, in Spark's shape.

        Returns
        -------
        DataFrame
            ``userCol`` and ``recommendations``, array<struct<itemCol, rating: float>>.
        """
        return self._in_sparks_shape(self.lists(self.known_users(), numItems))

    def recommendForUserSubset(self, dataset: DataFrame, numItems: int) -> DataFrame:
        """Top ``numItems`` items of the distinct users in ``dataset``'s ``userCol``, in Spark's shape."""
        users = dataset.select(F.col(self.getOrDefault("userCol")).alias(USER)).where(F.col(USER).isNotNull()).distinct()
        return self._in_sparks_shape(self.lists(users, numItems))

    def _in_sparks_shape(self, lists: DataFrame, own: str | None = None, other: str | None = None) -> DataFrame:
        own, other = own or self.getOrDefault("userCol"), other or self.getOrDefault("itemCol")
        renamed = F.transform(RECOMMENDATIONS, lambda entry: F.struct(entry[ITEM].alias(other), entry[SCORE].alias(RATING)))
        return lists.select(F.col("id").alias(own), renamed.alias(RECOMMENDATIONS))

    def unpersist(self) -> None:
        """Let go of what the fit keeps in Spark's storage; a saved model is to be loaded before it is used again."""

    @abstractmethod
    def write(self) -> Any:
        """A ``pyspark.ml.util.MLWriter``."""

    @classmethod
    @abstractmethod
    def load(cls, path: str) -> Self:
        """The model that was saved at ``path``."""


def id_column(dataset: DataFrame, name: str) -> Column:
    """Column of ids as int, bigint or string; numbers with a fraction become null, which the fit refuses."""
    kind, column = dataset.schema[name].dataType, F.col(name)
    if isinstance(kind, T.StringType | T.IntegerType | T.LongType):
        return column
    if isinstance(kind, T.ByteType | T.ShortType):
        return column.cast("int")
    if isinstance(kind, T.FloatType | T.DoubleType | T.DecimalType):
        return F.when(column == F.floor(column), column.try_cast("long"))
    raise ModelError(f"column {name!r} is {kind.simpleString()}: ids must be integers, longs or strings")
