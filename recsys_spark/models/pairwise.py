"""Models of (user, item) pairs with side features: dot products, networks, or both, from ratings or from
sampled negatives.

The mathematics and the training loop are in :mod:`recsys_spark.training.pairwise.program`, how they are
spread over Spark in :mod:`recsys_spark.training.gradient.job`, the losses in
:mod:`recsys_spark.kernels.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.arrays import Floats
from recsys_spark.models.featured import feature_entries
from recsys_spark.models.gradient_model import (
    GradientEstimator,
    GradientModel,
    TrainingSummary,
)
from recsys_spark.models.pair_model import packed_known_rows
from recsys_spark.models.pairwise_params import PairParams, PairwiseParams
from recsys_spark.params import check_ranges, keyword_constructor
from recsys_spark.recommend.rescore import PairScorer, dot_products, rescore
from recsys_spark.recommend.scores import LinearScores
from recsys_spark.recommend.top_n import ListRequest, no_vector
from recsys_spark.schema import SEEDED
from recsys_spark.training.gradient.job import collect_features, collect_layers
from recsys_spark.training.gradient.program import VALUES
from recsys_spark.training.item_item import histories_of_users
from recsys_spark.training.pairwise.fold_in import BY_FEATURES, FoldIn, fold_in
from recsys_spark.training.pairwise.program import PairwiseProgram, combined_vectors, network_scores
from recsys_spark.training.side_features import USER_FEATURES, Features, vectors_by_features

INTERACTIONS = ("dot", "mlp", "dot+mlp")
LOSSES = ("squared", "logistic", "bpr", "ccl")


class PairwiseRecommender(
    GradientEstimator, PairwiseParams, DefaultParamsReadable[Any], DefaultParamsWritable
):
    """A model of (user, item) pairs with embeddings, biases and side features.

    ``interaction`` says what makes a score beside the biases: the dot product of both vectors, a network over
    the two beside each other, or both. ``loss`` says what is learnt:

    * ``squared``: ratings, on observed pairs only;
    * ``logistic``: that a pair is a positive and not one of ``numNegatives`` sampled negatives; a score is
      the logit;
    * ``bpr``: that a positive scores above a sampled negative of the same user (Rendle et al. 2009);
    * ``ccl``: cosine contrastive loss with ``margin`` and many negatives (Mao et al. 2021); a score is the
      cosine.

    A negative is never an item that the user has. A rating of 0 or less is no positive.

    Parameters
    ----------
    userCol, itemCol, ratingCol : str, default "user", "item", "rating"
        Columns of the input; with loss ``squared`` ratings must be there, otherwise every row counts without
        them.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds.
    interaction : str, default "dot"
        What makes a score beside the biases: ``dot``, ``mlp`` or ``dot+mlp``.
    loss : str, default "logistic"
        ``squared``, ``logistic``, ``bpr`` or ``ccl``; ``ccl`` needs interaction ``dot``.
    embeddingDim : int, default 64
        Length of an embedding, at least 1.
    hiddenDims : sequence of int, default (64, 32)
        Sizes of the network's hidden layers, for ``mlp``.
    activation : str, default "relu"
        Of hidden layers: ``relu`` or ``tanh``.
    dropout : float, default 0.0
        Fraction of a hidden layer's outputs that a training step leaves out, below 1.
    useBiases : bool, default True
        Users and items have biases; never with ``ccl``.
    numNegatives : int, default 4
        Negatives of each positive; at least 1 unless the loss is ``squared``.
    popularityExponent : float, default 0.0
        Negatives are drawn in proportion to their number of events to this power, at least 0; 0 for
        uniformly.
    rotateNegatives : bool, default True
        Each epoch has other negatives.
    margin : float, default 0.4
        Of loss ``ccl``: cosine below which a negative costs nothing, at least 0.
    negativeWeight : float, default 10.0
        Of loss ``ccl``: weight of the negatives' mean loss, at least 0.
    initStd : float, default 0.01
        Standard deviation of embeddings before the first step.
    regParam : float, default 1e-6
        L2 regularisation of what a step touches, at least 0.
    maxIter : int, default 20
        Number of epochs, at least 0.
    stepSize : float, default 0.003
        Learning rate of Adam.
    schedule : str, default "linear"
        How the learning rate falls: ``constant``, ``linear`` or ``cosine``.
    batchSize : int, default 8192
        Pairs of a mini-batch, over all tasks, on average.
    checkpointInterval : int, default 10
        Epochs of one Spark job, which is what a lost executor costs at most; -1 for all in one.
    seed : int, default 42
        Of every random draw.
    userFeatureCols, itemFeatureCols : sequence of str, default ()
        Columns of ``userFeatures`` and ``itemFeatures`` that are features: text, arrays, or numbers.
    coldStartStrategy : str, default "average"
        What ``transform`` does with unknown users and items: ``average`` scores them as average ones,
        ``drop`` drops the row.
    numCandidates : int, default 500
        With ``mlp``: items that the network ranks for each user, the best by dot product, or without one the
        most popular.
    initialModel : PairwiseModel, optional
        Continue from it, with fresh moments; ids it does not know start fresh. It is not saved with the
        estimator.
    userFeatures, itemFeatures : DataFrame, optional
        One row per user or item: ``userCol`` or ``itemCol``, and the feature columns. A vector is an id's own
        embedding plus those of its features; users and items that have only features are served too. They are
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
    A fit is one Spark job with two shuffles for every ``checkpointInterval`` epochs. Memory of a task: see
    :meth:`recsys_spark.training.pairwise.program.PairwiseProgram.train`. The result is the same on any number
    of tasks but for rounding, and the same bytes on the same number. The vectors of features pass through the
    driver.
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = "user",
        itemCol: str = "item",
        ratingCol: str = "rating",
        predictionCol: str = "prediction",
        interaction: str = "dot",
        loss: str = "logistic",
        embeddingDim: int = 64,
        hiddenDims: Sequence[int] = (64, 32),
        activation: str = "relu",
        dropout: float = 0.0,
        useBiases: bool = True,
        numNegatives: int = 4,
        popularityExponent: float = 0.0,
        rotateNegatives: bool = True,
        margin: float = 0.4,
        negativeWeight: float = 10.0,
        initStd: float = 0.01,
        regParam: float = 1e-6,
        maxIter: int = 20,
        stepSize: float = 0.003,
        schedule: str = "linear",
        batchSize: int = 8192,
        checkpointInterval: int = 10,
        seed: int = SEEDED,
        userFeatureCols: Sequence[str] = (),
        itemFeatureCols: Sequence[str] = (),
        coldStartStrategy: str = "average",
        numCandidates: int = 500,
        initialModel: PairwiseModel | None = None,
        userFeatures: DataFrame | None = None,
        itemFeatures: DataFrame | None = None,
    ) -> None:
        super().__init__()
        self.initialModel, self.userFeatures, self.itemFeatures = initialModel, userFeatures, itemFeatures
        self._set_given()

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for squared loss."""
        return self.getLoss() == "squared"

    @property
    def has_linear_scores(self) -> bool:  # type: ignore[override]
        """False with a network."""
        return "mlp" not in self.getInteraction()

    @property
    def makes_models_that_fold_in(self) -> bool:  # type: ignore[override]
        """Without a network, and not by cosines."""
        return _solvable(self)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        super().check()
        loss, interaction = self.getLoss(), self.getInteraction()
        allowed = {"interaction": INTERACTIONS, "loss": LOSSES, "coldStartStrategy": ("average", "drop")}
        check_ranges(self, {"numCandidates": 1, "margin": 0, "negativeWeight": 0, "initStd": 0}, allowed)
        if loss == "ccl" and interaction != "dot":
            raise ValueError(f"loss ccl compares cosines: interaction must be dot, got {interaction!r}")
        if loss != "squared" and self.getNumNegatives() < 1:
            raise ValueError(f"loss {loss} needs numNegatives of at least 1, got {self.getNumNegatives()}")
        shape = ["embeddingDim", "interaction", "loss", "useBiases"] + ["hiddenDims"] * ("mlp" in interaction)
        self._check_initial_model(PairwiseModel, shape)

    def _fit(self, dataset: DataFrame | PackedHistories) -> PairwiseModel:
        self.check()
        config = self.to_config(
            dropout=self.getDropout(),
            n_negatives=self.getNumNegatives(),
            popularity_exponent=self.getPopularityExponent(),
            rotate_negatives=self.getRotateNegatives(),
            margin=self.getMargin(),
            negative_weight=self.getNegativeWeight(),
            biases=self.getUseBiases() and self.getLoss() != "ccl",
            init_std=self.getInitStd(),
            mean=None if self.initialModel is None else self.initialModel.globalMean,
            batch_size=self.getBatchSize(),
            max_epochs=self.getMaxIter(),
            learning_rate=self.getStepSize(),
            schedule=self.getSchedule(),
            weight_decay=self.getRegParam(),
        )
        fit, scales = self._train(dataset, PairwiseProgram, config)
        vector = _vector_columns(config.embedding_dim)
        count = F.element_at(VALUES, config.embedding_dim + 2).alias("count")
        users, items = fit.users.select("id", *vector), fit.items.select("id", *vector, count)
        model = self._copyValues(PairwiseModel(users, items, fit.tables))
        model.featureScales, model.globalMean = scales, fit.outcome.global_mean
        model.averages = {"user": fit.outcome.user_average, "item": fit.outcome.item_average}
        model.summary = TrainingSummary(fit.epochs)
        model.objective = {
            "negatives": config.n_negatives,
            "popularity_exponent": config.popularity_exponent,
            "noise": 2 * fit.epochs[-1].loss if fit.epochs else 1.0,
        }
        for side, frame in self.side_frames().items():
            model._add_by_features(side, frame)
        model._store(fit.persisted)
        return model


class PairwiseModel(GradientModel, PairParams):
    """Vectors and biases of users and items, the network, and what can be asked of them.

    ``transform`` predicts unknown users and items as average ones, so that nothing is NaN
    (``coldStartStrategy`` "average"). Those with features are served by them, with the average embedding as
    their own.

    Attributes
    ----------
    userFactors : DataFrame
        One row per user: ``id``, ``features`` array<float>, ``bias`` float.
    itemFactors : DataFrame
        One row per item: the same, and ``count`` float, its events in training.
    tables : DataFrame
        All that was learnt.
    averages : dict
        ``user`` and ``item`` → mean embedding, with the mean bias as last number.
    objective : dict
        What the fit has beside its loss: ``negatives``, ``popularity_exponent``, and ``noise``,
        with loss ``squared`` the mean squared error of the last epoch.
    summary : TrainingSummary or None
        Of the fit; None for a loaded model.
    """

    folds_in: ClassVar[bool] = True

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame, tables: DataFrame) -> None:
        super().__init__(user_factors, item_factors, tables)
        self.averages: dict[str, list[float]] = {}
        self.objective: dict[str, Any] = {}

    def fitted_values(self) -> dict[str, Any]:
        """The global mean, the scales of features, the average embeddings, and the objective."""
        return {**super().fitted_values(), "averages": self.averages, "objective": self.objective}

    def foldIn(
        self,
        histories: DataFrame | None = None,
        ratingCol: str | None = None,
        userFeatures: DataFrame | None = None,
        itemFeatures: DataFrame | None = None,
    ) -> PairwiseModel:
        """A model of other users, from their histories, or without histories of more users, by their
        features; and of more items, by theirs. All that was learnt stays as it is.

        Parameters
        ----------
        histories : DataFrame, optional
            ``userCol``, ``itemCol``, and ``ratingCol`` if it is named; rows of items that the model does not
            know are ignored, and with a loss other than ``squared`` ratings of 0 or less. A user with no
            other rows is not in the result.
        ratingCol : str, optional
            Column of ratings; without it every row counts 1.
        userFeatures, itemFeatures : DataFrame, optional
            As in the fit. Without histories rows of known ids are ignored.

        Returns
        -------
        PairwiseModel
            A copy whose users are those of ``histories``: each the most likely one by its history and by how
            the users of the fit differ (:mod:`recsys_spark.training.pairwise.fold_in`). Without histories it
            has all that this model has.

        Raises
        ------
        ModelError
            Histories, and a network, or loss ``ccl``.
        """
        model = self.copy()
        model.summary = None
        if itemFeatures is not None:
            model._add_by_features("item", itemFeatures)
        if histories is None:
            if userFeatures is not None:
                model._add_by_features("user", userFeatures)
            model._store()
            return model
        if not _solvable(self):
            raise ModelError(
                "only a dot product with loss squared, logistic or bpr is folded in by histories"
            )
        user, item, explicit = self.getUserCol(), self.getItemCol(), self.getLoss() == "squared"
        packed = packed_known_rows(histories, user, item, ratingCol, model.itemFactors)
        rated = histories_of_users(packed, explicit)
        values = F.transform("values", lambda value: value + F.col("bias")) if explicit else F.col("values")
        rated = rated.where(F.size("items") > 0).select("id", "items", values.alias("values"))
        if userFeatures is None:
            nothing = F.lit(None).cast("array<float>")
            rated = rated.withColumn(BY_FEATURES, nothing)
        else:
            added = self._features_alone(userFeatures, packed.id_types[0])
            rated = rated.join(added.select("id", F.col("values").alias(BY_FEATURES)), "id", "left")
        how = FoldIn(self.getLoss(), self.globalMean, **self.objective, seed=self.getSeed())
        dim = self.getEmbeddingDim()
        model.userFactors = fold_in(rated, model.itemFactors, self.tables, dim, how).persist()
        model._store(model.userFactors, packed.packed)
        return model

    def _features_alone(self, frame: DataFrame, id_type: T.DataType) -> DataFrame:
        """What the features of users add to their embeddings and biases: ``id``, ``values``."""
        columns, scales = self.getUserFeatureCols(), self.featureScales.get("user", {})
        entries = feature_entries(frame, self.getUserCol(), columns, scales, id_type)
        names, table = collect_features(self.tables, USER_FEATURES, self.getEmbeddingDim() + 1)
        return vectors_by_features(entries, names, lambda features: features.sums(slice(None), table))

    def linear_scores(self) -> LinearScores | None:
        """What lists are made of; None with a network."""
        return None if "mlp" in self.getInteraction() else super().linear_scores()

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Best items of each known user; see :meth:`RecommenderModel.recommend_lists`.

        With a network in two stages: ``numCandidates`` by dot product, or without one by popularity, then the
        network; exact where the catalogue has no more items than that.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        if "mlp" not in self.getInteraction():
            return super().recommend_lists(users, request)
        candidates = super().recommend_lists(
            users, replace(request, n=max(request.n, self.getNumCandidates()))
        )
        return rescore(
            candidates, self._scored_users(), self.itemFactors, request.length, self._pair_scorer()
        )

    def _candidate_vectors(self) -> tuple[DataFrame, DataFrame]:
        if self.getInteraction() != "mlp":
            return super()._candidate_vectors()
        items = self.itemFactors.select("id", no_vector(), F.col("count").alias("bias"))
        return self.userFactors.select("id", no_vector()), items

    def _users_for(self, items: DataFrame, n: int) -> DataFrame:
        if "mlp" in self.getInteraction():
            raise ModelError(
                "a network ranks items for users only: fit with interaction dot to rank users for items"
            )
        return super()._users_for(items, n)

    def _pair_scorer(self) -> PairScorer:
        if self.getInteraction() == "dot":
            return dot_products
        config = self.to_config()
        layers = self.tables.sparkSession.sparkContext.broadcast(collect_layers(self.tables))

        def score(x: Floats, y: Floats) -> Floats:
            scores = network_scores(x, y, layers.value, config)
            return scores + dot_products(x, y) if config.product else scores

        return score

    def _average_vectors(self) -> tuple[Floats, Floats]:
        config = self.to_config()
        no_features = np.zeros((0, config.embedding_dim + 1), np.float32)
        own = [np.array([self.averages[side]], np.float32) for side in ("user", "item")]
        user, item = (combined_vectors(vector, Features.none(1), no_features, config)[0] for vector in own)
        return user, item

    def _add_by_features(self, side: str, frame: DataFrame) -> None:
        """Add the ids of ``frame`` that have no vector, by their features."""
        config = self.to_config()
        factors = self.userFactors if side == "user" else self.itemFactors
        columns, scales = self.getOrDefault(f"{side}FeatureCols"), self.featureScales.get(side, {})
        entries = feature_entries(
            frame, self.getOrDefault(f"{side}Col"), columns, scales, factors.schema["id"].dataType
        )
        names, table = collect_features(self.tables, f"{side} features", config.embedding_dim + 1)
        average = np.array(self.averages[side], np.float32)
        unseen = entries.join(factors, "id", "left_anti")
        added = vectors_by_features(
            unseen, names, lambda features: combined_vectors(average, features, table, config)
        )
        count = [F.lit(0.0).cast("float").alias("count")] if side == "item" else []
        added = added.select("id", *_vector_columns(config.embedding_dim), *count)
        setattr(self, f"{side}Factors", factors.unionByName(added))


def _solvable(asked: PairParams) -> bool:
    """Whether a user's vector is the solution of a convex problem, items being known."""
    return asked.getInteraction() == "dot" and asked.getLoss() != "ccl"


def _vector_columns(dim: int) -> list[Column]:
    """``features`` and ``bias`` among the values of a vector."""
    return [F.slice(VALUES, 1, dim).alias("features"), F.element_at(VALUES, dim + 1).alias("bias")]
