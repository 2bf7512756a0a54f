"""Models whose score is a sum over the user's history, of weights of item pairs, and where items have vectors
a dot product beside it.

    score(u, i) = Σ_j w_ij x_uj + x_u · y_i + b_u + b_i
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Param, TypeConverters
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
from recsys_spark.params import KeywordParams, param
from recsys_spark.recommend.rescore import dot_products
from recsys_spark.recommend.scores import CollectedWeights, LinearScores, bags_of, collect_factors, matrix_of
from recsys_spark.recommend.top_n import ListRequest, distinct_ids, no_vector, recommend_lists
from recsys_spark.schema import ITEM, NEIGHBOR, PART, RANK, RATING, SIMILARITY, TIMESTAMP, TRAIN, USER
from recsys_spark.training.barrier import require_trainable
from recsys_spark.training.item_item import WEIGHT, histories_of_users


class ItemPairParams(InteractionColumns):
    """The Params that all models of item pairs have."""

    ratingCol: Param[str] = param(
        "ratingCol", "column of ratings, which are numbers; empty for none", TypeConverters.toString
    )
    coldStartStrategy: Param[str] = param(
        "coldStartStrategy",
        "what transform does with unknown users and items: nan or drop",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(ratingCol="rating", coldStartStrategy="nan")

    def getRatingCol(self) -> str:
        """Column of ratings."""
        return self.getOrDefault(self.ratingCol)

    def getColdStartStrategy(self) -> str:
        """What ``transform`` does with unknown users and items."""
        return self.getOrDefault(self.coldStartStrategy)


class NeighborParams(ItemPairParams):
    """Those of models that find weights by counting who has both items."""

    neighbors: Param[int] = param("neighbors", "most weights of an item", TypeConverters.toInt)
    maxEventsPerUser: Param[int] = param(
        "maxEventsPerUser",
        "most events of a user that weights are learnt from, chosen by hashes; 0 for all. The work grows "
        "with the square of a user's events.",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(maxEventsPerUser=10_000)

    def getNeighbors(self) -> int:
        """Most weights of an item."""
        return self.getOrDefault(self.neighbors)

    def getMaxEventsPerUser(self) -> int:
        """Most events of a user that weights are learnt from."""
        return self.getOrDefault(self.maxEventsPerUser)


class ItemPairEstimator(
    RecommenderEstimator, KeywordParams, ItemPairParams, DefaultParamsReadable[Any], DefaultParamsWritable
):
    """An estimator whose model has weights of item pairs."""

    def setRatingCol(self, value: str) -> Self:
        """Set the column of ratings.

        Parameters
        ----------
        value : str
            Name of the column; empty for none.
        """
        return self._set(ratingCol=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set the answer to unknown users and items.

        Parameters
        ----------
        value : str
            ``nan`` or ``drop``.
        """
        return self._set(coldStartStrategy=value)


class NeighborEstimator(ItemPairEstimator, NeighborParams):
    """One that finds the weights by counting who has both items."""

    def setNeighbors(self, value: int) -> Self:
        """Set the number of weights of an item.

        Parameters
        ----------
        value : int
            Most weights of an item, at least 1.
        """
        return self._set(neighbors=value)

    def setMaxEventsPerUser(self, value: int) -> Self:
        """Set the most events of a user that weights are learnt from.

        Parameters
        ----------
        value : int
            At least 0; 0 for all.
        """
        return self._set(maxEventsPerUser=value)

    def _packed(self, dataset: DataFrame | PackedHistories) -> tuple[PackedHistories, DataFrame | None]:
        """The histories, and what is kept in memory for them alone."""
        names = tuple(self.getOrDefault(name) for name in (self.userCol, self.itemCol, self.ratingCol))
        if isinstance(dataset, PackedHistories):
            if names == (USER, ITEM, RATING):
                return dataset, None
            dataset = dataset.rows(USER, ITEM, RATING)
        packed = packed_rows(dataset, *names)
        return packed, packed.packed


