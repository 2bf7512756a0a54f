"""Exploring, against formulas written otherwise and counts by hand; test_real_data has published ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from recsys_spark.inspection.exploring import (
    MOST_BARS,
    gini,
    long_tail,
    overview,
    rating_histogram,
    users_by,
)


def counted(numbers):
    values, entities = np.unique(numbers, return_counts=True)
    return pd.DataFrame({"ratings": values, "entities": entities})


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60))
def test_gini_is_the_mean_difference_of_two_over_twice_the_mean(numbers):
    numbers = np.array(numbers, float)
    differences = np.abs(numbers[:, None] - numbers[None, :]).mean()
    assert gini(counted(numbers)) == pytest.approx(differences / (2 * numbers.mean()), abs=1e-9)


def test_the_curve_of_the_long_tail_is_that_of_the_sorted_list():
    numbers = np.array([1, 1, 2, 6])
    curve = long_tail(counted(numbers))
    listed = np.cumsum(numbers) / numbers.sum()
    for so_many, share in enumerate(listed, 1):
        assert np.interp(so_many / 4, *curve.to_numpy().T) == pytest.approx(share)


def test_a_fractional_rating_is_in_one_of_fifty_equal_parts(spark):
    """Of 0.00, 0.01 … 10.00 each part of 0.2 has twenty, and the last has the end of the range too."""
    ratings = spark.range(1001).select(F.lit("i").alias("item"), (F.col("id") / 100).alias("rating"))
    bars = rating_histogram(ratings)
    assert len(bars) == MOST_BARS
    assert bars["ratings"].sum() == 1001
    assert bars["ratings"].iloc[-1] == 21
    assert bars["rating"].tolist() == pytest.approx(np.arange(MOST_BARS) * 0.2)


@pytest.mark.parametrize("different", [49, 50])
def test_up_to_fifty_ratings_are_bars_of_their_own(spark, different):
    ratings = spark.range(1, 1 + different).select(
        F.lit("i").alias("item"), (F.col("id") / 10).alias("rating")
    )
    assert rating_histogram(ratings)["rating"].tolist() == [at / 10 for at in range(1, 1 + different)]


def test_a_genre_that_is_named_twice_counts_once_and_none_is_all(spark):
    ratings = spark.createDataFrame([("i", 5.0), ("j", 3.0)], "item string, rating double")
    items = spark.createDataFrame([("i", ["War", "War", "all"])], "item string, genres array<string>")
    assert rating_histogram(ratings, items).to_numpy().tolist() == [
        ["all", 3.0, 1],
        ["all", 5.0, 1],
        ["War", 5.0, 1],
    ]


def test_ages_that_are_texts_are_told_as_they_are(spark):
    users = spark.createDataFrame([(1, "25-34"), (2, "25-34"), (3, None)], "user int, age string")
    assert users_by(users, "age").to_numpy().tolist() == [["25-34", 2], ["unknown", 1]]


def test_who_and_what_has_no_rating_is_counted(spark):
    ratings = spark.createDataFrame(
        [(1, 10, 4.0, None)], "user int, item int, rating double, timestamp timestamp"
    )
    users, items = spark.range(1, 4).toDF("user"), spark.range(9, 14).toDF("item")
    row = overview(ratings, users, items).iloc[0]
    assert (row["users_without_ratings"], row["items_without_ratings"]) == (2, 4)
    assert row["first"] is None
