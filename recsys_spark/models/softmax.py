"""The softmax model: a user is the bag of his items, a small network makes a vector of it, and a softmax ranks the catalogue.

The mathematics and the training loop stand in :mod:`recsys_spark.models.softmax_program`, how they are spread over Spark in
:mod:`recsys_spark.models.descent_stage`, the network in :mod:`recsys_spark.kernels.network`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from recsys_spark.collectives import MAX_TASKS
from recsys_spark.kernels.topn import Floats, ItemBlock, top_n
from recsys_spark.models.descent_models import (
    DescentEstimator,
    DescentModel,
    DescentParams,
    NetworkParams,
    TrainingSummary,
    check_initial_model,
    feature_entries,
    rating_rows,
)
from recsys_spark.models.histories import distinct_pairs
from recsys_spark.models.side_features import Features
from recsys_spark.models.softmax_program import USER_FEATURES, SoftmaxProblem, user_vectors
from recsys_spark.models.softmax_stage import SoftmaxLearner, collect_tables, encode
from recsys_spark.params import check_ranges, param
from recsys_spark.recommend.host import DEFAULT_BLOCKS, LOG_NORMALISER, RECOMMENDATIONS, collect_factors
from recsys_spark.schema import ITEM, RATING, SCORE, USER

PROBABILITY = "probability"
SIMILARITIES = ("dot", "cosine")


class BagParams(NetworkParams):
    """The Params that make a user's vector: an estimator's, and of its model, which serves new users by the same ones."""

    tieItems: Param[bool] = param("tieItems", "whether items are scored by their vectors in a bag", TypeConverters.toBoolean)
    bagExponent: Param[float] = param(
        "bagExponent", "a bag is the sum of its vectors over their number to this power; 1 for the mean", TypeConverters.toFloat
    )
    similarity: Param[str] = param("similarity", "dot, or cosine over temperature", TypeConverters.toString)
    temperature: Param[float] = param("temperature", "what the cosine is divided by", TypeConverters.toFloat)
    retrieval: Param[str] = param(
        "retrieval", "of lists: exact, or approximate (by an index; needs the extra index)", TypeConverters.toString
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(tieItems=False, bagExponent=0.5, similarity="dot", temperature=0.1, retrieval="exact")

    def problem(self, **fit: Any) -> SoftmaxProblem:
        """The numbers of the network, and those of the ``fit``."""
        of = self.getOrDefault
        return SoftmaxProblem(
            dim=of("embeddingDim"), hidden=tuple(of("hiddenDims")), activation=of("activation"), tied=of("tieItems"),
            pooling=of("bagExponent"), cosine=of("similarity") == "cosine", temperature=of("temperature"), seed=of("seed"),
            **fit,
        )  # fmt: skip


class SoftmaxParams(BagParams, DescentParams):
    """The Params of a fit."""

    targetShare: Param[float] = param(
        "targetShare", "share of each history that an epoch holds out and asks for; at least one item", TypeConverters.toFloat
    )
    userExponent: Param[float] = param(
        "userExponent", "a user weighs as much as his held-out items to this power: 0 for all alike", TypeConverters.toFloat
    )
    gravity: Param[float] = param(
        "gravity", "weight of the mean squared score over the items of the loss", TypeConverters.toFloat
    )
    validationShare: Param[float] = param(
        "validationShare", "share of the users that are not trained on but decide when to stop", TypeConverters.toFloat
    )
    patience: Param[int] = param(
        "patience", "stop after so many epochs in which the validation's loss did not fall; 0 for never", TypeConverters.toInt
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            numNegatives=0, power=0.75, targetShare=0.5, userExponent=0.5, batchSize=256, stepSize=0.01, gravity=0.0,
            validationShare=0.0, patience=0, maxIter=20,
        )  # fmt: skip


class SoftmaxRecommender(DescentEstimator, SoftmaxParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """The softmax model on bags of items, trained by Spark without a framework.

    An epoch holds ``targetShare`` of every history out and asks the network for it, seeing the rest: cross-entropy under the
    softmax over the catalogue, or over the targets and ``numNegatives`` items drawn for each mini-batch of ``batchSize`` users,
    log-q corrected. Feedback is implicit: a rating of 0 or less is no history. Users with a single item are served, and not
    trained on. A fit that stops early keeps what it learnt last, not what it had learnt at the lowest loss.

    Parameters
    ----------
    initialModel : SoftmaxModel, optional
        Continue from it, with fresh moments; items it does not know start fresh. It is not saved with the estimator.
    userFeatures : DataFrame, optional
        One row per user: ``userCol``, and the columns named in ``userFeatureCols``. Their embeddings are added to the bag.
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
    :func:`recsys_spark.models.softmax_program.train`. The result is the same on any number of tasks but for rounding, and the
    same bytes on the same number.
    """

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        super().check()
        of = self.getOrDefault
        allowed = {"similarity": SIMILARITIES, "coldStartStrategy": ("nan", "drop"), "retrieval": ("exact", "approximate")}
        check_ranges(
            self, {"bagExponent": 0, "userExponent": 0, "gravity": 0, "patience": 0}, allowed, ("validationShare", "targetShare")
        )
        if not 0 < of("temperature") < math.inf:
            raise ValueError(f"temperature must be above 0, got {of('temperature')}")
        if of("tieItems") and of("hiddenDims") and of("hiddenDims")[-1] != of("embeddingDim"):
            raise ValueError(f"with tieItems the last of hiddenDims {of('hiddenDims')} must be embeddingDim {of('embeddingDim')}")
        if bool(of("patience")) != bool(of("validationShare")):
            raise ValueError("patience and validationShare belong together: set both, or neither")
        if of("dropout") and len(of("hiddenDims")) < 2:
            raise ValueError("dropout is of hidden layers but the last, and hiddenDims has no such layer")
        check_initial_model(self, SoftmaxModel, ("embeddingDim", "hiddenDims", "tieItems", "similarity"))

    def _fit(self, dataset: DataFrame) -> SoftmaxModel:
        self.check()
        of = self.getOrDefault
        problem = self.problem(
            dropout=of("dropout"), negatives=of("numNegatives"), power=of("power"), held=of("targetShare"),
            exponent=of("userExponent"), batch=of("batchSize"), epochs=of("maxIter"), rate=of("stepSize"),
            schedule=of("schedule"), decay=of("regParam"), gravity=of("gravity"), validation=of("validationShare"),
            patience=of("patience"),
        )  # fmt: skip
        fitted, scales = self._train(dataset, SoftmaxLearner(problem))
        users, items = (side.withColumnRenamed("values", "features") for side in (fitted.users, fitted.items))
        model = self._copyValues(SoftmaxModel(users, items, fitted.tables))
        model._set(featureScales=scales)
        model.summary = TrainingSummary(fitted.history)
        model._kept = fitted.kept
        return model


class SoftmaxModel(DescentModel, BagParams):
    """Vectors of users and items whose dot product is the logit, the network, and what can be asked of them.

    Attributes
    ----------
    userFactors : one row per user with a history: ``id``, ``features`` array<float>
    itemFactors : one row per item: ``id``, ``features``
    tables : all that was learnt
    summary : :class:`recsys_spark.models.descent_models.TrainingSummary` of the fit; None for a loaded model
    """

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None, userFeatures: DataFrame | None = None) -> SoftmaxModel:
        """A model of other users, from their histories alone: nothing is trained.

        Parameters
        ----------
        histories : ``userCol``, ``itemCol``, and ``ratingCol`` if it is named (rows of 0 or less are no history); items that the
            model does not know are passed over, and a user with no others is not in the result
        userFeatures : their features, as in the fit; without it nobody has any

        Raises
        ------
        ModelError
            Ids of another type. Null ids and null or non-finite ratings fail the job that uses the result.
        """
        of = self.getOrDefault
        rows = rating_rows(histories, of("userCol"), of("itemCol"), ratingCol)
        item = F.col(ITEM).try_cast(self.itemFactors.schema["id"].dataType)
        rows = rows.where(item.isNotNull() | F.col(ITEM).isNull()).withColumn(ITEM, item)  # of another type is unknown
        entries = None
        if userFeatures is not None:
            scales = of("featureScales").get("user", {})
            entries = feature_entries(userFeatures, of("userCol"), of("userFeatureCols"), scales, rows, USER)
        tasks = min(MAX_TASKS, max(1, histories.sparkSession.sparkContext.defaultParallelism))
        model = self.copy()
        model.userFactors = encode(rows, entries, self.tables, self.problem(), tasks).persist()
        model.summary, model._kept = None, model.userFactors
        return model

    def register(self, spark: SparkSession, name: str = "softmax_top_n") -> None:
        """Make ``name(history, n)`` a function of SQL: the best ``n`` items for an array of item ids, none of them in it.

        It gives array<struct<item, score: float, probability: float>>, best first; ``probability`` is the softmax over the
        catalogue. Of a null history, or one without a known item, and where ``n`` is null or below 1, null. The model is
        broadcast: a worker gets it once.
        """
        item_type = self.itemFactors.schema["id"].dataType
        entry = T.StructType(
            [T.StructField(ITEM, item_type), T.StructField(SCORE, T.FloatType()), T.StructField(PROBABILITY, T.FloatType())]
        )
        problem = self.problem()
        ids, tables, _ = collect_tables(self.tables, problem)
        tables[USER_FEATURES] = tables[USER_FEATURES][:0]  # of a visitor only his history is known
        _, vectors, _ = collect_factors(self.itemFactors)
        size, biases = DEFAULT_BLOCKS.item_block, np.zeros(len(vectors), np.float32)
        blocks = [ItemBlock.build(vectors[at : at + size], biases[at : at + size], at) for at in range(0, len(vectors), size)]
        held = spark.sparkContext.broadcast((ids, tables, blocks))

        def best(histories: pd.Series, wanted: pd.Series) -> pd.Series:
            return best_of_histories(histories, wanted, *held.value, problem)

        spark.udf.register(name, pandas_udf(best, T.ArrayType(entry)))  # type: ignore[call-overload]

    def _approximate(self) -> bool:
        return bool(self.getOrDefault("retrieval") == "approximate")

    def _served(
        self, users: DataFrame, n: int, seen: DataFrame | None, allowed: DataFrame | None, denied: DataFrame | None
    ) -> DataFrame:
        return self._lists(users, n, seen, DEFAULT_BLOCKS, allowed, denied, normalised=True)

    def _in_sparks_shape(self, lists: DataFrame, own: str | None = None, other: str | None = None) -> DataFrame:
        """With the ``probability`` of each item beside its ``rating``, the logit: the softmax over the catalogue.

        Where items are allowed or denied it is the softmax over those that may be recommended; with approximate retrieval over
        those that are listed. Otherwise seen items count too.
        """
        if own is not None:
            return super()._in_sparks_shape(lists, own, other)
        user, item = self.getOrDefault("userCol"), self.getOrDefault("itemCol")
        rated = F.transform(
            RECOMMENDATIONS,
            lambda entry: F.struct(
                entry[ITEM].alias(item),
                entry[SCORE].alias(RATING),
                F.exp(entry[SCORE] - F.col(LOG_NORMALISER)).cast("float").alias(PROBABILITY),
            ),
        )
        return lists.select(F.col("id").alias(user), rated.alias(RECOMMENDATIONS))


def best_of_histories(
    histories: pd.Series,
    wanted: pd.Series,
    ids: pa.Array,
    tables: dict[str, Floats],
    blocks: list[ItemBlock],
    problem: SoftmaxProblem,
) -> pd.Series:
    """For each array of item ids its best items, as lists of item, score and probability; None without a known item.

    Parameters
    ----------
    histories, wanted : arrays of ids, and lengths of the lists
    ids, tables : of :func:`recsys_spark.models.softmax_stage.collect_tables`, without features
    blocks : v in the order of ``ids``
    """
    column = pa.array(histories, from_pandas=True)
    if not pa.types.is_list(column.type):  # all null or empty
        column = pa.array(histories, pa.list_(ids.type), from_pandas=True)
    numbers = wanted.fillna(0).astype(int).to_numpy()
    lengths = np.where(numbers > 0, pc.fill_null(pc.list_value_length(column), 0).to_numpy(), 0)
    asked = column.filter(pa.array(numbers > 0))
    values, known = _comparable(asked.flatten(), ids)
    place = pc.fill_null(pc.index_in(values, value_set=known), -1).to_numpy()
    rows, indptr, items = distinct_pairs(np.repeat(np.arange(len(lengths)), lengths), place, len(ids))
    found: list[list[dict[str, Any]] | None] = [None] * len(lengths)
    if len(rows):
        psi = user_vectors(indptr, items, Features.none(len(rows)), tables, problem)
        lengths_wanted = numbers[rows]
        log_sums = np.zeros(len(psi))
        longest = max(1, int(lengths_wanted.max()))
        best, scores = top_n(psi, blocks, (indptr, items), longest, DEFAULT_BLOCKS.user_block, log_sums)
        chances = np.exp(scores - log_sums[:, None])
        for row, n, place_of, score, chance in zip(rows, lengths_wanted, best, scores, chances, strict=True):
            there = place_of[:n] >= 0
            names = ids.take(pa.array(place_of[:n][there])).to_pylist()
            entries = zip(names, score[:n][there].tolist(), chance[:n][there].tolist(), strict=True)
            found[row] = [dict(zip((ITEM, SCORE, PROBABILITY), entry, strict=True)) for entry in entries]
    return pd.Series(found)


def _comparable(values: pa.Array, ids: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Ids of any type beside those of the catalogue, as one type that both fit into."""
    if pa.types.is_null(values.type) or values.type == ids.type:
        return values.cast(ids.type), ids
    both_numbers = pa.types.is_integer(values.type) and pa.types.is_integer(ids.type)
    kind = pa.int64() if both_numbers else pa.string()
    return values.cast(kind), ids.cast(kind)
