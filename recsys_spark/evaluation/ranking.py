"""Ranking metrics of several models over the full catalogue, in one Spark job.

One row per user goes in, sums come out: each task reduces its users to one row of totals, and only those
reach the driver. The intervals are a Poisson bootstrap over users (Chamandy et al. 2012, "Estimating
uncertainty for massive data streams"): in each resampling a user counts a Poisson(1) number of times, drawn
from (seed, resampling, user), so that no data moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.hits import by_user, hits_at_ranks, id_types, require_id_types, with_lists
from recsys_spark.kernels import metrics as kernels
from recsys_spark.kernels.randomness import poisson
from recsys_spark.schema import ITEM, USER

BEYOND_ACCURACY = ("novelty", "diversity", "popularity_share")
HEAD = 0.2
"""Fraction of the catalogue, most rated first, that counts as popular."""

SLICE = 2_048
"""Users evaluated at a time: bounds a task's memory at about ``SLICE * (bootstrap * 16 + max(ks) *
n_genres * 4)`` bytes.
"""

DRAWS = 2**15
"""Draws made at a time, which then lie in the processor's cache."""


@dataclass(frozen=True)
class MetricValue:
    """One value of a metric.

    Parameters
    ----------
    model, metric : str
        What was evaluated.
    k : int
        Cut-off; 0 for metrics without one.
    value : float
        Mean over users (coverage: a fraction of the catalogue).
    low, high : float or None
        95 % bootstrap interval; None for metrics without one.
    users : int
        Users behind the mean.
    """

    model: str
    metric: str
    k: int
    value: float
    low: float | None
    high: float | None
    users: int


@dataclass(frozen=True)
class _Catalogue:
    """Item ids in ascending order and, by position, what the beyond-accuracy metrics need."""

    ids: pa.Array
    novelty: Any  # float64 (n_items,): self-information in bits
    popular: Any  # bool (n_items,)
    directions: Any  # float32 (n_items, n_genres) unit vectors, or None


def ranking_metrics(
    lists: Mapping[str, DataFrame],
    relevant: DataFrame,
    train: DataFrame,
    items: DataFrame | None,
    ks: Sequence[int],
    bootstrap: int,
    seed: int,
    *,
    distinct: bool = False,
) -> list[MetricValue]:
    """Compare recommendation lists with held-out items.

    Parameters
    ----------
    lists : mapping of DataFrame
        Model name → ``id`` (user) and ``recommendations``, best first, at least max(ks) long where possible.
        An item counts at its first place, and of several lists of a user one counts.
    relevant : DataFrame
        ``user``, ``item``: held-out pairs; only users with at least one count. A user without a list counts
        as a miss.
    train : DataFrame
        ``user``, ``item``: what the models were fitted on; its items are the catalogue. Repeated pairs count
        once.
    items : DataFrame or None
        ``item``, ``genres``, an array of text, for diversity.
    ks : sequence of int
        Cut-offs.
    bootstrap : int
        Resamplings; 0 for no intervals.
    seed : int
        Of the bootstrap.
    distinct : bool
        Whether each pair of ``train`` is known to occur once, which saves a shuffle of them.

    Returns
    -------
    list of MetricValue
        For each model and k: the metrics of :data:`recsys_spark.kernels.metrics.ACCURACY`, means over users;
        ``novelty``, the mean of -log2(fraction of users who have the item) (Zhou et al. 2010);
        ``diversity``, see :func:`~recsys_spark.kernels.metrics.intra_list_diversity`, where genres are given;
        ``popularity_share``, the fraction of recommended items that are among the most rated fifth of the
        catalogue; ``coverage``, the fraction of the catalogue that is in any list (Ge et al. 2010).

    Raises
    ------
    ModelError
        Ids are texts in one frame and numbers in another.

    Notes
    -----
    Jobs: two for the catalogue, one for everything else (one shuffle for each frame, and one of a row per
    task). The catalogue is broadcast: ``n_items * (id + 9 + 4 * n_genres)`` bytes. Each task returns
    ``bootstrap * models * ks * 9 * 16`` bytes of totals and ``models * ks * n_items / 8`` bytes of coverage.

    Examples
    --------
    >>> from recsys_spark.evaluation.ranking import ranking_metrics
    >>> train = spark.createDataFrame([("ann", "tea"), ("bob", "jam")], "user string, item string")
    >>> relevant = spark.createDataFrame([("ann", "jam"), ("bob", "tea")], "user string, item string")
    >>> schema = "id string, recommendations array<struct<item:string,score:float>>"
    >>> lists = spark.createDataFrame([("ann", [("jam", 1.0)])], schema)  # a hit; bob has no list
    >>> values = ranking_metrics({"mine": lists}, relevant, train, None, [1], bootstrap=0, seed=42)
    >>> {value.metric: value.value for value in values if value.metric in ("hit_rate", "coverage")}
    {'hit_rate': 0.5, 'coverage': 0.5}
    """
    kinds = id_types(train)
    require_id_types("relevant", kinds, id_types(relevant))
    pairs = relevant.select(USER, F.col(ITEM).try_cast(kinds[ITEM]).alias(ITEM))
    train = train if distinct else train.select(USER, ITEM).distinct()
    catalogue = train.groupBy(ITEM).agg(F.count("*").alias("users"))
    n_users = train.select(USER).distinct().count()
    rows = with_lists(lists, by_user(pairs))
    return list_metrics(rows, list(lists), catalogue, n_users, items, ks, bootstrap, seed)


