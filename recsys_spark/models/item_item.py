"""Weights of item pairs: what a user has speaks for what goes with it.

The weights' formulas are in :mod:`recsys_spark.kernels.item_item`; how the work is spread over Spark in
:mod:`recsys_spark.training.item_item`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasRegParam
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import arrow_udf

from recsys_spark.columns import column_of, id_column, matching_id, quoted, require_new, unused
from recsys_spark.histories import PackedHistories, pack_histories
from recsys_spark.kernels.item_item import pair_scores
from recsys_spark.models.base import InteractionColumns, RecommenderEstimator, RecommenderModel
from recsys_spark.models.persistence import FramesModel
from recsys_spark.models.storage import Stored
from recsys_spark.packing import one_array
from recsys_spark.params import KeywordParams, check_ranges, keyword_constructor, param
from recsys_spark.recommend.top_n import CollectedWeights, ListRequest, bags_of, distinct_ids, recommend_lists
from recsys_spark.schema import ITEM, NEIGHBOR, PART, RANK, RATING, SIMILARITY, TIMESTAMP, TRAIN, USER
from recsys_spark.training.barrier import require_trainable
from recsys_spark.training.item_item import (
    WEIGHT,
    WEIGHTINGS,
    ItemItemConfig,
    fit_item_item,
    histories_of_users,
)


class ItemItemParams(InteractionColumns, HasRegParam):
    """The Params that the estimator shares with its model."""

    ratingCol: Param[str] = param(
        "ratingCol", "column of ratings, which are numbers; empty for none", TypeConverters.toString
    )
    implicitPrefs: Param[bool] = param(
        "implicitPrefs",
        "whether a rating above 0 counts 1, whatever it is, and lists are what matters; else ratings are "
        "predicted, from each user's deviations from their mean",
        TypeConverters.toBoolean,
    )
    weighting: Param[str] = param(
        "weighting",
        "how weights come about: ridge, a regression of each item on its neighbours; cosine, jaccard or "
        "rp3beta, a measure of two items; exact, a regression on all items",
        TypeConverters.toString,
    )
    neighbors: Param[int] = param("neighbors", "most weights of an item", TypeConverters.toInt)
    dropout: Param[float] = param(
        "dropout",
        "regularisation that grows with a neighbour's events: as if this fraction of the histories' entries "
        "were hidden at random (Steck 2020), from 0 to below 1; of ridge and exact",
        TypeConverters.toFloat,
    )
    beta: Param[float] = param(
        "beta", "of rp3beta: the power of an item's number of users that divides", TypeConverters.toFloat
    )
    userExponent: Param[float] = param(
        "userExponent",
        "power of a user's number of events that divides what the user counts; not of jaccard and rp3beta",
        TypeConverters.toFloat,
    )
    itemExponent: Param[float] = param(
        "itemExponent",
        "power of an item's number of events that divides its column before a regression, and multiplies "
        "its score; of ridge and exact",
        TypeConverters.toFloat,
    )
    maxEventsPerUser: Param[int] = param(
        "maxEventsPerUser",
        "most events of a user that weights are learnt from, chosen by hashes; 0 for all. The work grows "
        "with the square of a user's events.",
        TypeConverters.toInt,
    )
    coldStartStrategy: Param[str] = param(
        "coldStartStrategy",
        "what transform does with unknown users and items: nan or drop",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(ratingCol="rating", implicitPrefs=True, weighting="ridge", neighbors=200)
        self._setDefault(regParam=200.0, dropout=0.0, beta=0.5, userExponent=0.0, itemExponent=0.0)
        self._setDefault(maxEventsPerUser=10_000, coldStartStrategy="nan")

    def getRatingCol(self) -> str:
        """Column of ratings."""
        return self.getOrDefault(self.ratingCol)

    def getImplicitPrefs(self) -> bool:
        """Whether ratings above 0 count 1."""
        return self.getOrDefault(self.implicitPrefs)

    def getWeighting(self) -> str:
        """How weights come about."""
        return self.getOrDefault(self.weighting)

    def getNeighbors(self) -> int:
        """Most weights of an item."""
        return self.getOrDefault(self.neighbors)

    def getDropout(self) -> float:
        """Fraction that is hidden."""
        return self.getOrDefault(self.dropout)

    def getBeta(self) -> float:
        """Power of an item's number of users, of ``rp3beta``."""
        return self.getOrDefault(self.beta)

    def getUserExponent(self) -> float:
        """Power of a user's number of events."""
        return self.getOrDefault(self.userExponent)

    def getItemExponent(self) -> float:
        """Power of an item's number of events."""
        return self.getOrDefault(self.itemExponent)

    def getMaxEventsPerUser(self) -> int:
        """Most events of a user that weights are learnt from."""
        return self.getOrDefault(self.maxEventsPerUser)

    def getColdStartStrategy(self) -> str:
        """What ``transform`` does with unknown users and items."""
        return self.getOrDefault(self.coldStartStrategy)


