"""Splits as pure functions: what each promises, and the same parts on any partitioning."""

from __future__ import annotations

import typing
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.config import Split
from recsys_spark.data.split import k_core, split_ratings, temporal_split
from recsys_spark.errors import ModelError

SCHEMA = "user string, item int, rating double, timestamp timestamp"
PARTS = ("train", "validation", "test")
METHODS = ["random", "temporal", "leave_last", "random_per_user", "holdout_users"]


def at(second):
    return None if second is None else datetime.fromtimestamp(second, UTC)


@pytest.fixture(scope="module")
def ratings(spark):
    """40 users with 1 to 20 ratings each, at scattered times with some ties."""
    rows = [
        (f"u{u}", i, 1.0, at(1_000_000 + (u * 7919 + i * 104_729) % 50 * 40_000))
        for u in range(40)
        for i in range(1 + u % 20)
    ]
    return spark.createDataFrame(rows, SCHEMA).persist()


def parts(frame):
    return {(row["user"], row["item"]): row["part"] for row in frame.collect()}


def test_methods_are_those_of_the_configuration():
    assert set(METHODS) == set(typing.get_args(Split.model_fields["method"].annotation))


@pytest.mark.parametrize("method", METHODS)
def test_same_rows_same_parts_on_any_partitioning(ratings, method):
    found = [parts(split_ratings(ratings.repartition(n), Split(method=method), 5)) for n in (1, 2, 7)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == ratings.count()


@pytest.mark.parametrize("method", ["random", "random_per_user", "holdout_users"])
def test_another_seed_gives_other_parts(ratings, method):
    assert parts(split_ratings(ratings, Split(method=method), 1)) != parts(
        split_ratings(ratings, Split(method=method), 2)
    )


def test_random_shares_are_about_what_was_asked_for(spark):
    frame = spark.range(20_000).selectExpr(
        "cast(id % 100 as string) user", "cast(id as int) item", "1.0 rating", "null timestamp"
    )
    how = Split(method="random", test_fraction=0.3, validation_fraction=0.2)
    counts = Counter(parts(split_ratings(frame, how, 5)).values())
    assert counts["test"] == pytest.approx(6_000, abs=260)  # 4 standard deviations
    assert counts["validation"] == pytest.approx(4_000, abs=230)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.25), (0.3, 0.05), (0.02, 0.02), (0.0, 0.5)])
def test_temporal_cuts_divide_past_from_future(ratings, validation, test):
    found = temporal_split(ratings, validation, test).collect()
    times = {part: [row["timestamp"] for row in found if row["part"] == part] for part in PARTS}
    later = []  # than the part that is looked at
    for part, before, allowed in (("test", "validation", test), ("validation", "train", validation + test)):
        later += times[part]
        assert len(later) <= allowed * len(found)
        earlier = [row["timestamp"] for row in found if row["timestamp"] < min(later)]
        assert len(earlier) == len(found) - len(later), f"{before} is later than {part}"
        # one more second would have been too much
        assert len(later) + earlier.count(max(earlier)) > allowed * len(found)


def test_rows_without_a_timestamp_are_train_in_a_temporal_split(spark):
    rows = [("u", item, 1.0, at(item)) for item in range(4)] + [("u", 9, 1.0, None)] * 4
    found = temporal_split(spark.createDataFrame(rows, SCHEMA), 0.25, 0.25).collect()
    by_part = {part: [row["item"] for row in found if row["part"] == part] for part in PARTS}
    assert by_part == {"train": [0, 1, 9, 9, 9, 9], "validation": [2], "test": [3]}


def test_temporal_split_needs_timestamps(spark):
    with pytest.raises(ModelError, match="needs timestamps, and no rating has one"):
        split_ratings(spark.createDataFrame([("u", 1, 1.0, None)], SCHEMA), Split(method="temporal"), 1)


@pytest.mark.parametrize("method", ["leave_last", "random_per_user"])
@pytest.mark.parametrize("k", [1, 3])
def test_k_rows_of_each_user_are_held_out_but_never_all(ratings, method, k):
    found = parts(split_ratings(ratings, Split(method=method, rows_per_user=k), 5))
    total = Counter(user for user, _ in found)
    held_out = Counter((user, part) for (user, _), part in found.items())
    for user, count in total.items():
        test = min(k, count - 1)
        assert held_out[user, "test"] == test
        assert held_out[user, "validation"] == min(k, count - 1 - test)


def test_leave_last_holds_out_the_latest(spark):
    rows = [("a", 1, 1.0, at(30)), ("a", 2, 1.0, at(10)), ("a", 3, 1.0, at(20)), ("a", 4, 1.0, None)]
    found = parts(split_ratings(spark.createDataFrame(rows, SCHEMA), Split(method="leave_last"), 5))
    assert {item: part for (_, item), part in found.items()} == {
        1: "test",
        3: "validation",
        2: "train",
        4: "train",
    }


def test_holdout_users_holds_out_whole_users(ratings):
    how = Split(method="holdout_users", test_fraction=0.4, validation_fraction=0.2)
    found = parts(split_ratings(ratings, how, 5))
    by_user: dict[str, set[str]] = {}
    for (user, _), part in found.items():
        by_user.setdefault(user, set()).add(part)
    kinds = {frozenset(p) for p in by_user.values()}
    assert kinds >= {
        frozenset({"train"}),
        frozenset({"fold_in", "test"}),
        frozenset({"fold_in", "validation"}),
    }
    for of_user in by_user.values():
        assert of_user == {"train"} or of_user <= {"fold_in", "test"} or of_user <= {"fold_in", "validation"}


def slow_k_core(rows, min_user, min_item):
    """Drop one offending row at a time until none is left."""
    rows = set(rows)
    while True:
        users, items = Counter(u for u, _ in rows), Counter(i for _, i in rows)
        bad = [(u, i) for u, i in rows if users[u] < min_user or items[i] < min_item]
        if not bad:
            return rows
        rows.discard(bad[0])


@settings(max_examples=5, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=10, max_size=40),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_k_core_is_the_largest_part_that_satisfies_both_counts(spark, rows, min_user, min_item):
    frame = spark.createDataFrame([(str(u), i, 1.0, None) for u, i in rows], SCHEMA)
    found = {(int(row["user"]), row["item"]) for row in k_core(frame, min_user, min_item).collect()}
    assert found == slow_k_core(rows, min_user, min_item)
