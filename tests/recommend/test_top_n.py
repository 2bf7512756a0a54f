"""The top-N engine on Spark: what the kernel's own tests cannot see."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import functions as F

from recsys_spark.config import BlockSizes
from recsys_spark.errors import ModelError
from recsys_spark.histories import pack_histories
from recsys_spark.recommend import top_n
from recsys_spark.recommend.top_n import ListRequest, explode_lists, recommend_lists

RANK, USERS, ITEMS = 5, 60, 130


@pytest.fixture(scope="module")
def sides(spark):
    rng = np.random.default_rng(1)
    users, items = (rng.integers(-3, 4, (n, RANK)).astype(float) for n in (USERS, ITEMS))
    biases = rng.integers(-2, 3, ITEMS).astype(float)
    seen = [(u, i) for u in range(USERS) for i in rng.choice(ITEMS, u, replace=False).tolist()]
    return users, items, biases, seen


def frames(spark, sides, name=str):
    users, items, biases, seen = sides
    kind = spark.createDataFrame([(name(0),)]).dtypes[0][1]
    user_frame = spark.createDataFrame(
        [(name(u), v.tolist()) for u, v in enumerate(users)], f"id {kind}, features array<float>"
    )
    rows = [(name(i), v.tolist(), b) for i, (v, b) in enumerate(zip(items, biases.tolist(), strict=True))]
    item_frame = spark.createDataFrame(rows, f"id {kind}, features array<float>, bias float")
    seen_frame = spark.createDataFrame([(name(u), name(i)) for u, i in seen], f"user {kind}, item {kind}")
    return user_frame.repartition(3), item_frame.repartition(3), seen_frame.repartition(3)


def expected_lists(sides, n):
    users, items, biases, seen = sides
    scores = users @ items.T + biases
    taken = set(seen)
    return {
        u: sorted((i for i in range(ITEMS) if (u, i) not in taken), key=lambda i, u=u: (-scores[u, i], i))[:n]
        for u in range(USERS)
    }


def collected(lists):
    return {row["id"]: [entry["item"] for entry in row["recommendations"]] for row in lists.collect()}


@pytest.mark.parametrize(
    "sizes",
    [BlockSizes(), BlockSizes(users_per_task=7, user_block=3, item_block=40, pack_rows=11)],
    ids=["one block", "many blocks"],
)
def test_lists_equal_a_full_sort_whatever_the_blocks(spark, sides, sizes):
    users, items, seen = frames(spark, sides, int)
    assert collected(
        recommend_lists(users, items, ListRequest(9, seen, block_sizes=sizes))
    ) == expected_lists(sides, 9)


@pytest.mark.parametrize("name", [int, "{:03}".format], ids=["numbers", "texts"])
def test_packed_histories_are_left_out_as_rows_are(spark, sides, name):
    users, items, seen = frames(spark, sides, name)
    # of users that are not asked for, and of items that no model has, there may be some
    more = spark.createDataFrame([(name(900), name(1)), (name(5), name(901))], seen.schema)
    known = seen.withColumn("part", F.lit("train")).unionByName(more.withColumn("part", F.lit("train")))
    later = items.select(F.lit(name(3)).alias("user"), F.col("id").alias("item"), F.lit("test").alias("part"))
    known = known.where(F.col("user") != name(3)).unionByName(later)
    known = known.withColumns({"rating": F.lit(1.0), "timestamp": F.lit(None).cast("timestamp")})
    packed = pack_histories(known, 10**6)
    sizes = BlockSizes(users_per_task=7, user_block=3, item_block=40)
    found = collected(recommend_lists(users, items, ListRequest(9, packed.of("train"), block_sizes=sizes)))
    expected = {
        name(user): [name(item) for item in listed] for user, listed in expected_lists(sides, 9).items()
    }
    none_seen = (*sides[:3], [pair for pair in sides[3] if pair[0] != 3])
    expected[name(3)] = [name(item) for item in expected_lists(none_seen, 9)[3]]
    assert found == expected
    packed.unpersist()


def test_string_ids_are_ordered_as_strings(spark, sides):
    users, items, seen = frames(spark, sides, lambda n: f"k{n:04d}")
    found = collected(recommend_lists(users, items, ListRequest(9, seen)))
    expected = {f"k{u:04d}": [f"k{i:04d}" for i in listed] for u, listed in expected_lists(sides, 9).items()}
    assert found == expected


def test_same_bits_on_any_partitioning(spark):
    rng = np.random.default_rng(2)
    users = [(u, v.tolist()) for u, v in enumerate(rng.standard_normal((300, 8)))]
    items = spark.createDataFrame(
        [(i, v.tolist()) for i, v in enumerate(rng.standard_normal((50, 8)))], "id int, features array<float>"
    )
    frame = spark.createDataFrame(users, "id int, features array<float>")
    found = [
        set(explode_lists(recommend_lists(frame.repartition(n), items, ListRequest(5))).collect())
        for n in (1, 2, 7)
    ]
    assert found[0] == found[1] == found[2]


def test_long_lists_leave_a_task_in_slices_with_the_same_bits(spark, sides, monkeypatch):
    users, items, seen = frames(spark, sides, int)
    request = ListRequest(10**6, seen, block_sizes=BlockSizes(user_block=2))

    def rows():
        return sorted(recommend_lists(users, items, request, normalized=True).collect())

    at_once = rows()
    assert collected(recommend_lists(users, items, request)) == expected_lists(sides, ITEMS)
    monkeypatch.setattr(top_n, "LIST_ENTRIES", 1)  # two users, the block that is scored, at a time
    assert rows() == at_once


def test_user_bias_moves_scores_and_not_the_order(spark):
    users = spark.createDataFrame([(1, [1.0], 10.0)], "id int, features array<float>, bias float")
    items = spark.createDataFrame([(1, [1.0]), (2, [3.0])], "id int, features array<float>")
    (row,) = recommend_lists(users, items, ListRequest(2)).collect()
    assert [(entry["item"], entry["score"]) for entry in row["recommendations"]] == [(2, 13.0), (1, 11.0)]


def test_explode_gives_rows_with_ranks_from_one(spark):
    users = spark.createDataFrame([(1, [1.0])], "id int, features array<float>")
    items = spark.createDataFrame([(1, [1.0]), (2, [3.0])], "id int, features array<float>")
    rows = explode_lists(recommend_lists(users, items, ListRequest(2)))
    assert rows.columns == ["user", "item", "score", "rank"]
    assert [tuple(row) for row in rows.collect()] == [(1, 2, 3.0, 1), (1, 1, 1.0, 2)]


@pytest.mark.parametrize(
    ("features", "message"),
    [([[1.0], [1.0, 2.0]], "must all have one length"), ([[1.0], [float("nan")]], "must be finite")],
)
def test_features_that_cannot_be_scored_are_rejected(spark, features, message):
    users = spark.createDataFrame([(1, [1.0])], "id int, features array<float>")
    items = spark.createDataFrame(list(enumerate(features)), "id int, features array<float>")
    with pytest.raises(ModelError, match=message):
        recommend_lists(users, items, ListRequest(2))


def test_numpy_integer_is_a_length():
    assert ListRequest(np.int64(3)).n == 3


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_length_that_is_no_number_of_items_is_rejected(n):
    with pytest.raises(ModelError, match=f"whole number of at least 1, got {n!r}"):
        ListRequest(n)