def list_metrics(
    rows: DataFrame,
    names: Sequence[str],
    catalogue: DataFrame,
    n_users: int,
    items: DataFrame | None,
    ks: Sequence[int],
    bootstrap: int,
    seed: int,
) -> list[MetricValue]:
    """The metrics of :func:`ranking_metrics` of lists that are beside their users' held-out items already.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~recsys_spark.evaluation.hits.with_lists`.
    names : sequence of str
        The models' names, in the order of the lists.
    catalogue : DataFrame
        ``item``, unique, and ``users``: how many have it of those that the models were fitted on.
    n_users : int
        How many these are.
    items : DataFrame or None
        ``item``, ``genres``, for diversity.
    ks : sequence of int
        Cut-offs.
    bootstrap : int
        Resamplings; 0 for no intervals.
    seed : int
        Of the bootstrap.
    """
    ks = sorted(set(ks))
    known = _catalogue(catalogue, n_users, items)
    shared = rows.sparkSession.sparkContext.broadcast(known)
    keyed = rows.select(
        F.xxhash64("id").alias("key"), "relevant", *(f"list{index}" for index in range(len(names)))
    )
    shape = (len(names), ks, bootstrap, len(known.ids))
    totals = keyed.mapInArrow(_reducing(shared, len(names), ks, bootstrap, seed), "totals binary")
    # collected whole: Spark ends a Python worker whose rows it does not read to the end
    merged = totals.repartition(1).mapInArrow(_merging(shape), "totals binary").collect()
    shared.unpersist()
    zero = _Totals.zero(*shape)
    found = _Totals.from_bytes(bytes(merged[0]["totals"]), zero) if merged else zero
    return found.metrics(list(names), ks)


def _catalogue(counts: DataFrame, n_users: int, items: DataFrame | None) -> _Catalogue:
    if items is not None:
        counts = counts.join(items.groupBy(ITEM).agg(F.min("genres").alias("genres")), ITEM, "left")
    table = counts.toArrow().combine_chunks().sort_by(ITEM)
    ids = (
        pa.concat_arrays(table[ITEM].chunks)
        if table.num_rows
        else pa.array([], table.schema.field(ITEM).type)
    )
    count = table["users"].to_numpy()
    order = np.lexsort((np.arange(len(count)), -count))
    popular = np.zeros(len(count), bool)
    popular[order[: int(np.ceil(HEAD * len(count)))]] = True
    directions = _directions(table["genres"].to_pylist()) if items is not None else None
    return _Catalogue(ids, -np.log2(count / max(n_users, 1)), popular, directions)


def _directions(genres: list[list[str] | None]) -> Any:
    names = sorted({genre for item_genres in genres for genre in item_genres or ()})
    if not names:
        return None
    column = {name: index for index, name in enumerate(names)}
    member = np.zeros((len(genres), len(names)), np.float32)
    for row, item_genres in enumerate(genres):
        member[row, [column[genre] for genre in item_genres or ()]] = 1
    return member / np.maximum(np.linalg.norm(member, axis=1, keepdims=True), 1)


