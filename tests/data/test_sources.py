"""Files as people have them: every cell is read as its writer meant it, or rejected, or the file is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.config import Delimited, FileSource, SideTable
from recsys_spark.data.cleaning import HEADER_LINE, Rules, clean_side_table
from recsys_spark.data.movielens import movielens_inputs
from recsys_spark.data.sources import read_cells, read_source
from recsys_spark.errors import SourceError
from recsys_spark.schema import REASON
from tests.data.reading import RULES, read, write

# ids


@pytest.mark.parametrize(
    ("written", "user", "reason"),
    [
        ("7", "7", None),
        ("7.0", "7", None),
        ("1e3", "1000", None),
        ("1.5", None, "unparsable_user"),
        ("1e300", None, "unparsable_user"),
        ("12345678901234567890", "12345678901234567890", None),
        ("1.2345678901234567e18", None, "unparsable_user"),
        ('"7.0"', "7.0", None),
        ('"007"', "007", None),
        ("true", None, "unparsable_user"),
        ("[7]", None, "unparsable_user"),
        ('{"id": 7}', None, "unparsable_user"),
        ("null", None, "missing_user"),
        ('"\\ud800"', None, "malformed_line"),
        ('"a\\u0000b"', "a\0b", "control_characters"),
    ],
)
def test_json_id_is_a_text_or_a_whole_number(spark, tmp_path, written, user, reason):
    path = write(tmp_path / "a.json", f'{{"user": {written}, "item": "i"}}\n')
    (row,) = read(spark, path, "json")
    assert (row["user"], row["reason"]) == (user, reason)


def test_points_lead_into_json_objects_unless_a_name_has_them(spark, tmp_path):
    lines = [
        {"user": {"id": 7, "a'b": {"x": "deep"}}, "item": "i"},
        {"user.id": "flat", "user": {"id": 8}, "item": "i"},
        {"user": "no object", "item": "i"},
    ]
    path = write(tmp_path / "a.json", "\n".join(map(json.dumps, lines)))
    rows = read(spark, path, "json", user="user.id")
    assert [(row["user"], row["reason"]) for row in rows] == [
        ("7", None),
        ("flat", None),
        (None, "missing_user"),
    ]
    assert read(spark, path, "json", user="user.a'b.x")[0]["user"] == "deep"


@pytest.mark.parametrize("kind", ["parquet", "delta"])
@pytest.mark.parametrize(
    ("sql", "user", "reason"),
    [
        ("cast(17 as decimal(38,10))", "17", None),
        ("cast(17.5 as decimal(38,10))", None, "unparsable_user"),
        ("cast(17 as decimal(38,0))", "17", None),
        ("17D", "17", None),
        ("17.5D", None, "unparsable_user"),
        ("double('NaN')", None, "unparsable_user"),
        ("double('inf')", None, "unparsable_user"),
        ("1e16D", None, "unparsable_user"),
        ("float(17)", "17", None),
        ("tinyint(17)", "17", None),
        ("'17.0'", "17.0", None),
        ("X'4142'", "AB", None),
        ("named_struct('id', 17)", None, "structure"),
    ],
)
def test_typed_id_is_a_text_or_a_whole_number(spark, tmp_path, kind, sql, user, reason):
    spark.sql(f"select {sql} as user, 'i' as item").write.format(kind).save(str(tmp_path / "t"))
    if reason == "structure":
        with pytest.raises(SourceError, match=r"'user' is a structure: map columns.user to one of user.id"):
            read(spark, tmp_path / "t", kind)
        assert read(spark, tmp_path / "t", kind, user="user.id")[0]["user"] == "17"
    else:
        (row,) = read(spark, tmp_path / "t", kind)
        assert (row["user"], row["reason"]) == (user, reason)


@pytest.mark.parametrize("id_type", ["integer", "long", "string"])
def test_one_user_in_every_dress_is_one(spark, tmp_path, id_type):
    rules = Rules(run_date=RULES.run_date, user_type=id_type)
    write(tmp_path / "c" / "a.csv", "user,item\n17,i\n17.0,i\n1.70000000E1,i\n")
    write(
        tmp_path / "j" / "a.json",
        '{"user": 17, "item": 1}\n{"user": 17.0, "item": 1}\n{"user": 1.7e1, "item": 1}',
    )
    pq.write_table(pa.table({"user": [17.0, None], "item": [1, 1]}), tmp_path / "p.parquet")
    rows = [
        *read(spark, tmp_path / "c", rules=rules),
        *read(spark, tmp_path / "j", "json", rules),
        *read(spark, tmp_path / "p.parquet", "parquet", rules),
    ]
    assert {row["user"] for row in rows if row["reason"] is None} == {"17" if id_type == "string" else 17}
    assert [row["reason"] for row in rows].count(None) == 7


# text


@pytest.mark.parametrize(
    ("line", "user"),
    [("a\\\tb\tx", "a\tb"), ("a\\\\b\tx", "a\\b"), ("a\\nb\tx", "a\nb"), ("\\N\tx", None), ("\tx", None)],
)
def test_database_export_with_escapes_and_no_quotes(spark, tmp_path, line, user):
    path = write(tmp_path / "a.tsv", f"user\titem\n{line}\n")
    (row,) = read(spark, path, text=Delimited(delimiter="\t", quote="", escape="\\"))
    assert (row["user"], row["reason"]) == (user, None if user else "missing_user")


def test_empty_cell_is_null_on_every_line_and_quoted_nothing_a_text(spark, tmp_path):
    path = write(tmp_path / "a.csv", 'user,item,title\nu,i,\n"u",i,\nu,i,""\n')
    cells = read_cells(spark, "csv", str(path), {"title": "title"}).where("fault is null").collect()
    assert [row["title"] for row in cells] == [None, None, ""]


@pytest.mark.slow
@pytest.mark.long
def test_ten_thousand_columns(spark, tmp_path):
    names = ["user", *(f"c{k}" for k in range(10_000)), "item"]
    path = write(tmp_path / "a.csv", ",".join(names) + "\n" + ",".join(['"u"', *["x"] * 10_000, "i"]) + "\n")
    (row,) = read(spark, path)
    assert (row["user"], row["item"], row["reason"]) == ("u", "i", None)


def test_latin_1_is_read_as_windows_writes_it(spark, tmp_path):
    path = write(tmp_path / "a.csv", "user,item\nL\u2019\u00e9t\u00e9 \u2013 \u20ac5,i\n".encode("cp1252"))
    (row,) = read(spark, path, text=Delimited(encoding="latin-1"))
    assert row["user"] == "L\u2019\u00e9t\u00e9 \u2013 \u20ac5"


@pytest.mark.parametrize(
    ("cell", "rating", "reason"),
    [
        ("4,5", 4.5, None),
        ("4", 4.0, None),
        ("4.5", None, "unparsable_rating"),
        ("1.234,5", None, "unparsable_rating"),
        ("-0,5", -0.5, None),
    ],
)
def test_decimal_comma(spark, tmp_path, cell, rating, reason):
    path = write(tmp_path / "a.csv", f"user;item;rating\n17,0;i;{cell}\n")
    (row,) = read(spark, path, text=Delimited(delimiter=";", decimal=","), rating="rating")
    assert (row["user"], row["rating"], row["reason"]) == ("17", rating, reason)


def test_decimal_comma_of_features(spark, tmp_path):
    write(tmp_path / "a.csv", "user;item\n1;2\n")
    write(tmp_path / "users.csv", "id;age\n1;34,0\n")
    users = SideTable(
        path=str(tmp_path / "users.csv"),
        id="id",
        columns={"age": "age"},
        text=Delimited(delimiter=";", decimal=","),
    )
    source = FileSource(
        format="csv", path=str(tmp_path / "a.csv"), text=Delimited(delimiter=";"), users=users
    )
    typed = clean_side_table(read_source(spark, source).users, "user", "string")
    (row,) = typed.where(f"{REASON} IS DISTINCT FROM '{HEADER_LINE}'").collect()
    assert (row["user"], row["age"], row["reason"]) == ("1", 34, None)


# times


MOMENT = datetime(2024, 1, 31, 10, 15, 0, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())
DAY = SECONDS - SECONDS % 86_400


@pytest.fixture
def in_new_york(spark):
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (str(SECONDS), SECONDS),
        (f"{SECONDS}.0", SECONDS),
        (str(SECONDS * 10**3), SECONDS),
        (str(SECONDS * 10**6), SECONDS),
        (str(SECONDS * 10**9), SECONDS),
        ("20240131", DAY),
        ("20240131101500", SECONDS),
        ("202401311015", SECONDS),
        ("20240131T101500", SECONDS),
        ("20240131T101500Z", SECONDS),
        ("20240131T111500+0100", SECONDS),
        ("2024-01-31", DAY),
        ("2024-1-31", DAY),
        ("2024-01-31 10:15", SECONDS),
        ("2024-01-31T11:15+01:00", SECONDS),
        ("2024-01-31T10:15:00.000Z", SECONDS),
        ("2024-01-31 05:15:00-05:00", SECONDS),
        ("2024-01-31 10:15:00 UTC", SECONDS),
        ("2024-03-10 02:30:00", 1710037800),  # no such time in New York
    ],
)
def test_instants_do_not_depend_on_the_sessions_zone(spark, tmp_path, in_new_york, cell, expected):
    path = write(tmp_path / "a.csv", f"user,item,t\nu,i,{cell}\n")
    (row,) = read(spark, path, timestamp="t")
    assert (row["seconds"], row["reason"]) == (expected, None)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("2026-01-31 23:59:59", None),
        ("2026-02-01 00:00:00", "timestamp_in_future"),
        ("-1", "timestamp_before_start"),
        ("-86400000000", "timestamp_before_start"),
        ("1969-12-31", None),
        ("46052", "unparsable_timestamp"),
        ("46052.4271", "unparsable_timestamp"),
        ("0000-00-00 00:00:00", "unparsable_timestamp"),
        ("2024-01", "unparsable_timestamp"),
    ],
)
def test_implausible_times_are_rejected(spark, tmp_path, in_new_york, cell, reason):
    path = write(tmp_path / "a.csv", f"user,item,t\nu,i,{cell}\n")
    assert read(spark, path, timestamp="t")[0]["reason"] == reason


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("-86400", -86_400), ("-86400000000", -86_400_000), ("-86400000000000", -86_400_000)],
)
def test_negative_numbers_have_a_unit_too(spark, tmp_path, cell, expected):
    rules = Rules(run_date=RULES.run_date, earliest=date(1900, 1, 1))
    path = write(tmp_path / "a.csv", f"user,item,t\nu,i,{cell}\n")
    assert read(spark, path, rules=rules, timestamp="t")[0]["seconds"] == expected


@pytest.mark.parametrize(
    ("form", "cell", "expected"),
    [
        ("excel", "45322.42708333333", SECONDS),
        ("excel", "45322", DAY),
        ("microseconds", "1706696100000000", SECONDS),
        ("nanoseconds", "1706696100000000000", SECONDS),
        ("seconds", "46052", 46_052),
        ("iso8601", "20240131", DAY),
    ],
)
def test_declared_form_is_taken_at_its_word(spark, tmp_path, form, cell, expected):
    rules = Rules(run_date=RULES.run_date, timestamps=form)
    path = write(tmp_path / "a.csv", f"user,item,t\nu,i,{cell}\n")
    assert read(spark, path, rules=rules, timestamp="t")[0]["seconds"] == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("ns"),
        pa.timestamp("ns", "UTC"),
        pa.timestamp("us"),
        pa.timestamp("us", "Europe/Berlin"),
        pa.timestamp("ms"),
        pa.timestamp("s"),
    ],
)
def test_parquet_times_of_every_unit(spark, tmp_path, in_new_york, kind):
    times = pa.array([SECONDS * 10**6], pa.timestamp("us")).cast(
        kind if kind.tz is None else pa.timestamp(kind.unit)
    )
    table = pa.table({"user": ["u"], "item": ["i"], "t": times.cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = read(spark, tmp_path / "a.parquet", "parquet", timestamp="t")
    assert (row["seconds"], row["reason"]) == (SECONDS, None)


def test_parquet_as_pandas_and_old_writers_write_it(spark, tmp_path, in_new_york):
    frame = pd.DataFrame({"user": ["u"], "item": ["i"], "t": pd.to_datetime([MOMENT]).as_unit("ns")})
    frame.to_parquet(tmp_path / "new.parquet")
    frame.to_parquet(tmp_path / "old.parquet", use_deprecated_int96_timestamps=True)
    frame.to_parquet(tmp_path / "micros.parquet", version="2.4")
    for name in ("new", "old", "micros"):
        (row,) = read(spark, tmp_path / f"{name}.parquet", "parquet", timestamp="t")
        assert (row["seconds"], row["reason"]) == (SECONDS, None)


EXACT = np.sort(np.random.default_rng(7).integers(SECONDS * 10**6 - 10**15, SECONDS * 10**6, 300))
"""Microseconds since 1970, of the thirty years before 2024."""


@pytest.mark.parametrize(
    ("kind", "form", "numbers"),
    [
        ("csv", "auto", EXACT * 1000),
        ("csv", "nanoseconds", EXACT * 1000 + 999),
        ("csv", "microseconds", EXACT),
        ("csv", "milliseconds", [f"{n // 1000}.{n % 1000:03d}" for n in EXACT]),
        ("csv", "auto", [f"{n // 10**6}.{n % 10**6:06d}" for n in EXACT]),
        ("csv", "seconds", [f"{n // 10**6}.{n % 10**6:06d}" for n in EXACT]),
        ("json", "auto", EXACT * 1000),
        ("parquet", "auto", EXACT * 1000),
        ("parquet", "nanoseconds", EXACT * 1000),
        ("parquet", "auto", (EXACT * 1000).astype("float64")),
        ("parquet", "seconds", EXACT / 1e6),
        ("parquet", "auto", [Decimal(int(n)).scaleb(-6) for n in EXACT]),
        ("parquet", "auto", EXACT.astype("datetime64[us]").astype("datetime64[ns]")),
    ],
)
def test_a_number_is_its_microsecond(spark, tmp_path, kind, form, numbers):
    frame = pd.DataFrame({"user": range(len(EXACT)), "item": "i", "t": numbers})
    path = tmp_path / "times"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "json":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    rows = read(spark, path, kind, Rules(run_date=RULES.run_date, timestamps=form), timestamp="t")
    assert {int(row["user"]): row["micros"] for row in rows} == dict(enumerate(EXACT.tolist()))


def test_dates_of_typed_sources_are_utc_midnights(spark, tmp_path, in_new_york):
    spark.sql("select 'u' as user, 'i' as item, date'2024-01-31' as t").write.parquet(str(tmp_path / "t"))
    assert read(spark, tmp_path / "t", "parquet", timestamp="t")[0]["seconds"] == DAY


# files


def test_files_of_sub_folders_are_read_and_their_names_are_columns(spark, tmp_path):
    write(tmp_path / "in" / "a.csv", "item\nbeside\n")
    write(tmp_path / "in" / "user=7" / "a.csv", "item\nsub\n")
    write(tmp_path / "in" / "user=a%20b%2Bc" / "deep" / "b.csv", "item\ndeep\n")
    write(tmp_path / "in" / "user=__HIVE_DEFAULT_PARTITION__" / "b.csv", "item\nnone\n")
    rows = read(spark, tmp_path / "in")
    assert {(row["item"], row["user"], row["reason"]) for row in rows} == {
        ("beside", None, "missing_user"),
        ("sub", "7", None),
        ("deep", "a b+c", None),
        ("none", None, "missing_user"),
    }


def test_folder_columns_of_parquet_and_json(spark, tmp_path):
    spark.sql("select 'i' as item, 7 as user").write.partitionBy("user").parquet(str(tmp_path / "p"))
    assert read(spark, tmp_path / "p", "parquet")[0]["user"] == "7"
    write(tmp_path / "j" / "user=7" / "a.json", '{"item": 1}\n')
    assert read(spark, tmp_path / "j", "json")[0]["user"] == "7"


def test_hidden_files_are_named(spark, tmp_path, capsys):
    write(tmp_path / "in" / "a.csv", "user,item\nu,i\n")
    write(tmp_path / "in" / "_late.csv", "user,item\nv,i\n")
    write(tmp_path / "in" / "_SUCCESS", "")
    assert len(read(spark, tmp_path / "in")) == 1
    shown = capsys.readouterr().err
    assert "_late.csv" in shown
    assert "_SUCCESS" not in shown


def test_link_to_a_folder_around_it_is_named(spark, tmp_path):
    write(tmp_path / "a.csv", "user,item\n1,2\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "around").symlink_to(tmp_path)
    with pytest.raises(SourceError, match=r"inner/around: is a link to a folder that it is in: remove it"):
        read(spark, tmp_path)


def test_dangling_link_is_named(spark, tmp_path):
    write(tmp_path / "in" / "a.csv", "user,item\nu,i\n")
    (tmp_path / "in" / "b.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(SourceError, match=r"b\.csv: is a link to .*gone\.csv, which does not exist"):
        read(spark, tmp_path / "in")


@pytest.mark.parametrize("glob", ["in[", "in/{a,b", "in/a]"])
def test_broken_glob_reads_nothing_else(spark, tmp_path, glob):
    write(tmp_path / "in" / "a.csv", "user,item\nu,i\n")
    with pytest.raises(SourceError, match="as a glob lacks"):
        read(spark, tmp_path / glob)


def test_glob_with_braces(spark, tmp_path):
    for name in "abc":
        write(tmp_path / "in" / f"{name}.csv", f"user,item\n{name},i\n")
    assert sorted(row["user"] for row in read(spark, f"{tmp_path}/in/{{a,c}}.csv")) == ["a", "c"]


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", data)
    return buffer.getvalue()


CSV = "user,item\nu,i\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", CSV.encode("utf-16"), "is UTF-16"),
        ("a.csv", CSV.encode("utf-16-le"), "is UTF-16-LE"),
        ("a.csv", CSV.encode("utf-16-be"), "is UTF-16-BE"),
        ("a.csv", CSV.encode("utf-32"), "is UTF-32"),
        ("a.csv.xz", lzma.compress(CSV.encode()), "is compressed by xz: unpack it"),
        ("a.csv", gzip.compress(CSV.encode()), "is compressed by gzip: let its name end in .gz"),
        ("a.csv.gz", CSV.encode(), "is not compressed by gzip"),
        ("a.csv.gz", gzip.compress(CSV.encode() * 99)[:-20], "cannot be read"),
        ("a.csv.bz2", bz2.compress(CSV.encode())[:-9] + b"x" * 9, "cannot be read"),
        ("a.csv", zipped(CSV), "is a zip archive"),
        ("a.csv", b"sep=;\r\nuser;item\r\nu;i\r\n", "begins with sep=;"),
        ("a.csv", b"PAR1" + CSV.encode(), "is a Parquet file: set format: parquet"),
        ("a.csv", b"\0" * (2**20 + 1), "has no line end in its first 1,048,576 bytes"),
        ("a.csv.gz", gzip.compress(b"\0" * (2**20 + 1)), "has no line end in its first 1,048,576 bytes"),
        ("a.csv", b"7,8\n1,2\n", "looks like a row: if it is, set text.header: false"),
        ("a.csv", b"", "is empty"),
    ],
)
def test_file_of_another_kind_is_named_with_the_mend(spark, tmp_path, name, data, message):
    with pytest.raises(SourceError, match=message) as caught:
        read(spark, write(tmp_path / name, data))
    assert name in str(caught.value)


def test_header_that_begins_like_a_binary_file_is_a_header(spark, tmp_path):
    path = write(tmp_path / "a.csv", "ORCID,item\n7,i\n")
    assert read(spark, path, user="ORCID")[0]["user"] == "7"


def test_json_array_is_named(spark, tmp_path):
    with pytest.raises(SourceError, match="is one JSON array: write one object a line"):
        read(spark, write(tmp_path / "a.json", '\n[{"user": 1, "item": 2}]'), "json")


def test_names_beside_a_header_line_are_an_error(spark, tmp_path):
    text = Delimited(header=False, names=["user", "item"])
    with pytest.raises(SourceError, match="begins with a line of the declared names"):
        read(spark, write(tmp_path / "a.csv", "User,Item\nu,i\n"), text=text)


def test_error_lists_ten_columns_at_most(spark, tmp_path):
    path = write(tmp_path / "a.csv", ",".join(f"c{k}" for k in range(5_000)) + "\n")
    with pytest.raises(SourceError, match=r"it has 'c0', .*'c9' and 4,990 more$"):
        read(spark, path)


def test_parquet_columns_that_nobody_mapped_may_be_of_any_type(spark, tmp_path):
    table = pa.table(
        {
            "user": ["u"],
            "item": [7],
            "half": pa.array(np.array([1], np.float16)),
            "time": pa.array([1], pa.time64("ns")),
            "at": pa.array([1], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = read(spark, tmp_path / "a.parquet", "parquet")
    assert (row["user"], row["item"], row["reason"]) == ("u", "7", None)
    with pytest.raises(SourceError, match=r"column 'half' is of the type halffloat, which Spark cannot read"):
        read(spark, tmp_path / "a.parquet", "parquet", user="half")


def test_parquet_that_is_none_is_named(spark, tmp_path):
    with pytest.raises(SourceError, match=r"a\.parquet: is not a Parquet file"):
        read(spark, write(tmp_path / "a.parquet", b"PAR1 and no more"), "parquet")


# MovieLens


def test_titles_of_10m_are_utf_8_and_those_of_1m_latin_1(spark, tmp_path):
    for name, encoding in (("ml-1m", "latin-1"), ("ml-10M100K", "utf-8")):
        write(tmp_path / name / "ratings.dat", "1::73::5::978300760\n")
        write(tmp_path / name / "movies.dat", "73::Mis\u00e9rables, Les (1995)::Drama\n".encode(encoding))
        with movielens_inputs(spark, str(tmp_path / name)) as inputs:
            assert inputs.items.first()["title"] == "Mis\u00e9rables, Les (1995)"


def test_two_releases_in_one_folder_are_both_named(spark, tmp_path):
    for name in ("ml-1m", "ml-10M100K"):
        write(tmp_path / name / "ratings.dat", "1::73::5::978300760\n")
        write(tmp_path / name / "movies.dat", "73::A (1995)::Drama\n")
    with (
        pytest.raises(SourceError, match=r"2 MovieLens releases: .*ml-10M100K, .*ml-1m"),
        movielens_inputs(spark, str(tmp_path)),
    ):
        pass
