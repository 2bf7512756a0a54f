"""The events of a training group: which task owns which users and items, and each task's share in compressed rows.

External ids (integers, longs or strings) are numbered inside the group, without a join and without an index on the driver.
An id's 64-bit hash puts it into one of ``BUCKETS`` logical buckets, and its *position* is its place in the order (bucket, id). A
task owns a run of neighbouring buckets of users and one of items, so positions ascend with the ranks of their owners. Everything
that is summed over rows is summed bucket by bucket, which is why results do not depend on the number of tasks.

How a share is made::

    rows (user, item, rating) ─pack─▶ payloads by user's task ─shuffle─▶ task: its users' events
        its distinct items ──ask owners──▶ positions          users side: CSR (own users × items it needs)
        its events ──all to all, by item's owner──▶           items side: CSR (own items × users it needs)
        columns ──ask owners once──▶ which of my rows each task needs (``give``)

A row with more than ``HEAVY_EVENTS`` events (a user with a million items) stands in neither CSR: each of its events stays with
the owner of its column, so that all tasks share its work and none needs all its columns (:class:`Heavy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.collectives import Group
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.events import Floats, Ints, Longs, group_events, sort_events
from recsys_spark.kernels.randomness import Words

BUCKETS = 128
"""Logical buckets of users, and of items: what sums run over. A group has at most half as many tasks."""

HEAVY_EVENTS = 2**17
"""Events of a row that one task works on alone; a row with more is shared by all."""


@dataclass(frozen=True)
class Heavy:
    """The rows of one side that all tasks share, and this task's part of their events.

    Attributes
    ----------
    positions : int64 array, shape (n_heavy,), ascending: the same in every task
    indptr, columns, ratings : events as compressed rows, columns ascending; ``columns`` are own rows of the *other* side
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
    words : 64-bit hashes of the ids, which key their random draws
    bucket_rows : int64 array, shape (own buckets + 1,): first row of each own bucket
    owners : int64 array, shape (tasks + 1,): task r owns buckets ``owners[r]`` to ``owners[r + 1]``
    start, total : position of the first own row, and number of rows of all tasks
    counts, positive : int64 arrays, shape (n_rows,): events of each own row, and those whose rating is above 0
    indptr, columns, ratings : own rows' events as compressed rows, columns ascending; ``columns`` are places among the factor
        rows of the other side that the tasks send here; rows of ``heavy`` have none
    give : for each task, which own rows it needs, ascending
    heavy : the rows that all tasks share
    """

    ids: pa.Array
    words: Words
    bucket_rows: Longs
    owners: Longs
    start: int
    total: int
    counts: Longs
    positive: Longs
    indptr: Longs
    columns: Ints
    ratings: Floats
    give: list[Ints]
    heavy: Heavy


@dataclass(frozen=True)
class Interactions:
    """Both sides of one task, and of all tasks together the number of ``events`` and their ``mean`` rating."""

    users: Side
    items: Side
    events: int
    mean: float


def buckets_of(words: Words) -> Longs:
    """Logical bucket of each hash."""
    return (words >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)


def owners_of_users(size: int) -> Longs:
    """Bounds of the user buckets of each of ``size`` tasks, which the shuffle follows."""
    return np.arange(size + 1, dtype=np.int64) * BUCKETS // size


def split_by_task(events: pa.Table, size: int) -> Iterator[tuple[int, pa.Table]]:
    """Divide rows ``user, item, rating`` among the tasks that own their users; ids come dictionary-encoded."""
    users = events["user"].combine_chunks().dictionary_encode()
    task_of_user = np.searchsorted(owners_of_users(size), buckets_of(hash_ids(users.dictionary)), side="right") - 1
    tasks = task_of_user[users.indices.to_numpy()]
    order = np.argsort(tasks.astype(np.uint8), kind="stable")
    ordered = events.take(pa.array(order)).combine_chunks()
    bounds = np.searchsorted(tasks[order], np.arange(size + 1))
    for task in range(size):
        part = ordered.slice(bounds[task], bounds[task + 1] - bounds[task])
        if part.num_rows:
            columns = [part[name].combine_chunks().dictionary_encode() for name in ("user", "item")]
            yield task, pa.table([*columns, part["rating"]], names=["user", "item", "rating"])


def prepare(group: Group, events: pa.Table, heavy_events: int = HEAVY_EVENTS) -> Interactions:
    """Number the ids and lay out both sides.

    Parameters
    ----------
    group : the tasks
    events : ``user``, ``item`` (dictionary-encoded), ``rating`` float32, of the users this task owns (:func:`owners_of_users`),
        in any order
    heavy_events : a row with more events is shared by all tasks

    Notes
    -----
    Holds at its peak about 80 bytes for each event (``make bench-als`` measures it), and ends with 16.
    """
    user_ids, user_codes = numbered(events["user"])
    item_ids, item_codes = numbered(events["item"])
    ratings = events["rating"].to_numpy().astype(np.float32, copy=False)
    user_owners = owners_of_users(group.size)
    item_owners = balanced(group, buckets_of(hash_ids(item_ids)), np.bincount(item_codes, minlength=len(item_ids)))
    own_items, item_positions, item_starts = register(group, item_ids, item_owners)
    user_starts = _starts(group, len(user_ids))
    user_start, item_start = int(user_starts[group.rank]), int(item_starts[group.rank])
    user_buckets = _bucket_rows(user_ids, user_owners, group.rank)
    item_buckets = _bucket_rows(own_items, item_owners, group.rank)

    indptr, columns, values = sort_events(user_codes, item_codes, ratings, len(user_ids), len(item_ids))
    rows = np.repeat(np.arange(len(user_ids), dtype=np.int32), np.diff(indptr))
    sums = [[values[indptr[a] : indptr[b]].sum(dtype=np.float64)] for a, b in pairwise(user_buckets)]
    n_events = int(group.all_reduce(indptr[-1:])[0])
    mean = float(group.ordered_sum(np.array(sums).reshape(-1, 1))[0] / n_events)

    # events go to their item's owner, in order of user position
    item_owner = (np.searchsorted(item_starts, item_positions, side="right") - 1).astype(np.int32)
    owner_of_event = item_owner[columns]
    sent: list[list[npt.NDArray[np.generic]]] = []
    for task in range(group.size):
        chosen = np.flatnonzero(owner_of_event == task) if group.size > 1 else slice(None)
        item_rows = (item_positions[columns[chosen]] - item_starts[task]).astype(np.int32)
        users = (rows[chosen] + user_starts[group.rank]).astype(np.int32)
        sent.append([item_rows, users, values[chosen]])
    del owner_of_event
    item_rows, users, item_ratings = (np.concatenate(group.all_to_all([part[k] for part in sent])) for k in range(3))
    del sent

    user_counts, user_positive = _counts(rows, values, len(user_ids))
    item_counts, item_positive = _counts(item_rows, item_ratings, len(own_items))
    heavy_users = _heavy_rows(group, user_counts, user_start, heavy_events)
    heavy_items = _heavy_rows(group, item_counts, item_start, heavy_events)
    shared_users = _shared(heavy_users, users, item_rows, item_ratings, len(own_items))
    shared_items = _shared(heavy_items, item_positions[columns] if len(heavy_items) else columns, rows, values, len(user_ids))

    light = user_counts[rows] <= heavy_events if len(heavy_users) else slice(None)
    needed, columns = _places(columns[light], len(item_ids))
    user_indptr, user_columns, user_ratings = group_events(rows[light], columns, values[light], len(user_ids))
    item_give = _ask(group, item_positions[needed], item_starts)
    del rows, columns, values
    light = item_counts[item_rows] <= heavy_events if len(heavy_items) else slice(None)
    needed, columns = _places(users[light], int(user_starts[-1]))
    item_indptr, item_columns, item_values = group_events(item_rows[light], columns, item_ratings[light], len(own_items))
    user_give = _ask(group, needed, user_starts)

    users_side = Side(
        user_ids, hash_ids(user_ids), user_buckets, user_owners, user_start, int(user_starts[-1]), user_counts, user_positive,
        user_indptr, user_columns, user_ratings, user_give, shared_users,
    )  # fmt: skip
    items_side = Side(
        own_items, hash_ids(own_items), item_buckets, item_owners, item_start, int(item_starts[-1]), item_counts, item_positive,
        item_indptr, item_columns, item_values, item_give, shared_items,
    )  # fmt: skip
    return Interactions(users_side, items_side, n_events, mean)


def _counts(rows: Ints, ratings: Floats, n_rows: int) -> tuple[Longs, Longs]:
    """Events of each row, and those with a rating above 0."""
    return np.bincount(rows, minlength=n_rows), np.bincount(rows[ratings > 0], minlength=n_rows)


def _heavy_rows(group: Group, counts: Longs, start: int, limit: int) -> Longs:
    """Positions, in all tasks, of the rows with more than ``limit`` events."""
    return np.concatenate(group.all_gather(np.flatnonzero(counts > limit) + start))


def _shared(heavy: Longs, positions: npt.NDArray[np.integer], others: Ints, ratings: Floats, n_others: int) -> Heavy:
    """Of events (``positions`` of one side, own rows ``others`` of the other) those of the ``heavy`` rows."""
    chosen = np.flatnonzero(np.isin(positions, heavy)) if len(heavy) else np.zeros(0, np.int64)
    rows = np.searchsorted(heavy, positions[chosen]).astype(np.int32)
    return Heavy(heavy, *sort_events(rows, others[chosen], ratings[chosen], len(heavy), n_others))


def _places(columns: Ints, total: int) -> tuple[Longs, Ints]:
    """Which of ``total`` columns occur, ascending, and each event's place among them."""
    needed = np.zeros(total, bool)
    needed[columns] = True
    return np.flatnonzero(needed), (np.cumsum(needed, dtype=np.int32) - np.int32(1))[columns]


