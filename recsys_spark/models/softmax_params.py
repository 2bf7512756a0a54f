"""Params of the softmax model."""

from __future__ import annotations

from typing import Any, Self

from pyspark.ml.param import Param, TypeConverters

from recsys_spark.models.gradient_params import GradientParams, NetworkParams
from recsys_spark.params import param
from recsys_spark.training.softmax.config import SoftmaxConfig


class BagParams(NetworkParams):
    """The Params that make a user's vector: an estimator's, and of its model, which serves new users by
    the same ones.
    """

    tieItems: Param[bool] = param(
        "tieItems",
        "whether items are scored by the vectors that they have in a bag",
        TypeConverters.toBoolean,
    )
    bagExponent: Param[float] = param(
        "bagExponent",
        "a bag is the sum of its items' vectors over their number to this power; 1 for the mean",
        TypeConverters.toFloat,
    )
    similarity: Param[str] = param(
        "similarity", "score of an item: dot, or cosine over temperature", TypeConverters.toString
    )
    temperature: Param[float] = param(
        "temperature", "what the cosine is divided by, above 0", TypeConverters.toFloat
    )
    retrieval: Param[str] = param(
        "retrieval",
        "how lists are made: exact, or approximate (by an index; needs the extra index)",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            tieItems=False, bagExponent=0.5, similarity="dot", temperature=0.1, retrieval="exact"
        )

    def to_config(self, **fit: Any) -> SoftmaxConfig:
        """The network's hyperparameters as plain values, and those of the fit.

        Parameters
        ----------
        **fit
            What the fit adds.
        """
        return SoftmaxConfig(
            embedding_dim=self.getEmbeddingDim(),
            hidden=tuple(self.getHiddenDims()),
            activation=self.getActivation(),
            tie_items=self.getTieItems(),
            bag_exponent=self.getBagExponent(),
            cosine=self.getSimilarity() == "cosine",
            temperature=self.getTemperature(),
            seed=self.getSeed(),
            **fit,
        )

    def getTieItems(self) -> bool:
        """Whether items are scored by the vectors that they have in a bag."""
        return self.getOrDefault(self.tieItems)

    def getBagExponent(self) -> float:
        """Exponent of the number of items that a bag is divided by."""
        return self.getOrDefault(self.bagExponent)

    def getSimilarity(self) -> str:
        """Score of an item."""
        return self.getOrDefault(self.similarity)

    def getTemperature(self) -> float:
        """What the cosine is divided by."""
        return self.getOrDefault(self.temperature)

    def getRetrieval(self) -> str:
        """How lists are made."""
        return self.getOrDefault(self.retrieval)

    def setRetrieval(self, value: str) -> Self:
        """Set ``retrieval``: how lists are made.

        Parameters
        ----------
        value : str
            How lists are made: exact, or approximate (by an index; needs the extra index).
        """
        return self._set(retrieval=value)


class SoftmaxParams(BagParams, GradientParams):
    """The Params of a fit."""

    targetFraction: Param[float] = param(
        "targetFraction",
        "fraction of each history that an epoch holds out and asks for; at least one item",
        TypeConverters.toFloat,
    )
    userExponent: Param[float] = param(
        "userExponent",
        "a user weighs as much as their held-out items to this power: 0 for all alike, 1 for all items alike",
        TypeConverters.toFloat,
    )
    gravity: Param[float] = param(
        "gravity", "weight of the mean squared score over the items of the loss", TypeConverters.toFloat
    )
    validationFraction: Param[float] = param(
        "validationFraction",
        "fraction of the users that are not trained on but decide when to stop, below 1",
        TypeConverters.toFloat,
    )
    patience: Param[int] = param(
        "patience",
        "stop after this many epochs in which the validation loss did not fall; 0 for never",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            numNegatives=0, popularityExponent=0.75, targetFraction=0.5, userExponent=0.5, gravity=0.0
        )
        self._setDefault(batchSize=256, stepSize=0.01, maxIter=20, validationFraction=0.0, patience=0)

    def getTargetFraction(self) -> float:
        """Fraction of each history that an epoch holds out."""
        return self.getOrDefault(self.targetFraction)

    def getUserExponent(self) -> float:
        """Exponent of the number of held-out items in a user's weight."""
        return self.getOrDefault(self.userExponent)

    def getGravity(self) -> float:
        """Weight of the mean squared score over the items of the loss."""
        return self.getOrDefault(self.gravity)

    def getValidationFraction(self) -> float:
        """Fraction of the users that decide when to stop."""
        return self.getOrDefault(self.validationFraction)

    def getPatience(self) -> int:
        """Epochs without a lower validation loss after which to stop."""
        return self.getOrDefault(self.patience)

    def setTieItems(self, value: bool) -> Self:
        """Set ``tieItems``: whether items are scored by the vectors that they have in a bag.

        Parameters
        ----------
        value : bool
            Whether items are scored by the vectors that they have in a bag.
        """
        return self._set(tieItems=value)

    def setBagExponent(self, value: float) -> Self:
        """Set ``bagExponent``: exponent of the number of items that a bag is divided by.

        Parameters
        ----------
        value : float
            A bag is the sum of its items' vectors over their number to this power; 1 for the mean.
        """
        return self._set(bagExponent=value)

    def setSimilarity(self, value: str) -> Self:
        """Set ``similarity``: score of an item.

        Parameters
        ----------
        value : str
            Score of an item: dot, or cosine over temperature.
        """
        return self._set(similarity=value)

    def setTemperature(self, value: float) -> Self:
        """Set ``temperature``: what the cosine is divided by.

        Parameters
        ----------
        value : float
            What the cosine is divided by, above 0.
        """
        return self._set(temperature=value)

    def setTargetFraction(self, value: float) -> Self:
        """Set ``targetFraction``: fraction of each history that an epoch holds out.

        Parameters
        ----------
        value : float
            Fraction of each history that an epoch holds out and asks for; at least one item.
        """
        return self._set(targetFraction=value)

    def setUserExponent(self, value: float) -> Self:
        """Set ``userExponent``: exponent of the number of held-out items in a user's weight.

        Parameters
        ----------
        value : float
            A user weighs as much as their held-out items to this power: 0 for all alike, 1 for all items
            alike.
        """
        return self._set(userExponent=value)

    def setGravity(self, value: float) -> Self:
        """Set ``gravity``: weight of the mean squared score over the items of the loss.

        Parameters
        ----------
        value : float
            Weight of the mean squared score over the items of the loss.
        """
        return self._set(gravity=value)

    def setValidationFraction(self, value: float) -> Self:
        """Set ``validationFraction``: fraction of the users that decide when to stop.

        Parameters
        ----------
        value : float
            Fraction of the users that are not trained on but decide when to stop, below 1.
        """
        return self._set(validationFraction=value)

    def setPatience(self, value: int) -> Self:
        """Set ``patience``: epochs without a lower validation loss after which to stop.

        Parameters
        ----------
        value : int
            Stop after this many epochs in which the validation loss did not fall; 0 for never.
        """
        return self._set(patience=value)