class ItemItemRecommender(
    RecommenderEstimator, KeywordParams, ItemItemParams, DefaultParamsReadable[Any], DefaultParamsWritable
):
    """A score is the sum of the weights from the items in the user's history.

    With ``weighting="ridge"`` each item's column is regressed on those of its ``neighbors`` best neighbours
    by cosine: EASE (Steck 2019) restricted to a support, each item on its own.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of ids in the input.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds.
    ratingCol : str, default "rating"
        Column of ratings, which are numbers; with ``ratingCol=""`` every row counts 1.
    implicitPrefs : bool, default True
        A rating above 0 counts 1. Without it ratings are predicted, from deviations from the user's mean.
    weighting : str, default "ridge"
        ``ridge``; ``cosine``, ``jaccard`` or ``rp3beta`` (Paudel et al. 2017), which are measures of two
        items; ``exact``, EASE of a catalogue of at most 20,000 items.
    neighbors : int, default 200
        Weights of an item, at most, at least 1: those of its best neighbours, with ``exact`` the largest.
    regParam : float, default 200.0
        Regularisation λ of ``ridge`` and ``exact``, above 0.
    dropout : float, default 0.0
        Regularisation that grows with a neighbour's events, from 0 to below 1 (Steck 2020); of ``ridge`` and
        ``exact``.
    beta : float, default 0.5
        Of ``rp3beta``: the power of an item's number of users that divides its scores, at least 0.
    userExponent : float, default 0.0
        Power of a user's number of events that divides what the user counts, at least 0; not of ``jaccard``
        and ``rp3beta``.
    itemExponent : float, default 0.0
        Power of an item's number of events that divides its column before a regression and multiplies its
        score, at least 0; of ``ridge`` and ``exact``.
    maxEventsPerUser : int, default 10000
        Events of a user that weights are learnt from, at most; 0 for all.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with unknown users and items: ``nan`` or ``drop``.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: a Param out of range.
    ModelError
        From ``fit``: null ids, null or non-finite ratings (with their number and an example), ids of another
        type, no rows, a catalogue too large for ``exact``.

    Notes
    -----
    A fit looks at rows that are not packed, collects the items and then the histories, and with ``ridge``
    finds neighbours; the last job runs when the weights are first used. Each Python worker maps ``4 *
    events`` bytes, twice that with ``ridge``, and twice as much where ratings are predicted. The driver holds
    some 50 bytes an event at its peak, and ``8 * neighbors * items``; a task 20 for each event of its items,
    and a worker with ``ridge`` 134 MB. Time: for each user the square of the events; with ``ridge`` for each
    item ``neighbors³`` and the events of its neighbours, unless these are all among some 4,096. For lists the
    weights pass through the driver once: some 80 bytes each at the peak.

    Examples
    --------
    >>> from recsys_spark import ItemItemRecommender
    >>> rows = [("ann", "tea"), ("ann", "jam"), ("bob", "tea"), ("bob", "jam"), ("cid", "tea")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string")
    >>> model = ItemItemRecommender(weighting="cosine", ratingCol="").fit(ratings)
    >>> model.recommend(ratings.select("user").distinct(), 1, ratings).show()
    +----+----+---------+----+
    |user|item|    score|rank|
    +----+----+---------+----+
    | cid| jam|0.8164966|   1|
    +----+----+---------+----+
    <BLANKLINE>
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = "user",
        itemCol: str = "item",
        predictionCol: str = "prediction",
        ratingCol: str = "rating",
        implicitPrefs: bool = True,
        weighting: str = "ridge",
        neighbors: int = 200,
        regParam: float = 200.0,
        dropout: float = 0.0,
        beta: float = 0.5,
        userExponent: float = 0.0,
        itemExponent: float = 0.0,
        maxEventsPerUser: int = 10_000,
        coldStartStrategy: str = "nan",
    ) -> None:
        super().__init__()
        self._set_given()

    def setRatingCol(self, value: str) -> Self:
        """Set the column of ratings.

        Parameters
        ----------
        value : str
            Name of the column; empty for none.
        """
        return self._set(ratingCol=value)

    def setImplicitPrefs(self, value: bool) -> Self:
        """Set the meaning of ratings.

        Parameters
        ----------
        value : bool
            Whether ratings above 0 count 1; else ratings are predicted.
        """
        return self._set(implicitPrefs=value)

    def setWeighting(self, value: str) -> Self:
        """Set the way that weights come about.

        Parameters
        ----------
        value : str
            ``ridge``, ``cosine``, ``jaccard``, ``rp3beta`` or ``exact``.
        """
        return self._set(weighting=value)

    def setNeighbors(self, value: int) -> Self:
        """Set the number of weights of an item.

        Parameters
        ----------
        value : int
            Most weights of an item, at least 1.
        """
        return self._set(neighbors=value)

    def setRegParam(self, value: float) -> Self:
        """Set the regularisation.

        Parameters
        ----------
        value : float
            Of ``ridge`` and ``exact``, above 0.
        """
        return self._set(regParam=value)

    def setDropout(self, value: float) -> Self:
        """Set the fraction that is hidden.

        Parameters
        ----------
        value : float
            From 0 to below 1.
        """
        return self._set(dropout=value)

    def setBeta(self, value: float) -> Self:
        """Set the power of an item's number of users.

        Parameters
        ----------
        value : float
            Of ``rp3beta``, at least 0.
        """
        return self._set(beta=value)

    def setUserExponent(self, value: float) -> Self:
        """Set the power of a user's number of events.

        Parameters
        ----------
        value : float
            At least 0.
        """
        return self._set(userExponent=value)

    def setItemExponent(self, value: float) -> Self:
        """Set the power of an item's number of events.

        Parameters
        ----------
        value : float
            At least 0.
        """
        return self._set(itemExponent=value)

    def setMaxEventsPerUser(self, value: int) -> Self:
        """Set the most events of a user that weights are learnt from.

        Parameters
        ----------
        value : int
            At least 0; 0 for all.
        """
        return self._set(maxEventsPerUser=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set the answer to unknown users and items.

        Parameters
        ----------
        value : str
            ``nan`` or ``drop``.
        """
        return self._set(coldStartStrategy=value)

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for explicit feedback."""
        return not self.getImplicitPrefs()

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range."""
        least = {"neighbors": 1, "beta": 0, "userExponent": 0, "itemExponent": 0, "maxEventsPerUser": 0}
        allowed = {"weighting": WEIGHTINGS, "coldStartStrategy": ("nan", "drop")}
        check_ranges(self, {**least, "regParam": 0}, allowed, fractions=("dropout",))
        if self.getRegParam() == 0 and self.getWeighting() in ("ridge", "exact"):
            raise ValueError("regParam must be above 0: items with the same users have no regression without")
        if self.getWeighting() in ("jaccard", "rp3beta") and not self.getImplicitPrefs():
            raise ValueError(f"weighting {self.getWeighting()!r} counts users, and implicitPrefs is not set")

    def _fit(self, dataset: DataFrame | PackedHistories) -> ItemItemModel:
        self.check()
        packed, own = self._packed(dataset)
        config = ItemItemConfig(
            self.getWeighting(),
            self.getNeighbors(),
            self.getRegParam(),
            self.getDropout(),
            self.getBeta(),
            self.getUserExponent() if self.getWeighting() != "jaccard" else 0.0,
            self.getItemExponent() if self.getWeighting() in ("ridge", "exact") else 0.0,
            self.getMaxEventsPerUser(),
            self.predicts_ratings,
        )
        try:
            fit = fit_item_item(packed, config)
        except BaseException:
            if own is not None:
                own.unpersist()
            raise
        spark, kind = packed.sparkSession, T.StructType([T.StructField("id", packed.id_types[1])])
        items = spark.createDataFrame(pa.table([fit.items], names=["id"]), kind)
        model = ItemItemModel(fit.weights, items, histories_of_users(packed, self.predicts_ratings))
        return self._copyValues(model._store(fit.weights, own))

    def _packed(self, dataset: DataFrame | PackedHistories) -> tuple[PackedHistories, DataFrame | None]:
        """The histories, and what is kept in memory for them alone."""
        names = tuple(self.getOrDefault(name) for name in (self.userCol, self.itemCol, self.ratingCol))
        if isinstance(dataset, PackedHistories):
            if names == (USER, ITEM, RATING):
                return dataset, None
            dataset = dataset.rows(USER, ITEM, RATING)
        packed = packed_rows(dataset, *names)
        return packed, packed.packed


