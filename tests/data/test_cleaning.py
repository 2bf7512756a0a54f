"""Mangled input: every row is typed or rejected with its reason, and the counts add up."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from pyspark.sql import functions as F

from recsys_spark.config import Columns, Delimited, FileSource, SideTable
from recsys_spark.data import deduplication
from recsys_spark.data.cleaning import (
    HEADER_LINE,
    REASONS,
    Rules,
    clean_ratings,
    clean_side_table,
    rejected_rows,
)
from recsys_spark.data.deduplication import latest_per_pair
from recsys_spark.data.sources import read_source
from recsys_spark.errors import SourceError

RULES = Rules(run_date=date(2024, 6, 30), scale=(0.5, 5), earliest=date(1995, 1, 1))
HEADER = b"user,item,rating,timestamp"
COLUMNS = Columns(user="user", item="item", rating="rating", timestamp="timestamp")

REJECTED = {
    "undecodable_bytes": [
        b"u\xff1,i1,3,1000000000",
        b"u1,i\xc3\x28,3,1000000000",
        b"\xed\xa0\x80,i,3,1000000000",
    ],
    "wrong_column_count": [
        b"u1,i1,3",
        b"u1,i1,3,1000000000,extra",
        b"u1;i1;3;1000000000",
        b"u1",
        b"   ",
        b'"u1,i1,3,1000000000',
        b'u1,i1,3,"1000000000',
        b"u1,i1,3,1000000000,",
        b'"u1",i1,3' + b"," * 25_000,
    ],
    "missing_user": [b",i1,3,1000000000", b'"",i1,3,1000000000', b"  ,i1,3,1000000000"],
    "missing_item": [b"u1,,3,1000000000", b'u1,"  ",3,1000000000'],
    "id_too_long": [b"u" * 257 + b",i1,3,1000000000", b"u1," + b"i" * 300 + b",3,1000000000"],
    "malformed_line": [
        b'"a"b,i1,3,1000000000',
        b'u1,"i1" ,3,1000000000',
        b'"The \\"Burbs\\"",i1,3,1000000000',
        b'u1,"x\\"y\\"z",3,1000000000',
    ],
    "control_characters": [
        b"u\x001,i1,3,1000000000",
        b"u1,i1,\x003,1000000000",
        b"u1,i1,3,\x001000000000",
        b"u1,\x1b[31mi1,3,1000000000",
        b"u1,i\xc2\x92,3,1000000000",
    ],
    "unparsable_user": [
        b"1.5,i1,3,1000000000",
        b'"1.5",i1,3,1000000000',
        b"1.23456789012345678E18,i1,3,1000000000",
    ],
    "unparsable_item": [b"u1,-0.5,3,1000000000"],
    "unparsable_rating": [
        b"u1,i1,three,1000000000",
        b"u1,i1,,1000000000",
        b"u1,i1,4d,1000000000",
        b"u1,i1,4.0f,1000000000",
        b"u1,i1,4D\t,1000000000",
        b"u1,i1,0x1p1,1000000000",
        b'u1,i1,"4,5",1000000000',
        b"u1,i1,0x4,1000000000",
    ],
    "unparsable_timestamp": [
        b"u1,i1,3,yesterday",
        b"u1,i1,3,12:30",
        b"u1,i1,3,now",
        b"u1,i1,3,",
        b"u1,i1,3,1e300",
        b"u1,i1,3,2020-13-01",
        b"u1,i1,3,2020-01",
        b"u1,i1,3,31/01/2020",
        b"u1,i1,3,NaN",
        b"u1,i1,3,45000",
        b"u1,i1,3,45000.5",
    ],
    "not_finite_rating": [
        b"u1,i1,NaN,1000000000",
        b"u1,i1,inf,1000000000",
        b"u1,i1,-Infinity,1000000000",
        b"u1,i1,1e999,1000000000",
    ],
    "rating_out_of_scale": [b"u1,i1,0,1000000000", b"u1,i1,5.01,1000000000", b"u1,i1,-3,1000000000"],
    "timestamp_in_future": [b"u1,i1,3,1719792000", b"u1,i1,3,2024-07-01", b"u1,i1,3,4102444800000"],
    "timestamp_before_start": [b"u1,i1,3,0", b"u1,i1,3,1994-12-31T23:59:59Z", b"u1,i1,3,-5"],
}

KEPT = [
    (b"plain,item,3,1000000000", ("plain", "item", 3.0)),
    (b'"a ""quoted"" id","comma, inside",4.5,1000000000', ('a "quoted" id', "comma, inside", 4.5)),
    (b"tab\tin id,it's,3,1000000000", ("tab\tin id", "it's", 3.0)),
    (
        "\N{GRINNING FACE},\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET},3,1000000000".encode(),
        ("\U0001f600", "\u05d0\u05d1", 3.0),
    ),
    (
        b"'; DROP TABLE ratings; --,../../etc/passwd,3,1000000000",
        ("'; DROP TABLE ratings; --", "../../etc/passwd", 3.0),
    ),
    (b"`backtick`,${jndi:x}%s\\n,3,1000000000", ("`backtick`", "${jndi:x}%s\\n", 3.0)),
    (b" spaced ,i, 3 ,1000000000", (" spaced ", "i", 3.0)),
    (b"u" * 256 + b",i,3,1000000000", ("u" * 256, "i", 3.0)),
    (b"NULL,null,3,1000000000", ("NULL", "null", 3.0)),
    (b"crlf,item,5,1000000000\r", ("crlf", "item", 5.0)),
    (b"0042,1e3,0.5,1000000000", ("0042", "1e3", 0.5)),
    (b"17.0,-3.00,1,1000000000", ("17", "-3", 1.0)),
    (b"1.2345678E7,1.0e+3,1,1000000000", ("12345678", "1000", 1.0)),
    (b"12345678901234567890.0,3.,1,1000000000", ("12345678901234567890", "3", 1.0)),
    (b"1023456789.1612345678,v1.5,1,1000000000", ("1023456789.1612345678", "v1.5", 1.0)),
    (b'5"x7" photo,i,1,1000000000', ('5"x7" photo', "i", 1.0)),
    (b'"""x""","\\n",1,1000000000', ('"x"', "\\n", 1.0)),
]

MOMENT = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
TIMES = [b"1000000000", b"1000000000000", b"2001-09-09T01:46:40Z", b"2001-09-09 03:46:40+02:00", b"1e9"]


def write(folder, *lines, name="ratings.csv", header=HEADER):
    file = folder / name
    file.write_bytes(b"\n".join([*([header] if header else []), *lines]) + b"\n")
    return str(file)


def cleaned(spark, path, rules=RULES, columns=COLUMNS, **settings):
    return with_headers(spark, path, rules, columns, **settings).where(
        F.col("reason").isNull() | (F.col("reason") != HEADER_LINE)
    )


def with_headers(spark, path, rules=RULES, columns=COLUMNS, **settings):
    return clean_ratings(
        read_source(spark, FileSource(format="csv", path=path, columns=columns, **settings)).ratings, rules
    )


@pytest.fixture(scope="module")
def mangled(spark, tmp_path_factory):
    """All rejected and kept lines in one file, cleaned: raw text → row."""
    lines = [line for lines in REJECTED.values() for line in lines] + [line for line, _ in KEPT]
    rows = with_headers(spark, write(tmp_path_factory.mktemp("mangled"), *lines))
    stored = {row["raw_bytes"] or row["raw"].encode(): row for row in rejected_rows(rows).collect()}
    good = {(row["user"], row["item"]): row for row in rows.where("reason is null").collect()}
    return rows, {bytes(raw): row for raw, row in stored.items()}, good


@pytest.mark.parametrize(
    ("reason", "line"), [(reason, line) for reason, lines in REJECTED.items() for line in lines]
)
def test_mangled_row_is_rejected_with_its_reason_and_raw_text(mangled, reason, line):
    _, rejected, _ = mangled
    assert rejected[line]["reason"] == reason
    assert rejected[line]["source_file"].endswith("/ratings.csv")


@pytest.mark.parametrize(("line", "expected"), KEPT)
def test_odd_but_whole_row_goes_through_unharmed(mangled, line, expected):
    _, _, good = mangled
    assert good[expected[:2]]["rating"] == expected[2]


def test_no_row_is_lost(mangled):
    rows, rejected, good = mangled
    assert rows.count() == 1 + sum(map(len, REJECTED.values())) + len(KEPT)  # with the header
    assert len(rejected) == sum(map(len, REJECTED.values()))
    assert len(good) == len(KEPT)


def test_of_an_endless_row_the_beginning_is_kept(spark, tmp_path):
    lines = [b"u,i,3," + b"x" * 150_000, b"\xff,i,3," + b"x" * 150_000]
    stored = rejected_rows(cleaned(spark, write(tmp_path, *lines))).orderBy("reason").collect()
    undecodable, unparsable = stored
    assert unparsable["raw"] == "u,i,3," + "x" * 99_994 + " … of 150006 characters"
    assert bytes(undecodable["raw_bytes"]) == b"\xff,i,3," + b"x" * 99_994


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_line_without_an_end_is_one_rejected_row(spark, tmp_path, kind):
    row = b"v,j,4,1" if kind == "csv" else b'{"user": "v", "item": "j"}'
    lines = [*[row] * 200_000, row[:-1] + b"0" * 30_000_000, row]  # not at once, where files are looked at
    path = write(tmp_path, *lines, header=HEADER if kind == "csv" else None)
    source = FileSource(format=kind, path=path, columns=COLUMNS if kind == "csv" else Columns())
    rows = clean_ratings(read_source(spark, source).ratings, Rules(RULES.run_date))
    ends = rejected_rows(rows).select("reason", F.expr("substr(raw, -39)").alias("end")).collect()
    assert [tuple(end) for end in ends] == [("line_too_long", "0000 … of more than 10000000 characters")]
    assert rows.where("reason is null and user = 'v' and item = 'j'").count() == 200_001


def test_every_reason_is_exercised():
    elsewhere = {"different_header", "line_too_long", "forgotten", "unparsable_event", "unparsable_<feature>"}
    assert {*REJECTED, *elsewhere} == set(REASONS)


@pytest.mark.parametrize("written", TIMES)
def test_timestamp_is_read_however_it_is_written(spark, tmp_path, written):
    row = (
        cleaned(spark, write(tmp_path, b"u,i,3," + written))
        .select("reason", F.unix_seconds("timestamp").alias("s"))
        .first()
    )
    assert (row["reason"], row["s"]) == (None, int(MOMENT.timestamp()))


@pytest.mark.parametrize(
    ("declared", "cell", "second"), [("seconds", b"1000", 1000), ("milliseconds", b"1000000", 1000)]
)
def test_declared_epoch_unit_is_taken_at_its_word(spark, tmp_path, declared, cell, second):
    rules = Rules(run_date=date(2024, 1, 1), timestamps=declared)
    row = cleaned(spark, write(tmp_path, b"u,i,3," + cell), rules).select(F.unix_seconds("timestamp")).first()
    assert row[0] == second


@pytest.mark.parametrize("cell", [b"12.5", b"twelve", b"99999999999999999999", b"1e-3"])
def test_id_that_is_no_integer_is_rejected(spark, tmp_path, cell):
    rules = Rules(run_date=date(2024, 1, 1), user_type="long", item_type="integer")
    row = cleaned(spark, write(tmp_path, cell + b",7,3,1000000000"), rules).first()
    assert row["reason"] == "unparsable_user"


@pytest.mark.parametrize("cell", [b"1000", b"1000.0", b"1e3", b"+1000", b" 1000 ", b"1.0E3", b"01000"])
def test_number_declared_an_integer_is_that_number(spark, tmp_path, cell):
    rules = Rules(run_date=date(2024, 1, 1), user_type="long", item_type="integer")
    row = cleaned(spark, write(tmp_path, cell + b"," + cell + b",3,1000000000"), rules).first()
    assert (row["user"], row["item"], row["reason"]) == (1000, 1000, None)


def test_long_ids_beyond_32_bits(spark, tmp_path):
    rules = Rules(run_date=date(2024, 1, 1), user_type="long", item_type="long")
    row = cleaned(spark, write(tmp_path, b"9007199254740993,-5,3,1000000000"), rules).first()
    assert (row["user"], row["item"], row["reason"]) == (9007199254740993, -5, None)


def test_events_keep_their_type_and_unknown_ones_are_rejected(spark, tmp_path):
    path = write(tmp_path, b"u,i,view", b"u,j,purchase", b"u,k,refund", b"u,l,", header=b"user,item,what")
    rules = Rules(run_date=date(2024, 1, 1), events=("view", "purchase"))
    rows = cleaned(spark, path, rules, Columns(user="user", item="item", event="what")).collect()
    assert {(r["item"], r["event"], r["reason"]) for r in rows} == {
        ("i", "view", None),
        ("j", "purchase", None),
        ("k", "refund", "unparsable_event"),
        ("l", None, "unparsable_event"),
    }


def test_without_rating_or_event_every_row_counts_one(spark, tmp_path):
    path = write(tmp_path, b"u,i", header=b"user,item")
    row = cleaned(spark, path, columns=Columns(user="user", item="item")).first()
    assert (row["rating"], row["timestamp"], row["reason"]) == (1.0, None, None)


def test_file_with_another_header_is_found(spark, tmp_path):
    write(tmp_path, b"u,i,3,1000000000", name="a.csv")
    write(tmp_path, b"i,u,3,1000000000", name="b.csv", header=b"item,user,rating,timestamp")
    write(tmp_path, b"i,u,3,1000000000", name="c.csv", header=b'"item",user,"rating",timestamp')
    reasons = [row["reason"] for row in cleaned(spark, str(tmp_path)).collect()]
    assert reasons.count("different_header") == 2


def test_several_files_each_with_its_header(spark, tmp_path):
    for name in ("a.csv", "b.csv", "c.csv"):
        write(tmp_path, name.encode() + b",i,3,1000000000", name=name)
    assert sorted(row["user"] for row in cleaned(spark, str(tmp_path)).collect()) == [
        "a.csv",
        "b.csv",
        "c.csv",
    ]


def test_byte_order_mark_is_no_part_of_the_first_column(spark, tmp_path):
    row = cleaned(spark, write(tmp_path, b"u,i,3,1000000000", header=b"\xef\xbb\xbf" + HEADER)).first()
    assert (row["user"], row["reason"]) == ("u", None)


def test_latin_1_header_is_recognised(spark, tmp_path):
    path = write(tmp_path, b"u,i,3,1000000000", header=b"us\xe9r,item,rating,timestamp")
    columns = Columns(user="us\u00e9r", item="item", rating="rating", timestamp="timestamp")
    row = cleaned(spark, path, columns=columns, text=Delimited(encoding="latin-1")).first()
    assert (row["user"], row["reason"]) == ("u", None)


def test_latin_1_text(spark, tmp_path):
    text = Delimited(
        delimiter="::",
        quote="",
        header=False,
        names=["user", "item", "rating", "timestamp"],
        encoding="latin-1",
    )
    path = write(tmp_path, b"Andr\xe9::caf\xe9::3::1000000000", header=None)
    row = cleaned(spark, path, text=text).first()
    assert (row["user"], row["item"], row["reason"]) == ("Andr\u00e9", "caf\u00e9", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"a,b\n1,2\n", "has no column 'user', which columns.user names; it has 'a', 'b'"),
        (b"user,item,rating,timestamp,user\n", "has column 'user' twice"),
        (b"user,item,rating,timestamp,a\xf1o\n", "the header is not utf-8: set text.encoding"),
    ],
)
def test_source_that_cannot_be_read_is_named(spark, tmp_path, content, message):
    path = tmp_path / "ratings.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        cleaned(spark, str(path))


JSON_LINES = [
    ('{"user": "u", "item": "i", "rating": 4.5, "timestamp": "2001-09-09T01:46:40Z"}', None),
    (
        '{"user": 17, "item": "\\ud83d\\ude00", "rating": "4", "timestamp": 1000000000, "more": {"x": 1}}',
        None,
    ),
    ('{"user": "u", "item": "i", "rating": 4.5', "malformed_line"),
    ("[1, 2]", "malformed_line"),
    ("not json", "malformed_line"),
    ('{"user": "u", "item": "i", "rating": 4, "timestamp": 1000000000} {"user": "v"}', "malformed_line"),
    ('{"user": "u", "item": "i", "rating": 4, "timestamp": 1000000000}, {"user": "v"}', "malformed_line"),
    ('{"user": "u", "item": "i", "rating": 4, "timestamp": 1000000000} trailing', "malformed_line"),
    ("null", "malformed_line"),
    ('{"item": "i", "rating": 4, "timestamp": 1000000000}', "missing_user"),
    ('{"user": "u", "item": null, "rating": 4, "timestamp": 1000000000}', "missing_item"),
    (
        '{"user": "u", "item": "i", "rating": NaN, "timestamp": 1000000000}',
        "malformed_line",
    ),  # NaN is no JSON
    ('{"user": "u", "item": "i", "rating": "NaN", "timestamp": 1000000000}', "not_finite_rating"),
    ('{"user": "u", "item": "i", "rating": null, "timestamp": 1000000000}', "unparsable_rating"),
]


def test_json_lines(spark, tmp_path):
    path = tmp_path / "events.json"
    path.write_text("\n".join(line for line, _ in JSON_LINES), encoding="utf-8")
    source = FileSource(format="json", path=str(path), columns=COLUMNS)
    rows = clean_ratings(read_source(spark, source).ratings, RULES).collect()
    assert {row["raw"]: row["reason"] for row in rows} == dict(JSON_LINES)


@pytest.mark.parametrize(("kind", "user", "item"), [("parquet", "who is it", "a.b"), ("delta", "who", "a`b")])
def test_typed_sources_of_any_column_names(spark, tmp_path, kind, user, item):
    frame = spark.sql(
        "select 7 as user, 'sku.1' as item, cast(4.5 as decimal(3,1)) as stars, "
        "timestamp'2001-09-09 01:46:40' as t "
        "union all select null, 'sku.2', 3.0, timestamp'2001-09-09 01:46:40' "
        "union all select 8, 'sku.3', null, null"
    )
    frame.withColumnsRenamed({"user": user, "item": item}).write.format(kind).save(str(tmp_path / "t"))
    columns = Columns(user=user, item=item, rating="stars", timestamp="t")
    source = FileSource(format=kind, path=str(tmp_path / "t"), columns=columns, user_type="integer")
    rows = {
        r["item"]: r
        for r in clean_ratings(read_source(spark, source).ratings, Rules(run_date=date(2024, 1, 1))).collect()
    }
    assert (rows["sku.1"]["user"], rows["sku.1"]["rating"], rows["sku.1"]["reason"]) == ("7", 4.5, None)
    assert rows["sku.2"]["reason"] == "missing_user"
    assert rows["sku.3"]["reason"] == "unparsable_rating"
    assert rows["sku.1"]["raw"].startswith(f'{{"{user}":7,"{item}":"sku.1"')


def pairs(spark, *rows):
    schema = "user string, item string, rating double, timestamp timestamp, reason string"
    frame = spark.createDataFrame(
        [(*row[:3], row[3] and datetime.fromtimestamp(row[3], UTC), row[4]) for row in rows], schema
    )
    found = latest_per_pair(frame)
    winners = found.rows.withColumn("s", F.unix_seconds("timestamp")).collect()
    assert found.pairs == len(winners)
    found.persisted.unpersist()
    return {(r["user"], r["item"]): (r["rating"], r["s"]) for r in winners}, found.counts


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([(3.0, 100), (5.0, 50)], (3.0, 100)),  # the later one, though smaller
        ([(3.0, 100), (5.0, 100), (4.0, 100)], (5.0, 100)),  # as late: the larger
        ([(3.0, None), (5.0, None)], (5.0, None)),
        ([(5.0, None), (2.0, 1)], (2.0, 1)),  # any timestamp is later than none
        ([(4.0, 7), (4.0, 9)], (4.0, 9)),
        ([(4.0, 7)], (4.0, 7)),
        ([(1.0, 5), (2.0, 6), (3.0, 6), (9.0, None)], (3.0, 6)),
    ],
)
def test_one_row_per_pair_latest_then_largest(spark, rows, winner):
    found, counts = pairs(spark, *[("u", "i", rating, second, None) for rating, second in rows])
    assert found == {("u", "i"): winner}
    assert counts == {None: len(rows)}


def test_pairs_are_the_same_in_one_task_and_in_many(spark, monkeypatch):
    rows = spark.sql(
        "select id * id % 37 as user, id % 11 as item, id % 5 / 2D as rating, "
        "timestamp_seconds(id * 7 % 13) as timestamp, if(id % 9 = 0, 'late', null) as reason from range(999)"
    )
    good = [row for row in rows.collect() if row["reason"] is None]
    latest = {}
    for row in sorted(good, key=lambda row: (row["timestamp"], row["rating"])):
        latest[row["user"], row["item"]] = (row["rating"], row["timestamp"])
    for of_task in (deduplication.TASK_BYTES, 2_000):
        monkeypatch.setattr(deduplication, "TASK_BYTES", of_task)
        found = latest_per_pair(rows)
        winners = found.rows.collect()
        assert {(r["user"], r["item"]): (r["rating"], r["timestamp"]) for r in winners} == latest
        assert len(winners) == found.pairs == len(latest)
        assert found.counts == {None: len(good), "late": 111}
        assert (found.persisted.rdd.getNumPartitions() > 1) == (of_task == 2_000)
        found.persisted.unpersist()


def test_pairs_of_one_row_stand_among_those_of_several(spark):
    rows = [(f"u{n % 7}", f"i{n % 5}", n % 6 / 2, n * 11 % 17 + 1, None) for n in range(45)]  # 10 of 35 twice
    expected = {}
    for user, item, rating, second, _ in sorted(rows, key=lambda row: (row[3], row[2])):
        expected[user, item] = rating, second
    found, counts = pairs(spark, *rows)
    assert found == expected
    assert counts == {None: 45}


def test_rejected_are_counted_by_reason_and_never_win(spark):
    found, counts = pairs(
        spark,
        ("u", "i", 3.0, 5, None),
        ("u", "i", 9.0, 99, "rating_out_of_scale"),
        (None, "i", 1.0, 5, "missing_user"),
        ("v", "i", 1.0, 5, "missing_user"),
    )
    assert found == {("u", "i"): (3.0, 5)}
    assert counts == {None: 1, "rating_out_of_scale": 1, "missing_user": 2}


@pytest.mark.parametrize("sql", ["array(1)", "true", "date'2020-01-01'", "map(1, 2)"])
def test_typed_ids_that_are_no_ids_are_an_error(spark, tmp_path, sql):
    spark.sql(f"select {sql} as user, 1 as item").write.parquet(str(tmp_path / "t"))
    source = FileSource(format="parquet", path=str(tmp_path / "t"), columns=Columns())
    with pytest.raises(SourceError, match=r"the user column is .*: ids must be whole numbers or texts"):
        clean_ratings(read_source(spark, source).ratings, RULES)


@pytest.mark.parametrize("sql", ["true", "array(1)", "X'41'"])
def test_typed_timestamps_that_are_none_are_unparsable(spark, tmp_path, sql):
    spark.sql(f"select 'u' as user, 'i' as item, {sql} as t").write.parquet(str(tmp_path / "t"))
    source = FileSource(format="parquet", path=str(tmp_path / "t"), columns=Columns(timestamp="t"))
    assert (
        clean_ratings(read_source(spark, source).ratings, RULES).first()["reason"] == "unparsable_timestamp"
    )


def test_typed_text_that_is_no_utf_8_is_undecodable(spark, tmp_path):
    spark.sql("select cast(X'FFFE' as string) as user, 'i' as item").write.parquet(str(tmp_path / "t"))
    source = FileSource(format="parquet", path=str(tmp_path / "t"), columns=Columns())
    assert clean_ratings(read_source(spark, source).ratings, RULES).first()["reason"] == "undecodable_bytes"


def test_folder_named_like_a_glob_is_read_as_it_stands(spark, tmp_path):
    folder = tmp_path / "in [x] {a,b}?"
    folder.mkdir()
    assert cleaned(spark, write(folder, b"u,i,3,1000000000")).first()["user"] == "u"


def test_side_table_in_json_lines(spark, tmp_path):
    (tmp_path / "items.json").write_text(
        '{"id": "a", "t": "A (1999)", "g": ["X", "Y|Z"], "y": 25.0}\n{"id": "b", "t": "B", "g": "X|Y"}\n'
    )
    (tmp_path / "r.csv").write_text("user,item\nu,a\n")
    items = SideTable(
        path=str(tmp_path / "items.json"),
        format="json",
        id="id",
        columns={"title": "t", "genres": "g", "year": "y"},
    )
    inputs = read_source(
        spark, FileSource(format="csv", path=str(tmp_path / "r.csv"), columns=Columns(), items=items)
    )
    rows = {row["item"]: row for row in clean_side_table(inputs.items, "item", "string").collect()}
    assert (rows["a"]["title"], rows["a"]["year"], rows["a"]["genres"]) == ("A (1999)", 25, ["X", "Y|Z"])
    assert rows["b"]["genres"] == ["X", "Y"]
