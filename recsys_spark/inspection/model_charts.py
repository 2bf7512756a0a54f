"""Pictures of models and of their lists, by Altair; those of data are in
:mod:`recsys_spark.inspection.charts`.
"""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
import pandas as pd

from recsys_spark.inspection.charts import COLOURS, HEIGHT, ROW_HEIGHT
from recsys_spark.schema import RANK

_PERCENT = alt.Axis(format="%")
_MODELS = alt.Legend(orient="top", columns=2)  # two names are as wide as a phone


def metrics_chart(metrics: pd.DataFrame, metric: str) -> alt.LayerChart:
    """Each model's value of a metric, with its interval.

    Parameters
    ----------
    metrics : pandas.DataFrame
        One row per model: ``model``, ``value``, ``low``, ``high``; the last two may be missing.
    metric : str
        Its name.
    """
    best = metrics.sort_values("value", ascending=False).iloc[0]
    told = f"{best['model']} has the highest {metric}, {best['value']:.4f}."
    order = alt.EncodingSortField("value", order="descending")
    y = alt.Y("model:N", sort=order, title=None)
    shown = [alt.Tooltip(name, format=".4f") for name in ("value", "low", "high")]
    base = alt.Chart(metrics)
    points = base.mark_point(filled=True, size=60).encode(
        x=alt.X("value:Q", title=metric, scale=alt.Scale(zero=False)),
        y=y,
        color=alt.value(COLOURS[0]),
        tooltip=["model", *shown],
    )
    intervals = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=alt.value(COLOURS[0]))
    return (intervals + points).properties(
        width="container", height=alt.Step(2 * ROW_HEIGHT), description=told
    )


def segments_chart(segments: pd.DataFrame, metric: str) -> alt.Chart:
    """Models' value of a metric for each segment of users.

    Parameters
    ----------
    segments : pandas.DataFrame
        One row per (model, segment): ``model``, ``segment``, ``value``, ``users`` in it.
    metric : str
        Its name.
    """
    rows = segments.assign(of=segments["segment"] + segments["users"].map(" ({:,})".format))
    worst = segments.sort_values("value").iloc[0]
    told = f"The lowest {metric} is {worst['value']:.4f}: {worst['model']} for {worst['segment']}."
    return (
        alt.Chart(rows)
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("value:Q", title=metric),
            y=alt.Y("of:N", title=None),
            color=alt.Color("model:N", title=None, legend=_MODELS),
            shape=alt.Shape("model:N", title=None, legend=_MODELS),
            tooltip=["model", "segment", alt.Tooltip("value", format=".4f"), "users"],
        )
        .properties(width="container", height=alt.Step(1.5 * ROW_HEIGHT), description=told)
    )


def learning_chart(steps: pd.DataFrame) -> alt.Chart:
    """The objective of each model after each iteration or epoch, as a share of the first.

    Parameters
    ----------
    steps : pandas.DataFrame
        One row per (model, step): ``model``, ``step`` from 1, ``objective``.
    """
    first = steps.sort_values("step").groupby("model")["objective"].transform("first")
    rows = steps.assign(of_first=steps["objective"] / first.where(first != 0, 1.0))
    ends = rows.sort_values("step").groupby("model").last()
    told = "; ".join(f"{model} ends at {row['of_first']:.0%} of its first" for model, row in ends.iterrows())
    return (
        alt.Chart(rows)
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="iteration or epoch", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y(
                "of_first:Q", title="objective, of the first", axis=_PERCENT, scale=alt.Scale(zero=False)
            ),
            color=alt.Color("model:N", title=None, legend=_MODELS),
            tooltip=["model", "step", alt.Tooltip("objective", format=",.6~g")],
        )
        .properties(width="container", height=HEIGHT, description=f"The objective: {told}.")
    )


def seconds_chart(seconds: pd.DataFrame) -> alt.Chart:
    """How long each step and each fit took.

    Parameters
    ----------
    seconds : pandas.DataFrame
        One row for each: ``what``, ``seconds``, in order.
    """
    longest = seconds.sort_values("seconds", ascending=False).iloc[0]
    told = f"The longest was {longest['what']}, with {longest['seconds']:,.1f} seconds."
    return (
        alt.Chart(seconds)
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q"),
            y=alt.Y("what:N", sort=None, title=None),
            color=alt.value(COLOURS[0]),
            tooltip=["what", alt.Tooltip("seconds", format=",.1f")],
        )
        .properties(width="container", height=alt.Step(ROW_HEIGHT), description=told)
    )


