"""A graph filter without training: what is two steps away in the graph of users and items, and its leading
singular vectors.

The singular vectors are found in :mod:`recsys_spark.training.spectral`, the pairs counted in
:mod:`recsys_spark.training.item_item`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasSeed
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.arrays import Mapped
from recsys_spark.kernels.bags import bag_sums
from recsys_spark.models.pair_model import NeighborEstimator, NeighborModel, NeighborParams
from recsys_spark.packing import lists_of, plain
from recsys_spark.params import check_ranges, keyword_constructor, param
from recsys_spark.recommend.scores import bags_of, collect_factors
from recsys_spark.schema import SEEDED
from recsys_spark.training.item_item import GRAPH, ItemItemConfig, fit_item_item, histories_of_users
from recsys_spark.training.spectral import SpectralConfig, fit_spectral


class SpectralParams(NeighborParams, HasSeed):
    """The Params that the estimator shares with its model."""

    rank: Param[int] = param("rank", "singular vectors", TypeConverters.toInt)
    alpha: Param[float] = param(
        "alpha", "weight of the singular vectors beside the pairs", TypeConverters.toFloat
    )
    beta: Param[float] = param(
        "beta",
        "power of an item's number of users that divides it in a history and multiplies its score",
        TypeConverters.toFloat,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(neighbors=300, rank=512, alpha=0.2, beta=0.4, seed=SEEDED)

    def getRank(self) -> int:
        """Singular vectors."""
        return self.getOrDefault(self.rank)

    def getAlpha(self) -> float:
        """Weight of the singular vectors."""
        return self.getOrDefault(self.alpha)

    def getBeta(self) -> float:
        """Power of an item's number of users."""
        return self.getOrDefault(self.beta)


