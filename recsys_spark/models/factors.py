"""Models that are two tables of vectors: the score of a pair is the dot product of its user's and its item's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.config import Blocks
from recsys_spark.kernels.topn import Floats
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.persistence import FramesModel
from recsys_spark.recommend.host import DEFAULT_BLOCKS, recommend_lists
from recsys_spark.schema import ITEM, USER

PairScorer = Callable[[Floats, Floats], Floats]
"""From vectors of users and of items, (n, rank) each, what is added to their biases, (n,)."""


class FactorModel(FramesModel, RecommenderModel):
    """User and item factors, with external ids.

    Attributes
    ----------
    userFactors, itemFactors : one row per id: ``id``, ``features`` array<float> of length ``rank``, and where the model has
        biases ``bias`` float; a score is the dot product, plus both biases and ``globalMean``
    """

    globalMean: Param[float] = Param(
        Params._dummy(), "globalMean", "what is added to every score", typeConverter=TypeConverters.toFloat
    )

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame) -> None:
        super().__init__()
        self.userFactors = user_factors
        self.itemFactors = item_factors
        self._setDefault(globalMean=0.0)

    @property
    def rank(self) -> int:
        """Length of the vectors."""
        first = self.itemFactors.first()
        return len(first["features"]) if first is not None else 0

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.userFactors.select(F.col("id").alias(USER))

    def lists(
        self,
        users: DataFrame,
        n: int,
        seen: DataFrame | None = None,
        sizes: Blocks = DEFAULT_BLOCKS,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
    ) -> DataFrame:
        """Best ``n`` items of each known user; see :meth:`RecommenderModel.lists`. A join, then the top-N host.

        Parameters
        ----------
        allowedItems, deniedItems : ``item``; nothing but these, and none of those, is recommended to anybody
        """
        return self._lists(users, n, seen, sizes, allowedItems, deniedItems)

    def _lists(
        self,
        users: DataFrame,
        n: int,
        seen: DataFrame | None,
        sizes: Blocks,
        allowedItems: DataFrame | None,
        deniedItems: DataFrame | None,
        normalised: bool = False,
    ) -> DataFrame:
        everybody, items = self._candidates()
        if allowedItems is not None:
            items = items.join(_ids(allowedItems, ITEM, items), "id", "left_semi")
        if deniedItems is not None:
            items = items.join(_ids(deniedItems, ITEM, items), "id", "left_anti")
        wanted = everybody.join(_ids(users, USER, self.userFactors), "id", "left_semi")
        return recommend_lists(wanted, items, n, seen, sizes, normalised, self._approximate())

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
        excludeSeen : ``userCol``, ``itemCol`` pairs never to return; absent: none, as in Spark
        allowedItems, deniedItems : ``itemCol``; nothing but these, and none of those, is recommended

        Returns
        -------
        DataFrame
            ``userCol`` and ``recommendations``, array<struct<itemCol, rating: float>>.
        """
        return self._recommended(self.known_users(), numItems, excludeSeen, allowedItems, deniedItems)

    def recommendForUserSubset(
        self,
        dataset: DataFrame,
        numItems: int,
        excludeSeen: DataFrame | None = None,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
    ) -> DataFrame:
        """The same for the distinct users in ``dataset``'s ``userCol``."""
        users = dataset.select(F.col(self.getOrDefault("userCol")).alias(USER)).where(F.col(USER).isNotNull())
        return self._recommended(users, numItems, excludeSeen, allowedItems, deniedItems)

    def recommendForAllItems(self, numUsers: int) -> DataFrame:
        """Top ``numUsers`` users of every item: ``itemCol`` and ``recommendations``, array<struct<userCol, rating: float>>."""
        return self._users_for(self.itemFactors, numUsers)

    def recommendForItemSubset(self, dataset: DataFrame, numUsers: int) -> DataFrame:
        """The same for the distinct items in ``dataset``'s ``itemCol``."""
        items = dataset.select(F.col(self.getOrDefault("itemCol")).alias(ITEM))
        return self._users_for(self.itemFactors.join(_ids(items, ITEM, self.itemFactors), "id", "left_semi"), numUsers)

    def _recommended(
        self,
        users: DataFrame,
        n: int,
        seen: DataFrame | None,
        allowed: DataFrame | None,
        denied: DataFrame | None,
    ) -> DataFrame:
        user, item = self.getOrDefault("userCol"), self.getOrDefault("itemCol")
        pairs = None if seen is None else seen.select(F.col(user).alias(USER), F.col(item).alias(ITEM))
        items = [None if some is None else some.select(F.col(item).alias(ITEM)) for some in (allowed, denied)]
        return self._in_sparks_shape(self._served(users, n, pairs, *items))

    def _served(
        self, users: DataFrame, n: int, seen: DataFrame | None, allowed: DataFrame | None, denied: DataFrame | None
    ) -> DataFrame:
        """Lists that ``recommendFor…`` gives in Spark's shape."""
        return self.lists(users, n, seen, allowedItems=allowed, deniedItems=denied)

    def _users_for(self, items: DataFrame, n: int) -> DataFrame:
        lists = recommend_lists(items, self._scored_users(), n)
        return self._in_sparks_shape(lists, self.getOrDefault("itemCol"), self.getOrDefault("userCol"))

    def _candidates(self) -> tuple[DataFrame, DataFrame]:
        """Vectors of users and items by which the top-N host makes lists."""
        return self._scored_users(), self.itemFactors

    def _approximate(self) -> bool:
        """Whether lists may miss items, to be made faster."""
        return False

    def _average(self) -> tuple[Floats, Floats] | None:
        """Vectors, with their bias as a last number, that unknown users and items are given; None for none."""
        return None

    def _pair_scorer(self) -> PairScorer:
        """What ``transform`` adds to the biases of a pair."""
        return dot_products

    def _scored_users(self) -> DataFrame:
        """User factors whose biases hold the global mean, so that scores are whole."""
        if "bias" not in self.userFactors.columns:
            return self.userFactors
        return self.userFactors.withColumn("bias", (F.col("bias") + self.getOrDefault("globalMean")).cast("float"))

    def _transform(self, dataset: DataFrame) -> DataFrame:
        user, item = self.getOrDefault("userCol"), self.getOrDefault("itemCol")
        joined = (
            dataset.join(_keyed(self._scored_users(), "_user"), _same(dataset, user, self.userFactors, "_user"), "left")
            .join(_keyed(self.itemFactors, "_item"), _same(dataset, item, self.itemFactors, "_item"), "left")
            .drop("_user", "_item")
        )
        prediction = T.StructField(self.getOrDefault("predictionCol"), T.FloatType())
        schema = T.StructType([*dataset.schema.fields, prediction])
        strategy = self.getOrDefault("coldStartStrategy").lower()
        average = self._average() if strategy == "average" else None
        if average is not None:
            average[0][-1] += self.getOrDefault("globalMean")  # as the known users' biases hold it
        predicted = joined.mapInArrow(_predicting(prediction.name, self._pair_scorer(), average), schema)
        return predicted.where(~F.isnan(prediction.name)) if strategy == "drop" else predicted

    def frames(self) -> dict[str, DataFrame]:
        """The two tables of factors."""
        return {"userFactors": self.userFactors, "itemFactors": self.itemFactors}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the two tables."""
        return ("userFactors", "itemFactors")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of the two tables."""
        return cls(frames["userFactors"], frames["itemFactors"])


