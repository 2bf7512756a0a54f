"""The synthetic data set through Spark."""

from __future__ import annotations

from recsys_spark.data.synthetic import FROM, UNTIL, World, synthetic_inputs

WORLD = World(users=4_500, items=300, ratings=60_000, seed=3)  # three blocks of users


def test_same_rows_whatever_the_partitioning(spark):
    whole = synthetic_inputs(spark, WORLD).ratings
    first = {tuple(row) for row in whole.select("user", "item", "rating", "timestamp").collect()}
    other = {tuple(row) for row in whole.repartition(7).select("user", "item", "rating", "timestamp").collect()}
    assert first == other
    assert len(first) == whole.count()


def test_ratings_users_and_items_belong_together(spark):
    inputs = synthetic_inputs(spark, WORLD)
    users, items = ({row[0] for row in frame.collect()} for frame in (inputs.users, inputs.items))
    ratings = inputs.ratings.select("user", "item", "timestamp").collect()
    assert (len(users), len(items)) == (4_500, 300)
    assert {row["user"] for row in ratings} <= users
    assert {row["item"] for row in ratings} <= items
    assert min(row["timestamp"].timestamp() for row in ratings) >= FROM.timestamp()
    assert max(row["timestamp"].timestamp() for row in ratings) <= UNTIL.timestamp()
