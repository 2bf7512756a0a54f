"""Which task owns which users and items, and how ids are numbered inside a group.

External ids (integers, longs or strings) are numbered without a join and without an index on the driver. An
id's 64-bit hash puts it into one of ``BUCKETS`` logical buckets, and its *position* is its place in the order
(bucket, id). A task owns a run of neighbouring buckets of users and one of items, so positions ascend with
the ranks of their owners. Whatever is summed over rows is summed bucket by bucket, which is why results do
not depend on the number of tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Hashes, Integers, Ints, Longs
from recsys_spark.packing import coded, ids_from_bytes, ids_to_bytes, one_array, tables_to_bytes
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.group import Group

BUCKETS = 128
"""Logical buckets of users, and of items: what sums run over. A group has at most half as many tasks."""


def buckets_of(id_hashes: Hashes) -> Longs:
    """Logical bucket of each hash."""
    return (id_hashes >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)


def user_owners(size: int) -> Longs:
    """Bounds of the user buckets of each of ``size`` tasks, which the shuffle follows."""
    return np.arange(size + 1, dtype=np.int64) * BUCKETS // size


def owner_of_ids(ids: pa.Array, owners: Longs) -> Longs:
    """Task that owns each id, where task r owns the buckets ``owners[r]`` to ``owners[r + 1]``."""
    return np.asarray(np.searchsorted(owners, buckets_of(hash_ids(ids)), side="right") - 1)


def split_by_task(events: pa.Table, size: int) -> Iterator[tuple[int, pa.Table]]:
    """Divide rows ``user, item, rating``, whose ids are dictionary-encoded or not, among the tasks that own
    their users; ids come dictionary-encoded.
    """
    users = coded(events[USER])
    task_of_user = owner_of_ids(users.dictionary, user_owners(size))
    tasks = task_of_user[users.indices.to_numpy()]
    order = np.argsort(tasks.astype(np.uint8), kind="stable")
    ordered = events.take(pa.array(order)).combine_chunks()
    bounds = np.searchsorted(tasks[order], np.arange(size + 1))
    for task in range(size):
        part = ordered.slice(bounds[task], bounds[task + 1] - bounds[task])
        if part.num_rows:
            columns = [coded(part[name]) for name in (USER, ITEM)]
            yield task, pa.table([*columns, part[RATING]], names=[USER, ITEM, RATING])


def send_to_owners(
    group: Group, tables: Sequence[pa.Table], column: str, owners: Longs
) -> list[npt.NDArray[np.uint8]]:
    """Send each row to the task that owns the user or item whose id is in ``column``.

    Parameters
    ----------
    tables : rows of this task
    column : of ids
    owners : bounds of each task's buckets, such as :func:`user_owners`

    Returns
    -------
    list of uint8 arrays
        What each task sent here, for :func:`recsys_spark.packing.table_from_bytes`.
    """
    if not tables:
        return group.all_to_all([tables_to_bytes([])] * group.size)
    rows = pa.concat_tables(tables)
    tasks = owner_of_ids(one_array(rows[column]), owners)
    return group.all_to_all(
        [tables_to_bytes([rows.filter(pa.array(tasks == task))]) for task in range(group.size)]
    )


def number_ids(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Distinct ids of a dictionary-encoded column in order of position, and each row's index among them."""
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], column.type)
    order = _position_order(encoded.dictionary)
    index = np.empty(len(order), np.int32)
    index[order] = np.arange(len(order), dtype=np.int32)
    return encoded.dictionary.take(pa.array(order)), index[encoded.indices.to_numpy()]


def balanced_owners(group: Group, buckets: Longs, events: Integers) -> Longs:
    """Bounds of each task's item buckets, cut so that the tasks get about as many events.

    Parameters
    ----------
    buckets, events : bucket and number of events of each item that this task has
    """
    counts = group.all_reduce(np.bincount(buckets, weights=events, minlength=BUCKETS).astype(np.int64))
    cumulated = np.concatenate([[0], np.cumsum(counts)])
    targets = cumulated[-1] * np.arange(1, group.size) / group.size
    nearest = np.searchsorted((cumulated[1:] + cumulated[:-1]) / 2, targets)
    return np.concatenate([[0], nearest, [BUCKETS]]).astype(np.int64)


def register(group: Group, wanted: pa.Array, owners: Longs) -> tuple[pa.Array, Longs, Longs]:
    """Owners collect the ids that any task holds, number them, and answer.

    Parameters
    ----------
    wanted : ids that this task holds, in order of position
    owners : bounds of each task's buckets

    Returns
    -------
    own : ids this task owns, in order of position
    positions : of each of ``wanted``
    starts : first position of each task, and the total
    """
    cuts = np.searchsorted(buckets_of(hash_ids(wanted)), owners)
    requests = group.all_to_all([ids_to_bytes(wanted.slice(a, b - a)) for a, b in pairwise(cuts)])
    asked = [ids_from_bytes(data) for data in requests]
    own = pc.unique(pa.concat_arrays(asked))
    own = own.take(pa.array(_position_order(own)))
    starts = first_positions(group, len(own))
    answers = group.all_to_all([pc.index_in(ids, value_set=own).to_numpy().astype(np.int32) for ids in asked])
    positions = np.concatenate(
        [answer.astype(np.int64) + starts[task] for task, answer in enumerate(answers)]
    )
    return own, positions, starts


def first_positions(group: Group, n_own: int) -> Longs:
    """First position of each task, and the total, where this task owns ``n_own`` ids."""
    counts: Sequence[npt.NDArray[np.int64]] = group.all_gather(np.array([n_own], np.int64))
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)


def bucket_rows(ids: pa.Array, owners: Longs, rank: int) -> Longs:
    """First of the own rows, whose ids are in order of position, of each bucket that task ``rank`` owns;
    and their number.
    """
    own_buckets = np.arange(owners[rank], owners[rank + 1] + 1)
    return np.searchsorted(buckets_of(hash_ids(ids)), own_buckets).astype(np.int64)


def _position_order(ids: pa.Array) -> npt.NDArray[np.intp]:
    """The order (bucket, id) of distinct ids."""
    by_id = pc.sort_indices(ids).to_numpy()
    return np.asarray(by_id[np.argsort(buckets_of(hash_ids(ids))[by_id], kind="stable")])
