"""Gradient-boosted trees that order candidates or predict ratings, by ``xgboost.spark``, and how many.

    queries ─one row each─▶ candidates as rows, a query in one partition ─xgboost's barrier job─▶ trees
                         └─▶ queries that no tree has seen: the metric after each number of trees

xgboost's own metric of lists depends on the number of its workers (its issue 8608), so that the number of
trees is chosen by ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError, SetupError
from recsys_spark.kernels import metrics as kernels
from recsys_spark.kernels.arrays import Doubles, Floats
from recsys_spark.packing import lists_of
from recsys_spark.training.group import group_size

QUERIES = "query int, validation boolean, wanted int, labels array<float>, features array<float>"
"""Columns of queries, one row per user: a number, whether the trees are judged by it instead of made of it,
how many items should be found, and of each candidate whether it is one of those, 1 or 0, or its rating, and
its features, candidate by candidate.
"""
SQUARED = "squared"
"""The loss of ratings."""

STAGES = 20
"""Numbers of trees that are compared."""


class TreesConfig(NamedTuple):
    """How trees are made.

    Attributes
    ----------
    trees : most trees
    loss : ``logistic`` of each candidate, ``lambdarank`` of the candidates of a user together, or ``squared``
        of ratings
    depth : most questions from a root to a leaf
    step_size : what a tree's answer is multiplied by
    sampling, features : fractions of the candidates a tree is made of, and of the features it may ask about
    regularization : L2, of the answers
    metric, k : what their number is chosen by, and its cut-off; by the squared loss it is the RMSE
    seed : of what is sampled
    """

    trees: int
    loss: str
    depth: int
    step_size: float
    sampling: float
    features: float
    regularization: float
    metric: str
    k: int
    seed: int


class Trees(NamedTuple):
    """What came out.

    Attributes
    ----------
    saved : as :func:`open_trees` reads them
    number : how many
    measured : number of trees → the metric's mean over the queries that no tree was made of, or the RMSE
    gains : name of a feature → what the questions about it gain, on average
    """

    saved: bytes
    number: int
    measured: dict[int, float]
    gains: dict[str, float]


def require_xgboost() -> Any:
    """The package ``xgboost.spark``.

    Raises
    ------
    SetupError
        It is not installed.
    """
    try:
        import xgboost.spark
    except ImportError:
        raise SetupError(
            "trees need the package xgboost, here and on the executors: pip install 'recsys-spark[ranker]'"
        ) from None
    return xgboost.spark


def fit_trees(queries: DataFrame, names: list[str], config: TreesConfig) -> Trees:
    """Fit trees that list first what should be found: by logistic regression, or LambdaMART (Burges 2010); or
    that predict ratings, by least squares.

    Parameters
    ----------
    queries : DataFrame
        :data:`QUERIES`; read several times.
    names : list of str
        Of the features.
    config : TreesConfig
        How.

    Raises
    ------
    ModelError
        No candidate of any query is one that should be found.
    SetupError
        xgboost is not installed.
    """
    spark_trees = require_xgboost()
    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)
    useful = queries.where(~F.col("validation"))
    if config.loss != SQUARED:
        useful = useful.where(F.exists("labels", lambda label: label > 0))
    tasks = min(group_size(queries.sparkSession), useful.count())
    if not tasks and config.loss == SQUARED:
        raise ModelError(
            "no rating is among the labels, so that trees have nothing to learn from: ask for a larger "
            "fraction of labels, or for more rows of them"
        )
    if not tasks:
        raise ModelError(
            "no candidate of any user is among the user's last items, so that trees have nothing to learn "
            "from: ask for more candidates, or for more rows of labels"
        )
    number = (F.row_number().over(Window.orderBy("query")) - 1).alias("query")
    common: dict[str, Any] = {
        "features_col": "features",
        "label_col": "label",
        "num_workers": tasks,
        "n_estimators": config.trees,
        "max_depth": config.depth,
        "learning_rate": config.step_size,
        "subsample": config.sampling,
        "colsample_bytree": config.features,
        "reg_lambda": config.regularization,
        "random_state": config.seed,
        "verbose": False,
    }
    if config.loss in _OBJECTIVES:
        estimator = spark_trees.SparkXGBRegressor(objective=_OBJECTIVES[config.loss], **common)
    else:
        estimator = spark_trees.SparkXGBRanker(objective="rank:ndcg", qid_col="query", **common)
    numbered = useful.select(number, "labels", "features")
    rows = numbered.mapInArrow(_as_rows, "query int, place int, label float, features array<float>")
    home = F.pmod("query", F.lit(tasks)).cast("int")
    booster = estimator.fit(
        rows.repartitionById(tasks, home).sortWithinPartitions("query", "place")
    ).get_booster()
    booster.feature_names = names
    judged, rounds = queries.where("validation"), booster.num_boosted_rounds()
    if config.loss == SQUARED:
        measured = _errors(judged, booster)
        count = min(measured, key=lambda trees: measured[trees], default=rounds)
    else:
        measured = _measured(judged, booster, config)
        count = max(measured, key=lambda trees: measured[trees], default=rounds)
    chosen = booster[:count]
    gains = {name: float(gain) for name, gain in chosen.get_score(importance_type="gain").items()}
    return Trees(bytes(chosen.save_raw("ubj")), count, measured, gains)


_OBJECTIVES = {"logistic": "binary:logistic", SQUARED: "reg:squarederror"}
"""xgboost's names of the losses of each candidate by itself."""


