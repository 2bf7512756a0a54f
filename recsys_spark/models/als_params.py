"""Params of ALS: Spark's, with their names, defaults and meaning, and those that are new."""

from __future__ import annotations

from typing import Any, Self

from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasRegParam, HasTol
from pyspark.ml.recommendation import _ALSParams

from recsys_spark.params import KeywordParams, param
from recsys_spark.schema import SEEDED
from recsys_spark.training.als.config import ALSConfig


class ObjectiveParams(HasRegParam):
    """The Params that set the objective: an estimator's, and of its model, which folds in new users by
    the same one.
    """

    implicitPrefs: Param[bool] = _ALSParams.implicitPrefs
    alpha: Param[float] = _ALSParams.alpha
    nonnegative: Param[bool] = _ALSParams.nonnegative
    unobservedWeight: Param[float] = param(
        "unobservedWeight",
        "weight of every pair, observed or not, in the objective of iALS (Rendle et al. 2022), where "
        "an observed positive counts 1; absent: Spark's implicit objective. Needs implicitPrefs.",
        TypeConverters.toFloat,
    )
    regExponent: Param[float] = param(
        "regExponent",
        "exponent of a row's number of events (with unobservedWeight: plus that weight times the "
        "other side's size) in its regularisation: 1 as in Spark, 0 for the same regularisation of "
        "every row; from 0 to 1.5.",
        TypeConverters.toFloat,
    )
    gravity: Param[float] = param(
        "gravity",
        "weight of the mean squared prediction over all pairs, against the mean squared error over "
        "the observed ones; 0 for none. Explicit feedback only.",
        TypeConverters.toFloat,
    )
    useBiases: Param[bool] = param(
        "useBiases",
        "whether to fit a global mean and a bias for each user and item. Explicit feedback only.",
        TypeConverters.toBoolean,
    )

    bayesian: Param[bool] = param(
        "bayesian",
        "whether the factors and biases of ratings are drawn by Gibbs sampling (Salakhutdinov & Mnih 2008), "
        "which learns the regularisation too; the mean of the draws is served. Explicit feedback only.",
        TypeConverters.toBoolean,
    )

    predictionStdCol: Param[str] = param(
        "predictionStdCol",
        "column of the standard deviation of a bayesian prediction over the draws; empty for none",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(implicitPrefs=False, alpha=1.0, nonnegative=False, regParam=0.1)
        self._setDefault(regExponent=1.0, gravity=0.0, useBiases=False, bayesian=False)
        self._setDefault(predictionStdCol="")

    def to_config(self, **fit: Any) -> ALSConfig:
        """The objective's hyperparameters as plain values, and those of the fit.

        Parameters
        ----------
        **fit
            What the fit adds.
        """
        weight, implicit = self.getUnobservedWeight(), self.getImplicitPrefs()
        return ALSConfig(
            implicit=implicit and weight is None,
            binary=weight is not None,
            alpha=self.getAlpha(),
            regularization=self.getRegParam(),
            reg_exponent=self.getRegExponent(),
            all_pairs_weight=weight if weight is not None else float(implicit),
            regularize_all_pairs=weight is not None,
            gravity=self.getGravity(),
            biases=self.getUseBiases() or self.getBayesian(),
            **fit,
        )

    def getImplicitPrefs(self) -> bool:
        """Whether ratings are weights of preferences."""
        return self.getOrDefault(self.implicitPrefs)

    def getAlpha(self) -> float:
        """Weight of a rating in implicit preferences."""
        return self.getOrDefault(self.alpha)

    def getNonnegative(self) -> bool:
        """Whether factors are kept from being negative."""
        return self.getOrDefault(self.nonnegative)

    def getUnobservedWeight(self) -> float | None:
        """Weight of every pair in iALS, or None for Spark's implicit objective."""
        return self.getOrDefault(self.unobservedWeight) if self.isSet(self.unobservedWeight) else None

    def getRegExponent(self) -> float:
        """Exponent of the number of events in a row's regularisation."""
        return self.getOrDefault(self.regExponent)

    def getGravity(self) -> float:
        """Weight of the mean squared prediction over all pairs."""
        return self.getOrDefault(self.gravity)

    def getUseBiases(self) -> bool:
        """Whether biases are fitted."""
        return self.getOrDefault(self.useBiases)

    def getBayesian(self) -> bool:
        """Whether factors are drawn by Gibbs sampling."""
        return self.getOrDefault(self.bayesian)

    def getPredictionStdCol(self) -> str:
        """Column of the standard deviation of a Bayesian prediction; empty for none."""
        return self.getOrDefault(self.predictionStdCol)

    def setPredictionStdCol(self, value: str) -> Self:
        """Set ``predictionStdCol``: column of the standard deviation of a Bayesian prediction.

        Parameters
        ----------
        value : str
            Name of the column; empty for none.
        """
        return self._set(predictionStdCol=value)


class SparkALSParams(KeywordParams, _ALSParams):
    """The Params of Spark's ALS, with their setters; the getters are Spark's."""

    def setRank(self, value: int) -> Self:
        """Set ``rank``: length of the factors.

        Parameters
        ----------
        value : int
            Length of the factors, at least 1.
        """
        return self._set(rank=value)

    def setMaxIter(self, value: int) -> Self:
        """Set ``maxIter``: largest number of iterations.

        Parameters
        ----------
        value : int
            Largest number of iterations, at least 0.
        """
        return self._set(maxIter=value)

    def setRegParam(self, value: float) -> Self:
        """Set ``regParam``: regularisation.

        Parameters
        ----------
        value : float
            Regularisation, at least 0.
        """
        return self._set(regParam=value)

    def setNumUserBlocks(self, value: int) -> Self:
        """Set ``numUserBlocks``: blocks that Spark's own ALS divides the rows into.

        Parameters
        ----------
        value : int
            Blocks that Spark's own ALS divides the users into; ignored by ours.
        """
        return self._set(numUserBlocks=value)

    def setNumItemBlocks(self, value: int) -> Self:
        """Set ``numItemBlocks``: blocks that Spark's own ALS divides the rows into.

        Parameters
        ----------
        value : int
            Blocks that Spark's own ALS divides the items into; ignored by ours.
        """
        return self._set(numItemBlocks=value)

    def setRatingCol(self, value: str) -> Self:
        """Set ``ratingCol``: column of ratings; ``""`` for all 1.

        Parameters
        ----------
        value : str
            Name of the column; ``""`` counts every row 1.
        """
        return self._set(ratingCol=value)

    def setSeed(self, value: int) -> Self:
        """Set ``seed``: seed of the starting factors.

        Parameters
        ----------
        value : int
            Any integer.
        """
        return self._set(seed=value)

    def setCheckpointInterval(self, value: int) -> Self:
        """Set ``checkpointInterval``: iterations of one Spark job.

        Parameters
        ----------
        value : int
            Iterations of one Spark job, at least 1; -1 for all in one.
        """
        return self._set(checkpointInterval=value)

    def setIntermediateStorageLevel(self, value: str) -> Self:
        """Set ``intermediateStorageLevel``: storage of what passes between iterations.

        Parameters
        ----------
        value : str
            Name of a storage level; ignored by ours.
        """
        return self._set(intermediateStorageLevel=value)

    def setFinalStorageLevel(self, value: str) -> Self:
        """Set ``finalStorageLevel``: storage of the factors.

        Parameters
        ----------
        value : str
            Name of a storage level, such as ``MEMORY_AND_DISK``.
        """
        return self._set(finalStorageLevel=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set ``coldStartStrategy``: what ``transform`` does with unknown ids.

        Parameters
        ----------
        value : str
            ``nan`` or ``drop``.
        """
        return self._set(coldStartStrategy=value)

    def setBlockSize(self, value: int) -> Self:
        """Set ``blockSize``: number of rows that Spark's own ALS works on at a time.

        Parameters
        ----------
        value : int
            Rows that Spark's own ALS works on at a time; ignored by ours.
        """
        return self._set(blockSize=value)

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

    def setPredictionCol(self, value: str) -> Self:
        """Set ``predictionCol``: column that ``transform`` adds.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(predictionCol=value)

    def setImplicitPrefs(self, value: bool) -> Self:
        """Set ``implicitPrefs``: whether ratings are weights of preferences.

        Parameters
        ----------
        value : bool
            Whether ratings are weights of preferences, not predicted.
        """
        return self._set(implicitPrefs=value)

    def setAlpha(self, value: float) -> Self:
        """Set ``alpha``: weight of a rating in implicit preferences.

        Parameters
        ----------
        value : float
            Weight of a rating in implicit preferences, at least 0.
        """
        return self._set(alpha=value)

    def setNonnegative(self, value: bool) -> Self:
        """Set ``nonnegative``: whether factors are kept from being negative.

        Parameters
        ----------
        value : bool
            Whether factors are kept from being negative.
        """
        return self._set(nonnegative=value)

    def setNumBlocks(self, value: int) -> Self:
        """Set ``numUserBlocks`` and ``numItemBlocks``: blocks that Spark's own ALS divides the rows into.

        Parameters
        ----------
        value : int
            Blocks of users and of items, for Spark's own ALS; ignored by ours.
        """
        return self._set(numUserBlocks=value, numItemBlocks=value)


class ALSParams(SparkALSParams, ObjectiveParams, HasTol):
    """The Params of a fit."""

    solver: Param[str] = param(
        "solver",
        "cholesky (exact) or cg (a few conjugate-gradient steps from the last solution)",
        TypeConverters.toString,
    )
    cgSteps: Param[int] = param(
        "cgSteps", "conjugate-gradient steps of a row in each iteration, for solver cg", TypeConverters.toInt
    )

    burnIn: Param[int] = param(
        "burnIn", "first iterations of bayesian, which are thrown away", TypeConverters.toInt
    )
    samples: Param[int] = param(
        "samples",
        "draws of bayesian that are kept, at even distances after burnIn; they are served as factors of "
        "samples times the rank",
        TypeConverters.toInt,
    )

    userFeatureCols: Param[list[str]] = param(
        "userFeatureCols",
        "columns of userFeatures that the prior means of a bayesian fit depend on",
        TypeConverters.toListString,
    )
    itemFeatureCols: Param[list[str]] = param(
        "itemFeatureCols", "the same of itemFeatures", TypeConverters.toListString
    )
    useHistories: Param[bool] = param(
        "useHistories",
        "whether a user's prior mean in a bayesian fit depends on which items the user has rated at all",
        TypeConverters.toBoolean,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(burnIn=20, samples=50, userFeatureCols=[], itemFeatureCols=[], useHistories=False)
        self._setDefault(rank=10, maxIter=10, numUserBlocks=10, numItemBlocks=10, seed=SEEDED)
        self._setDefault(userCol="user", itemCol="item", ratingCol="rating", coldStartStrategy="nan")
        self._setDefault(checkpointInterval=10, solver="cholesky", cgSteps=3, tol=0.0)
        self._setDefault(intermediateStorageLevel="MEMORY_AND_DISK", finalStorageLevel="MEMORY_AND_DISK")

    def getSolver(self) -> str:
        """Name of the solver."""
        return self.getOrDefault(self.solver)

    def getCgSteps(self) -> int:
        """Conjugate-gradient steps of a row in each iteration."""
        return self.getOrDefault(self.cgSteps)

    def setUnobservedWeight(self, value: float) -> Self:
        """Set ``unobservedWeight``: weight of every pair in iALS.

        Parameters
        ----------
        value : float
            Weight of every pair, observed or not, in the objective of iALS (Rendle et al. 2022), where an
            observed positive counts 1; absent: Spark's implicit objective. Needs implicitPrefs.
        """
        return self._set(unobservedWeight=value)

    def setRegExponent(self, value: float) -> Self:
        """Set ``regExponent``: exponent of the number of events in a row's regularisation.

        Parameters
        ----------
        value : float
            Exponent of a row's number of events (with unobservedWeight: plus that weight times the other
            side's size) in its regularisation: 1 as in Spark, 0 for the same regularisation of every row;
            from 0 to 1.5.
        """
        return self._set(regExponent=value)

    def setGravity(self, value: float) -> Self:
        """Set ``gravity``: weight of the mean squared prediction over all pairs.

        Parameters
        ----------
        value : float
            Weight of the mean squared prediction over all pairs, against the mean squared error over the
            observed ones; 0 for none. Explicit feedback only.
        """
        return self._set(gravity=value)

    def setUseBiases(self, value: bool) -> Self:
        """Set ``useBiases``: whether biases are fitted.

        Parameters
        ----------
        value : bool
            Whether to fit a global mean and a bias for each user and item. Explicit feedback only.
        """
        return self._set(useBiases=value)

    def getBurnIn(self) -> int:
        """Iterations of ``bayesian`` that are thrown away."""
        return self.getOrDefault(self.burnIn)

    def getSamples(self) -> int:
        """Draws of ``bayesian`` that are kept."""
        return self.getOrDefault(self.samples)

    def setBayesian(self, value: bool) -> Self:
        """Set ``bayesian``: whether factors are drawn by Gibbs sampling.

        Parameters
        ----------
        value : bool
            Whether factors and biases are drawn; explicit feedback only.
        """
        return self._set(bayesian=value)

    def getUserFeatureCols(self) -> list[str]:
        """Columns of ``userFeatures`` that are features."""
        return self.getOrDefault(self.userFeatureCols)

    def setUserFeatureCols(self, value: list[str]) -> Self:
        """Set ``userFeatureCols``: columns of userFeatures that prior means depend on.

        Parameters
        ----------
        value : list of str
            Names of the columns: text, numbers, dates, or arrays of them.
        """
        return self._set(userFeatureCols=value)

    def getItemFeatureCols(self) -> list[str]:
        """Columns of ``itemFeatures`` that are features."""
        return self.getOrDefault(self.itemFeatureCols)

    def setItemFeatureCols(self, value: list[str]) -> Self:
        """Set ``itemFeatureCols``: columns of itemFeatures that prior means depend on.

        Parameters
        ----------
        value : list of str
            Names of the columns: text, numbers, dates, or arrays of them.
        """
        return self._set(itemFeatureCols=value)

    def getUseHistories(self) -> bool:
        """Whether a user's prior mean depends on which items the user has rated."""
        return self.getOrDefault(self.useHistories)

    def setUseHistories(self, value: bool) -> Self:
        """Set ``useHistories``: whether a user's prior mean depends on which items the user has rated.

        Parameters
        ----------
        value : bool
            Whether it does; the implicit part of SVD++.
        """
        return self._set(useHistories=value)

    def setBurnIn(self, value: int) -> Self:
        """Set ``burnIn``: iterations of ``bayesian`` that are thrown away.

        Parameters
        ----------
        value : int
            At least 0.
        """
        return self._set(burnIn=value)

    def setSamples(self, value: int) -> Self:
        """Set ``samples``: draws of ``bayesian`` that are kept.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(samples=value)

    def setSolver(self, value: str) -> Self:
        """Set ``solver``: name of the solver.

        Parameters
        ----------
        value : str
            Cholesky (exact) or cg (a few conjugate-gradient steps from the last solution).
        """
        return self._set(solver=value)

    def setCgSteps(self, value: int) -> Self:
        """Set ``cgSteps``: conjugate-gradient steps of a row in each iteration.

        Parameters
        ----------
        value : int
            Conjugate-gradient steps of a row in each iteration, for solver cg.
        """
        return self._set(cgSteps=value)

    def setTol(self, value: float) -> Self:
        """Set ``tol``: smallest fraction by which an iteration must lower the objective.

        Parameters
        ----------
        value : float
            Fraction, at least 0; 0 for never.
        """
        return self._set(tol=value)
