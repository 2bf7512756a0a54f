"""Whether one thing is worse than another: of users' metrics, lists and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.ranking import SLICE, resampling_weights
from recsys_spark.schema import EVERYONE, ITEM, RANK, SCORE, USER

PERSISTENCE = 0.9
"""Weight of rank-biased overlap's next rank: the first ten ranks then have 86 % of all weight."""


@dataclass(frozen=True)
class Difference:
    """How much users gain on average.

    Parameters
    ----------
    column, segment : str
        The column of differences; ``all``, or as ``age=18-24``.
    mean : float
        Mean over the segment's users.
    users : int
        Users of the segment.
    resampled : float64 array, shape (resamplings,)
        The mean in each resampling of the users.
    """

    column: str
    segment: str
    mean: float
    users: int
    resampled: Any

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The middle of the resampled means; the mean itself where no resampling has a user.

        Parameters
        ----------
        confidence : float
            Fraction of them, between 0 and 1.
        """
        known = self.resampled[np.isfinite(self.resampled)]
        if not len(known):
            return self.mean, self.mean
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def paired_bootstrap(
    users: DataFrame, columns: Sequence[str], segments: Sequence[str], resamplings: int, seed: int
) -> list[Difference]:
    """Mean differences between two models' metrics of the same users, with intervals.

    The bootstrap is over users: in each resampling a user counts a Poisson(1) number of times, the same in
    all columns and segments (Chamandy et al. 2012).

    Parameters
    ----------
    users : DataFrame
        One row per user: ``user``, the ``columns``, doubles that are never null, and the ``segments``, texts.
    columns : sequence of str
        Columns of differences.
    segments : sequence of str
        Columns that name a group of users; null is in none.
    resamplings : int
        At least 1.
    seed : int
        Any integer.

    Returns
    -------
    list of Difference
        For each column and segment, that of all users first. One job; each task returns ``16 * resamplings``
        bytes for each of them.

    Examples
    --------
    >>> from recsys_spark.evaluation.comparison import paired_bootstrap
    >>> rows = [("ann", 0.25, "new"), ("bob", 0.25, "old")]
    >>> users = spark.createDataFrame(rows, "user string, gain double, activity string")
    >>> [(d.segment, d.mean, d.users) for d in paired_bootstrap(users, ["gain"], ["activity"], 100, seed=1)]
    [('all', 0.25, 2), ('activity=new', 0.25, 1), ('activity=old', 0.25, 1)]
    """
    keyed = users.select(F.xxhash64(USER).alias("key"), *columns, *segments)
    schema = "segment string, users long, sums binary, weights binary"
    partial = keyed.mapInArrow(_resampling(columns, segments, resamplings, seed), schema).collect()
    totals: dict[str, tuple[int, Any, Any]] = {}
    for row in sorted(partial, key=lambda row: (row["segment"] != EVERYONE, row["segment"])):
        sums, weights = (np.frombuffer(row[name], np.float64) for name in ("sums", "weights"))
        before = totals.get(row["segment"], (0, 0.0, 0.0))
        totals[row["segment"]] = (before[0] + row["users"], before[1] + sums, before[2] + weights)
    found = []
    for segment, (count, sums, weights) in totals.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums.reshape(len(columns), -1) / weights
        for column, of_column in zip(columns, means, strict=True):
            found.append(Difference(column, segment, float(of_column[0]), count, of_column[1:]))
    return found


def _resampling(columns: Sequence[str], segments: Sequence[str], resamplings: int, seed: int) -> Any:
    def resample(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        totals: dict[str, tuple[int, Any]] = {}
        slices = (batch.slice(start, SLICE) for batch in batches for start in range(0, batch.num_rows, SLICE))
        for batch in slices:
            weights = resampling_weights(batch["key"].to_numpy(), resamplings, seed)
            values = np.stack([*(batch[column].to_numpy() for column in columns), np.ones(batch.num_rows)])
            found = dict(_members(batch, segments))
            of_members = np.where(np.stack([*found.values()])[:, None, :], values, 0.0)
            # one product for all segments and columns; the last column counts
            sums = (of_members.reshape(-1, batch.num_rows) @ weights.T).reshape(len(found), len(values), -1)
            for segment, of_segment in zip(found, sums, strict=True):
                users, before = totals.get(segment, (0, 0.0))
                totals[segment] = users + int(found[segment].sum()), before + of_segment
        for segment, (users, sums) in totals.items():
            arrays = [[segment], [users], [sums[:-1].tobytes()], [sums[-1].tobytes()]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(a) for a in arrays], ["segment", "users", "sums", "weights"]
            )

    return resample


def _members(batch: pa.RecordBatch, segments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Name of each segment in the batch, and which rows are in it."""
    yield EVERYONE, np.ones(batch.num_rows, bool)
    for column in segments:
        values = batch[column].dictionary_encode()
        codes = values.indices.fill_null(-1).to_numpy()
        for value, code in sorted((value, code) for code, value in enumerate(values.dictionary.to_pylist())):
            yield f"{column}={value}", codes == code


