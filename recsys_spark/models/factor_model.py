"""Models that are two tables of vectors: the score of a pair is the dot product of its user's and its
item's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import arrow_udf

from recsys_spark.columns import matching_id, quoted, require_new, unused
from recsys_spark.config import BlockSizes
from recsys_spark.kernels.arrays import Floats
from recsys_spark.models.base import RecommenderModel, spark_shape
from recsys_spark.models.persistence import FramesModel
from recsys_spark.models.storage import Stored
from recsys_spark.recommend.rescore import PairScorer, dot_products
from recsys_spark.recommend.scores import LinearScores
from recsys_spark.recommend.top_n import (
    DEFAULT_BLOCK_SIZES,
    ListRequest,
    distinct_ids,
    explode_lists,
    recommend_lists,
)
from recsys_spark.schema import ITEM, NEIGHBOR, RANK, SCORE, SIMILARITY, USER


class FactorModel(FramesModel, RecommenderModel):
    """User and item factors, with external ids.

    A subclass may override: :meth:`_candidate_vectors` and :meth:`_approximate`, by which lists are made;
    :meth:`_pair_scorer`, :meth:`_average_vectors` and :meth:`_further_scores`, by which ``transform`` scores.

    Attributes
    ----------
    userFactors, itemFactors : DataFrame
        One row per id: ``id``, ``features`` array<float> of length ``rank``, and where the model has biases
        ``bias`` float; a score is the dot product, plus both biases and ``globalMean``.
    globalMean : float
        Added to every score.
    """

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame) -> None:
        super().__init__()
        self.userFactors = user_factors
        self.itemFactors = item_factors
        self.globalMean = 0.0
        self._stored: Stored | None = None

    @property
    def rank(self) -> int:
        """Length of the vectors."""
        first = self.itemFactors.first()
        return len(first["features"]) if first is not None else 0

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.userFactors.select(F.col("id").alias(USER))

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Best items of each known user; see :meth:`RecommenderModel.recommend_lists`. A join, then the
        top-N engine.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        return self._lists(users, request)

    def linear_scores(self) -> LinearScores | None:
        """What lists are made of; None for a model whose scores are no dot products."""
        return LinearScores(self._scored_users(), self.itemFactors, None)

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """Top ``numUsers`` users of every item, in Spark's shape.

        Parameters
        ----------
        numUsers : int
            Length of the lists, at least 1.

        Returns
        -------
        DataFrame
            ``itemCol`` and ``recommendations``, array<struct<userCol, rating: float>>.
        """
        return self._held(self._users_for(self.itemFactors, numUsers))

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """Top ``numUsers`` users of some items, in Spark's shape.

        Parameters
        ----------
        dataset : DataFrame
            Its distinct ids in ``itemCol`` are served.
        numUsers : int
            Length of the lists, at least 1.

        Returns
        -------
        DataFrame
            As :meth:`recommendForAllItems` returns it.
        """
        wanted = distinct_ids(dataset, self.getOrDefault("itemCol"), self.itemFactors)
        return self._held(self._users_for(self.itemFactors.join(wanted, "id", "left_semi"), numUsers))

    def similarItems(
        self,
        n: int,
        measure: str = "cosine",
        temper: float = 0.5,
        items: DataFrame | None = None,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
        blockSizes: BlockSizes = DEFAULT_BLOCK_SIZES,
    ) -> DataFrame:
        """The ``n`` most similar items of every item, or of some.

        Parameters
        ----------
        n : int
            Length of the lists, at least 1.
        measure : str
            ``dot`` (popular items first), ``cosine`` (of like taste, however rare), or ``tempered``: the dot
            product of vectors divided by their lengths to the power of ``temper``.
        temper : float
            For ``tempered``: 0 is ``dot``, 1 is ``cosine``.
        items : DataFrame, optional
            Its distinct ids in ``itemCol`` are served, of those that the model has.
        allowedItems, deniedItems : DataFrame, optional
            ``itemCol``; nothing but these, and none of those, is a neighbour.
        blockSizes : BlockSizes
            Bounds of a task's memory.

        Returns
        -------
        DataFrame
            One row per (item, rank): ``item``, ``neighbor``, ``similarity`` float, ``rank`` from 1. Biases
            play no part. Items that the model knows by their features alone are among them.

        Raises
        ------
        ValueError
            Another measure.
        """
        asked = vectors = scaled(self.itemFactors, measure, temper)
        if items is not None:
            wanted = distinct_ids(items, self.getOrDefault("itemCol"), self.itemFactors)
            asked = vectors.join(wanted, "id", "left_semi")
        itself = asked.select(F.col("id").alias(USER), F.col("id").alias(ITEM))
        of_all = self._request(n, None, allowedItems, deniedItems)
        rows = explode_lists(
            recommend_lists(asked, vectors, replace(of_all, seen=itself, block_sizes=blockSizes))
        )
        renamed = F.col(USER).alias(ITEM), F.col(ITEM).alias(NEIGHBOR), F.col(SCORE).alias(SIMILARITY)
        return self._held(rows.select(*renamed, RANK))

    def unpersist(self) -> None:
        """Release the cached result of the fit. Save and reload the model first: using it afterwards
        re-runs the fit.
        """
        if self._stored is not None:
            self._stored.unpersist()

    def _store(self, *kept: DataFrame) -> None:
        """Let the model keep what is persisted, beside what it has from the model that it was copied from."""
        if kept:
            self._stored = Stored(*kept, further=self._stored)
        for own in self.frames().values():
            self._held(own)

    def _held(self, frame: DataFrame) -> DataFrame:
        return frame if self._stored is None else self._stored.hold(frame)

    def frames(self) -> dict[str, DataFrame]:
        """The two tables of factors."""
        return {"userFactors": self.userFactors, "itemFactors": self.itemFactors}

    def fitted_values(self) -> dict[str, Any]:
        """The global mean."""
        return {"globalMean": self.globalMean}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the two tables."""
        return ("userFactors", "itemFactors")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of the two tables.

        Parameters
        ----------
        frames : dict
            Name of a frame → DataFrame.
        """
        return cls(frames["userFactors"], frames["itemFactors"])

    def _lists(self, users: DataFrame, request: ListRequest, normalized: bool = False) -> DataFrame:
        all_users, items = self._candidate_vectors()
        wanted = all_users.join(distinct_ids(users, USER, self.userFactors), "id", "left_semi")
        return recommend_lists(wanted, items, request, normalized, self._approximate())

    def _users_for(self, items: DataFrame, n: int) -> DataFrame:
        lists = recommend_lists(items, self._scored_users(), ListRequest(n))
        return spark_shape(lists, self.getOrDefault("itemCol"), self.getOrDefault("userCol"))

    def _candidate_vectors(self) -> tuple[DataFrame, DataFrame]:
        """Vectors of users and items by which the top-N engine makes lists."""
        return self._scored_users(), self.itemFactors

    def _approximate(self) -> bool:
        """Whether lists may miss items, to be made faster."""
        return False

    def _average_vectors(self) -> tuple[Floats, Floats] | None:
        """Vectors, with their bias as a last number, that unknown users and items get; None for none."""
        return None

    def _further_scores(self) -> dict[str, PairScorer]:
        """Columns that ``transform`` adds beside the prediction: what each is of a pair's vectors."""
        return {}

    def _pair_scorer(self) -> PairScorer:
        """What ``transform`` adds to the biases of a pair."""
        return dot_products

    def _scored_users(self) -> DataFrame:
        """User factors whose biases hold the global mean, so that scores are whole."""
        if "bias" not in self.userFactors.columns:
            return self.userFactors
        return self.userFactors.withColumn("bias", (F.col("bias") + self.globalMean).cast("float"))

    def _transform(self, dataset: DataFrame) -> DataFrame:
        prediction = self.getOrDefault("predictionCol")
        further = self._further_scores()
        require_new(dataset, [prediction, *further], "transform")
        joined, helpers = dataset, []
        for side, factors in ((USER, self._scored_users()), (ITEM, self.itemFactors)):
            key, *values = (unused(f"{side} {part}", dataset) for part in ("id", "vector", "bias"))
            bias = F.col("bias") if "bias" in factors.columns else F.lit(0.0)
            vectors = (
                F.col("id").alias(key),
                F.col("features").alias(values[0]),
                bias.cast("float").alias(values[1]),
            )
            same = matching_id(dataset, self.getOrDefault(f"{side}Col"), factors.schema["id"].dataType)
            joined = joined.join(factors.select(*vectors), same == F.col(key), "left").drop(key)
            helpers += values
        strategy = self.getOrDefault("coldStartStrategy").lower()
        average = self._average_vectors() if strategy == "average" else None
        if average is not None:
            average[0][-1] += self.globalMean  # as the known users' biases hold it
        predict = arrow_udf(_predicting(self._pair_scorer(), average), T.FloatType())  # type: ignore[call-overload]
        # the optimizer would otherwise predict once more to filter
        predicted = joined.withColumn(prediction, predict.asNondeterministic()(*map(F.col, helpers)))
        pair = [F.col(helpers[0]), F.col(helpers[2])]
        for name, score in further.items():
            of_vectors = arrow_udf(_without_biases(score), T.FloatType())  # type: ignore[call-overload]
            predicted = predicted.withColumn(name, of_vectors(*pair))
        predicted = predicted.drop(*helpers)
        if strategy == "drop":
            predicted = predicted.where(~F.isnan(quoted(prediction)))
        return self._held(predicted)


