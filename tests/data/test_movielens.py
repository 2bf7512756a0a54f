"""MovieLens releases in their published layouts, as folders and as zips, in miniature."""

from __future__ import annotations

import zipfile
from datetime import date

import pytest
from pyspark.sql import functions as F

from recsys_spark.data.cleaning import HEADER_LINE, Rules, clean_ratings, clean_side_table
from recsys_spark.data.movielens import movielens_inputs
from recsys_spark.errors import SourceError

RULES = Rules(run_date=date(2024, 1, 1), user_type="integer", item_type="integer")
FLAGS = "|".join(["0"] * 3 + ["1", "0", "1"] + ["0"] * 13)

RELEASES = {
    "ml-100k": {
        "u.data": b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
        "u.item": f'242|Caf\u00e9, The "Best" (1996)|24-Jan-1997||http://x|{FLAGS}\n267|unknown||||{FLAGS}\n'.encode(
            "latin-1"
        ),
        "u.user": b"196|49|M|writer|55105\n",
        "u1.base": b"not a release file",
    },
    "ml-1m": {
        "ratings.dat": b"1::1193::5::978300760\n2::661::3::978302109\n",
        "movies.dat": (
            b"1193::One Flew: Over (a) Nest (1975)::Drama|Children's\n661::L\xe9on (1994)::Crime\n"
        ),
        "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072-1234\n",
    },
    "ml-10M100K": {
        "ratings.dat": b"1::122::4.5::838985046\n",
        "movies.dat": b"122::Boomerang (1992)::Comedy|Romance\n",
    },
    "ml-32m": {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,17,4.0,944249077\n1,25,0.5,944250228\n",
        "movies.csv": b'movieId,title,genres\n17,"Sense, and ""Sensibility"" (1995)",Drama|Romance\n'
        + "25,\u5343\u3068\u5343\u5c0b (2009\u20132012) ,(no genres listed)\n".encode(),
    },
}


@pytest.fixture(params=["folder", "zip"])
def release(request, tmp_path):
    def made(name):
        if request.param == "folder":
            for file, content in RELEASES[name].items():
                (tmp_path / name).mkdir(exist_ok=True)
                (tmp_path / name / file).write_bytes(content)
            return str(tmp_path / name)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file, content in RELEASES[name].items():
                archive.writestr(f"{name}/{file}", content)
        return str(tmp_path / f"{name}.zip")

    return made


def side(frame, key):
    types = ("title", "year", "genres") if key == "item" else ("age", "gender", "occupation", "zip")
    marked = clean_side_table(frame, key, "integer").collect()
    rows = [row for row in marked if row["reason"] != HEADER_LINE]
    assert {row["reason"] for row in rows} == {None}
    return {row[key]: tuple(row[name] for name in types) for row in rows}


@pytest.mark.parametrize(
    ("name", "ratings", "items", "users"),
    [
        (
            "ml-100k",
            {(196, 242, 3.0, 881250949), (186, 302, 3.0, 891717742)},
            {
                242: ('Caf\u00e9, The "Best" (1996)', 1996, ["Animation", "Comedy"]),
                267: ("unknown", None, ["Animation", "Comedy"]),
            },
            {196: (49, "M", "writer", "55105")},
        ),
        (
            "ml-1m",
            {(1, 1193, 5.0, 978300760), (2, 661, 3.0, 978302109)},
            {
                1193: ("One Flew: Over (a) Nest (1975)", 1975, ["Drama", "Children's"]),
                661: ("L\u00e9on (1994)", 1994, ["Crime"]),
            },
            {1: (1, "F", "K-12 student", "48067"), 2: (56, "M", "self-employed", "70072-1234")},
        ),
        (
            "ml-10M100K",
            {(1, 122, 4.5, 838985046)},
            {122: ("Boomerang (1992)", 1992, ["Comedy", "Romance"])},
            None,
        ),
        (
            "ml-32m",
            {(1, 17, 4.0, 944249077), (1, 25, 0.5, 944250228)},
            {
                17: ('Sense, and "Sensibility" (1995)', 1995, ["Drama", "Romance"]),
                25: ("\u5343\u3068\u5343\u5c0b (2009\u20132012) ", 2009, []),
            },
            None,
        ),
    ],
)
def test_published_layout(spark, release, name, ratings, items, users):
    with movielens_inputs(spark, release(name)) as inputs:
        marked = clean_ratings(inputs.ratings, RULES).withColumn("s", F.unix_seconds("timestamp"))
        rows = [row for row in marked.collect() if row["reason"] != HEADER_LINE]
        assert {(r["user"], r["item"], r["rating"], r["s"]) for r in rows} == ratings
        assert {r["reason"] for r in rows} == {None}
        assert rows[0]["source_file"].endswith(
            next(f for f in RELEASES[name] if f.startswith(("u.data", "ratings")))
        )
        assert side(inputs.items, "item") == items
        assert (None if inputs.users is None else side(inputs.users, "user")) == users


def test_path_without_a_release_is_named(spark, tmp_path):
    with (
        pytest.raises(SourceError, match="does not exist"),
        movielens_inputs(spark, str(tmp_path / "nowhere")),
    ):
        pass
    with (
        pytest.raises(SourceError, match=r"no MovieLens release: expected u\.data"),
        movielens_inputs(spark, str(tmp_path)),
    ):
        pass
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with (
        pytest.raises(SourceError, match="neither a folder nor a zip"),
        movielens_inputs(spark, str(tmp_path / "a.zip")),
    ):
        pass