def list_overlap(ours: DataFrame, theirs: DataFrame) -> tuple[float, int] | None:
    """How alike two sets of lists are: mean rank-biased overlap (Webber et al. 2010) of the users of both.

        RBO = X_k/k p^k + (1-p)/p Σ_d X_d/d p^d

    with ``X_d`` the number of items that both lists have up to rank d, p = 0.9, and k the length of the
    shorter list: their extrapolated form (equation 30), 1 for equal lists and 0 for lists without a common
    item.

    Parameters
    ----------
    ours, theirs : DataFrame
        One row per (user, rank): ``user``, ``item``, ``rank`` from 1 without gaps.

    Returns
    -------
    float, int or None
        The mean, and the number of users who have both lists; None where nobody has. One job with a shuffle
        by user, and work that grows with the square of the lists' length.

    Examples
    --------
    >>> from recsys_spark.evaluation.comparison import list_overlap
    >>> schema = "user string, item string, rank int"
    >>> ours = spark.createDataFrame([("ann", "tea", 1), ("ann", "jam", 2)], schema)
    >>> theirs = spark.createDataFrame([("ann", "jam", 1), ("ann", "tea", 2)], schema)
    >>> round(list_overlap(ours, theirs)[0], 4)  # nothing in common at rank 1, all at rank 2: 0.81 + 0.09
    0.9
    """
    ranks = [
        frame.select(USER, ITEM, F.col(RANK).alias(f"rank{side}"))
        for side, frame in enumerate((ours, theirs))
    ]
    by_user = ranks[0].unionByName(ranks[1], allowMissingColumns=True).repartition(F.col(USER))
    items = by_user.groupBy(USER, ITEM).agg(F.max("rank0").alias("rank0"), F.max("rank1").alias("rank1"))
    shared = F.when(F.col("rank0").isNotNull() & F.col("rank1").isNotNull(), F.greatest("rank0", "rank1"))
    lengths = F.max("rank0"), F.max("rank1")
    k = F.when(lengths[0].isNotNull() & lengths[1].isNotNull(), F.least(*lengths)).alias("k")
    users = items.groupBy(USER).agg(k, F.collect_list(shared).alias("depths"))
    has_both = users.where("k IS NOT NULL")
    found: Any = has_both.agg(F.avg(_overlap(F.col("depths"), F.col("k"))), F.count("*")).first()
    return (found[0], found[1]) if found[1] else None


def _overlap(depths: Column, k: Column) -> Column:
    """Rank-biased overlap of two lists, from the ranks down to which their common items are in both, and the
    shorter one's length: an item that is in both from rank m on counts in each X_d from m to k.
    """

    def share(depth: Column) -> Column:
        return F.pow(F.lit(PERSISTENCE), depth) / depth

    def of_item(first: Column) -> Column:
        shares = F.aggregate(F.sequence(first, k), F.lit(0.0), lambda total, depth: total + share(depth))
        return F.when(first <= k, share(k) + (1 - PERSISTENCE) / PERSISTENCE * shares).otherwise(F.lit(0.0))

    return F.aggregate(depths, F.lit(0.0), lambda total, first: total + of_item(first))


@dataclass(frozen=True)
class ListStatistics:
    """What a set of lists amounts to.

    Parameters
    ----------
    rows : int
        Rows of all models.
    mean, deviation : float or None
        Mean score of one model's rows, and its standard deviation; None where the model has none.
    """

    rows: int
    mean: float | None
    deviation: float | None


def list_statistics(lists: Sequence[DataFrame], model: str) -> list[ListStatistics]:
    """What each of several sets of lists amounts to, in one job.

    Parameters
    ----------
    lists : sequence of DataFrame
        ``score``, ``model`` and anything else.
    model : str
        Whose scores are looked at.
    """
    score = F.when(F.col("model") == model, F.col(SCORE).cast("double"))
    parts = [
        frame.agg(
            F.count("*").alias("rows"), F.avg(score).alias("mean"), F.stddev_pop(score).alias("deviation")
        )
        for frame in lists
    ]
    rows = reduce(DataFrame.unionAll, (part.withColumn("side", F.lit(n)) for n, part in enumerate(parts)))
    found = sorted(rows.collect(), key=lambda row: row["side"])
    return [ListStatistics(row["rows"], row["mean"], row["deviation"]) for row in found]


def score_drift(ours: ListStatistics, theirs: ListStatistics) -> float | None:
    """Distance of the mean scores, in standard deviations of the second's.

    Parameters
    ----------
    ours, theirs : ListStatistics
        Of the same model.

    Returns
    -------
    float or None
        At least 0; None where one has no score, or all scores of the second are the same and the first has
        others.
    """
    if ours.mean is None or theirs.mean is None or theirs.deviation is None:
        return None
    distance = abs(ours.mean - theirs.mean)
    if theirs.deviation == 0:
        return 0.0 if distance == 0 else None
    return distance / theirs.deviation
