"""MovieLens releases as published (100K, 1M, 10M, 20M, 25M, 32M and latest), as a folder or a zip."""

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
from recsys_spark.data.download import extract
from recsys_spark.data.features import split_list, year_of
from recsys_spark.data.sources import RawTables, read_cells
from recsys_spark.errors import SourceError
from recsys_spark.schema import SOURCE_FILE

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

_COLONS = {"delimiter": "::", "quote": "", "header": False}


@dataclass(frozen=True)
class Layout:
    """How one generation of releases is laid out: file names, and how lines are split into fields."""

    ratings: str
    items: str
    users: str | None
    rating_text: Delimited
    rating_columns: dict[str, str]
    item_text: Delimited
    user_text: Delimited | None = None


_SAME_NAMES = {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"}
_FLAGS = [f"genre{index}" for index in range(len(GENRES_100K))]

LAYOUTS = (
    Layout(
        ratings="u.data",
        items="u.item",
        users="u.user",
        rating_text=Delimited(
            delimiter="\t",
            quote="",
            header=False,
            names=[*_SAME_NAMES],
            encoding="latin-1",
        ),
        rating_columns=_SAME_NAMES,
        item_text=Delimited(
            delimiter="|",
            quote="",
            header=False,
            names=["item", "title", "released", "video_released", "url", *_FLAGS],
            encoding="latin-1",
        ),
        user_text=Delimited(
            delimiter="|",
            quote="",
            header=False,
            names=["user", "age", "gender", "occupation", "zip"],
            encoding="latin-1",
        ),
    ),
    Layout(
        ratings="ratings.dat",
        items="movies.dat",
        users="users.dat",
        rating_text=Delimited(**_COLONS, names=[*_SAME_NAMES]),  # type: ignore[arg-type]
        rating_columns=_SAME_NAMES,
        item_text=Delimited(**_COLONS, names=["item", "title", "genres"]),  # type: ignore[arg-type]
        user_text=Delimited(**_COLONS, names=["user", "gender", "age", "occupation", "zip"]),  # type: ignore[arg-type]
    ),
    Layout(
        ratings="ratings.csv",
        items="movies.csv",
        users=None,
        rating_text=Delimited(),
        rating_columns={"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"},
        item_text=Delimited(),
    ),
)


@contextmanager
def movielens_inputs(spark: SparkSession, path: str) -> Iterator[RawTables]:
    """Raw frames of the release at ``path``; a zip is unpacked for as long as the context lasts.

    Parameters
    ----------
    spark : SparkSession
        Session that reads.
    path : str
        The release's folder, a folder that contains it, or the zip. A zip must be on the driver's own disk;
        on a cluster the folder must be one that the workers see too.

    Yields
    ------
    RawTables
        ``users`` is None where the release has none.

    Raises
    ------
    SourceError
        ``path`` does not exist, or contains no release of a known layout.
    """
    local = Path(path)
    if "://" not in path and not local.exists():
        raise SourceError(f"{path}: does not exist: the folder or zip of a MovieLens release is expected")
    if local.is_file():
        with tempfile.TemporaryDirectory(prefix="recsys-movielens-") as folder:
            yield _read(spark, _unpacked(local, Path(folder)), local.name)
    else:
        yield _read(spark, path, path)


def _unpacked(archive: Path, folder: Path) -> str:
    if not zipfile.is_zipfile(archive):
        raise SourceError(f"{archive}: is neither a folder nor a zip: a MovieLens release is expected")
    wanted = {name for layout in LAYOUTS for name in (layout.ratings, layout.items, layout.users)}
    extract(archive, folder, lambda member: Path(member).name in wanted)
    return str(folder)


def _read(spark: SparkSession, path: str, shown: str) -> RawTables:
    folder, layout = _find(path, shown)
    path_of_ratings = f"{folder}/{layout.ratings}"
    ratings = read_cells(spark, "csv", path_of_ratings, layout.rating_columns, layout.rating_text)
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
            f"{shown}: a MovieLens release must be a local or mounted folder or zip; "
            "elsewhere, set ingest.source.format to csv and map its columns"
        )
    found = [
        (str(ratings.parent), layout)
        for layout in LAYOUTS
        for ratings in sorted(Path(path).glob(f"**/{layout.ratings}"))
        if (ratings.parent / layout.items).exists()
    ]
    if len(found) > 1:
        folders = ", ".join(sorted(folder for folder, _ in found))
        raise SourceError(
            f"{shown}: contains {len(found)} MovieLens releases: set ingest.source.path to one of {folders}"
        )
    if found:
        return found[0]
    expected = " or ".join(f"{layout.ratings} with {layout.items}" for layout in LAYOUTS)
    raise SourceError(f"{shown}: contains no MovieLens release: expected {expected}")


def _named(raw: DataFrame, shown: str, file: str | None) -> DataFrame:
    """``raw`` with the release's name and the file in it as source file: an unpacked zip's folder is
    temporary.
    """
    return raw.withColumn(SOURCE_FILE, F.lit(f"{shown.rstrip('/')}/{file}"))


def _items(spark: SparkSession, folder: str, layout: Layout) -> DataFrame:
    path = f"{folder}/{layout.items}"
    text = layout.item_text
    if not text.header:
        text = text.model_copy(update={"encoding": _encoding(Path(path))})
    if layout.items == "u.item":
        names = ["item", "title", *_FLAGS]
        raw = read_cells(spark, "csv", path, {name: name for name in names}, text)
        flagged = [
            F.when(F.col(flag) == "1", F.lit(genre)) for flag, genre in zip(_FLAGS, GENRES_100K, strict=True)
        ]
        raw = raw.withColumn("genres", F.array_compact(F.array(*flagged))).drop(*_FLAGS)
    else:
        item = "movieId" if layout.item_text.header else "item"
        columns = {"item": item, "title": "title", "genres": "genres"}
        raw = read_cells(spark, "csv", path, columns, text)
        raw = raw.withColumn("genres", split_list("genres", "|"))
    return raw.withColumn("year", year_of("title"))


def _encoding(file: Path) -> str:
    """The 100K and 1M releases are in Latin-1, the 10M release, which is laid out as 1M, in UTF-8; accented
    Latin-1 is not valid UTF-8.
    """
    try:
        file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _users(spark: SparkSession, folder: str, layout: Layout) -> DataFrame | None:
    if layout.users is None or not (Path(folder) / layout.users).exists():
        return None  # the 10M release has no users.dat
    columns = {name: name for name in ("user", "age", "gender", "occupation", "zip")}
    raw = read_cells(spark, "csv", f"{folder}/{layout.users}", columns, layout.user_text)
    return raw.withColumn("occupation", _occupation_1m()) if layout.users == "users.dat" else raw


def _occupation_1m() -> Column:
    names = F.array(*(F.lit(name) for name in OCCUPATIONS_1M))
    return F.coalesce(F.get(names, F.col("occupation").try_cast("int")), F.col("occupation"))
