"""Pictures of the frames that this package computes, by Altair.

Each function takes a small pandas frame and returns a chart as wide as its place. A chart's description says
in words what it shows, for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from recsys_spark.inspection.exploring import long_tail
from recsys_spark.schema import EVERYONE, ITEM, RATING

HEIGHT = 260
ROW_HEIGHT = 18
"""Pixels; the second is of one line of a chart that has one for each value."""

MAP_HEIGHT = 480

MOST_COLOURS = 9
"""Genres that have a colour of their own."""

COLOURS = ("#3b6fb6", "#d1642d")
"""Of users and items: told apart by those who see few colours, on white and on black."""

_COUNT = alt.Axis(format="~s")


def counts_chart(counts: Mapping[str, pd.DataFrame]) -> alt.Chart:
    """How many users and items have how many ratings, on logarithmic axes.

    Parameters
    ----------
    counts : mapping of str to pandas.DataFrame
        ``users`` and ``items`` → :func:`~recsys_spark.inspection.exploring.counts_of_counts`.
    """
    rows, top = pd.concat([frame.assign(of=of) for of, frame in counts.items()]), alt.Legend(orient="top")
    return (
        alt.Chart(rows)
        .mark_point(filled=True, opacity=0.6, size=28)
        .encode(
            x=alt.X("ratings:Q", scale=alt.Scale(type="log"), title="ratings", axis=_COUNT),
            y=alt.Y("entities:Q", scale=alt.Scale(type="log"), title="users or items with so many"),
            color=_of(counts),
            shape=alt.Shape("of:N", title=None, scale=alt.Scale(domain=list(counts)), legend=top),
            tooltip=["of", "ratings", "entities"],
        )
        .properties(width="container", height=HEIGHT, description=_told_most(counts))
    )


def long_tail_chart(counts: Mapping[str, pd.DataFrame]) -> alt.LayerChart:
    """Which share of the ratings the least rated users and items have, beside an even distribution.

    Parameters
    ----------
    counts : mapping of str to pandas.DataFrame
        As for :func:`counts_chart`.
    """
    curves = {of: long_tail(frame) for of, frame in counts.items()}
    rows = pd.concat([curve.assign(of=of) for of, curve in curves.items()])
    even = alt.Chart(pd.DataFrame({"share_of_entities": [0, 1], "share_of_ratings": [0, 1]}))
    share = alt.Axis(format="%")
    x = alt.X("share_of_entities:Q", title="share of users or items, least rated first", axis=share)
    y = alt.Y("share_of_ratings:Q", title="share of ratings", axis=share)
    told = " and ".join(
        f"{_share_of_upper_tenth(curve):.0%} of the ratings are of the tenth of {of} with most"
        for of, curve in curves.items()
    )
    shares = [alt.Tooltip(name, format=".1%") for name in ("share_of_entities", "share_of_ratings")]
    return (
        even.mark_line(strokeDash=[4, 4], color="#888").encode(x=x, y=y)
        + alt.Chart(rows)
        .mark_line()
        .encode(
            x=x,
            y=y,
            color=_of(counts),
            tooltip=["of", *shares],
        )
    ).properties(width="container", height=HEIGHT, description=f"{told}.")


def ratings_chart(histogram: pd.DataFrame) -> alt.Chart:
    """How often each rating is given.

    Parameters
    ----------
    histogram : pandas.DataFrame
        As :func:`~recsys_spark.inspection.exploring.rating_histogram` returns it.
    """
    rows = histogram[histogram["genre"] == EVERYONE]
    most = rows.sort_values("ratings", ascending=False).iloc[0]
    told = f"The most frequent rating is {most[RATING]:g}: {most['ratings']:,} of them."
    return (
        alt.Chart(rows)
        .mark_bar()
        .encode(
            x=alt.X(f"{RATING}:O", axis=alt.Axis(format=".3~g", labelAngle=0)),
            y=alt.Y("ratings:Q", axis=_COUNT),
            color=alt.value(COLOURS[0]),
            tooltip=[RATING, "ratings"],
        )
        .properties(width="container", height=HEIGHT, description=told)
    )


def ratings_by_genre_chart(histogram: pd.DataFrame) -> alt.Chart:
    """Which share of a genre's ratings each rating has; genres with the higher mean first.

    Parameters
    ----------
    histogram : pandas.DataFrame
        As :func:`~recsys_spark.inspection.exploring.rating_histogram` returns it, with genres.
    """
    rows = histogram[histogram["genre"] != EVERYONE].copy()
    rows["share"] = rows["ratings"] / rows.groupby("genre")["ratings"].transform("sum")
    means = (rows[RATING] * rows["share"]).groupby(rows["genre"]).sum().sort_values(ascending=False)
    told = f"The mean rating is highest in {means.index[0]} ({means.iloc[0]:.2f}) and lowest in "
    return (
        alt.Chart(rows)
        .mark_rect()
        .encode(
            x=alt.X(f"{RATING}:O", axis=alt.Axis(format=".3~g", labelAngle=0)),
            y=alt.Y("genre:N", sort=list(means.index), title=None),
            color=alt.Color("share:Q", scale=alt.Scale(scheme="blues"), legend=alt.Legend(format="%")),
            tooltip=["genre", RATING, "ratings", alt.Tooltip("share", format=".1%")],
        )
        .properties(
            width="container",
            height=alt.Step(ROW_HEIGHT),
            description=f"{told}{means.index[-1]} ({means.iloc[-1]:.2f}).",
        )
    )


def over_time_chart(periods: pd.DataFrame, unit: Literal["month", "year"]) -> alt.Chart:
    """How many ratings were given when.

    Parameters
    ----------
    periods : pandas.DataFrame
        As :func:`~recsys_spark.inspection.exploring.over_time` returns it.
    unit : str
        ``month`` or ``year``, whichever the periods are.
    """
    rows = periods.assign(period=periods["period"].astype(str))
    most = rows.sort_values("ratings", ascending=False).iloc[0]
    told = f"The most ratings, {most['ratings']:,}, came in the {unit} from {most['period']} on."
    # a whole unit is as wide as its bar; without utc a browser would show it in its own zone
    period = {"month": "utcyearmonth(period):O", "year": "utcyear(period):O"}[unit]
    return (
        alt.Chart(rows)
        .mark_bar()
        .encode(
            x=alt.X(period, title=None, axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("ratings:Q", axis=_COUNT),
            color=alt.value(COLOURS[0]),
            tooltip=[alt.Tooltip(period, title=unit), "ratings", "users"],
        )
        .properties(width="container", height=HEIGHT, description=told)
    )


def users_chart(groups: pd.DataFrame) -> alt.Chart:
    """How many users have each value of a feature, the largest group first.

    Parameters
    ----------
    groups : pandas.DataFrame
        As :func:`~recsys_spark.inspection.exploring.users_by` returns it.
    """
    feature, most = groups.columns[0], groups.iloc[0]
    told = f"Of {groups['users'].sum():,} users {most['users']:,} have {feature} {most[feature]}."
    return (
        alt.Chart(groups.rename(columns={feature: "value"}))
        .mark_bar()
        .encode(
            x=alt.X("users:Q", axis=_COUNT),
            y=alt.Y("value:N", sort=None, title=None),
            color=alt.value(COLOURS[0]),
            tooltip=["value", "users"],
        )
        .properties(width="container", height=alt.Step(ROW_HEIGHT), description=told)
    )


def genres_chart(pairs: pd.DataFrame) -> alt.Chart:
    """How many items have two genres at once; on the diagonal, how many have one.

    Parameters
    ----------
    pairs : pandas.DataFrame
        As :func:`~recsys_spark.inspection.exploring.genre_pairs` returns it.
    """
    alone = pairs[pairs["genre"] == pairs["other"]].sort_values("items", ascending=False)
    order = alone["genre"].tolist()
    both = pairs[pairs["genre"] < pairs["other"]].sort_values("items", ascending=False)
    told = f"The most frequent genre is {order[0]}, with {alone['items'].iloc[0]:,} items"
    if len(both):
        told += f"; most frequent together are {both['genre'].iloc[0]} and {both['other'].iloc[0]}"
    return (
        alt.Chart(pairs)
        .mark_rect()
        .encode(
            x=alt.X("other:N", sort=order, title=None, axis=alt.Axis(labelAngle=-45)),
            y=alt.Y("genre:N", sort=order, title=None),
            color=alt.Color("items:Q", scale=alt.Scale(type="log", scheme="blues")),
            tooltip=["genre", "other", "items"],
        )
        .properties(width="container", height=alt.Step(ROW_HEIGHT), description=f"{told}.")
    )


def norms_chart(norms: pd.DataFrame, correlation: float) -> alt.Chart:
    """Length of items' vectors beside their popularity.

    Parameters
    ----------
    norms : pandas.DataFrame
        As :func:`~recsys_spark.inspection.embeddings.norms` returns it; a column ``title`` is shown on hover.
    correlation : float
        As :func:`~recsys_spark.inspection.embeddings.norm_correlation` returns it.
    """
    told = f"The rank correlation of norms with numbers of ratings is {correlation:.2f}."
    return (
        alt.Chart(norms)
        .mark_circle(opacity=0.5, size=24)
        .encode(
            x=alt.X("ratings:Q", scale=alt.Scale(type="log"), axis=_COUNT),
            y=alt.Y("norm:Q", title="length of the vector"),
            color=alt.value(COLOURS[0]),
            tooltip=_on_hover(norms, "norm", "ratings"),
        )
        .properties(width="container", height=HEIGHT, description=told)
    )


def map_chart(places: pd.DataFrame) -> alt.Chart:
    """Where items lie, larger with more ratings.

    Parameters
    ----------
    places : pandas.DataFrame
        As :func:`~recsys_spark.inspection.embeddings.item_map` returns it; a column ``title`` is shown
        on hover, and ``genre`` makes the colours: the nine with most items, and ``others``.
    """
    told = f"{len(places):,} items by what the model has learnt of them."
    colour: Any = alt.value(COLOURS[0])
    if "genre" in places and places["genre"].notna().any():
        frequent = places["genre"].value_counts().index[:MOST_COLOURS]
        places = places.assign(genre=places["genre"].where(places["genre"].isin(frequent), "others"))
        told = f"{told} Colours are genres, most often {frequent[0]}."
        colour = alt.Color("genre:N", scale=alt.Scale(scheme="tableau10"), legend=alt.Legend(title=None))
    bare = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    return (
        alt.Chart(places)
        .mark_circle(opacity=0.6)
        .encode(
            x=alt.X("x:Q", axis=bare),
            y=alt.Y("y:Q", axis=bare),
            size=alt.Size("ratings:Q", scale=alt.Scale(range=[10, 200]), legend=None),
            color=colour,
            tooltip=_on_hover(places, "genre", "ratings"),
        )
        .properties(width="container", height=MAP_HEIGHT, description=told)
    )


def _on_hover(rows: pd.DataFrame, *columns: str) -> list[str]:
    """The item's title, or its id, and what of the columns there is."""
    return ["title" if "title" in rows else ITEM, *(column for column in columns if column in rows)]


def _of(counts: Mapping[str, pd.DataFrame]) -> alt.Color:
    scale = alt.Scale(domain=list(counts), range=list(COLOURS[: len(counts)]))
    return alt.Color("of:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _told_most(counts: Mapping[str, pd.DataFrame]) -> str:
    told = []
    for of, frame in counts.items():
        least, most = frame["ratings"].min(), frame["ratings"].max()
        told.append(f"{frame['entities'].sum():,} {of} have {least:,} to {most:,} ratings each")
    return f"{'; '.join(told)}."


def _share_of_upper_tenth(curve: pd.DataFrame) -> float:
    """Share of the ratings that the tenth with the most of them has, between two rows by a straight line."""
    return float(1 - np.interp(0.9, curve["share_of_entities"], curve["share_of_ratings"]))
