"""The lakehouse: how its Delta tables are created, read at a version, and written by a step.

A step reads pinned versions and makes one commit to each table it writes; a commit either happens or does
not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa
from delta.tables import DeltaTable, DeltaTableBuilder
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from recsys_spark.columns import quoted
from recsys_spark.config import Lake, Retention
from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.conflicts import retried
from recsys_spark.lakehouse.log import commit_info, newest_version
from recsys_spark.lakehouse.paths import absolute_path
from recsys_spark.lakehouse.reader import Reader, SparkReader, as_dicts, quickest_reader
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.lakehouse.storage import is_on_disk
from recsys_spark.schema import ID_SQL_TYPES, IdType
from recsys_spark.session import require_delta

FEW_ROWS = 1_000_000
"""Rows of an upsert, without features, that every task may hold, so that the table is not shuffled to meet
them.
"""

RECENT = 20
"""Commits of a table's history that are looked at first."""

_LISTING_TASKS = 16
_LAST_COMMIT = "spark.databricks.delta.lastCommitVersionInSession"


class _SkippedError(LakeError):
    """Delta took a write for one that was made already."""


@dataclass(frozen=True)
class _Conditions:
    """What an upsert does with a row; see :meth:`Lakehouse.upsert`."""

    keys: Sequence[str]
    newer: Column
    updates: dict[str, str | Column]
    gone: Column
    within: Column | None
    few: bool


@dataclass(frozen=True)
class Upserted:
    """What an upsert did, in rows, and the version it left the table at."""

    inserted: int
    updated: int
    unchanged: int
    version: int
    removed: int = 0


def _no_longer_kept(name: str) -> str:
    return (
        f"table {name!r} is no longer kept: run this date's steps again from the split on, and raise "
        "retention.days if nights come later than that"
    )


def lost_files(error: BaseException) -> LakeError | None:
    """The error of a reader whose table's old files are gone, as a VACUUM leaves it; None for other errors.

    Parameters
    ----------
    error : BaseException
        What reading raised.
    """
    told = f"{error} {summary(error)}"
    if not re.search(r"FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND", told):
        return None
    name = next((name for name in TABLES if re.search(rf"/{name}/[^\s]*\.(parquet|bin)", told)), None)
    return LakeError(f"a version of {_no_longer_kept(name)}; its files have been removed") if name else None


