"""Params of the negative sampler."""

from __future__ import annotations

from typing import Any, Self

from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasSeed

from recsys_spark.params import KeywordParams, param
from recsys_spark.schema import ITEM, SEEDED, USER

STRATEGIES = ("uniform", "popularity", "in-batch", "hard")


class SamplerParams(KeywordParams, HasSeed):
    """What is drawn, how many, and from what; see :class:`recsys_spark.sampling.NegativeSampler`."""

    userCol: Param[str] = param("userCol", "column of user ids", TypeConverters.toString)
    itemCol: Param[str] = param("itemCol", "column of item ids", TypeConverters.toString)
    strategy: Param[str] = param("strategy", f"one of {', '.join(STRATEGIES)}", TypeConverters.toString)
    popularityExponent: Param[float] = param(
        "popularityExponent", "exponent of an item's number of events, for popularity", TypeConverters.toFloat
    )
    ratio: Param[float] = param(
        "ratio",
        "negatives of each positive, at least 1; with 2.5 a positive gets 2 or 3 at random",
        TypeConverters.toFloat,
    )
    ratioCol: Param[str] = param(
        "ratioCol",
        "column with the number of negatives of each positive, instead of ratio",
        TypeConverters.toString,
    )
    epoch: Param[int] = param("epoch", "number that rotates the negatives", TypeConverters.toInt)
    onExhausted: Param[str] = param(
        "onExhausted",
        "where a user has too few unseen items: fewer (counted in shortfall) or error",
        TypeConverters.toString,
    )
    numCandidates: Param[int] = param(
        "numCandidates", "uniform draws that a hard negative is the best of", TypeConverters.toInt
    )
    batchSize: Param[int] = param(
        "batchSize", "positives of a batch, about, for in-batch", TypeConverters.toInt
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol=USER, itemCol=ITEM, strategy="uniform", popularityExponent=0.75, ratio=1.0)
        self._setDefault(epoch=0, onExhausted="fewer", numCandidates=8, batchSize=8192, seed=SEEDED)

    def getUserCol(self) -> str:
        """Column of user ids."""
        return self.getOrDefault(self.userCol)

    def getItemCol(self) -> str:
        """Column of item ids."""
        return self.getOrDefault(self.itemCol)

    def getStrategy(self) -> str:
        """How negatives are drawn."""
        return self.getOrDefault(self.strategy)

    def getRatio(self) -> float:
        """Negatives of each positive."""
        return self.getOrDefault(self.ratio)

    def getRatioCol(self) -> str:
        """Column with the number of negatives of each positive."""
        return self.getOrDefault(self.ratioCol)

    def getPopularityExponent(self) -> float:
        """Exponent of an item's number of events, for popularity."""
        return self.getOrDefault(self.popularityExponent)

    def getNumCandidates(self) -> int:
        """Uniform draws that a hard negative is the best of."""
        return self.getOrDefault(self.numCandidates)

    def getBatchSize(self) -> int:
        """Positives of a batch, about, for in-batch."""
        return self.getOrDefault(self.batchSize)

    def getEpoch(self) -> int:
        """Number that rotates the negatives."""
        return self.getOrDefault(self.epoch)

    def getOnExhausted(self) -> str:
        """What happens where a user has too few unseen items."""
        return self.getOrDefault(self.onExhausted)

    def setUserCol(self, value: str) -> Self:
        """Set ``userCol``: column of user ids.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set ``itemCol``: column of item ids.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(itemCol=value)

    def setStrategy(self, value: str) -> Self:
        """Set ``strategy``: how negatives are drawn.

        Parameters
        ----------
        value : str
            One of uniform, popularity, in-batch, hard.
        """
        return self._set(strategy=value)

    def setRatio(self, value: float) -> Self:
        """Set ``ratio``: negatives of each positive.

        Parameters
        ----------
        value : float
            Negatives of each positive, at least 1; with 2.5 a positive gets 2 or 3 at random.
        """
        return self._set(ratio=value)

    def setRatioCol(self, value: str) -> Self:
        """Set ``ratioCol``: column with the number of negatives of each positive.

        Parameters
        ----------
        value : str
            Column with the number of negatives of each positive, instead of ratio.
        """
        return self._set(ratioCol=value)

    def setPopularityExponent(self, value: float) -> Self:
        """Set ``popularityExponent``: exponent of an item's number of events, for popularity.

        Parameters
        ----------
        value : float
            Exponent of an item's number of events, for popularity.
        """
        return self._set(popularityExponent=value)

    def setNumCandidates(self, value: int) -> Self:
        """Set ``numCandidates``: uniform draws that a hard negative is the best of.

        Parameters
        ----------
        value : int
            Uniform draws that a hard negative is the best of.
        """
        return self._set(numCandidates=value)

    def setBatchSize(self, value: int) -> Self:
        """Set ``batchSize``: positives of a batch, about, for in-batch.

        Parameters
        ----------
        value : int
            Positives of a batch, about, for in-batch.
        """
        return self._set(batchSize=value)

    def setEpoch(self, value: int) -> Self:
        """Set ``epoch``: number that rotates the negatives.

        Parameters
        ----------
        value : int
            Number that rotates the negatives.
        """
        return self._set(epoch=value)

    def setOnExhausted(self, value: str) -> Self:
        """Set ``onExhausted``: what happens where a user has too few unseen items.

        Parameters
        ----------
        value : str
            Where a user has too few unseen items: fewer (counted in shortfall) or error.
        """
        return self._set(onExhausted=value)

    def setSeed(self, value: int) -> Self:
        """Set ``seed``: seed of every draw.

        Parameters
        ----------
        value : int
            Any integer.
        """
        return self._set(seed=value)
