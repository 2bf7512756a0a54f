"""The contract that every model keeps.

An **estimator** is a ``pyspark.ml.Estimator``: keyword-only constructor, Params with Spark's names
(``userCol``, ``itemCol``, ``ratingCol``, ``predictionCol``, ``seed`` …), ``fit(df) → model``, where ``df``
may be :class:`~recsys_spark.histories.PackedHistories` too, and

* ``check()``: raises ``ValueError`` with a sentence for Params out of range or in contradiction; ``fit``
  calls it first;
* ``feature_columns()`` and ``set_features(side, frame)``: which columns of users and items it reads, and
  where from.

A **model** is a :class:`RecommenderModel`:

* ``transform(df)`` adds ``predictionCol`` (float) to (user, item) rows;
* ``recommend_lists(users, request)`` and ``recommend(users, n, seen)`` return the best n unseen items of each
  user, nested or as rows;
* ``recommendForAllUsers(n)`` and ``recommendForUserSubset(df, n)`` return Spark's nested shape, seen items
  included, as Spark's do, unless ``excludeSeen`` is given;
* ``unpersist()`` releases the cached result of the fit, which otherwise goes when the model, its copies and
  the frames that they returned are no longer in use;
* ``write().save(path)`` and ``load(path)``: JSON and Parquet, never pickle; a loaded model returns the same
  rows;
* ids go in and come out as they are: int, long or string; whole numbers of other types are ints, and a number
  with a fraction is no id: ``fit`` rejects it, and everything else takes it for unknown;
* a user the model does not know gets no row from ``recommend``, unless
  :attr:`RecommenderModel.scores_new_users`;
* fewer than n eligible items make a shorter list; ties go to the smaller item;
* the same rows and seed give the same lists on any partitioning.

:mod:`recsys_spark.testing` is this contract as a test suite; every model's tests inherit it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasPredictionCol
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import column_of, id_column
from recsys_spark.config import BlockSizes
from recsys_spark.data.repeats import Consumption
from recsys_spark.models.persistence import ParamsReader
from recsys_spark.params import param
from recsys_spark.recommend.scores import LinearScores
from recsys_spark.recommend.top_n import DEFAULT_BLOCK_SIZES, RECOMMENDATIONS, ListRequest, explode_lists
from recsys_spark.schema import ITEM, RATING, SCORE, USER


class InteractionColumns(HasPredictionCol):
    """``userCol``, ``itemCol`` and ``predictionCol``, with the names and defaults of Spark's ALS."""

    userCol: Param[str] = param("userCol", "column of user ids", TypeConverters.toString)
    itemCol: Param[str] = param("itemCol", "column of item ids", TypeConverters.toString)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol="user", itemCol="item", predictionCol="prediction")

    def getUserCol(self) -> str:
        """Column of user ids."""
        return self.getOrDefault(self.userCol)

    def setUserCol(self, value: str) -> Self:
        """Set the column of user ids.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(userCol=value)

    def getItemCol(self) -> str:
        """Column of item ids."""
        return self.getOrDefault(self.itemCol)

    def setItemCol(self, value: str) -> Self:
        """Set the column of item ids.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(itemCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column that ``transform`` adds.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(predictionCol=value)


class RecommenderEstimator(Estimator):  # type: ignore[type-arg]
    """An estimator of the contract."""

    stands_for: ClassVar[tuple[str, ...]] = ()
    """Other classes whose saved Params ``load`` takes."""

    predicts_ratings: ClassVar[bool] = False
    """Whether, with the Params as they are, ``transform`` predicts on the scale of the ratings."""

    has_linear_scores: bool = True
    """Whether, with the Params as they are, the model has :meth:`RecommenderModel.linear_scores`."""

    makes_models_that_fold_in: bool = True
    """Whether, with the Params as they are, ``foldIn`` of the model works where its class has it."""

    chooses_on_validation: ClassVar[bool] = False
    """Whether ``fit`` chooses by rows that :meth:`set_validation` gives."""

    @classmethod
    def read(cls) -> ParamsReader:
        """A reader; ``load(path)`` uses it."""
        return ParamsReader(cls)

    @abstractmethod
    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""

    def feature_columns(self) -> dict[str, list[str]]:
        """Columns that the estimator reads features from, by side, ``user`` or ``item``; sides without
        any are not in it.
        """
        return {}

    def set_features(self, side: str, frame: DataFrame) -> None:
        """Read the features of a side from ``frame``.

        Parameters
        ----------
        side : str
            ``user`` or ``item``, one of :meth:`feature_columns`.
        frame : DataFrame
            One row per id: ``userCol`` or ``itemCol``, and the feature columns.
        """
        setattr(self, f"{side}Features", frame)

    def set_validation(self, rows: DataFrame, left_out: DataFrame | None = None) -> None:
        """Let ``fit`` choose by ``rows``, where it :attr:`chooses_on_validation`.

        Parameters
        ----------
        rows : DataFrame
            ``userCol``, ``itemCol``: what lists should have.
        left_out : DataFrame, optional
            ``userCol``, ``itemCol``: what lists do not hold. Without it, what ``fit`` is given.
        """

    def check_repeats(self) -> None:
        """Raise ``ValueError`` with a sentence for Params that :meth:`set_consumption` is not for."""

    def set_consumption(self, consumption: Consumption) -> None:
        """Let ``fit`` learn what users consume again, where the estimator can.

        Parameters
        ----------
        consumption : Consumption
            The events that the ratings are made of.
        """

    def keep_choices(self, model: RecommenderModel) -> None:
        """Let ``fit`` choose what it chose when it made ``model``, from a part of the data.

        Parameters
        ----------
        model : RecommenderModel
            Of an estimator of the same class.
        """


class RecommenderModel(Model):
    """A fitted model of the contract. Subclasses define :meth:`recommend_lists` and :meth:`known_users`."""

    scores_new_users: ClassVar[bool] = False
    """Whether ``recommend`` serves users that were not in the training data."""

    folds_in: ClassVar[bool] = False
    """Whether ``foldIn(histories, ratingCol)`` makes a model of other users, from their ratings."""

    def transform(self, dataset: DataFrame, params: Any = None) -> DataFrame:
        """The rows with a prediction; see :class:`pyspark.ml.Transformer`. The frame knows its model.

        Parameters
        ----------
        dataset : DataFrame
            ``userCol``, ``itemCol``.
        params : dict, optional
            Param → a value for this call.
        """
        model = self.copy(params) if params else self
        frame = model._transform(dataset)
        frame._made_by = model, dataset  # type: ignore[attr-defined]
        return frame

    @abstractmethod
    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""

    @abstractmethod
    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Best items of each user, nested.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.

        Returns
        -------
        DataFrame
            One row per user: ``id`` and ``recommendations``, array<struct<item, score: float>>, best first.
        """

    def linear_scores(self) -> LinearScores | None:
        """What scores are made of, where they are dot products, sums over the user's history, and biases;
        None for a model of another kind.
        """
        return None

    def with_reasons(self, lists: DataFrame) -> DataFrame:
        """Lists whose entries say where they come from, where there is more to say than that they are this
        model's.

        Parameters
        ----------
        lists : DataFrame
            Of :meth:`recommend_lists`.

        Returns
        -------
        DataFrame
            The same; entries may have one more field, ``reason``.
        """
        return lists

    def recommend(
        self,
        users: DataFrame,
        n: int,
        seen: DataFrame | None = None,
        *,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
        blockSizes: BlockSizes = DEFAULT_BLOCK_SIZES,
    ) -> DataFrame:
        """Best ``n`` items of each user, as rows.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        n : int
            Length of the lists, at least 1.
        seen : DataFrame, optional
            ``user``, ``item`` pairs never to return.
        allowedItems, deniedItems : DataFrame, optional
            ``item``; nothing but these, and none of those, is recommended.
        blockSizes : BlockSizes
            Bounds of a task's memory.

        Returns
        -------
        DataFrame
            One row per recommendation: ``user``, ``item``, ``score`` float, ``rank`` int from 1.

        Raises
        ------
        ModelError
            ``n`` is below 1.
        """
        request = ListRequest(n, seen, allowedItems, deniedItems, block_sizes=blockSizes)
        return self._held(explode_lists(self.recommend_lists(users, request)))

    def recommendForAllUsers(
        self,
        numItems: int,
        excludeSeen: DataFrame | None = None,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
    ) -> DataFrame:
        """Top ``numItems`` items of every known user, in Spark's shape.

        Parameters
        ----------
        numItems : int
            Length of the lists, at least 1.
        excludeSeen : DataFrame, optional
            ``userCol``, ``itemCol`` pairs never to return; without it seen items are listed, as Spark does.
        allowedItems, deniedItems : DataFrame, optional
            ``itemCol``; nothing but these, and none of those, is recommended.

        Returns
        -------
        DataFrame
            ``userCol`` and ``recommendations``, array<struct<itemCol, rating: float>>.
        """
        request = self._request(numItems, excludeSeen, allowedItems, deniedItems)
        return self._held(self._nested(self.known_users(), request))

    def recommendForUserSubset(
        self,
        dataset: DataFrame,
        numItems: int,
        excludeSeen: DataFrame | None = None,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
    ) -> DataFrame:
        """Top ``numItems`` items of some users, in Spark's shape.

        Parameters
        ----------
        dataset : DataFrame
            Its distinct ids in ``userCol`` are served.
        numItems : int
            Length of the lists, at least 1.
        excludeSeen : DataFrame, optional
            ``userCol``, ``itemCol`` pairs never to return.
        allowedItems, deniedItems : DataFrame, optional
            ``itemCol``; nothing but these, and none of those, is recommended.

        Returns
        -------
        DataFrame
            As :meth:`recommendForAllUsers` returns it.
        """
        ids = id_column(dataset, self.getOrDefault("userCol"), "bigint").alias(USER)
        users = dataset.select(ids).where(F.col(USER).isNotNull()).distinct()
        request = self._request(numItems, excludeSeen, allowedItems, deniedItems)
        return self._held(self._nested(users, request))

    def unpersist(self) -> None:
        """Release the cached result of the fit. Save and reload the model first: using it afterwards
        re-runs the fit.
        """

    @abstractmethod
    def write(self) -> Any:
        """A ``pyspark.ml.util.MLWriter``."""

    @classmethod
    @abstractmethod
    def load(cls, path: str) -> Self:
        """The model that was saved at ``path``.

        Parameters
        ----------
        path : str
            Folder or URI.
        """

    def _held(self, frame: DataFrame) -> DataFrame:
        """The same frame, which keeps what the model has in Spark's storage there while it is in use."""
        return frame

    def _request(
        self, n: int, seen: DataFrame | None, allowed: DataFrame | None, denied: DataFrame | None
    ) -> ListRequest:
        """A request whose frames have the columns ``userCol`` and ``itemCol``."""
        user, item = self.getOrDefault("userCol"), self.getOrDefault("itemCol")
        pairs = None
        if seen is not None:
            pairs = seen.select(column_of(seen, user)[0].alias(USER), column_of(seen, item)[0].alias(ITEM))
        permitted, forbidden = (
            None if frame is None else frame.select(column_of(frame, item)[0].alias(ITEM))
            for frame in (allowed, denied)
        )
        return ListRequest(n, pairs, permitted, forbidden)

    def _nested(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Lists of ``users`` as ``recommendFor…`` returns them."""
        lists = self.recommend_lists(users, request)
        return spark_shape(lists, self.getOrDefault("userCol"), self.getOrDefault("itemCol"))


def maker_of(frame: DataFrame) -> tuple[RecommenderModel, DataFrame] | None:
    """The model whose ``transform`` returned this very frame, and what it was given.

    Parameters
    ----------
    frame : DataFrame
        Any.
    """
    return getattr(frame, "_made_by", None) if "_made_by" in vars(frame) else None


def spark_shape(lists: DataFrame, key: str, listed: str) -> DataFrame:
    """Lists in the shape of Spark's ALS: the id as ``key``, and structs of ``listed`` and ``rating``.

    Parameters
    ----------
    lists : DataFrame
        ``id``, ``recommendations``.
    key : str
        Name of the id's column.
    listed : str
        Name of what is listed.
    """
    renamed = F.transform(
        RECOMMENDATIONS, lambda entry: F.struct(entry[ITEM].alias(listed), entry[SCORE].alias(RATING))
    )
    return lists.select(F.col("id").alias(key), renamed.alias(RECOMMENDATIONS))
