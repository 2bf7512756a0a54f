"""Negatives on Spark: the rows of the result, whatever the partitioning."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError
from recsys_spark.sampling import NegativeSampler

SCHEMA = "user long, item string, note string"


def pairs_of(seed=0, users=20, items=30, each=6):
    rng = np.random.default_rng(seed)
    return [
        (u, f"item {i}", f"{u} likes {i}")
        for u in range(users)
        for i in rng.choice(items, each, replace=False)
    ]


@pytest.fixture(scope="module")
def positives(spark):
    return spark.createDataFrame(pairs_of(), SCHEMA).coalesce(1).cache()


def split(rows):
    return [row for row in rows if row.label == 1], [row for row in rows if row.label == 0]


@pytest.mark.parametrize("strategy", ["uniform", "popularity", "in-batch"])
def test_positives_come_back_each_with_its_negatives(positives, strategy):
    liked, negatives = split(
        NegativeSampler(strategy=strategy, ratio=3, batchSize=40).transform(positives).collect()
    )
    given = {(row.user, row.item) for row in positives.collect()}
    assert {(row.user, row.item, row.note) for row in liked} == {tuple(row) for row in positives.collect()}
    assert all((row.user, row.item) not in given for row in negatives)
    by_positive = Counter((row.user, row.note) for row in negatives)
    assert set(by_positive) == {(row.user, row.note) for row in liked}
    assert sum(by_positive.values()) + sum(row.shortfall for row in liked) == 3 * len(liked)
    assert len({(row.note, row.item) for row in negatives}) == len(negatives)


@pytest.mark.parametrize("strategy", ["uniform", "popularity", "in-batch"])
def test_negatives_do_not_depend_on_the_partitioning_but_on_the_epoch(positives, strategy):
    sampler = NegativeSampler(strategy=strategy, ratio=2.5, seed=4, batchSize=40)
    once = sorted(sampler.transform(positives).collect())
    scattered = positives.orderBy(F.xxhash64("note")).repartition(5)
    assert sorted(sampler.transform(scattered).collect()) == once
    assert sorted(sampler.copy({sampler.epoch: 1}).transform(positives).collect()) != once


def test_history_is_not_drawn_and_counts_for_popularity(spark, positives):
    history = spark.createDataFrame(
        [(u, f"item {i}") for u in range(20) for i in range(15)], "user int, item string"
    )
    sampler = NegativeSampler(strategy="popularity", popularityExponent=1.0, history=history)
    liked, negatives = split(sampler.transform(positives).collect())
    assert len(negatives) == len(liked)
    assert all(int(row.item.split()[1]) >= 15 for row in negatives)
    items = {row.item for row in positives.collect()} | {f"item {i}" for i in range(15)}
    weights = {item: 20 if int(item.split()[1]) < 15 else 1 for item in items}
    for row in liked:
        assert row.log_q == pytest.approx(np.log(weights[row.item] / sum(weights.values())), abs=1e-5)
    taken = {
        u: {r.item for r in positives.collect() if r.user == u} | {f"item {i}" for i in range(15)}
        for u in range(20)
    }
    for row in negatives:
        left = sum(weight for item, weight in weights.items() if item not in taken[row.user])
        assert row.log_q == pytest.approx(np.log(1 / left), abs=1e-4)


def test_in_batch_negatives_are_positives_of_others_in_the_batch(spark):
    rows = [(u, f"item {u}", "") for u in range(40)] + [(u, "item 0", "") for u in range(1, 21)]
    sampler = NegativeSampler(strategy="in-batch", batchSize=1000, ratio=2)
    _, negatives = split(sampler.transform(spark.createDataFrame(rows, SCHEMA)).collect())
    for row in negatives:
        own = 1 + (21 if row.user <= 20 else 0) - (row.user == 0)
        assert row.log_q == pytest.approx(np.log((21 if row.item == "item 0" else 1) / (60 - own)), abs=1e-4)


def test_hard_negatives_are_the_best_scored_unseen_items(spark, positives):
    rng = np.random.default_rng(1)
    x = {u: rng.normal(size=3).tolist() for u in range(20)}
    y = {f"item {i}": rng.normal(size=3).tolist() for i in range(30)}
    model = SimpleNamespace(
        userFactors=spark.createDataFrame(list(x.items()), "id int, features array<float>"),
        itemFactors=spark.createDataFrame(list(y.items()), "id string, features array<float>"),
    )
    everything = spark.createDataFrame([(item,) for item in y], "item string")
    sampler = NegativeSampler(strategy="hard", model=model, catalogue=everything, numCandidates=30)
    liked, negatives = split(sampler.transform(positives).collect())
    taken = {u: {row.item for row in liked if row.user == u} for u in range(20)}
    assert len(negatives) == len(liked)
    for row in negatives:
        assert row.item == max(set(y) - taken[row.user], key=lambda item: np.dot(x[row.user], y[item]))


def test_too_few_unseen_items_are_counted_or_rejected(spark):
    rows = [(1, f"item {i}", "") for i in range(4)] + [(2, "item 0", "")]
    frame = spark.createDataFrame(rows, SCHEMA)
    catalogue = spark.createDataFrame([(f"item {i}",) for i in range(6)], "item string")
    liked, negatives = split(NegativeSampler(ratio=5, catalogue=catalogue).transform(frame).collect())
    assert {(row.user, row.shortfall) for row in liked} == {(1, 3), (2, 0)}
    assert Counter(row.user for row in negatives) == {1: 8, 2: 5}
    assert {row.item for row in negatives if row.user == 1} == {"item 4", "item 5"}
    with pytest.raises(
        Exception, match="user 1 has too few unseen items: 5 negatives are wanted for a positive, 2 are left"
    ):
        NegativeSampler(ratio=5, catalogue=catalogue, onExhausted="error").transform(frame).collect()


def test_ratio_may_be_a_fraction_or_a_column(spark, positives):
    counts = Counter(row.note for row in split(NegativeSampler(ratio=1.5).transform(positives).collect())[1])
    assert set(counts.values()) == {1, 2}
    assert sum(counts.values()) == pytest.approx(1.5 * 120, rel=0.15)
    wanted = positives.withColumn("n", (F.col("user") % 3 + 1))
    _, negatives = split(NegativeSampler(ratioCol="n").transform(wanted).collect())
    assert all(count == n for (_, n), count in Counter((row.note, row.n) for row in negatives).items())


def test_only_items_of_the_catalogue_are_drawn(spark, positives):
    catalogue = spark.createDataFrame(
        [("item 3",), ("item 4",), ("something new",), ("something new",)], "item string"
    )
    liked, negatives = split(NegativeSampler(catalogue=catalogue).transform(positives).collect())
    assert len(liked) == 120
    assert {row.item for row in negatives} <= {"item 3", "item 4", "something new"}
    assert "something new" in {row.item for row in negatives}
    assert all((row.log_q is None) == (row.item not in ("item 3", "item 4")) for row in liked)


@pytest.mark.parametrize(
    ("rows", "params", "message"),
    [
        ([(None, "a", "")], {}, "'user' has null ids"),
        ([(1, None, "")], {}, "'item' has null ids"),
        ([(1, "a", "")], {"itemCol": "things"}, "column 'things' is not there"),
        ([(1, "a", "")], {"ratio": 0.5}, "ratio must be at least 1"),
        ([(1, "a", "")], {"strategy": "popular"}, "strategy must be one of uniform"),
        ([(1, "a", "")], {"strategy": "hard"}, "hard needs a model"),
        ([(0, "a", "")], {"ratioCol": "user"}, "number of negatives must be at least 1, found 0"),
    ],
)
def test_bad_input_is_rejected_with_a_message(spark, rows, params, message):
    with pytest.raises(Exception, match=message):
        NegativeSampler(**params).transform(spark.createDataFrame(rows, SCHEMA)).collect()


@pytest.mark.parametrize("name", ["label", "Label", "LOG_Q"])
def test_columns_of_the_result_must_be_free(positives, name):
    with pytest.raises(ModelError, match=f"'{name}' already"):
        NegativeSampler().transform(positives.withColumn(name, F.lit(1)))


@pytest.mark.parametrize("name", ["Bucket", "__batch", "ratio", "own 0", "user id", "item.price"])
def test_own_columns_of_any_name_come_back(positives, name):
    data = positives.withColumn(name, F.col("user") * 2)
    rows = NegativeSampler(strategy="in-batch").transform(data)
    assert rows.columns == [*data.columns, "label", "log_q", "shortfall"]
    assert rows.where(f"`{name}` = user * 2").count() == rows.count() > data.count()


@pytest.mark.parametrize("name", ["n", "own", "listed", "bucket", "id"])
def test_items_may_be_called_anything(positives, name):
    renamed = positives.withColumnRenamed("item", name)
    sampler = NegativeSampler(itemCol=name, history=renamed, catalogue=renamed)
    expected = NegativeSampler(history=positives, catalogue=positives).transform(positives)
    assert sorted(map(tuple, sampler.transform(renamed).collect()), key=str) == sorted(
        map(tuple, expected.collect()), key=str
    )


def test_times_come_back_as_they_were(positives):
    when = F.timestamp_seconds(F.lit(1_700_000_000) + F.col("user"))
    timed = positives.withColumns(
        {"at": when, "days": F.array(F.to_date(when)), "local": when.cast("timestamp_ntz")}
    )
    told = {row["user"]: (row["at"], row["days"], row["local"]) for row in timed.collect()}
    rows = NegativeSampler(strategy="uniform", ratio=1).transform(timed).collect()
    assert len(rows) == 2 * timed.count()
    assert all((row["at"], row["days"], row["local"]) == told[row["user"]] for row in rows)


def test_ids_of_any_numeric_type_keep_it_and_fractions_are_rejected(spark):
    data = spark.sql("SELECT cast(id % 4 AS double) AS user, cast(id AS decimal(9, 2)) AS item FROM range(8)")
    rows = NegativeSampler().transform(data)
    assert rows.dtypes[:2] == [("user", "double"), ("item", "decimal(9,2)")]
    assert {float(row["item"]) for row in rows.where("label = 0").collect()} <= set(range(8))
    for column in ("user", "item"):
        with pytest.raises(ModelError, match=f"column '{column}' has null ids, or .* with a fraction"):
            NegativeSampler().transform(data.withColumn(column, F.col(column) + 0.5))


@pytest.mark.parametrize("value", ["interval 3 months", "make_interval(1, 2, 3)", "array()"])
def test_columns_that_cannot_be_repeated_are_named(positives, value):
    with pytest.raises(ModelError, match=r"column 'x' is .*, which the sampler cannot repeat"):
        NegativeSampler().transform(positives.withColumn("x", F.expr(value)))


def test_params_are_saved(spark, tmp_path):
    NegativeSampler(strategy="popularity", popularityExponent=0.5, ratio=4, seed=7).save(
        str(tmp_path / "sampler")
    )
    again = NegativeSampler.load(str(tmp_path / "sampler"))
    assert (
        again.getOrDefault("strategy"),
        again.getOrDefault("popularityExponent"),
        again.getOrDefault("ratio"),
    ) == (
        "popularity",
        0.5,
        4.0,
    )
