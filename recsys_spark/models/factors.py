"""Models that are two tables of vectors: the score of a pair is the dot product of its user's and its item's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.config import Blocks
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.persistence import FramesModel
from recsys_spark.recommend.host import DEFAULT_BLOCKS, recommend_lists
from recsys_spark.schema import USER


class FactorModel(FramesModel, RecommenderModel):
    """User and item factors, with external ids.

    Attributes
    ----------
    userFactors, itemFactors : one row per id: ``id``, ``features`` array<float> of length ``rank``
    """

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame) -> None:
        super().__init__()
        self.userFactors = user_factors
        self.itemFactors = item_factors

    @property
    def rank(self) -> int:
        """Length of the vectors."""
        first = self.itemFactors.first()
        return len(first["features"]) if first is not None else 0

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.userFactors.select(F.col("id").alias(USER))

    def lists(self, users: DataFrame, n: int, seen: DataFrame | None = None, sizes: Blocks = DEFAULT_BLOCKS) -> DataFrame:
        """Best ``n`` items of each known user; see :meth:`RecommenderModel.lists`. A join, then the top-N host."""
        id_type = self.userFactors.schema["id"].dataType
        wanted = users.select(F.col(USER).try_cast(id_type).alias("id")).distinct()
        return recommend_lists(self.userFactors.join(wanted, "id", "left_semi"), self.itemFactors, n, seen, sizes)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        user, item = self.getOrDefault("userCol"), self.getOrDefault("itemCol")
        joined = (
            dataset.join(_keyed(self.userFactors, "_user"), _same(dataset, user, self.userFactors, "_user"), "left")
            .join(_keyed(self.itemFactors, "_item"), _same(dataset, item, self.itemFactors, "_item"), "left")
            .drop("_user", "_item")
        )
        prediction = T.StructField(self.getOrDefault("predictionCol"), T.FloatType())
        schema = T.StructType([*dataset.schema.fields, prediction])
        predicted = joined.mapInArrow(_dot_products(prediction.name), schema)
        if self.getOrDefault("coldStartStrategy").lower() == "drop":
            return predicted.where(~F.isnan(prediction.name))
        return predicted

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


def _keyed(factors: DataFrame, name: str) -> DataFrame:
    return factors.select(F.col("id").alias(name), F.col("features").alias(f"{name}_features"))


def _same(dataset: DataFrame, column: str, factors: DataFrame, key: str) -> Column:
    return dataset[column].try_cast(factors.schema["id"].dataType) == F.col(key)


def _dot_products(name: str):  # type: ignore[no-untyped-def]
    """Replace the two vectors of each row by their product, float32; NaN where one is missing."""

    def multiply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            users, items = table["_user_features"].combine_chunks(), table["_item_features"].combine_chunks()
            known = np.asarray(users.is_valid()) & np.asarray(items.is_valid())
            products = np.full(len(known), np.nan, np.float32)
            if known.any():
                mask = pa.array(known)
                left, right = (np.asarray(side.filter(mask).flatten(), np.float32) for side in (users, items))
                shape = (int(known.sum()), -1)
                products[known] = np.einsum("ij,ij->i", left.reshape(shape), right.reshape(shape))
            kept = table.drop_columns(["_user_features", "_item_features"])
            yield from kept.append_column(name, pa.array(products)).to_batches()

    return multiply
