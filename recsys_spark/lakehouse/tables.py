"""The lakehouse: how its Delta tables are created, read at a version, and written by a step.

A step reads pinned versions and makes one commit to each table it writes; a commit either happens or does
not.
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

from recsys_spark.columns import quoted
from recsys_spark.config import Lake
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.schema import ID_SQL_TYPES, IdType
from recsys_spark.session import require_delta


@dataclass(frozen=True)
class Upserted:
    """What an upsert did, in rows, and the version it left the table at."""

    inserted: int
    updated: int
    unchanged: int
    version: int
    removed: int = 0


def absolute_path(path: str) -> str:
    """``path`` without a final slash, and absolute unless it is a URI.

    Parameters
    ----------
    path : str
        Local path, ``file:`` path or URI.

    Returns
    -------
    str
        The URI, or an absolute local path.
    """
    path = re.sub(r"^file:(//)?(?=/)", "", path)
    return path.rstrip("/") if re.match(r"[A-Za-z][\w+.-]+:", path) else str(Path(path).absolute())


class Lakehouse:
    """The tables under one root or in one catalog schema.

    Parameters
    ----------
    spark : SparkSession
        Session with Delta.
    location : Lake
        The configuration's ``lake`` section.

    Raises
    ------
    SetupError
        The session has no Delta.
    """

    def __init__(self, spark: SparkSession, location: Lake) -> None:
        require_delta(spark)
        self.spark = spark
        self.location = location

    def exists(self, name: str) -> bool:
        """Whether the table exists.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.

        Returns
        -------
        bool
            True once a step has made it.
        """
        if self.location.root is not None:
            return bool(DeltaTable.isDeltaTable(self.spark, self._path(name)))
        return self.spark.catalog.tableExists(f"{self.location.catalog}.{name}")

    def create(
        self,
        name: str,
        user_type: IdType = "string",
        item_type: IdType = "string",
        features: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Create the table with its constraints, unless it exists; then add the features that it lacks.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        user_type, item_type : str
            ``integer``, ``long`` or ``string``.
        features : mapping of str to str, optional
            Further column → SQL type, for ``users`` and ``items``.

        Returns
        -------
        list of str
            Columns that the table has and that are none of these.

        Raises
        ------
        LakeError
            It exists, with other types of ids or features.
        """
        types = {"user": ID_SQL_TYPES[user_type], "item": ID_SQL_TYPES[item_type]}
        columns = {column: kind.format(**types) for column, kind in TABLES[name].columns.items()}
        features = features or {}
        if self.exists(name):
            present = self._present(name)
            self._require_types(name, present, columns)
            self._add(name, present, features)
            return [column for column in present if column not in {*columns, *features}]
        table = TABLES[name]
        builder = DeltaTable.createIfNotExists(self.spark)
        if self.location.root:
            builder = builder.location(self._path(name))
        else:
            builder = builder.tableName(self._identifier(name))
        for column, kind in {**columns, **features}.items():
            builder = builder.addColumn(column, kind, nullable=column not in table.required)
        for check, condition in (table.checks or {}).items():
            builder = builder.property(f"delta.constraints.{check}", condition)
        builder.comment(table.grain).partitionedBy(*table.partition).execute()
        return []

    def version(self, name: str) -> int:
        """The table's current version.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.

        Returns
        -------
        int
            That of the newest commit.

        Raises
        ------
        LakeError
            The table does not exist.
        """
        self._require(name)
        return int(self._delta(name).history(1).collect()[0]["version"])

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """The table at ``version``, or at its current one.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        version : int, optional
            Version to read; without it the current one.

        Returns
        -------
        DataFrame
            With the table's columns; lazy.

        Raises
        ------
        LakeError
            The table does not exist.
        """
        self._require(name)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self._path(name)) if self.location.root else reader.table(self._identifier(name))

    def append(self, name: str, rows: DataFrame) -> int:
        """Add ``rows`` in one commit.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        rows : DataFrame
            With the table's columns.

        Returns
        -------
        int
            The new version.
        """
        return self._write(name, rows, "append")

    def replace(self, name: str, rows: DataFrame, where: str) -> int:
        """Replace the rows that satisfy ``where`` by ``rows``, in one commit.

        All of ``rows`` must satisfy ``where``, or nothing is written.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        rows : DataFrame
            With the table's columns.
        where : str
            SQL condition of the rows that are replaced.

        Returns
        -------
        int
            The new version.
        """
        return self._write(name, rows, "overwrite", replaceWhere=where)

    def upsert(
        self,
        name: str,
        rows: DataFrame,
        keys: Sequence[str],
        *,
        newer: Column | None = None,
        updates: Mapping[str, str] | None = None,
        gone: Column | None = None,
        within: Column | None = None,
    ) -> Upserted:
        """Insert the rows with new keys, update existing rows by those that are ``newer``, leave the others.

        Nothing is committed if nothing changes. What Delta reports of its MERGE is compared with the counts
        taken before. Columns of the table that ``rows`` has not stay as they are, null in new rows.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        rows : DataFrame
            At most one row per key; columns of the table.
        keys : sequence of str
            Columns of the key.
        newer : Column, optional
            Condition over ``new.*`` (of ``rows``) and ``old.*`` (of the table); without it nothing is
            updated.
        updates : mapping of str to str, optional
            Column → expression over ``new.*`` and ``old.*``, for rows that are updated.
        gone : Column, optional
            Condition over ``new.*``; existing rows with the key are removed.
        within : Column, optional
            Condition over ``old.*`` that holds for all existing rows with a key of ``rows``, so that the
            others are not read.

        Returns
        -------
        Upserted
            Counts of rows, and the table's version afterwards.

        Raises
        ------
        LakeError
            The table does not exist, or another writer changed it in between, so that the counts differ.
        """
        before = self.version(name)
        newer = F.lit(False) if newer is None else newer
        gone = F.lit(False) if gone is None else gone
        old = self.read(name, before).alias("old")
        if before == 0 and old.isEmpty():  # a first load needs neither join nor MERGE
            return self._first_load(name, rows.alias("new").where(~gone), before)
        required = TABLES[name].required
        same = F.expr(
            " AND ".join(f"old.{key} {'=' if key in required else '<=>'} new.{key}" for key in keys)
        )
        exists = F.col(f"old.{keys[0]}").isNotNull()
        action = (
            F.when(gone, F.when(exists, F.lit("remove")).otherwise(F.lit("nothing")))
            .when(~exists, F.lit("insert"))
            .when(newer, F.lit("update"))
            .otherwise(F.lit("same"))
        )
        joined = rows.alias("new").join(old if within is None else old.where(within), same, "left")
        marked = joined.select("new.*", action.alias("_action")).persist()
        try:
            counts = {row["_action"]: row["count"] for row in marked.groupBy("_action").count().collect()}
            wanted = [counts.get(what, 0) for what in ("insert", "update", "remove")]
            if not any(wanted):
                return Upserted(0, 0, counts.get("same", 0), before)
            changed = marked.where(~F.col("_action").isin("same", "nothing")).drop("_action").alias("new")
            merge = self._delta(name).alias("old").merge(changed, same if within is None else within & same)
            merge.whenMatchedDelete(gone).whenMatchedUpdate(newer, dict(updates or {})).whenNotMatchedInsert(
                values={quoted(column): f"new.{quoted(column)}" for column in rows.columns}
            ).execute()
        finally:
            marked.unpersist()
        commit = self._commit(name, self._committed())
        metrics = commit["operationMetrics"]
        reported = [
            int(metrics.get(f"numTargetRows{what}", -1)) for what in ("Inserted", "Updated", "Deleted")
        ]
        if reported != wanted:
            raise LakeError(
                f"{name}: expected to insert, update and remove {wanted} rows, MERGE reports {reported}: "
                "another writer changed the table meanwhile; run the step again"
            )
        inserted, updated, removed = wanted
        return Upserted(inserted, updated, counts.get("same", 0), int(commit["version"]), removed)

    def _first_load(self, name: str, rows: DataFrame, before: int) -> Upserted:
        if rows.isEmpty():
            return Upserted(0, 0, 0, before)
        if TABLES[name].partition:  # or every task would write a file of every partition
            rows = rows.hint("rebalance", *TABLES[name].partition)
        # of two first loads at once Delta lets one through
        version = self._write(name, rows, "append", txnAppId=f"first load of {name}", txnVersion=str(before))
        inserted = int(self._commit(name, version)["operationMetrics"]["numOutputRows"])
        return Upserted(inserted, 0, 0, version)

    def _write(self, name: str, rows: DataFrame, mode: str, **options: str) -> int:
        """Write in one commit; returns its version."""
        writer = rows.write.format("delta").mode(mode).options(**options)
        if self.location.root:
            writer.save(self._path(name))
        else:
            writer.saveAsTable(self._identifier(name))
        return self._committed()

    def _delta(self, name: str) -> DeltaTable:
        if self.location.root:
            return DeltaTable.forPath(self.spark, self._path(name))
        return DeltaTable.forName(self.spark, self._identifier(name))

    def _committed(self) -> int:
        """Version of this session's last commit, which another writer's commit does not change."""
        return int(str(self.spark.conf.get("spark.databricks.delta.lastCommitVersionInSession")))

    def _commit(self, name: str, version: int) -> Any:
        return self._delta(name).history().where(F.col("version") == version).collect()[0]

    def _path(self, name: str) -> str:
        return f"{absolute_path(str(self.location.root))}/{name}"

    def _identifier(self, name: str) -> str:
        return f"{self.location.catalog}.{name}"

    def _require(self, name: str) -> None:
        if not self.exists(name):
            location = self.location.root or self.location.catalog
            raise LakeError(f"table {name!r} is not in {location}: run the step that writes it first")

    def _present(self, name: str) -> dict[str, str]:
        """Column → SQL type of an existing table."""
        try:
            return dict(self.read(name).dtypes)
        except AnalysisException as error:
            raise LakeError(f"table {name!r} cannot be read: {str(error).splitlines()[0]}") from None

    def _require_types(self, name: str, present: Mapping[str, str], columns: Mapping[str, str]) -> None:
        for column, kind in columns.items():
            if column not in present:
                raise LakeError(f"table {name!r} has no column {column!r}: start a new lake")
            if present[column] != kind:
                raise LakeError(
                    f"table {name!r} has column {column!r} as {present[column]}, the data has it as {kind}: "
                    "declare the same id types, or start a new lake"
                )

    def _add(self, name: str, present: Mapping[str, str], features: Mapping[str, str]) -> None:
        """Add the features that a table lacks, in one commit."""
        folded = {column.casefold(): column for column in present}
        for column, kind in features.items():
            known = folded.get(column.casefold(), column)
            if known != column or present.get(column, kind) != kind:
                raise LakeError(
                    f"table {name!r} has column {known!r} as {present[known]}, the source has {column!r} as "
                    f"{kind}: declare its type in ingest.source.{name}.types, or map it under another name"
                )
        missing = [column for column in features if column not in present]
        if missing:
            added = {column: F.lit(None).cast(features[column]) for column in missing}
            nothing = self.read(name).limit(0).withColumns(added)
            self._write(name, nothing, "append", mergeSchema="true")