def _ids(some: DataFrame, column: str, factors: DataFrame) -> DataFrame:
    """Distinct ids in ``column``, as the type that ``factors`` has; those that cannot be are null, and match nothing."""
    return some.select(F.col(column).try_cast(factors.schema["id"].dataType).alias("id")).distinct()


def _keyed(factors: DataFrame, name: str) -> DataFrame:
    bias = F.col("bias") if "bias" in factors.columns else F.lit(0.0)
    return factors.select(
        F.col("id").alias(name), F.col("features").alias(f"{name}_features"), bias.cast("float").alias(f"{name}_bias")
    )


def _same(dataset: DataFrame, column: str, factors: DataFrame, key: str) -> Column:
    return dataset[column].try_cast(factors.schema["id"].dataType) == F.col(key)


def dot_products(x: Floats, y: Floats) -> Floats:
    """Of each pair of rows, shape (n,)."""
    return np.asarray(np.einsum("ij,ij->i", x, y))


def _predicting(name: str, score: PairScorer, average: tuple[Floats, Floats] | None):  # type: ignore[no-untyped-def]
    """Replace the two vectors of each row by its score, float32.

    Where one is missing the score is NaN, or that of the ``average`` of users or items.
    """

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            sides, known = [], np.ones(batch.num_rows, bool)
            for number, side in enumerate(("_user", "_item")):
                vectors, biases = table[f"{side}_features"].combine_chunks(), table[f"{side}_bias"]
                there = np.asarray(vectors.is_valid())
                known &= there
                sides.append(_filled(vectors, biases, there, None if average is None else average[number]))
            scored = np.flatnonzero(known) if average is None else np.arange(batch.num_rows)
            scores = np.full(batch.num_rows, np.nan, np.float32)
            if len(scored):
                (x, user_bias), (y, item_bias) = sides
                scores[scored] = score(x[scored], y[scored]) + user_bias[scored] + item_bias[scored]
            kept = table.drop_columns(["_user_features", "_item_features", "_user_bias", "_item_bias"])
            yield from kept.append_column(name, pa.array(scores)).to_batches()

    return predict


def _filled(
    lists: pa.Array, biases: pa.ChunkedArray, there: npt.NDArray[np.bool_], average: Floats | None
) -> tuple[Floats, Floats]:
    """Vectors (n, rank) and biases (n,) with the average's where there are none."""
    width = len(average) - 1 if average is not None else (pc.max(pc.list_value_length(lists)).as_py() or 0)
    vectors, found = np.zeros((len(lists), width), np.float32), biases.fill_null(0.0).to_numpy().copy()
    vectors[there] = np.asarray(lists.filter(pa.array(there)).flatten(), np.float32).reshape(int(there.sum()), width)
    if average is not None:
        vectors[~there], found[~there] = average[:-1], average[-1]
    return vectors, found