def packed_rows(rows: DataFrame, user: str, item: str, rating: str) -> PackedHistories:
    """Rows as histories; a pair that is there more than once has its mean rating, of the ratings in ascending
    order. A job looks at all rows.

    Parameters
    ----------
    rows : DataFrame
        Ratings.
    user, item, rating : str
        Columns; an empty ``rating`` for 1.

    Raises
    ------
    ModelError
        Ids are null, or ratings no finite numbers in float32, with their number and an example.
    """
    value = (column_of(rows, rating)[0] if rating else F.lit(1.0)).cast("double")
    pairs = rows.select(
        id_column(rows, user).alias(USER), id_column(rows, item).alias(ITEM), value.alias(RATING)
    )
    single = F.col(RATING).cast("float")
    finite = F.coalesce(F.abs(single) < float("inf"), F.lit(False)) & ~F.isnan(single)
    unusable = F.col(USER).isNull() | F.col(ITEM).isNull() | ~finite
    example = F.first(F.when(unusable, F.to_json(F.struct(USER, ITEM, RATING))), ignorenulls=True)
    rejected = F.count_if(unusable).alias("rejected"), example.alias("example")
    (counted,) = pairs.agg(F.count("*").alias("rows"), *rejected).collect()
    require_trainable(counted["rejected"], counted["example"])
    in_order = F.array_sort(F.collect_list(RATING))
    total = F.aggregate(in_order, F.lit(0.0), lambda before, rating: before + rating)
    pairs = pairs.groupBy(USER, ITEM).agg((total / F.count("*")).alias(RATING))
    absent = {TIMESTAMP: F.lit(None).cast("timestamp"), PART: F.lit(TRAIN)}
    return pack_histories(pairs.withColumns(absent), counted["rows"]).of(TRAIN)


