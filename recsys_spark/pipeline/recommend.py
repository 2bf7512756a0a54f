"""Step five: the lists of every user, by shelf too, and the neighbours of every item, checked, then written
as this date's partitions of ``recommendations``, ``shelves`` and ``similar_items``.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError
from recsys_spark.histories import PARTS
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.popularity import PopularityModel
from recsys_spark.pipeline.checks import check_lists
from recsys_spark.pipeline.details import PATHS
from recsys_spark.pipeline.eligibility import RULE, Rules
from recsys_spark.pipeline.explanations import write_explanations
from recsys_spark.pipeline.fitted import (
    COMPARISON,
    FALLBACK,
    POPULAR,
    SERVING,
    compared,
    load,
    record_models,
)
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.popular import labelled, popular_in_segments, taken_or_seen, with_unrated
from recsys_spark.pipeline.refit import ListMaker, folded, kept_fit
from recsys_spark.pipeline.reranking import Shown
from recsys_spark.pipeline.shelves import shelves, write_shelves
from recsys_spark.pipeline.similar import similar_items, write_similar_items
from recsys_spark.pipeline.slots import depth_of_draws, slots_filled
from recsys_spark.pipeline.train import fit_and_save
from recsys_spark.recommend.top_n import ListRequest, explode_lists, first_of_lists
from recsys_spark.schema import ITEM, RANK, SCORE, USER


def recommend(night: Night) -> None:
    """Make lists with the champion: reads ratings, items and models, writes models, recommendations,
    similar_items, shelves and explanations.

    Popular items fill lists that are shorter than ``n``, and after these what nobody has rated. Users' lists
    and items' neighbours are checked before they are written: a table never holds a list that breaks an
    invariant.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        The evaluation has not been done for this date.
    PublishError
        A list breaks an invariant of :func:`check_lists`; the tables are as they were.
    """
    with night.step("recommend") as record, ExitStack() as kept:
        record.versions_read |= night.versions()
        champion = night.ledger.last_done("evaluate")["details"]["champion"]
        if champion not in night.config.models:
            raise LakeError(
                f"the champion {champion!r} is no longer among models: evaluate {night.run_date} again"
            )
        model, fallback = _models(night, champion, record)
        rules = Rules(night, record)
        made = make_lists(night, rules, champion, model, fallback, kept)
        record.counts |= check_lists(made.rows, made.request.seen)
        rules.check(made.rows)
        filled = made.rows.where("reason = 'fallback'").count()
        record.counts |= {"users": made.users.count(), "fallback_rows": filled}
        neighbors = similar_items(night, record, made.request, champion, model, kept)
        by_shelf = shelves(night, record, made.request, made.users, champion, model, made.popular, kept)
        if by_shelf is not None:
            rules.check(by_shelf)
        _write(night, record, made.rows.withColumn("run_date", F.lit(night.run_date)))
        write_similar_items(night, record, neighbors)
        write_shelves(night, record, by_shelf)
        longest = replace(made.request, n=made.depth)
        write_explanations(night, record, made.rows, made.users, champion, model, longest)
        record.details["champion"] = champion
        touched = {name: count for name, count in record.counts.items() if name.startswith(RULE)}
        if touched:
            told = (
                f"{name.removeprefix(RULE).replace('_', ' ')} {count:,}" for name, count in touched.items()
            )
            progress_line(f"  rules: {', '.join(told)}")
        progress_line(f"  {record.counts['rows']:,} rows for {record.counts['users']:,} users, by {champion}")


class Made(NamedTuple):
    """Lists, and what they were made for.

    Attributes
    ----------
    rows : ``user``, ``item``, ``score``, ``rank``, ``model``, ``reason``; with slots ``propensity``
    users : ``user``: whom they are for
    request : what was asked for
    depth : how long the model's lists are that theirs were chosen and drawn from
    popular : what fills them up
    """

    rows: DataFrame
    users: DataFrame
    request: ListRequest
    depth: int
    popular: PopularityModel


def make_lists(
    night: Night,
    rules: Rules,
    champion: str,
    model: ListMaker,
    fallback: PopularityModel | None,
    kept: ExitStack,
) -> Made:
    """Lists of all users that get one: the model's, with popular items where they are short, and at last with
    items that nobody has rated.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    rules : Rules
        Who gets lists, and what may be in them.
    champion : str
        The model's name.
    model : RecommenderModel or Folded
        What makes the lists.
    fallback : PopularityModel or None
        What fills them up; None where it is the model itself.
    kept : ExitStack
        Frees, at its end, what is kept in memory.
    """
    n = night.config.recommend.n

    def keep(frame: DataFrame) -> DataFrame:
        kept.callback(frame.persist().unpersist)
        return frame

    users = keep(rules.users())
    seen = night.seen()
    if isinstance(seen, DataFrame):
        seen = keep(seen)  # a join with the events, which is read three times
    sizes = night.config.recommend.block_sizes
    request = rules.request(ListRequest(n, seen, block_sizes=sizes, only_supported=True))
    shown = Shown.of(night, rules.record, night.pairs())
    drawn_from = depth_of_draws(night)
    depth = max(shown.depth(n), drawn_from)
    popular: Any = model if fallback is None else fallback
    asked = users
    if champion == POPULAR and night.config.recommend.fallback_by is not None:
        # who is new gets what is popular among people of a kind
        asked = users.join(popular.known_users(), USER, "left_semi")
    popular = with_unrated(night, rules.record, popular)
    best = model.recommend_lists(asked, replace(request, n=depth))
    if drawn_from:
        best = keep(best)  # of which lists are chosen, and slots are drawn
    lists = shown.chosen(best if depth == shown.depth(n) else first_of_lists(best, shown.depth(n)), n)
    rows = keep(labelled(explode_lists(model.with_reasons(lists)), champion, "model"))
    short = _short(rows, users, n)
    segments = [] if short.isEmpty() else popular_in_segments(night, rules.record)
    of_segments = [
        _fill(shown, rows, keep(short.join(people, USER, "left_semi")), theirs, request)
        for theirs, people in segments
    ]
    if of_segments:
        more = reduce(DataFrame.unionByName, of_segments)
        rows = rows.unionByName(keep(labelled(more, POPULAR, "fallback")))
        short = _short(rows, users, n)
    if not short.isEmpty():
        more = _fill(shown, rows, short, popular, request)
        rows = rows.unionByName(keep(labelled(more, POPULAR, "fallback")))
    if night.config.recommend.slots:
        rows = keep(slots_filled(night, rules.record, rows, users, champion, best, request))
    return Made(rows, users, request, depth, popular)


def _models(night: Night, champion: str, record: StepRecord) -> tuple[ListMaker, PopularityModel | None]:
    """The champion, fitted on all ratings where so configured, or kept from an earlier night; and the
    fallback, unless it is the champion.
    """
    kept = kept_fit(night)
    wanted = [] if champion == POPULAR else [(POPULAR, FALLBACK)]
    if night.config.recommend.refit and kept is None:
        wanted.insert(0, (champion, SERVING))
    chosen = None if kept is not None or champion == POPULAR else compared(night)[champion]
    rows = [
        fit_and_save(night, record, name, purpose, PARTS, chosen if purpose == SERVING else None)
        for name, purpose in wanted
    ]
    if rows:
        record_models(night, record, rows)
    used: dict[str, Any] = {row["purpose"]: row for row in rows}
    used |= {COMPARISON: chosen or compared(night)[champion]} if kept is None else kept.rows
    record.details[PATHS] = json.dumps({purpose: row["path"] for purpose, row in used.items()})
    fallback: Any = load(used[FALLBACK]) if FALLBACK in used else None
    if kept is None:
        return load(used.get(SERVING, used[COMPARISON])), fallback
    model = folded(night, record, kept, SERVING, PARTS)
    record.counts["folded_in"] = model.users.count()
    progress_line(f"  {record.counts['folded_in']:,} users with changed ratings are folded in")
    return model, fallback


def _short(rows: DataFrame, users: DataFrame, n: int) -> DataFrame:
    """Users whose lists are shorter than ``n``, and how many items they ``have``; as they are now, so that
    what is made for them does not carry the plan of the lists twice.
    """
    have = rows.groupBy(USER).agg(F.count("*").cast("int").alias("have"))
    return users.join(have, USER, "left").fillna(0, ["have"]).where(F.col("have") < n).localCheckpoint()


def _fill(
    shown: Shown, rows: DataFrame, short: DataFrame, fallback: RecommenderModel, request: ListRequest
) -> DataFrame:
    """Popular items, unseen and not yet listed, for the users of ``short``, chosen as all lists are; ranks go
    on from the list's end.
    """
    left_out = taken_or_seen(rows, short, request.seen)
    lists = shown.filling(fallback, rows, short.select(USER), replace(request, seen=left_out))
    more = explode_lists(lists).join(short, USER)
    return more.where(F.col(RANK) + F.col("have") <= request.n).select(
        USER, ITEM, SCORE, (F.col(RANK) + F.col("have")).alias(RANK)
    )


def _write(night: Night, record: StepRecord, rows: DataFrame) -> None:
    night.lake.create("recommendations", *night.config.ingest.id_types)
    where = f"run_date = '{night.run_date}'"
    record.versions_written["recommendations"] = night.lake.replace(
        "recommendations", rows, where, record.counts["rows"]
    )