def scaled(factors: DataFrame, measure: str, temper: float = 0.5) -> DataFrame:
    """Vectors whose dot products are the similarity by a measure.

    Parameters
    ----------
    factors : DataFrame
        ``id``, ``features``.
    measure : str
        ``dot``, ``cosine`` or ``tempered``.
    temper : float
        For ``tempered``.

    Returns
    -------
    DataFrame
        ``id``, ``features``: divided by their lengths to the power of the measure.

    Raises
    ------
    ValueError
        Another measure.
    """
    square = F.aggregate("features", F.lit(0.0), lambda total, x: total + x * x)
    length = F.pow(F.greatest(square, F.lit(1e-30)), F.lit(exponent_of(measure, temper) / 2))
    divided = F.transform("features", lambda x: (x / F.col("length")).cast("float"))
    return factors.withColumn("length", length).select("id", divided.alias("features"))


def exponent_of(measure: str, temper: float = 0.5) -> float:
    """The power of both lengths that a dot product is divided by.

    Parameters
    ----------
    measure : str
        ``dot``, ``cosine`` or ``tempered``.
    temper : float
        For ``tempered``.

    Raises
    ------
    ValueError
        Another measure.
    """
    exponents = {"dot": 0.0, "cosine": 1.0, "tempered": temper}
    if measure not in exponents:
        raise ValueError(f"measure must be one of {', '.join(exponents)}, got {measure!r}")
    return exponents[measure]


