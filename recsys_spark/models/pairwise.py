"""Models of (user, item) pairs with side features: dot products, networks, or both, from ratings or from sampled negatives.

The mathematics and the training loop stand in :mod:`recsys_spark.models.pairwise_program`, how they are spread over Spark in
:mod:`recsys_spark.models.descent_stage`, the losses in :mod:`recsys_spark.kernels.losses`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Blocks
from recsys_spark.errors import ModelError
from recsys_spark.models.descent_models import (
    DescentEstimator,
    DescentModel,
    DescentParams,
    NetworkParams,
    TrainingSummary,
    check_initial_model,
    feature_entries,
    side_frames,
)
from recsys_spark.models.descent_stage import VALUES, features_table, layers_of
from recsys_spark.models.factors import PairScorer, dot_products
from recsys_spark.models.pairwise_program import PairwiseProblem, network_scores, vectors
from recsys_spark.models.pairwise_stage import PairwiseLearner, rescore
from recsys_spark.models.side_features import Features, vectors_by_features
from recsys_spark.params import check_ranges, param
from recsys_spark.recommend.host import DEFAULT_BLOCKS, check_length

INTERACTIONS = ("dot", "mlp", "dot+mlp")
LOSSES = ("squared", "logistic", "bpr", "ccl")


class PairParams(NetworkParams):
    """The Params that an estimator shares with its model."""

    itemFeatureCols: Param[list[str]] = param(
        "itemFeatureCols", "columns of the items' table that are features: text, arrays, or numbers", TypeConverters.toListString
    )
    interaction: Param[str] = param("interaction", f"what makes a score: {', '.join(INTERACTIONS)}", TypeConverters.toString)
    loss: Param[str] = param("loss", f"one of {', '.join(LOSSES)}", TypeConverters.toString)
    useBiases: Param[bool] = param("useBiases", "whether users and items have biases; never with ccl", TypeConverters.toBoolean)
    averages: Param[dict[str, list[float]]] = param(
        "averages", "mean embedding and bias of the users, and of the items; set by the fit", TypeConverters.identity
    )
    candidates: Param[int] = param(
        "candidates",
        "items that the network ranks for each user: the best by dot product, or without one the most popular",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            itemFeatureCols=[], interaction="dot", loss="logistic", candidates=500, hiddenDims=[64, 32],
            coldStartStrategy="average", useBiases=True, averages={},
        )  # fmt: skip

    def problem(self, **fit: Any) -> PairwiseProblem:
        """The numbers of the score, and those of the ``fit``."""
        of = self.getOrDefault
        return PairwiseProblem(
            dim=of("embeddingDim"), product="dot" in of("interaction"), network="mlp" in of("interaction"),
            hidden=tuple(of("hiddenDims")), activation=of("activation"), loss=of("loss"), seed=of("seed"), **fit,
        )  # fmt: skip


class PairwiseParams(PairParams, DescentParams):
    """The Params of a fit."""

    rotateNegatives: Param[bool] = param("rotateNegatives", "whether each epoch has other negatives", TypeConverters.toBoolean)
    margin: Param[float] = param("margin", "of loss ccl: cosine below which a negative is well placed", TypeConverters.toFloat)
    negativeWeight: Param[float] = param(
        "negativeWeight", "of loss ccl: weight of the negatives' mean loss", TypeConverters.toFloat
    )
    initStd: Param[float] = param("initStd", "standard deviation of embeddings before the first step", TypeConverters.toFloat)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            numNegatives=4, power=0.0, rotateNegatives=True, margin=0.4, negativeWeight=10.0, initStd=0.01,
            batchSize=8192, stepSize=0.003, regParam=1e-6, maxIter=20,
        )  # fmt: skip


class PairwiseRecommender(DescentEstimator, PairwiseParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """A model of (user, item) pairs with embeddings, biases and side features.

    ``interaction`` says what makes a score beside the biases: the dot product of both vectors, a network over the two beside each
    other, or both. ``loss`` says what is learnt:

    * ``squared``: ratings, on observed pairs only;
    * ``logistic``: that a pair is a positive and not one of ``numNegatives`` sampled negatives; a score is the logit;
    * ``bpr``: that a positive scores above a sampled negative of the same user (Rendle et al. 2009);
    * ``ccl``: cosine contrastive loss with ``margin`` and many negatives (Mao et al. 2021); a score is the cosine.

    Negatives are drawn in proportion to their count to the power ``power`` (0: uniformly), others in each epoch, and never an
    item that the user has. A rating of 0 or less is no positive.

    Parameters
    ----------
    initialModel : PairwiseModel, optional
        Continue from it, with fresh moments; ids it does not know start fresh. It is not saved with the estimator.
    userFeatures, itemFeatures : DataFrame, optional
        One row per user or item: ``userCol`` or ``itemCol``, and the columns named in ``userFeatureCols`` or ``itemFeatureCols``.
        A vector is an id's own embedding plus those of its features; users and items that have only features are served too.
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
    A fit is one Spark job with two shuffles for every ``checkpointInterval`` epochs. Memory of a task: see
    :func:`recsys_spark.models.pairwise_program.train`. The result is the same on any number of tasks but for rounding, and the
    same bytes on the same number. The vectors of features pass through the driver.
    """

    def __init__(self, *, itemFeatures: DataFrame | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.itemFeatures = itemFeatures

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for squared loss."""
        return self.getOrDefault("loss") == "squared"

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        super().check()
        of = self.getOrDefault
        allowed = {"interaction": INTERACTIONS, "loss": LOSSES, "coldStartStrategy": ("average", "drop")}
        check_ranges(self, {"candidates": 1, "margin": 0, "negativeWeight": 0, "initStd": 0}, allowed)
        if of("loss") == "ccl" and of("interaction") != "dot":
            raise ValueError(f"loss ccl is of cosines: interaction must be dot, got {of('interaction')!r}")
        if of("loss") != "squared" and of("numNegatives") < 1:
            raise ValueError(f"loss {of('loss')} needs numNegatives of at least 1, got {of('numNegatives')}")
        shape = ["embeddingDim", "interaction", "loss", "useBiases"] + ["hiddenDims"] * ("mlp" in of("interaction"))
        check_initial_model(self, PairwiseModel, shape)

    def _fit(self, dataset: DataFrame) -> PairwiseModel:
        self.check()
        of = self.getOrDefault
        problem = self.problem(
            dropout=of("dropout"), negatives=of("numNegatives"), power=of("power"), rotate=of("rotateNegatives"),
            margin=of("margin"), weight=of("negativeWeight"), biases=of("useBiases") and of("loss") != "ccl",
            deviation=of("initStd"), batch=of("batchSize"), epochs=of("maxIter"), rate=of("stepSize"),
            mean=None if self.initialModel is None else self.initialModel.getOrDefault("globalMean"),
            schedule=of("schedule"), decay=of("regParam"),
        )  # fmt: skip
        fitted, scales = self._train(dataset, PairwiseLearner(problem))
        dim = problem.dim
        vector = [F.slice(VALUES, 1, dim).alias("features"), F.element_at(VALUES, dim + 1).alias("bias")]
        users = fitted.users.select("id", *vector)
        items = fitted.items.select("id", *vector, F.element_at(VALUES, dim + 2).alias("count"))
        model = self._copyValues(PairwiseModel(users, items, fitted.tables))
        averages = {side: fitted.said[side] for side in ("user", "item")}
        model._set(featureScales=scales, globalMean=fitted.said["mean"], averages=averages)
        model.summary = TrainingSummary(fitted.history)
        model._kept = fitted.kept
        for side, frame, _ in side_frames(self):
            model._add_by_features(side, frame)
        return model