class SpectralRecommender(NeighborEstimator, SpectralParams):
    """A linear filter of the graph of users and items, which is not trained.

    With R̃ the interactions, each divided by the roots of its user's and its item's numbers of them, D the
    items' numbers and V the leading right singular vectors of R̃, a user with the interactions r has the
    scores ``D^β (R̃ᵀR̃ + α V Vᵀ) D^-β r`` (GF-CF, Shen et al. 2021; with D as ChebyCF has it, Kim et al.
    2025). Of the pairs the largest ``neighbors`` of each item are kept, and none with the item itself. With
    ``maxEventsPerUser`` pairs, and the numbers they are divided by, are of what is left.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of ids in the input.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds.
    ratingCol : str, default "rating"
        Column of ratings, of which those above 0 count, whatever they are; with ``ratingCol=""`` every row.
    neighbors : int, default 300
        Weights of an item, at most, at least 1.
    rank : int, default 512
        Singular vectors, at least 1; fewer where the data has no more.
    alpha : float, default 0.2
        Weight of the singular vectors beside the pairs, at least 0.
    beta : float, default 0.4
        Power of an item's number of users that divides it in a history and multiplies its score, at least 0.
    maxEventsPerUser : int, default 10000
        Events of a user that pairs are counted in, at most; 0 for all.
    seed : int, default 42
        Of the vectors that the iteration starts from.
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
        type, no rating above 0.

    Notes
    -----
    One barrier job of ``3 * rank / 32`` passes over the interactions, with 64 additions for each of them and
    pass; a task holds ``12 * rank`` bytes for each of its items. Pairs cost what ``cosine`` of
    :class:`~recsys_spark.models.item_item.ItemItemRecommender` does. A user's vector is a sum over the
    history, made when lists are, once more to count users; the items' vectors pass through the driver twice:
    ``8 * rank`` bytes each. Later singular vectors are approximate where many values are alike.

    Examples
    --------
    >>> from recsys_spark import SpectralRecommender
    >>> rows = [("ann", "tea"), ("ann", "jam"), ("bob", "tea"), ("bob", "jam"), ("cid", "tea")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string")
    >>> model = SpectralRecommender(rank=1, ratingCol="", seed=1).fit(ratings)
    >>> model.recommend(ratings.select("user").distinct(), 1, ratings).select("user", "item").show()
    +----+----+
    |user|item|
    +----+----+
    | cid| jam|
    +----+----+
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
        neighbors: int = 300,
        rank: int = 512,
        alpha: float = 0.2,
        beta: float = 0.4,
        maxEventsPerUser: int = 10_000,
        seed: int = SEEDED,
        coldStartStrategy: str = "nan",
    ) -> None:
        super().__init__()
        self._set_given()

    def setRank(self, value: int) -> Self:
        """Set the number of singular vectors.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(rank=value)

    def setAlpha(self, value: float) -> Self:
        """Set the weight of the singular vectors.

        Parameters
        ----------
        value : float
            At least 0.
        """
        return self._set(alpha=value)

    def setBeta(self, value: float) -> Self:
        """Set the power of an item's number of users.

        Parameters
        ----------
        value : float
            At least 0.
        """
        return self._set(beta=value)

    def setSeed(self, value: int) -> Self:
        """Set the seed.

        Parameters
        ----------
        value : int
            Of the vectors that the iteration starts from.
        """
        return self._set(seed=value)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range."""
        check_ranges(self, {"neighbors": 1, "rank": 1, "alpha": 0, "beta": 0, "maxEventsPerUser": 0}, {})

    def _fit(self, dataset: DataFrame | PackedHistories) -> SpectralModel:
        self.check()
        packed, own = self._packed(dataset)
        pairs = ItemItemConfig(
            weighting=GRAPH,
            neighbors=self.getNeighbors(),
            regularization=0.0,
            dropout=0.0,
            beta=self.getBeta(),
            user_exponent=1.0,
            item_exponent=0.0,
            max_events=self.getMaxEventsPerUser(),
            centred=False,
        )
        kept = [own]
        try:
            near = fit_item_item(packed, pairs)
            kept.append(near.weights)
            found = fit_spectral(packed, SpectralConfig(self.getRank(), self.getSeed()))
            kept.append(found.persisted)
            kind = T.StructType([T.StructField("id", packed.id_types[1])])
            items = packed.sparkSession.createDataFrame(pa.table([near.items], names=["id"]), kind)
            vectors = self._vectors(items.join(found.items, "id", "left"), len(found.values))
        except BaseException:
            for frame in kept:
                if frame is not None:
                    frame.unpersist()
            raise
        model = SpectralModel(near.weights, vectors, histories_of_users(packed, False))
        return self._copyValues(model._store(*kept))

    def _vectors(self, items: DataFrame, rank: int) -> DataFrame:
        """Items' vectors, as scores have them; zeros of an item without a rating above 0."""
        power = F.pow(F.col("count"), F.lit(self.getBeta()))
        scale = F.sqrt(F.lit(self.getAlpha())) * power
        features = F.transform("vector", lambda x: (x * scale).cast("float"))
        nothing = F.array_repeat(F.lit(0.0).cast("float"), rank)
        divisor = F.coalesce(power * power, F.lit(1.0)).cast("float").alias("divisor")
        return items.select("id", F.coalesce(features, nothing).alias("features"), divisor)


class SpectralModel(NeighborModel, SpectralParams):
    """Weights of item pairs, items' vectors, and the users' histories.

    Attributes
    ----------
    weights : DataFrame
        One row per (item, neighbor): ``item``, ``neighbor``, ``weight`` float: what the neighbour, in a
        history, adds to the item's score beside their vectors' part.
    items : DataFrame
        One row per item: ``id``, ``features`` array<float>, by which a score is a dot product, and
        ``divisor`` float, the squared power of the number of users: ``features / divisor`` is what the item
        adds to a user's vector.
    histories : DataFrame
        One row per user: ``id``, ``items`` and ``values``, arrays, and ``bias`` float, 0.
    """

    def _item_vectors(self) -> DataFrame:
        return self.items.select("id", "features")

    def _with_vectors(self, histories: DataFrame) -> DataFrame:
        """Histories with the sums of their items' vectors."""
        by_divisor = F.transform("features", lambda x: (x / F.col("divisor")).cast("float"))
        ids, vectors, _ = collect_factors(self.items.select("id", by_divisor.alias("features")))
        shared = histories.sparkSession.sparkContext.broadcast(Mapped((ids, vectors)))

        def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            catalogue, of_items = shared.value.value
            for batch in map(plain, batches):
                bags = bags_of(batch["items"], batch["values"], catalogue)
                every = np.arange(batch.num_rows, dtype=np.int32)
                sums = bag_sums(bags.indptr, bags.items, every, of_items)
                yield batch.append_column("features", lists_of(sums))

        features = T.StructField("features", T.ArrayType(T.FloatType()))
        return histories.mapInArrow(add, T.StructType([*histories.schema.fields, features]))
