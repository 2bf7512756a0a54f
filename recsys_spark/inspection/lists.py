"""What lists are like: which items they show, how often, and with which scores and probabilities."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.models.softmax import SoftmaxModel
from recsys_spark.recommend.top_n import REASON, RECOMMENDATIONS
from recsys_spark.schema import EXPLORATION, ITEM, PROPENSITY, RANK, SCORE, USER

POINTS = 200
"""Of a curve at most."""

BINS = 10

_SHARES = tuple(share / 20 for share in range(21))


def exposure(lists: DataFrame, ratings: DataFrame, points: int = POINTS) -> pd.DataFrame:
    """How much of the lists, and of the ratings, the most popular items have: popularity bias as a curve.

    Parameters
    ----------
    lists : DataFrame
        ``item``; one row per recommendation.
    ratings : DataFrame
        ``item``; one row per (user, item).
    points : int
        Rows at most, about.

    Returns
    -------
    pandas.DataFrame
        Most rated items first, from 0 to 1: ``share_of_items``, ``share_of_ratings``, ``share_of_lists``;
        items with equally many ratings are one row. Empty where there are no lists or no ratings. One job
        with a shuffle by item; as many rows reach the driver as there are different numbers of ratings.
    """
    of_item = ratings.groupBy(ITEM).agg(F.count("*").alias("ratings"))
    listed = lists.groupBy(ITEM).agg(F.count("*").alias("listed"))
    joined = of_item.join(listed, ITEM, "outer").fillna(0, ["ratings", "listed"])
    groups = joined.groupBy("ratings").agg(F.count("*").alias("items"), F.sum("listed").alias("listed"))
    found = groups.toPandas().sort_values("ratings", ascending=False, ignore_index=True)
    rated, shown = found["ratings"] * found["items"], found["listed"]
    if not rated.sum() or not shown.sum():
        return pd.DataFrame(columns=["share_of_items", "share_of_ratings", "share_of_lists"])
    curve = pd.DataFrame(
        {
            "share_of_items": found["items"].cumsum() / found["items"].sum(),
            "share_of_ratings": rated.cumsum() / rated.sum(),
            "share_of_lists": shown.cumsum() / shown.sum(),
        }
    )
    kept = np.unique(np.linspace(0, len(curve) - 1, min(points, len(curve))).round().astype(int))
    start = pd.DataFrame([dict.fromkeys(curve.columns, 0.0)])
    return pd.concat([start, curve.iloc[kept]], ignore_index=True)


def coverage(lists: DataFrame, items: int) -> pd.DataFrame:
    """How much of the catalogue the lists show, cut off after each rank.

    Parameters
    ----------
    lists : DataFrame
        ``item``, ``rank``.
    items : int
        Items of the catalogue, at least 1.

    Returns
    -------
    pandas.DataFrame
        One row per rank, ascending: ``rank``, ``items`` that are in some list up to it, and their ``share``.
    """
    first = lists.groupBy(ITEM).agg(F.min(RANK).alias(RANK)).groupBy(RANK).agg(F.count("*").alias("items"))
    found = first.toPandas().set_index(RANK)["items"]
    ranks = range(1, int(found.index.max()) + 1) if len(found) else range(0)
    shown = found.reindex(ranks, fill_value=0).cumsum()
    return pd.DataFrame({RANK: list(ranks), "items": shown.to_numpy(), "share": shown.to_numpy() / items})


def origins(lists: DataFrame) -> pd.DataFrame:
    """Who has put the rows where they are.

    Parameters
    ----------
    lists : DataFrame
        ``model``, ``reason``, ``rank``, ``propensity``.

    Returns
    -------
    pandas.DataFrame
        One row per (model, reason), the most frequent first: ``rows``, their ``share``, ``mean_rank``, and of
        those in slots that are drawn the ``mean_propensity``, NaN where there are none.
    """
    sums = F.count("*").alias("rows"), F.avg(RANK).alias("mean_rank")
    propensity = F.avg(PROPENSITY).alias("mean_propensity")
    found = lists.groupBy("model", REASON).agg(*sums, propensity).toPandas()
    found.insert(3, "share", found["rows"] / max(found["rows"].sum(), 1))
    found["mean_propensity"] = found["mean_propensity"].astype(float)
    return found.sort_values(["rows", "model", REASON], ascending=[False, True, True], ignore_index=True)


def drawn_slots(lists: DataFrame) -> pd.DataFrame:
    """How slots whose items are drawn came out.

    Parameters
    ----------
    lists : DataFrame
        ``rank``, ``item``, ``reason``, ``propensity``.

    Returns
    -------
    pandas.DataFrame
        One row per rank that is drawn, ascending: ``rank``, ``rows``, the ``drawn`` share that shows another
        item than the list's own, and how many different ``items`` they show.
    """
    drawn = F.avg((F.col(REASON) == EXPLORATION).cast("int")).alias("drawn")
    of_slots = lists.where(F.col(PROPENSITY).isNotNull()).groupBy(RANK)
    found = of_slots.agg(F.count("*").alias("rows"), drawn, F.count_distinct(ITEM).alias("items")).toPandas()
    return found.sort_values(RANK, ignore_index=True)


def score_quantiles(lists: DataFrame) -> pd.DataFrame:
    """How scores are spread: each twentieth, to see whether they have drifted.

    Parameters
    ----------
    lists : DataFrame
        ``score``, of one model.

    Returns
    -------
    pandas.DataFrame
        ``share`` from 0 to 1, and the ``score`` that so many rows do not exceed, to a thousandth of the rows;
        empty without rows.
    """
    scores = lists.approxQuantile(SCORE, list(_SHARES), 0.001)
    return pd.DataFrame({"share": _SHARES if scores else [], "score": scores})


def calibration(
    model: SoftmaxModel, relevant: DataFrame, seen: DataFrame | None, n: int = 20, bins: int = BINS
) -> pd.DataFrame:
    """Whether a softmax model's probabilities are what happens: of the items it lists, how often each is the
    one that comes.

    Parameters
    ----------
    model : SoftmaxModel
        Knows the users.
    relevant : DataFrame
        ``user``, ``item``: held-out pairs, unique.
    seen : DataFrame or None
        ``user``, ``item``: left out of the lists, if anything is. The probabilities are over the whole
        catalogue, seen items too: where these cannot come again, the others are to come more often than
        predicted.
    n : int
        Items of each user that are looked at.
    bins : int
        Groups of about equally many pairs.

    Returns
    -------
    pandas.DataFrame
        One row per group, ascending: ``pairs``, ``predicted``: mean probability, ``observed``: mean share of
        the user's held-out items that are the listed one. Empty without pairs.
    """
    user, item = model.getOrDefault("userCol"), model.getOrDefault("itemCol")
    users = relevant.select(F.col(USER).alias(user)).distinct()
    if seen is not None:
        seen = seen.select(F.col(USER).alias(user), F.col(ITEM).alias(item))
    lists = model.recommendForUserSubset(users, n, excludeSeen=seen)
    entry = F.col("entry")
    rows = lists.select(F.col(user).alias(USER), F.explode(RECOMMENDATIONS).alias("entry"))
    listed = rows.select(USER, entry[item].alias(ITEM), entry["probability"].alias("probability"))
    held = relevant.groupBy(USER).agg(F.count("*").alias("held"))
    hit = relevant.select(USER, ITEM, F.lit(1.0).alias("hit"))
    pairs = listed.join(held, USER).join(hit, [USER, ITEM], "left").fillna(0.0, ["hit"])
    bounds = sorted(set(pairs.approxQuantile("probability", [k / bins for k in range(1, bins)], 0.001)))
    above = [(F.col("probability") > bound).cast("int") for bound in bounds]
    number = reduce(Column.__add__, above, F.lit(0))
    found = pairs.groupBy(number.alias("bin")).agg(
        F.count("*").alias("pairs"),
        F.avg("probability").alias("predicted"),
        F.avg(F.col("hit") / F.col("held")).alias("observed"),
    )
    frame = found.toPandas().sort_values("bin", ignore_index=True)
    return frame[["pairs", "predicted", "observed"]]


def calibration_error(groups: pd.DataFrame) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance of what is predicted from what is
    observed, by groups.

    Parameters
    ----------
    groups : pandas.DataFrame
        As :func:`calibration` returns them.
    """
    apart = (groups["predicted"] - groups["observed"]).abs()
    return float((apart * groups["pairs"]).sum() / max(groups["pairs"].sum(), 1))
