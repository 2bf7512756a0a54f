"""Comparisons against theory, hand work and slow implementations of their definitions."""

from __future__ import annotations

import random

import pytest
from pyspark.sql import functions as F

from recsys_spark.evaluation.comparison import list_overlap, list_statistics, paired_bootstrap, score_drift
from recsys_spark.evaluation.hits import by_user, with_lists
from recsys_spark.evaluation.segments import age_band, with_activity
from recsys_spark.evaluation.users import user_metrics

LISTED = "user string, item string, rank int"


def slow_overlap(ours, theirs, p=0.9):
    """Rank-biased overlap as its equation has it, on lists cut to the shorter one."""
    k = min(len(ours), len(theirs))
    shared = [len(set(ours[:d]) & set(theirs[:d])) for d in range(1, k + 1)]
    terms = sum(x / d * p**d for d, x in enumerate(shared, 1))
    return shared[-1] / k * p**k + (1 - p) / p * terms


def ranked(spark, lists):
    rows = [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items, 1)]
    return spark.createDataFrame(rows, LISTED)


def test_overlap_is_what_its_equation_says(spark):
    draw = random.Random(5)
    ours, theirs = (
        {f"u{u}": draw.sample("abcdefghijklmno", draw.randint(1, 12)) for u in range(first, first + 30)}
        for first in (0, 10)
    )
    both = ours.keys() & theirs.keys()
    mean, users = list_overlap(ranked(spark, ours), ranked(spark, theirs))
    assert users == len(both) == 20
    assert mean == pytest.approx(sum(slow_overlap(ours[u], theirs[u]) for u in both) / len(both))


@pytest.mark.parametrize(
    ("theirs", "overlap"),
    [("abc", 1.0), ("xyz", 0.0), ("xbc", 2 / 3 * 0.729 + 0.1 / 0.9 * (0 + 0.5 * 0.81 + 2 / 3 * 0.729))],
)
def test_overlap_worked_by_hand(spark, theirs, overlap):
    frames = [ranked(spark, {"u": list(items)}) for items in ("abc", theirs)]
    assert list_overlap(*frames)[0] == pytest.approx(overlap)


def test_lists_of_nobody_in_common_have_no_overlap(spark):
    assert list_overlap(ranked(spark, {"u": ["a"]}), ranked(spark, {"v": ["a"]})) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "drift"),
    [([3.0, 5.0], [1.0, 3.0], 2.0), ([2.0], [2.0, 2.0], 0.0), ([3.0], [2.0, 2.0], None), ([], [1.0], None)],
)
def test_drift_worked_by_hand(spark, ours, theirs, drift):
    other = [("other", 99.0)]  # whose scores do not count
    frames = [
        spark.createDataFrame([*(("als", score) for score in scores), *other], "model string, score float")
        for scores in (ours, theirs)
    ]
    statistics = list_statistics(frames, "als")
    assert [one.rows for one in statistics] == [len(ours) + 1, len(theirs) + 1]
    assert score_drift(*statistics) == drift


@pytest.fixture(scope="module")
def flips(spark):
    """400 users: half gain 1, half lose 1; the first 100 are young, and all of them gain."""
    gain = "cast(if(id < 100 OR id >= 300, 1, -1) as double) gain"
    return spark.range(0, 400, 1, 3).selectExpr(
        "id AS user", gain, "0.25D same", "if(id < 100, 'young', null) age"
    )


def of(found):
    return {(one.column, one.segment): one for one in found}


def test_mean_gain_and_its_interval_are_what_theory_says(flips):
    """The mean of 400 flips of 1 and -1 has a standard error of 0.05."""
    found = of(paired_bootstrap(flips, ["gain", "same"], ["age"], 2_000, seed=1))
    assert set(found) == {(c, s) for c in ("gain", "same") for s in ("all", "age=young")}
    gain = found["gain", "all"]
    assert (gain.mean, gain.users) == (0.0, 400)
    low, high = gain.interval()
    assert (low, high) == (pytest.approx(-1.96 * 0.05, abs=0.01), pytest.approx(1.96 * 0.05, abs=0.01))
    low, high = gain.interval(0.5)
    assert high - low == pytest.approx(2 * 0.6745 * 0.05, rel=0.12)
    young = found["gain", "age=young"]
    assert (young.mean, young.users) == (1.0, 100)
    assert young.interval() == (pytest.approx(1.0), pytest.approx(1.0))
    assert found["same", "all"].interval() == (pytest.approx(0.25), pytest.approx(0.25))


def test_bootstrap_is_the_same_on_any_partitioning(flips):
    found = [paired_bootstrap(flips.repartition(n), ["gain"], [], 200, seed=3)[0] for n in (1, 5)]
    assert found[0].resampled == pytest.approx(found[1].resampled, abs=1e-12)
    assert found[0].resampled != pytest.approx(
        paired_bootstrap(flips, ["gain"], [], 200, seed=4)[0].resampled, abs=1e-12
    )


def test_metrics_of_each_user_worked_by_hand(spark):
    schema = "id string, recommendations array<struct<item: int, score: float>>"
    lists = {"ann": [4, 5, 6, 7], "bob": [3, 1], "eve": [1]}
    mine = spark.createDataFrame([(u, [(i, 0.0) for i in items]) for u, items in lists.items()], schema)
    relevant = spark.createDataFrame(
        [("ann", 5), ("ann", 7), ("bob", 9), ("cid", 1)], "user string, item int"
    )
    rows = user_metrics(
        with_lists({"mine": mine, "none": mine.limit(0)}, by_user(relevant)), ["mine", "none"], 3
    ).collect()
    found = {(row["model"], row["user"]): row for row in rows}
    assert set(found) == {(m, u) for m in ("mine", "none") for u in ("ann", "bob", "cid")}
    ann = found["mine", "ann"]  # of 5 and 7 the first, at rank 2; 7 is at rank 4
    assert (ann.hit_rate, ann.precision, ann.recall, ann.mrr) == (1, pytest.approx(1 / 3), 0.5, 0.5)
    assert ann.map == pytest.approx(0.5 / 2)
    assert all(found["mine", user].ndcg == 0 for user in ("bob", "cid"))
    assert all(found["none", user].hit_rate == 0 for user in ("ann", "bob", "cid"))


@pytest.mark.parametrize(
    "rows", [[1, 1, 1, 1], [8, 1, 2, 7, 3, 6, 4, 5], [0, 3, 0, 2, 5, 2, 2, 9, 4], [0, 0]]
)
def test_activity_divides_known_users_into_quarters(spark, rows):
    users = spark.createDataFrame([(f"u{n:02d}",) for n in range(len(rows))], "user string")
    known = [(f"u{n:02d}", count) for n, count in enumerate(rows) if count]
    found = with_activity(users, spark.createDataFrame(known, "user string, ratings int")).collect()
    activity = {row["user"]: row["activity"] for row in found}
    ordered = sorted(count for count in rows if count)
    for n, count in enumerate(rows):
        up_to = sum(other <= count for other in ordered) / max(len(ordered), 1)
        quarter = "q4" if up_to > 0.75 else "q3" if up_to > 0.5 else "q2" if up_to > 0.25 else "q1"
        assert activity[f"u{n:02d}"] == (quarter if count else "new")


def test_bands_of_age(spark):
    ages = spark.createDataFrame([(age,) for age in (None, 0, 17, 18, 34, 54, 55, 99)], "age int")
    found = [row[0] for row in ages.select(age_band(F.col("age"))).collect()]
    assert found == [None, "under 18", "under 18", "18-24", "25-34", "45-54", "55 and over", "55 and over"]