def packed_rows(rows: DataFrame, user: str, item: str, rating: str, timestamp: str = "") -> PackedHistories:
    """Rows as histories; a pair that is there more than once has its mean rating, of the ratings in ascending
    order, and its last time. A job looks at all rows.

    Parameters
    ----------
    rows : DataFrame
        Ratings.
    user, item, rating, timestamp : str
        Columns; an empty ``rating`` for 1, and an empty ``timestamp`` for none.

    Raises
    ------
    ModelError
        Ids are null, or ratings no finite numbers in float32, with their number and an example.
    """
    value = (column_of(rows, rating)[0] if rating else F.lit(1.0)).cast("double")
    time = column_of(rows, timestamp)[0] if timestamp else F.lit(None)
    pairs = rows.select(
        id_column(rows, user).alias(USER),
        id_column(rows, item).alias(ITEM),
        value.alias(RATING),
        time.cast("timestamp").alias(TIMESTAMP),
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
    mean, last = (total / F.count("*")).alias(RATING), F.max(TIMESTAMP).alias(TIMESTAMP)
    once = pairs.groupBy(USER, ITEM).agg(mean, last)
    return pack_histories(once.withColumn(PART, F.lit(TRAIN)), counted["rows"]).of(TRAIN)


def packed_known_rows(
    histories: DataFrame, user: str, item: str, rating: str | None, items: DataFrame, timestamp: str = ""
) -> PackedHistories:
    """Rows of known items as histories, as :func:`packed_rows` makes them.

    Parameters
    ----------
    histories : DataFrame
        Of users whom a model folds in.
    user, item : str
        Columns of ids.
    rating : str or None
        Column; without it every row counts 1.
    items : DataFrame
        ``id``: what the model knows.
    timestamp : str
        Column; empty for none.
    """
    same, key = matching_id(histories, item, items.schema["id"].dataType), unused("item id", histories)
    value = (column_of(histories, rating)[0] if rating else F.lit(1.0)).alias(RATING)
    time = (column_of(histories, timestamp)[0] if timestamp else F.lit(None)).cast("timestamp")
    columns = id_column(histories, user).alias(USER), same.alias(ITEM), value, time.alias(TIMESTAMP)
    known = items.select(F.col("id").alias(key))
    rows = histories.select(*columns).join(known, F.col(ITEM) == F.col(key), "left_semi")
    return packed_rows(rows, USER, ITEM, RATING, TIMESTAMP if timestamp else "")


class PairModel(FramesModel, RecommenderModel, ItemPairParams):
    """Weights of item pairs, vectors of items, and the users' histories.

    Attributes
    ----------
    weights : DataFrame
        One row per (item, neighbor): ``item``, ``neighbor``, ``weight`` float: what the neighbour, in a
        history, adds to the item's score.
    items : DataFrame
        One row per item: ``id``, and where items have vectors ``features`` array<float>.
    histories : DataFrame
        One row per user: ``id``, ``items`` and ``values``, arrays, and ``bias`` float.
    """

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

    def linear_scores(self) -> LinearScores:
        """What lists are made of."""
        return LinearScores(self._with_vectors(self.histories), self._item_vectors(), self._collected())

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Best items of each known user; see :meth:`RecommenderModel.recommend_lists`. Of equal scores, such
        as 0 of items that nothing speaks for, the smaller item is first. A join, then the top-N engine.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        wanted = self.histories.join(distinct_ids(users, USER, self.histories), "id", "left_semi")
        users, items = self._with_vectors(wanted), self._item_vectors()
        return recommend_lists(users, items, request, weights=self._collected())

    def unpersist(self) -> None:
        """Release the cached result of the fit. Save and reload the model first: using it afterwards
        re-runs the fit.
        """
        self._on_driver = None
        if self._stored is not None:
            self._stored.unpersist()

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

    def _with_vectors(self, histories: DataFrame) -> DataFrame:
        """Users' histories with ``features``, of the length of the items'."""
        return histories.withColumn("features", no_vector())

    def _item_vectors(self) -> DataFrame:
        """``id``, ``features`` and perhaps ``bias`` of the items."""
        return self.items.select("id", no_vector())

    def _collected(self) -> CollectedWeights:
        """The weights on the driver, collected once."""
        if self._on_driver is None:
            self._on_driver = CollectedWeights.of(self.weights)
        return self._on_driver

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
        users, items = self._with_vectors(self.histories), self._item_vectors()
        columns = {name: unused(f"user {name}", dataset) for name in ("id", *_OF_USERS)}
        known = users.select(*(F.col(name).alias(column) for name, column in columns.items()))
        user = matching_id(dataset, self.getUserCol(), users.schema["id"].dataType)
        item = matching_id(dataset, self.getItemCol(), items.schema["id"].dataType)
        asked = unused("item id", dataset)
        joined = dataset.withColumn(asked, item).join(known, user == F.col(columns["id"]), "left")
        predict = arrow_udf(_predicting(items, self._collected()), T.FloatType()).asNondeterministic()  # type: ignore[call-overload]
        inputs = [*(columns[name] for name in _OF_USERS), asked]
        rows = joined.withColumn(prediction, predict(*map(F.col, inputs))).drop(columns["id"], *inputs)
        if self.getColdStartStrategy() == "drop":
            rows = rows.where(~F.isnan(quoted(prediction)))
        return self._held(rows)


_OF_USERS = ("features", "items", "values", "bias")


def _predicting(items: DataFrame, weights: CollectedWeights) -> Callable[..., pa.Array]:
    """Scores of pairs from what is known of the users and the item."""
    of_weights = weights.items, weights.neighbors, weights.by_item()
    shared = items.sparkSession.sparkContext.broadcast((*collect_factors(items), *of_weights))

    def predict(
        vectors: pa.Array, history: pa.Array, values: pa.Array, biases: pa.Array, asked: pa.Array
    ) -> pa.Array:
        ids, factors, of_items, targets, neighbors, of_targets = shared.value
        places = pc.fill_null(pc.index_in(asked, value_set=ids), -1).to_numpy(zero_copy_only=False)
        known = np.flatnonzero(np.asarray(history.is_valid()) & (places >= 0))
        rows = pc.fill_null(pc.index_in(asked, value_set=targets), -1).to_numpy(zero_copy_only=False)
        bags, every = bags_of(history, values, neighbors), np.arange(len(asked))
        scores = pair_scores(bags, every, rows.astype(np.int32), of_targets)
        scores += biases.fill_null(0.0).to_numpy(zero_copy_only=False)
        y = factors[places[known]]
        x = matrix_of(pa.chunked_array([vectors.take(pa.array(known))])).reshape(y.shape)
        predicted = np.full(len(scores), np.nan, np.float32)
        predicted[known] = scores[known] + dot_products(x, y) + of_items[places[known]]
        return pa.array(predicted)

    return predict


class NeighborModel(PairModel):
    """A model of item pairs whose users are their histories: it makes users of others, and says what speaks
    for an item.
    """

    folds_in: ClassVar[bool] = True

    @property
    def centred(self) -> bool:
        """Whether what a user's items count are ratings less their mean; else each positive one counts 1."""
        return False

    def similarItems(
        self, n: int, allowedItems: DataFrame | None = None, deniedItems: DataFrame | None = None
    ) -> DataFrame:
        """The ``n`` items that speak most for each item, by their weights.

        Parameters
        ----------
        n : int
            Length of the lists, at least 1.
        allowedItems, deniedItems : DataFrame, optional
            ``itemCol``; nothing but these, and none of those, is a neighbour.

        Returns
        -------
        DataFrame
            One row per (item, rank): ``item``, ``neighbor``, ``similarity`` float, the weight, above 0;
            ``rank`` from 1. Of equal weights the smaller neighbour is first.
        """
        order = Window.partitionBy(ITEM).orderBy(F.desc(WEIGHT), NEIGHBOR)
        pairs = self.weights.where(F.col(WEIGHT) > 0)
        for frame, how in ((allowedItems, "left_semi"), (deniedItems, "left_anti")):
            if frame is not None:
                same = matching_id(frame, self.getItemCol(), pairs.schema[NEIGHBOR].dataType)
                pairs = pairs.join(frame.select(same.alias(NEIGHBOR)), NEIGHBOR, how)
        ranked = pairs.withColumn(RANK, F.row_number().over(order))
        similarity = F.col(WEIGHT).alias(SIMILARITY)
        return self._held(ranked.where(F.col(RANK) <= n).select(ITEM, NEIGHBOR, similarity, RANK))

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None) -> Self:
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
        NeighborModel
            Its users are those of ``histories``. Two shuffles, when it is used; a job counts the rows.
        """
        packed = packed_known_rows(histories, self.getUserCol(), self.getItemCol(), ratingCol, self.items)
        model = self.copy()
        model.histories = histories_of_users(packed, self.centred)
        return model._store(packed.packed)
