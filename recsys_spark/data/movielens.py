"""MovieLens releases as published: 100K, 1M, 10M, 20M, 25M, 32M and latest, as a folder or as the zip
itself.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Delimited
from recsys_spark.data.cleaning import SOURCE_FILE
from recsys_spark.data.download import extract
from recsys_spark.data.sources import RawTables, read_cells, split_list, year_of
from recsys_spark.errors import SourceError

GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The 19 flags of ``u.item``, in their order."""

OCCUPATIONS_1M = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
"""Occupation codes 0 to 20 of ``users.dat``, in the words of the release's README."""

_COLON = {"delimiter": "::", "quote": "", "header": False, "encoding": "latin-1"}


@dataclass(frozen=True)
class Layout:
    """How one generation of releases is laid out: file names, and how their lines divide."""

    ratings: str
    items: str
    users: str | None
    rating_text: Delimited
    rating_columns: dict[str, str]
    item_text: Delimited
    user_text: Delimited | None = None


_PLAIN = {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"}
_FLAGS = [f"genre{index}" for index in range(len(GENRES_100K))]

LAYOUTS = (
    Layout(
        "u.data",
        "u.item",
        "u.user",
        Delimited(delimiter="\t", quote="", header=False, names=[*_PLAIN], encoding="latin-1"),
        _PLAIN,
        Delimited(
            delimiter="|",
            quote="",
            header=False,
            names=["item", "title", "released", "video_released", "url", *_FLAGS],
            encoding="latin-1",
        ),
        Delimited(
            delimiter="|",
            quote="",
            header=False,
            names=["user", "age", "gender", "occupation", "zip"],
            encoding="latin-1",
        ),
    ),
    Layout(
        "ratings.dat",
        "movies.dat",
        "users.dat",
        Delimited(**_COLON, names=[*_PLAIN]),  # type: ignore[arg-type]
        _PLAIN,
        Delimited(**_COLON, names=["item", "title", "genres"]),  # type: ignore[arg-type]
        Delimited(**_COLON, names=["user", "gender", "age", "occupation", "zip"]),  # type: ignore[arg-type]
    ),
    Layout(
        "ratings.csv",
        "movies.csv",
        None,
        Delimited(),
        {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"},
        Delimited(),
    ),
)


@contextmanager
def movielens_inputs(spark: SparkSession, path: str) -> Iterator[RawTables]:
    """Raw frames of the release at ``path``; a zip is unpacked for as long as the context lasts.

    Parameters
    ----------
    path : the release's folder, a folder that holds it, or the zip; a zip must be on the driver's own disk,
        and on a cluster the folder must be one that the workers see too

    Raises
    ------
    SourceError
        Nothing there, or no known layout.
    """
    local = Path(path)
    if "://" not in path and not local.exists():
        raise SourceError(f"{path}: does not exist; a MovieLens release's folder or zip is expected")
    if local.is_file():
        with tempfile.TemporaryDirectory(prefix="recsys-movielens-") as folder:
            yield _read(spark, _unpacked(local, Path(folder)), local.name)
    else:
        yield _read(spark, path, path)


def _unpacked(archive: Path, folder: Path) -> str:
    if not zipfile.is_zipfile(archive):
        raise SourceError(f"{archive}: is neither a folder nor a zip")
    wanted = {name for layout in LAYOUTS for name in (layout.ratings, layout.items, layout.users)}
    extract(archive, folder, lambda member: Path(member).name in wanted)
    return str(folder)


def _read(spark: SparkSession, path: str, shown: str) -> RawTables:
    folder, layout = _find(path, shown)
    ratings = read_cells(
        spark, "csv", f"{folder}/{layout.ratings}", layout.rating_columns, layout.rating_text
    )
    items = _items(spark, folder, layout)
    users = _users(spark, folder, layout)
    return RawTables(
        _named(ratings, shown, layout.ratings),
        _named(users, shown, layout.users) if users is not None else None,
        _named(items, shown, layout.items),
    )


def _find(path: str, shown: str) -> tuple[str, Layout]:
    if "://" in path:
        raise SourceError(
            f"{shown}: give MovieLens as a local or mounted folder or zip, or map its files as csv"
        )
    for layout in LAYOUTS:
        for found in sorted(Path(path).glob(f"**/{layout.ratings}")):
            if (found.parent / layout.items).exists():
                return str(found.parent), layout
    expected = " or ".join(f"{layout.ratings} with {layout.items}" for layout in LAYOUTS)
    raise SourceError(f"{shown}: holds no MovieLens release: expected {expected}")


def _named(raw: DataFrame, shown: str, file: str | None) -> DataFrame:
    """The source file as the release's name and the file in it: the folder of an unpacked zip is gone
    tomorrow.
    """
    return raw.withColumn(SOURCE_FILE, F.lit(f"{shown.rstrip('/')}/{file}"))


def _items(spark: SparkSession, folder: str, layout: Layout) -> DataFrame:
    path = f"{folder}/{layout.items}"
    if layout.items == "u.item":
        names = ["item", "title", *_FLAGS]
        raw = read_cells(spark, "csv", path, {name: name for name in names}, layout.item_text)
        flagged = [
            F.when(F.col(flag) == "1", F.lit(genre)) for flag, genre in zip(_FLAGS, GENRES_100K, strict=True)
        ]
        raw = raw.withColumn("genres", F.array_compact(F.array(*flagged))).drop(*_FLAGS)
    else:
        item = "movieId" if layout.item_text.header else "item"
        raw = read_cells(
            spark, "csv", path, {"item": item, "title": "title", "genres": "genres"}, layout.item_text
        )
        raw = raw.withColumn("genres", split_list("genres", "|"))
    return raw.withColumn("year", year_of("title"))


def _users(spark: SparkSession, folder: str, layout: Layout) -> DataFrame | None:
    if layout.users is None or not (Path(folder) / layout.users).exists():
        return None  # 10M publishes no users.dat
    columns = {name: name for name in ("user", "age", "gender", "occupation", "zip")}
    raw = read_cells(spark, "csv", f"{folder}/{layout.users}", columns, layout.user_text)
    return raw.withColumn("occupation", _occupation_1m()) if layout.users == "users.dat" else raw


def _occupation_1m() -> Column:
    names = F.array(*(F.lit(name) for name in OCCUPATIONS_1M))
    return F.coalesce(F.get(names, F.col("occupation").try_cast("int")), F.col("occupation"))