class ItemItemModel(FramesModel, RecommenderModel, ItemItemParams):
    """Weights of item pairs, and the users' histories.

    Attributes
    ----------
    weights : DataFrame
        One row per (item, neighbor): ``item``, ``neighbor``, ``weight`` float: what the neighbour, in a
        history, adds to the item's score.
    items : DataFrame
        One row per item: ``id``.
    histories : DataFrame
        One row per user: ``id``, ``items`` and ``values``, arrays, and ``bias`` float.
    """

    folds_in: ClassVar[bool] = True

    def __init__(self, weights: DataFrame, items: DataFrame, histories: DataFrame) -> None:
        super().__init__()
        self.weights = weights
        self.items = items
        self.histories = histories
        self._stored: Stored | None = None
        self._on_driver: CollectedWeights | None = None

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.histories.select(F.col("id").alias(USER))

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Best items of each known user; see :meth:`RecommenderModel.recommend_lists`. Items that nothing
        speaks for score 0, in the order of their ids. A join, then the top-N engine.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        nothing = F.array().cast("array<float>").alias("features")
        wanted = self.histories.join(distinct_ids(users, USER, self.histories), "id", "left_semi")
        wanted, items = wanted.withColumn("features", nothing), self.items.select("id", nothing)
        return recommend_lists(wanted, items, request, weights=self._collected())

    def similarItems(self, n: int) -> DataFrame:
        """The ``n`` items that speak most for each item.

        Parameters
        ----------
        n : int
            Length of the lists, at least 1.

        Returns
        -------
        DataFrame
            One row per (item, rank): ``item``, ``neighbor``, ``similarity`` float, the weight, above 0;
            ``rank`` from 1. Of equal weights the smaller neighbour is first.
        """
        order = Window.partitionBy(ITEM).orderBy(F.desc(WEIGHT), NEIGHBOR)
        ranked = self.weights.where(F.col(WEIGHT) > 0).withColumn(RANK, F.row_number().over(order))
        similarity = F.col(WEIGHT).alias(SIMILARITY)
        return self._held(ranked.where(F.col(RANK) <= n).select(ITEM, NEIGHBOR, similarity, RANK))

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None) -> ItemItemModel:
        """A model of other users, from their histories, with the same weights.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``, ``itemCol``, and ``ratingCol`` if it is named; items that the model does not know
            add nothing.
        ratingCol : str, optional
            Column of ratings; without it every row counts 1.

        Returns
        -------
        ItemItemModel
            Its users are those of ``histories``. Two shuffles, when it is used; a job counts the rows.
        """
        user, item = self.getUserCol(), self.getItemCol()
        same, key = (
            matching_id(histories, item, self.items.schema["id"].dataType),
            unused("item id", histories),
        )
        known = self.items.select(F.col("id").alias(key))
        rating = (column_of(histories, ratingCol)[0] if ratingCol else F.lit(1.0)).alias(RATING)
        ids = id_column(histories, user).alias(USER), same.alias(ITEM)
        rows = histories.select(*ids, rating).join(known, F.col(ITEM) == F.col(key), "left_semi")
        packed = packed_rows(rows, USER, ITEM, RATING)
        model = self.copy()
        model.histories = histories_of_users(packed, not self.getImplicitPrefs())
        return model._store(packed.packed)

    def unpersist(self) -> None:
        """Release the cached result of the fit. Save and reload the model first: using it afterwards
        re-runs the fit.
        """
        self._on_driver = None
        if self._stored is not None:
            self._stored.unpersist()

    def _store(self, *kept: DataFrame | None) -> Self:
        """Let the model keep what is persisted, beside what it has from the model that it was copied from."""
        self._stored = Stored(*(frame for frame in kept if frame is not None), further=self._stored)
        for own in self.frames().values():
            self._held(own)
        return self

    def _held(self, frame: DataFrame) -> DataFrame:
        return frame if self._stored is None else self._stored.hold(frame)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add the score as float; NaN for an unknown user or item."""
        prediction = self.getOrDefault(self.predictionCol)
        require_new(dataset, [prediction], "transform")
        columns = {name: unused(f"user {name}", dataset) for name in ("id", "items", "values", "bias")}
        known = self.histories.select(*(F.col(name).alias(column) for name, column in columns.items()))
        user = matching_id(dataset, self.getUserCol(), self.histories.schema["id"].dataType)
        item = matching_id(dataset, self.getItemCol(), self.items.schema["id"].dataType)
        asked = unused("item id", dataset)
        joined = dataset.withColumn(asked, item).join(known, user == F.col(columns["id"]), "left")
        predict = arrow_udf(self._predicting(), T.FloatType()).asNondeterministic()  # type: ignore[call-overload]
        inputs = [*(columns[name] for name in ("items", "values", "bias")), asked]
        rows = joined.withColumn(prediction, predict(*map(F.col, inputs))).drop(columns["id"], *inputs)
        if self.getColdStartStrategy() == "drop":
            rows = rows.where(~F.isnan(quoted(prediction)))
        return self._held(rows)

    def _predicting(self) -> Callable[..., pa.Array]:
        """Scores of pairs from the users' histories and the item."""
        catalogue, weights = one_array(self.items.toArrow()["id"]), self._collected()
        of_all = catalogue, weights.items, weights.neighbors, weights.by_item()
        shared = self.weights.sparkSession.sparkContext.broadcast(of_all)

        def predict(items: pa.Array, values: pa.Array, biases: pa.Array, asked: pa.Array) -> pa.Array:
            ids, targets, neighbors, of_targets = shared.value
            known = np.asarray(items.is_valid()) & np.asarray(pc.is_in(asked, value_set=ids))
            rows = pc.fill_null(pc.index_in(asked, value_set=targets), -1).to_numpy(zero_copy_only=False)
            scores = pair_scores(bags_of(items, values, neighbors), rows.astype(np.int32), of_targets)
            scores += biases.fill_null(0.0).to_numpy(zero_copy_only=False)
            return pa.array(np.where(known, scores, np.nan).astype(np.float32))

        return predict

    def _collected(self) -> CollectedWeights:
        """The weights on the driver, collected once."""
        if self._on_driver is None:
            self._on_driver = CollectedWeights.of(self.weights)
        return self._on_driver

    def frames(self) -> dict[str, DataFrame]:
        """Weights, items and histories."""
        return {"weights": self.weights, "items": self.items, "histories": self.histories}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames."""
        return ("weights", "items", "histories")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of weights, items and histories.

        Parameters
        ----------
        frames : dict
            Name of a frame → DataFrame.
        """
        return cls(frames["weights"], frames["items"], frames["histories"])
