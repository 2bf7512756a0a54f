"""What the tables of a lake hold, for people who have not seen the data before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from recsys_spark.console import Section
from recsys_spark.inspection.exploring import (
    GENRES,
    counts_of_counts,
    genre_pairs,
    gini,
    over_time,
    overview,
    rating_histogram,
    rejects,
    users_by,
)
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.schema import ITEM, USER

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.99, 1.0)
"""Shares of users, or items, with at most so many ratings."""

YEARS_IN_MONTHS = 3
"""A span of fewer years is told by months."""

SHOWN_FEATURES = ("age", "gender", "occupation")


def explore(lake: Lakehouse) -> list[Section]:
    """Describe the newest ratings, users and items: reads ratings, users, items, rejected_ratings; writes
    nothing.

    Parameters
    ----------
    lake : Lakehouse
        The tables.

    Returns
    -------
    list of Section
        What there is, how the ratings are shared out, the ratings by value and by year, users by age, gender
        and occupation, genres, and why rows were rejected; those of which there is something.

    Raises
    ------
    LakeError
        There are no ratings.
    """
    ratings = lake.read("ratings")
    users, items = _table(lake, "users"), _table(lake, "items")
    named = [
        ("overview", "What there is", overview(ratings, users, items)),
        ("shares", "Ratings that users and items have", _shares(ratings)),
        ("rating_histogram", "Ratings by value", rating_histogram(ratings).drop(columns="genre")),
    ]
    years = over_time(ratings, "year")
    if len(years) < YEARS_IN_MONTHS:
        named.append(("months", "Ratings by month", over_time(ratings, "month")))
    else:
        named.append(("years", "Ratings by year", years))
    for feature in SHOWN_FEATURES:
        if users is not None and feature in users.columns:
            named.append((feature, f"Users by {feature}", users_by(users, feature)))
    if items is not None and GENRES in items.columns:
        pairs = genre_pairs(items)
        alone = pairs[pairs["genre"] == pairs["other"]].sort_values("items", ascending=False)
        named.append((GENRES, "Items by genre", alone.drop(columns="other")))
    rejected = _table(lake, "rejected_ratings")
    if rejected is not None:
        named.append(("rejects", "Rejected rows of all nights, by reason", rejects(rejected)))
    told = [(name, title, frame) for name, title, frame in named if len(frame)]
    return [Section(name, title, _rows(frame), list(frame.columns)) for name, title, frame in told]


def _table(lake: Lakehouse, name: str) -> DataFrame | None:
    return lake.read(name) if lake.exists(name) else None


def _shares(ratings: DataFrame) -> pd.DataFrame:
    """Quantiles of the numbers of ratings, and how unevenly these are shared out."""
    rows = []
    for by in (USER, ITEM):
        counts = counts_of_counts(ratings, by)
        below = counts["entities"].cumsum() / counts["entities"].sum()
        at = {f"{share:.0%}": counts["ratings"][below.searchsorted(share)] for share in QUANTILES}
        rows.append({"of": f"{by}s", **at, "gini": gini(counts)})
    return pd.DataFrame(rows)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with Python's own numbers, and None for what is missing."""
    present = frame.astype(object).where(frame.notna(), None)
    columns = [[_plain(value) for value in present[name]] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
