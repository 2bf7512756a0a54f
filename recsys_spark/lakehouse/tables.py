"""The Delta tables of the lakehouse: their columns, how they are read at a version, and how a step writes
them.

A step reads pinned versions and makes one commit to each table it writes; a commit either happens or does
not. Columns that hold a user or an item take the id type of the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Lake
from recsys_spark.errors import LakeError
from recsys_spark.schema import ID_SQL_TYPES, IdType


@dataclass(frozen=True)
class Table:
    """What a table looks like.

    Attributes
    ----------
    grain : what one row is
    columns : column → SQL type, with ``{user}`` and ``{item}`` for the types of ids
    required : columns that are NOT NULL
    checks : name → condition of a CHECK constraint
    partition : columns it is partitioned by
    """

    grain: str
    columns: Mapping[str, str]
    required: Sequence[str] = ()
    checks: Mapping[str, str] | None = None
    partition: Sequence[str] = ()


FINITE = "abs({0}) < double('Infinity')"  # false for NaN too, which Spark takes as larger than any number

TABLES: dict[str, Table] = {
    "ratings": Table(
        "one row per (user, item): the last rating",
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
    ),
    "rejected_ratings": Table(
        "one row per refused input row",
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
        "one row per user",
        {"user": "{user}", "age": "int", "gender": "string", "occupation": "string", "zip": "string"},
        required=("user",),
    ),
    "items": Table(
        "one row per item",
        {"item": "{item}", "title": "string", "year": "int", "genres": "array<string>"},
        required=("item",),
    ),
    "negatives": Table(
        "one row per (run_date, user, positive, item): an item the user has not taken",
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
            "params": "string",
            "ratings_version": "bigint",
            "path": "string",
            "seconds": "double",
        },
        required=("run_id", "run_date", "model", "purpose", "params", "ratings_version", "path"),
        checks={"known_purpose": "purpose IN ('candidate', 'champion', 'fallback')"},
    ),
    "metrics": Table(
        "one row per (run, model, metric, k, segment)",
        {
            "run_id": "string",
            "run_date": "date",
            "model": "string",
            "split": "string",
            "metric": "string",
            "k": "int",
            "segment": "string",
            "value": "double",
            "low": "double",
            "high": "double",
            "users": "bigint",
        },
        required=("run_id", "run_date", "model", "split", "metric", "k", "segment", "value", "users"),
        checks={"finite_value": FINITE.format("value")},
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
        },
        required=("run_date", "user", "rank", "item", "score", "model", "reason"),
        checks={
            "rank_from_1": "rank >= 1",
            "finite_score": FINITE.format("score"),
            "known_reason": "reason IN ('model', 'fallback')",
        },
        partition=("run_date",),
    ),
    "runs": Table(
        "one row per step of a run",
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
            "config": "string",
            "error": "string",
        },
        required=("run_id", "run_date", "step", "state", "started", "seconds", "config"),
        checks={"known_state": "state IN ('done', 'failed')"},
    ),
}
"""Every table, by name."""


@dataclass(frozen=True)
class Upserted:
    """What an upsert did, in rows, and the version it left the table at."""

    inserted: int
    updated: int
    unchanged: int
    version: int


def located(place: str) -> str:
    """``place`` without a final slash, and absolute where it is a path and no URI."""
    place = re.sub(r"^file:(//)?(?=/)", "", place)
    return place.rstrip("/") if re.match(r"[A-Za-z][\w+.-]+:", place) else str(Path(place).absolute())


class Lakehouse:
    """The tables under one root or in one catalog schema.

    Parameters
    ----------
    spark : session with Delta
    where : the configuration's ``lake`` section
    """

    def __init__(self, spark: SparkSession, where: Lake) -> None:
        self.spark = spark
        self.where = where

    def exists(self, name: str) -> bool:
        """Whether the table has been made.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.
        """
        if self.where.root is not None:
            return bool(DeltaTable.isDeltaTable(self.spark, self._path(name)))
        return self.spark.catalog.tableExists(f"{self.where.catalog}.{name}")

    def create(self, name: str, user_type: IdType = "string", item_type: IdType = "string") -> None:
        """Make the table with its constraints, unless it is there.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.
        user_type, item_type : str
            ``integer``, ``long`` or ``string``.

        Raises
        ------
        LakeError
            It is there, with other types of ids.
        """
        types = {"user": ID_SQL_TYPES[user_type], "item": ID_SQL_TYPES[item_type]}
        columns = {column: kind.format(**types) for column, kind in TABLES[name].columns.items()}
        if self.exists(name):
            self._require_types(name, columns)
            return
        table = TABLES[name]
        builder = DeltaTable.createIfNotExists(self.spark)
        located = (
            builder.location(self._path(name))
            if self.where.root
            else builder.tableName(self._identifier(name))
        )
        for column, kind in columns.items():
            located = located.addColumn(column, kind, nullable=column not in table.required)
        for check, condition in (table.checks or {}).items():
            located = located.property(f"delta.constraints.{check}", condition)
        located.comment(table.grain).partitionedBy(*table.partition).execute()

    def version(self, name: str) -> int:
        """The table's current version.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.

        Raises
        ------
        LakeError
            There is no such table.
        """
        self._require(name)
        return int(self._delta(name).history(1).collect()[0]["version"])

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The table at ``version``, or as it is now.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.
        version : int, optional
            Version to read; without it the current one.

        Raises
        ------
        LakeError
            There is no such table.
        """
        self._require(name)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self._path(name)) if self.where.root else reader.table(self._identifier(name))

    def append(self, name: str, rows: DataFrame) -> int:
        """Add ``rows`` in one commit; gives the new version.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.
        rows : DataFrame
            With the table's columns.
        """
        return self._write(name, rows, "append")

    def replace(self, name: str, rows: DataFrame, where: str) -> int:
        """Put ``rows`` in the place of those that satisfy ``where``, in one commit; gives the new version.

        All of ``rows`` must satisfy ``where``, or nothing is written.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.
        rows : DataFrame
            With the table's columns.
        where : str
            Condition of the rows that are replaced.
        """
        return self._write(name, rows, "overwrite", replaceWhere=where)

    def upsert(
        self, name: str, rows: DataFrame, keys: Sequence[str], newer: Column, updates: Mapping[str, str]
    ) -> Upserted:
        """Insert the rows with new keys, update those that are ``newer`` than what is there, leave the
        others.

        Nothing is committed where nothing changes. What Delta reports of its MERGE is compared with the count
        taken before.

        Parameters
        ----------
        name : str
            A key of :data:`TABLES`.
        rows : at most one row per key
        keys : columns of the key
        newer : condition over ``new.*`` (of ``rows``) and ``old.*`` (of the table)
        updates : column → expression over ``new.*`` and ``old.*`` for rows that are updated

        Raises
        ------
        LakeError
            Somebody else changed the table in between, so that the counts do not agree.
        """
        before = self.version(name)
        old = self.read(name, before).alias("old")
        same = " AND ".join(f"old.{key} = new.{key}" for key in keys)
        found = F.col(f"old.{keys[0]}").isNotNull()
        action = F.when(~found, F.lit("insert")).when(newer, F.lit("update")).otherwise(F.lit("same"))
        if old.isEmpty():  # a first load needs neither join nor MERGE
            if rows.isEmpty():
                return Upserted(0, 0, 0, before)
            # of two first loads at once Delta lets one through
            version = self._write(
                name, rows, "append", txnAppId=f"first load of {name}", txnVersion=str(before)
            )
            return Upserted(
                int(self._commit(name, version)["operationMetrics"]["numOutputRows"]), 0, 0, version
            )
        marked = (
            rows.alias("new")
            .join(old, F.expr(same), "left")
            .select("new.*", action.alias("_action"))
            .persist()
        )
        try:
            counts = {row["_action"]: row["count"] for row in marked.groupBy("_action").count().collect()}
            inserted, updated = counts.get("insert", 0), counts.get("update", 0)
            if inserted + updated == 0:
                return Upserted(0, 0, counts.get("same", 0), before)
            changed = marked.where(F.col("_action") != "same").drop("_action").alias("new")
            merge = self._delta(name).alias("old").merge(changed, same)
            merge.whenMatchedUpdate(newer, dict(updates)).whenNotMatchedInsertAll().execute()
        finally:
            marked.unpersist()
        commit = self._commit(name, self._committed())
        reported = [
            int(commit["operationMetrics"].get(f"numTargetRows{what}", -1))
            for what in ("Inserted", "Updated")
        ]
        if reported != [inserted, updated]:
            raise LakeError(
                f"{name}: expected to insert {inserted} and update {updated} rows, MERGE reports {reported}: "
                "another writer was at work; run the step again"
            )
        return Upserted(inserted, updated, counts.get("same", 0), int(commit["version"]))

    def _write(self, name: str, rows: DataFrame, mode: str, **options: str) -> int:
        """Write in one commit; gives its version."""
        writer = rows.write.format("delta").mode(mode).options(**options)
        if self.where.root:
            writer.save(self._path(name))
        else:
            writer.saveAsTable(self._identifier(name))
        return self._committed()

    def _delta(self, name: str) -> DeltaTable:
        if self.where.root:
            return DeltaTable.forPath(self.spark, self._path(name))
        return DeltaTable.forName(self.spark, self._identifier(name))

    def _committed(self) -> int:
        """Version of this session's last commit, which another writer's commit does not change."""
        return int(str(self.spark.conf.get("spark.databricks.delta.lastCommitVersionInSession")))

    def _commit(self, name: str, version: int) -> Any:
        return self._delta(name).history().where(F.col("version") == version).collect()[0]

    def _path(self, name: str) -> str:
        return f"{located(str(self.where.root))}/{name}"

    def _identifier(self, name: str) -> str:
        return f"{self.where.catalog}.{name}"

    def _require(self, name: str) -> None:
        if not self.exists(name):
            place = self.where.root or self.where.catalog
            raise LakeError(f"table {name!r} is not in {place}: run the step that writes it first")

    def _require_types(self, name: str, columns: Mapping[str, str]) -> None:
        try:
            there = dict(self.read(name).dtypes)
        except AnalysisException as error:
            raise LakeError(f"table {name!r} cannot be read: {str(error).splitlines()[0]}") from None
        for column, kind in columns.items():
            if there.get(column, "nothing") != kind:
                raise LakeError(
                    f"table {name!r} has column {column!r} as {there.get(column, 'nothing')}, and the data "
                    f"has it as {kind}: "
                    "declare the same id types, or start a new lake"
                )
