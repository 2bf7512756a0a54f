"""Packed histories hold what they were made of, each user's in one place."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import chain

import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import types as T

from recsys_spark import histories
from recsys_spark.errors import ModelError
from recsys_spark.histories import among, pack_histories, read_histories
from recsys_spark.packing import read_table

COLUMNS = ("user", "item", "rating", "timestamp", "part")
SCHEMA = "user int, item int, rating double, timestamp timestamp, part string"
PARTS = ["train", "test", None, "validation", "fold_in", "train"]
DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 7)]
ROWS = [
    (user, item, float(user - item), DAYS[item], PARTS[item])
    for user in range(40)
    for item in range(user % 7)
]


def came_back(made):
    """The rows, with their instants in UTC."""
    rows = made.rows(*COLUMNS).selectExpr("user", "item", "rating", "unix_micros(timestamp)", "part")
    return sorted(map(tuple, rows.collect()))


def as_packed(rows):
    return sorted((*row[:3], row[3] and round(row[3].timestamp() * 10**6), row[4]) for row in rows)


@pytest.fixture(scope="module")
def packed(spark):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "BUCKET_ROWS", 8)
        patch.setattr(histories, "TASK_ROWS", 30)
        patch.setattr(histories, "PACK_ROWS", 11)
        made = pack_histories(spark.createDataFrame(ROWS, SCHEMA).repartition(3), len(ROWS))
        yield made
    made.unpersist()


def test_rows_come_back(packed):
    assert came_back(packed) == as_packed(ROWS)


def test_only_the_wanted_parts_come_back(packed):
    expected = as_packed([row for row in ROWS if row[4] in ("test", "fold_in")])
    assert came_back(packed.of("test", "fold_in")) == expected


def test_counts_are_of_each_part(packed):
    parts = {row[4] for row in ROWS} - {None}
    expected = {p: (sum(row[4] == p for row in ROWS), len({r[0] for r in ROWS if r[4] == p})) for p in parts}
    assert packed.of("test").counts() == expected  # whatever is meant


def test_a_user_lies_in_one_payload_in_order(packed):
    payloads = [read_table(row["history"]) for row in packed.packed.collect()]
    assert len(payloads) > 4
    users = [set(payload["user"].to_pylist()) for payload in payloads]
    assert sorted(chain(*users)) == sorted({row[0] for row in ROWS})
    for payload in payloads:
        pairs = list(zip(payload["user"].to_pylist(), payload["item"].to_pylist(), strict=True))
        assert pairs == sorted(pairs)


@pytest.mark.parametrize(
    "odd",
    [
        (0.1, DAYS[0], "train"),
        (2.0**31 + 1, DAYS[0], "train"),
        (1.0, datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "train"),
        (1.0, datetime(1800, 1, 1, tzinfo=UTC), "train"),
        (1.0, datetime(2100, 1, 1, tzinfo=UTC), "train"),
        (None, None, None),
    ],
    ids=["no float32", "large", "microsecond", "long ago", "far ahead", "nothing"],
)
def test_what_is_odd_stays_exact(spark, odd):
    rows = [(1, 1, 3.0, DAYS[1], "test"), (1, 2, *odd)]
    made = pack_histories(spark.createDataFrame(rows, SCHEMA), 2)
    assert came_back(made) == as_packed(rows)
    made.unpersist()


def test_what_is_not_odd_is_narrow(packed):
    row = packed.packed.first()
    pairs, values = (read_table(row[column]).schema for column in ("history", "values"))
    assert [str(kind) for kind in values.types] == ["float", "int32"]
    assert str(pairs.field("part").type) == "int8"


def test_texts_are_ids_too(spark):
    pairs = [("bob", "tea", "train"), ("ann", "tea", "test"), ("ann", "jam", "train")]
    columns = "user string, item string, rating float, timestamp timestamp, part string"
    rows = spark.createDataFrame([(user, item, None, None, part) for user, item, part in pairs], columns)
    made = pack_histories(rows, 3)
    found = made.of("train").rows("user", "item").collect()
    assert sorted(map(tuple, found)) == [("ann", "jam"), ("bob", "tea")]
    made.unpersist()


def test_nothing_is_nothing(spark):
    made = pack_histories(spark.createDataFrame([], SCHEMA), 0)
    assert (made.rows("user").collect(), made.counts()) == ([], {})
    made.unpersist()


@pytest.fixture
def saved(packed, tmp_path):
    """A folder, and what it takes to read it."""
    folder = tmp_path / "saved"
    return folder, (packed.save(str(folder)), packed.buckets, packed.id_types, packed.size)


def test_what_is_saved_comes_back(spark, saved):
    folder, told = saved
    made = read_histories(spark, str(folder), *told)
    assert came_back(made) == as_packed(ROWS)
    made.unpersist()


def test_what_is_no_longer_whole_is_not_read(spark, saved):
    folder, told = saved
    sorted(folder.glob("*.parquet"))[0].unlink()
    with pytest.raises(ModelError, match=rf"{folder} are of \d+ buckets, and {told[0]} were written: pack"):
        read_histories(spark, str(folder), *told)


def test_what_is_broken_is_not_read(spark, saved):
    folder, told = saved
    sorted(folder.glob("*.parquet"))[0].write_text("no payloads")
    with pytest.raises(ModelError, match=rf"{folder} cannot be read \(.*\): pack the ratings again"):
        read_histories(spark, str(folder), *told)


@pytest.mark.parametrize("row", [(None, 1, "train"), (1, None, "train"), (1, 1, "training")])
def test_rows_that_belong_nowhere_are_named(spark, row):
    rows = [(1, 2, 1.0, None, "train"), (*row[:2], 1.0, None, row[2])]
    made = pack_histories(spark.createDataFrame(rows, SCHEMA), 2)
    with pytest.raises(
        PySparkException, match=r"null id or an unknown part cannot be packed: .*\"part\":\"train"
    ):
        made.counts()
    made.unpersist()


def test_ids_are_whole_numbers_or_texts(spark):
    with pytest.raises(ModelError, match="column 'item' is double: cast ids to int, bigint or string"):
        pack_histories(spark.createDataFrame([], SCHEMA.replace("item int", "item double")), 0)


def test_ids_of_another_type_are_refused(packed):
    with pytest.raises(ModelError, match="the items of the packed histories are int, and the model's string"):
        packed.require_id_types(T.IntegerType(), T.StringType())


def test_ids_are_counted_in_what_is_meant(packed):
    rows = [row for row in ROWS if row[4] in ("train", "validation")]
    known = packed.of("train", "validation")
    users, items = (Counter(row[place] for row in rows) for place in (0, 1))
    assert {row["user"]: row["ratings"] for row in known.user_counts().collect()} == users
    assert {row["item"]: row["ratings"] for row in known.item_counts().collect()} == items


@pytest.mark.parametrize("known", [[(3, 1), (3, 4), (7, 1), (8, 9)], [(8, 9), (3, 4), (7, 1), (3, 1)], []])
def test_pairs_are_found_among_ratings_in_any_order(known):
    asked = [(user, item) for user in (9, 8, 7, 3) for item in range(11)] + [(3, 4)]
    users, items = (pa.array([row[k] for row in known], pa.int32()).dictionary_encode() for k in (0, 1))
    of_pairs = (pa.array([row[k] for row in asked], pa.int32()).dictionary_encode() for k in (0, 1))
    found = among(pa.table([users, items], names=["user", "item"]), *of_pairs)
    assert [pair for pair, is_known in zip(asked, found, strict=True) if is_known] == [
        pair for pair in asked if pair in known
    ]
