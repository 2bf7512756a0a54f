"""Candidates: what several retrievers list for each user, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.kernels.candidates import Candidates, Retrieved, merged
from recsys_spark.packing import encoded_ids, plain
from recsys_spark.recommend.top_n import RECOMMENDATIONS
from recsys_spark.schema import ITEM, RANK, SCORE, USER


class Found(NamedTuple):
    """Candidates of a batch of users.

    Attributes
    ----------
    items : distinct ids, ascending
    candidates : of the batch's rows, whose items are places among them
    """

    items: pa.Array
    candidates: Candidates

    def ids(self) -> pa.Array:
        """The candidates' items."""
        return self.items.take(pa.array(self.candidates.items))

    def places(self, among: pa.Array) -> np.ndarray:
        """Place of each candidate's item among other ids, or -1.

        Parameters
        ----------
        among : Array
            Distinct ids.
        """
        place = pc.fill_null(pc.index_in(self.items, value_set=among), -1)
        return np.asarray(place.to_numpy(zero_copy_only=False))[self.candidates.items]


def side_by_side(lists: Mapping[str, DataFrame], users: DataFrame) -> DataFrame:
    """Users with a column for each retriever's list: ``list0`` and so on. A shuffle of each frame.

    Parameters
    ----------
    lists : mapping of str to DataFrame
        Retriever → ``id``, ``recommendations``, as the top-N engine returns them.
    users : DataFrame
        ``id``, unique, and anything else.
    """
    for place, one in enumerate(lists.values()):
        users = users.join(one.select("id", F.col(RECOMMENDATIONS).alias(f"list{place}")), "id", "left")
    return users


def found_in(batch: pa.RecordBatch, retrievers: int) -> Found:
    """The union of a batch's lists.

    Parameters
    ----------
    batch : RecordBatch
        Of :func:`side_by_side`.
    retrievers : int
        How many lists there are.
    """
    columns = [batch[f"list{place}"] for place in range(retrievers)]
    flat = [column.flatten() for column in columns]
    of_entries = pa.chunked_array([pc.struct_field(one, ITEM) for one in flat])
    items, codes = encoded_ids(of_entries)
    lists, start = list[Retrieved](), 0
    for column, entries in zip(columns, flat, strict=True):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        scores = np.asarray(pc.struct_field(entries, SCORE), np.float32)
        lists.append(Retrieved(indptr, codes[start : start + len(entries)].astype(np.int32), scores))
        start += len(entries)
    return Found(items, merged(lists, len(items)))


def candidates(lists: Mapping[str, DataFrame]) -> DataFrame:
    """What several retrievers list for each user, as rows.

    Parameters
    ----------
    lists : mapping of str to DataFrame
        Retriever → its lists: ``id``, unique, and ``recommendations``, best first, as
        :meth:`RecommenderModel.recommend_lists <recsys_spark.models.base.RecommenderModel.recommend_lists>`
        returns them; with ids of one type.

    Returns
    -------
    DataFrame
        One row per (user, item) that any of them lists: ``user``, ``item``, and for each retriever
        ``<name>_score`` float and ``<name>_rank`` int, from 1: null where it does not list the item. A
        shuffle of one row for each user and retriever.

    Raises
    ------
    ModelError
        There is no retriever, or ids are of several types.

    Examples
    --------
    >>> from recsys_spark.recommend.candidates import candidates
    >>> schema = "id string, recommendations array<struct<item:string,score:float>>"
    >>> als = spark.createDataFrame([("ann", [("tea", 0.9), ("jam", 0.5)])], schema)
    >>> popular = spark.createDataFrame([("ann", [("rusk", 7.0), ("tea", 3.0)])], schema)
    >>> candidates({"als": als, "popular": popular}).orderBy("item").show()
    +----+----+---------+--------+-------------+------------+
    |user|item|als_score|als_rank|popular_score|popular_rank|
    +----+----+---------+--------+-------------+------------+
    | ann| jam|      0.5|       2|         NULL|        NULL|
    | ann|rusk|     NULL|    NULL|          7.0|           1|
    | ann| tea|      0.9|       1|          3.0|           2|
    +----+----+---------+--------+-------------+------------+
    <BLANKLINE>
    """
    names = list(lists)
    user, item = _id_types(lists)
    every = lists[names[0]].select("id")
    for name in names[1:]:
        every = every.unionByName(lists[name].select("id"))

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in map(plain, batches):
            found = found_in(batch, len(names))
            yield pa.RecordBatch.from_arrays(
                [
                    batch["id"].take(pa.array(found.candidates.users)),
                    found.ids(),
                    *_columns(found.candidates),
                ],
                names=[USER, ITEM, *columns],
            )

    columns = [f"{name}_{what}" for name in names for what in (SCORE, RANK)]
    kinds = [user, item, *[T.FloatType(), T.IntegerType()] * len(names)]
    fields = [T.StructField(name, kind) for name, kind in zip([USER, ITEM, *columns], kinds, strict=True)]
    return side_by_side(lists, every.distinct()).mapInArrow(rows, T.StructType(fields))


def _columns(found: Candidates) -> list[pa.Array]:
    """Scores and ranks of each retriever."""
    made = []
    for column in range(found.scores.shape[1]):
        missing = np.isnan(found.ranks[:, column])
        made.append(pa.array(found.scores[:, column], mask=missing))
        made.append(pa.array(np.nan_to_num(found.ranks[:, column]).astype(np.int32), mask=missing))
    return made


def _id_types(lists: Mapping[str, DataFrame]) -> Sequence[T.DataType]:
    """Types of the ids of users and items."""
    kinds = {
        (one.schema["id"].dataType, one.schema[RECOMMENDATIONS].dataType.elementType[ITEM].dataType)  # type: ignore[attr-defined]
        for one in lists.values()
    }
    if len(kinds) != 1:
        told = " and ".join(sorted({f"{user.simpleString()}, {item.simpleString()}" for user, item in kinds}))
        raise ModelError(
            f"candidates need lists of at least one model, with ids of one type, got {told or 'none'}"
        )
    return kinds.pop()