def to_bytes(array: pa.Array) -> npt.NDArray[np.uint8]:
    """An Arrow array as bytes that :func:`from_bytes` reads."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("ids", array.type)])) as writer:
        writer.write_batch(pa.record_batch([array], names=["ids"]))
    return np.frombuffer(sink.getvalue(), np.uint8)


def from_bytes(data: npt.NDArray[np.uint8]) -> pa.Array:
    """The array that :func:`to_bytes` wrote."""
    return pa.concat_arrays(pa.ipc.open_stream(pa.py_buffer(data)).read_all()["ids"].chunks)


def owner_of_ids(ids: pa.Array, owners: Longs) -> Longs:
    """Task that owns each id."""
    return np.asarray(np.searchsorted(owners, buckets_of(hash_ids(ids)), side="right") - 1)


def _in_order(ids: pa.Array) -> npt.NDArray[np.intp]:
    """The order (bucket, id) of distinct ids."""
    by_id = pc.sort_indices(ids).to_numpy()
    return np.asarray(by_id[np.argsort(buckets_of(hash_ids(ids))[by_id], kind="stable")])


def numbered(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Distinct ids of a dictionary-encoded column in order of position, and each row's place among them."""
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    order = _in_order(whole.dictionary)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return whole.dictionary.take(pa.array(order)), place[whole.indices.to_numpy()]


