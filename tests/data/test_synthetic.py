"""The synthetic data set through Spark."""

from __future__ import annotations

import numpy as np

from recsys_spark.data.synthetic import FROM, UNTIL, World, synthetic_inputs
from recsys_spark.kernels.synthetic import ratings_of_users

WORLD = World(users=4_500, items=300, ratings=60_000, seed=3)  # three blocks of users


def test_rows_are_those_of_one_block_whatever_the_partitions(spark):
    rows = synthetic_inputs(spark, WORLD).ratings.select("user", "item", "rating").collect()
    whole = ratings_of_users(WORLD, np.arange(WORLD.users))
    assert len(rows) == len(whole.user) == 60_000
    assert {tuple(row) for row in rows} == set(zip(whole.user + 1, whole.item + 1, whole.rating, strict=True))


def test_ratings_users_and_items_belong_together(spark):
    inputs = synthetic_inputs(spark, WORLD)
    users, items = ({row[0] for row in frame.collect()} for frame in (inputs.users, inputs.items))
    ratings = inputs.ratings.select("user", "item", "timestamp").collect()
    assert (len(users), len(items)) == (4_500, 300)
    assert {row["user"] for row in ratings} <= users
    assert {row["item"] for row in ratings} <= items
    assert min(row["timestamp"].timestamp() for row in ratings) >= FROM.timestamp()
    assert max(row["timestamp"].timestamp() for row in ratings) <= UNTIL.timestamp()
