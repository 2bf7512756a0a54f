"""Params that the models trained by gradients share."""

from __future__ import annotations

from typing import Any, Self

from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasMaxIter, HasRegParam, HasSeed

from recsys_spark.models.base import InteractionColumns
from recsys_spark.params import KeywordParams, param
from recsys_spark.schema import RATING, SEEDED


class NetworkParams(InteractionColumns, HasSeed):
    """The Params that an estimator shares with its model, which scores others by them."""

    embeddingDim: Param[int] = param(
        "embeddingDim", "length of an embedding, at least 1", TypeConverters.toInt
    )
    hiddenDims: Param[list[int]] = param(
        "hiddenDims", "sizes of the network's layers; [] for none", TypeConverters.toListInt
    )
    activation: Param[str] = param(
        "activation", "activation of hidden layers: relu or tanh", TypeConverters.toString
    )
    userFeatureCols: Param[list[str]] = param(
        "userFeatureCols",
        "columns of userFeatures that are features: text, arrays, or numbers",
        TypeConverters.toListString,
    )
    coldStartStrategy: Param[str] = param(
        "coldStartStrategy",
        "what transform does with unknown users and items: nan, drop or average",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(embeddingDim=64, hiddenDims=[], activation="relu", userFeatureCols=[], seed=SEEDED)
        self._setDefault(coldStartStrategy="nan")

    def getEmbeddingDim(self) -> int:
        """Length of an embedding."""
        return self.getOrDefault(self.embeddingDim)

    def getHiddenDims(self) -> list[int]:
        """Sizes of the network's layers."""
        return self.getOrDefault(self.hiddenDims)

    def getActivation(self) -> str:
        """Activation of hidden layers."""
        return self.getOrDefault(self.activation)

    def getUserFeatureCols(self) -> list[str]:
        """Columns of userFeatures that are features."""
        return self.getOrDefault(self.userFeatureCols)

    def getColdStartStrategy(self) -> str:
        """What ``transform`` does with unknown users and items."""
        return self.getOrDefault(self.coldStartStrategy)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set ``coldStartStrategy``: what ``transform`` does with unknown users and items.

        Parameters
        ----------
        value : str
            What transform does with unknown users and items: nan, drop or average.
        """
        return self._set(coldStartStrategy=value)


class GradientParams(KeywordParams, NetworkParams, HasMaxIter, HasRegParam):
    """The Params of a fit."""

    ratingCol: Param[str] = param(
        "ratingCol", "column of ratings; where it is missing all ratings are 1", TypeConverters.toString
    )
    dropout: Param[float] = param(
        "dropout",
        "fraction of a hidden layer's outputs that a training step leaves out, below 1",
        TypeConverters.toFloat,
    )
    stepSize: Param[float] = param("stepSize", "learning rate of Adam", TypeConverters.toFloat)
    schedule: Param[str] = param(
        "schedule", "how the learning rate falls: constant, linear or cosine", TypeConverters.toString
    )
    batchSize: Param[int] = param("batchSize", "size of a mini-batch, over all tasks", TypeConverters.toInt)
    numNegatives: Param[int] = param("numNegatives", "items drawn as negatives", TypeConverters.toInt)
    popularityExponent: Param[float] = param(
        "popularityExponent",
        "negatives are drawn in proportion to their number of events to this power; 0 for uniformly",
        TypeConverters.toFloat,
    )
    checkpointInterval: Param[int] = param(
        "checkpointInterval",
        "epochs of one Spark job, which is what a lost executor costs at most; -1 for all in one",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            ratingCol=RATING, dropout=0.0, schedule="linear", checkpointInterval=10, regParam=0.0
        )

    def getRatingCol(self) -> str:
        """Column of ratings."""
        return self.getOrDefault(self.ratingCol)

    def getDropout(self) -> float:
        """Fraction of a hidden layer's outputs that a training step leaves out."""
        return self.getOrDefault(self.dropout)

    def getStepSize(self) -> float:
        """Learning rate of Adam."""
        return self.getOrDefault(self.stepSize)

    def getSchedule(self) -> str:
        """How the learning rate falls."""
        return self.getOrDefault(self.schedule)

    def getBatchSize(self) -> int:
        """Size of a mini-batch, over all tasks."""
        return self.getOrDefault(self.batchSize)

    def getNumNegatives(self) -> int:
        """Items drawn as negatives."""
        return self.getOrDefault(self.numNegatives)

    def getPopularityExponent(self) -> float:
        """Exponent of an item's number of events in drawing negatives."""
        return self.getOrDefault(self.popularityExponent)

    def getCheckpointInterval(self) -> int:
        """Epochs of one Spark job."""
        return self.getOrDefault(self.checkpointInterval)

    def setEmbeddingDim(self, value: int) -> Self:
        """Set ``embeddingDim``: length of an embedding.

        Parameters
        ----------
        value : int
            Length of an embedding, at least 1.
        """
        return self._set(embeddingDim=value)

    def setHiddenDims(self, value: list[int]) -> Self:
        """Set ``hiddenDims``: sizes of the network's layers.

        Parameters
        ----------
        value : list[int]
            Sizes of the network's layers; [] for none.
        """
        return self._set(hiddenDims=value)

    def setActivation(self, value: str) -> Self:
        """Set ``activation``: activation of hidden layers.

        Parameters
        ----------
        value : str
            Activation of hidden layers: relu or tanh.
        """
        return self._set(activation=value)

    def setUserFeatureCols(self, value: list[str]) -> Self:
        """Set ``userFeatureCols``: columns of userFeatures that are features.

        Parameters
        ----------
        value : list[str]
            Columns of userFeatures that are features: text, arrays, or numbers.
        """
        return self._set(userFeatureCols=value)

    def setRatingCol(self, value: str) -> Self:
        """Set ``ratingCol``: column of ratings.

        Parameters
        ----------
        value : str
            Name of the column; ``""`` counts every row 1.
        """
        return self._set(ratingCol=value)

    def setDropout(self, value: float) -> Self:
        """Set ``dropout``: fraction of a hidden layer's outputs that a training step leaves out.

        Parameters
        ----------
        value : float
            Fraction of a hidden layer's outputs that a training step leaves out, below 1.
        """
        return self._set(dropout=value)

    def setStepSize(self, value: float) -> Self:
        """Set ``stepSize``: learning rate of Adam.

        Parameters
        ----------
        value : float
            Learning rate of Adam.
        """
        return self._set(stepSize=value)

    def setSchedule(self, value: str) -> Self:
        """Set ``schedule``: how the learning rate falls.

        Parameters
        ----------
        value : str
            How the learning rate falls: constant, linear or cosine.
        """
        return self._set(schedule=value)

    def setBatchSize(self, value: int) -> Self:
        """Set ``batchSize``: size of a mini-batch, over all tasks.

        Parameters
        ----------
        value : int
            Size of a mini-batch, over all tasks.
        """
        return self._set(batchSize=value)

    def setNumNegatives(self, value: int) -> Self:
        """Set ``numNegatives``: items drawn as negatives.

        Parameters
        ----------
        value : int
            Items drawn as negatives.
        """
        return self._set(numNegatives=value)

    def setPopularityExponent(self, value: float) -> Self:
        """Set ``popularityExponent``: exponent of an item's number of events in drawing negatives.

        Parameters
        ----------
        value : float
            Negatives are drawn in proportion to their number of events to this power; 0 for uniformly.
        """
        return self._set(popularityExponent=value)

    def setCheckpointInterval(self, value: int) -> Self:
        """Set ``checkpointInterval``: epochs of one Spark job.

        Parameters
        ----------
        value : int
            Iterations of one Spark job, at least 1; -1 for all in one.
        """
        return self._set(checkpointInterval=value)

    def setMaxIter(self, value: int) -> Self:
        """Set ``maxIter``: number of epochs at most.

        Parameters
        ----------
        value : int
            Number of epochs, at least 0.
        """
        return self._set(maxIter=value)

    def setRegParam(self, value: float) -> Self:
        """Set ``regParam``: l2 regularisation.

        Parameters
        ----------
        value : float
            L2 regularisation, at least 0.
        """
        return self._set(regParam=value)

    def setSeed(self, value: int) -> Self:
        """Set ``seed``: seed of every random draw.

        Parameters
        ----------
        value : int
            Any integer.
        """
        return self._set(seed=value)
