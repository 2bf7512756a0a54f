"""Negatives on the cluster, for feedback that has no zeros.

::

    positives (user, item, …) ──┬── count the catalogue ──▶ driver: alias table ──broadcast──┐
    history   (user, item)    ──┤                                                            ▼
                                └── pack by user (or by batch) ── one shuffle ──▶ tasks: draw (share.py)

Nothing is a product of users and items, and no history leaves its task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from recsys_spark.columns import column_of, id_column, matching_id, require_new, unused
from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Floats
from recsys_spark.packing import PACKED, bucket_of, one_array, packing, unpacked
from recsys_spark.params import check_ranges, keyword_constructor
from recsys_spark.recommend.scores import collect_factors
from recsys_spark.sampling.sampler_params import STRATEGIES, SamplerParams
from recsys_spark.sampling.share import (
    BATCH,
    LABEL,
    LOG_Q,
    RATIO,
    SHORTFALL,
    Catalogue,
    HardScorer,
    Settings,
    Share,
)
from recsys_spark.schema import ITEM, SEEDED, USER

ROWS_PER_TASK = 500_000
"""Positives of a task, on average."""
PACK_ROWS = 500_000
_POSITIVES, _HISTORY, _VECTORS = "positives", "history", "vectors"


class ModelWithFactors(Protocol):
    """A model with vectors of users and items: ``id``, ``features``, and ``bias`` where there are biases."""

    userFactors: DataFrame
    itemFactors: DataFrame


class NegativeSampler(Transformer, SamplerParams, DefaultParamsReadable[Any], DefaultParamsWritable):
    """Add negatives to positives.

    ``transform`` takes rows ``user, item`` with any other columns, and returns each with ``label`` 1, and for
    each its negatives with ``label`` 0: the same row with another item. A negative is never one of the user's
    positives, in the input or in ``history``, and no item occurs twice among those of one positive. The
    columns it adds:

    ``label``
        int, 1 or 0.
    ``log_q``
        float. Of a negative, the log probability of being drawn for this user: that of its item among those
        that the user has not taken. Of a positive, that of its item before anything is left out; null where
        the catalogue does not have it. Null for ``hard``.
    ``shortfall``
        int. Of a positive, how many negatives are missing because the user has too few unseen items; 0 for a
        negative.

    Strategies:

    ``uniform``
        Every item of the catalogue with the same probability.
    ``popularity``
        In proportion to its number of events to the power of ``popularityExponent`` (Mikolov et al. 2013); an
        item without interactions counts as taken once.
    ``in-batch``
        In proportion to its number among the positives of the same batch; a batch is about ``batchSize``
        positives, of whole users, reshuffled every epoch.
    ``hard``
        The best scored, under ``model``, of ``numCandidates`` uniform draws; any of them for a user the model
        does not know.

    Draws are a pure function of ``seed``, ``epoch``, the user, the catalogue and the user's positives,
    whatever the partitioning; another ``epoch`` draws other negatives. Where a pair occurs twice in the
    input, which of the two rows gets which negatives is open.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of the input.
    strategy : str, default "uniform"
        ``uniform``, ``popularity``, ``in-batch`` or ``hard``.
    ratio : float, default 1.0
        Negatives of each positive, at least 1; with 2.5 a positive gets 2 or 3 at random.
    ratioCol : str, optional
        Column with the number of negatives of each positive, instead of ``ratio``.
    popularityExponent : float, default 0.75
        Exponent of an item's number of events, for ``popularity``; at least 0.
    numCandidates : int, default 8
        Uniform draws that a hard negative is the best of, at least 1.
    batchSize : int, default 8192
        Positives of a batch, about, for ``in-batch``.
    epoch : int, default 0
        Rotates the negatives; at least 0.
    onExhausted : str, default "fewer"
        Where a user has too few unseen items: ``fewer`` (counted in ``shortfall``) or ``error``.
    seed : int, default 42
        Of every draw.
    history : DataFrame, optional
        ``userCol``, ``itemCol``: further positives, which are neither drawn nor returned; popularity is
        counted over them.
    catalogue : DataFrame, optional
        ``itemCol``: what may be drawn; else every item of the input and of ``history``.
    model : optional
        For ``hard``: a model with ``userFactors`` and ``itemFactors``. ``history``, ``catalogue`` and
        ``model`` are not saved with the Params.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``transform``: a Param out of range.
    ModelError
        From ``transform``: null ids, an empty catalogue, a column that is there already; with
        ``onExhausted="error"``, from the job that uses the result, a user with too few unseen items.

    Notes
    -----
    Counts the catalogue at once (one shuffle); the rest runs when the result is used: one shuffle. A worker
    holds the catalogue: ``n_items * (20 + id)`` bytes (integers 8; strings their length and 4), for ``hard``
    ``4 * rank`` more, and the driver as much; a task holds about ``ROWS_PER_TASK`` positives, with their
    users' histories, whatever the size of the input.

    Examples
    --------
    >>> from recsys_spark import NegativeSampler
    >>> bought = spark.createDataFrame([("ann", "tea"), ("bob", "jam")], "user string, item string")
    >>> labelled = NegativeSampler(strategy="uniform").transform(bought)
    >>> labelled.select("user", "item", "label").orderBy("user", "label").show()
    +----+----+-----+
    |user|item|label|
    +----+----+-----+
    | ann| jam|    0|
    | ann| tea|    1|
    | bob| tea|    0|
    | bob| jam|    1|
    +----+----+-----+
    <BLANKLINE>
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = USER,
        itemCol: str = ITEM,
        strategy: str = "uniform",
        ratio: float = 1.0,
        ratioCol: str | None = None,
        popularityExponent: float = 0.75,
        numCandidates: int = 8,
        batchSize: int = 8192,
        epoch: int = 0,
        onExhausted: str = "fewer",
        seed: int = SEEDED,
        history: DataFrame | None = None,
        catalogue: DataFrame | None = None,
        model: ModelWithFactors | None = None,
    ) -> None:
        super().__init__()
        self.history, self.catalogue, self.model = history, catalogue, model
        self._set_given()

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range or in contradiction."""
        allowed = {"strategy": STRATEGIES, "onExhausted": ("fewer", "error")}
        least = {"ratio": 1, "popularityExponent": 0, "numCandidates": 1, "batchSize": 1, "epoch": 0}
        check_ranges(self, least, allowed)
        if (self.getStrategy() == "hard") != (self.model is not None):
            raise ValueError("strategy hard needs a model, and no other strategy takes one")

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self.check()
        added = {LABEL: T.IntegerType(), LOG_Q: T.FloatType(), SHORTFALL: T.IntegerType()}
        require_new(dataset, added, "the sampler")
        packable = _Positives.build(self, dataset)
        catalogue, total = self._count(packable.rows)
        placement = _Placement.build(self, total)
        scorer_items = None if self.model is None else _item_vectors(self.model.itemFactors, catalogue)
        settings = Settings(
            user=self.getUserCol(),
            strategy=self.getStrategy(),
            seed=self.getSeed(),
            epoch=self.getEpoch(),
            candidates=self.getNumCandidates(),
            strict=self.getOnExhausted() == "error",
            columns=packable.columns,
            item=packable.item,
        )
        broadcast = dataset.sparkSession.sparkContext.broadcast((catalogue, scorer_items))
        own = zip(packable.columns, dataset.schema.fields, strict=True)
        fields = [T.StructField(name, field.dataType, field.nullable) for name, field in own]
        fields += [T.StructField(name, kind) for name, kind in added.items()]
        packed = self._packed(packable.rows, placement).repartitionById(placement.buckets, F.col("bucket"))
        result = packed.mapInArrow(_sampling(broadcast, settings), T.StructType(fields))
        return result.toDF(*dataset.columns, *added)

    def _packed(self, rows: DataFrame, placement: _Placement) -> DataFrame:
        """Positives, histories and the model's user vectors as payloads for the tasks of their users."""
        user_type, item_type = rows.schema[USER].dataType, rows.schema[ITEM].dataType
        frames = {_POSITIVES: rows.select(*placement.columns, "*")}
        if self.history is not None:
            pairs = self.history.select(
                matching_id(self.history, self.getUserCol(), user_type).alias(USER),
                matching_id(self.history, self.getItemCol(), item_type).alias(ITEM),
            )
            known = pairs.where(F.col(USER).isNotNull() & F.col(ITEM).isNotNull())
            frames[_HISTORY] = known.select(*placement.columns, USER, ITEM)
        if self.model is not None:
            of_users = self.model.userFactors
            vectors = of_users.select(matching_id(of_users, "id", user_type).alias(USER), "features")
            frames[_VECTORS] = vectors.select(*placement.columns, USER, "features")
        packed = [frame.mapInArrow(packing(kind, PACK_ROWS), PACKED) for kind, frame in frames.items()]
        whole = packed[0]
        for frame in packed[1:]:
            whole = whole.unionAll(frame)
        return whole

    def _count(self, rows: DataFrame) -> tuple[Catalogue, int]:
        """The catalogue with its distribution, and the number of positives."""
        kind = rows.schema[ITEM].dataType
        count_own = F.lit(int(self.history is None)).alias("n")
        lost = F.col(USER).isNull().cast("int").alias("lost")
        counted = rows.select(ITEM, count_own, F.lit(1).alias("own"), lost)
        for frame, weight in ((self.history, 1), (self.catalogue, 0)):
            if frame is not None:
                ids = frame.select(matching_id(frame, self.getItemCol(), kind).alias(ITEM))
                others = ids.where(F.col(ITEM).isNotNull())
                counted = counted.unionAll(others.select(ITEM, *map(F.lit, (weight, 0, 0))))
        sums = counted.groupBy(ITEM).agg(*(F.sum(name).alias(name) for name in ("n", "own", "lost")))
        allowed = F.lit(True)
        if self.catalogue is not None:
            listed = self.catalogue.select(matching_id(self.catalogue, self.getItemCol(), kind).alias(ITEM))
            sums = sums.join(listed.distinct().withColumn("listed", F.lit(True)), ITEM, "left")
            allowed = F.col("listed").isNotNull()
        table = sums.select(ITEM, "n", "own", "lost", allowed.alias("allowed")).toArrow()
        for column, missing in (
            (self.getItemCol(), table[ITEM].null_count),
            (self.getUserCol(), np.any(table["lost"].to_numpy())),
        ):
            if missing:
                raise ModelError(
                    f"column {column!r} has null ids, or numbers that are no ids, such as those with a "
                    "fraction: drop those rows before sampling"
                )
        total = int(np.sum(table["own"].to_numpy()))
        table = table.filter(table["allowed"])
        if not table.num_rows:
            raise ModelError("the catalogue is empty, so there is nothing to draw")
        counts = np.maximum(table["n"].to_numpy(), 1).astype(np.float64)
        by_popularity = self.getStrategy() == "popularity"
        weights = counts ** self.getPopularityExponent() if by_popularity else np.ones(len(counts))
        return Catalogue.build(one_array(table[ITEM]), weights), total


