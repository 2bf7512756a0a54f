"""Users' histories beside the whole catalogue: what each task holds while it trains by gradients.

Users stay with the tasks that own them; the catalogue is the same in every task. How ids are numbered is in
:mod:`recsys_spark.training.ownership`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Floats, Hashes, Integers, Ints, Longs
from recsys_spark.kernels.events import sort_events
from recsys_spark.kernels.sets import distinct
from recsys_spark.packing import ids_from_bytes, ids_to_bytes, one_array, table_from_bytes, tables_to_bytes
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.group import Group
from recsys_spark.training.ownership import (
    balanced_owners,
    buckets_of,
    number_ids,
    register,
    send_to_owners,
    user_owners,
)
from recsys_spark.training.side_features import Features


@dataclass(frozen=True)
class Histories:
    """One task's users with their items, and the whole catalogue.

    Attributes
    ----------
    ids, id_hashes : own users in order of position, and their hashes
    indptr, items, ratings : their events as compressed rows, items ascending; positions in the catalogue. No
        row is empty
    catalogue : ids of all tasks' items, in order of position; the same in every task
    counts : int64 array, shape (n_items,): events of each item, in all tasks
    user_features, item_features : of the own users, and of the catalogue
    """

    ids: pa.Array
    id_hashes: Hashes
    indptr: Longs
    items: Ints
    ratings: Floats
    catalogue: pa.Array
    counts: Longs
    user_features: Features
    item_features: Features


def build_histories(group: Group, events: pa.Table, explicit: bool = False) -> Histories:
    """Number the ids and lay out the users' side, for programs that hold the catalogue in every task.

    Parameters
    ----------
    group, events : as in :func:`recsys_spark.training.interactions.prepare`
    explicit : keep every row; otherwise rows with a rating of 0 or less are ignored, and a pair counts once

    Returns
    -------
    Histories
        Without features; all ratings are 1 unless ``explicit``.

    Notes
    -----
    Every task holds the catalogue: ``n_items * (8 + id)`` bytes, and 8 bytes for each of its events.
    """
    if not explicit:
        events = positive(events)
    user_ids, user_codes = number_ids(events[USER])
    item_ids, item_codes = number_ids(events[ITEM])
    owners = balanced_owners(
        group, buckets_of(hash_ids(item_ids)), np.bincount(item_codes, minlength=len(item_ids))
    )
    own, positions, starts = register(group, item_ids, owners)
    catalogue = pa.concat_arrays([ids_from_bytes(part) for part in group.all_gather(ids_to_bytes(own))])
    ratings = events[RATING].to_numpy().astype(np.float32, copy=False)
    indptr, columns, ratings = sort_events(user_codes, item_codes, ratings, len(user_ids), len(item_ids))
    if not explicit:
        indptr, columns = _once(indptr, columns)
        ratings = np.ones(len(columns), np.float32)
    items = positions[columns].astype(np.int32)
    counts = group.all_reduce(np.bincount(items, minlength=int(starts[-1])))
    no_features = Features.none(len(user_ids)), Features.none(len(catalogue))
    return Histories(user_ids, hash_ids(user_ids), indptr, items, ratings, catalogue, counts, *no_features)


def positive(events: pa.Table) -> pa.Table:
    """Events with a rating above 0, without the ids that none of them has."""
    events = events.filter(pc.greater(events[RATING], 0.0))
    for index, name in enumerate((USER, ITEM)):
        encoded = events[name].cast(events[name].type.value_type).dictionary_encode()
        events = events.set_column(index, name, encoded)
    return events


def _once(indptr: Longs, columns: Ints) -> tuple[Longs, Ints]:
    """Compressed rows without repeated columns, which stand beside each other."""
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    return np.searchsorted(rows[first], np.arange(len(indptr))).astype(np.int64), columns[first]


def distinct_pairs(rows: Integers, items: Integers, n_items: int) -> tuple[Longs, Longs, Ints]:
    """Distinct (row, item) pairs as compressed rows, items ascending; an item of -1 is none.

    Returns
    -------
    rows : those that have an item, ascending
    indptr, items : of them
    """
    keys = distinct((rows.astype(np.int64) * max(1, n_items) + items)[items >= 0])
    distinct_rows, starts = np.unique(keys // max(1, n_items), return_index=True)
    return (
        distinct_rows,
        np.append(starts, len(keys)).astype(np.int64),
        (keys % max(1, n_items)).astype(np.int32),
    )


def gather_features(group: Group, ids: pa.Array, entries: Sequence[pa.Table], owned: bool) -> Features:
    """Features of ``ids`` from entries that come in any task; names are those that some id of some task has.

    Parameters
    ----------
    entries : ``id``, ``names``, ``weights``
    owned : each task has its own users; otherwise ``ids`` are the same in every task, and each receives all
        entries
    """
    if owned:
        received = send_to_owners(group, entries, "id", user_owners(group.size))
    else:
        received = group.all_gather(tables_to_bytes(entries))
    return features_among(group, ids, table_from_bytes(received))


def features_among(group: Group, ids: pa.Array, received: pa.Table | None) -> Features:
    """Features of ``ids`` from what this task has received; names are those that some id of some task has.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    ids : pyarrow.Array
        Of this task.
    received : pyarrow.Table or None
        ``id``, ``names``, ``weights``.
    """
    if not group.all_reduce(np.array([received is not None], np.int64))[0]:
        return Features.none(len(ids))
    if received is None:
        no_lists = pa.array([], pa.list_(pa.string())), pa.array([], pa.list_(pa.float32()))
        known = pa.table([ids.slice(0, 0), *no_lists], names=["id", "names", "weights"])
    else:
        known = received.filter(pc.is_in(one_array(received["id"]).cast(ids.type), value_set=ids))
    own = pc.unique(one_array(known["names"]).flatten())
    names = pc.unique(
        pa.concat_arrays([ids_from_bytes(part) for part in group.all_gather(ids_to_bytes(own))])
    )
    return Features.build(ids, known, names.take(pc.sort_indices(names)))