class PairwiseModel(DescentModel, PairParams):
    """Vectors and biases of users and items, the network, and what can be asked of them.

    ``transform`` predicts unknown users and items as average ones, so that nothing is NaN (``coldStartStrategy`` "average").
    Those with features are served by them, with the average embedding as their own.

    Attributes
    ----------
    userFactors : one row per user: ``id``, ``features`` array<float>, ``bias`` float
    itemFactors : one row per item: the same, and ``count`` float, its events in training
    tables : all that was learnt
    summary : :class:`recsys_spark.models.descent_models.TrainingSummary` of the fit; None for a loaded model
    """

    def foldIn(self, userFeatures: DataFrame | None = None, itemFeatures: DataFrame | None = None) -> PairwiseModel:
        """A model that also knows users and items it was not trained on, by their features: nothing is trained.

        Parameters
        ----------
        userFeatures, itemFeatures : as in the fit; rows of known ids are passed over
        """
        model = self.copy()
        model._kept, model.summary = None, None
        for side, frame in (("user", userFeatures), ("item", itemFeatures)):
            if frame is not None:
                model._add_by_features(side, frame)
        return model

    def lists(
        self,
        users: DataFrame,
        n: int,
        seen: DataFrame | None = None,
        sizes: Blocks = DEFAULT_BLOCKS,
        allowedItems: DataFrame | None = None,
        deniedItems: DataFrame | None = None,
    ) -> DataFrame:
        """Best ``n`` items of each known user. With a network in two stages: ``candidates`` by dot product, or without one by
        popularity, then the network; exact where the catalogue has no more items than ``candidates``.
        """
        if "mlp" not in self.getOrDefault("interaction"):
            return super().lists(users, n, seen, sizes, allowedItems, deniedItems)
        check_length(n)
        found = super().lists(users, max(n, self.getOrDefault("candidates")), seen, sizes, allowedItems, deniedItems)
        return rescore(found, self._scored_users(), self.itemFactors, n, self._pair_scorer())

    def _candidates(self) -> tuple[DataFrame, DataFrame]:
        if self.getOrDefault("interaction") != "mlp":
            return super()._candidates()
        nothing = F.array().cast("array<float>").alias("features")
        return self.userFactors.select("id", nothing), self.itemFactors.select("id", nothing, F.col("count").alias("bias"))

    def _users_for(self, items: DataFrame, n: int) -> DataFrame:
        if "mlp" in self.getOrDefault("interaction"):
            raise ModelError("a network ranks items for users only: users for items need interaction dot")
        return super()._users_for(items, n)

    def _pair_scorer(self) -> PairScorer:
        interaction = self.getOrDefault("interaction")
        if interaction == "dot":
            return dot_products
        problem = self.problem()
        held = self.tables.sparkSession.sparkContext.broadcast(layers_of(self.tables))

        def score(x: Any, y: Any) -> Any:
            found = network_scores(x, y, held.value, problem)
            return found + dot_products(x, y) if problem.product else found

        return score

    def _average(self) -> tuple[Any, Any]:
        found = []
        for side in ("user", "item"):
            own = np.array([self.getOrDefault("averages")[side]], np.float32)
            problem = self.problem()
            found.append(vectors(own, Features.none(1), np.zeros((0, problem.dim + 1), np.float32), problem)[0])
        return found[0], found[1]

    def _add_by_features(self, side: str, frame: DataFrame) -> None:
        """Add the ids of ``frame`` that have no vector, by their features."""
        of, problem = self.getOrDefault, self.problem()
        factors = self.userFactors if side == "user" else self.itemFactors
        entries = feature_entries(
            frame, of(f"{side}Col"), of(f"{side}FeatureCols"), of("featureScales").get(side, {}), factors, "id"
        )
        names, table = features_table(self.tables, f"{side} features", problem.dim + 1)
        average = np.array(of("averages")[side], np.float32)
        unseen = entries.join(factors, "id", "left_anti")
        found = vectors_by_features(unseen, names, lambda features: vectors(average, features, table, problem))
        vector = [F.slice(VALUES, 1, problem.dim).alias("features"), F.element_at(VALUES, problem.dim + 1).alias("bias")]
        rest = [F.lit(0.0).cast("float").alias("count")] if side == "item" else []
        setattr(self, f"{side}Factors", factors.unionByName(found.select("id", *vector, *rest)))
