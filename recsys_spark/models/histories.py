"""Users' histories beside the whole catalogue: what the tasks hold that train by gradients.

Users stay with the tasks that own them; the catalogue is the same in every task. See :mod:`recsys_spark.models.interactions` for
how ids are numbered inside a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.collectives import Group
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.events import Floats, Ints, Longs, sort_events
from recsys_spark.kernels.randomness import Words
from recsys_spark.models.interactions import (
    balanced,
    buckets_of,
    from_bytes,
    numbered,
    owner_of_ids,
    owners_of_users,
    register,
    to_bytes,
)
from recsys_spark.models.side_features import Features
from recsys_spark.packing import one_array, table_bytes


@dataclass(frozen=True)
class Histories:
    """One task's users with the items of theirs, and the whole catalogue.

    Attributes
    ----------
    ids, words : own users in order of position, and their hashes
    indptr, items, ratings : their events as compressed rows, items ascending; positions in the catalogue. No row is empty
    catalogue : ids of all tasks' items, in order of position; the same in every task
    counts : int64 array, shape (n_items,): events of each item, in all tasks
    user_features, item_features : of the own users, and of the catalogue
    """

    ids: pa.Array
    words: Words
    indptr: Longs
    items: Ints
    ratings: Floats
    catalogue: pa.Array
    counts: Longs
    user_features: Features
    item_features: Features


def histories(group: Group, events: pa.Table, explicit: bool = False) -> Histories:
    """Number the ids and lay out the users' side, for programs that hold the catalogue in every task.

    Parameters
    ----------
    group, events : as in :func:`prepare`
    explicit : keep every row; otherwise rows with a rating of 0 or less are passed over, and a pair counts once

    Returns
    -------
    Histories
        Without features; all ratings are 1 unless ``explicit``.

    Notes
    -----
    Every task holds the catalogue: ``n_items * (8 + id)`` bytes, and 8 bytes for each of its events.
    """
    if not explicit:
        events = events.filter(pc.greater(events["rating"], 0.0))
        for at, name in enumerate(("user", "item")):  # without the ids that nothing is left of
            kept = events[name].cast(events[name].type.value_type).dictionary_encode()
            events = events.set_column(at, name, kept)
    user_ids, user_codes = numbered(events["user"])
    item_ids, item_codes = numbered(events["item"])
    owners = balanced(group, buckets_of(hash_ids(item_ids)), np.bincount(item_codes, minlength=len(item_ids)))
    own, positions, starts = register(group, item_ids, owners)
    catalogue = pa.concat_arrays([from_bytes(part) for part in group.all_gather(to_bytes(own))])
    ratings = events["rating"].to_numpy().astype(np.float32, copy=False)
    indptr, columns, ratings = sort_events(user_codes, item_codes, ratings, len(user_ids), len(item_ids))
    if not explicit:
        rows = np.repeat(np.arange(len(user_ids)), np.diff(indptr))
        first = np.ones(len(rows), bool)
        first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
        indptr = np.searchsorted(rows[first], np.arange(len(user_ids) + 1)).astype(np.int64)
        columns, ratings = columns[first], np.ones(int(first.sum()), np.float32)
    items = positions[columns].astype(np.int32)
    counts = group.all_reduce(np.bincount(items, minlength=int(starts[-1])))
    nothing = Features.none(len(user_ids)), Features.none(len(catalogue))
    return Histories(user_ids, hash_ids(user_ids), indptr, items, ratings, catalogue, counts, *nothing)


def distinct_pairs(rows: npt.NDArray[np.integer], items: npt.NDArray[np.integer], n_items: int) -> tuple[Longs, Longs, Ints]:
    """Distinct (row, item) pairs as compressed rows, items ascending; an item of -1 is none.

    Returns
    -------
    rows : those that have an item, ascending
    indptr, items : of them
    """
    known = np.unique((rows.astype(np.int64) * max(1, n_items) + items)[items >= 0])
    found, starts = np.unique(known // max(1, n_items), return_index=True)
    return found, np.append(starts, len(known)).astype(np.int64), (known % max(1, n_items)).astype(np.int32)


def features_of(group: Group, ids: pa.Array, entries: Sequence[pa.Table], owned: bool) -> Features:
    """Features of ``ids`` from entries that come in any task; names are those that some id of some task has.

    Parameters
    ----------
    entries : ``id``, ``names``, ``weights``
    owned : each task has its own users; otherwise ``ids`` are the same in every task, and each receives all entries
    """
    whole = table_of(to_owners(group, entries, "id") if owned else group.all_gather(table_to_bytes(entries)))
    if not group.all_reduce(np.array([whole is not None], np.int64))[0]:
        return Features.none(len(ids))
    if whole is None:
        known = pa.table([ids.slice(0, 0), pa.array([], pa.list_(pa.string())), pa.array([], pa.list_(pa.float32()))],
                         names=["id", "names", "weights"])  # fmt: skip
    else:
        known = whole.filter(pc.is_in(one_array(whole["id"]).cast(ids.type), value_set=ids))
    own = pc.unique(one_array(known["names"]).flatten())
    names = pc.unique(pa.concat_arrays([from_bytes(part) for part in group.all_gather(to_bytes(own))]))
    return Features.of(ids, known, names.take(pc.sort_indices(names)))


def table_to_bytes(tables: Sequence[pa.Table]) -> npt.NDArray[np.uint8]:
    """Tables of one schema as bytes that :func:`table_of` reads; none as none."""
    return np.frombuffer(table_bytes(pa.concat_tables(tables)) if tables else b"", np.uint8)


def to_owners(group: Group, tables: Sequence[pa.Table], column: str) -> list[npt.NDArray[np.uint8]]:
    """Send each row to the task that owns its user, whose id is in ``column``; gives what came here, as bytes."""
    if not tables:
        return group.all_to_all([table_to_bytes([])] * group.size)
    whole = pa.concat_tables(tables)
    owners = owner_of_ids(one_array(whole[column]), owners_of_users(group.size))
    return group.all_to_all([table_to_bytes([whole.filter(pa.array(owners == task))]) for task in range(group.size)])


def table_of(parts: Sequence[npt.NDArray[np.uint8]]) -> pa.Table | None:
    """One table of what :func:`table_to_bytes` made in several tasks; None if none of them had any."""
    tables = [pa.ipc.open_stream(pa.py_buffer(part)).read_all() for part in parts if len(part)]
    return pa.concat_tables(tables) if tables else None
