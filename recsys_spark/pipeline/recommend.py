"""Step five: the lists of every user, written as this date's partition of ``recommendations``."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.console import note
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.ledger import Entry
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.ingest import id_types
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.train import fit_and_save, load_models, record_models
from recsys_spark.schema import ITEM, RANK, SCORE, USER

FALLBACK = "popularity"


def recommend(night: Night) -> None:
    """Write the champion's best ``n`` unseen items of every user; popular items fill lists that are shorter.

    Raises
    ------
    LakeError
        The evaluation has not been done for this date.
    """
    n = night.config.recommend.n
    with night.step("recommend") as entry:
        entry.versions_read["ratings"] = night.ratings_version()
        champion = night.ledger.last_done("evaluate")["details"]["champion"]
        if champion not in night.config.models:
            raise LakeError(f"the champion {champion!r} is no longer among models: evaluate {night.run_date} again")
        model, fallback = _models(night, champion, entry)
        ratings = night.ratings()
        users = ratings.select(USER).distinct().persist()
        rows = _labelled(model.recommend(users, n, ratings), champion, "model").persist()
        filled = _labelled(_fill(rows, users, ratings, fallback, n), FALLBACK, "fallback") if fallback else None
        everything = rows if filled is None else rows.unionByName(filled)
        _write(night, entry, everything.withColumn("run_date", F.lit(night.run_date)))
        written = night.lake.read("recommendations", entry.versions_written["recommendations"])
        of_today = written.where(F.col("run_date") == F.lit(night.run_date)).groupBy("reason").count().collect()
        by_reason = {row["reason"]: row["count"] for row in of_today}
        entry.counts |= {"users": users.count(), "rows": sum(by_reason.values()), "fallback_rows": by_reason.get("fallback", 0)}
        rows.unpersist()
        users.unpersist()
        entry.details["champion"] = champion
        note(f"  {entry.counts['rows']:,} rows for {entry.counts['users']:,} users, by {champion}")


def _models(night: Night, champion: str, entry: Entry) -> tuple[RecommenderModel, RecommenderModel | None]:
    """The champion, fitted on all ratings where so configured, and the fallback unless it is the champion."""
    wanted = [] if champion == FALLBACK else [(FALLBACK, "fallback")]
    if night.config.recommend.refit:
        wanted.insert(0, (champion, "champion"))
    rows = [fit_and_save(night, name, purpose, night.ratings()) for name, purpose in wanted]
    fitted = {row["purpose"]: REGISTRY[row["model"]].model.load(row["path"]) for row in rows}
    if rows:
        record_models(night, entry, rows)
    model = fitted["champion"] if night.config.recommend.refit else load_models(night, "candidate")[champion]
    return model, fitted.get("fallback")


def _fill(rows: DataFrame, users: DataFrame, ratings: DataFrame, fallback: RecommenderModel, n: int) -> DataFrame:
    """Popular items, unseen and not yet listed, for users whose lists are shorter than ``n``; ranks go on from the list's end."""
    have = rows.groupBy(USER).agg(F.count("*").cast("int").alias("have"))
    short = users.join(have, USER, "left").fillna(0, ["have"]).where(F.col("have") < n).persist()
    taken = ratings.select(USER, ITEM).unionByName(rows.select(USER, ITEM)).join(short, USER, "left_semi")
    more = fallback.recommend(short, n, taken).join(short, USER)
    return more.where(F.col(RANK) + F.col("have") <= n).select(USER, ITEM, SCORE, (F.col(RANK) + F.col("have")).alias(RANK))


def _labelled(rows: DataFrame, model: str, reason: str) -> DataFrame:
    return rows.withColumns({"model": F.lit(model), "reason": F.lit(reason)})


def _write(night: Night, entry: Entry, rows: DataFrame) -> None:
    night.lake.create("recommendations", *id_types(night.config.ingest))
    where = f"run_date = '{night.run_date}'"
    entry.versions_written["recommendations"] = night.lake.replace("recommendations", rows, where)
