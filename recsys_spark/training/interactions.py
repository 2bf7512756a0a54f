"""Each task's share of the interactions, by user and by item, in compressed rows.

How a share is made::

    rows (user, item, rating) ─pack─▶ payloads by user's task ─shuffle─▶ task: its users' events
        its distinct items ──ask owners──▶ positions          users side: CSR (own users × items it needs)
        its events ──all to all, by item's owner──▶           items side: CSR (own items × users it needs)
        columns ──ask owners once──▶ which of its rows each task sends to each other (``rows_to_send``)

A row with more than ``HEAVY_EVENTS`` events (a user with a million items) is in neither CSR: each of its
events stays with the owner of its column, so that all tasks share its work and none needs all its columns
(:class:`Heavy`). How ids are numbered is in :mod:`recsys_spark.training.ownership`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Booleans, Floats, Hashes, Integers, Ints, Longs
from recsys_spark.kernels.events import group_events, sort_events
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.group import Group
from recsys_spark.training.ownership import (
    balanced_owners,
    bucket_rows,
    buckets_of,
    first_positions,
    number_ids,
    register,
    user_owners,
)

HEAVY_EVENTS = 2**17
"""Events of a row that one task works on alone; a row with more is shared by all."""


@dataclass(frozen=True)
class Heavy:
    """The rows of one side that all tasks share, and this task's part of their events.

    Attributes
    ----------
    positions : int64 array, shape (n_heavy,), ascending: the same in every task
    indptr, columns, ratings : events as compressed rows, columns ascending; ``columns`` are own rows of the
        *other* side
    """

    positions: Longs
    indptr: Longs
    columns: Ints
    ratings: Floats


@dataclass(frozen=True)
class Side:
    """One task's share of the users, or of the items.

    Attributes
    ----------
    ids : external ids of the own rows, in order of position, shape (n_rows,)
    id_hashes : 64-bit hashes of the ids, which key their random draws
    bucket_rows : int64 array, shape (own buckets + 1,): first row of each own bucket
    owners : int64 array, shape (tasks + 1,): task r owns buckets ``owners[r]`` to ``owners[r + 1]``
    start, total : position of the first own row, and number of rows of all tasks
    counts, positive : int64 arrays, shape (n_rows,): events of each own row, and those whose rating is above
        0
    indptr, columns, ratings : own rows' events as compressed rows, columns ascending; ``columns`` index the
        factor rows of the other side that the tasks send here; rows of ``heavy`` have none
    rows_to_send : for each task, which own rows it needs, ascending
    heavy : the rows that all tasks share
    """

    ids: pa.Array
    id_hashes: Hashes
    bucket_rows: Longs
    owners: Longs
    start: int
    total: int
    counts: Longs
    positive: Longs
    indptr: Longs
    columns: Ints
    ratings: Floats
    rows_to_send: list[Ints]
    heavy: Heavy


@dataclass(frozen=True)
class Interactions:
    """Both sides of one task, and of all tasks together the number of ``events`` and their ``mean``
    rating.
    """

    users: Side
    items: Side
    events: int
    mean: float


@dataclass(frozen=True)
class _Axis:
    """The own users, or the own items, before their events are laid out.

    Attributes
    ----------
    ids, owners, bucket_rows : as in :class:`Side`
    starts : first position of each task, and the total
    start : first position of this task
    """

    ids: pa.Array
    owners: Longs
    bucket_rows: Longs
    starts: Longs
    start: int

    @classmethod
    def build(cls, group: Group, ids: pa.Array, owners: Longs, starts: Longs) -> _Axis:
        return cls(ids, owners, bucket_rows(ids, owners, group.rank), starts, int(starts[group.rank]))

    @property
    def total(self) -> int:
        return int(self.starts[-1])


@dataclass(frozen=True)
class _Events:
    """Events of the own rows of one side: ``rows`` among them, ``columns`` of the other side in any
    numbering, ``ratings``.
    """

    rows: Ints
    columns: Ints
    ratings: Floats


def prepare(group: Group, events: pa.Table, heavy_events: int = HEAVY_EVENTS) -> Interactions:
    """Number the ids and lay out both sides.

    Parameters
    ----------
    group : Group
        The tasks; all call this at once.
    events : pyarrow.Table
        ``user``, ``item`` (dictionary-encoded), ``rating`` float32, of the users this task owns
        (:func:`~recsys_spark.training.ownership.user_owners`), in any order.
    heavy_events : int
        A row with more events is shared by all tasks.

    Returns
    -------
    Interactions

    Notes
    -----
    Holds at its peak about 80 bytes for each event (``make bench-als`` measures it), and ends with 16.
    """
    user_ids, user_codes = number_ids(events[USER])
    item_ids, item_codes = number_ids(events[ITEM])
    ratings = events[RATING].to_numpy().astype(np.float32, copy=False)
    item_counts = np.bincount(item_codes, minlength=len(item_ids))
    item_owners = balanced_owners(group, buckets_of(hash_ids(item_ids)), item_counts)
    own_items, item_positions, item_starts = register(group, item_ids, item_owners)
    users = _Axis.build(group, user_ids, user_owners(group.size), first_positions(group, len(user_ids)))
    items = _Axis.build(group, own_items, item_owners, item_starts)

    indptr, columns, ratings = sort_events(user_codes, item_codes, ratings, len(user_ids), len(item_ids))
    n_events, mean = _size_and_mean(group, users, indptr, ratings)
    by_user = _Events(np.repeat(np.arange(len(user_ids), dtype=np.int32), np.diff(indptr)), columns, ratings)
    del user_codes, item_codes, columns, ratings
    by_item = _exchange(group, by_user, item_positions, users, items)
    user_counts, user_positive = _counts(by_user, len(users.ids))
    item_counts, item_positive = _counts(by_item, len(items.ids))
    heavy_users = _heavy_rows(group, user_counts, users.start, heavy_events)
    heavy_items = _heavy_rows(group, item_counts, items.start, heavy_events)
    shared_users = _shared(heavy_users, by_item.columns, by_item.rows, by_item.ratings, len(items.ids))
    positions = item_positions[by_user.columns] if len(heavy_items) else by_user.columns
    shared_items = _shared(heavy_items, positions, by_user.rows, by_user.ratings, len(users.ids))

    light_users = user_counts <= heavy_events if len(heavy_users) else None
    light_items = item_counts <= heavy_events if len(heavy_items) else None
    user_csr, needed_items = _light_rows(by_user, light_users, len(users.ids), len(item_ids))
    del by_user  # before the other side takes as much
    items_to_send = _ask(group, item_positions[needed_items], items.starts)
    item_csr, needed_users = _light_rows(by_item, light_items, len(items.ids), users.total)
    users_to_send = _ask(group, needed_users, users.starts)
    return Interactions(
        _side(users, (user_counts, user_positive), user_csr, users_to_send, shared_users),
        _side(items, (item_counts, item_positive), item_csr, items_to_send, shared_items),
        n_events,
        mean,
    )


def _size_and_mean(group: Group, users: _Axis, indptr: Longs, ratings: Floats) -> tuple[int, float]:
    """Number of events of all tasks, and their mean rating, summed bucket by bucket."""
    rows = [slice(indptr[a], indptr[b]) for a, b in pairwise(users.bucket_rows)]
    sums = np.array([[ratings[part].sum(dtype=np.float64)] for part in rows]).reshape(-1, 1)
    n_events = int(group.all_reduce(indptr[-1:])[0])
    return n_events, float(group.ordered_sum(sums, *sums.shape)[0] / n_events)


def _exchange(group: Group, by_user: _Events, item_positions: Longs, users: _Axis, items: _Axis) -> _Events:
    """Send each event to the owner of its item, in order of user position; columns are then user
    positions.
    """
    owner_of_item = (np.searchsorted(items.starts, item_positions, side="right") - 1).astype(np.int32)
    owner_of_event = owner_of_item[by_user.columns]
    sent: list[list[npt.NDArray[np.generic]]] = []
    for task in range(group.size):
        chosen = np.flatnonzero(owner_of_event == task) if group.size > 1 else slice(None)
        rows = (item_positions[by_user.columns[chosen]] - items.starts[task]).astype(np.int32)
        columns = (by_user.rows[chosen] + users.start).astype(np.int32)
        sent.append([rows, columns, by_user.ratings[chosen]])
    del owner_of_event
    return _Events(*(np.concatenate(group.all_to_all([part[k] for part in sent])) for k in range(3)))


def _side(
    axis: _Axis,
    counts: tuple[Longs, Longs],
    csr: tuple[Longs, Ints, Floats],
    rows_to_send: list[Ints],
    heavy: Heavy,
) -> Side:
    return Side(
        ids=axis.ids,
        id_hashes=hash_ids(axis.ids),
        bucket_rows=axis.bucket_rows,
        owners=axis.owners,
        start=axis.start,
        total=axis.total,
        counts=counts[0],
        positive=counts[1],
        indptr=csr[0],
        columns=csr[1],
        ratings=csr[2],
        rows_to_send=rows_to_send,
        heavy=heavy,
    )


def _counts(events: _Events, n_rows: int) -> tuple[Longs, Longs]:
    """Events of each row, and those with a rating above 0."""
    positive = events.rows[events.ratings > 0]
    return np.bincount(events.rows, minlength=n_rows), np.bincount(positive, minlength=n_rows)


def _heavy_rows(group: Group, counts: Longs, start: int, limit: int) -> Longs:
    """Positions, in all tasks, of the rows with more than ``limit`` events."""
    return np.concatenate(group.all_gather(np.flatnonzero(counts > limit) + start))


def _shared(heavy: Longs, positions: Integers, others: Ints, ratings: Floats, n_others: int) -> Heavy:
    """Of events (``positions`` of one side, own rows ``others`` of the other) those of the ``heavy`` rows."""
    chosen = np.flatnonzero(np.isin(positions, heavy)) if len(heavy) else np.zeros(0, np.int64)
    rows = np.searchsorted(heavy, positions[chosen]).astype(np.int32)
    return Heavy(heavy, *sort_events(rows, others[chosen], ratings[chosen], len(heavy), n_others))


def _light_rows(
    events: _Events, light: Booleans | None, n_rows: int, n_columns: int
) -> tuple[tuple[Longs, Ints, Floats], Longs]:
    """Events of the ``light`` rows (None: of all) as compressed rows, and which of ``n_columns`` columns
    they need, ascending.
    """
    chosen = slice(None) if light is None else light[events.rows]
    columns = events.columns[chosen]
    needed = np.zeros(n_columns, bool)
    needed[columns] = True
    index = (np.cumsum(needed, dtype=np.int32) - np.int32(1))[columns]
    return group_events(events.rows[chosen], index, events.ratings[chosen], n_rows), np.flatnonzero(needed)


def _ask(group: Group, wanted: Integers, starts: Longs) -> list[Ints]:
    """Tell the owners which positions this task needs, and return which of the own rows each task needs."""
    cuts = np.searchsorted(wanted, starts)
    parts = [
        (wanted[cuts[task] : cuts[task + 1]] - starts[task]).astype(np.int32) for task in range(group.size)
    ]
    return group.all_to_all(parts)