@dataclass(frozen=True)
class _Positives:
    """The input as it is packed, with names of its own.

    Attributes
    ----------
    rows : ``user``, ``item`` (int, bigint or string), ``ratio`` double, and the input's columns
    columns : where the input's columns are among these, in order
    item : that of the input's items
    """

    rows: DataFrame
    columns: list[str]
    item: str

    @classmethod
    def build(cls, sampler: NegativeSampler, dataset: DataFrame) -> _Positives:
        ids = [id_column(dataset, name) for name in (sampler.getUserCol(), sampler.getItemCol())]
        names = [name.casefold() for name in dataset.columns]
        if sampler.getItemCol().casefold() not in names:
            raise ModelError(f"column {sampler.getItemCol()!r} is a field in another: select it as a column")
        place = names.index(sampler.getItemCol().casefold())
        for field in dataset.schema:
            _require_arrow(field)
        ratio = F.lit(sampler.getRatio())
        if sampler.isSet("ratioCol"):
            ratio = column_of(dataset, sampler.getRatioCol())[0]
        helpers = [unused(stem, dataset) for stem in (f"{USER} id", f"{ITEM} id", "negatives")]
        values = dict(zip(helpers, (*ids, ratio.cast("double")), strict=True))
        own = [f"own {number}" for number in range(len(names))]
        rows = dataset.withColumns(values).toDF(*own, USER, ITEM, RATIO)
        return cls(rows, own, own[place])