def _predicting(score: PairScorer, average: tuple[Floats, Floats] | None):  # type: ignore[no-untyped-def]
    """Scores, float32, from vectors and biases of users and of items.

    Where one is missing the score is NaN, or that of the ``average`` of users or items.
    """

    def predict(
        user_vectors: pa.Array, user_biases: pa.Array, item_vectors: pa.Array, item_biases: pa.Array
    ) -> pa.Array:
        known = np.asarray(user_vectors.is_valid()) & np.asarray(item_vectors.is_valid())
        averages = (None, None) if average is None else average
        x, user_bias = _filled(user_vectors, user_biases, averages[0])
        y, item_bias = _filled(item_vectors, item_biases, averages[1])
        scored = np.flatnonzero(known) if average is None else np.arange(len(known))
        scores = np.full(len(known), np.nan, np.float32)
        if len(scored):
            scores[scored] = score(x[scored], y[scored]) + user_bias[scored] + item_bias[scored]
        return pa.array(scores)

    return predict


def _without_biases(score: PairScorer):  # type: ignore[no-untyped-def]
    """Scores, float32, of pairs of vectors; NaN where one is missing."""

    def predict(user_vectors: pa.Array, item_vectors: pa.Array) -> pa.Array:
        nothing = pa.nulls(len(user_vectors), pa.float32())
        return _predicting(score, None)(user_vectors, nothing, item_vectors, nothing)

    return predict


def _filled(lists: pa.Array, biases: pa.Array, average: Floats | None) -> tuple[Floats, Floats]:
    """Vectors (n, rank) and biases (n,) with the average's where an id is not known."""
    known = np.asarray(lists.is_valid())
    width = len(average) - 1 if average is not None else (pc.max(pc.list_value_length(lists)).as_py() or 0)
    vectors = np.zeros((len(lists), width), np.float32)
    filled = biases.fill_null(0.0).to_numpy(zero_copy_only=False).copy()
    vectors[known] = np.asarray(lists.filter(pa.array(known)).flatten(), np.float32).reshape(
        int(known.sum()), width
    )
    if average is not None:
        vectors[~known], filled[~known] = average[:-1], average[-1]
    return vectors, filled