class Lakehouse:
    """The tables under one root or in one catalog schema.

    Parameters
    ----------
    spark : SparkSession
        Session with Delta.
    location : Lake
        The configuration's ``lake`` section.
    retention : Retention, optional
        Its ``retention`` section, which tables follow when a step creates or meets them.

    Raises
    ------
    SetupError
        The session has no Delta.
    LakeError
        The root has a backtick in it, which no Delta table can be made under.
    """

    def __init__(self, spark: SparkSession, location: Lake, retention: Retention | None = None) -> None:
        require_delta(spark)
        if location.root and "`" in absolute_path(location.root):  # Delta's builder does not quote paths
            raise LakeError(
                f"lake.root {absolute_path(location.root)!r} has a backtick in it, which Delta cannot "
                "make tables under: use another folder"
            )
        self.spark = spark
        self.location = location
        self.retention = retention or Retention()
        self._met: set[tuple[str, str, str]] = set()
        self._on_disk: bool | None = None

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
        asked = (name, user_type, item_type)
        if features is None and asked in self._met:
            return []
        types = {"user": ID_SQL_TYPES[user_type], "item": ID_SQL_TYPES[item_type]}
        columns = {column: kind.format(**types) for column, kind in TABLES[name].columns.items()}
        features = features or {}
        if not self.exists(name):
            self._make(name, {**columns, **features})
        present = self._present(name)
        self._require_types(name, present, columns)
        self._require_properties(name)
        if features:
            retried(lambda: self._add(name, self._present(name), features), name)
        self._met.add(asked)
        return [column for column in present if column not in {*columns, *features}]

    def require_writable(self) -> None:
        """Check the tables that exist, before anything is written to any of them.

        Raises
        ------
        LakeError
            A column of one is gone or has another name, or one takes appended rows only.
        """
        reader = self.reader()
        for name, table in TABLES.items():
            schema = reader.schema(name)
            if schema is not None:
                self._require_columns(name, schema.names, table.columns)
                self._require_changeable(name, reader.properties(name))

    def last_written(self, name: str) -> datetime:
        """When the newest commit to the table was made, by the clock of its writer.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.

        Raises
        ------
        LakeError
            The table does not exist.
        """
        self._require(name)
        if self.location.root:
            path = self._path(name)
            stamp = commit_info(self.spark, path, newest_version(self.spark, path))["timestamp"]
            return datetime.fromtimestamp(stamp / 1e3, UTC)
        newest = self._delta(name).history(1).select(F.unix_millis("timestamp").alias("ms")).collect()
        return datetime.fromtimestamp(newest[0]["ms"] / 1e3, UTC)

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
        if self.location.root:
            return newest_version(self.spark, self._path(name))
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
            The table does not exist, or does not keep this version any more.
        """
        self._require(name)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        try:
            if self.location.root:
                return reader.load(self._path(name))
            return reader.table(self._identifier(name))
        except AnalysisException as error:
            if version is None:
                raise
            raise LakeError(f"version {version} of {_no_longer_kept(name)} ({summary(error)})") from None

    def reader(self) -> Reader:
        """What reads a few rows of the tables as they are now; of those on a disk without Spark."""
        if self._on_disk is None:
            self._on_disk = self.location.root is not None and is_on_disk(self.spark, self._path(""))
        return (
            quickest_reader(self.location, lambda: SparkReader(self)) if self._on_disk else SparkReader(self)
        )

    def collect(
        self,
        name: str,
        among: Mapping[str, Collection[object]] | None = None,
        columns: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of a small table as it is now; of one on a disk without a job of Spark's.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        among : mapping of str to collection, optional
            Column → the values that a row may have there.
        columns : sequence of str, optional
            Those to read; without it all that we have declared.

        Returns
        -------
        list of dict
            As :func:`~recsys_spark.lakehouse.reader.as_dicts` has them, in any order; times with a time zone.
            Empty where there is no such table.
        """
        reader = self.reader()
        if reader.schema(name) is None:
            return []
        return as_dicts(reader.rows(name, columns or [*TABLES[name].columns], among or {}))

    def rows(self, name: str, rows: Sequence[Sequence[Any]]) -> DataFrame:
        """A few rows of the table, from memory, in one partition.

        They go to Java as an Arrow table: for each use of Python's rows Spark would start a task in a Python
        worker, which costs more than such a commit's other work.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES` without columns of users or items.
        rows : sequence of sequences
            A value for each column, in the table's order; timestamps know their time zone.
        """
        declared = ", ".join(f"{column} {kind}" for column, kind in TABLES[name].columns.items())
        schema = cast(StructType, StructType.fromDDL(declared))
        columns = to_arrow_schema(schema, timezone="UTC")
        arrays = [pa.array([row[place] for row in rows], column.type) for place, column in enumerate(columns)]
        table = pa.Table.from_arrays(arrays, schema=columns)
        return self.spark.createDataFrame(table, schema).coalesce(1)

    def compact(self, name: str) -> None:
        """Write a table's small files anew as large ones, in one commit.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        """
        retried(lambda: self._delta(name).optimize().executeCompaction(), name)

    def purge(self, name: str) -> None:
        """Write the files anew that hold rows which are only marked as gone, in one commit.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        """
        retried(lambda: self.spark.sql(f"REORG TABLE {self.named_in_sql(name)} APPLY (PURGE)"), name)

    def vacuum(self, name: str, days: int, below_floor: bool = False) -> int:
        """Remove the files that no version of the last days needs; those versions can no longer be read.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        days : int
            How many.
        below_floor : bool
            Let them be fewer than the table's property says.

        Returns
        -------
        int
            Files that were removed.
        """
        settings = {
            "spark.databricks.delta.retentionDurationCheck.enabled": str(not below_floor).lower(),
            # folders are listed by so many tasks, by default 10,000
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(_LISTING_TASKS),
        }
        before = {key: str(self.spark.conf.get(key)) for key in settings}
        try:
            for key, value in settings.items():
                self.spark.conf.set(key, value)
            self._delta(name).vacuum(24.0 * days)
        finally:
            for key, value in before.items():
                self.spark.conf.set(key, value)
        newest = self._delta(name).history(RECENT).where("operation = 'VACUUM END'").first()
        return int(newest["operationMetrics"]["numDeletedFiles"]) if newest is not None else 0

    def revise(
        self, name: str, change: Callable[[list[dict[str, Any]]], Sequence[Sequence[Any]] | None]
    ) -> None:
        """Replace all rows of a small table by what ``change`` makes of them.

        Of several revisions of the same rows at once one is made, and the others begin anew with its rows.
        Columns that others have added to the table become null.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES` without columns of users or items.
        change : callable
            Rows of :meth:`collect` → new ones, as :meth:`rows` takes them; None if the table is to stay.
        """

        def once() -> None:
            version = self.version(name)
            rows = change(self.collect(name))
            if rows is not None:
                # Delta lets one through with this number, and none after it with a lower one
                number = {"txnAppId": "revision", "txnVersion": str(version + 1)}
                self._write(name, self.rows(name, rows), "overwrite", **number)

        retried(once, name, _SkippedError)

    def delete(self, name: str, where: Column) -> None:
        """Delete the rows that satisfy ``where``, in one commit.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        where : Column
            Condition of the rows.
        """
        retried(lambda: self._delta(name).delete(where), name)

    def update(self, name: str, where: Column, values: Mapping[str, Column]) -> None:
        """Change the rows that satisfy ``where``, in one commit.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        where : Column
            Condition of the rows.
        values : mapping of str to Column
            Column → its new value.
        """
        changes: dict[str, str | Column] = dict(values)
        retried(lambda: self._delta(name).update(where, changes), name)

    def append(self, name: str, rows: DataFrame, count: int | None) -> int:
        """Add ``rows`` in one commit.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        rows : DataFrame
            With the table's columns.
        count : int or None
            How many they are, if that is to be compared with what Delta says it wrote.

        Returns
        -------
        int
            The new version.

        Raises
        ------
        LakeError
            Delta wrote another number of rows.
        """
        version = retried(lambda: self._write(name, rows, "append"), name)
        return version if count is None else self._require_count(name, version, count)

    def replace(self, name: str, rows: DataFrame, where: str | None, count: int) -> int:
        """Replace the rows that satisfy ``where``, or all rows, by ``rows``, in one commit.

        All of ``rows`` must satisfy ``where``, or nothing is written. Of two that replace the same rows at
        once, both do, one after the other.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        rows : DataFrame
            With the table's columns.
        where : str, optional
            SQL condition of the rows that are replaced.
        count : int
            How many ``rows`` are; compared with what Delta says it wrote. For 0 the old rows are deleted.

        Returns
        -------
        int
            The new version.

        Raises
        ------
        LakeError
            Delta wrote another number of rows.
        """
        if count == 0:  # which Delta would skip where there is nothing already
            self.delete(name, F.expr(where or "true"))
            return self.version(name)
        options = {} if where is None else {"replaceWhere": where}
        version = retried(lambda: self._write(name, rows, "overwrite", **options), name)
        return self._require_count(name, version, count)

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
        count: int | None = None,
    ) -> Upserted:
        """Insert the rows with new keys, update existing rows by those that are ``newer``, leave the others.

        Nothing is committed if nothing changes. What Delta reports of its MERGE is compared with the counts
        taken before. Where another writer commits in between, what is left to do is looked for again. Columns
        of the table that ``rows`` has not stay as they are, null in new rows.

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
        count : int, optional
            How many ``rows`` are, if that is known.

        Returns
        -------
        Upserted
            Counts of rows, and the table's version afterwards.

        Raises
        ------
        LakeError
            The table does not exist, or Delta reports other counts than those taken before.
        """
        conditions = _Conditions(
            keys,
            F.lit(False) if newer is None else newer,
            dict(updates or {}),
            F.lit(False) if gone is None else gone,
            within,
            count is not None and count <= FEW_ROWS and TABLES[name].columns.keys() >= {*rows.columns},
        )
        left = count if gone is None else None  # of those that are gone nothing is loaded
        first = retried(lambda: self._first_load(name, rows.alias("new").where(~conditions.gone), left), name)
        if first is not None:
            return first
        done = Upserted(0, 0, 0, -1)
        while True:
            alone, one = retried(lambda: self._merge(name, rows, conditions), name)
            done = Upserted(
                done.inserted + one.inserted,
                done.updated + one.updated,
                max(0, one.unchanged - done.inserted - done.updated),
                one.version,
                done.removed + one.removed,
            )
            if alone:
                return done

    def _merge(self, name: str, rows: DataFrame, conditions: _Conditions) -> tuple[bool, Upserted]:
        """One MERGE of what differs from the table's current version; and whether it met that version."""
        before = self.version(name)
        keys, newer, gone, within = conditions.keys, conditions.newer, conditions.gone, conditions.within
        old = self.read(name, before).alias("old")
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
        old = old if within is None else old.where(within)
        if conditions.few:
            met = old.join(F.broadcast(rows.select(*keys).alias("new")), same, "left_semi")
            old = met.alias("old")
        joined = rows.alias("new").join(old, same, "left")
        marked = joined.select("new.*", action.alias("_action")).persist()
        try:
            counts = {row["_action"]: row["count"] for row in marked.groupBy("_action").count().collect()}
            wanted = [counts.get(what, 0) for what in ("insert", "update", "remove")]
            if not any(wanted):
                return True, Upserted(0, 0, counts.get("same", 0), before)
            changed = marked.where(~F.col("_action").isin("same", "nothing")).drop("_action")
            changed = (F.broadcast(changed) if conditions.few else changed).alias("new")
            merge = self._delta(name).alias("old").merge(changed, same if within is None else within & same)
            merge = merge.whenMatchedDelete(gone).whenMatchedUpdate(newer, conditions.updates)
            if counts.get("insert"):  # or Delta would shuffle all that it has, in case a row were new
                values: dict[str, str | Column] = {
                    quoted(column): f"new.{quoted(column)}" for column in rows.columns
                }
                merge = merge.whenNotMatchedInsert(~gone, values)
            version = self._committed(name, merge.execute)
        finally:
            marked.unpersist()
        commit = self._commit(name, version)
        alone = commit["readVersion"] == before
        metrics = commit["operationMetrics"]
        reported = [
            int(metrics.get(f"numTargetRows{what}", -1)) for what in ("Inserted", "Updated", "Deleted")
        ]
        if alone and reported != wanted:
            raise LakeError(
                f"table {name!r}: expected to insert, update and remove {wanted} rows, MERGE reports "
                f"{reported} in version {version}"
            )
        return alone, Upserted(reported[0], reported[1], counts.get("same", 0), version, reported[2])

    def _first_load(self, name: str, rows: DataFrame, count: int | None) -> Upserted | None:
        """Write all rows, which needs neither join nor MERGE; None where the table is not new any more."""
        before = self.version(name)
        # others may have made it with rows in it
        made_by_us = before == 0 and self._commit(name, before)["operation"] == "CREATE TABLE"
        if not made_by_us and (before > 0 or not self.read(name, before).isEmpty()):
            return None
        if rows.isEmpty() if count is None else count == 0:
            return Upserted(0, 0, 0, before)
        if TABLES[name].partition:  # or every task would write a file of every partition
            rows = rows.hint("rebalance", *TABLES[name].partition)
        # of two first loads at once Delta lets one through, and skips the other without a word
        once = {"txnAppId": f"first load of {name}", "txnVersion": str(before)}
        try:
            version = self._write(name, rows, "append", **once)
        except _SkippedError:
            return None
        return Upserted(int(self._commit(name, version)["operationMetrics"]["numOutputRows"]), 0, 0, version)

    def _write(self, name: str, rows: DataFrame, mode: str, **options: str) -> int:
        """Write in one commit; returns its version."""
        writer = rows.write.format("delta").mode(mode).options(**options)
        if self.location.root:
            return self._committed(name, lambda: writer.save(self._path(name)))
        return self._committed(name, lambda: writer.saveAsTable(self._identifier(name)))

    def _delta(self, name: str) -> DeltaTable:
        if self.location.root:
            return DeltaTable.forPath(self.spark, self._path(name))
        return DeltaTable.forName(self.spark, self._identifier(name))

    def _committed(self, name: str, write: Callable[[], Any]) -> int:
        """Version of the commit that ``write`` makes in this session, whoever else commits meanwhile."""
        self.spark.conf.unset(_LAST_COMMIT)
        write()
        version = self.spark.conf.get(_LAST_COMMIT, None)
        if version is None:
            raise _SkippedError(f"table {name!r}: Delta skipped a write without an error: run the step again")
        return int(version)

    def _commit(self, name: str, version: int) -> Any:
        """What a commit of this session says of itself; in the history few others come later."""
        if self.location.root:
            return commit_info(self.spark, self._path(name), version)
        limit = RECENT
        while True:
            rows = self._delta(name).history(limit).collect()
            found = [row for row in rows if row["version"] == version]
            if found or len(rows) < limit:
                return found[0]
            limit *= 10

    def _require_count(self, name: str, version: int, count: int) -> int:
        written = int(self._commit(name, version)["operationMetrics"].get("numOutputRows", 0))
        if written != count:
            raise LakeError(
                f"table {name!r}: {count:,} rows were to be written, and version {version} wrote {written:,}"
            )
        return version

    def _path(self, name: str) -> str:
        return f"{absolute_path(str(self.location.root))}/{name}"

    def _identifier(self, name: str) -> str:
        return f"{self.location.catalog}.{name}"

    def _require(self, name: str) -> None:
        if not self.exists(name):
            location = self.location.root or self.location.catalog
            raise LakeError(f"table {name!r} is not in {location}: run the step that writes it first")

    def _make(self, name: str, columns: Mapping[str, str]) -> None:
        """Create a table; of several that do so at once, one does."""
        problem = "it is not there afterwards"
        for pause in (0.2, 0.5, 1.0, 2.0):
            try:
                retried(self._builder(name, columns).execute, name)
            except AnalysisException as error:
                # which also another writer causes that has made the folder, and not yet its first commit
                problem = summary(error)
                time.sleep(pause)
            if self.exists(name):
                return
        raise LakeError(f"table {name!r} cannot be created in {self._path(name)}: {problem}")

    def _builder(self, name: str, columns: Mapping[str, str]) -> DeltaTableBuilder:
        table = TABLES[name]
        builder = DeltaTable.createIfNotExists(self.spark)
        if self.location.root:
            builder = builder.location(self._path(name))
        else:
            builder = builder.tableName(self._identifier(name))
        for column, kind in columns.items():
            builder = builder.addColumn(column, kind, nullable=column not in table.required)
        for check, condition in (table.checks or {}).items():
            builder = builder.property(f"delta.constraints.{check}", condition)
        for key, value in self._properties(name).items():
            builder = builder.property(key, value)
        return builder.comment(table.grain).partitionedBy(*table.partition)

    def _properties(self, name: str) -> dict[str, str]:
        """Table properties: old versions stay readable, and simple readers can read what is served."""
        kept = f"interval {self.retention.days} days"
        return {
            "delta.deletedFileRetentionDuration": kept,
            "delta.logRetentionDuration": kept,
            "delta.enableDeletionVectors": str(TABLES[name].marks_rows).lower(),
            "delta.columnMapping.mode": "none",
        }

    def named_in_sql(self, name: str) -> str:
        """The table as SQL names it.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        """
        return f"delta.{quoted(self._path(name))}" if self.location.root else self._identifier(name)

    def _require_changeable(self, name: str, properties: Mapping[str, str]) -> None:
        """Check the properties of an existing table, which must take more than appended rows."""
        if properties.get("delta.appendOnly") == "true":
            raise LakeError(
                f"table {name!r} takes appended rows only: ALTER TABLE {self.named_in_sql(name)} UNSET "
                "TBLPROPERTIES ('delta.appendOnly')"
            )

    def _require_properties(self, name: str) -> None:
        """Set the properties that an existing table has otherwise."""
        table, present = self.named_in_sql(name), self.reader().properties(name)
        self._require_changeable(name, present)
        other = {key: value for key, value in self._properties(name).items() if present.get(key) != value}
        if other:
            listed = ", ".join(f"'{key}' = '{value}'" for key, value in other.items())
            retried(lambda: self.spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ({listed})"), name)

    def _present(self, name: str) -> dict[str, str]:
        """Column → SQL type of an existing table."""
        try:
            return dict(self.read(name).dtypes)
        except AnalysisException as error:
            raise LakeError(f"table {name!r} cannot be read: {str(error).splitlines()[0]}") from None

    def _require_columns(self, name: str, present: Collection[str], columns: Collection[str]) -> None:
        missing = [column for column in columns if column not in present]
        if missing:
            further = [column for column in present if column not in columns]
            raise LakeError(
                f"table {name!r} has no column {missing[0]!r}"
                + (f", and has {', '.join(map(repr, further))}" if further else "")
                + ": give it its name back, or start a new lake"
            )

    def _require_types(self, name: str, present: Mapping[str, str], columns: Mapping[str, str]) -> None:
        self._require_columns(name, present, columns)
        for column, kind in columns.items():
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
