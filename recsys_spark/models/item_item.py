"""Weights of item pairs: what a user has speaks for what goes with it.

The weights' formulas are in :mod:`recsys_spark.kernels.item_item`; how the work is spread over Spark in
:mod:`recsys_spark.training.item_item`.
"""

from __future__ import annotations

from typing import Any, Self

import pyarrow as pa
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasRegParam
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from recsys_spark.histories import PackedHistories
from recsys_spark.models.pair_model import NeighborEstimator, NeighborModel, NeighborParams
from recsys_spark.params import check_ranges, keyword_constructor, param
from recsys_spark.training.item_item import (
    WEIGHTINGS,
    ItemItemConfig,
    fit_item_item,
    histories_of_users,
)


class ItemItemParams(NeighborParams, HasRegParam):
    """The Params that the estimator shares with its model."""

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

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(implicitPrefs=True, weighting="ridge", neighbors=200, regParam=200.0)
        self._setDefault(dropout=0.0, beta=0.5, userExponent=0.0, itemExponent=0.0)

    def getImplicitPrefs(self) -> bool:
        """Whether ratings above 0 count 1."""
        return self.getOrDefault(self.implicitPrefs)

    def getWeighting(self) -> str:
        """How weights come about."""
        return self.getOrDefault(self.weighting)

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


class ItemItemRecommender(NeighborEstimator, ItemItemParams):
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
        kind = T.StructType([T.StructField("id", packed.id_types[1])])
        items = packed.sparkSession.createDataFrame(pa.table([fit.items], names=["id"]), kind)
        model = ItemItemModel(fit.weights, items, histories_of_users(packed, self.predicts_ratings))
        return self._copyValues(model._store(fit.weights, own))


class ItemItemModel(NeighborModel, ItemItemParams):
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

    @property
    def centred(self) -> bool:
        """Whether what a user's items count are ratings less their mean."""
        return not self.getImplicitPrefs()