@dataclass
class _Totals:
    """Sums over users. First axis: the plain sum, then one for each resampling.

    ``sums``, ``weights``: float64 (1 + bootstrap, n_models, n_ks, n_metrics); ``shown``: bool (n_models,
    n_ks, n_items).
    """

    sums: Any
    weights: Any
    shown: Any

    @classmethod
    def zero(cls, models: int, ks: Sequence[int], bootstrap: int, items: int) -> _Totals:
        shape = (1 + bootstrap, models, len(ks), len(kernels.ACCURACY) + len(BEYOND_ACCURACY))
        return cls(np.zeros(shape), np.zeros(shape), np.zeros((models, len(ks), items), bool))

    def add(self, other: _Totals) -> None:
        self.sums += other.sums
        self.weights += other.weights
        self.shown |= other.shown

    def to_bytes(self) -> bytes:
        return bytes(self.sums.tobytes() + self.weights.tobytes() + np.packbits(self.shown).tobytes())

    @classmethod
    def from_bytes(cls, data: bytes, like: _Totals) -> _Totals:
        size = like.sums.nbytes
        sums = np.frombuffer(data, np.float64, like.sums.size).reshape(like.sums.shape)
        weights = np.frombuffer(data, np.float64, like.sums.size, size).reshape(like.sums.shape)
        bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=2 * size), count=like.shown.size)
        return cls(sums, weights, bits.astype(bool).reshape(like.shown.shape))

    def metrics(self, names: list[str], ks: Sequence[int]) -> list[MetricValue]:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.sums / self.weights
        columns = (*kernels.ACCURACY, *BEYOND_ACCURACY)
        values = []
        for m, name in enumerate(names):
            for c, k in enumerate(ks):
                for j, metric in enumerate(columns):
                    users = int(self.weights[0, m, c, j])
                    if users:
                        mean, ends = float(means[0, m, c, j]), _interval(means[1:, m, c, j])
                        values.append(MetricValue(name, metric, k, mean, *ends, users))
                users, coverage = int(self.weights[0, m, c, 0]), float(self.shown[m, c].mean())
                values.append(MetricValue(name, "coverage", k, coverage, None, None, users))
        return values


def _interval(resampled: Any) -> tuple[float | None, float | None]:
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return None, None
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _reducing(shared: Any, models: int, ks: Sequence[int], bootstrap: int, seed: int) -> Any:
    def reduce(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        catalogue: _Catalogue = shared.value
        totals = _Totals.zero(models, ks, bootstrap, len(catalogue.ids))
        slices = (batch.slice(start, SLICE) for batch in batches for start in range(0, batch.num_rows, SLICE))
        for batch in slices:
            weights = resampling_weights(batch["key"].to_numpy(), bootstrap, seed)
            for model in range(models):
                values = _user_values(
                    batch["relevant"], batch[f"list{model}"], catalogue, ks, totals.shown[model]
                )
                defined = np.isfinite(values)
                flat = np.where(defined, values, 0.0).reshape(len(values), -1)
                shape = totals.sums[:, model].shape
                totals.sums[:, model] += (weights @ flat).reshape(shape)
                totals.weights[:, model] += (weights @ defined.reshape(len(values), -1)).reshape(shape)
        yield pa.RecordBatch.from_arrays([pa.array([totals.to_bytes()], pa.binary())], names=["totals"])

    return reduce


def _merging(shape: tuple[int, Sequence[int], int, int]) -> Any:
    def merge(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        summed = _Totals.zero(*shape)
        for batch in batches:
            for totals in batch["totals"]:
                summed.add(_Totals.from_bytes(totals.as_buffer().to_pybytes(), summed))
        yield pa.RecordBatch.from_arrays([pa.array([summed.to_bytes()], pa.binary())], names=["totals"])

    return merge


def resampling_weights(keys: Any, bootstrap: int, seed: int) -> Any:
    """How often each user counts in each resampling.

    Parameters
    ----------
    keys : int64 array, shape (n_users,)
        What the draws depend on.
    bootstrap : int
        Number of resamplings.
    seed : int
        Any integer.

    Returns
    -------
    float64 array, shape (1 + bootstrap, n_users)
        1 in row 0, Poisson(1) in the others.
    """
    weights = np.ones((1 + bootstrap, len(keys)))
    at_once = max(1, DRAWS // max(1, len(keys)))
    for first in range(0, bootstrap, at_once):
        drawn = np.arange(first, min(first + at_once, bootstrap))
        weights[1 + drawn] = poisson(seed, drawn[:, None], keys[None, :])
    return weights


def _user_values(
    relevant: pa.Array, listed: pa.Array, catalogue: _Catalogue, ks: Sequence[int], shown: Any
) -> Any:
    """Every metric of every user: float64 (n_users, n_ks, n_metrics), NaN where undefined. Marks
    ``shown`` items.
    """
    hits, n_relevant, items = hits_at_ranks(relevant, listed, catalogue.ids, max(ks))
    known = items >= 0
    columns = []
    for index, k in enumerate(ks):
        shown[index, items[:, :k][known[:, :k]]] = True
        accuracy = [metric(hits, n_relevant, k) for metric in kernels.ACCURACY.values()]
        novelty = kernels.mean_at(catalogue.novelty[items], known, k)
        popular = kernels.mean_at(catalogue.popular[items].astype(float), known, k)
        diversity = np.full(len(items), np.nan)
        if catalogue.directions is not None:
            diversity = kernels.intra_list_diversity(catalogue.directions[items], known, k)
        columns.append(np.stack([*accuracy, novelty, diversity, popular], axis=1))
    return np.stack(columns, axis=1)
