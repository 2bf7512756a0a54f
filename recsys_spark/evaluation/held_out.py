"""What is held out, by user: whom models are measured for, by which items, and how active they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from recsys_spark.histories import PARTS, PackedHistories
from recsys_spark.packing import one_array
from recsys_spark.schema import FOLD_IN, ITEM, PART, RATING, TEST, TRAIN, USER, VALIDATION

KNOWN = "known"


def held_out(histories: PackedHistories, least: float | None = None) -> DataFrame:
    """Each user's held-out items that a list should have, and how much is known of the user before the test.

    Parameters
    ----------
    histories : PackedHistories
        All ratings, with their parts; a pair may be in several.
    least : float, optional
        Smallest rating that counts as relevant; without it each one does.

    Returns
    -------
    DataFrame
        One row per user who has a rating in a part: ``user``; ``known`` bigint, how many items are known
        before the test; ``validation`` and ``test``, arrays of items, ascending, null where there are none.
        One pass, no shuffle.
    """
    known = [PARTS.index(part) for part in (TRAIN, FOLD_IN, VALIDATION)]
    named = [*known, PARTS.index(TEST)]

    def by_user(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        for table in tables:
            users, items, part = one_array(table[USER]), one_array(table[ITEM]), table[PART].to_numpy()
            codes, n_users = users.indices.to_numpy(), len(users.dictionary)
            before = np.flatnonzero(np.isin(part, known))
            owner, item = codes[before], items.indices.to_numpy()[before]
            again = (owner[1:] == owner[:-1]) & (item[1:] == item[:-1])  # in validation too
            once = np.concatenate([before[:1] >= 0, ~again])
            columns = [users.dictionary, pa.array(np.bincount(owner[once], minlength=n_users))]
            wanted = np.ones(len(codes), bool)
            if least is not None:
                enough = pc.greater_equal(one_array(table[RATING]).cast(pa.float64()), least)
                wanted = pc.fill_null(enough, False).to_numpy(zero_copy_only=False)
            for name in (VALIDATION, TEST):
                own = wanted & (part == PARTS.index(name))
                lengths = np.bincount(codes[own], minlength=n_users)
                ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
                listed = items.filter(pa.array(own)).cast(items.type.value_type)
                columns.append(pa.ListArray.from_arrays(ends, listed, mask=pa.array(lengths == 0)))
            batch = pa.RecordBatch.from_arrays(columns, names=[USER, KNOWN, VALIDATION, TEST])
            some = np.bincount(codes[np.isin(part, named)], minlength=n_users) > 0
            yield batch.filter(pa.array(some))

    user, item = histories.id_types
    fields = [T.StructField(USER, user), T.StructField(KNOWN, T.LongType())]
    fields += [T.StructField(name, T.ArrayType(item)) for name in (VALIDATION, TEST)]
    columns = [USER, ITEM] if least is None else [USER, ITEM, RATING]
    return histories.of(*PARTS).map_tables(columns, by_user, T.StructType(fields))
