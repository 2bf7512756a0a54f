"""Negatives on the cluster, for feedback that has no zeros.

::

    positives (user, item, …) ──┬── count the catalogue ──▶ driver: alias table ──broadcast──┐
    history   (user, item)    ──┤                                                            ▼
                                └── pack by user (or by batch) ── one shuffle ──▶ tasks: draw (kernels.negatives)

Nothing is a product of users and items, and no history leaves its task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.ml.param import TypeConverters
from pyspark.ml.param.shared import HasSeed
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Floats, Hashes, Ints, Longs
from recsys_spark.kernels.negatives import Drawn, Proposal, draw_negatives
from recsys_spark.kernels.randomness import mix, uniform
from recsys_spark.packing import PACKED, bucket_of, one_array, packing, unpacked
from recsys_spark.params import check_ranges, param
from recsys_spark.recommend.top_n import collect_factors
from recsys_spark.schema import ITEM, SEEDED, USER

STRATEGIES = ("uniform", "popularity", "in-batch", "hard")
LABEL, LOG_Q, SHORTFALL = "label", "log_q", "shortfall"
ROWS_PER_TASK = 500_000
"""Positives of a task, on average."""
PACK_ROWS = 500_000
OUT_ROWS = 200_000
"""Rows of a batch of results, on average."""
_POSITIVES, _HISTORY, _VECTORS, _BATCH = "positives", "history", "vectors", "__batch"
_RATIO = "__ratio"


class FactorsOf(Protocol):
    """A model with vectors of users and items: ``id``, ``features``, and ``bias`` where there are biases."""

    userFactors: DataFrame
    itemFactors: DataFrame


class NegativeSampler(Transformer, HasSeed, DefaultParamsReadable[Any], DefaultParamsWritable):
    """Add negatives to positives.

    ``transform`` takes rows ``user, item`` with anything else beside them, and gives each back with ``label``
    1, and for each its negatives with ``label`` 0: the same row with another item. A negative is never one of
    the user's positives, in the input or in ``history``, and no item stands twice among those of one
    positive. The columns it adds:

    ``label``
        int, 1 or 0.
    ``log_q``
        float. Of a negative, the log probability of being drawn for this user: that of its item among those
        he has not taken. Of a positive, that of its item before anything is left out; null where the
        catalogue does not have it. Null for ``hard``.
    ``shortfall``
        int. Of a positive, how many negatives it lacks because the user has too few unseen items; 0 for a
        negative.

    Strategies (Param ``strategy``):

    ``uniform``
        Every item of the catalogue alike.
    ``popularity``
        In proportion to its count to the power of ``power`` (Mikolov et al. 2013); an item nobody took counts
        as taken once.
    ``in-batch``
        In proportion to its count among the positives of the same batch; a batch is about ``batchSize``
        positives, of whole users, thrown together anew in each epoch.
    ``hard``
        The best scored, under ``model``, of ``candidates`` uniform draws; any of them for a user the model
        does not know.

    Draws are a pure function of ``seed``, ``epoch``, the user, the catalogue and the user's positives,
    whatever the partitioning; another ``epoch`` gives other negatives. Where a pair stands twice in the
    input, which of the two rows gets which negatives is open.

    Parameters
    ----------
    history : DataFrame, optional ``userCol``, ``itemCol``: further positives, which are neither drawn nor
        returned; popularity is counted over them.
    catalogue : DataFrame, optional
        ``itemCol``: what may be drawn; else every item of the input and of ``history``.
    model : optional
        For ``hard``: a model with ``userFactors`` and ``itemFactors``.
    **params
        Params by name. ``history``, ``catalogue`` and ``model`` are not saved with them.

    Raises
    ------
    ValueError
        A Param out of range.
    ModelError
        Null ids, an empty catalogue, a column that is there already; with ``onExhausted="error"``, from the
        job that uses the result, a user with too few unseen items.

    Notes
    -----
    Counts the catalogue at once (one shuffle); the rest runs when the result is used: one shuffle. A worker
    holds the catalogue: ``n_items * (20 + id)`` bytes (integers 8; strings their length and 4), for ``hard``
    ``4 * rank`` more, and the driver as much; a task holds about ``ROWS_PER_TASK`` positives, with their
    users' histories, whatever the size of the input.
    """

    _input_kwargs: dict[str, Any]

    userCol = param("userCol", "column name for user ids", TypeConverters.toString)
    itemCol = param("itemCol", "column name for item ids", TypeConverters.toString)
    strategy = param("strategy", f"one of {', '.join(STRATEGIES)}", TypeConverters.toString)
    power = param("power", "exponent of an item's count, for popularity", TypeConverters.toFloat)
    ratio = param(
        "ratio",
        "negatives of each positive, at least 1; of 2.5, a positive gets 2 or 3 at random",
        TypeConverters.toFloat,
    )
    ratioCol = param(
        "ratioCol",
        "column with the number of negatives of each positive, instead of ratio",
        TypeConverters.toString,
    )
    epoch = param("epoch", "number that rotates the negatives", TypeConverters.toInt)
    onExhausted = param(
        "onExhausted",
        "where a user has too few unseen items: fewer (counted in shortfall) or error",
        TypeConverters.toString,
    )
    candidates = param(
        "candidates", "uniform draws that a hard negative is the best of", TypeConverters.toInt
    )
    batchSize = param("batchSize", "positives of a batch, about, for in-batch", TypeConverters.toInt)

    def __init__(
        self,
        *,
        history: DataFrame | None = None,
        catalogue: DataFrame | None = None,
        model: FactorsOf | None = None,
        **params: Any,
    ) -> None:
        super().__init__()
        self.history, self.catalogue, self.model = history, catalogue, model
        self._setDefault(
            userCol=USER, itemCol=ITEM, strategy="uniform", power=0.75, ratio=1.0, epoch=0, onExhausted="fewer", candidates=8,
            batchSize=8192, seed=SEEDED,
        )  # fmt: skip
        self._set(**params)

    @keyword_only
    def setParams(self, **params: Any) -> NegativeSampler:
        """Set Params by name."""
        return self._set(**params)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        of = self.getOrDefault
        allowed = {"strategy": STRATEGIES, "onExhausted": ("fewer", "error")}
        check_ranges(self, {"ratio": 1, "power": 0, "candidates": 1, "batchSize": 1, "epoch": 0}, allowed)
        if (of("strategy") == "hard") != (self.model is not None):
            raise ValueError("the strategy hard, and no other, takes a model")

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self.check()
        of = self.getOrDefault
        user, item, in_batches = of("userCol"), of("itemCol"), of("strategy") == "in-batch"
        taken = [name for name in (LABEL, LOG_Q, SHORTFALL) if name in dataset.columns]
        if taken:
            raise ModelError(f"the input has a column {taken[0]!r} already, which negatives need")
        catalogue, total = self._count(dataset)
        buckets = max(1, math.ceil(total / ROWS_PER_TASK))
        batches = max(1, math.ceil(total / of("batchSize"))) if in_batches else 1
        batch = bucket_of(F.struct(user, F.lit(of("seed")), F.lit(of("epoch"))), batches)
        bucket = (
            (batch * buckets / batches).cast("int").alias("bucket")
            if in_batches
            else bucket_of(F.col(user), buckets)
        )
        place = [bucket, batch.alias(_BATCH)] if in_batches else [bucket]
        ratio = F.col(of("ratioCol")) if self.isSet("ratioCol") else F.lit(of("ratio"))
        rows = dataset.select(*place, ratio.cast("double").alias(_RATIO), *dataset.columns)
        packed = rows.mapInArrow(packing(_POSITIVES, PACK_ROWS), PACKED)
        id_type = dataset.schema[user].dataType
        if self.history is not None:
            item_type = dataset.schema[item].dataType
            own, theirs = F.col(user).cast(id_type).alias(user), F.col(item).cast(item_type).alias(item)
            pairs = self.history.select(own, theirs).select(*place, user, item)
            packed = packed.unionAll(pairs.mapInArrow(packing(_HISTORY, PACK_ROWS), PACKED))
        factors = None
        if self.model is not None:
            factors = _item_vectors(self.model.itemFactors, catalogue)
            vectors = self.model.userFactors.select(F.col("id").cast(id_type).alias(user), "features").select(
                *place, user, "features"
            )
            packed = packed.unionAll(vectors.mapInArrow(packing(_VECTORS, PACK_ROWS), PACKED))
        settings = _Settings(
            user,
            item,
            of("strategy"),
            of("seed"),
            of("epoch"),
            of("candidates"),
            of("onExhausted") == "error",
            dataset.columns,
        )
        held = dataset.sparkSession.sparkContext.broadcast((catalogue, factors))
        schema = T.StructType(
            [
                *dataset.schema.fields,
                T.StructField(LABEL, T.IntegerType()),
                T.StructField(LOG_Q, T.FloatType()),
                T.StructField(SHORTFALL, T.IntegerType()),
            ]
        )
        return packed.repartitionById(buckets, F.col("bucket")).mapInArrow(_sampling(held, settings), schema)

    def _count(self, dataset: DataFrame) -> tuple[_Catalogue, int]:
        """The catalogue with its distribution, and the number of positives."""
        of = self.getOrDefault
        item = of("itemCol")
        counted = dataset.select(
            F.col(item), F.lit(int(self.history is None)).alias("n"), F.lit(1).alias("own")
        )
        kind = dataset.schema[item].dataType
        for frame, weight in ((self.history, 1), (self.catalogue, 0)):
            if frame is not None:
                more = frame.select(
                    F.col(item).cast(kind).alias(item), F.lit(weight).alias("n"), F.lit(0).alias("own")
                )
                counted = counted.unionAll(more)
        sums = counted.groupBy(item).agg(F.sum("n").alias("n"), F.sum("own").alias("own"))
        allowed = F.lit(True)
        if self.catalogue is not None:
            listed = (
                self.catalogue.select(F.col(item).cast(kind).alias(item))
                .distinct()
                .withColumn("listed", F.lit(True))
            )
            sums, allowed = sums.join(listed, item, "left"), F.col("listed").isNotNull()
        table = sums.select(item, "n", "own", allowed.alias("allowed")).toArrow()
        if table[item].null_count:
            raise ModelError(f"negatives need ids: column {item!r} holds nulls")
        total = int(np.sum(table["own"].to_numpy()))
        table = table.filter(table["allowed"])
        if not table.num_rows:
            raise ModelError("the catalogue is empty, so there is nothing to draw")
        counts = np.maximum(table["n"].to_numpy(), 1).astype(np.float64)
        weights = counts ** of("power") if of("strategy") == "popularity" else np.ones(len(counts))
        return _Catalogue.build(one_array(table[item]), weights), total


@dataclass(frozen=True)
class _Catalogue:
    """What may be drawn: ids in the order of their ``words`` (ascending), and the distribution over them."""

    ids: pa.Array
    words: Hashes
    proposal: Proposal

    @classmethod
    def build(cls, ids: pa.Array, weights: npt.NDArray[np.float64]) -> _Catalogue:
        words = hash_ids(ids)
        order = np.argsort(words)
        if (words[order][1:] == words[order][:-1]).any():
            raise ModelError("two items of the catalogue have the same 64-bit hash: rename one of them")
        return cls(ids.take(pa.array(order)), words[order], Proposal.build(weights[order]))

    def positions(self, column: pa.ChunkedArray) -> Ints:
        """Catalogue position of each id, -1 for those it does not have."""
        coded = one_array(column).dictionary_encode()
        words = hash_ids(coded.dictionary)
        at = np.searchsorted(self.words, words).clip(max=len(self.words) - 1)
        found = np.where(self.words[at] == words, at, -1).astype(np.int32)
        return found[coded.indices.to_numpy()]


@dataclass(frozen=True)
class _Settings:
    user: str
    item: str
    strategy: str
    seed: int
    epoch: int
    candidates: int
    strict: bool
    columns: list[str]


def _item_vectors(items: DataFrame, catalogue: _Catalogue) -> Floats:
    """Vectors of the catalogue in its order, with the bias as a last column; an unknown item scores -inf."""
    ids, factors, biases = collect_factors(items)
    at = catalogue.positions(pa.chunked_array([ids.cast(catalogue.ids.type)]))
    vectors = np.zeros((len(catalogue.ids), factors.shape[1] + 1), np.float32)
    vectors[:, -1] = -np.inf
    vectors[at[at >= 0]] = np.column_stack([factors, biases])[at >= 0]
    return vectors


def _sampling(held: Any, settings: _Settings) -> Any:
    def sample(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = unpacked(batches)
        if _POSITIVES not in tables:
            return
        catalogue, item_vectors = held.value
        positives = pa.concat_tables(tables[_POSITIVES])
        history = pa.concat_tables(tables[_HISTORY]) if _HISTORY in tables else positives.slice(0, 0)
        vectors = pa.concat_tables(tables[_VECTORS]) if _VECTORS in tables else None
        share = _Share.build(positives, history, catalogue, settings)
        yield from share.result(share.draw(catalogue, item_vectors, vectors, settings), catalogue, settings)

    return sample


@dataclass(frozen=True)
class _Negatives:
    """Negatives of a task's positives: ``items`` and their ``log_q``, one positive after the other, and
    ``counts`` of each.
    """

    items: Ints
    log_q: Floats
    counts: Ints


@dataclass(frozen=True)
class _Share:
    """One task's positives, by user.

    Attributes
    ----------
    positives : rows, those of a user together, in order of their items
    users, words : distinct users and their hashes, in order of batch and hash
    batches : batch of each user, ascending
    rows, positions : user and catalogue position (or -1) of each positive
    wanted : negatives of each positive
    known_rows, known : user and position of every known pair, ascending and unique
    """

    positives: pa.Table
    users: pa.Array
    words: Hashes
    batches: Ints
    rows: Ints
    positions: Ints
    wanted: Ints
    known_rows: Ints
    known: Ints

    @classmethod
    def build(
        cls, positives: pa.Table, history: pa.Table, catalogue: _Catalogue, settings: _Settings
    ) -> _Share:
        columns = [settings.user, settings.item, *([_BATCH] if _BATCH in positives.column_names else [])]
        pairs = pa.concat_tables(
            [positives.select(columns), history.select(columns)], promote_options="permissive"
        )
        if pairs[settings.user].null_count:
            raise ModelError(f"negatives need ids: column {settings.user!r} holds nulls")
        coded = one_array(pairs[settings.user]).dictionary_encode()
        codes, words = coded.indices.to_numpy(), hash_ids(coded.dictionary)
        batches = np.zeros(len(words), np.int32)
        if _BATCH in columns:
            batches[codes] = pairs[_BATCH].to_numpy()
        order = np.lexsort((words, batches))
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        users, words, batches, all_rows = (
            coded.dictionary.take(pa.array(order)),
            words[order],
            batches[order],
            place[codes],
        )

        n_items, own = len(catalogue.ids), positives.num_rows
        at = catalogue.positions(pairs[settings.item])
        known = np.unique((all_rows.astype(np.int64) * n_items + at)[at >= 0])
        keys = [at[:own], all_rows[:own]]
        if (at[:own] < 0).any():
            keys.insert(0, hash_ids(one_array(positives[settings.item])))
        sorting = np.lexsort(keys)
        ordered, rows = positives.take(pa.array(sorting)).combine_chunks(), all_rows[:own][sorting]
        ratio = ordered[_RATIO].to_numpy(zero_copy_only=False)
        if not (ratio >= 1).all():
            raise ModelError(f"the number of negatives must be at least 1, found {ratio[~(ratio >= 1)][0]}")
        chance = uniform(
            settings.seed, settings.epoch, 1, words[rows], np.arange(own) - np.searchsorted(rows, rows)
        )
        wanted = (np.floor(ratio) + (chance < ratio % 1)).astype(np.int32)
        known_rows, known_items = (known // n_items).astype(np.int32), (known % n_items).astype(np.int32)
        return cls(ordered, users, words, batches, rows, at[:own][sorting], wanted, known_rows, known_items)

    def draw(
        self,
        catalogue: _Catalogue,
        item_vectors: Floats | None,
        vectors: pa.Table | None,
        settings: _Settings,
    ) -> _Negatives:
        """Negatives of all positives."""
        keys = mix(settings.seed, settings.epoch, 0, self.words)
        if settings.strategy == "in-batch":
            parts = [self._draw_in(batch, keys) for batch in np.unique(self.batches[self.rows])]
            return _Negatives(
                *(
                    np.concatenate([getattr(part, name) for part in parts])
                    for name in ("items", "log_q", "counts")
                )
            )
        hard = item_vectors is not None and vectors is not None
        wanted = self.wanted * settings.candidates if hard else self.wanted
        known = (_indptr(self.known_rows, len(self.users)), self.known)
        drawn = draw_negatives(keys, known, _indptr(self.rows, len(self.users)), wanted, catalogue.proposal)
        if item_vectors is not None and vectors is not None:
            return self._hardest(drawn, item_vectors, vectors, settings)
        return _Negatives(drawn.items, _log_q(drawn, self.rows, catalogue.proposal), drawn.counts)

    def _draw_in(self, batch: int, keys: Hashes) -> _Negatives:
        """Negatives of the positives of one batch, in proportion to the items' counts in it."""
        low, high = np.searchsorted(self.batches, [batch, batch + 1])
        mine, theirs = (slice(*np.searchsorted(of, [low, high])) for of in (self.rows, self.known_rows))
        rows, positions, wanted = self.rows[mine] - low, self.positions[mine], self.wanted[mine]
        local, weights = np.unique(positions[positions >= 0], return_counts=True)
        if not len(local):
            return _Negatives(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(len(rows), np.int32))
        offered = np.isin(self.known[theirs], local)
        known_rows, known = (
            self.known_rows[theirs][offered] - low,
            np.searchsorted(local, self.known[theirs][offered]),
        )
        proposal = Proposal.build(weights.astype(np.float64))
        drawn = draw_negatives(
            keys[low:high],
            (_indptr(known_rows, high - low), known.astype(np.int32)),
            _indptr(rows, high - low),
            wanted,
            proposal,
        )
        return _Negatives(local[drawn.items], _log_q(drawn, rows, proposal), drawn.counts)

    def _hardest(
        self, drawn: Drawn, item_vectors: Floats, vectors: pa.Table, settings: _Settings
    ) -> _Negatives:
        """Of each positive's draws, in groups of ``candidates``, the best scored."""
        own = np.zeros((len(self.users), item_vectors.shape[1]), np.float32)
        at = pc.index_in(one_array(vectors[settings.user]), value_set=self.users)
        there = at.is_valid().to_numpy(zero_copy_only=False)
        features = np.asarray(one_array(vectors["features"]).flatten(), np.float32).reshape(len(there), -1)[
            there
        ]
        own[at.drop_null().to_numpy()] = np.column_stack([features, np.ones(len(features), np.float32)])
        # as many groups as negatives are wanted, as long as there are draws for them
        counts = np.minimum(self.wanted, drawn.counts)
        slot = np.repeat(np.arange(len(counts)), drawn.counts)
        place = np.arange(len(slot)) - np.repeat(np.cumsum(drawn.counts) - drawn.counts, drawn.counts)
        group = (np.cumsum(counts) - counts)[slot] + place * counts[slot] // drawn.counts[slot]
        scores = np.empty(len(slot), np.float32)
        for begin in range(0, len(slot), OUT_ROWS):
            some = slice(begin, begin + OUT_ROWS)
            scores[some] = np.einsum("ij,ij->i", own[self.rows[slot[some]]], item_vectors[drawn.items[some]])
        scores[np.isnan(scores)] = -np.inf  # neither the user nor the item has a vector
        starts = np.searchsorted(group, np.arange(counts.sum()))
        largest = (
            np.flatnonzero(scores == np.maximum.reduceat(scores, starts)[group]) if len(starts) else starts
        )
        items = drawn.items[largest[np.searchsorted(group[largest], np.arange(len(starts)))]]
        return _Negatives(items, np.full(len(items), np.nan, np.float32), counts.astype(np.int32))

    def result(
        self, negatives: _Negatives, catalogue: _Catalogue, settings: _Settings
    ) -> Iterator[pa.RecordBatch]:
        """Rows of the result: the positives, then their negatives."""
        shortfall = self.wanted - negatives.counts
        if settings.strict and shortfall.any():
            worst = int(np.argmax(shortfall))
            user = self.positives[settings.user][worst].as_py()
            raise ModelError(
                f"user {user!r} has too few unseen items: {self.wanted[worst]} negatives are wanted for a positive, "
                f"{negatives.counts[worst]} are left; lower ratio, or set onExhausted to fewer"
            )
        rows = self.positives.select(settings.columns)
        log_q = np.where(self.positions >= 0, catalogue.proposal.log_q[self.positions], np.nan).astype(
            np.float32
        )
        if settings.strategy in ("hard", "in-batch"):
            log_q[:] = np.nan
        yield from _labelled(rows, 1, log_q, shortfall)
        ends = np.cumsum(negatives.counts, dtype=np.int64)
        cuts = np.searchsorted(ends, np.arange(OUT_ROWS, ends[-1] + OUT_ROWS, OUT_ROWS)) + 1
        for begin, end in pairwise([0, *cuts.clip(max=len(ends)).tolist()]):
            counts = negatives.counts[begin:end]
            part = slice(ends[end - 1] - counts.sum(), ends[end - 1])
            taken = rows.take(pa.array(np.repeat(np.arange(begin, end), counts)))
            field = rows.schema.field(settings.item)
            items = catalogue.ids.take(pa.array(negatives.items[part])).cast(field.type)
            taken = taken.set_column(rows.column_names.index(settings.item), field, items)
            yield from _labelled(taken, 0, negatives.log_q[part], np.zeros(len(items), np.int32))


def _labelled(rows: pa.Table, label: int, log_q: Floats, shortfall: Ints) -> Iterator[pa.RecordBatch]:
    table = rows.append_column(LABEL, pa.array(np.full(rows.num_rows, label, np.int32)))
    table = table.append_column(LOG_Q, pa.array(log_q, from_pandas=True)).append_column(
        SHORTFALL, pa.array(shortfall)
    )
    yield from table.combine_chunks().to_batches(max_chunksize=OUT_ROWS)


def _log_q(drawn: Drawn, rows: Ints, proposal: Proposal) -> Floats:
    """Log probability of each drawn item among those that its user (``rows``, of each positive) has not
    taken.
    """
    return (proposal.log_q[drawn.items] - np.repeat(drawn.log_unseen[rows], drawn.counts)).astype(np.float32)


def _indptr(rows: npt.NDArray[np.integer], n_rows: int) -> Longs:
    """Bounds, for each of ``n_rows``, of its entries in ascending ``rows``."""
    return np.searchsorted(rows, np.arange(n_rows + 1)).astype(np.int64)
