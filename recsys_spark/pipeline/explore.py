"""What the tables of a lake hold, for people who have not seen the data before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from recsys_spark.console import Section
from recsys_spark.errors import LakeError
from recsys_spark.inspection.charts import (
    counts_chart,
    genres_chart,
    long_tail_chart,
    over_time_chart,
    ratings_by_genre_chart,
    ratings_chart,
    users_chart,
)
from recsys_spark.inspection.exploring import (
    GENRES,
    counts_of_counts,
    genre_pairs,
    gini,
    has_genres,
    over_time,
    overview,
    rating_histogram,
    rejects,
    users_by,
)
from recsys_spark.inspection.page import Part
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.schema import EVERYONE, ITEM, USER

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.99, 1.0)
"""Shares of users, or items, with at most so many ratings."""

YEARS_IN_MONTHS = 3
"""A span of fewer years is told by months."""

SHOWN_FEATURES = ("age", "gender", "occupation")


@dataclass(frozen=True)
class Explored:
    """What there is, as frames of :mod:`recsys_spark.inspection.exploring`.

    Parameters
    ----------
    overview : pandas.DataFrame
        One row.
    counts : dict of str to pandas.DataFrame
        ``users`` and ``items`` → how many have how many ratings.
    histogram : pandas.DataFrame
        Ratings by value, and by genre where items have genres.
    unit : str
        ``month`` or ``year``.
    periods : pandas.DataFrame
        Ratings by ``unit``; may be empty.
    users : dict of str to pandas.DataFrame
        Age, gender and occupation → groups of users; those that are known.
    genres : pandas.DataFrame
        Pairs of genres; may be empty.
    rejected : pandas.DataFrame
        Reasons; may be empty.
    """

    overview: pd.DataFrame
    counts: dict[str, pd.DataFrame]
    histogram: pd.DataFrame
    unit: Literal["month", "year"]
    periods: pd.DataFrame
    users: dict[str, pd.DataFrame]
    genres: pd.DataFrame
    rejected: pd.DataFrame


def explore(lake: Lakehouse) -> Explored:
    """Describe the newest ratings, users and items: reads ratings, users, items, rejected_ratings; writes
    nothing.

    Parameters
    ----------
    lake : Lakehouse
        The tables.

    Raises
    ------
    LakeError
        There are no ratings.
    """
    ratings, nothing = lake.read("ratings"), pd.DataFrame()
    users, items, rejected = (_table(lake, name) for name in ("users", "items", "rejected_ratings"))
    totals = overview(ratings, users, items)
    if not totals["ratings"][0]:
        raise LakeError("there are no ratings: run ingest first")
    years = over_time(ratings, "year")
    span = [period.year for period in years["period"]] or [0]
    in_months = span[-1] - span[0] < YEARS_IN_MONTHS
    known = [] if users is None else [name for name in SHOWN_FEATURES if name in users.columns]
    groups = {name: users_by(users, name) for name in known if users is not None}
    return Explored(
        totals,
        {f"{by}s": counts_of_counts(ratings, by) for by in (USER, ITEM)},
        rating_histogram(ratings, items),
        "month" if in_months else "year",
        over_time(ratings, "month") if in_months else years,
        {name: group for name, group in groups.items() if len(group)},
        genre_pairs(items) if items is not None and has_genres(items) else nothing,
        nothing if rejected is None else rejects(rejected),
    )


def explored_sections(explored: Explored) -> list[Section]:
    """Tables for a terminal or a program; of what there is something.

    Parameters
    ----------
    explored : Explored
        What :func:`explore` found.
    """
    bars = explored.histogram[explored.histogram["genre"] == EVERYONE].drop(columns="genre")
    named = [
        ("overview", "What there is", explored.overview),
        ("shares", "Ratings that users and items have", _shares(explored.counts)),
        ("rating_histogram", "Ratings by value", bars),
        (f"{explored.unit}s", f"Ratings by {explored.unit}", explored.periods),
        *((feature, f"Users by {feature}", groups) for feature, groups in explored.users.items()),
        (GENRES, "Items by genre", _alone(explored.genres)),
        ("rejects", "Rejected rows of all nights, by reason", explored.rejected),
    ]
    told = [(name, title, frame) for name, title, frame in named if len(frame)]
    return [Section(name, title, _rows(frame), list(frame.columns)) for name, title, frame in told]


def explored_parts(explored: Explored) -> list[Part]:
    """The same as a page of charts, each with its table.

    Parameters
    ----------
    explored : Explored
        What :func:`explore` found.
    """
    words = "Both axes are logarithmic: a long tail is a falling line."
    charts: dict[str, tuple[alt.Chart, str]] = {
        "shares": (counts_chart(explored.counts), words),
        "rating_histogram": (ratings_chart(explored.histogram), ""),
    }
    if len(explored.periods):
        charts[f"{explored.unit}s"] = (over_time_chart(explored.periods, explored.unit), "In UTC.")
    charts |= {feature: (users_chart(groups), "") for feature, groups in explored.users.items()}
    if len(explored.genres):
        charts[GENRES] = (genres_chart(explored.genres), "How many items have two genres at once.")
    parts = []
    for section in explored_sections(explored):
        chart, words = charts.get(section.name, (None, ""))
        parts.append(
            Part(section.title, words, chart, section.rows, section.columns, folded=chart is not None)
        )
        if section.name == "shares":
            words = "On the dashed line all would have the same number of ratings."
            parts.append(Part("The long tail", words, long_tail_chart(explored.counts)))
        if section.name == "rating_histogram" and explored.histogram["genre"].nunique() > 1:
            words = "The share of a genre's ratings that each value has."
            parts.append(Part("Ratings by genre", words, ratings_by_genre_chart(explored.histogram)))
    return parts


def _alone(pairs: pd.DataFrame) -> pd.DataFrame:
    """How many items have each genre, most first."""
    if not len(pairs):
        return pairs
    alone = pairs[pairs["genre"] == pairs["other"]].sort_values("items", ascending=False)
    return alone.drop(columns="other")


def _table(lake: Lakehouse, name: str) -> DataFrame | None:
    return lake.read(name) if lake.exists(name) else None


def _shares(counts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Quantiles of the numbers of ratings, and how unevenly these are shared out."""
    rows = []
    for of, frame in counts.items():
        below = frame["entities"].cumsum() / frame["entities"].sum()
        at = {f"{share:.0%}": frame["ratings"][below.searchsorted(share)] for share in QUANTILES}
        rows.append({"of": of, **at, "gini": gini(frame)})
    return pd.DataFrame(rows)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with Python's own numbers, and None for what is missing."""
    present = frame.astype(object).where(frame.notna(), None)
    columns = [[_plain(value) for value in present[name]] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
