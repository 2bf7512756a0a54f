"""The Delta tables of the lakehouse: their columns, constraints and partitions.

Columns that hold a user or an item take the id type of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys_spark.kernels.metrics import ACCURACY


@dataclass(frozen=True)
class Table:
    """Definition of a table.

    Attributes
    ----------
    grain : what one row is; the table's comment in Delta
    columns : column → SQL type, with ``{user}`` and ``{item}`` for the types of ids
    required : columns that are NOT NULL
    checks : name → condition of a CHECK constraint
    partition : columns the table is partitioned by
    marks_rows : a row that is replaced is marked as gone where it lies, by a deletion vector, and its file is
        not written anew: for a large table in which a night changes few rows of each file
    """

    grain: str
    columns: Mapping[str, str]
    required: Sequence[str] = ()
    checks: Mapping[str, str] | None = None
    partition: Sequence[str] = ()
    marks_rows: bool = False


FINITE = "abs({0}) < double('Infinity')"  # false for NaN too: in Spark it is larger than any number

TABLES: dict[str, Table] = {
    "events": Table(
        "one row per (user, item, event, timestamp)",
        {
            "user": "{user}",
            "item": "{item}",
            "event": "string",
            "timestamp": "timestamp",
            "month": "date",
            "first_run": "date",
        },
        required=("user", "item", "event", "first_run"),
        partition=("month",),
    ),
    "ratings": Table(
        "one row per (user, item): the last rating, or what its events are worth as of the last",
        {
            "user": "{user}",
            "item": "{item}",
            "rating": "double",
            "timestamp": "timestamp",
            "first_run": "date",
            "last_run": "date",
        },
        required=("user", "item", "rating", "first_run", "last_run"),
        checks={"finite_rating": FINITE.format("rating"), "run_order": "first_run <= last_run"},
        marks_rows=True,
    ),
    "rejected_ratings": Table(
        "one row per rejected input row",
        {
            "run_date": "date",
            "input": "string",
            "source_file": "string",
            "reason": "string",
            "raw": "string",
            "raw_bytes": "binary",
        },
        required=("run_date", "input", "reason"),
        partition=("run_date",),
    ),
    "users": Table(
        "one row per user, with any features",
        {"user": "{user}"},
        required=("user",),
    ),
    "items": Table(
        "one row per item, with any features",
        {"item": "{item}"},
        required=("item",),
    ),
    "negatives": Table(
        "one row per (run_date, user, positive, item): an item without an interaction of the user",
        {"run_date": "date", "user": "{user}", "positive": "{item}", "item": "{item}", "log_q": "float"},
        required=("run_date", "user", "positive", "item", "log_q"),
        checks={"another_item": "item <> positive", "finite_log_q": FINITE.format("log_q")},
        partition=("run_date",),
    ),
    "models": Table(
        "one row per fitted model",
        {
            "run_id": "string",
            "run_date": "date",
            "model": "string",
            "purpose": "string",
            "state": "string",
            "params": "string",
            "seed": "bigint",
            "code": "string",
            "ratings_version": "bigint",
            "split": "string",
            "path": "string",
            "seconds": "double",
            "objectives": "array<double>",
            "metrics": "map<string,double>",
            "importances": "map<string,double>",
        },
        required=(
            "run_id",
            "run_date",
            "model",
            "purpose",
            "state",
            "params",
            "seed",
            "code",
            "ratings_version",
            "split",
            "path",
        ),
        checks={
            "known_purpose": "purpose IN ('comparison', 'serving', 'fallback', 'baseline')",
            "known_state": "state IN ('candidate', 'champion', 'retired')",
        },
    ),
    "metrics": Table(
        "one row per (run, model, part, metric, k, segment), and one per check of the gate",
        {
            "run_id": "string",
            "run_date": "date",
            "model": "string",
            "split": "string",
            "part": "string",
            "metric": "string",
            "k": "int",
            "segment": "string",
            "value": "double",
            "low": "double",
            "high": "double",
            "users": "bigint",
            "threshold": "double",
            "verdict": "string",
        },
        required=("run_id", "run_date", "model", "split", "part", "metric", "k", "segment", "value", "users"),
        checks={
            "finite_value": FINITE.format("value"),
            "known_part": "part IN ('validation', 'test', 'lists', 'served')",
            "known_verdict": "verdict IS NULL OR verdict IN ('pass', 'fail')",
        },
    ),
    "user_metrics": Table(
        "one row per (run, model, user): the accuracy of the user's list on the test part",
        {
            "run_id": "string",
            "run_date": "date",
            "model": "string",
            "user": "{user}",
            "k": "int",
            **dict.fromkeys(ACCURACY, "double"),
            "activity": "string",
            "age": "string",
            "fit": "string",
        },
        required=("run_id", "run_date", "model", "user", "k", *ACCURACY, "activity"),
        partition=("run_date",),
    ),
    "recommendations": Table(
        "one row per (run_date, user, rank)",
        {
            "run_date": "date",
            "user": "{user}",
            "rank": "int",
            "item": "{item}",
            "score": "float",
            "model": "string",
            "reason": "string",
            "propensity": "double",
        },
        required=("run_date", "user", "rank", "item", "score", "model", "reason"),
        checks={
            "rank_from_1": "rank >= 1",
            "propensity_is_one": "propensity IS NULL OR (propensity > 0 AND propensity <= 1)",
            "finite_score": FINITE.format("score"),
            "has_reason": "reason <> ''",
        },
        partition=("run_date",),
    ),
    "current_recommendations": Table(
        "one row per (user, rank): what is served",
        {
            "user": "{user}",
            "rank": "int",
            "item": "{item}",
            "score": "float",
            "model": "string",
            "reason": "string",
            "propensity": "double",
            "run_date": "date",
            "published_at": "timestamp",
        },
        required=("user", "rank", "item", "score", "model", "reason", "run_date", "published_at"),
    ),
    "explanations": Table(
        "one row per (run_date, user, item) of a ranker's lists",
        {
            "run_date": "date",
            "user": "{user}",
            "item": "{item}",
            "features": "array<struct<feature:string,value:float,contribution:float>>",
        },
        required=("run_date", "user", "item", "features"),
        partition=("run_date",),
    ),
    "shelves": Table(
        "one row per (run_date, user, shelf, rank): a user's best items of each shelf, such as a genre",
        {
            "run_date": "date",
            "user": "{user}",
            "shelf": "string",
            "rank": "int",
            "item": "{item}",
            "score": "float",
            "model": "string",
            "reason": "string",
        },
        required=("run_date", "user", "shelf", "rank", "item", "score", "model", "reason"),
        checks={"rank_from_1": "rank >= 1", "finite_score": FINITE.format("score")},
        partition=("run_date",),
    ),
    "current_shelves": Table(
        "one row per (user, shelf, rank): the shelves that are served",
        {
            "user": "{user}",
            "shelf": "string",
            "rank": "int",
            "item": "{item}",
            "score": "float",
            "model": "string",
            "reason": "string",
            "run_date": "date",
            "published_at": "timestamp",
        },
        required=("user", "shelf", "rank", "item", "score", "model", "reason", "run_date", "published_at"),
    ),
    "similar_items": Table(
        "one row per (run_date, item, rank): the items that are most like an item",
        {
            "run_date": "date",
            "item": "{item}",
            "rank": "int",
            "neighbor": "{item}",
            "similarity": "float",
            "measure": "string",
            "model": "string",
        },
        required=("run_date", "item", "rank", "neighbor", "similarity", "measure", "model"),
        checks={
            "rank_from_1": "rank >= 1",
            "another_item": "neighbor <> item",
            "finite_similarity": FINITE.format("similarity"),
        },
        partition=("run_date",),
    ),
    "current_similar_items": Table(
        "one row per (item, rank): the neighbours that are served",
        {
            "item": "{item}",
            "rank": "int",
            "neighbor": "{item}",
            "similarity": "float",
            "measure": "string",
            "model": "string",
            "run_date": "date",
            "published_at": "timestamp",
        },
        required=("item", "rank", "neighbor", "similarity", "measure", "model", "run_date", "published_at"),
    ),
    "forgotten": Table(
        "one row per forgotten user, known by a hash only",
        {"user_hash": "bigint", "forgotten_at": "timestamp"},
        required=("user_hash", "forgotten_at"),
    ),
    "locks": Table(
        "one row per lock that is held",
        {
            "name": "string",
            "holder": "string",
            "host": "string",
            "process": "string",
            "since": "timestamp",
            "until": "timestamp",
        },
        required=("name", "holder", "host", "process", "since", "until"),
    ),
    "runs": Table(
        "one row per state of a run's step: running, and how it ended",
        {
            "run_id": "string",
            "run_date": "date",
            "step": "string",
            "state": "string",
            "started": "timestamp",
            "seconds": "double",
            "counts": "map<string,bigint>",
            "details": "map<string,string>",
            "versions_read": "map<string,bigint>",
            "versions_written": "map<string,bigint>",
            "host": "string",
            "process": "string",
            "code": "string",
            "config": "string",
            "error": "string",
        },
        required=(
            "run_id",
            "run_date",
            "step",
            "state",
            "started",
            "seconds",
            "host",
            "process",
            "code",
            "config",
        ),
        checks={"known_state": "state IN ('running', 'done', 'failed', 'died')"},
    ),
}
"""Every table, by name."""
