"""Which of the items that users' lists hold are relevant: what every ranking metric is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.errors import ModelError
from recsys_spark.recommend.top_n import RECOMMENDATIONS
from recsys_spark.schema import ITEM, USER

RELEVANT = "relevant"


def with_lists(
    lists: Mapping[str, DataFrame], relevant: DataFrame, filling: DataFrame | None = None
) -> DataFrame:
    """Each user's held-out items beside the lists of several models. One shuffle of all frames.

    Parameters
    ----------
    lists : mapping of DataFrame
        Model name → ``id`` (user) and ``recommendations``, best first. An item counts at its first place, and
        of several lists of a user one counts.
    relevant : DataFrame
        ``id``, unique, and ``items``: held-out ones, with ids of the types of the training data; no row for a
        user without any.
    filling : DataFrame, optional
        Lists of the same shape whose items follow each model's own, as what is served is filled up.

    Returns
    -------
    DataFrame
        One row per user of ``relevant``: ``id``, ``relevant`` and, in the order of the models, ``list0``,
        ``list1`` and so on: arrays of items, null where a model has no list.
    """
    kinds = _id_types_of_lists(relevant)
    described = [(f"lists of {name}", frame) for name, frame in lists.items()]
    if filling is not None:
        described.append(("what fills the lists", filling))
    # a frame that several models share is read once
    columns: dict[int, str] = {}
    entries = relevant.select("id", "items", F.lit(RELEVANT).alias("column"))
    for what, frame in described:
        if id(frame) in columns:
            continue
        column = columns[id(frame)] = f"items{len(columns)}"
        listed = frame.select("id", F.col(f"{RECOMMENDATIONS}.{ITEM}").alias("items"))
        require_id_types(what, kinds, _id_types_of_lists(listed))
        # an item counts at its first place
        items = F.array_distinct(F.col("items").try_cast(T.ArrayType(kinds[ITEM])))
        user = F.col("id").try_cast(kinds[USER]).alias("id")
        entries = entries.unionByName(
            listed.select(user, items.alias("items"), F.lit(column).alias("column"))
        )
    # and a user once
    arrays = [
        F.min(F.when(F.col("column") == name, F.col("items"))).alias(name)
        for name in (RELEVANT, *columns.values())
    ]
    rows = entries.groupBy("id").agg(*arrays).where(F.col(RELEVANT).isNotNull())
    of_models = [
        _filled(columns[id(frame)], None if filling is None else columns[id(filling)]).alias(f"list{index}")
        for index, frame in enumerate(lists.values())
    ]
    return rows.select("id", RELEVANT, *of_models)


def by_user(pairs: DataFrame) -> DataFrame:
    """Pairs as lists: ``id``, ``items``, without repetitions. One shuffle.

    Parameters
    ----------
    pairs : DataFrame
        ``user``, ``item``.
    """
    return pairs.groupBy(F.col(USER).alias("id")).agg(F.collect_set(ITEM).alias("items"))


def _id_types_of_lists(lists: DataFrame) -> dict[str, T.DataType]:
    return {USER: lists.schema["id"].dataType, ITEM: lists.schema["items"].dataType.elementType}  # type: ignore[attr-defined]


def _filled(column: str, filling: str | None) -> Column:
    """A list, and then the items of what fills it that are not in it."""
    own = F.col(column)
    if filling in (None, column):
        return own
    more = F.col(filling)
    return (
        F.when(own.isNull(), more)
        .when(more.isNull(), own)
        .otherwise(F.concat(own, F.array_except(more, own)))
    )


def id_types(pairs: DataFrame) -> dict[str, T.DataType]:
    """Types of the columns ``user`` and ``item``.

    Parameters
    ----------
    pairs : DataFrame
        ``user``, ``item``.
    """
    return {side: pairs.schema[side].dataType for side in (USER, ITEM)}


def require_id_types(what: str, kinds: Mapping[str, T.DataType], found: Mapping[str, T.DataType]) -> None:
    """Raise ``ModelError`` for ids that are texts where those of the training data are numbers, or the other
    way round: nothing would be found.

    Parameters
    ----------
    what : str
        Whose ids were found.
    kinds, found : mapping
        ``user`` and ``item`` → type: as the training data has it, and as it was found.
    """
    for side, kind in kinds.items():
        if isinstance(kind, T.StringType) != isinstance(found[side], T.StringType):
            raise ModelError(
                f"the {side}s of {what} are {found[side].simpleString()}, and those of train "
                f"{kind.simpleString()}: cast one of them"
            )


def hits_at_ranks(relevant: pa.Array, listed: pa.Array, ids: pa.Array, length: int) -> tuple[Any, ...]:
    """Which ranks of each user's list hold a relevant item.

    Parameters
    ----------
    relevant, listed : list arrays of ids, length n_users
        Held-out items, and recommended ones, best first; null for no list.
    ids : array of ids
        The items that are looked for; others are never hits.
    length : int
        Ranks of each list.

    Returns
    -------
    hits : bool array, shape (n_users, length)
        Whether the item at a rank is relevant.
    n_relevant : int64 array, shape (n_users,)
        Relevant items of each user, those that are not among ``ids`` too.
    items : int64 array, shape (n_users, length)
        Position in ``ids`` of the item at a rank; -1 for another item, and beyond a list's end.
    """
    sizes, positions = _positions(listed, ids)
    # a user's first ``length`` entries: the lists are short, and a user may have any number of relevant items
    ranks = np.arange(len(positions)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows, kept = np.repeat(np.arange(len(sizes)), sizes), ranks < length
    items = np.full((len(sizes), length), -1, np.int64)
    items[rows[kept], ranks[kept]] = positions[kept]
    n_relevant, positions = _positions(relevant, ids)
    # one number for each (user, item), so that one look-up serves all users
    pairs = np.arange(len(sizes)) * (len(ids) + 1)
    relevant_pairs = (positions + np.repeat(pairs, n_relevant))[positions >= 0]
    listed_pairs = pa.array((items + pairs[:, None]).ravel())
    hits = np.asarray(pc.is_in(listed_pairs, value_set=pa.array(relevant_pairs))).reshape(items.shape)
    return hits & (items >= 0), n_relevant, items


def _positions(lists: pa.Array, ids: pa.Array) -> tuple[Any, Any]:
    """Sizes of lists of ids, and the positions in ``ids`` of all entries, int64, -1 for an unknown id."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    found = pc.fill_null(pc.index_in(lists.flatten(), value_set=ids), -1)
    return sizes.astype(np.int64), found.to_numpy(zero_copy_only=False).astype(np.int64)
