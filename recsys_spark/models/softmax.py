"""The softmax model: a user is the bag of his items, a small network makes a vector of it, and a softmax ranks the catalogue.

The mathematics and the training loop stand in :mod:`recsys_spark.models.softmax_program`, how they are spread over Spark in
:mod:`recsys_spark.models.softmax_stage`, the network in :mod:`recsys_spark.kernels.network`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel, keyword_only
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasMaxIter, HasRegParam, HasSeed
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from recsys_spark.collectives import MAX_TASKS
from recsys_spark.kernels.network import ACTIVATIONS
from recsys_spark.kernels.topn import Floats, ItemBlock, top_n
from recsys_spark.models.base import InteractionColumns, RecommenderEstimator, id_column, param
from recsys_spark.models.factors import FactorModel
from recsys_spark.models.softmax_program import Epoch, SoftmaxProblem, user_vectors
from recsys_spark.models.softmax_stage import collect_tables, encode, fit_softmax, saved_state
from recsys_spark.recommend.host import RECOMMENDATIONS, collect_factors
from recsys_spark.schema import ITEM, RATING, SCORE, SEEDED, USER

PROBABILITY = "probability"
SCHEDULES = ("constant", "linear", "cosine")
SIMILARITIES = ("dot", "cosine")
_USERS_AT_ONCE = 256


class NetworkParams(InteractionColumns, HasSeed):
    """The Params that make a user's vector: an estimator's, and of its model, which serves new users by the same ones."""

    embeddingDim: Param[int] = param("embeddingDim", "length of an item's vector in a bag", TypeConverters.toInt)
    hiddenDims: Param[list[int]] = param(
        "hiddenDims",
        "sizes of the layers from the bag to the user's vector; empty: the bag is the vector",
        TypeConverters.toListInt,
    )
    activation: Param[str] = param("activation", f"of the layers but the last: {', '.join(ACTIVATIONS)}", TypeConverters.toString)
    tieItems: Param[bool] = param("tieItems", "whether items are scored by their vectors in a bag", TypeConverters.toBoolean)
    bagExponent: Param[float] = param(
        "bagExponent", "a bag is the sum of its vectors over their number to this power; 1 for the mean", TypeConverters.toFloat
    )
    similarity: Param[str] = param("similarity", "dot, or cosine over temperature", TypeConverters.toString)
    coldStartStrategy: Param[str] = param(
        "coldStartStrategy", "nan or drop, for unknown users and items", TypeConverters.toString
    )
    temperature: Param[float] = param("temperature", "what the cosine is divided by", TypeConverters.toFloat)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            embeddingDim=64, hiddenDims=[], activation="relu", tieItems=False, bagExponent=1.0, similarity="dot", temperature=0.1,
            coldStartStrategy="nan", seed=SEEDED,
        )  # fmt: skip

    def problem(self, **fit: Any) -> SoftmaxProblem:
        """The numbers of the network, and those of the ``fit``."""
        of = self.getOrDefault
        unused: dict[str, Any] = {
            "dropout": 0.0,
            "negatives": 0,
            "power": 0.0,
            "targets": 1,
            "batch": 1,
            "epochs": 0,
            "rate": 0.0,
        }
        unused |= {"schedule": "constant", "decay": 0.0, "gravity": 0.0, "validation": 0.0, "patience": 0}
        return SoftmaxProblem(
            dim=of("embeddingDim"), hidden=tuple(of("hiddenDims")), activation=of("activation"), tied=of("tieItems"),
            pooling=of("bagExponent"), cosine=of("similarity") == "cosine", temperature=of("temperature"), seed=of("seed"),
            **{**unused, **fit},
        )  # fmt: skip


class SoftmaxParams(NetworkParams, HasMaxIter, HasRegParam):
    """The Params of a fit."""

    ratingCol: Param[str] = param("ratingCol", "column of ratings: 0 or less is no history", TypeConverters.toString)
    dropout: Param[float] = param("dropout", "share of a hidden layer's outputs left out of a step", TypeConverters.toFloat)
    numNegatives: Param[int] = param(
        "numNegatives", "items drawn for each mini-batch, log-q corrected; 0 for the whole catalogue", TypeConverters.toInt
    )
    power: Param[float] = param("power", "exponent of an item's count in drawing numNegatives", TypeConverters.toFloat)
    targetsPerUser: Param[int] = param(
        "targetsPerUser", "items held out of each history, each in its turn, in each epoch", TypeConverters.toInt
    )
    batchSize: Param[int] = param("batchSize", "users of a mini-batch, over all tasks", TypeConverters.toInt)
    stepSize: Param[float] = param("stepSize", "learning rate of Adam", TypeConverters.toFloat)
    schedule: Param[str] = param("schedule", f"of the learning rate: {', '.join(SCHEDULES)}", TypeConverters.toString)
    gravity: Param[float] = param(
        "gravity", "weight of the mean squared score over the items of the loss", TypeConverters.toFloat
    )
    validationShare: Param[float] = param(
        "validationShare", "share of the users that are not trained on but decide when to stop", TypeConverters.toFloat
    )
    patience: Param[int] = param(
        "patience", "stop after so many epochs in which the validation's loss did not fall; 0 for never", TypeConverters.toInt
    )
    checkpointInterval: Param[int] = param(
        "checkpointInterval",
        "epochs of one Spark job: what a lost executor costs at most; -1 for all in one",
        TypeConverters.toInt,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            ratingCol=RATING, dropout=0.0, numNegatives=0, power=0.75, targetsPerUser=1, batchSize=512,
            stepSize=0.005, schedule="constant", gravity=0.0, validationShare=0.0, patience=0, checkpointInterval=10, maxIter=20,
            regParam=0.0,
        )  # fmt: skip


class SoftmaxRecommender(RecommenderEstimator, SoftmaxParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """The softmax model on bags of items, trained by Spark without a framework.

    An epoch holds ``targetsPerUser`` items out of every history and asks the network for them, seeing the rest: cross-entropy
    under the softmax over the catalogue, or over ``numNegatives`` drawn items, log-q corrected. Feedback is implicit; users with
    a single item are served, and not trained on.

    Parameters
    ----------
    initialModel : SoftmaxModel, optional
        Continue from it, with fresh moments; items it does not know start fresh. It is not saved with the estimator.
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

    def __init__(self, *, initialModel: SoftmaxModel | None = None, **params: Any) -> None:
        super().__init__()
        self.initialModel = initialModel
        self._set(**params)

    @keyword_only
    def setParams(self, **params: Any) -> Self:
        """Set Params by name."""
        return self._set(**params)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        of = self.getOrDefault
        least = {
            "embeddingDim": 1,
            "maxIter": 0,
            "regParam": 0,
            "bagExponent": 0,
            "numNegatives": 0,
            "power": 0,
            "targetsPerUser": 1,
        }
        least |= {"batchSize": 1, "stepSize": 0, "gravity": 0, "patience": 0}
        for name, bound in least.items():
            if not bound <= of(name) < math.inf:
                raise ValueError(f"{name} must be at least {bound}, got {of(name)}")
        allowed = {"activation": tuple(ACTIVATIONS), "similarity": SIMILARITIES, "schedule": SCHEDULES}
        allowed["coldStartStrategy"] = ("nan", "drop")
        for name, values in allowed.items():
            if of(name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {of(name)!r}")
        for name in ("dropout", "validationShare"):
            if not 0 <= of(name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {of(name)}")
        if not 0 < of("temperature") < math.inf:
            raise ValueError(f"temperature must be above 0, got {of('temperature')}")
        if any(size < 1 for size in of("hiddenDims")):
            raise ValueError(f"hiddenDims must be at least 1 each, got {of('hiddenDims')}")
        if of("checkpointInterval") < 1 and of("checkpointInterval") != -1:
            raise ValueError(f"checkpointInterval must be at least 1, or -1, got {of('checkpointInterval')}")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        of = self.getOrDefault
        if of("tieItems") and of("hiddenDims") and of("hiddenDims")[-1] != of("embeddingDim"):
            raise ValueError(f"with tieItems the last of hiddenDims {of('hiddenDims')} must be embeddingDim {of('embeddingDim')}")
        if bool(of("patience")) != bool(of("validationShare")):
            raise ValueError("patience and validationShare belong together: set both, or neither")
        shape = ("embeddingDim", "hiddenDims", "tieItems", "similarity")
        if self.initialModel is not None and any(self.initialModel.getOrDefault(name) != of(name) for name in shape):
            raise ValueError(f"initialModel has another {' or '.join(shape)}")

    def _fit(self, dataset: DataFrame) -> SoftmaxModel:
        self.check()
        of, start = self.getOrDefault, None
        problem = self.problem(
            dropout=of("dropout"), negatives=of("numNegatives"), power=of("power"), targets=of("targetsPerUser"),
            batch=of("batchSize"), epochs=of("maxIter"), rate=of("stepSize"), schedule=of("schedule"), decay=of("regParam"),
            gravity=of("gravity"), validation=of("validationShare"), patience=of("patience"),
        )  # fmt: skip
        if self.initialModel is not None:
            start = saved_state(self.initialModel.itemFactors, self.initialModel.layers, problem)
        interval = of("checkpointInterval")
        per_job = max(1, of("maxIter")) if interval == -1 else interval
        ratings = history_rows(dataset, of("userCol"), of("itemCol"), of("ratingCol"))
        fitted = fit_softmax(ratings, problem, per_job, start, StorageLevel.MEMORY_AND_DISK)
        model = self._copyValues(SoftmaxModel(fitted.users, fitted.items, fitted.layers))
        model.summary = SoftmaxSummary(fitted.history)
        model._kept = fitted.kept
        return model


def history_rows(dataset: DataFrame, user: str, item: str, rating: str | None) -> DataFrame:
    """``user, item, rating`` (float; 1 without a column of ratings)."""
    value = F.col(rating) if rating and rating in dataset.columns else F.lit(1.0)
    ids = [id_column(dataset, name).alias(to) for name, to in ((user, USER), (item, ITEM))]
    return dataset.select(*ids, value.cast("float").alias(RATING))


@dataclass(frozen=True)
class SoftmaxSummary:
    """How a fit went: the loss of every epoch, that of the validation's users, and its seconds."""

    epochs: list[Epoch]

    @property
    def objectiveHistory(self) -> list[float]:
        """Mean loss of the training steps of each epoch."""
        return [epoch.loss for epoch in self.epochs]


class SoftmaxModel(FactorModel, NetworkParams):
    """Vectors of users and items whose dot product is the logit, the network, and what can be asked of them.

    Attributes
    ----------
    userFactors : one row per user with a history: ``id``, ``features`` array<float>
    itemFactors : one row per item: ``id``, ``features``, and ``inputs``, its vector in a bag
    layers : one row per array of the network: ``name``, ``values`` array<float>
    summary : :class:`SoftmaxSummary` of the fit; None for a loaded model
    """

    scores_new_users: ClassVar[bool] = False

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame, layers: DataFrame) -> None:
        super().__init__(user_factors, item_factors)
        self.layers = layers
        self.summary: SoftmaxSummary | None = None
        self._kept: DataFrame | None = None

    def unpersist(self) -> None:
        """Let go of what the fit keeps in Spark's storage; used again, it would be trained again."""
        if self._kept is not None:
            self._kept.unpersist()

    def foldIn(self, histories: DataFrame, ratingCol: str | None = None) -> SoftmaxModel:
        """A model of other users, from their histories alone: nothing is trained.

        Parameters
        ----------
        histories : ``userCol``, ``itemCol``, and ``ratingCol`` if it is named (rows of 0 or less are no history); items that the
            model does not know are passed over, and a user with no others is not in the result

        Raises
        ------
        ModelError
            Ids of another type. Null ids and null or non-finite ratings fail the job that uses the result.
        """
        rows = history_rows(histories, self.getOrDefault("userCol"), self.getOrDefault("itemCol"), ratingCol)
        tasks = min(MAX_TASKS, max(1, histories.sparkSession.sparkContext.defaultParallelism))
        model = self.copy()
        model.userFactors = encode(rows, self.itemFactors, self.layers, self.problem(), tasks).persist()
        model.summary = None
        return model

    def register(self, spark: SparkSession, name: str = "softmax_top_n") -> None:
        """Make ``name(history, n)`` a function of SQL: the best ``n`` items for an array of item ids, none of them in it.

        It gives array<struct<item, score: float, probability: float>>, best first; ``probability`` is the softmax over the
        catalogue. Of a null history, or one without a known item, null. The model is broadcast: a worker gets it once.
        """
        item_type = self.itemFactors.schema["id"].dataType
        entry = T.StructType(
            [T.StructField(ITEM, item_type), T.StructField(SCORE, T.FloatType()), T.StructField(PROBABILITY, T.FloatType())]
        )
        problem = self.problem()
        ids, tables = collect_tables(self.itemFactors, self.layers)
        _, vectors, _ = collect_factors(self.itemFactors.select("id", "features"))
        block = ItemBlock.build(vectors, np.zeros(len(vectors), np.float32))
        held = spark.sparkContext.broadcast((ids, tables, vectors, block))

        def best(histories: pd.Series, wanted: pd.Series) -> pd.Series:
            return best_of_histories(histories, wanted, *held.value, problem)

        spark.udf.register(name, pandas_udf(best, T.ArrayType(entry)))  # type: ignore[call-overload]

    def _in_sparks_shape(self, lists: DataFrame, own: str | None = None, other: str | None = None) -> DataFrame:
        """With the ``probability`` of each item beside its ``rating``, the logit: the softmax over the whole catalogue."""
        if own is not None:
            return super()._in_sparks_shape(lists, own, other)
        user, item = self.getOrDefault("userCol"), self.getOrDefault("itemCol")
        together = lists.join(log_normalisers(self.userFactors, self.itemFactors), "id")
        rated = F.transform(
            RECOMMENDATIONS,
            lambda entry: F.struct(
                entry[ITEM].alias(item),
                entry[SCORE].alias(RATING),
                F.exp(entry[SCORE] - F.col("log_normaliser")).cast("float").alias(PROBABILITY),
            ),
        )
        return together.select(F.col("id").alias(user), rated.alias(RECOMMENDATIONS))

    def frames(self) -> dict[str, DataFrame]:
        """Users, items and layers."""
        return {**super().frames(), "layers": self.layers}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the tables."""
        return (*super().frame_names(), "layers")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of the tables."""
        return cls(frames["userFactors"], frames["itemFactors"], frames["layers"])


def log_normalisers(users: DataFrame, items: DataFrame) -> DataFrame:
    """Log of the sum of e^logit over the catalogue: one row per user, ``id`` and ``log_normaliser`` double.

    The items' vectors pass through the driver and are broadcast. Cost: one matrix product.
    """
    _, vectors, _ = collect_factors(items.select("id", "features"))
    held = users.sparkSession.sparkContext.broadcast(vectors)

    def normalise(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            psi = np.asarray(batch["features"].flatten(), np.float32).reshape(batch.num_rows, -1)
            yield pa.RecordBatch.from_arrays([batch["id"], pa.array(_log_sums(psi, held.value))], names=["id", "log_normaliser"])

    schema = T.StructType([users.schema["id"], T.StructField("log_normaliser", T.DoubleType())])
    return users.select("id", "features").mapInArrow(normalise, schema)


def best_of_histories(
    histories: pd.Series,
    wanted: pd.Series,
    ids: pa.Array,
    tables: dict[str, Floats],
    vectors: Floats,
    block: ItemBlock,
    problem: SoftmaxProblem,
) -> pd.Series:
    """For each array of item ids its best items, as lists of item, score and probability; None without a known item.

    Parameters
    ----------
    histories, wanted : arrays of ids, and lengths of the lists
    ids, tables : of :func:`recsys_spark.models.softmax_stage.collect_tables`
    vectors, block : v in the order of ``ids``, float32, shape (n_items, width); and the same laid out for the top-n kernel
    """
    column = pa.array(histories, pa.list_(ids.type), from_pandas=True)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    place = pc.fill_null(pc.index_in(column.flatten(), value_set=ids), -1).to_numpy()
    pairs = np.unique(np.repeat(np.arange(len(lengths)), lengths)[place >= 0] * len(ids) + place[place >= 0])
    rows, starts = np.unique(pairs // len(ids), return_index=True)
    found: list[list[dict[str, Any]] | None] = [None] * len(lengths)
    if len(rows):
        indptr, items = np.append(starts, len(pairs)).astype(np.int64), (pairs % len(ids)).astype(np.int32)
        psi = user_vectors(indptr, items, tables, problem)
        lengths_wanted = wanted.to_numpy()[rows]
        best, scores = top_n(psi, [block], (indptr, items), max(1, int(lengths_wanted.max())))
        chances = np.exp(scores - _log_sums(psi, vectors)[:, None])
        for row, n, place_of, score, chance in zip(rows, lengths_wanted, best, scores, chances, strict=True):
            there = place_of[:n] >= 0
            names = ids.take(pa.array(place_of[:n][there])).to_pylist()
            entries = zip(names, score[:n][there].tolist(), chance[:n][there].tolist(), strict=True)
            found[row] = [dict(zip((ITEM, SCORE, PROBABILITY), entry, strict=True)) for entry in entries]
    return pd.Series(found)


def _log_sums(psi: Floats, vectors: Floats) -> np.ndarray[Any, np.dtype[np.float64]]:
    sums = []
    for begin in range(0, len(psi), _USERS_AT_ONCE):
        logits = psi[begin : begin + _USERS_AT_ONCE] @ vectors.T
        largest = logits.max(axis=1)
        sums.append(largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64)))
    return np.concatenate([np.zeros(0), *sums])
