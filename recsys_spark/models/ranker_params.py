"""Params of the ranker."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from pyspark.ml.param import Param, TypeConverters

from recsys_spark.models.members import MemberParams
from recsys_spark.params import param

NO_NUMBERS: Mapping[str, int] = MappingProxyType({})
CANDIDATES = 100
"""Items that a retriever lists, unless it is told otherwise."""


def to_numbers(value: object) -> dict[str, int]:
    """Names of members with numbers.

    Parameters
    ----------
    value : mapping
        Name → whole number.

    Raises
    ------
    TypeError
        It is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"candidates must map the name of each member to a number, got {value!r}")
    return {str(name): TypeConverters.toInt(number) for name, number in value.items()}


class RankerParams(MemberParams):
    """The Params that the estimator shares with its model."""

    candidates: Param[dict[str, int]] = param(
        "candidates", f"items that each member lists; {CANDIDATES} for those that are not named", to_numbers
    )
    labels: Param[str] = param(
        "labels",
        "what trees learn from: leave_last, the last rows of each user, temporal, the last rows of all, or "
        "folds, each row once",
        TypeConverters.toString,
    )
    labelRows: Param[int] = param("labelRows", "rows of each user, for leave_last", TypeConverters.toInt)
    labelFraction: Param[float] = param(
        "labelFraction", "fraction of all rows, for temporal", TypeConverters.toFloat
    )
    numFolds: Param[int] = param("numFolds", "parts of the rows, for folds", TypeConverters.toInt)
    minRating: Param[float] = param(
        "minRating",
        "rating below which a row is none of those that lists should have",
        TypeConverters.toFloat,
    )
    metric: Param[str] = param(
        "metric",
        "what the number of trees is chosen by: a metric and its cut-off, such as ndcg@10; with loss squared "
        "it is the RMSE",
        TypeConverters.toString,
    )
    maxUsers: Param[int] = param("maxUsers", "most users that trees learn from", TypeConverters.toInt)
    maxCategories: Param[int] = param(
        "maxCategories", "most values of a column of texts, the most frequent ones", TypeConverters.toInt
    )
    maxIter: Param[int] = param("maxIter", "most trees", TypeConverters.toInt)
    loss: Param[str] = param(
        "loss",
        "logistic, of each candidate, lambdarank, of a user's candidates together, or squared, of ratings",
        TypeConverters.toString,
    )
    maxDepth: Param[int] = param("maxDepth", "most questions from a root to a leaf", TypeConverters.toInt)
    stepSize: Param[float] = param(
        "stepSize", "what each tree's answer is multiplied by", TypeConverters.toFloat
    )
    subsamplingRate: Param[float] = param(
        "subsamplingRate", "fraction of the candidates that each tree is made of", TypeConverters.toFloat
    )
    featureFraction: Param[float] = param(
        "featureFraction", "fraction of the features that each tree may ask about", TypeConverters.toFloat
    )
    regParam: Param[float] = param("regParam", "L2 regularisation of the answers", TypeConverters.toFloat)
    userFeatureCols: Param[list[str]] = param(
        "userFeatureCols", "columns of userFeatures: text, arrays, or numbers", TypeConverters.toListString
    )
    itemFeatureCols: Param[list[str]] = param(
        "itemFeatureCols", "columns of itemFeatures: text, arrays, or numbers", TypeConverters.toListString
    )
    scoreBlocks: Param[list[str]] = param(
        "scoreBlocks",
        "members whose scores are told of every candidate, and by blocks of the axes of their vectors",
        TypeConverters.toListString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            candidates={}, labels="leave_last", labelRows=1, labelFraction=0.1, minRating=0.0, numFolds=5
        )
        self._setDefault(metric="ndcg@10", maxUsers=10_000, maxCategories=50, maxIter=300, maxDepth=3)
        self._setDefault(
            stepSize=0.05, subsamplingRate=1.0, regParam=1.0, loss="logistic", featureFraction=0.5
        )
        self._setDefault(userFeatureCols=[], itemFeatureCols=[], scoreBlocks=[])

    def getCandidates(self) -> dict[str, int]:
        """Items that each member lists."""
        return self.getOrDefault(self.candidates)

    def numbers(self) -> dict[str, int]:
        """How many items each member lists."""
        return {name: self.getCandidates().get(name, CANDIDATES) for name in self.getMembers()}

    def getLabels(self) -> str:
        """What trees learn from."""
        return self.getOrDefault(self.labels)

    def getLabelRows(self) -> int:
        """Rows of each user that trees learn from."""
        return self.getOrDefault(self.labelRows)

    def getLabelFraction(self) -> float:
        """Fraction of all rows that trees learn from."""
        return self.getOrDefault(self.labelFraction)

    def getNumFolds(self) -> int:
        """Parts of the rows that trees learn from one after the other."""
        return self.getOrDefault(self.numFolds)

    def getMinRating(self) -> float:
        """Rating below which lists should not have a row."""
        return self.getOrDefault(self.minRating)

    def getMetric(self) -> str:
        """What the number of trees is chosen by."""
        return self.getOrDefault(self.metric)

    def getMaxUsers(self) -> int:
        """Most users that trees learn from."""
        return self.getOrDefault(self.maxUsers)

    def getMaxCategories(self) -> int:
        """Most values of a column of texts."""
        return self.getOrDefault(self.maxCategories)

    def getMaxIter(self) -> int:
        """Most trees."""
        return self.getOrDefault(self.maxIter)

    def getLoss(self) -> str:
        """What trees make small."""
        return self.getOrDefault(self.loss)

    def getFeatureFraction(self) -> float:
        """Fraction of the features that each tree may ask about."""
        return self.getOrDefault(self.featureFraction)

    def getMaxDepth(self) -> int:
        """Most questions from a root to a leaf."""
        return self.getOrDefault(self.maxDepth)

    def getStepSize(self) -> float:
        """What each tree's answer is multiplied by."""
        return self.getOrDefault(self.stepSize)

    def getSubsamplingRate(self) -> float:
        """Fraction of the candidates that each tree is made of."""
        return self.getOrDefault(self.subsamplingRate)

    def getRegParam(self) -> float:
        """L2 regularisation of the answers."""
        return self.getOrDefault(self.regParam)

    def getUserFeatureCols(self) -> list[str]:
        """Columns of userFeatures."""
        return self.getOrDefault(self.userFeatureCols)

    def getItemFeatureCols(self) -> list[str]:
        """Columns of itemFeatures."""
        return self.getOrDefault(self.itemFeatureCols)

    def getScoreBlocks(self) -> list[str]:
        """Members whose scores are told by blocks."""
        return self.getOrDefault(self.scoreBlocks)

    def setCandidates(self, value: Mapping[str, int]) -> Self:
        """Set items that a member lists.

        Parameters
        ----------
        value : mapping
            Name of a member → how many items it lists, at least 1.
        """
        return self._set(candidates=value)

    def setLabels(self, value: str) -> Self:
        """Set what the trees learn from.

        Parameters
        ----------
        value : str
            ``leave_last`` or ``temporal``.
        """
        return self._set(labels=value)

    def setLabelRows(self, value: int) -> Self:
        """Set rows of each user that the trees learn from.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(labelRows=value)

    def setLabelFraction(self, value: float) -> Self:
        """Set the fraction of all rows that the trees learn from.

        Parameters
        ----------
        value : float
            Between 0 and 1.
        """
        return self._set(labelFraction=value)

    def setNumFolds(self, value: int) -> Self:
        """Set how many parts of the rows the trees learn from one after the other.

        Parameters
        ----------
        value : int
            At least 2.
        """
        return self._set(numFolds=value)

    def setMinRating(self, value: float) -> Self:
        """Set the rating below which lists should not have a row.

        Parameters
        ----------
        value : float
            Any number.
        """
        return self._set(minRating=value)

    def setMetric(self, value: str) -> Self:
        """Set what the number of trees is chosen by.

        Parameters
        ----------
        value : str
            A metric and its cut-off, such as ``ndcg@10``.
        """
        return self._set(metric=value)

    def setMaxUsers(self, value: int) -> Self:
        """Set how many users the trees learn from.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(maxUsers=value)

    def setMaxCategories(self, value: int) -> Self:
        """Set how many values of a column of texts are kept.

        Parameters
        ----------
        value : int
            At least 0.
        """
        return self._set(maxCategories=value)

    def setMaxIter(self, value: int) -> Self:
        """Set the most trees.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(maxIter=value)

    def setLoss(self, value: str) -> Self:
        """Set what trees make small.

        Parameters
        ----------
        value : str
            ``logistic`` or ``lambdarank``.
        """
        return self._set(loss=value)

    def setFeatureFraction(self, value: float) -> Self:
        """Set the fraction of the features that each tree may ask about.

        Parameters
        ----------
        value : float
            Above 0 and at most 1.
        """
        return self._set(featureFraction=value)

    def setMaxDepth(self, value: int) -> Self:
        """Set the most questions from a root to a leaf.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(maxDepth=value)

    def setStepSize(self, value: float) -> Self:
        """Set what each answer is multiplied by.

        Parameters
        ----------
        value : float
            Above 0 and at most 1.
        """
        return self._set(stepSize=value)

    def setSubsamplingRate(self, value: float) -> Self:
        """Set the fraction of the candidates that each tree is made of.

        Parameters
        ----------
        value : float
            Above 0 and at most 1.
        """
        return self._set(subsamplingRate=value)

    def setRegParam(self, value: float) -> Self:
        """Set the regularisation.

        Parameters
        ----------
        value : float
            At least 0.
        """
        return self._set(regParam=value)

    def setUserFeatureCols(self, value: list[str]) -> Self:
        """Set columns of userFeatures.

        Parameters
        ----------
        value : list[str]
            Text, arrays, or numbers.
        """
        return self._set(userFeatureCols=value)

    def setItemFeatureCols(self, value: list[str]) -> Self:
        """Set columns of itemFeatures.

        Parameters
        ----------
        value : list[str]
            Text, arrays, or numbers.
        """
        return self._set(itemFeatureCols=value)

    def setScoreBlocks(self, value: list[str]) -> Self:
        """Set members whose scores are told by blocks.

        Parameters
        ----------
        value : list[str]
            Names of members whose scores are of vectors.
        """
        return self._set(scoreBlocks=value)
