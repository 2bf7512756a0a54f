"""The softmax model: a user is a bag of items, a small network turns it into a vector, and a softmax ranks
the catalogue.

The mathematics and the training loop are in :mod:`recsys_spark.training.softmax.program`, how they are spread
over Spark in :mod:`recsys_spark.training.gradient.job`, the network in :mod:`recsys_spark.kernels.network`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from recsys_spark.histories import PackedHistories
from recsys_spark.kernels.topn import ItemBlock
from recsys_spark.models.featured import feature_entries
from recsys_spark.models.gradient_model import (
    GradientEstimator,
    GradientModel,
    TrainingSummary,
    rating_rows,
)
from recsys_spark.models.softmax_params import BagParams, SoftmaxParams
from recsys_spark.models.softmax_sql import PROBABILITY, best_of_histories
from recsys_spark.params import check_ranges, keyword_constructor
from recsys_spark.recommend.scores import collect_factors
from recsys_spark.recommend.top_n import DEFAULT_BLOCK_SIZES, LOG_NORMALIZER, RECOMMENDATIONS, ListRequest
from recsys_spark.schema import ITEM, RATING, SCORE, SEEDED, USER
from recsys_spark.training.group import fold_in_tasks
from recsys_spark.training.side_features import USER_FEATURES
from recsys_spark.training.softmax.job import collect_tables, encode_users
from recsys_spark.training.softmax.program import SoftmaxProgram

SIMILARITIES = ("dot", "cosine")


class SoftmaxRecommender(GradientEstimator, SoftmaxParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """The softmax model on bags of items, trained by Spark without a framework.

    An epoch holds ``targetFraction`` of every history out and asks the network for it, seeing the rest:
    cross-entropy under the softmax over the catalogue, or over the targets and ``numNegatives`` items drawn
    for each mini-batch of ``batchSize`` users, log-q corrected. Feedback is implicit: a rating of 0 or less
    is ignored. Users with a single item are served, and not trained on. A fit that stops early keeps what it
    learnt last, not what it had learnt at the lowest loss.

    Parameters
    ----------
    userCol, itemCol, ratingCol : str, default "user", "item", "rating"
        Columns of the input; without a column of ratings every row counts.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds: the logit.
    embeddingDim : int, default 64
        Length of an item's vector in a bag, at least 1.
    hiddenDims : sequence of int, default ()
        Sizes of the layers from the bag to the user's vector; without any the bag is the vector.
    activation : str, default "relu"
        Of the layers but the last: ``relu`` or ``tanh``.
    dropout : float, default 0.0
        Fraction of a hidden layer's outputs that a training step leaves out, below 1; the last layer has
        none.
    tieItems : bool, default False
        Score items by the vectors that they have in a bag, instead of vectors of their own.
    bagExponent : float, default 0.5
        A bag is the sum of its items' vectors over their number to this power, at least 0; 1 for the mean.
    similarity : str, default "dot"
        Score of an item: ``dot``, or ``cosine`` over ``temperature``.
    temperature : float, default 0.1
        What the cosine is divided by, above 0.
    targetFraction : float, default 0.5
        Fraction of each history that an epoch holds out, below 1; at least one item.
    userExponent : float, default 0.5
        A user weighs as much as their held-out items to this power, at least 0: 0 for all alike, 1 for all
        items alike.
    numNegatives : int, default 0
        Items drawn for each mini-batch, for large catalogues; 0 scores the whole catalogue.
    popularityExponent : float, default 0.75
        They are drawn in proportion to their number of events to this power, at least 0.
    gravity : float, default 0.0
        Weight of the mean squared score over the items of the loss, at least 0.
    regParam : float, default 0.0
        L2 regularisation of what a step touches, at least 0.
    maxIter : int, default 20
        Largest number of epochs, at least 0.
    stepSize : float, default 0.01
        Learning rate of Adam.
    schedule : str, default "linear"
        How the learning rate falls: ``constant``, ``linear`` or ``cosine``.
    batchSize : int, default 256
        Users of a mini-batch, over all tasks.
    validationFraction : float, default 0.0
        Fraction of the users that are not trained on but decide when to stop, below 1.
    patience : int, default 0
        Stop after this many epochs in which the validation loss did not fall; 0 for never. Needs
        ``validationFraction``.
    checkpointInterval : int, default 10
        Epochs of one Spark job, which is what a lost executor costs at most; -1 for all in one.
    seed : int, default 42
        Of every random draw.
    userFeatureCols : sequence of str, default ()
        Columns of ``userFeatures`` that are features: text, arrays, or numbers. Their embeddings are added to
        the bag.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with unknown users and items: ``nan`` or ``drop``.
    retrieval : str, default "exact"
        How lists are made: ``exact``, or ``approximate`` (by an index; needs the extra ``index``).
    initialModel : SoftmaxModel, optional
        Continue from it, with fresh moments; items it does not know start fresh. It is not saved with the
        estimator.
    userFeatures : DataFrame, optional
        One row per user: ``userCol``, and the columns named in ``userFeatureCols``. It is not saved with the
        estimator.

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
    :meth:`recsys_spark.training.softmax.program.SoftmaxProgram.train`. The result is the same on any number
    of tasks but for rounding, and the same bytes on the same number.
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = "user",
        itemCol: str = "item",
        ratingCol: str = "rating",
        predictionCol: str = "prediction",
        embeddingDim: int = 64,
        hiddenDims: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.0,
        tieItems: bool = False,
        bagExponent: float = 0.5,
        similarity: str = "dot",
        temperature: float = 0.1,
        targetFraction: float = 0.5,
        userExponent: float = 0.5,
        numNegatives: int = 0,
        popularityExponent: float = 0.75,
        gravity: float = 0.0,
        regParam: float = 0.0,
        maxIter: int = 20,
        stepSize: float = 0.01,
        schedule: str = "linear",
        batchSize: int = 256,
        validationFraction: float = 0.0,
        patience: int = 0,
        checkpointInterval: int = 10,
        seed: int = SEEDED,
        userFeatureCols: Sequence[str] = (),
        coldStartStrategy: str = "nan",
        retrieval: str = "exact",
        initialModel: SoftmaxModel | None = None,
        userFeatures: DataFrame | None = None,
    ) -> None:
        super().__init__()
        self.initialModel, self.userFeatures = initialModel, userFeatures
        self._set_given()

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        super().check()
        least = {"bagExponent": 0, "userExponent": 0, "gravity": 0, "patience": 0}
        allowed = {
            "similarity": SIMILARITIES,
            "coldStartStrategy": ("nan", "drop"),
            "retrieval": ("exact", "approximate"),
        }
        check_ranges(self, least, allowed, ("validationFraction", "targetFraction"))
        hidden, dim = self.getHiddenDims(), self.getEmbeddingDim()
        if not 0 < self.getTemperature() < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.getTemperature()}")
        if self.getTieItems() and hidden and hidden[-1] != dim:
            raise ValueError(f"with tieItems the last of hiddenDims {hidden} must be embeddingDim {dim}")
        if bool(self.getPatience()) != bool(self.getValidationFraction()):
            raise ValueError("patience and validationFraction belong together: set both, or neither")
        if self.getDropout() and len(hidden) < 2:
            raise ValueError(
                "dropout applies to hidden layers but the last: give hiddenDims two or more, or leave it at 0"
            )
        self._check_initial_model(SoftmaxModel, ("embeddingDim", "hiddenDims", "tieItems", "similarity"))

    def _fit(self, dataset: DataFrame | PackedHistories) -> SoftmaxModel:
        self.check()
        config = self.to_config(
            dropout=self.getDropout(),
            n_negatives=self.getNumNegatives(),
            popularity_exponent=self.getPopularityExponent(),
            target_fraction=self.getTargetFraction(),
            user_exponent=self.getUserExponent(),
            batch_size=self.getBatchSize(),
            max_epochs=self.getMaxIter(),
            learning_rate=self.getStepSize(),
            schedule=self.getSchedule(),
            weight_decay=self.getRegParam(),
            gravity=self.getGravity(),
            validation_fraction=self.getValidationFraction(),
            patience=self.getPatience(),
        )
        fit, scales = self._train(dataset, SoftmaxProgram, config)
        users, items = (side.withColumnRenamed("values", "features") for side in (fit.users, fit.items))
        model = self._copyValues(SoftmaxModel(users, items, fit.tables))
        model.featureScales = scales
        model.summary = TrainingSummary(fit.epochs)
        model._store(fit.persisted)
        return model


