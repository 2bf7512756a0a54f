"""Params of the pair models."""

from __future__ import annotations

from typing import Any, Self

from pyspark.ml.param import Param, TypeConverters

from recsys_spark.models.gradient_params import GradientParams, NetworkParams
from recsys_spark.params import param
from recsys_spark.training.pairwise.config import PairwiseConfig


class PairParams(NetworkParams):
    """The Params that an estimator shares with its model."""

    itemFeatureCols: Param[list[str]] = param(
        "itemFeatureCols",
        "columns of itemFeatures that are features: text, arrays, or numbers",
        TypeConverters.toListString,
    )
    interaction: Param[str] = param(
        "interaction", "what makes a score beside the biases: dot, mlp or dot+mlp", TypeConverters.toString
    )
    loss: Param[str] = param("loss", "squared, logistic, bpr or ccl", TypeConverters.toString)
    useBiases: Param[bool] = param(
        "useBiases", "whether users and items have biases; never with ccl", TypeConverters.toBoolean
    )
    numCandidates: Param[int] = param(
        "numCandidates",
        "items that the network ranks for each user: the best by dot product, or without one the most "
        "popular",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            itemFeatureCols=[], interaction="dot", loss="logistic", useBiases=True, numCandidates=500
        )
        self._setDefault(hiddenDims=[64, 32], coldStartStrategy="average")

    def to_config(self, **fit: Any) -> PairwiseConfig:
        """The score's hyperparameters as plain values, and those of the fit.

        Parameters
        ----------
        **fit
            What the fit adds.
        """
        return PairwiseConfig(
            embedding_dim=self.getEmbeddingDim(),
            product="dot" in self.getInteraction(),
            network="mlp" in self.getInteraction(),
            hidden=tuple(self.getHiddenDims()),
            activation=self.getActivation(),
            loss=self.getLoss(),
            seed=self.getSeed(),
            **fit,
        )

    def getItemFeatureCols(self) -> list[str]:
        """Columns of itemFeatures that are features."""
        return self.getOrDefault(self.itemFeatureCols)

    def getInteraction(self) -> str:
        """What makes a score beside the biases."""
        return self.getOrDefault(self.interaction)

    def getLoss(self) -> str:
        """Name of the loss."""
        return self.getOrDefault(self.loss)

    def getUseBiases(self) -> bool:
        """Whether users and items have biases."""
        return self.getOrDefault(self.useBiases)

    def getNumCandidates(self) -> int:
        """Items that the network ranks for each user."""
        return self.getOrDefault(self.numCandidates)

    def setNumCandidates(self, value: int) -> Self:
        """Set ``numCandidates``: items that the network ranks for each user.

        Parameters
        ----------
        value : int
            Items that the network ranks for each user: the best by dot product, or without one the most
            popular.
        """
        return self._set(numCandidates=value)


class PairwiseParams(PairParams, GradientParams):
    """The Params of a fit."""

    rotateNegatives: Param[bool] = param(
        "rotateNegatives", "whether each epoch has other negatives", TypeConverters.toBoolean
    )
    margin: Param[float] = param(
        "margin", "of loss ccl: cosine below which a negative costs nothing", TypeConverters.toFloat
    )
    negativeWeight: Param[float] = param(
        "negativeWeight", "of loss ccl: weight of the negatives' mean loss", TypeConverters.toFloat
    )
    initStd: Param[float] = param(
        "initStd", "standard deviation of embeddings before the first step", TypeConverters.toFloat
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            numNegatives=4, popularityExponent=0.0, rotateNegatives=True, margin=0.4, negativeWeight=10.0
        )
        self._setDefault(initStd=0.01, batchSize=8192, stepSize=0.003, regParam=1e-6, maxIter=20)

    def getRotateNegatives(self) -> bool:
        """Whether each epoch has other negatives."""
        return self.getOrDefault(self.rotateNegatives)

    def getMargin(self) -> float:
        """Of loss ccl, the cosine below which a negative costs nothing."""
        return self.getOrDefault(self.margin)

    def getNegativeWeight(self) -> float:
        """Of loss ccl, the weight of the negatives' mean loss."""
        return self.getOrDefault(self.negativeWeight)

    def getInitStd(self) -> float:
        """Standard deviation of embeddings before the first step."""
        return self.getOrDefault(self.initStd)

    def setItemFeatureCols(self, value: list[str]) -> Self:
        """Set ``itemFeatureCols``: columns of itemFeatures that are features.

        Parameters
        ----------
        value : list[str]
            Columns of itemFeatures that are features: text, arrays, or numbers.
        """
        return self._set(itemFeatureCols=value)

    def setInteraction(self, value: str) -> Self:
        """Set ``interaction``: what makes a score beside the biases.

        Parameters
        ----------
        value : str
            What makes a score beside the biases: dot, mlp or dot+mlp.
        """
        return self._set(interaction=value)

    def setLoss(self, value: str) -> Self:
        """Set ``loss``: name of the loss.

        Parameters
        ----------
        value : str
            Squared, logistic, bpr or ccl.
        """
        return self._set(loss=value)

    def setUseBiases(self, value: bool) -> Self:
        """Set ``useBiases``: whether users and items have biases.

        Parameters
        ----------
        value : bool
            Whether users and items have biases; never with ccl.
        """
        return self._set(useBiases=value)

    def setRotateNegatives(self, value: bool) -> Self:
        """Set ``rotateNegatives``: whether each epoch has other negatives.

        Parameters
        ----------
        value : bool
            Whether each epoch has other negatives.
        """
        return self._set(rotateNegatives=value)

    def setMargin(self, value: float) -> Self:
        """Set ``margin``: of loss ccl, the cosine below which a negative costs nothing.

        Parameters
        ----------
        value : float
            Of loss ccl: cosine below which a negative costs nothing.
        """
        return self._set(margin=value)

    def setNegativeWeight(self, value: float) -> Self:
        """Set ``negativeWeight``: of loss ccl, the weight of the negatives' mean loss.

        Parameters
        ----------
        value : float
            Of loss ccl: weight of the negatives' mean loss.
        """
        return self._set(negativeWeight=value)

    def setInitStd(self, value: float) -> Self:
        """Set ``initStd``: standard deviation of embeddings before the first step.

        Parameters
        ----------
        value : float
            Standard deviation of embeddings before the first step.
        """
        return self._set(initStd=value)