def _require_arrow(field: T.StructField) -> None:
    try:
        to_arrow_type(field.dataType, timezone="UTC")
    except (PySparkException, ValueError):
        raise ModelError(
            f"column {field.name!r} is {field.dataType.simpleString()}, which the sampler cannot repeat: "
            "cast it to string, or join it afterwards"
        ) from None


@dataclass(frozen=True)
class _Placement:
    """Where rows go: ``columns`` of their bucket and, for in-batch, their batch; and the number of
    ``buckets``.
    """

    columns: list[Column]
    buckets: int

    @classmethod
    def build(cls, sampler: NegativeSampler, total: int) -> _Placement:
        buckets = max(1, math.ceil(total / ROWS_PER_TASK))
        if sampler.getStrategy() != "in-batch":
            return cls([bucket_of(F.col(USER), buckets)], buckets)
        batches = max(1, math.ceil(total / sampler.getBatchSize()))
        key = F.struct(USER, F.lit(sampler.getSeed()), F.lit(sampler.getEpoch()))
        batch = bucket_of(key, batches)
        return cls([(batch * buckets / batches).cast("int").alias("bucket"), batch.alias(BATCH)], buckets)


def _item_vectors(items: DataFrame, catalogue: Catalogue) -> Floats:
    """Vectors of the catalogue in its order, with the bias as a last column; an unknown item scores -inf."""
    ids, factors, biases = collect_factors(items)
    positions = catalogue.positions(pa.chunked_array([ids.cast(catalogue.ids.type)]))
    vectors = np.zeros((len(catalogue.ids), factors.shape[1] + 1), np.float32)
    vectors[:, -1] = -np.inf
    vectors[positions[positions >= 0]] = np.column_stack([factors, biases])[positions >= 0]
    return vectors


def _sampling(broadcast: Any, settings: Settings) -> Any:
    """Function for ``mapInArrow``: a task's payloads into labelled rows."""

    def sample(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = unpacked(batches)
        if _POSITIVES not in tables:
            return
        catalogue, item_vectors = broadcast.value
        positives = pa.concat_tables(tables[_POSITIVES])
        history = pa.concat_tables(tables[_HISTORY]) if _HISTORY in tables else positives.slice(0, 0)
        share = Share.build(positives, history, catalogue, settings)
        scorer = None
        if item_vectors is not None and _VECTORS in tables:
            scorer = HardScorer(item_vectors, pa.concat_tables(tables[_VECTORS]))
        yield from share.result(share.draw(scorer))

    return sample