class SoftmaxModel(GradientModel, BagParams):
    """Vectors of users and items whose dot product is the logit, the network, and what can be asked of them.

    Attributes
    ----------
    userFactors : DataFrame
        One row per user with a history: ``id``, ``features`` array<float>.
    itemFactors : DataFrame
        One row per item: ``id``, ``features``.
    tables : DataFrame
        All that was learnt.
    summary : TrainingSummary or None
        Of the fit; None for a loaded model.
    """

    folds_in: ClassVar[bool] = True

    def foldIn(
        self, histories: DataFrame, ratingCol: str | None = None, userFeatures: DataFrame | None = None
    ) -> SoftmaxModel:
        """A model of other users, from their histories alone: nothing is trained.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``, ``itemCol``, and ``ratingCol`` if it is named; items that the model does not know are
            ignored, and a user with no others is not in the result.
        ratingCol : str, optional
            Column of ratings; rows of 0 or less are ignored. Without it every row counts.
        userFeatures : DataFrame, optional
            Their features, as in the fit; without it no user has any.

        Returns
        -------
        SoftmaxModel
            Its users are those of ``histories``; its items are this model's. One shuffle, when it is used.

        Raises
        ------
        ModelError
            Ids of another type. Null ids and null or non-finite ratings fail the job that uses the result.
        """
        rows = rating_rows(histories, self.getUserCol(), self.getItemCol(), ratingCol)
        item = F.col(ITEM).try_cast(self.itemFactors.schema["id"].dataType)
        rows = rows.where(item.isNotNull() | F.col(ITEM).isNull()).withColumn(
            ITEM, item
        )  # of another type is unknown
        entries = None
        if userFeatures is not None:
            scales, columns = self.featureScales.get("user", {}), self.getUserFeatureCols()
            entries = feature_entries(
                userFeatures, self.getUserCol(), columns, scales, rows.schema[USER].dataType
            )
        tasks = fold_in_tasks(histories.sparkSession)
        model = self.copy()
        model.userFactors = encode_users(rows, entries, self.tables, self.to_config(), tasks).persist()
        model.summary = None
        model._store(model.userFactors)
        return model

    def register(self, spark: SparkSession, name: str = "softmax_top_n") -> None:
        """Make ``name(history, n)`` a function of SQL: the best ``n`` items for an array of item ids, none of
        them in it.

        It returns array<struct<item, score: float, probability: float>>, best first; ``probability`` is the
        softmax over the catalogue. For a null history, or one without a known item, and where ``n`` is null
        or below 1, it returns null.

        Parameters
        ----------
        spark : SparkSession
            Where it is registered.
        name : str
            Name of the function.

        Notes
        -----
        The model is broadcast: a worker gets it once.
        """
        item_type = self.itemFactors.schema["id"].dataType
        fields = [(ITEM, item_type), (SCORE, T.FloatType()), (PROBABILITY, T.FloatType())]
        entry = T.StructType([T.StructField(field, kind) for field, kind in fields])
        config = self.to_config()
        ids, tables, _ = collect_tables(self.tables, config)
        tables[USER_FEATURES] = tables[USER_FEATURES][:0]  # of a visitor only the history is known
        _, vectors, _ = collect_factors(self.itemFactors)
        size, biases = DEFAULT_BLOCK_SIZES.item_block, np.zeros(len(vectors), np.float32)
        blocks = [
            ItemBlock.build(vectors[s : s + size], biases[s : s + size], s)
            for s in range(0, len(vectors), size)
        ]
        broadcast = spark.sparkContext.broadcast((ids, tables, blocks))

        def best(histories: pd.Series, wanted: pd.Series) -> pd.Series:
            return best_of_histories(histories, wanted, *broadcast.value, config)

        spark.udf.register(name, pandas_udf(best, T.ArrayType(entry)))  # type: ignore[call-overload]

    def _approximate(self) -> bool:
        return self.getRetrieval() == "approximate"

    def _nested(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """With the ``probability`` of each item beside its ``rating``, the logit: the softmax over the
        catalogue.

        Where items are allowed or denied it is the softmax over those that may be recommended; with
        approximate retrieval over those that are listed. Otherwise seen items count too.
        """
        lists = self._lists(users, request, normalized=True)
        rated = F.transform(
            RECOMMENDATIONS,
            lambda entry: F.struct(
                entry[ITEM].alias(self.getItemCol()),
                entry[SCORE].alias(RATING),
                F.exp(entry[SCORE] - F.col(LOG_NORMALIZER)).cast("float").alias(PROBABILITY),
            ),
        )
        return lists.select(F.col("id").alias(self.getUserCol()), rated.alias(RECOMMENDATIONS))
