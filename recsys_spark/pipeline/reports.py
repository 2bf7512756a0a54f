"""Where the pages of nights are, and how they go."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from markupsafe import escape
from pyspark.sql import SparkSession

from recsys_spark.config import Config, Report
from recsys_spark.lakehouse.paths import absolute_path
from recsys_spark.lakehouse.storage import file_names, folders, read_text, remove


def reports_folder(config: Config) -> str:
    """Where the pages are.

    Parameters
    ----------
    config : Config
        The whole configuration.
    """
    given = (config.report or Report()).folder
    return absolute_path(given or f"{config.lake.root or config.lake.models_path}/reports")


def drop_old_reports(spark: SparkSession, config: Config, first: date, served: date | None) -> int:
    """Remove the pages of dates before ``first``, but of the one that is served.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    config : Config
        The whole configuration.
    first : date
        The first that stays.
    served : date or None
        What is served.

    Returns
    -------
    int
        How many.
    """
    old = [path for day, path in _pages(spark, config) if day < first and day != served]
    for path in old:
        remove(spark, path)
    return len(old)


def drop_reports_of(spark: SparkSession, config: Config, users: Collection[str]) -> int:
    """Remove the pages that show one of some users; ``recsys report`` makes them again, with others.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    config : Config
        The whole configuration.
    users : collection of str
        Ids.

    Returns
    -------
    int
        How many.
    """
    headings = [f">User {escape(user)}<" for user in users]
    shown = [path for _, path in _pages(spark, config) if _has(read_text(spark, path), headings)]
    for path in shown:
        remove(spark, path)
    return len(shown)


def _has(text: str, parts: Collection[str]) -> bool:
    return any(part in text for part in parts)


def _pages(spark: SparkSession, config: Config) -> list[tuple[date, str]]:
    """Date and path of each page."""
    folder = reports_folder(config)
    parent, _, name = folder.rpartition("/")
    if name not in {path.rstrip("/").rpartition("/")[2] for path in folders(spark, parent)}:
        return []
    found = []
    for file in file_names(spark, folder):
        try:
            found.append((date.fromisoformat(file.removesuffix(".html")), f"{folder}/{file}"))
        except ValueError:  # not one of ours
            continue
    return found
