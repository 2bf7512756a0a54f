"""Quality of lists as ``pyspark.ml`` asks for it, in ``CrossValidator`` and ``TrainValidationSplit``."""

from __future__ import annotations

import math

from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import Param, TypeConverters
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import column_of
from recsys_spark.errors import ModelError
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.kernels.metrics import ACCURACY
from recsys_spark.models.base import RecommenderModel, maker_of
from recsys_spark.params import KeywordParams, check_ranges, keyword_constructor, param
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, USER


class TopNEvaluator(Evaluator, KeywordParams):
    """A metric of the lists that a model makes for the users of held-out rows: the best ``k`` items of the
    whole catalogue, without what the user has in other rows.

    It takes what a model's ``transform`` returns, for the model that it comes from: predictions of the
    held-out pairs alone say little of lists, and are not computed.

    Parameters
    ----------
    ratings : DataFrame
        All rows that are divided: what a user has there, and not in the held-out rows, is seen, and the rows
        that are left make the catalogue. The model's ``userCol`` and ``itemCol``.
    metricName : str, default "ndcg"
        ``hit_rate``, ``precision``, ``recall``, ``map``, ``mrr`` or ``ndcg``, as
        :func:`~recsys_spark.evaluation.ranking.ranking_metrics` has them; larger is better.
    k : int, default 10
        Length of the lists.
    ratingCol : str, default "rating"
        Column of the held-out rows' ratings, read where ``minRating`` is set.
    minRating : float, default -inf
        Held-out rows below this rating do not count as relevant.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one.
    ValueError
        From ``evaluate``: an unknown metric, or ``k`` below 1.
    ModelError
        From ``evaluate``: a frame that no recommender's ``transform`` has returned; no relevant row.

    Notes
    -----
    Cost of an evaluation: a join of the ratings and the held-out rows, lists of the held-out users, and the
    metrics.

    Examples
    --------
    >>> from recsys_spark import PopularityRecommender
    >>> from recsys_spark.tuning import TopNEvaluator
    >>> pairs = [("ann", "tea"), ("bob", "tea"), ("bob", "jam")]
    >>> train = spark.createDataFrame(pairs, "user string, item string")
    >>> held = spark.createDataFrame([("ann", "jam")], "user string, item string")
    >>> evaluator = TopNEvaluator(ratings=train.union(held), metricName="hit_rate", k=1)
    >>> evaluator.evaluate(PopularityRecommender().fit(train).transform(held))
    1.0
    """

    metricName: Param[str] = param("metricName", "metric of the lists", TypeConverters.toString)
    k: Param[int] = param("k", "length of the lists", TypeConverters.toInt)
    ratingCol: Param[str] = param("ratingCol", "column of the held-out ratings", TypeConverters.toString)
    minRating: Param[float] = param(
        "minRating", "held-out rows below this rating do not count as relevant", TypeConverters.toFloat
    )

    @keyword_constructor
    def __init__(
        self,
        *,
        ratings: DataFrame,
        metricName: str = "ndcg",
        k: int = 10,
        ratingCol: str = "rating",
        minRating: float = -math.inf,
    ) -> None:
        super().__init__()
        self._setDefault(metricName="ndcg", k=10, ratingCol="rating", minRating=-math.inf)
        self.ratings = ratings
        self._set_given()

    def isLargerBetter(self) -> bool:
        """True: all of these metrics are better where they are larger."""
        return True

    def getMetricName(self) -> str:
        """Metric of the lists."""
        return self.getOrDefault(self.metricName)

    def getK(self) -> int:
        """Length of the lists."""
        return self.getOrDefault(self.k)

    def getRatingCol(self) -> str:
        """Column of the held-out ratings."""
        return self.getOrDefault(self.ratingCol)

    def getMinRating(self) -> float:
        """Held-out rows below this rating do not count as relevant."""
        return self.getOrDefault(self.minRating)

    def _evaluate(self, dataset: DataFrame) -> float:
        check_ranges(self, {"k": 1}, {"metricName": tuple(ACCURACY)})
        made = maker_of(dataset)
        if made is None:
            raise ModelError(
                "lists are evaluated of what a recommender's transform returned, itself: this frame comes "
                "from something else, or has been changed since"
            )
        model, dataset = made  # a model may drop pairs that it cannot predict
        held, ratings = _pairs(model, dataset), _pairs(model, self.ratings)
        least, relevant, k = self.getMinRating(), held, self.getK()
        if least > -math.inf:
            rating = column_of(dataset, self.getRatingCol())[0]
            relevant = _pairs(model, dataset.where(rating >= F.lit(least)))
        seen = ratings.join(held, [USER, ITEM], "left_anti").persist()
        try:
            lists = model.recommend_lists(relevant.select(USER).distinct(), ListRequest(k, seen))
            found = ranking_metrics({"": lists}, relevant, seen, None, [k], bootstrap=0, seed=0)
        finally:
            seen.unpersist()
        values = [one.value for one in found if one.metric == self.getMetricName()]
        if not values or not math.isfinite(values[0]):
            raise ModelError("no held-out row is relevant: minRating is above them all, or there is none")
        return values[0]


def _pairs(model: RecommenderModel, frame: DataFrame) -> DataFrame:
    """``user``, ``item`` of a frame with the model's columns."""
    names = {USER: model.getOrDefault("userCol"), ITEM: model.getOrDefault("itemCol")}
    return frame.select(*(column_of(frame, name)[0].alias(role) for role, name in names.items()))