def open_trees(saved: bytes) -> Any:
    """A booster of xgboost that works in one thread, as a task does.

    Parameters
    ----------
    saved : bytes
        Of :class:`Trees`.
    """
    from xgboost import Booster

    booster = Booster(model_file=bytearray(saved))
    booster.set_param({"nthread": 1})
    return booster


def tree_scores(booster: Any, features: Floats, trees: int = 0) -> Floats:
    """What trees say of candidates, float32, shape (n,).

    Parameters
    ----------
    booster : Booster
        Of :func:`open_trees`.
    features : float32 array, shape (n, n_features)
        NaN where one is missing.
    trees : int
        How many of the first ones are asked; 0 for all.
    """
    if not len(features):
        return np.zeros(0, np.float32)
    scores = booster.inplace_predict(
        features, iteration_range=(0, trees), predict_type="margin", validate_features=False
    )
    return np.asarray(scores, np.float32)


def tree_contributions(booster: Any, features: Floats) -> Floats:
    """What each feature adds to what trees say of candidates (SHAP values, Lundberg et al. 2020).

    Parameters
    ----------
    booster : Booster
        Of :func:`open_trees`.
    features : float32 array, shape (n, n_features)
        NaN where one is missing.

    Returns
    -------
    float32 array, shape (n, n_features)
        They add up to the score less what trees say of nothing.
    """
    if not len(features):
        return features
    from xgboost import DMatrix

    asked = DMatrix(features, feature_names=booster.feature_names, nthread=1)
    return np.asarray(booster.predict(asked, pred_contribs=True)[:, :-1], np.float32)


def matrix_of_query(features: pa.Array, n: int) -> Floats:
    """Flat features of ``n`` candidates as a matrix.

    Parameters
    ----------
    features : Array
        float32.
    n : int
        How many candidates.
    """
    return np.asarray(features, np.float32).reshape(n, -1)


def _as_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Candidates of a batch's queries, one row each."""
    for batch in batches:
        labels = batch["labels"].flatten()
        lengths = pc.list_value_length(batch["labels"]).to_numpy()
        query = np.repeat(batch["query"].to_numpy(), lengths).astype(np.int32)
        place = np.arange(len(labels)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns = [
            pa.array(query),
            pa.array(place.astype(np.int32)),
            labels,
            lists_of(matrix_of_query(batch["features"].flatten(), len(labels))),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=["query", "place", "label", "features"])


def _measured(queries: DataFrame, booster: Any, config: TreesConfig) -> dict[int, float]:
    """The metric after each of some numbers of trees; nothing where there is no query."""
    metric, k = getattr(kernels, config.metric), config.k

    def of_queries(scores: Floats, labels: Floats, batch: pa.RecordBatch) -> Doubles:
        lengths, wanted = pc.list_value_length(batch["labels"]).to_numpy(), batch["wanted"].to_numpy()
        return np.asarray(metric(hits_of(scores, labels, lengths, k), wanted, k), np.float64)

    return _means(queries, booster, of_queries)


def _errors(queries: DataFrame, booster: Any) -> dict[int, float]:
    """The RMSE after each of some numbers of trees; nothing where there is no query."""

    def of_ratings(scores: Floats, labels: Floats, _: pa.RecordBatch) -> Doubles:
        return (scores.astype(np.float64) - labels) ** 2

    return {count: value**0.5 for count, value in _means(queries, booster, of_ratings).items()}


def _means(
    queries: DataFrame, booster: Any, measure: Callable[[Floats, Floats, pa.RecordBatch], Doubles]
) -> dict[int, float]:
    """After each of some numbers of trees the mean of what ``measure`` makes of a batch's scores and labels;
    nothing where there is no query.
    """
    rounds = booster.num_boosted_rounds()
    counts = sorted({max(1, round(rounds * stage / STAGES)) for stage in range(1, STAGES + 1)})
    saved = bytes(booster.save_raw("ubj"))

    def values(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        trees = open_trees(saved)
        for batch in batches:
            labels = np.asarray(batch["labels"].flatten(), np.float32)
            features = matrix_of_query(batch["features"].flatten(), len(labels))
            scores = (tree_scores(trees, features, count) for count in counts)
            found = np.stack([measure(own, labels, batch) for own in scores], axis=1)
            yield pa.RecordBatch.from_arrays([lists_of(found.astype(np.float32))], names=["values"])

    rows = queries.mapInArrow(values, "values array<float>")
    means = [F.avg(F.col("values")[place].cast("double")) for place in range(len(counts))]
    (found,) = rows.agg(*means).collect()
    return {} if found[0] is None else dict(zip(counts, map(float, found), strict=True))


def hits_of(scores: Floats, labels: Floats, lengths: Any, k: int) -> Any:
    """Whether the candidate at each of the first ``k`` ranks should be found, shape (n_queries, k).

    Parameters
    ----------
    scores, labels : float32 arrays, shape (n,)
        Of all candidates, query by query; of equal scores the first comes first.
    lengths : int array, shape (n_queries,)
        Candidates of each.
    k : int
        Ranks.
    """
    query = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-scores, query))
    rank = np.arange(len(scores)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    hits = np.zeros((len(lengths), k), bool)
    first = rank < k
    hits[query[first], rank[first]] = labels[order][first] > 0
    return hits
