"""Spark's own ALS behind the contract."""

from __future__ import annotations

import math

import pytest
from pyspark.ml.recommendation import ALS

from recsys_spark.errors import ModelError
from recsys_spark.models import MLlibALS
from recsys_spark.testing import ModelContract, checkerboard

SMALL = {"rank": 4, "maxIter": 8, "regParam": 0.01, "numUserBlocks": 2, "numItemBlocks": 2}


@pytest.mark.slow
@pytest.mark.long
class TestImplicit(ModelContract):
    def estimator(self):
        return MLlibALS(implicitPrefs=True, alpha=10.0, seed=3, **SMALL)


def test_predictions_are_sparks_own(spark):
    data = checkerboard(spark).coalesce(1)
    ours = MLlibALS(seed=3, **SMALL).fit(data).transform(data)
    sparks = ALS(seed=3, **SMALL).fit(data).transform(data)
    expected = {(row["user"], row["item"]): row["prediction"] for row in sparks.collect()}
    assert {(row["user"], row["item"]): row["prediction"] for row in ours.collect()} == {
        pair: pytest.approx(value, rel=1e-4) for pair, value in expected.items()
    }


def test_without_ratings_every_row_counts_one(spark):
    data = checkerboard(spark).coalesce(1)
    models = [
        MLlibALS(seed=3, **SMALL).fit(data),
        MLlibALS(seed=3, ratingCol="", **SMALL).fit(data.drop("rating")),
    ]
    rows = [sorted(map(str, model.itemFactors.collect())) for model in models]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("strategy", "rows"), [("nan", 2), ("drop", 1)])
def test_cold_start_strategy(spark, strategy, rows):
    model = MLlibALS(seed=3, coldStartStrategy=strategy, **SMALL).fit(checkerboard(spark))
    found = model.transform(spark.createDataFrame([(0, 0), (0, 555)], "user int, item int")).collect()
    assert len(found) == rows
    assert all(math.isnan(row["prediction"]) == (row["item"] == 555) for row in found)


def test_ids_of_an_unsupported_type_are_rejected(spark):
    data = spark.createDataFrame([(True, 1, 1.0)], "user boolean, item int, rating double")
    with pytest.raises(ModelError, match="'user' is boolean: ids must be whole numbers or texts"):
        MLlibALS().fit(data)
