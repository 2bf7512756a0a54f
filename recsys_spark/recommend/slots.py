"""Lists some of whose slots are pinned, or drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.kernels.randomness import uniform
from recsys_spark.kernels.slots import Entries, Slot, fill_slots
from recsys_spark.packing import plain
from recsys_spark.recommend.top_n import RECOMMENDATIONS
from recsys_spark.schema import ITEM, PROPENSITY, RANK, REASON, SCORE, USER

MODEL = "model"
_OWN, _KEY = "own", "key"
_ENTRY = (ITEM, SCORE, MODEL, REASON)


class Pool(NamedTuple):
    """What a slot's item is chosen from.

    Attributes
    ----------
    lists : DataFrame
        ``id``, unique, and ``recommendations``, best first: of the same types as the rows' ids.
    model, reason : str
        What rows say that it has filled.
    """

    lists: DataFrame
    model: str
    reason: str


def with_slots(
    rows: DataFrame, pools: Sequence[Pool], slots: Sequence[Slot], n: int, seed: int, day: int
) -> DataFrame:
    """Lists with their slots filled as :mod:`recsys_spark.kernels.slots` says.

    Parameters
    ----------
    rows : DataFrame
        One row per (user, rank): ``user``, ``item``, ``score``, ``rank``, ``model``, ``reason``.
    pools : sequence of Pool
        Of the same users; who has no rows gets a list of pins.
    slots : sequence of Slot
        Which, of different ranks, and from which pool.
    n : int
        Length of the lists.
    seed, day : int
        What draws depend on, beside the user and the rank.

    Returns
    -------
    DataFrame
        The rows' columns, and ``propensity`` double: with which probability the row's item was to be in its
        slot, null where none is drawn. One shuffle of rows and pools.
    """
    kinds = {name: rows.schema[name].dataType for name in (USER, ITEM, SCORE)}
    kinds |= {RANK: T.IntegerType(), MODEL: T.StringType(), REASON: T.StringType()}
    kinds[PROPENSITY] = T.DoubleType()
    schema = T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])
    names, told = list(kinds), [(pool.model, pool.reason) for pool in pools]
    of_users = _side_by_side(rows, [pool.lists for pool in pools]).withColumn(_KEY, F.xxhash64(USER))
    given_away, ranks = list(slots), np.array([slot.rank for slot in slots])

    def fill(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in map(plain, batches):
            entries = _entries(batch, told)
            own, *of_pools = _by_list(batch, entries[ITEM])
            draws = uniform(seed, day, batch[_KEY].to_numpy()[:, None], ranks)
            filled = fill_slots(own, of_pools, given_away, draws, n)
            lists, places = np.nonzero(filled.entries >= 0)
            taken = pa.array(filled.entries[lists, places])
            columns = {name: column.take(taken) for name, column in entries.items()}
            columns[USER] = batch[USER].take(pa.array(lists))
            columns[RANK] = pa.array((places + 1).astype(np.int32))
            columns[PROPENSITY] = pa.array(filled.propensities[lists, places], from_pandas=True)
            yield pa.RecordBatch.from_arrays([columns[name] for name in names], names=names)

    return of_users.mapInArrow(fill, schema)


def _side_by_side(rows: DataFrame, pools: Sequence[DataFrame]) -> DataFrame:
    """One row per user: ``user``, ``own``, the entries in the order of ranks, and those of each pool."""
    user, entry = rows.schema[USER].dataType, F.struct(RANK, *_ENTRY)
    listed = rows.select(F.array(F.struct(ITEM, SCORE)).alias("listed")).schema["listed"].dataType
    given = rows.select(USER, F.lit(_OWN).alias("source"), entry.alias("entry"), _null(listed, "listed"))
    for number, lists in enumerate(pools):
        entries = F.transform(
            RECOMMENDATIONS, lambda one: F.struct(one[ITEM].alias(ITEM), one[SCORE].alias(SCORE))
        )
        given = given.unionByName(
            lists.select(
                F.col("id").cast(user).alias(USER),
                F.lit(_name(number)).alias("source"),
                _null(given.schema["entry"].dataType, "entry"),
                entries.cast(listed).alias("listed"),
            )
        )
    columns = [
        F.max(F.when(F.col("source") == _name(number), F.col("listed"))).alias(_name(number))
        for number in range(len(pools))
    ]
    return given.groupBy(USER).agg(F.sort_array(F.collect_list("entry")).alias(_OWN), *columns)


def _entries(batch: pa.RecordBatch, told: Sequence[tuple[str, str]]) -> dict[str, pa.Array]:
    """Columns of the lists' own entries and then those of each pool, with what is ``told`` of it."""
    own, flat = batch[_OWN].flatten(), [batch[_name(number)].flatten() for number in range(len(told))]
    columns = {
        name: pa.concat_arrays([pc.struct_field(one, name) for one in (own, *flat)]) for name in (ITEM, SCORE)
    }
    for place, name in enumerate((MODEL, REASON)):
        of_pools = (pa.repeat(of_pool[place], len(one)) for of_pool, one in zip(told, flat, strict=True))
        columns[name] = pa.concat_arrays([pc.struct_field(own, name), *of_pools])
    return columns


def _by_list(batch: pa.RecordBatch, items: pa.Array) -> list[Entries]:
    """The same entries, as numbers of their ``items``, by list: the own ones, and those of each pool."""
    codes, found, first = items.dictionary_encode().indices.to_numpy(), list[Entries](), 0
    for name in batch.schema.names:
        if name not in (USER, _KEY):
            lengths = pc.fill_null(batch[name].value_lengths(), 0).to_numpy()
            starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            found.append(Entries(codes[first : first + starts[-1]], starts))
            first += int(starts[-1])
    return found


def _null(kind: T.DataType, name: str) -> Column:
    return F.lit(None).cast(kind).alias(name)


def _name(pool: int) -> str:
    return f"pool {pool}"