def exposure_chart(curve: pd.DataFrame) -> alt.Chart:
    """How much of the lists, and of the ratings, the most popular items have.

    Parameters
    ----------
    curve : pandas.DataFrame
        As :func:`~recsys_spark.inspection.lists.exposure` returns it.
    """
    names = {"share_of_lists": "lists", "share_of_ratings": "ratings"}
    rows = curve.rename(columns=names).melt("share_of_items", list(names.values()), "of", "share")
    tenth = {name: float(np.interp(0.1, curve["share_of_items"], curve[name])) for name in names}
    told = (
        f"The most rated tenth of the items has {tenth['share_of_ratings']:.0%} of the ratings, and "
        f"{tenth['share_of_lists']:.0%} of the lists' rows."
    )
    return (
        alt.Chart(rows)
        .mark_line()
        .encode(
            x=alt.X("share_of_items:Q", title="share of items, most rated first", axis=_PERCENT),
            y=alt.Y("share:Q", title="share of rows", axis=_PERCENT),
            color=_two("of", list(names.values())),
            tooltip=["of", *(alt.Tooltip(name, format=".1%") for name in ("share_of_items", "share"))],
        )
        .properties(width="container", height=HEIGHT, description=told)
    )


def coverage_chart(covered: pd.DataFrame) -> alt.Chart:
    """How much of the catalogue the lists show, cut off after each rank.

    Parameters
    ----------
    covered : pandas.DataFrame
        As :func:`~recsys_spark.inspection.lists.coverage` returns it.
    """
    last = covered.iloc[-1]
    told = f"Up to rank {last[RANK]:.0f} the lists show {last['share']:.0%} of the items."
    return (
        alt.Chart(covered)
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{RANK}:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("share:Q", title="share of items in some list", axis=_PERCENT),
            color=alt.value(COLOURS[0]),
            tooltip=[RANK, "items", alt.Tooltip("share", format=".1%")],
        )
        .properties(width="container", height=HEIGHT, description=told)
    )


def scores_chart(quantiles: Mapping[str, pd.DataFrame]) -> alt.Chart:
    """How the scores of lists are spread, side by side.

    Parameters
    ----------
    quantiles : mapping of str to pandas.DataFrame
        Name → :func:`~recsys_spark.inspection.lists.score_quantiles`.
    """
    rows = pd.concat([frame.assign(lists=name) for name, frame in quantiles.items()])
    medians = {name: frame["score"].iloc[len(frame) // 2] for name, frame in quantiles.items()}
    told = " and ".join(f"{median:.3g} in lists of {name}" for name, median in medians.items())
    return (
        alt.Chart(rows)
        .mark_line()
        .encode(
            x=alt.X("score:Q", scale=alt.Scale(zero=False)),
            y=alt.Y("share:Q", title="share of rows up to this score", axis=_PERCENT),
            color=_two("lists", list(quantiles)),
            tooltip=["lists", alt.Tooltip("score", format=".4~g"), alt.Tooltip("share", format=".0%")],
        )
        .properties(width="container", height=HEIGHT, description=f"The median score is {told}.")
    )


def calibration_chart(groups: pd.DataFrame, error: float) -> alt.LayerChart:
    """Predicted probabilities beside what was observed; on the dashed line they would be the same.

    Parameters
    ----------
    groups : pandas.DataFrame
        As :func:`~recsys_spark.inspection.lists.calibration` returns them.
    error : float
        As :func:`~recsys_spark.inspection.lists.calibration_error` returns it.
    """
    most = float(groups[["predicted", "observed"]].max().max())
    even = alt.Chart(pd.DataFrame({"predicted": [0, most], "observed": [0, most]}))
    x = alt.X("predicted:Q", title="predicted probability", axis=_PERCENT)
    y = alt.Y("observed:Q", title="observed share", axis=_PERCENT)
    shown = [alt.Tooltip(name, format=".2%") for name in ("predicted", "observed")]
    points = alt.Chart(groups).mark_line(point=True)
    return (
        even.mark_line(strokeDash=[4, 4], color="#888").encode(x=x, y=y)
        + points.encode(x=x, y=y, color=alt.value(COLOURS[0]), tooltip=["pairs", *shown])
    ).properties(
        width="container", height=HEIGHT, description=f"The expected calibration error is {error:.4f}."
    )


def _two(column: str, names: list[str]) -> alt.Color:
    scale = alt.Scale(domain=names, range=list(COLOURS[: len(names)]))
    return alt.Color(f"{column}:N", title=None, scale=scale, legend=alt.Legend(orient="top"))
