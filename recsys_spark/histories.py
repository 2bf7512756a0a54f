"""Users' histories, packed once for all that reads them: what is learnt from, left out of lists, counted.

    rows (user, item, …) ─pack─▶ pieces ─one shuffle─▶ a payload for each bucket of users, kept

A night reads its ratings some ten times. As rows that costs a pass through Spark's bridge to Python each
time, and mostly a shuffle; packed they are few binary rows, with each user's ratings together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError, summary
from recsys_spark.kernels.arrays import Booleans, Integers, Ints
from recsys_spark.kernels.sets import distinct, numbered
from recsys_spark.packing import (
    PACKED,
    bucket_of,
    encoded_ids,
    one_array,
    packing,
    power_of_two,
    read_table,
    table_bytes,
    unpacked,
)
from recsys_spark.schema import FOLD_IN, ITEM, PART, RATING, TEST, TIMESTAMP, TRAIN, USER, VALIDATION

HISTORY, VALUES = "history", "values"
"""Columns of payloads: pairs with their part, which is what most readers need, and ratings and times. The
first is also the kind of such payloads among others.
"""

_OF_BUCKETS = f"bucket int, {HISTORY} binary, {VALUES} binary"

LEFT_OUT = "left_out"
PARTS = (TRAIN, FOLD_IN, VALIDATION, TEST, LEFT_OUT)
"""Parts of a split, and what it leaves out; a pair of no part is known, and has no rating."""
BUCKET_ROWS = 2**15
"""Ratings of a payload, about: smaller ones would cost more than they hold."""
TASK_ROWS = 2**22
"""Ratings that a task packs, about."""
PACK_ROWS = 1_000_000
MICROS = 1_000_000
"""Of a second."""
_HOME = "home"


@dataclass(frozen=True)
class PackedHistories:
    """Ratings by user, as :func:`pack_histories` makes them.

    Parameters
    ----------
    packed : DataFrame
        A row for each bucket that has users, with Arrow streams of their ratings, by user and item. Column
        :data:`HISTORY` has ``user``, ``item`` (dictionary-encoded, ids ascending) and ``part`` int8, the
        place in :data:`PARTS` or -1; column :data:`VALUES` ``rating`` and ``timestamp``, as narrow as they
        are exact (float32 or float64; int32 seconds or int64 microseconds). Persisted.
    buckets : int
        A power of two: a user's bucket is :func:`~recsys_spark.packing.bucket_of` its id.
    id_types : pair of DataType
        Of users and of items.
    size : int
        Number of ratings, or more.
    parts : tuple of str or None
        The parts that are meant; None for all ratings.
    """

    packed: DataFrame
    buckets: int
    id_types: tuple[T.DataType, T.DataType]
    size: int
    parts: tuple[str, ...] | None = None

    def of(self, *parts: str) -> PackedHistories:
        """The same, but the ratings of some parts are meant.

        Parameters
        ----------
        *parts : str
            Of :data:`PARTS`.
        """
        return replace(self, parts=parts)

    @property
    def sparkSession(self) -> SparkSession:  # noqa: N802 - as a DataFrame has it
        """The session of the payloads."""
        return self.packed.sparkSession

    def rows(self, *columns: str) -> DataFrame:
        """The ratings that are meant, as they were packed: no shuffle, but the bridge from Python.

        Parameters
        ----------
        *columns : str
            Some of ``user``, ``item``, ``rating`` (double), ``timestamp``, ``part`` (text or null).
        """
        user, item = self.id_types
        kinds = {USER: user, ITEM: item, RATING: T.DoubleType(), TIMESTAMP: T.TimestampType()}
        kinds[PART] = T.StringType()
        schema = T.StructType([T.StructField(name, kinds[name]) for name in columns])

        def plain(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
            for table in tables:
                values = {name: plain_column(name, one_array(table[name])) for name in columns}
                yield from pa.table(values).to_batches()

        return self.map_tables(columns, plain, schema)

    def map_tables(
        self,
        columns: Sequence[str],
        change: Callable[[Iterator[pa.Table]], Iterator[pa.RecordBatch]],
        schema: T.StructType | str,
    ) -> DataFrame:
        """What a function makes of the ratings that are meant; :attr:`packed` describes their columns.

        Parameters
        ----------
        columns : sequence of str
            As :meth:`rows` takes them; ``part`` comes in any case.
        change : callable
            From tables, one for each bucket, to batches.
        schema : StructType or str
            Of the result.
        """
        parts, wanted = self.parts, [name for name in columns if name != PART]

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return change(_payloads(batches, parts, wanted))

        valued = [] if {RATING, TIMESTAMP}.isdisjoint(columns) else [VALUES]
        return self.packed.select(HISTORY, *valued).mapInArrow(run, schema)

    def user_counts(self) -> DataFrame:
        """``user``, ``ratings``: how many of those that are meant each user has; users without are not in it.
        No shuffle.
        """
        return self._counted_ids(USER)

    def item_counts(self) -> DataFrame:
        """``item``, ``ratings``: the same of the items. A shuffle of one row for each item of each task."""
        return self._counted_ids(ITEM).groupBy(ITEM).agg(F.sum("ratings").alias("ratings"))

    def counts(self) -> dict[str, tuple[int, int]]:
        """Part → number of its ratings and of their users; parts that have none are not in it. One job."""
        every = self.packed.select(HISTORY).mapInArrow(
            _counted_parts, f"{PART} byte, ratings bigint, users bigint"
        )
        totals = every.groupBy(PART).agg(F.sum("ratings").alias("ratings"), F.sum("users").alias("users"))
        found = {row[PART]: (row["ratings"], row["users"]) for row in totals.collect()}
        return {part: found[place] for place, part in enumerate(PARTS) if place in found}

    def _counted_ids(self, name: str) -> DataFrame:
        """Ids with the number of their ratings, once for each task."""
        parts = self.parts

        def count(table: pa.Table) -> pa.Table:
            ids = one_array(table[name])
            found = np.bincount(ids.indices.to_numpy(), minlength=len(ids.dictionary))
            some = pa.array(found > 0)
            return pa.table({name: ids.dictionary.filter(some), "ratings": pa.array(found).filter(some)})

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            counted = [count(table) for table in _payloads(batches, parts, [name])]
            if counted:
                totals = pa.concat_tables(counted).group_by(name).aggregate([("ratings", "sum")])
                columns = [totals[name], totals["ratings_sum"]]
                yield from pa.table(columns, names=[name, "ratings"]).to_batches()

        kind = self.id_types[(USER, ITEM).index(name)]
        fields = [T.StructField(name, kind), T.StructField("ratings", T.LongType())]
        return self.packed.select(HISTORY).mapInArrow(run, T.StructType(fields))

    def in_buckets(self, buckets: int) -> DataFrame:
        """The payloads of pairs, of kind :data:`HISTORY`, in fewer buckets.

        Parameters
        ----------
        buckets : int
            A power of two, at most the histories' own.

        Returns
        -------
        DataFrame
            Of :data:`~recsys_spark.packing.PACKED`.
        """
        bucket = F.pmod("bucket", F.lit(buckets)).cast("int").alias("bucket")
        return self.packed.select(bucket, F.lit(HISTORY).alias("kind"), F.col(HISTORY).alias("payload"))

    def require_id_types(self, user: T.DataType, item: T.DataType) -> None:
        """Check that ids can be compared with those of a model.

        Parameters
        ----------
        user, item : DataType
            The model's.

        Raises
        ------
        ModelError
            They are of another type.
        """
        for side, own, other in zip((USER, ITEM), self.id_types, (user, item), strict=True):
            if own != other:
                raise ModelError(
                    f"the {side}s of the packed histories are {own.simpleString()}, and the model's "
                    f"{other.simpleString()}: pack them with the type of the model's"
                )

    def save(self, folder: str) -> int:
        """Write the payloads as Parquet, for :func:`read_histories` in another process.

        Parameters
        ----------
        folder : str
            Path or URI; what is there is replaced.

        Returns
        -------
        int
            Number of buckets that have users.
        """
        self.packed.write.parquet(folder, mode="overwrite", compression="zstd")
        return self.packed.count()

    def unpersist(self) -> None:
        """Release the payloads."""
        self.packed.unpersist()


def pack_histories(ratings: DataFrame, rows: int) -> PackedHistories:
    """Pack ratings by user. One shuffle, when they are first used.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` (of one of the types of ids, not null), ``rating``, ``timestamp``, and ``part``,
        one of :data:`PARTS`; the last three may be null. One row per (user, item).
    rows : int
        Their number, or more: a task packs about ``2**22`` of them, whatever their number.

    Returns
    -------
    PackedHistories
        Of all ratings, persisted in memory, and on disk where that is short.

    Raises
    ------
    ModelError
        Ids are of another type. When the ratings are read, Spark raises for a null id and an unknown part.

    Examples
    --------
    >>> from recsys_spark import PopularityRecommender
    >>> from recsys_spark.histories import pack_histories
    >>> rows = [("ann", "tea", "train"), ("bob", "tea", "train"), ("ann", "jam", "test")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string, part string")
    >>> histories = pack_histories(ratings.selectExpr("*", "1.0 AS rating", "now() AS timestamp"), rows=3)
    >>> PopularityRecommender().fit(histories.of("train")).scores.show()
    +---+-----+
    | id|score|
    +---+-----+
    |tea|  2.0|
    +---+-----+
    <BLANKLINE>
    """
    user, item = id_types = ratings.schema[USER].dataType, ratings.schema[ITEM].dataType
    for name, kind in ((USER, user), (ITEM, item)):
        if kind not in (T.IntegerType(), T.LongType(), T.StringType()):
            raise ModelError(f"column {name!r} is {kind.simpleString()}: cast ids to int, bigint or string")
    buckets = power_of_two(rows / BUCKET_ROWS)
    tasks = min(buckets, power_of_two(rows / TASK_ROWS))
    place = F.coalesce(F.array_position(F.array(*map(F.lit, PARTS)), F.col(PART)), F.lit(0)) - 1
    at = F.unix_micros(TIMESTAMP).alias(TIMESTAMP)
    columns = F.col(RATING).cast("double").alias(RATING), at, place.cast("byte").alias(PART)
    sound = F.col(USER).isNotNull() & F.col(ITEM).isNotNull() & (F.col(PART).isNull() | (place >= 0))
    fault = F.concat(
        F.lit("a rating with a null id or an unknown part cannot be packed: "),
        F.to_json(F.struct(USER, ITEM, PART)),
    )
    home = F.when(sound, bucket_of(F.col(USER), buckets)).otherwise(F.raise_error(fault)).alias(_HOME)
    keyed = ratings.select(bucket_of(F.col(USER), tasks), home, USER, ITEM, *columns)
    pieces = keyed.mapInArrow(packing(HISTORY, PACK_ROWS), PACKED).repartitionById(tasks, F.col("bucket"))
    whole = pieces.mapInArrow(_divided, _OF_BUCKETS).persist(StorageLevel.MEMORY_AND_DISK)
    return PackedHistories(whole, buckets, id_types, rows)


def read_histories(
    spark: SparkSession,
    folder: str,
    saved: int,
    buckets: int,
    id_types: tuple[T.DataType, T.DataType],
    size: int,
) -> PackedHistories:
    """What :meth:`PackedHistories.save` wrote. One job, which reads it all.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    folder : str
        Path or URI.
    saved : int
        What :meth:`PackedHistories.save` returned.
    buckets : int
        As :class:`PackedHistories` has it.
    id_types : pair of DataType
        As :class:`PackedHistories` has them.
    size : int
        As :class:`PackedHistories` has it.

    Returns
    -------
    PackedHistories
        Of all ratings, persisted as :func:`pack_histories` does.

    Raises
    ------
    ModelError
        The folder or some of its files are gone, or cannot be read.
    """
    with ExitStack() as undone:
        try:
            packed = spark.read.schema(_OF_BUCKETS).parquet(folder).persist(StorageLevel.MEMORY_AND_DISK)
            undone.callback(packed.unpersist)
            found = packed.count()
        except (PySparkException, Py4JJavaError) as error:
            raise ModelError(
                f"packed histories in {folder} cannot be read ({summary(error)}): pack the ratings again"
            ) from error
        if found != saved:
            raise ModelError(
                f"packed histories in {folder} are of {found:,} buckets, and {saved:,} were written: pack "
                "the ratings again"
            )
        undone.pop_all()
    return PackedHistories(packed, buckets, id_types, size)


def chosen(table: pa.Table, parts: tuple[str, ...] | None) -> pa.Table:
    """The ratings of some parts.

    Parameters
    ----------
    table : pyarrow.Table
        Of a payload.
    parts : tuple of str or None
        None for all.
    """
    if parts is None:
        return table
    wanted = np.zeros(len(PARTS) + 1, bool)
    wanted[[PARTS.index(part) + 1 for part in parts]] = True
    mask = wanted[table[PART].to_numpy() + 1]
    return table if mask.all() else table.filter(pa.array(mask))


def places(ids: pa.DictionaryArray, among: pa.Array) -> Ints:
    """Place of each id among other ids, or -1.

    Parameters
    ----------
    ids : DictionaryArray
        Such as a payload's.
    among : Array
        Distinct ids.
    """
    found = pc.index_in(ids.dictionary.cast(among.type), value_set=among)
    of_ids: Ints = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
    return of_ids[ids.indices.to_numpy()]


def among(ratings: pa.Table, users: pa.DictionaryArray, items: pa.DictionaryArray) -> Booleans:
    """Which (user, item) pairs have a rating.

    Parameters
    ----------
    ratings : pyarrow.Table
        ``user``, ``item``, dictionary-encoded, as a payload has them; sorting is cheap where they ascend.
    users, items : DictionaryArray, of one length
        The pairs, in any order, repeated or not.

    Returns
    -------
    bool array, shape (n_pairs,)
    """
    own_users, own_items = (one_array(ratings[name]) for name in (USER, ITEM))
    width = len(own_items.dictionary)
    rated = np.sort(
        own_users.indices.to_numpy().astype(np.int64) * width + own_items.indices.to_numpy(), kind="stable"
    )
    user, item = places(users, own_users.dictionary), places(items, own_items.dictionary)
    both = np.flatnonzero((user >= 0) & (item >= 0))
    asked = user[both].astype(np.int64) * width + item[both]
    found = np.zeros(len(users), bool)
    found[both] = np.append(rated, -1)[np.searchsorted(rated, asked)] == asked
    return found


def rows_of(ratings: DataFrame | PackedHistories) -> DataFrame:
    """Ratings as rows, however they come; packed ones with ``user``, ``item``, ``rating``, ``timestamp``.

    Parameters
    ----------
    ratings : DataFrame or PackedHistories
        Of any kind.
    """
    if isinstance(ratings, PackedHistories):
        return ratings.rows(USER, ITEM, RATING, TIMESTAMP)
    return ratings


def _payloads(
    batches: Iterator[pa.RecordBatch], parts: tuple[str, ...] | None, columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Some columns of the ratings of some parts, bucket by bucket, from all columns of payloads."""
    for batch in batches:
        for payloads in zip(*batch.columns, strict=True):
            tables = [read_table(payload.as_buffer()) for payload in payloads]
            named = {name: table[name] for table in tables for name in table.column_names}
            yield chosen(pa.table({name: named[name] for name in (*columns, PART)}), parts)


def _divided(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A task's pieces into a payload for each of its buckets."""
    pieces = unpacked(batches).get(HISTORY)
    if pieces is None:
        return
    rows = pa.concat_tables(pieces)
    users, user_codes = encoded_ids(rows[USER])
    items, item_codes = encoded_ids(rows[ITEM])
    homes = np.zeros(len(users), np.int32)
    homes[user_codes] = rows[_HOME].to_numpy()
    # users by bucket, in which they ascend
    by_home = np.argsort(homes, kind="stable")
    place = np.empty(len(users), np.int64)
    place[by_home] = np.arange(len(users))
    users, homes, user_codes = users.take(pa.array(by_home)), homes[by_home], place[user_codes]
    order = np.argsort(user_codes * len(items) + item_codes)
    user_codes, item_codes = user_codes[order], item_codes[order]
    values = rows.select([RATING, TIMESTAMP, PART]).take(pa.array(order)).combine_chunks()
    found, firsts = np.unique(homes, return_index=True)
    bounds = [*firsts.tolist(), len(users)]
    cuts = np.searchsorted(user_codes, bounds).tolist()
    for k, bucket in enumerate(found.tolist()):
        own = slice(cuts[k], cuts[k + 1])
        user = _dictionary(user_codes[own] - bounds[k], users.slice(bounds[k], bounds[k + 1] - bounds[k]))
        listed, codes = numbered(item_codes[own], len(items))
        item = _dictionary(codes, items.take(pa.array(listed)))
        of_bucket = values.slice(own.start, own.stop - own.start)
        narrow = _narrow_ratings(one_array(of_bucket[RATING])), _narrow_times(one_array(of_bucket[TIMESTAMP]))
        pairs = pa.table([user, item, of_bucket[PART]], names=[USER, ITEM, PART])
        payloads = [table_bytes(table) for table in (pairs, pa.table([*narrow], names=[RATING, TIMESTAMP]))]
        row = [pa.array([bucket], pa.int32()), *(pa.array([payload], pa.binary()) for payload in payloads)]
        yield pa.RecordBatch.from_arrays(row, names=["bucket", HISTORY, VALUES])


def _dictionary(codes: Integers, ids: pa.Array) -> pa.DictionaryArray:
    """Ids by their codes, of 16 bits where that is enough."""
    kind = np.uint16 if len(ids) <= 2**16 else np.int32
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(kind)), ids)


def _narrow_ratings(ratings: pa.Array) -> pa.Array:
    """As float32, where all of them are exact in it."""
    narrow = ratings.cast(pa.float32(), safe=False)
    same = pc.equal(narrow.cast(pa.float64()), ratings)
    return ratings if pc.all(same).as_py() is False else narrow


def _narrow_times(micros: pa.Array) -> pa.Array:
    """As seconds, int32, where all of them are whole and in range."""
    seconds = pc.divide(micros, MICROS)
    fits = pc.and_(pc.greater_equal(seconds, -(2**31)), pc.less(seconds, 2**31))
    exact = pc.and_(fits, pc.equal(pc.multiply(seconds, MICROS), micros))
    return micros if pc.all(exact).as_py() is False else seconds.cast(pa.int32())


def plain_column(name: str, column: pa.Array) -> pa.Array:
    """A payload's column as Spark has it.

    Parameters
    ----------
    name : str
        Of the column.
    column : Array
        As :attr:`PackedHistories.packed` describes it.
    """
    if name == RATING:
        return column.cast(pa.float64())
    if name == TIMESTAMP:
        micros = column if column.type == pa.int64() else pc.multiply(column.cast(pa.int64()), MICROS)
        return micros.cast(pa.timestamp("us", "UTC"))
    if name == PART:
        return pa.array([*PARTS, None], pa.string()).take(pc.if_else(pc.less(column, 0), len(PARTS), column))
    return column.cast(column.type.value_type)


def _counted_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Ratings and users of each part, payload by payload."""
    for table in _payloads(batches, None, [USER]):
        users, parts = one_array(table[USER]).indices.to_numpy(), table[PART].to_numpy()
        places = distinct(parts)
        ratings = [np.count_nonzero(parts == place) for place in places]
        different = [np.count_nonzero(np.bincount(users[parts == place])) for place in places]
        columns = [
            pa.array(places, pa.int8()),
            pa.array(ratings, pa.int64()),
            pa.array(different, pa.int64()),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=[PART, "ratings", "users"])
