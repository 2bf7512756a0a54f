"""How much of what users take is among the candidates of a second stage, and who has found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import quoted
from recsys_spark.schema import ITEM, RANK, USER


@dataclass(frozen=True)
class Retrieval:
    """What was found among the first ``k`` of each list.

    Parameters
    ----------
    retriever : str or None
        Name; None for the union of all.
    k : int
        How many of each list.
    recall : float
        Of each user's held-out items the share that was found, on average.
    candidates : float
        How many items a user has, on average.
    users : int
        Behind the averages.
    """

    retriever: str | None
    k: int
    recall: float
    candidates: float
    users: int


def retrieval(
    candidates: DataFrame, relevant: DataFrame, retrievers: Sequence[str], ks: Sequence[int]
) -> list[Retrieval]:
    """Recall of candidates, of each retriever alone and of all together. A join, and a job.

    Parameters
    ----------
    candidates : DataFrame
        One row per (user, item): ``user``, ``item``, and for each retriever ``<name>_rank``, null where it
        does not list the item, as :func:`recsys_spark.recommend.candidates.candidates` makes them.
    relevant : DataFrame
        ``id``, unique, and ``items``: held-out ones, at least one.
    retrievers : sequence of str
        Their names.
    ks : sequence of int
        How many of each list.

    Returns
    -------
    list of Retrieval
        By k, those of the retrievers, and that of the union; nothing without users.

    Examples
    --------
    >>> from recsys_spark.evaluation.retrieval import retrieval
    >>> rows = [("ann", "tea", 1, None), ("ann", "jam", 2, 1), ("ann", "rusk", None, 2)]
    >>> found = spark.createDataFrame(rows, "user string, item string, als_rank int, popular_rank int")
    >>> relevant = spark.createDataFrame([("ann", ["tea", "rusk"])], "id string, items array<string>")
    >>> for one in retrieval(found, relevant, ["als", "popular"], [1, 2]):
    ...     print(one.retriever, one.k, one.recall, one.candidates)
    als 1 0.5 1.0
    popular 1 0.0 1.0
    None 1 0.5 2.0
    als 2 0.5 2.0
    popular 2 0.5 2.0
    None 2 1.0 3.0
    """
    ranks: dict[str | None, Column] = {name: F.col(quoted(f"{name}_{RANK}")) for name in retrievers}
    ranks[None] = F.array_min(F.array(*ranks.values()))
    asked = {(name, k): rank <= k for k in ks for name, rank in ranks.items()}
    names = {one: f"found {place}" for place, one in enumerate(asked)}
    wanted = relevant.select(
        F.col("id").alias(USER), F.explode("items").alias(ITEM), (1 / F.size("items")).alias("share")
    )
    every = candidates.join(relevant.select(F.col("id").alias(USER)), USER, "left_semi")
    joined = every.join(wanted, [USER, ITEM], "outer")
    counted = [F.count_if(asked[one]).alias(f"{name} listed") for one, name in names.items()]
    shares = [F.sum(F.when(asked[one], F.col("share"))).alias(name) for one, name in names.items()]
    (sums,) = joined.agg(F.count_distinct(USER).alias("users"), *counted, *shares).collect()
    users = sums["users"]
    if not users:
        return []
    return [
        Retrieval(who, k, (sums[name] or 0.0) / users, sums[f"{name} listed"] / users, users)
        for (who, k), name in names.items()
    ]
