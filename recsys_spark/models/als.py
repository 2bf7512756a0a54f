"""Alternating least squares for explicit and implicit feedback: a drop-in for ``pyspark.ml.recommendation.ALS``.

The objective, with the modes that set its numbers, stands in :mod:`recsys_spark.models.als_program`; how the work is spread
over Spark in :mod:`recsys_spark.models.als_stage`; the inner loops in :mod:`recsys_spark.kernels.least_squares`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pyspark import StorageLevel, keyword_only
from pyspark.ml import recommendation as spark_recommendation
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasRegParam, HasTol
from pyspark.ml.recommendation import _ALSModelParams, _ALSParams
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.collectives import MAX_TASKS
from recsys_spark.models.als_program import Iteration, Problem
from recsys_spark.models.als_stage import fit_factors, fold_in
from recsys_spark.models.base import RecommenderEstimator, id_column
from recsys_spark.models.factors import FactorModel
from recsys_spark.params import check_interval, check_ranges, param
from recsys_spark.recommend.host import explode_lists, recommend_lists
from recsys_spark.schema import ITEM, RANK, RATING, SCORE, SEEDED, USER

SOLVERS = ("cholesky", "cg")


def _setter(name: str) -> Any:
    def set_param(self: Any, value: Any) -> Any:
        return self._set(**{name: value})

    set_param.__doc__ = f"Set {name}."
    return set_param


class ObjectiveParams(HasRegParam):
    """The Params that set the objective: an estimator's, and of its model, which folds in new users by the same one."""

    implicitPrefs: Param[bool] = _ALSParams.implicitPrefs
    alpha: Param[float] = _ALSParams.alpha
    nonnegative: Param[bool] = _ALSParams.nonnegative
    unobservedWeight: Param[float] = param(
        "unobservedWeight",
        "weight of every pair, observed or not, in the objective of iALS (Rendle et al. 2022), where an observed positive "
        "counts 1; absent: Spark's implicit objective. Needs implicitPrefs.",
        TypeConverters.toFloat,
    )
    regExponent: Param[float] = param(
        "regExponent",
        "exponent of a row's number of events (with unobservedWeight: plus that weight times the other side's size) in its "
        "regularisation: 1 as in Spark, 0 for the same regularisation of every row; from 0 to 1.5.",
        TypeConverters.toFloat,
    )
    gravity: Param[float] = param(
        "gravity",
        "weight of the mean squared prediction over all pairs, against the mean squared error over the observed ones; "
        "0 for none. Explicit feedback only.",
        TypeConverters.toFloat,
    )
    useBiases: Param[bool] = param(
        "useBiases",
        "whether to fit a global mean and a bias for each user and item. Explicit feedback only.",
        TypeConverters.toBoolean,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(implicitPrefs=False, alpha=1.0, nonnegative=False, regParam=0.1)
        self._setDefault(regExponent=1.0, gravity=0.0, useBiases=False)

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

    def problem(self, **fit: Any) -> Problem:
        """The numbers of the objective, and those of the ``fit``."""
        weight, implicit = self.getUnobservedWeight(), self.getImplicitPrefs()
        return Problem(
            implicit=implicit and weight is None,
            binary=weight is not None,
            alpha=self.getAlpha(),
            regularization=self.getRegParam(),
            exponent=self.getRegExponent(),
            all_pairs=weight if weight is not None else float(implicit),
            pairs_in_ridge=weight is not None,
            gravity=self.getGravity(),
            biases=self.getUseBiases(),
            **fit,
        )


class ALSParams(_ALSParams, ObjectiveParams, HasTol):
    """Spark's Params, with their names, defaults and meaning, and those that are new."""

    solver: Param[str] = param(
        "solver", "cholesky (exact) or cg (a few conjugate-gradient steps from the last solution).", TypeConverters.toString
    )
    cgSteps: Param[int] = param(
        "cgSteps", "conjugate-gradient steps of a row in each iteration, for solver cg.", TypeConverters.toInt
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            rank=10, maxIter=10, numUserBlocks=10, numItemBlocks=10, userCol="user", itemCol="item", ratingCol="rating",
            checkpointInterval=10, intermediateStorageLevel="MEMORY_AND_DISK", finalStorageLevel="MEMORY_AND_DISK",
            coldStartStrategy="nan", seed=SEEDED, solver="cholesky", cgSteps=3, tol=0.0,
        )  # fmt: skip

    def getSolver(self) -> str:
        """Name of the solver."""
        return self.getOrDefault(self.solver)

    def getCgSteps(self) -> int:
        """Conjugate-gradient steps of a row in each iteration."""
        return self.getOrDefault(self.cgSteps)


class ALS(RecommenderEstimator, ALSParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """Alternating least squares; change the import and keep the code that was written for Spark's.

    Every Param of Spark's ALS is here with its name, default and meaning, except that the seed is 42 in every process, and that
    ``numUserBlocks``, ``numItemBlocks`` and ``blockSize`` change nothing: a fit runs one task for each slot of the
    session, at most 64, and its result is the same on any number of them. Ids are integers, longs or strings.

    New Params: ``unobservedWeight``, ``regExponent`` (iALS), ``gravity``, ``useBiases``, ``solver``, ``cgSteps``, ``tol``.

    Parameters
    ----------
    initialModel : ALSModel, optional
        Continue from its factors; users and items it does not know start fresh. It is not saved with the estimator.
    **params
        Params by name.

    Raises
    ------
    ValueError
        From ``fit``: a Param out of range, or two that contradict each other.
    ModelError
        From ``fit``: null ids, null or non-finite ratings (with their number and an example), ids of another type, no rows.
    GroupError
        From ``fit``: the session cannot run all tasks at once; the sentence says what to set.

    Notes
    -----
    A fit is one Spark job with two shuffles for every ``checkpointInterval`` iterations. Memory of a task: see
    :func:`recsys_spark.models.als_program.train`.
    """

    _input_kwargs: dict[str, Any]

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for explicit feedback."""
        return not self.getImplicitPrefs()

    def __init__(self, *, initialModel: ALSModel | None = None, **params: Any) -> None:
        super().__init__()
        self.initialModel = initialModel
        self._set(**params)

    @keyword_only
    def setParams(self, **params: Any) -> Self:
        """Set Params by name."""
        return self._set(**params)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        least = {"rank": 1, "maxIter": 0, "regParam": 0, "alpha": 0, "gravity": 0, "cgSteps": 1, "tol": 0}
        least |= {"numUserBlocks": 1, "numItemBlocks": 1, "blockSize": 1}
        check_ranges(self, least, {"coldStartStrategy": ("nan", "drop"), "solver": tuple(SOLVERS)})
        check_interval(self)
        if not 0 <= self.getRegExponent() <= 1.5:
            raise ValueError(f"regExponent must be from 0 to 1.5, got {self.getRegExponent()}")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        implicit, weight = self.getImplicitPrefs(), self.getUnobservedWeight()
        if weight is not None and not 0 <= weight < math.inf:
            raise ValueError(f"unobservedWeight must be at least 0, got {weight}")
        if weight is not None and not implicit:
            raise ValueError("unobservedWeight is for implicit feedback: set implicitPrefs, or use gravity")
        if weight is not None and self.isSet(self.alpha):
            raise ValueError("with unobservedWeight every positive counts 1, so alpha has no meaning: set one of them")
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

    def _fit(self, dataset: DataFrame) -> ALSModel:
        self.check()
        start = None
        if self.initialModel is not None:
            start = (self.initialModel.userFactors, self.initialModel.itemFactors)
        interval = self.getCheckpointInterval()
        fitted = fit_factors(
            self._ratings(dataset),
            self._problem(),
            max(1, self.getMaxIter()) if interval == -1 else interval,
            start,
            getattr(StorageLevel, self.getFinalStorageLevel()),
        )
        model = self._copyValues(ALSModel(fitted.users, fitted.items))
        model._set(globalMean=fitted.mean, pairWeight=fitted.pairs)
        model.summary = ALSSummary(fitted.history, fitted.converged)
        model._kept = fitted.kept
        return model

    def _problem(self) -> Problem:
        return self.problem(
            rank=self.getRank(),
            iterations=self.getMaxIter(),
            solver="nonnegative" if self.getNonnegative() else self.getSolver(),
            steps=self.getCgSteps(),
            tolerance=self.getTol(),
            seed=self.getSeed(),
        )

    def _ratings(self, dataset: DataFrame) -> DataFrame:
        rating = F.col(self.getRatingCol()).cast("float") if self.getRatingCol() else F.lit(1.0).cast("float")
        user, item = (id_column(dataset, name) for name in (self.getUserCol(), self.getItemCol()))
        return dataset.select(user.alias(USER), item.alias(ITEM), rating.alias(RATING))


@dataclass(frozen=True)
class ALSSummary:
    """How a fit went.

    Attributes
    ----------
    iterations : the objective after each iteration, and its seconds
    converged : whether it stopped because the objective stalled within ``tol``
    """

    iterations: list[Iteration]
    converged: bool

    @property
    def objectiveHistory(self) -> list[float]:
        """The objective after each iteration."""
        return [one.objective for one in self.iterations]


class ALSModel(FactorModel, _ALSModelParams, ObjectiveParams):
    """Factors of users and items, with external ids, and what can be asked of them.

    Attributes
    ----------
    userFactors, itemFactors : one row per id: ``id``, ``features`` array<float>, and ``bias`` float with ``useBiases``
    summary : :class:`ALSSummary` of the fit; None for a loaded model

    Without factors it can do nothing but ``load``, as Spark's own.
    """

    scores_new_users: ClassVar[bool] = False

    pairWeight: Param[float] = param("pairWeight", "weight of all pairs that the fit worked with", TypeConverters.toFloat)

    def __init__(self, user_factors: DataFrame | None = None, item_factors: DataFrame | None = None) -> None:
        super().__init__(user_factors, item_factors)  # type: ignore[arg-type]
        self.summary: ALSSummary | None = None
        self._kept: DataFrame | None = None
        self._setDefault(pairWeight=0.0, coldStartStrategy="nan", userCol="user", itemCol="item")

    def unpersist(self) -> None:
        """Let go of the factors that the fit keeps in Spark's storage; used again, they would be trained again."""
        if self._kept is not None:
            self._kept.unpersist()

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None) -> ALSModel:
        """A model of users this one has never seen, from their histories: same items, same normal equation.

        Parameters
        ----------
        histories : ``userCol``, ``itemCol``, and ``ratingCol`` if it is named (absent: every row counts 1); rows of items that
            the model does not know are passed over, and a user with no other rows is not in the result

        Returns
        -------
        ALSModel
            Its users are those of ``histories``; its items are this model's. One shuffle, when it is used.

        Raises
        ------
        ModelError
            Ids of another type. Null ids and null or non-finite ratings fail the job that uses the result.
        """
        rating = F.col(ratingCol) if ratingCol else F.lit(1.0)
        user, item = (id_column(histories, self.getOrDefault(name)) for name in ("userCol", "itemCol"))
        ratings = histories.select(user.alias(USER), item.alias(ITEM), rating.cast("float").alias(RATING))
        solver = "nonnegative" if self.getNonnegative() else "cholesky"
        problem = self.problem(rank=self.rank, iterations=1, solver=solver, steps=0, tolerance=0.0, seed=0)
        mean, pairs = self.getOrDefault("globalMean"), self.getOrDefault("pairWeight")
        tasks = min(MAX_TASKS, max(1, histories.sparkSession.sparkContext.defaultParallelism))
        users = fold_in(ratings, self.itemFactors, problem, mean, pairs, tasks).persist()
        return self.copy()._with_users(users)

    def _with_users(self, users: DataFrame) -> ALSModel:
        self.userFactors = users
        self.summary = None
        return self

    def similarItems(self, n: int, measure: str = "cosine", temper: float = 0.5) -> DataFrame:
        """The ``n`` most similar items of every item.

        Parameters
        ----------
        n : at least 1
        measure : ``dot`` (popular items first), ``cosine`` (of like taste, however rare), or ``tempered``: the dot product of
            vectors divided by their lengths to the power of ``temper``, which is ``dot`` at 0 and ``cosine`` at 1
        temper : for ``tempered``

        Returns
        -------
        DataFrame
            One row per (item, rank): ``item``, ``similar_item``, ``score`` float, ``rank`` from 1. Biases play no part.

        Raises
        ------
        ValueError
            Another measure.
        """
        powers = {"dot": 0.0, "cosine": 1.0, "tempered": temper}
        if measure not in powers:
            raise ValueError(f"measure must be one of {', '.join(powers)}, got {measure!r}")
        square = F.aggregate("features", F.lit(0.0), lambda total, x: total + x * x)
        length = F.pow(F.greatest(square, F.lit(1e-30)), F.lit(powers[measure] / 2))
        scaled = F.transform("features", lambda x: (x / F.col("length")).cast("float"))
        items = self.itemFactors.withColumn("length", length).select("id", scaled.alias("features"))
        itself = items.select(F.col("id").alias(USER), F.col("id").alias(ITEM))
        rows = explode_lists(recommend_lists(items, items, n, itself))
        return rows.select(F.col(USER).alias(ITEM), F.col(ITEM).alias("similar_item"), SCORE, RANK)


# Spark's own setters, and ours in their manner
for _name in dir(spark_recommendation.ALS):
    if _name.startswith("set") and not hasattr(ALS, _name):
        setattr(ALS, _name, getattr(spark_recommendation.ALS, _name))
for _name in ("UnobservedWeight", "RegExponent", "Gravity", "UseBiases", "Solver", "CgSteps", "Tol"):
    setattr(ALS, f"set{_name}", _setter(f"{_name[0].lower()}{_name[1:]}"))
for _name in ("setUserCol", "setItemCol", "setPredictionCol", "setColdStartStrategy", "setBlockSize"):
    setattr(ALSModel, _name, getattr(spark_recommendation.ALS, _name))