def balanced(group: Group, buckets: Longs, events: npt.NDArray[np.integer]) -> Longs:
    """Bounds of each task's item buckets, cut so that the tasks get about as many events."""
    counts = group.all_reduce(np.bincount(buckets, weights=events, minlength=BUCKETS).astype(np.int64))
    done = np.concatenate([[0], np.cumsum(counts)])
    targets = done[-1] * np.arange(1, group.size) / group.size
    nearest = np.searchsorted((done[1:] + done[:-1]) / 2, targets)
    return np.concatenate([[0], nearest, [BUCKETS]]).astype(np.int64)


def register(group: Group, wanted: pa.Array, owners: Longs) -> tuple[pa.Array, Longs, Longs]:
    """Owners collect the ids that anybody holds, number them, and answer.

    Returns
    -------
    own : ids this task owns, in order of position
    positions : of each of ``wanted``
    starts : first position of each task, and the total
    """
    cuts = np.searchsorted(buckets_of(hash_ids(wanted)), owners)
    asked = [from_bytes(data) for data in group.all_to_all([to_bytes(wanted.slice(a, b - a)) for a, b in pairwise(cuts)])]
    own = pc.unique(pa.concat_arrays(asked))
    own = own.take(pa.array(_in_order(own)))
    starts = _starts(group, len(own))
    answers = group.all_to_all([pc.index_in(ids, value_set=own).to_numpy().astype(np.int32) for ids in asked])
    positions = np.concatenate([answer.astype(np.int64) + starts[task] for task, answer in enumerate(answers)])
    return own, positions, starts


def _ask(group: Group, wanted: npt.NDArray[np.integer], starts: Longs) -> list[Ints]:
    """Tell the owners which positions this task needs; gives which of the own rows each task needs."""
    cuts = np.searchsorted(wanted, starts)
    parts = [(wanted[cuts[task] : cuts[task + 1]] - starts[task]).astype(np.int32) for task in range(group.size)]
    return group.all_to_all(parts)


def _starts(group: Group, own: int) -> Longs:
    counts: Sequence[npt.NDArray[np.int64]] = group.all_gather(np.array([own], np.int64))
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)


def _bucket_rows(ids: pa.Array, owners: Longs, rank: int) -> Longs:
    return np.searchsorted(buckets_of(hash_ids(ids)), np.arange(owners[rank], owners[rank + 1] + 1)).astype(np.int64)
