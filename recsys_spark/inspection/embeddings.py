"""What a factor model has learnt of items: their neighbours, their norms, and where they lie.

Dot products favour items with long vectors, and popular items have long ones where a model is fitted on what
was observed; a cosine leaves the length out, and a tempered similarity half of it. Rare items may have long
vectors by chance, which regularisation mends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pyspark.ml.functions import array_to_vector
from pyspark.ml.stat import Correlation
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats
from recsys_spark.models.factor_model import FactorModel, scaled
from recsys_spark.recommend.top_n import ListRequest, distinct_ids, explode_lists, recommend_lists
from recsys_spark.schema import ITEM, MEASURE, NEIGHBOR, RANK, SCORE, SEEDED, SIMILARITY, USER, Measure

MEASURES: tuple[str, ...] = get_args(Measure)
POINTS, LEAST_POINTS = 2_000, 3
"""Items of a picture."""


def neighbors(
    model: FactorModel,
    items: DataFrame,
    n: int = 10,
    measures: Sequence[str] = MEASURES,
    titles: DataFrame | None = None,
) -> pd.DataFrame:
    """The most similar items of some items, by several measures side by side.

    Parameters
    ----------
    model : FactorModel
        Any model of factors.
    items : DataFrame
        The model's item column: whose neighbours are wanted; a few.
    n : int
        Neighbours of each, at least 1.
    measures : sequence of str
        Of ``dot``, ``cosine`` and ``tempered``.
    titles : DataFrame, optional
        ``item``, unique, and ``title``.

    Returns
    -------
    pandas.DataFrame
        One row per (item, measure, rank), in this order: ``item``, ``measure``, ``rank`` from 1,
        ``neighbor``, ``similarity``, and with ``titles`` ``title``, that of the neighbour.

    Raises
    ------
    ValueError
        Another measure, or none.
    """
    frames = [
        model.similarItems(n, measure, items=items).withColumn(MEASURE, F.lit(measure))
        for measure in measures
    ]
    return _side_by_side(frames, measures, ITEM, NEIGHBOR, titles)


def _side_by_side(
    frames: Sequence[DataFrame], measures: Sequence[str], of: str, near: str, titles: DataFrame | None
) -> pd.DataFrame:
    """What is near by each measure, as one frame in order."""
    if not frames:
        raise ValueError("measures must name at least one")
    found, columns = reduce(DataFrame.unionByName, frames), [of, MEASURE, RANK, near, SIMILARITY]
    if titles is not None:
        found = found.join(titles.select(F.col(ITEM).alias(near), "title"), near, "left")
        columns.append("title")
    rows = found.select(*columns).toPandas()
    rows["_at"] = rows[MEASURE].map({measure: at for at, measure in enumerate(measures)})
    return rows.sort_values([of, "_at", RANK], ignore_index=True)[columns]


def nearest_items(
    model: FactorModel,
    users: DataFrame,
    n: int = 10,
    measures: Sequence[str] = MEASURES,
    titles: DataFrame | None = None,
) -> pd.DataFrame:
    """The items whose vectors are nearest to those of some users, by several measures side by side; seen ones
    too. By ``dot`` they are what the model recommends, where it has no biases.

    Parameters
    ----------
    model : FactorModel
        Any model of factors.
    users : DataFrame
        The model's user column: whose items are wanted; a few.
    n : int
        Items of each, at least 1.
    measures : sequence of str
        Of ``dot``, ``cosine`` and ``tempered``.
    titles : DataFrame, optional
        ``item``, unique, and ``title``.

    Returns
    -------
    pandas.DataFrame
        One row per (user, measure, rank), in this order: ``user``, ``measure``, ``rank`` from 1, ``item``,
        ``similarity``, and with ``titles`` ``title``.

    Raises
    ------
    ValueError
        Another measure, or none.
    """
    asked = distinct_ids(users, model.getOrDefault("userCol"), model.userFactors)
    vectors = model.userFactors.join(asked, "id", "left_semi")
    frames = []
    for measure in measures:
        near = recommend_lists(scaled(vectors, measure), scaled(model.itemFactors, measure), ListRequest(n))
        rows = explode_lists(near).withColumnRenamed(SCORE, SIMILARITY)
        frames.append(rows.withColumn(MEASURE, F.lit(measure)))
    return _side_by_side(frames, measures, USER, ITEM, titles)


def norms(model: FactorModel, ratings: DataFrame, points: int = POINTS) -> pd.DataFrame:
    """Length of items' vectors beside their popularity.

    Parameters
    ----------
    model : FactorModel
        Any model of factors.
    ratings : DataFrame
        ``item``; one row per (user, item).
    points : int
        Items at most; of more those with the smallest hashes are taken, whatever their popularity.

    Returns
    -------
    pandas.DataFrame
        One row per item, ascending: ``item``, ``norm``, ``ratings``.
    """
    taken = _norms(model, ratings).orderBy(F.xxhash64(ITEM)).limit(points)
    return taken.toPandas().sort_values(ITEM, ignore_index=True)


def norm_correlation(model: FactorModel, ratings: DataFrame) -> float:
    """Rank correlation of all items' norms with their numbers of ratings.

    Parameters
    ----------
    model : FactorModel
        Any model of factors.
    ratings : DataFrame
        ``item``; one row per (user, item).

    Returns
    -------
    float
        Spearman's, from -1 to 1; NaN where all norms or all numbers are equal.
    """
    pairs = array_to_vector(F.array("norm", F.col("ratings").cast("double")))
    matrix: Any = Correlation.corr(_norms(model, ratings).select(pairs.alias("pair")), "pair", "spearman")
    return float(matrix.first()[0].toArray()[0, 1])


def item_map(
    model: FactorModel,
    ratings: DataFrame,
    method: Literal["pca", "tsne"] = "pca",
    points: int = POINTS,
    seed: int = SEEDED,
) -> pd.DataFrame:
    """Where the most popular items lie: their vectors in two dimensions.

    Vectors are scaled to length one, so that popularity does not make the map.

    Parameters
    ----------
    model : FactorModel
        Any model of factors.
    ratings : DataFrame
        ``item``; one row per (user, item).
    method : str
        ``pca``: the two directions in which the vectors differ most, where distances are at most those of the
        vectors. ``tsne``: like items lie together, and the distance of others says nothing (van der Maaten &
        Hinton 2008).
    points : int
        Items at most: those with most ratings.
    seed : int
        For ``tsne``; the same seed, the same map.

    Returns
    -------
    pandas.DataFrame
        One row per item, ascending: ``item``, ``x``, ``y``, ``ratings``. The larger side of each axis is
        positive.

    Raises
    ------
    ModelError
        The model has fewer than two factors, or fewer than three of its items have ratings.

    Notes
    -----
    The vectors of ``points`` items reach the driver; t-SNE compares each with each, on one thread.
    """
    popular = ratings.groupBy(F.col(ITEM).alias("id")).agg(F.count("*").alias("ratings"))
    joined = model.itemFactors.select("id", "features").join(popular, "id")
    most = joined.orderBy(F.desc("ratings"), "id").limit(points).toPandas()
    taken = most.sort_values("id", ignore_index=True)
    vectors = np.stack(list(taken["features"])) if len(taken) else np.zeros((0, 0))  # (n_items, rank)
    if len(vectors) < LEAST_POINTS or vectors.shape[1] < 2:
        raise ModelError("a map needs at least three items and two factors")
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    at = _principal(vectors) if method == "pca" else _neighbor_embedding(vectors, seed)
    at = at * np.where(np.abs(at.max(axis=0)) >= np.abs(at.min(axis=0)), 1.0, -1.0)  # a direction has no sign
    return pd.DataFrame({ITEM: taken["id"], "x": at[:, 0], "y": at[:, 1], "ratings": taken["ratings"]})


def _principal(vectors: Floats) -> Floats:
    """Coordinates on the first two principal directions: (n_items, 2)."""
    left, scale, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    places: Floats = left[:, :2] * scale[:2]
    return places


def _neighbor_embedding(vectors: Floats, seed: int) -> Floats:
    """t-SNE by exact neighbours, from the principal directions, on one thread: (n_items, 2)."""
    from openTSNE import TSNE

    perplexity = min(30, (len(vectors) - 1) / 3)
    exact = {"neighbors": "exact", "negative_gradient_method": "bh", "n_jobs": 1}
    return np.asarray(TSNE(perplexity=perplexity, random_state=seed, **exact).fit(vectors))


def _norms(model: FactorModel, ratings: DataFrame) -> DataFrame:
    square = F.aggregate("features", F.lit(0.0), lambda total, x: total + x * x)
    lengths = model.itemFactors.select(F.col("id").alias(ITEM), F.sqrt(square).alias("norm"))
    counts = ratings.groupBy(ITEM).agg(F.count("*").alias("ratings"))
    return lengths.join(counts, ITEM)
