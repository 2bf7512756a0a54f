"""Reading a few rows of the tables, for people and programs that ask.

Tables under a path are read by ``deltalake``: an answer takes about a second, and no Java is started. What is
not to be had so is read by Spark: tables of a catalog, and storage that ``deltalake`` does not know.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from recsys_spark.config import Lake, Session
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.paths import absolute_path

if TYPE_CHECKING:
    from recsys_spark.lakehouse.tables import Lakehouse

KNOWN_STORAGE = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""Schemes of URIs that ``deltalake`` reads; where it logs in is in the environment, as ``AWS_REGION``."""


class Reader(ABC):
    """Rows of the newest versions of the tables."""

    @abstractmethod
    def schema(self, name: str) -> pa.Schema | None:
        """Columns of a table; None where there is no such table.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        """

    @abstractmethod
    def rows(self, name: str, columns: Sequence[str], among: Mapping[str, Collection[object]]) -> pa.Table:
        """Rows of a table, in any order.

        Parameters
        ----------
        name : str
            Of a table that is there.
        columns : sequence of str
            Those to read.
        among : mapping of str to collection
            Column → the values that a row may have there, of the column's type; files and row groups that
            have none of them are not read.

        Returns
        -------
        pyarrow.Table
            The ``columns``; times in UTC.
        """


class DeltaReader(Reader):
    """A :class:`Reader` of tables under a path, without Spark.

    Parameters
    ----------
    root : str
        Folder or URI.
    """

    def __init__(self, root: str) -> None:
        import deltalake

        self._open = cache(deltalake.DeltaTable)
        self._is_table = deltalake.DeltaTable.is_deltatable
        self.root = absolute_path(root)

    def schema(self, name: str) -> pa.Schema | None:
        """See :meth:`Reader.schema`."""
        path = f"{self.root}/{name}"
        return pa.schema(self._open(path).schema().to_arrow()) if self._is_table(path) else None

    def rows(self, name: str, columns: Sequence[str], among: Mapping[str, Collection[object]]) -> pa.Table:
        """See :meth:`Reader.rows`."""
        import pyarrow.compute as pc

        condition = None
        for column, values in among.items():
            kept = pc.field(column).isin(list(values))
            condition = kept if condition is None else condition & kept
        dataset = self._open(f"{self.root}/{name}").to_pyarrow_dataset()
        return dataset.to_table(columns=list(columns), filter=condition)


class SparkReader(Reader):
    """A :class:`Reader` of any lake that a session reads.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    """

    def __init__(self, lake: Lakehouse) -> None:
        self._lake = lake

    def schema(self, name: str) -> pa.Schema | None:
        """See :meth:`Reader.schema`."""
        return self._lake.read(name).limit(0).toArrow().schema if self._lake.exists(name) else None

    def rows(self, name: str, columns: Sequence[str], among: Mapping[str, Collection[object]]) -> pa.Table:
        """See :meth:`Reader.rows`."""
        from pyspark.sql import functions as F

        rows = self._lake.read(name)
        for column, values in among.items():
            rows = rows.where(F.col(column).isin(list(values)))
        return rows.select(*columns).toArrow()


def reader_of(location: Lake, session: Session) -> Reader:
    """A reader of a configuration's tables.

    Parameters
    ----------
    location : Lake
        Its ``lake`` section.
    session : Session
        Its ``session`` section, where Spark is needed.
    """
    scheme = re.match(r"([A-Za-z][\w+.-]+):", absolute_path(location.root or "hive:"))
    if scheme is None or scheme[1] in KNOWN_STORAGE:
        return DeltaReader(str(location.root))
    from recsys_spark.lakehouse.tables import Lakehouse
    from recsys_spark.session import get_session

    return SparkReader(Lakehouse(get_session(session), location))


def require(reader: Reader, name: str) -> pa.Schema:
    """Columns of a table that must be there.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    name : str
        The table.

    Raises
    ------
    LakeError
        It is not there.
    """
    schema = reader.schema(name)
    if schema is None:
        raise LakeError(f"there is no table {name!r}: run the step that writes it first")
    return schema
