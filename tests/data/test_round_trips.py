"""Random tables, written in every dialect that the configuration can name by those who write such files, come
back as they were.
"""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recsys_spark.config import Delimited
from recsys_spark.data.cleaning import Rules
from tests.data.reading import read

RANDOM = settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink a table takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# texts

TEXTS = [
    "plain",
    'a "b" c',
    '"x"',
    "back\\slash",
    "\\",
    'end "',
    "comma, inside",
    "\\N?",
    "dé",
    " sp ",
    "tab\tin",
    '\\"',
]


def by_spark(spark, path, values, **options):
    frame = spark.createDataFrame([(str(k), v) for k, v in enumerate(values)], "item string, user string")
    plain = {"header": True, "ignoreLeadingWhiteSpace": False, "ignoreTrailingWhiteSpace": False, **options}
    frame.coalesce(1).write.csv(str(path), **plain)


def by_python(spark, path, values, **options):
    path.mkdir()
    with (path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", **options)
        writer.writerow(["item", "user"])
        writer.writerows((str(k), v) for k, v in enumerate(values))


def by_pandas(spark, path, values, **options):
    path.mkdir()
    frame = pd.DataFrame({"item": [str(k) for k in range(len(values))], "user": values})
    frame.to_csv(path / "a.csv", index=False, lineterminator="\n", **options)


def by_pyarrow(spark, path, values):
    path.mkdir()
    table = pa.table({"item": [str(k) for k in range(len(values))], "user": values})
    pacsv.write_csv(table, path / "a.csv")


DIALECTS = {
    "spark": (by_spark, {}, Delimited(escape="\\")),
    "spark, quotes doubled": (by_spark, {"escape": '"'}, Delimited()),
    "spark, tabs": (by_spark, {"sep": "\t"}, Delimited(delimiter="\t", escape="\\")),
    "spark, two characters": (by_spark, {"sep": "||"}, Delimited(delimiter="||", escape="\\")),
    "python": (by_python, {}, Delimited()),
    "python, all quoted": (by_python, {"quoting": csv.QUOTE_ALL}, Delimited()),
    "python, single quotes": (
        by_python,
        {"quotechar": "'", "delimiter": ";"},
        Delimited(quote="'", delimiter=";"),
    ),
    "python, escapes only": (
        by_python,
        {"quoting": csv.QUOTE_NONE, "escapechar": "\\", "quotechar": None},
        Delimited(quote="", escape="\\"),
    ),
    "pandas": (by_pandas, {}, Delimited()),
    "pandas, strings quoted": (by_pandas, {"quoting": csv.QUOTE_NONNUMERIC}, Delimited()),
    "pyarrow": (by_pyarrow, {}, Delimited()),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_texts_come_back_as_they_were_written(spark, tmp_path, dialect):
    writer, options, text = DIALECTS[dialect]
    writer(spark, tmp_path / "t", TEXTS, **options)
    rows = read(spark, tmp_path / "t", text=text)
    assert {row["item"]: row["user"] for row in rows} == {str(k): text for k, text in enumerate(TEXTS)}


characters = st.sampled_from("ab\"'\\,;|\t .0N\u00e9\u2028\U0001f600")
texts = st.text(characters, min_size=1, max_size=8).filter(lambda text: text.strip(" \t") != "")


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@RANDOM
@given(values=st.lists(texts, min_size=40, max_size=120))
def test_a_text_is_read_as_written_or_rejected(spark, tmp_path_factory, dialect, values):
    writer, options, text = DIALECTS[dialect]
    folder = tmp_path_factory.mktemp("dialect") / "t"
    writer(spark, folder, values, **options)
    rows = read(spark, folder, text=text)
    assert len(rows) == len(values)
    for row in rows:
        if row["reason"] is None:
            assert row["user"] in (values[int(row["item"])], _number(values[int(row["item"])]))
        else:
            assert row["reason"] in (
                "malformed_line",
                "wrong_column_count",
                "unparsable_user",
                "missing_user",
            )
    odd = [value for value in values if "\\\\" in value or "." in value or value == "\\N"]
    assert sum(row["reason"] is not None for row in rows) <= len(odd) + _unbalanced(values, text)


def _number(text):
    """``17.0`` in a text file is the integer 17."""
    try:
        return str(int(float(text))) if float(text).is_integer() else None
    except ValueError:
        return None


def _unbalanced(values, text):
    """Texts with an odd quote that a writer may leave unquoted."""
    return sum(value.count(text.quote) % 2 for value in values) if text.quote else 0


# numbers and times

IDS = st.integers(-(2**63), 2**63 - 1)
RATINGS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(datetime(1974, 1, 1), datetime(2100, 1, 1))
TABLES = st.lists(st.tuples(IDS, IDS, RATINGS, TIMES), min_size=20, max_size=60)
FAR = Rules(run_date=date(2199, 1, 1), user_type="long", item_type="long")


def micros_of(time):
    return (time - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def columns_of(rows, numbered):
    """Columns of a table; times as they are, or as microseconds since 1970."""
    user, item, rating, time = map(list, zip(*rows, strict=True))
    at = [micros_of(t) for t in time] if numbered else time
    return {"user": user, "item": item, "rating": rating, "at": at}


def spark_frame(spark, columns, numbered):
    kind = "bigint" if numbered else "timestamp"
    times = [t if numbered else t.replace(tzinfo=UTC) for t in columns["at"]]
    rows = list(zip(columns["user"], columns["item"], columns["rating"], times, strict=True))
    return spark.createDataFrame(rows, f"user bigint, item bigint, rating double, at {kind}").coalesce(1)


def csv_of_pandas(spark, path, columns, numbered, **options):
    pd.DataFrame(columns).to_csv(path, index=False, **options)


def csv_of_python(spark, path, columns, numbered):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def csv_of_pyarrow(spark, path, columns, numbered):
    pacsv.write_csv(pa.table(columns), path)


TO_THE_MICROSECOND = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}  # Spark's default drops them


def csv_of_spark(spark, path, columns, numbered):
    spark_frame(spark, columns, numbered).write.csv(str(path), header=True, **TO_THE_MICROSECOND)


def json_of_python(spark, path, columns, numbered):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))


