"""``recsys preview``: files of many dialects are told apart, and ingest rejects what it says it would."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime, time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from recsys_spark.config import load_config
from recsys_spark.data.cleaning import Rules, clean_ratings
from recsys_spark.data.sources import read_source
from recsys_spark.errors import SourceError
from recsys_spark.models.registry import REGISTRY
from recsys_spark.preview.columns import describe, find_roles, rejections
from recsys_spark.preview.dialect import fields_of, guess_dialect
from recsys_spark.preview.report import preview, suggested
from recsys_spark.preview.sample import take_sample
from recsys_spark.schema import REASON

TEXT = {"columns": {"user": "column1", "item": "column2", "rating": "column3", "timestamp": "column4"}}
FOUR = ["column1", "column2", "column3", "column4"]
IDS = {"user_type": "integer", "item_type": "integer"}


def section(path):
    sample = take_sample(str(path))
    return suggested(sample, find_roles(sample))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,5,1112484676\n",
            {
                "source": {
                    "columns": {
                        "user": "userId",
                        "item": "movieId",
                        "rating": "rating",
                        "timestamp": "timestamp",
                    },
                    **IDS,
                },
                "scale": [0.5, 5],
            },
        ),
        (
            "1\t242\t3\t881250949\n186\t302\t5\t891717742\n",
            {
                "source": {**TEXT, "text": {"delimiter": "\t", "header": False, "names": FOUR}, **IDS},
                "scale": [1, 5],
            },
        ),
        (
            "1::1193::5::978300760\n1::661::3::978302109\n",
            {
                "source": {
                    **TEXT,
                    "text": {"delimiter": "::", "quote": "", "header": False, "names": FOUR},
                    **IDS,
                },
                "scale": [1, 5],
            },
        ),
        (
            "client;sku;menge\nA;1;3,5\nB;2;14,25\n",
            {
                "source": {
                    "columns": {"user": "client", "item": "sku"},
                    "text": {"delimiter": ";", "decimal": ","},
                    "item_type": "integer",
                }
            },
        ),
        (
            'user|item|event|when\na|"x \\"y\\" z"|view|2024-01-01T10:00:00Z\nb|"q"|buy|2024-01-02\n',
            {
                "source": {
                    "columns": {"user": "user", "item": "item", "event": "event", "timestamp": "when"},
                    "text": {"delimiter": "|", "escape": "\\"},
                },
                "events": {"weights": {"buy": 1.0, "view": 1.0}},
            },
        ),
        (
            "customer_id,product_id,date\n007,12345678901,45321\n008,12345678902,45322.5\n",
            {
                "source": {
                    "columns": {"user": "customer_id", "item": "product_id", "timestamp": "date"},
                    "item_type": "long",
                },
                "timestamps": "excel",
            },
        ),
        (
            "user,item,ts\n1,2,-86400\n3,4,86400\n",
            {
                "source": {"columns": {"user": "user", "item": "item", "timestamp": "ts"}, **IDS},
                "earliest": date(1969, 12, 31),
            },
        ),
    ],
)
def test_text_files_are_told_apart(tmp_path, content, expected):
    path = tmp_path / "file.txt"
    path.write_text(content)
    found = section(path)
    assert found.pop("source") == {"format": "csv", "path": str(path), **expected.pop("source")}
    assert found == expected


def test_encodings_are_told_apart(tmp_path):
    text = "user,item,title\n1,2,Misérables\n"
    for encoding, wanted in (("utf-8", {}), ("cp1252", {"text": {"encoding": "latin-1"}}), ("utf-8-sig", {})):
        path = tmp_path / encoding
        path.write_bytes(text.encode(encoding))
        assert section(path)["source"].get("text", {}) == wanted.get("text", {})
        assert take_sample(str(path)).names == ["user", "item", "title"]
        assert take_sample(str(path)).rows[0].values[2] == "Misérables"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "user,item\n1,2\n".encode("utf-16"), "is UTF-16, .* iconv -f UTF-16"),
        ("a.csv", lzma.compress(b"user,item\n"), "is compressed by xz"),
        ("a.csv", gzip.compress(b"user,item\n"), "let its name end in .gz"),
        ("a.json", b'[{"user": 1}]', "is one JSON array: write one object a line"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"sep=;\nuser;item\n1;2\n", "begins with sep=;, a note for Excel: remove that line"),
        ("a.csv", b"x" * 2**19, "has no line end"),
        (
            "a.csv",
            ("title\n" + "Преступление и наказание, роман\n" * 20).encode("cp1251"),
            "line 2 is no UTF-8",
        ),
        ("a.parquet", b"PAR1 and nothing more", "is not a Parquet file"),
    ],
)
def test_what_cannot_be_read_is_named_with_a_mend(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SourceError, match=f"{name}: .*{message}" if data else f"{name}: {message}"):
        take_sample(str(path))


def test_missing_and_remote_paths_are_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere: does not exist"):
        take_sample(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match=r"s3://bucket/x: preview looks at local files"):
        take_sample("s3://bucket/x")


def test_folders_have_their_notes(tmp_path):
    for day in ("01", "02"):
        folder = tmp_path / f"dt=2024-01-{day}"
        folder.mkdir()
        with gzip.open(folder / "part.csv.gz", "wt") as file:
            file.write(f"user,item\n1,{day}\n")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_draft.csv").write_text("user,item\n")
    sample = take_sample(str(tmp_path))
    assert [tuple(row.values) for row in sample.rows] == [("1", "01"), ("1", "02")]
    assert sample.files == 2
    assert sample.notes == [
        "not read, as their names begin with _ or . : 1 files",
        "columns that the folders carry, and that can be mapped: dt",
    ]
    assert take_sample(str(tmp_path / "*" / "*.gz")).files == 2


def test_names_that_are_there_twice_are_noted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,user,item,note\n1,2,3,\n")
    sample = take_sample(str(path))
    assert sample.notes == ["named twice, so that they cannot be mapped: user"]
    assert [info.type for info in describe(sample)][-1] == "empty"


def test_typed_files_keep_their_types(tmp_path):
    rows = [
        {"user": {"id": 7}, "asin": "0001", "overall": 4.0, "unixReviewTime": 1_300_000_000},
        {"user": {"id": 2**40}, "asin": "B01", "overall": 5.0, "unixReviewTime": 1_300_000_000},
    ]
    (tmp_path / "a.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + "[1]\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    roles = {"user": "user.id", "item": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
    for name in ("json", "parquet"):
        sample = take_sample(str(tmp_path / f"a.{name}"))
        mapping = find_roles(sample)
        assert (sample.format, mapping.roles) == (name, roles)
        assert mapping.id_types == {"user": "long", "item": "string"}
        assert mapping.span[0] == datetime(2011, 3, 13, 7, 6, 40, tzinfo=UTC)
    assert {info.name: info.type for info in describe(sample)}["asin"] == "text"
    malformed = rejections(take_sample(str(tmp_path / "a.json")), mapping)
    assert [(reason, [row.place for row in rows]) for reason, rows in malformed.items()] == [
        ("malformed_line", ["a.json:3"])
    ]


def test_ids_of_bytes_are_texts_and_others_are_none(tmp_path):
    rows = [{"user": b"ann", "item": "tea"}, {"user": b"bob", "item": "jam"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bytes.parquet")
    times = [{"user": time(9, 30), "item": "tea"}]
    pq.write_table(pa.Table.from_pylist(times), tmp_path / "times.parquet")
    for name, reasons in (("bytes", {}), ("times", {"unparsable_user": 1})):
        sample = take_sample(str(tmp_path / f"{name}.parquet"))
        found = rejections(sample, find_roles(sample))
        assert {reason: len(rows) for reason, rows in found.items()} == reasons


def test_movielens_releases_are_known(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for name in ("ml-10M/ratings.dat", "ml-10M/movies.dat"):
            archive.writestr(name, "")
    preview(str(tmp_path / "ml.zip"))
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed.partition("write:\n")[2]) == {
        "ingest": {"source": {"format": "movielens", "path": str(tmp_path / "ml.zip")}}
    }


CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(1, 9_999), CELLS, st.integers(1, 5)), min_size=3, max_size=20),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_writer_wrote_is_read_back(rows, delimiter, quoting):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerows([("user", "item", "rating"), *rows])
    lines = buffer.getvalue().split("\n")[:-1]
    dialect = guess_dialect(buffer.getvalue().encode())
    assert (dialect.delimiter, dialect.header, dialect.names) == (delimiter, True, ["user", "item", "rating"])
    assert [fields_of(line, dialect) for line in lines[1:]] == [[str(cell) for cell in row] for row in rows]


MESSY = '''user,item,rating,timestamp
1,2,3.5,1112486027
1.0,29,4,1112484676
1.5,29,4,1112484676
,29,4,1112484676
1,,4,1112484676
1,29,four,1112484676
1,29,nan,1112484676
1,29,44,1112484676
1,29,4,soon
1,29,4,-5
1,29,4,40000
1,29,4,99999999999
1,29
1,29,"4"5,1112484676
1,"29,4,1112484676

1,2\x009,4,1112484676
2,x,5,20240131
3,"x, y",5,20240131
3,"x ""y""",5,20240131
3,"z",5,20240131
2,y,5,2024-01-31T10:00:00+01:00
'''


def test_ingest_rejects_what_the_preview_says(spark, tmp_path, capsys):
    path, config = tmp_path / "messy.csv", tmp_path / "conf.yaml"
    path.write_text(MESSY + "1,2,3,1112486027\n" * 40)
    preview(str(path))
    printed = capsys.readouterr().out
    config.write_text(printed.partition("write:\n")[2] + f"\nlake: {{root: {tmp_path}/lake}}\n")
    loaded = load_config(config, REGISTRY).ingest
    types = loaded.source.user_type, loaded.source.item_type
    rules = Rules(date.today(), *types, scale=tuple(loaded.scale), earliest=loaded.earliest)
    cleaned = clean_ratings(read_source(spark, loaded.source).ratings, rules)
    counted = cleaned.where(F.col(REASON) != "header_line").groupBy(REASON).count().collect()
    sample = take_sample(str(path))
    said = {reason: len(rows) for reason, rows in rejections(sample, find_roles(sample)).items()}
    assert {row[REASON]: row["count"] for row in counted} == said
    assert len(said) == 12
    assert f"{sum(said.values()):,} of {len(sample.rows):,} rows would be rejected" in printed


def test_no_spark_is_needed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,item\n1,2\n")
    program = (
        "import sys; from recsys_spark.cli import app\n"
        f"try: app(['preview', {str(path)!r}])\n"
        "except SystemExit: print('imported', sorted({'pyspark', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("imported []\n")
