"""Side features of any columns: what a cell is as each type, in each format."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import types as T

from recsys_spark.config import Columns, Delimited, FileSource, SideTable
from recsys_spark.data.cleaning import HEADER_LINE, clean_side_table
from recsys_spark.data.features import feature_types
from recsys_spark.data.sources import read_source
from recsys_spark.errors import SourceError
from recsys_spark.schema import RAW, REASON, SOURCE_FILE

NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


def cleaned(spark, folder, **side):
    """Item → its row, of a side table."""
    (folder / "ratings.csv").write_text("user,item\nu,i\n")
    table = SideTable(id="id", **side)
    source = FileSource(format="csv", path=str(folder / "ratings.csv"), columns=Columns(), items=table)
    frame = clean_side_table(read_source(spark, source).items, "item", "string", table.types)
    return {row["item"]: row for row in frame.collect() if row[REASON] != HEADER_LINE}, frame


def features(row):
    return {
        name: value for name, value in row.asDict().items() if name not in ("item", REASON, RAW, SOURCE_FILE)
    }


TYPES = {
    "price": "double",
    "stock": "bigint",
    "launched": "date",
    "changed": "timestamp",
    "sold_out": "boolean",
    "tags": "array<string>",
    "vector": "array<float>",
}
HEADER = "id,name,price,stock,launched,changed,sold_out,tags,vector"
EXPECTED = {
    "name": "Tea, green",
    "price": 4.5,
    "stock": 3_000_000_000,
    "launched": date(2024, 1, 31),
    "changed": NOON,
    "sold_out": False,
    "tags": ["leaf", "loose"],
    "vector": [0.5, -1.0],
}


def checked(row, expected=None):
    found = features(row)
    if found.get("changed") is not None:
        found["changed"] = found["changed"].astimezone(UTC)
    assert row[REASON] is None
    assert found == (expected or EXPECTED)


@pytest.mark.parametrize(
    "line",
    [
        'a,"Tea, green",4.5,3000000000,2024-01-31,2024-01-31T12:00:00Z,false,leaf|loose,0.5|-1',
        'a,"Tea, green",4.50,3000000000.0,20240131,1706702400,0,"leaf|loose|","[0.5, -1.0]"',
        'a,"Tea, green",4.5e0,3e9,2024-01-31 07:00:00,2024-01-31 12:00:00,no,leaf|loose,[ 0.5 -1. ]',
    ],
)
def test_csv(spark, tmp_path, line):
    (tmp_path / "items.csv").write_text(f"{HEADER}\n{line}\n")
    columns = {name: name for name in HEADER.split(",")[1:]}
    rows, _ = cleaned(spark, tmp_path, path=str(tmp_path / "items.csv"), columns=columns, types=TYPES)
    checked(rows["a"])


def test_csv_with_decimal_commas(spark, tmp_path):
    lines = "a;1.234;;\nb;4,5;0,5|-1,5;\nc;;[0,5 1];7,0\nd;1;0.5;\ne;1;;1.000\n"
    (tmp_path / "items.csv").write_text(f"id;price;vector;stock\n{lines}")
    types = {"price": "double", "vector": "array<float>", "stock": "int"}
    columns = {name: name for name in types}
    text = Delimited(delimiter=";", decimal=",")
    rows, _ = cleaned(
        spark, tmp_path, path=str(tmp_path / "items.csv"), text=text, columns=columns, types=types
    )
    checked(rows["b"], {"price": 4.5, "vector": [0.5, -1.5], "stock": None})
    checked(rows["c"], {"price": None, "vector": [0.5, 1.0], "stock": 7})
    reasons = {item: rows[item][REASON] for item in "ade"}
    assert reasons == {"a": "unparsable_price", "d": "unparsable_vector", "e": "unparsable_stock"}


def test_seconds_since_1970_are_a_time_in_parquet_too(spark, tmp_path):
    table = pa.table({"id": ["a"], "changed": [int(NOON.timestamp())], "launched": [int(NOON.timestamp())]})
    pq.write_table(table, tmp_path / "items.parquet")
    types = {"changed": "timestamp", "launched": "date"}
    columns = {name: name for name in types}
    path = str(tmp_path / "items.parquet")
    rows, _ = cleaned(spark, tmp_path, path=path, format="parquet", columns=columns, types=types)
    checked(rows["a"], {"changed": NOON, "launched": date(2024, 1, 31)})


def test_json(spark, tmp_path):
    row = {
        "id": "a",
        "name": "Tea, green",
        "price": 4.5,
        "stock": 3_000_000_000,
        "launched": "2024-01-31",
        "changed": 1_706_702_400_000,
        "sold_out": False,
        "tags": ["leaf", "loose"],
        "vector": [0.5, -1],
    }
    (tmp_path / "items.json").write_text(json.dumps(row) + "\n")
    columns = {name: name for name in row if name != "id"}
    rows, _ = cleaned(
        spark, tmp_path, path=str(tmp_path / "items.json"), format="json", columns=columns, types=TYPES
    )
    checked(rows["a"])


def test_parquet_has_the_types_of_its_columns(spark, tmp_path):
    table = pa.table(
        {
            "id": pa.array(["a", "b"]),
            "name": pa.array(["Tea, green", None]),
            "price": pa.array([4.5, np.nan], pa.float32()),
            "stock": pa.array([3_000_000_000, None], pa.int64()),
            "launched": pa.array([date(2024, 1, 31), None]),
            "changed": pa.array([NOON, None], pa.timestamp("us", "UTC")),
            "sold_out": pa.array([False, None]),
            "tags": pa.array([["leaf", None, "loose"], None]),
            "vector": pa.array([[0.5, -1.0], None], pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    columns = {name: name for name in HEADER.split(",")[1:]}
    rows, frame = cleaned(
        spark, tmp_path, path=str(tmp_path / "items.parquet"), format="parquet", columns=columns
    )
    checked(rows["a"])
    checked(rows["b"], dict.fromkeys(EXPECTED))
    kinds = dict(frame.dtypes)
    assert {name: kinds[name] for name in TYPES} == TYPES


def test_declared_types_of_parquet(spark, tmp_path):
    frame = pd.DataFrame(
        {
            "id": [1, 2],
            "stock": [3.0, np.nan],
            "launched": ["2024-01-31", None],
            "code": [7, 8],
            "kind": ["x|y", ""],
        }
    )
    frame.to_parquet(tmp_path / "items.parquet")
    types = {"stock": "int", "launched": "date", "code": "string", "kind": "array<string>"}
    rows, _ = cleaned(
        spark,
        tmp_path,
        path=str(tmp_path / "items.parquet"),
        format="parquet",
        columns={name: name for name in types},
        types=types,
    )
    checked(rows["1"], {"stock": 3, "launched": date(2024, 1, 31), "code": "7", "kind": ["x", "y"]})
    checked(rows["2"], {"stock": None, "launched": None, "code": "8", "kind": []})


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("price", "cheap"),
        ("price", "inf"),
        ("price", "4d"),
        ("stock", "3.5"),
        ("stock", "9223372036854775808"),
        ("launched", "someday"),
        ("launched", "31.01.2024"),
        ("changed", "12:30"),
        ("sold_out", "maybe"),
        ("vector", "0.5|x"),
        ("vector", "0.5|nan"),
    ],
)
def test_cell_of_another_type_rejects_its_row(spark, tmp_path, name, cell):
    (tmp_path / "items.csv").write_text(f"id,{name}\na,{cell}\nb,\nc,NaN\n")
    rows, _ = cleaned(
        spark, tmp_path, path=str(tmp_path / "items.csv"), columns={name: name}, types={name: TYPES[name]}
    )
    reasons = {item: row[REASON] for item, row in rows.items()}
    assert reasons == {"a": f"unparsable_{name}", "b": None, "c": None}
    assert rows["b"][name] is None
    assert rows["c"][name] is None


@pytest.mark.parametrize(
    ("kind", "declared", "message"),
    [
        (T.MapType(T.StringType(), T.StringType()), None, r"'x' is map<string,string>: features are texts"),
        (T.ArrayType(T.ArrayType(T.FloatType())), None, r"'x' is array<array<float>>: features"),
        (T.BinaryType(), None, r"'x' is binary"),
        (T.BooleanType(), "double", r"'x' is boolean, which cannot be read as double"),
        (T.ArrayType(T.StringType()), "string", r"'x' is array<string>, which cannot be read as string"),
        (T.DateType(), "bigint", r"'x' is date, which cannot be read as bigint"),
    ],
)
def test_column_that_is_no_feature_is_named(kind, declared, message):
    with pytest.raises(SourceError, match=message):
        feature_types({"x": kind}, {"x": declared} if declared else {})
