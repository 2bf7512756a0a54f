"""What people and programs ask of the tables, of a lake that no Spark has written or reads."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake

from recsys_spark.cli import main
from recsys_spark.console import Section, answer
from recsys_spark.errors import LakeError, UnknownIdError
from recsys_spark.lakehouse.reader import DeltaReader
from recsys_spark.pipeline.show import describe_item, describe_user, sample_users

DAY = date(2026, 1, 31)
TITLES = {7: "Amélie (2001)", 8: "<script>", 9: "Heat (1995)"}
RATED = [(1, 7, 5.0, 300), (1, 8, 5.0, 400), (1, 9, 2.0, None), (2, 9, 4.0, 100)]
LISTED = [(1, 1, 9, 0.5), (2, 1, 7, 0.9), (2, 2, 8, 0.1)]


def written(root, name, rows, **kinds):
    columns = dict(zip(kinds, zip(*rows, strict=True), strict=True))
    write_deltalake(
        f"{root}/{name}", pa.table({key: pa.array(columns[key], kind) for key, kind in kinds.items()})
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake")
    time = pa.timestamp("us", "UTC")
    rated = [(*row[:3], None if row[3] is None else datetime.fromtimestamp(row[3], UTC)) for row in RATED]
    written(folder, "ratings", rated, user=pa.int32(), item=pa.int32(), rating=pa.float64(), timestamp=time)
    titled = [(item, title, ["Drama", "War"]) for item, title in TITLES.items()]
    written(folder, "items", titled, item=pa.int32(), title=pa.string(), genres=pa.list_(pa.string()))
    lists = [(DAY, *row, "als", "model") for row in LISTED]
    written(
        folder,
        "current_recommendations",
        lists,
        run_date=pa.date32(),
        user=pa.int32(),
        rank=pa.int32(),
        item=pa.int32(),
        score=pa.float32(),
        model=pa.string(),
        reason=pa.string(),
    )
    return str(folder)


@pytest.fixture
def reader(root):
    return DeltaReader(root)


def test_history_is_best_rated_first_then_newest(reader):
    history, lists = describe_user(reader, "1")
    assert [(row["item"], row["rating"], row["timestamp"]) for row in history.rows] == [
        (8, 5.0, "1970-01-01 00:06:40"),
        (7, 5.0, "1970-01-01 00:05:00"),
        (9, 2.0, None),
    ]
    assert [(row["rank"], row["title"], row["genres"]) for row in lists.rows] == [
        (1, "Heat (1995)", ["Drama", "War"])
    ]
    assert lists.title == "User 1: recommendations of 2026-01-31"


def test_an_item_has_its_ratings_and_its_places_in_lists(reader):
    item, ratings, lists = describe_item(reader, "9")
    assert item.rows == [{"item": 9, "title": "Heat (1995)", "genres": ["Drama", "War"]}]
    (rated,) = ratings.rows
    assert (rated["ratings"], rated["mean"], rated["first"]) == (2, 3.0, "1970-01-01 00:01:40")
    assert lists.rows == [{"item": 9, "lists": 1, "mean_rank": 1.0, "at_rank_1": 1}]


@pytest.mark.parametrize(
    ("ask", "given", "near"),
    [
        (describe_user, "3", "no user '3', neither in ratings nor in recommendations"),
        (describe_user, "１", "no user '１'"),
        (describe_user, "99999999999", "no user '99999999999'"),
        (describe_user, "9223372036854775808", "no user '9223372036854775808'"),
        (describe_item, "amelie", "near: '7' (Amélie (2001))"),
        (describe_item, "heat 1995", "near: '9' (Heat (1995))"),
        (describe_item, "9' OR 1=1", 'no item "9\' OR 1=1"'),
    ],
)
def test_unknown_ids_are_told_what_is_near(reader, ask, given, near):
    with pytest.raises(UnknownIdError) as caught:
        ask(reader, given)
    assert near in str(caught.value)


def test_the_same_users_are_shown_each_time(reader):
    assert sorted(sample_users(reader, 5)) == ["1", "2"]
    assert sample_users(reader, 1) == sample_users(reader, 2)[:1]


def test_before_anything_is_served_that_is_said(tmp_path):
    with pytest.raises(LakeError, match="nothing has been published: run the night first"):
        describe_user(DeltaReader(str(tmp_path)), "1")
    with pytest.raises(LakeError, match="there are no recommendations of 2026-01-31"):
        describe_user(DeltaReader(str(tmp_path)), "1", DAY)


@pytest.fixture
def config(tmp_path, root):
    tree = {"lake": {"root": root}, "ingest": {"source": {"format": "synthetic"}, "scale": [1, 5]}}
    (tmp_path / "night.yaml").write_text(yaml.safe_dump(tree))
    return str(tmp_path / "night.yaml")


def test_programs_get_one_json_object(config, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["show", "-c", config, "--user", "2", "--user", "1", "--item", "8", "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"history", "recommendations", "item", "ratings", "lists"}
    assert [(row["user"], row["rank"], row["title"]) for row in told["recommendations"]] == [
        (2, 1, "Amélie (2001)"),
        (2, 2, "<script>"),
        (1, 1, "Heat (1995)"),
    ]


def test_unknown_id_is_wrong_usage(config, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["show", "-c", config, "--user", "12"])
    assert ended.value.code == 2
    assert "recsys: no user '12', neither in ratings" in capsys.readouterr().err


def test_looking_takes_neither_spark_nor_compiled_kernels(config):
    program = (
        "import sys; from recsys_spark.cli import main\n"
        "try: main(['show', '-c', sys.argv[1]])\n"
        "except SystemExit as ended: print(ended.code, {'pyspark', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, config], check=True, stdout=subprocess.PIPE, text=True
    )
    assert "Heat (1995)" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_looking_ends_as_it_should_each_time(root):
    """Threads that still want Python when it ends would abort every fifth of these processes."""
    program = (
        "import sys; from recsys_spark.lakehouse.reader import DeltaReader\n"
        "DeltaReader(sys.argv[1]).rows('items', ['item'], {})"
    )
    command = [sys.executable, "-c", program, root]
    assert [subprocess.run(command, check=False).returncode for _ in range(20)] == [0] * 20


def test_times_before_1677_as_spark_writes_them_are_read(tmp_path):
    """Spark's own files have times of 96 bits, which pyarrow takes for nanoseconds."""
    time = pa.timestamp("us", "UTC")
    columns = {"user": pa.string(), "item": pa.string(), "rating": pa.float64(), "timestamp": time}
    old = datetime(1601, 1, 1, tzinfo=UTC)
    schema = pa.schema(columns)
    rows = {"user": ["u"], "item": ["i"], "rating": [1.0], "timestamp": [old]}
    write_deltalake(str(tmp_path / "ratings"), pa.table(rows, schema))
    (file,) = (tmp_path / "ratings").glob("*.parquet")
    (commit,) = (tmp_path / "ratings" / "_delta_log").glob("*.json")
    size = file.stat().st_size
    pq.write_table(pa.table(rows, schema), file, use_deprecated_int96_timestamps=True)
    commit.write_text(commit.read_text().replace(f'"size":{size}', f'"size":{file.stat().st_size}'))
    read = DeltaReader(str(tmp_path)).rows("ratings", ["timestamp"], {"user": ["u"]})
    assert read["timestamp"].to_pylist() == [old]


def test_what_cannot_be_read_so_is_read_by_what_is_given_instead(tmp_path, reader):
    (tmp_path / "broken" / "ratings" / "_delta_log").mkdir(parents=True)
    (tmp_path / "broken" / "ratings" / "_delta_log" / f"{0:020}.json").write_text("{")
    broken = str(tmp_path / "broken")
    with pytest.raises(LakeError, match=r"table 'ratings' in .*/broken cannot be read: ") as caught:
        DeltaReader(broken).schema("ratings")
    assert "\n" not in str(caught.value)
    instead = DeltaReader(broken, lambda: reader)
    assert instead.schema("ratings") == reader.schema("ratings")
    assert instead.rows("ratings", ["rating"], {"user": [2]})["rating"].to_pylist() == [4.0]


def test_texts_are_printed_as_they_are(capsys):
    answer([Section("a", "A", [{"title": "The Secret: a shop:book:123", "share": float("nan")}], [])], True)
    assert json.loads(capsys.readouterr().out) == {
        "a": [{"title": "The Secret: a shop:book:123", "share": None}]
    }
