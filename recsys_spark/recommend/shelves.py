"""Lists of several shelves, such as one for each genre, taken apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from recsys_spark.packing import one_array, plain
from recsys_spark.recommend.top_n import REASON, RECOMMENDATIONS
from recsys_spark.schema import ITEM, RANK, SCORE, SHELF, USER


def by_shelf(lists: DataFrame, shelves: DataFrame, n: int) -> DataFrame:
    """The first ``n`` items of each shelf in each user's list.

    Parameters
    ----------
    lists : DataFrame
        ``id``, unique, and ``recommendations``, best first, of a
        :class:`~recsys_spark.recommend.top_n.ListRequest` for these shelves.
    shelves : DataFrame
        ``item``, of the type that the lists have, and ``shelf`` string, distinct.
    n : int
        Length of a shelf's list, at least 1.

    Returns
    -------
    DataFrame
        One row per (user, shelf, rank): ``user``, ``shelf``, ``rank`` int from 1, ``item``, ``score``, and
        ``reason`` where entries have it. The shelves are broadcast; no shuffle.

    Examples
    --------
    >>> from recsys_spark.recommend.shelves import by_shelf
    >>> schema = "id string, recommendations array<struct<item:string,score:float>>"
    >>> lists = spark.createDataFrame([("ann", [("tea", 0.9), ("cup", 0.5), ("milk", 0.4)])], schema)
    >>> rows = [("tea", "drinks"), ("milk", "drinks"), ("milk", "cold"), ("cup", "china")]
    >>> by_shelf(lists, spark.createDataFrame(rows, "item string, shelf string"), 2).show()
    +----+------+----+----+-----+
    |user| shelf|rank|item|score|
    +----+------+----+----+-----+
    | ann| china|   1| cup|  0.5|
    | ann|  cold|   1|milk|  0.4|
    | ann|drinks|   1| tea|  0.9|
    | ann|drinks|   2|milk|  0.4|
    +----+------+----+----+-----+
    <BLANKLINE>
    """
    entry: T.StructType = lists.schema[RECOMMENDATIONS].dataType.elementType  # type: ignore[attr-defined]
    fields = {USER: lists.schema["id"].dataType, SHELF: T.StringType(), RANK: T.IntegerType()}
    told = [name for name in (ITEM, SCORE, REASON) if name in entry.names]
    fields |= {name: entry[name].dataType for name in told}
    members = shelves.select(ITEM, SHELF).toArrow().combine_chunks().sort_by(SHELF)
    shared = lists.sparkSession.sparkContext.broadcast(members)

    def taken_apart(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        items, names = one_array(shared.value[ITEM]), one_array(shared.value[SHELF]).dictionary_encode()
        known, of_shelf = items.unique(), np.asarray(names.indices)
        places = np.asarray(pc.index_in(items, value_set=known))
        rows_of = np.argsort(places, kind="stable")  # an item's rows of ``shared``, by shelf
        starts = np.searchsorted(places[rows_of], np.arange(len(known) + 1))
        for batch in map(plain, batches):
            lengths = pc.fill_null(pc.list_value_length(batch[RECOMMENDATIONS]), 0).to_numpy()
            entries = batch[RECOMMENDATIONS].flatten()
            item = np.asarray(pc.index_in(pc.struct_field(entries, ITEM), value_set=known))
            times = starts[item + 1] - starts[item]
            of_entry = np.repeat(np.arange(len(entries)), times)  # ascending: best first for each user
            nth = np.arange(len(of_entry)) - np.repeat(np.cumsum(times) - times, times)
            shelf = of_shelf[rows_of[np.repeat(starts[item], times) + nth]]
            user = np.repeat(np.arange(batch.num_rows), lengths)[of_entry]
            order = np.lexsort((of_entry, shelf, user))
            user, shelf, of_entry = user[order], shelf[order], of_entry[order]
            begins = np.flatnonzero(np.diff(user, prepend=-1) | np.diff(shelf, prepend=-1))
            rank = np.arange(1, len(user) + 1) - np.repeat(begins, np.diff(begins, append=len(user)))
            kept = rank <= n
            listed = entries.take(pa.array(of_entry[kept]))
            columns = [
                batch["id"].take(pa.array(user[kept])),
                names.dictionary.take(pa.array(shelf[kept])),
                pa.array(rank[kept].astype(np.int32)),
                *(pc.struct_field(listed, name) for name in told),
            ]
            yield pa.RecordBatch.from_arrays(columns, names=list(fields))

    schema = T.StructType([T.StructField(name, kind) for name, kind in fields.items()])
    return lists.mapInArrow(taken_apart, schema)
