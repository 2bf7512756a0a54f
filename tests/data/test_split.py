"""Splits as pure functions: what each promises, and the same parts on any partitioning."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.config import Split
from recsys_spark.data.split import k_core, split_ratings
from recsys_spark.errors import ModelError

SCHEMA = "user string, item int, rating double, timestamp timestamp"
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


def test_random_share_is_about_what_was_asked_for(spark):
    frame = spark.range(20_000).selectExpr(
        "cast(id % 100 as string) user", "cast(id as int) item", "1.0 rating", "null timestamp"
    )
    counts = Counter(parts(split_ratings(frame, Split(method="random", test_fraction=0.3), 5)).values())
    assert counts["test"] == pytest.approx(6_000, abs=260)  # 4 standard deviations


def test_temporal_cut_divides_past_from_future(ratings):
    found = split_ratings(ratings, Split(method="temporal", test_fraction=0.25), 5).collect()
    times = {part: [row["timestamp"] for row in found if row["part"] == part] for part in ("train", "test")}
    assert max(times["train"]) < min(times["test"])
    assert len(times["test"]) <= 0.25 * len(found)
    # one more second would have been too much
    latest_train = [t for t in times["train"] if t == max(times["train"])]
    assert len(times["test"]) + len(latest_train) > 0.25 * len(found)


def test_temporal_split_needs_timestamps(spark):
    with pytest.raises(ModelError, match="needs a timestamp"):
        split_ratings(spark.createDataFrame([("u", 1, 1.0, None)], SCHEMA), Split(method="temporal"), 1)


@pytest.mark.parametrize("method", ["leave_last", "random_per_user"])
@pytest.mark.parametrize("k", [1, 3])
def test_k_rows_of_each_user_are_held_out_but_never_all(ratings, method, k):
    found = parts(split_ratings(ratings, Split(method=method, rows_per_user=k), 5))
    total = Counter(user for user, _ in found)
    held_out = Counter(user for (user, _), part in found.items() if part == "test")
    assert {user: held_out[user] for user in total} == {
        user: min(k, count - 1) for user, count in total.items()
    }


def test_leave_last_holds_out_the_latest(spark):
    rows = [("a", 1, 1.0, at(30)), ("a", 2, 1.0, at(10)), ("a", 3, 1.0, at(20)), ("a", 4, 1.0, None)]
    found = parts(split_ratings(spark.createDataFrame(rows, SCHEMA), Split(rows_per_user=2), 5))
    assert {item for (_, item), part in found.items() if part == "test"} == {1, 3}


def test_holdout_users_holds_out_whole_users(ratings):
    found = parts(split_ratings(ratings, Split(method="holdout_users", test_fraction=0.4), 5))
    by_user: dict[str, set[str]] = {}
    for (user, _), part in found.items():
        by_user.setdefault(user, set()).add(part)
    assert {frozenset(p) for p in by_user.values()} >= {frozenset({"train"}), frozenset({"fold_in", "test"})}
    assert all(p == {"train"} or "train" not in p for p in by_user.values())


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
