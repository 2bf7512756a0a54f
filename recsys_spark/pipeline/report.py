"""The last step: a page that shows what a night has made, for those who are to trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Report
from recsys_spark.console import Section, progress_line
from recsys_spark.errors import ModelError
from recsys_spark.histories import rows_of
from recsys_spark.inspection.charts import (
    counts_chart,
    map_chart,
    over_time_chart,
    ratings_chart,
)
from recsys_spark.inspection.embeddings import item_map
from recsys_spark.inspection.exploring import (
    counts_of_counts,
    over_time,
    rating_histogram,
)
from recsys_spark.inspection.lists import (
    calibration,
    calibration_error,
    coverage,
    drawn_slots,
    exposure,
    origins,
    score_quantiles,
)
from recsys_spark.inspection.model_charts import (
    calibration_chart,
    coverage_chart,
    exposure_chart,
    learning_chart,
    metrics_chart,
    scores_chart,
    seconds_chart,
    segments_chart,
)
from recsys_spark.inspection.page import Part, Search, page
from recsys_spark.lakehouse.reader import Reader
from recsys_spark.lakehouse.storage import write_text
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.models.softmax import SoftmaxModel
from recsys_spark.pipeline.feedback import lists_in_use
from recsys_spark.pipeline.fitted import COMPARISON, LISTS_SECONDS, load
from recsys_spark.pipeline.gate import CLOSED, FAILED, VERDICT
from recsys_spark.pipeline.lookup import labels
from recsys_spark.pipeline.measuring import CANDIDATE_RECALL, CANDIDATES, MEMBER
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.publish import is_served
from recsys_spark.pipeline.reports import reports_folder
from recsys_spark.pipeline.saved_models import SavedModels, path_of
from recsys_spark.pipeline.served import served_date
from recsys_spark.pipeline.show import BECAUSE, describe_user, sample_users
from recsys_spark.pipeline.show_runs import describe_lineage, describe_metrics, describe_runs
from recsys_spark.schema import EVERYONE, ITEM, NEIGHBOR, RANK, SIMILARITY, TEST, USER

SEARCHED, NEIGHBORS = 2_000, 10
"""Items that one can look up: those with most ratings; and neighbours of each."""

MAPPED = 1_500
"""Items of the map."""

ASKED = 12
"""Features of a ranker."""

JUDGED = 20_000
"""Users of the test part at most whose probabilities are judged."""


def report(night: Night) -> None:
    """Show what the night has made: reads all tables, writes a page, reports/<run date>.html.

    One file that needs no network: summary and gate, models, data, lists of sample users with their reasons,
    neighbours that one can look up, a map of the items, lineage.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        There are no recommendations for this date.
    """
    with night.step("report") as record:
        record.versions_read |= {**night.versions(), "recommendations": night.lake.version("recommendations")}
        path = f"{reports_folder(night.config)}/{night.run_date}.html"
        text = page(f"Recommendations of {night.run_date}", _parts(night))
        write_text(night.spark, path, text)
        record.counts["bytes"] = len(text.encode())
        record.details["path"] = path
        progress_line(f"  {path}: {record.counts['bytes'] / 1e6:.1f} MB")


def _parts(night: Night) -> list[Part]:
    reader, ratings = night.lake.reader(), night.ratings()
    lists = night.lake.read("recommendations").where(F.col("run_date") == F.lit(night.run_date)).persist()
    try:
        return [
            *_summary(night, reader),
            *_quality(night, reader),
            *_data(night, ratings),
            *_lists(night, lists, ratings),
            *_in_use(night, reader),
            *_users(night, reader),
            *_items(night, reader, ratings),
            Part("Lineage", "What made these lists.", **_table(describe_lineage(reader, night.run_date)[0])),
            Part("Steps", "", **_table(describe_runs(reader, night.run_date)[0])),
        ]
    finally:
        lists.unpersist()


def _table(section: Section) -> dict[str, Any]:
    return {"rows": section.rows, "columns": section.columns}


def _summary(night: Night, reader: Reader) -> list[Part]:
    """What was made, whether it is served, and what the gate says."""
    made, evaluated = night.ledger.last_done("recommend"), night.ledger.last_done("evaluate")
    tried = night.ledger.newest().get("gate", {})
    served, now = served_date(night.lake), "The lists are not served"
    if is_served(night):
        now = "The lists are served"
    elif served is not None:
        now = f"The lists are not served; those of {served} are"
        if served == night.run_date:
            now = "The lists were made again since those that are served"
    details, counts = evaluated["details"], made["counts"]
    facts = {
        "run date": str(night.run_date),
        "champion": details["champion"],
        f"{details['metric']} on the test part": float(details["value"]),
        "users with a list": counts["lists"],
        "users": counts["users"],
        "rows": counts["rows"],
        "rows from popular items": counts["fallback_rows"],
        "code": made["code"],
    }
    rows = [{"what": what, "is": value} for what, value in facts.items()]
    parts = [Part("Summary", f"{now}.", rows=rows, columns=["what", "is"])]
    if tried.get("state") != "done" or tried["started"] < made["started"]:
        return [*parts, Part("Gate", "The gate has not been tried.")]
    words = "Nothing speaks against serving these lists."
    if tried["details"][VERDICT] == CLOSED:
        words = f"The gate is closed: {tried['details'][FAILED]}."
    told = describe_metrics(reader, tried["run_id"], night.config.evaluate.cutoff)
    checks = [section for section in told if section.name == "gate"]
    return [*parts, *(Part("Gate", words, **_table(section)) for section in checks)]


def _quality(night: Night, reader: Reader) -> list[Part]:
    """Metrics with their intervals and by segment, what training did, and how long all of it took."""
    run_id, k = night.ledger.last_done("evaluate")["run_id"], night.config.evaluate.cutoff
    name = night.config.evaluate.champion_metric
    columns = ["model", "metric", "segment", "part", "value", "low", "high", "users", "verdict"]
    found = reader.rows("metrics", columns, {"run_id": [run_id], "k": [k], "part": [TEST]}).to_pandas()
    found = found[(found["metric"] == night.config.evaluate.metric) & found["verdict"].isna()]
    everyone, segments = found[found["segment"] == EVERYONE], found[found["segment"] != EVERYONE]
    (told, *_) = describe_metrics(reader, run_id, k)
    parts = [
        Part(
            f"{name} on the test part",
            "With its 95 % interval. “served” is what was served before, “baseline” are popular items.",
            metrics_chart(everyone, name),
            **_table(told),
            folded=True,
        )
    ]
    if len(segments):
        words = "Users by how active they are, and by age where that is known."
        shown = segments[["segment", "model", "value", "users"]].sort_values(["segment", "model"])
        rows = cast("list[dict[str, Any]]", shown.to_dict("records"))
        chart = segments_chart(segments, name)
        parts.append(Part(f"{name} by segment", words, chart, rows, list(shown.columns), folded=True))
    done = [night.ledger.last_done(step)["run_id"] for step in ("train", "evaluate", "recommend")]
    columns = ["model", "purpose", "path", "seconds", "objectives", "metrics", "importances"]
    fits = reader.rows("models", columns, {"run_date": [night.run_date], "run_id": done}).to_pylist()
    steps = [
        {"model": f"{fit['model']} ({fit['purpose']})", "step": step, "objective": value}
        for fit in fits
        for step, value in enumerate(fit["objectives"] or (), 1)
    ]
    if steps:
        words = "A curve that still falls would gain from more iterations; one that rises is a fault."
        parts.append(Part("What training did", words, learning_chart(pd.DataFrame(steps))))
    return [
        *parts,
        *found_by_members(reader, run_id),
        *asked_about(fits),
        *_probabilities(night, fits),
        _seconds(night, fits),
    ]


def found_by_members(reader: Reader, run_id: str) -> list[Part]:
    """How much of the test part the members of models of two stages find."""
    asked = {"run_id": [run_id], "metric": [CANDIDATE_RECALL, CANDIDATES]}
    found = reader.rows("metrics", ["model", "metric", "segment", "k", "value", "users"], asked).to_pandas()
    parts = []
    for model, rows in found.groupby("model"):
        of = {
            key: part.pivot(index="segment", columns="k", values="value")
            for key, part in rows.groupby("metric")
        }
        recall, size = of[CANDIDATE_RECALL], of[CANDIDATES]
        told = [
            {"found by": "all together" if who == EVERYONE else who.removeprefix(f"{MEMBER}="), "k": k}
            | {"recall": float(recall.at[who, k]), "candidates of a user": float(size.at[who, k])}
            for k in recall.columns
            for who in sorted(recall.index, key=lambda who: (who != EVERYONE, -recall.at[who, k]))
        ]
        words = (
            "What is not among the candidates cannot be listed. Of what test users took, the share that is "
            f"among the first k of each list; {rows['users'].iloc[0]:,} users."
        )
        parts.append(Part(f"What members of {model} find", words, None, told, list(told[0])))
    return parts


def asked_about(fits: Iterable[Mapping[str, Any]]) -> list[Part]:
    """What the trees of rankers ask about: the features with the largest gains.

    Parameters
    ----------
    fits : iterable of mapping
        Rows of ``models``: ``model``, ``purpose``, ``importances``, pairs of a feature and its gain, or None.
    """
    parts = []
    for fit in fits:
        gains = dict(fit["importances"] or ())
        if not gains:
            continue
        best = sorted(gains, key=lambda feature: (-gains[feature], feature))[:ASKED]
        rows = [{"feature": feature, "gain": gains[feature]} for feature in best]
        words = f"Of the {len(gains)} features that the trees ask about; gain: of a question, on average."
        heading = f"What {fit['model']} ({fit['purpose']}) asks"
        parts.append(Part(heading, words, None, rows, ["feature", "gain"]))
    return parts


def _probabilities(night: Night, fits: Iterable[Mapping[str, Any]]) -> list[Part]:
    """Whether the probabilities of models that predict some are what happened, for users of the test part."""
    parts = []
    for fit in fits:
        if fit["purpose"] != COMPARISON or not issubclass(REGISTRY[fit["model"]].model, SoftmaxModel):
            continue
        held = night.held_out()
        tested = held.where(F.col(TEST).isNotNull())
        users = tested.orderBy(F.xxhash64(USER)).limit(JUDGED)
        seen = night.seen(TEST) if night.config.split.repeats else night.known_before(TEST)
        if seen is not None:
            seen = rows_of(seen).join(users, USER, "left_semi")
        model: Any = load(fit)
        groups = calibration(model, users.select(USER, F.explode(TEST).alias(ITEM)), seen)
        if len(groups):
            error = calibration_error(groups)
            words = (
                f"On the dashed line they are what happens. The expected calibration error is {error:.4f}."
            )
            heading = f"Probabilities of {fit['model']}"
            parts.append(Part(heading, words, calibration_chart(groups, error)))
    return parts


def _seconds(night: Night, fits: Iterable[Mapping[str, Any]]) -> Part:
    rows = [
        {"what": name, "seconds": float(row["seconds"])}
        for name, row in night.ledger.newest().items()
        if row["state"] == "done"
    ]
    for fit in fits:
        rows.append({"what": f"fit of {fit['model']} ({fit['purpose']})", "seconds": float(fit["seconds"])})
        lists = dict(fit["metrics"] or ()).get(LISTS_SECONDS)
        if lists is not None:
            rows.append({"what": f"lists of {fit['model']} (test part)", "seconds": float(lists)})
    words = "Steps, and of those that fit models each fit, and the lists that it was judged by."
    return Part("Seconds", words, seconds_chart(pd.DataFrame(rows)), rows, ["what", "seconds"], folded=True)


def _data(night: Night, ratings: DataFrame) -> list[Part]:
    """What came in, and what the night had."""
    parts = []
    done = night.ledger.rows_done("ingest")
    if done:
        counted = sorted((name, number) for name, number in done[-1]["counts"].items() if number)
        rows = [{"rows": name.replace("_", " "), "number": number} for name, number in counted]
        parts.append(
            Part("What came in", "Rows of ratings, unless it says otherwise.", None, rows, ["rows", "number"])
        )
    counts = {f"{by}s": counts_of_counts(ratings, by) for by in (USER, ITEM)}
    words = "Both axes are logarithmic: a long tail is a falling line."
    parts.append(Part("Ratings that users and items have", words, counts_chart(counts)))
    parts.append(Part("Ratings by value", "", ratings_chart(rating_histogram(ratings))))
    periods = over_time(ratings, "month")
    if len(periods):
        parts.append(Part("Ratings by month", "In UTC.", over_time_chart(periods, "month")))
    return parts


def _lists(night: Night, lists: DataFrame, ratings: DataFrame) -> list[Part]:
    """What the lists show, and their scores beside those that are served."""
    parts = _origins(lists)
    curve = exposure(lists, ratings)
    if len(curve):
        words = "The further the lists are above the ratings, the more they favour popular items."
        parts.append(Part("Popular items", words, exposure_chart(curve)))
    covered = coverage(lists, ratings.select(ITEM).union(lists.select(ITEM)).distinct().count())
    if len(covered):
        parts.append(Part("Coverage", "Items that are in somebody's list.", coverage_chart(covered)))
    champion = night.ledger.last_done("recommend")["details"]["champion"]
    quantiles = {str(night.run_date): score_quantiles(lists.where(F.col("model") == champion))}
    version = night.ledger.newest().get("gate", {}).get("versions_read", {}).get("current_recommendations")
    if version is not None:  # which the gate has compared with
        theirs = night.lake.read("current_recommendations", version).where(F.col("model") == champion)
        quantiles["those served before"] = score_quantiles(theirs)
    known = {name: frame for name, frame in quantiles.items() if len(frame)}
    if known:
        words = f"Of {champion}'s rows; the gate compares the means."
        parts.append(Part("Scores", words, scores_chart(known)))
    return parts


def _origins(lists: DataFrame) -> list[Part]:
    """Who has put rows where they are, and slots that are drawn."""
    words = (
        "Reason: model, or of models of others the member that speaks most for the row; fallback, what fills "
        "lists up; pinned and exploration, slots that are given away."
    )
    parts = [Part("Where rows come from", words, **_frame(origins(lists)))]
    slots = drawn_slots(lists)
    if len(slots):
        words = "Drawn: rows that show another item than the list's own."
        parts.append(Part("Slots that are drawn", words, **_frame(slots)))
    return parts


def _frame(found: pd.DataFrame) -> dict[str, Any]:
    """A frame as a table; what is missing is empty."""
    known = found.astype(object).where(found.notna(), None)
    return {"rows": known.to_dict("records"), "columns": list(found.columns)}


def _in_use(night: Night, reader: Reader) -> list[Part]:
    """What users did with the lists of the last dates, where that was measured."""
    parts = list[Part]()
    for section in lists_in_use(reader, night.run_date):
        words = f"Among users who came back in the {night.config.feedback.days} days after each date."
        parts.append(Part(section.title, words, **_table(section), folded=bool(parts)))
    return parts


def _users(night: Night, reader: Reader) -> list[Part]:
    """Lists of some users, with their history and with what of it is behind each recommendation."""
    parts, models = [], SavedModels(reader, night.config)
    for user in sample_users(reader, (night.config.report or Report()).users, night.run_date):
        history, listed = describe_user(reader, user, night.run_date, models)
        reasons = [reason for row in listed.rows for reason in cast("list[dict[str, Any]]", row[BECAUSE])]
        adding = any(reason["contribution"] is not None for reason in reasons)
        told = "add most to its score" if adding else "are most like it"
        words = f"Because: the items of the history that {told}."
        columns = [name for name in listed.columns if name != "model"]
        parts.append(Part(f"User {user}", words, None, listed.rows, columns, more=[history]))
    return parts


def _items(night: Night, reader: Reader, ratings: DataFrame) -> list[Part]:
    """Neighbours that one can look up, and a map."""
    parts = []
    titles = labels(reader, "recommendations", {"run_date": [night.run_date]})
    popular = ratings.groupBy(ITEM).count().orderBy(F.desc("count"), ITEM).limit(SEARCHED)
    of_date = (F.col("run_date") == F.lit(night.run_date)) & (F.col(RANK) <= NEIGHBORS)
    if night.lake.exists("similar_items"):
        rows = night.lake.read("similar_items").where(of_date)
        of_item = rows.join(popular, ITEM).select(ITEM, "count", RANK, NEIGHBOR, SIMILARITY).toPandas()
        found = of_item.sort_values(["count", ITEM, RANK], ascending=[False, True, True])
        if len(found):
            words = f"For the {found[ITEM].nunique():,} items with most ratings."
            parts.append(Part("Similar items", words, search=_search(found, titles)))
    champion = night.ledger.last_done("recommend")["details"]["champion"]
    model: Any = load({"model": champion, "path": path_of(reader, night.run_date, champion)})
    if isinstance(model, FactorModel):
        try:
            places = item_map(model, ratings, points=MAPPED)
        except ModelError:  # too few items or factors for a picture
            return parts
        places["title"] = [titles.get(str(item)) or str(item) for item in places[ITEM]]
        genres = _first_genres(reader)
        places["genre"] = [genres.get(item) for item in places[ITEM]]
        words = "The two directions in which the items' vectors differ most; like items lie together."
        parts.append(Part("Map of items", words, map_chart(places)))
    return parts


def _first_genres(reader: Reader) -> dict[object, str]:
    """Item → its first genre, where there are any."""
    schema = reader.schema("items")
    if schema is None or "genres" not in schema.names:
        return {}
    rows = reader.rows("items", [ITEM, "genres"], {}).to_pylist()
    return {row[ITEM]: str(row["genres"][0]) for row in rows if row["genres"]}


def _search(found: pd.DataFrame, titles: Mapping[str, str | None]) -> Search:
    """Items by their titles, each named once."""
    named = {item: place for place, item in enumerate(dict.fromkeys([*found[ITEM], *found[NEIGHBOR]]))}
    neighbors: dict[int, list[tuple[int, float]]] = {}
    for item, other, alike in zip(found[ITEM], found[NEIGHBOR], found[SIMILARITY], strict=True):
        neighbors.setdefault(named[item], []).append((named[other], round(float(alike), 2)))
    told = [titles.get(str(item)) or str(item) for item in named]
    often = {title for title, times in Counter(told).items() if times > 1}
    told = [f"{title} ({item})" if title in often else title for title, item in zip(told, named, strict=True)]
    return Search("A title, or a part of it", told, neighbors)
