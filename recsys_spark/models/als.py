"""Alternating least squares for explicit and implicit feedback: a drop-in for
``pyspark.ml.recommendation.ALS``.

The objective, with the modes that set its numbers, is in :mod:`recsys_spark.training.als.program`; how the
work is spread over Spark in :mod:`recsys_spark.training.als.job`; the inner loops in
:mod:`recsys_spark.kernels.least_squares`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pyspark import StorageLevel
from pyspark.ml.recommendation import _ALSModelParams
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import column_of, id_column
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, rows_of
from recsys_spark.kernels.arrays import Floats
from recsys_spark.models.als_params import ALSParams, ObjectiveParams
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.featured import SIDES, FeaturedEstimator
from recsys_spark.params import check_interval, check_ranges, keyword_constructor
from recsys_spark.recommend.rescore import PairScorer
from recsys_spark.schema import ITEM, RATING, SEEDED, USER
from recsys_spark.training.als.job import fit_als, fold_in
from recsys_spark.training.als.program import Iteration
from recsys_spark.training.barrier import id_types_of
from recsys_spark.training.group import fold_in_tasks

SOLVERS = ("cholesky", "cg")


class ALS(FeaturedEstimator, ALSParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """Alternating least squares; change the import and keep the code that was written for Spark's.

    Every Param of Spark's ALS is here with its name, default and meaning, except that the seed is 42 in every
    process, and that ``numUserBlocks``, ``numItemBlocks`` and ``blockSize`` change nothing: a fit runs one
    task for each slot of the session, at most 64, and its result is the same on any number of them. Ids are
    integers, longs or strings.

    Parameters
    ----------
    rank : int, default 10
        Length of the factors, at least 1.
    maxIter : int, default 10
        Largest number of iterations, at least 0.
    regParam : float, default 0.1
        Regularisation, at least 0.
    numUserBlocks, numItemBlocks : int, default 10
        Accepted for Spark's sake, and ignored.
    implicitPrefs : bool, default False
        Ratings are weights of preferences (purchases, plays), not predicted.
    alpha : float, default 1.0
        Weight of a rating in implicit preferences, at least 0: a pair counts ``1 + alpha * abs(rating)``.
    userCol, itemCol : str, default "user", "item"
        Columns of ids in the input.
    seed : int, default 42
        Of the users' starting factors.
    ratingCol : str, default "rating"
        Column of ratings, which are numbers; with ``ratingCol=""`` every row counts 1.
    nonnegative : bool, default False
        Keep all factors from being negative.
    checkpointInterval : int, default 10
        Iterations of one Spark job, which is what a lost executor costs at most; -1 for all in one.
    intermediateStorageLevel : str, default "MEMORY_AND_DISK"
        Accepted for Spark's sake, and ignored.
    finalStorageLevel : str, default "MEMORY_AND_DISK"
        Storage of the factors, and of what passes from job to job.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with unknown users and items: ``nan`` or ``drop``.
    blockSize : int, default 4096
        Accepted for Spark's sake, and ignored.
    unobservedWeight : float, optional
        Weight of every pair, observed or not, at least 0: the objective of iALS (Rendle et al. 2022), where
        an observed positive counts 1. Without it Spark's implicit objective is fitted. Needs
        ``implicitPrefs``.
    regExponent : float, default 1.0
        Exponent of a row's number of events in its regularisation, from 0 (all rows alike) to 1.5; 1 as in
        Spark.
    gravity : float, default 0.0
        Weight of the mean squared prediction over all pairs, at least 0. Explicit feedback only.
    useBiases : bool, default False
        Fit a global mean and a bias for each user and item. Explicit feedback only.
    solver : str, default "cholesky"
        ``cholesky`` solves every row exactly, in float64 where large weights ask for it; ``cg`` takes a few
        conjugate-gradient steps from the last solution in float32, which is faster.
    cgSteps : int, default 3
        Steps of ``cg`` for each row in each iteration, at least 1.
    bayesian : bool, default False
        Draw factors and biases by Gibbs sampling (Salakhutdinov & Mnih 2008), one sweep an iteration, and
        serve the mean of the draws. It learns the regularisation too, so that ``regParam`` has no meaning,
        and needs some hundred iterations. Explicit feedback only.
    burnIn : int, default 20
        First iterations of ``bayesian``, which are thrown away, at least 0.
    samples : int, default 50
        Draws of ``bayesian`` that are kept, at even distances after ``burnIn``, at least 1: the model's
        factors are ``samples * (rank + 2)`` long.
    userFeatureCols, itemFeatureCols : sequence of str, default ()
        Columns of ``userFeatures`` and ``itemFeatures`` that the prior means of ``bayesian`` are a regression
        on (Simm et al. 2017): text, numbers, dates, or arrays of them. Users and items that have features and
        no ratings are in the model too.
    useHistories : bool, default False
        Of ``bayesian``: a user's prior mean depends on which items the user has rated at all, too (the
        implicit part of SVD++, Koren 2008). At most 10,000 features of a side, these among them.
    predictionStdCol : str, default ""
        Column that ``transform`` of a ``bayesian`` model adds: the standard deviation, over the draws, of the
        rating that is expected; the noise of a rating is not in it. Empty for none.
    tol : float, default 0.0
        Stop when an iteration lowers the objective by less than this fraction; 0 for never.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds.
    initialModel : ALSModel, optional
        Continue from its factors; users and items it does not know start fresh. It is not saved with the
        estimator.
    userFeatures, itemFeatures : DataFrame, optional
        One row per user and per item: ``userCol`` or ``itemCol``, and the columns that are named. They are
        not saved with the estimator.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: a Param out of range, or two that contradict each other.
    ModelError
        From ``fit``: null ids, null or non-finite ratings (with their number and an example), ids of another
        type, no rows.
    GroupError
        From ``fit``: the session cannot run all tasks at once; the message says what to set.

    Notes
    -----
    A fit is one Spark job with two shuffles for every ``checkpointInterval`` iterations. Memory of a task:
    see :func:`recsys_spark.training.als.program.train`.

    Examples
    --------
    >>> from recsys_spark import ALS
    >>> columns = "user string, item string, rating double"
    >>> rows = [("ann", "tea", 2.0), ("ann", "jam", 1.0), ("bob", "tea", 1.0)]
    >>> ratings = spark.createDataFrame(rows, columns)
    >>> model = ALS(rank=2, implicitPrefs=True, alpha=5.0).fit(ratings)
    >>> lists = model.recommendForAllUsers(1, excludeSeen=ratings).select("user", "recommendations.item")
    >>> lists.orderBy("user").show()  # ann has everything
    +----+-----+
    |user| item|
    +----+-----+
    | ann|   []|
    | bob|[jam]|
    +----+-----+
    <BLANKLINE>
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int = SEEDED,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
        unobservedWeight: float | None = None,
        regExponent: float = 1.0,
        gravity: float = 0.0,
        useBiases: bool = False,
        solver: str = "cholesky",
        cgSteps: int = 3,
        bayesian: bool = False,
        burnIn: int = 20,
        samples: int = 50,
        userFeatureCols: Sequence[str] = (),
        itemFeatureCols: Sequence[str] = (),
        useHistories: bool = False,
        predictionStdCol: str = "",
        tol: float = 0.0,
        predictionCol: str = "prediction",
        initialModel: ALSModel | None = None,
        userFeatures: DataFrame | None = None,
        itemFeatures: DataFrame | None = None,
    ) -> None:
        super().__init__()
        self.initialModel = initialModel
        self.userFeatures, self.itemFeatures = userFeatures, itemFeatures
        self._set_given()

    stands_for = ("org.apache.spark.ml.recommendation.ALS", "pyspark.ml.recommendation.ALS")

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for explicit feedback."""
        return not self.getImplicitPrefs()

    @property
    def makes_models_that_fold_in(self) -> bool:  # type: ignore[override]
        """False for Bayesian factors, which have no equation of a new user."""
        return not self.getBayesian()

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        least = {"rank": 1, "maxIter": 0, "regParam": 0, "alpha": 0, "gravity": 0, "cgSteps": 1, "tol": 0}
        least |= {"numUserBlocks": 1, "numItemBlocks": 1, "blockSize": 1, "burnIn": 0, "samples": 1}
        check_ranges(self, least, {"coldStartStrategy": ("nan", "drop"), "solver": SOLVERS})
        check_interval(self)
        if not 0 <= self.getRegExponent() <= 1.5:
            raise ValueError(f"regExponent must be from 0 to 1.5, got {self.getRegExponent()}")
        self._check_contradictions()
        if self.getBayesian():
            self._check_bayesian()
            return
        given = {**self.feature_columns(), "useHistories": self.getUseHistories()}
        given["predictionStdCol"] = bool(self.getPredictionStdCol())
        for name, is_given in given.items():
            if is_given:
                what = f"{name}FeatureCols" if name in SIDES else name
                raise ValueError(f"{what} is for bayesian, which is not set")

    def _check_bayesian(self) -> None:
        given = {
            "implicitPrefs": self.getImplicitPrefs(),
            "nonnegative": self.getNonnegative(),
            "gravity": self.getGravity() > 0,
            "tol": self.getTol() > 0,
            "initialModel": self.initialModel is not None,
        }
        for name, is_given in given.items():
            if is_given:
                raise ValueError(
                    f"bayesian draws factors of ratings, and takes no {name}: leave one of them out"
                )
        least = self.getBurnIn() + self.getSamples()
        if self.getMaxIter() < least:
            raise ValueError(
                f"bayesian keeps {self.getSamples()} samples after {self.getBurnIn()} iterations: maxIter "
                f"must be at least {least}, got {self.getMaxIter()}"
            )

    def _check_contradictions(self) -> None:
        implicit, weight = self.getImplicitPrefs(), self.getUnobservedWeight()
        if weight is not None and not 0 <= weight < math.inf:
            raise ValueError(f"unobservedWeight must be at least 0, got {weight}")
        if weight is not None and not implicit:
            raise ValueError("unobservedWeight is for implicit feedback: set implicitPrefs, or use gravity")
        if weight is not None and self.isSet(self.alpha):
            raise ValueError(
                "with unobservedWeight every positive counts 1, so alpha has no meaning: set one of them"
            )
        if implicit and self.getGravity() > 0:
            raise ValueError("gravity is for explicit feedback: implicitPrefs weighs all pairs already")
        if implicit and self.getUseBiases():
            raise ValueError("useBiases is for explicit feedback, and implicitPrefs is set")
        if self.getNonnegative() and self.getUseBiases():
            raise ValueError("useBiases fits negative biases, and nonnegative is set")
        if self.getNonnegative() and self.getSolver() == "cg":
            raise ValueError("nonnegative has a solver of its own: leave solver at cholesky")
        if self.initialModel is not None and self.initialModel.rank != self.getRank():
            raise ValueError(f"initialModel has rank {self.initialModel.rank}, and rank is {self.getRank()}")

    def _fit(self, dataset: DataFrame | PackedHistories) -> ALSModel:
        self.check()
        initial, interval = self.initialModel, self.getCheckpointInterval()
        if self.getBayesian():
            interval = -1  # the chain is one job: its samples would have to pass from one to the next
        ratings = self._ratings(dataset)
        fit = fit_als(
            ratings,
            self.to_config(
                rank=self.getRank(),
                max_iterations=self.getMaxIter(),
                solver="nonnegative" if self.getNonnegative() else self.getSolver(),
                cg_steps=self.getCgSteps(),
                tolerance=self.getTol(),
                seed=self.getSeed(),
                burn_in=self.getBurnIn(),
                samples=self.getSamples() if self.getBayesian() else 0,
                histories=self.getUseHistories(),
            ),
            max(1, self.getMaxIter()) if interval == -1 else interval,
            None if initial is None else (initial.userFactors, initial.itemFactors),
            getattr(StorageLevel, self.getFinalStorageLevel()),
            self.side_entries(id_types_of(ratings))[0],
        )
        model = self._copyValues(ALSModel(fit.users, fit.items))
        model.globalMean, model.allPairsWeight = fit.global_mean, fit.all_pairs_weight
        model.summary = ALSSummary(fit.iterations, fit.converged)
        model.samples = self.getSamples() if self.getBayesian() else 0
        model._store(fit.persisted)
        return model

    def _ratings(self, dataset: DataFrame | PackedHistories) -> DataFrame | PackedHistories:
        name = self.getRatingCol()
        if isinstance(dataset, PackedHistories):
            if (self.getUserCol(), self.getItemCol(), name) == (USER, ITEM, RATING):
                return dataset
            dataset = rows_of(dataset)
        rating = (column_of(dataset, name)[0] if name else F.lit(1.0)).cast("float")
        user, item = (id_column(dataset, name) for name in (self.getUserCol(), self.getItemCol()))
        return dataset.select(user.alias(USER), item.alias(ITEM), rating.alias(RATING))


@dataclass(frozen=True)
class ALSSummary:
    """How a fit went.

    Parameters
    ----------
    iterations : list of Iteration
        The objective after each iteration, and its seconds.
    converged : bool
        Whether it stopped because the objective stalled within ``tol``.
    """

    iterations: list[Iteration]
    converged: bool

    @property
    def objectiveHistory(self) -> list[float]:
        """The objective after each iteration."""
        return [iteration.objective for iteration in self.iterations]


class ALSModel(FactorModel, _ALSModelParams, ObjectiveParams):
    """Factors of users and items, with external ids, and what can be asked of them.

    Without factors it can do nothing but ``load``, as Spark's own.

    Attributes
    ----------
    userFactors, itemFactors : DataFrame
        One row per id: ``id``, ``features`` array<float>, and ``bias`` float with ``useBiases`` or
        ``bayesian``.
    globalMean : float
        Mean of the ratings with ``useBiases`` or ``bayesian``, else 0.
    allPairsWeight : float
        Weight of all pairs that the fit worked with.
    samples : int
        Draws of a Bayesian fit whose vectors lie side by side in the factors; else 0.
    summary : ALSSummary or None
        Of the fit; None for a loaded model.
    """

    scores_new_users: ClassVar[bool] = False
    folds_in: ClassVar[bool] = True

    def __init__(self, user_factors: DataFrame | None = None, item_factors: DataFrame | None = None) -> None:
        super().__init__(user_factors, item_factors)  # type: ignore[arg-type]
        self.allPairsWeight = 0.0
        self.samples = 0
        self.summary: ALSSummary | None = None
        self._setDefault(coldStartStrategy="nan", userCol="user", itemCol="item")

    def setUserCol(self, value: str) -> Self:
        """Set the column of user ids.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> Self:
        """Set the column of item ids.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(itemCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column that ``transform`` adds.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(predictionCol=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set what ``transform`` does with unknown users and items: ``nan`` or ``drop``.

        Parameters
        ----------
        value : str
            ``nan`` or ``drop``.
        """
        return self._set(coldStartStrategy=value)

    def setBlockSize(self, value: int) -> Self:
        """Set ``blockSize``: accepted for Spark's sake, and ignored.

        Parameters
        ----------
        value : int
            Rows that Spark's own ALS works on at a time; ignored by ours.
        """
        return self._set(blockSize=value)

    def fitted_values(self) -> dict[str, Any]:
        """The global mean, the weight of all pairs, and the number of samples."""
        own = {"allPairsWeight": self.allPairsWeight, "samples": self.samples}
        return {**super().fitted_values(), **own}

    def _further_scores(self) -> dict[str, PairScorer]:
        name, samples = self.getPredictionStdCol(), self.samples

        def deviations(x: Floats, y: Floats) -> Floats:
            shape = len(x), samples, x.shape[1] // samples
            each = np.einsum("nsk,nsk->ns", x.reshape(shape), y.reshape(shape), dtype=np.float64)
            return (each.std(axis=1) * samples).astype(np.float32)

        return {name: deviations} if name and samples else {}

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None) -> ALSModel:
        """A model of users this one does not know, from their histories: same items, same normal equation.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``, ``itemCol``, and ``ratingCol`` if it is named; rows of items that the model does not
            know are ignored, and a user with no other rows is not in the result.
        ratingCol : str, optional
            Column of ratings; without it every row counts 1.

        Returns
        -------
        ALSModel
            Its users are those of ``histories``; its items are this model's. One shuffle, when it is used.

        Raises
        ------
        ModelError
            Ids of another type. Null ids and null or non-finite ratings fail the job that uses the result.
            Or the model is a Bayesian one.
        """
        if self.getBayesian():
            raise ModelError("a Bayesian model has no equation of a new user: fit it again")
        rating = column_of(histories, ratingCol)[0] if ratingCol else F.lit(1.0)
        user, item = (id_column(histories, self.getOrDefault(name)) for name in ("userCol", "itemCol"))
        ratings = histories.select(user.alias(USER), item.alias(ITEM), rating.cast("float").alias(RATING))
        solver = "nonnegative" if self.getNonnegative() else "cholesky"
        config = self.to_config(
            rank=self.rank, max_iterations=1, solver=solver, cg_steps=0, tolerance=0.0, seed=0
        )
        tasks = fold_in_tasks(histories.sparkSession)
        users = fold_in(
            ratings, self.itemFactors, config, self.globalMean, self.allPairsWeight, tasks
        ).persist()
        model = self.copy()
        model.userFactors, model.summary = users, None
        model._store(users)
        return model