def json_of_spark(spark, path, columns, numbered):
    spark_frame(spark, columns, numbered).write.json(str(path), **TO_THE_MICROSECOND)


def parquet_of_pandas(spark, path, columns, numbered):
    pd.DataFrame(columns).to_parquet(path)


def parquet_of_pyarrow(spark, path, columns, numbered):
    pq.write_table(pa.table(columns), path)


def parquet_of_spark(spark, path, columns, numbered):
    spark_frame(spark, columns, numbered).write.parquet(str(path))


WRITERS = {
    "pandas": (csv_of_pandas, {}, "csv", Delimited()),
    "pandas, decimal commas": (
        csv_of_pandas,
        {"sep": ";", "decimal": ","},
        "csv",
        Delimited(delimiter=";", decimal=","),
    ),
    "python": (csv_of_python, {}, "csv", Delimited()),
    "pyarrow": (csv_of_pyarrow, {}, "csv", Delimited()),
    "spark": (csv_of_spark, {}, "csv", Delimited(escape="\\")),
    "python, json": (json_of_python, {}, "json", None),
    "spark, json": (json_of_spark, {}, "json", None),
    "pandas, parquet": (parquet_of_pandas, {}, "parquet", None),
    "pyarrow, parquet": (parquet_of_pyarrow, {}, "parquet", None),
    "spark, parquet": (parquet_of_spark, {}, "parquet", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("numbered", [False, True], ids=["times", "microseconds"])
@pytest.mark.parametrize("writer", WRITERS)
@RANDOM
@given(rows=TABLES)
def test_numbers_and_times_come_back_as_they_were_written(spark, tmp_path_factory, writer, numbered, rows):
    write, options, kind, text = WRITERS[writer]
    path = tmp_path_factory.mktemp("numbers") / "t"
    write(spark, path, columns_of(rows, numbered), numbered, **options)
    found = read(spark, path, kind, FAR, text, rating="rating", timestamp="at")
    assert {row["reason"] for row in found} == {None}
    assert sorted((row["user"], row["item"], row["rating"], row["micros"]) for row in found) == sorted(
        (user, item, rating, micros_of(time)) for user, item, rating, time in rows
    )
