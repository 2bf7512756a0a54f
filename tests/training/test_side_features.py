"""Side features as names with weights."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError
from recsys_spark.training.side_features import Features, entries_of, scales_of


def test_columns_of_every_kind_as_names_and_weights(spark):
    rows = [
        (1, "x", 10.0, ["b", "a", "b", None], True),
        (2, None, 14.0, [], None),
        (3, "y", float("nan"), None, False),
        (None, "x", 10.0, None, None),
    ]
    frame = spark.createDataFrame(
        rows, "id int, text string, number double, many array<string>, flag boolean"
    )
    columns = ["text", "number", "many", "flag"]
    scales = scales_of(frame, columns)
    # 10, 14 and the 10 of the row without an id: mean 34/3, deviation sqrt(32/9)
    assert scales == {"number": [34 / 3, np.sqrt(32 / 9)]}
    found = {}
    for row in entries_of(frame, F.col("id"), columns, scales).collect():
        found[row.id] = {name: round(weight, 4) for name, weight in zip(row.names, row.weights, strict=True)}
    assert found == {
        1: {"text=x": 1.0, "number": -0.7071, "many=a": 0.5, "many=b": 0.5, "flag=true": 1.0},
        2: {"number": 1.4142},
        3: {"text=y": 1.0, "flag=false": 1.0},
    }


def test_a_column_of_one_number_is_zero_everywhere(spark):
    frame = spark.createDataFrame([(1, 7), (2, 7)], "id int, year int")
    scales = scales_of(frame, ["year"])
    weights = [row.weights for row in entries_of(frame, F.col("id"), ["year"], scales).collect()]
    assert weights == [[0.0], [0.0]]


def test_days_and_embeddings_are_weights(spark):
    rows = [
        (1, date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), [3.0, 4.0]),
        (2, date(2024, 1, 3), datetime(2024, 1, 1, 12, tzinfo=UTC), [0.0, 0.0]),
        (3, None, None, None),
    ]
    frame = spark.createDataFrame(rows, "id int, day date, at timestamp, vector array<float>")
    columns = ["day", "at", "vector"]
    scales = scales_of(frame, columns)
    # 1 January 2024 is day 19,723; lengths 5 and 0 have the mean square 12.5
    assert scales == {"day": [19_724.0, 1.0], "at": [19_723.25, 0.25], "vector": [0.0, np.sqrt(12.5)]}
    found = {
        row.id: dict(zip(row.names, row.weights, strict=True))
        for row in entries_of(frame, F.col("id"), columns, scales).collect()
    }
    length = np.sqrt(12.5)
    first = {
        "day": -1.0,
        "at": -1.0,
        "vector[0]": pytest.approx(3 / length),
        "vector[1]": pytest.approx(4 / length),
    }
    assert found == {1: first, 2: {"day": 1.0, "at": 1.0, "vector[0]": 0.0, "vector[1]": 0.0}, 3: {}}


def test_embeddings_of_several_lengths_are_refused(spark):
    frame = spark.createDataFrame([(1, [1.0]), (2, [1.0, 2.0, 3.0])], "id int, vector array<float>")
    with pytest.raises(ModelError, match="'vector' has embeddings of 1 to 3 numbers"):
        scales_of(frame, ["vector"])


def entries():
    lists = [["a", "b"], ["b"], ["unknown"]], [[0.5, 2.0], [1.0], [9.0]]
    columns = [pa.array([30, 10, 20]), pa.array(lists[0]), pa.array(lists[1], pa.list_(pa.float32()))]
    return pa.table(columns, names=["id", "names", "weights"])


def test_sums_of_features_and_their_gradients():
    features = Features.build(pa.array([10, 20, 30, 40]), entries(), pa.array(["a", "b", "c"]))
    dense = np.array([[0, 1, 0], [0, 0, 0], [0.5, 2, 0], [0, 0, 0]], np.float32)
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = np.array([2, 0])
    np.testing.assert_allclose(features.sums(rows, table), dense[rows] @ table)
    assert features.columns_of(rows).tolist() == [0, 1]
    gradients = np.array([[1, 2], [3, 4]], np.float32)
    some = np.array([1, 2], np.int32)
    np.testing.assert_allclose(
        features.sums_backward(rows, gradients, some), (dense[rows].T @ gradients)[some]
    )


def test_no_features_sum_to_nothing():
    assert Features.none(3).sums(slice(None), np.zeros((0, 2), np.float32)).tolist() == [[0, 0]] * 3
