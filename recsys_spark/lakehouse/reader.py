"""Reading a few rows of the tables in one process: for people and programs that ask, and for steps.

Tables on a disk are read by ``deltalake``, and no Java is started. Others are read by Spark,
which knows catalogs, and how to log in to other storage; so is what ``deltalake`` cannot read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from recsys_spark.config import Lake, Session
from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.paths import absolute_path

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from recsys_spark.lakehouse.tables import Lakehouse


T = TypeVar("T")


class Reader(ABC):
    """Rows of the newest versions of the tables, as of the first look at each."""

    @abstractmethod
    def schema(self, name: str) -> pa.Schema | None:
        """Columns of a table; None where there is no such table.

        Parameters
        ----------
        name : str
            A key of :data:`~recsys_spark.lakehouse.schemas.TABLES`.
        """

    @abstractmethod
    def properties(self, name: str) -> Mapping[str, str]:
        """Properties of a table.

        Parameters
        ----------
        name : str
            Of a table that is there.
        """

    @abstractmethod
    def rows(
        self,
        name: str,
        columns: Sequence[str],
        among: Mapping[str, Collection[object]],
        limit: int | None = None,
    ) -> pa.Table:
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
        limit : int, optional
            How many rows at most, whichever they are.

        Returns
        -------
        pyarrow.Table
            The ``columns``; times in UTC.
        """

    @abstractmethod
    def model_metadata(self, path: str) -> str:
        """The line of a saved model's folder ``metadata``.

        Parameters
        ----------
        path : str
            The model's folder.
        """

    @abstractmethod
    def model_frame(self, path: str) -> pa.Table:
        """All rows of a folder of Parquet files in a saved model's.

        Parameters
        ----------
        path : str
            The folder.
        """


class DeltaReader(Reader):
    """A :class:`Reader` of tables on a disk, without Spark.

    Parameters
    ----------
    root : str
        Folder.
    instead : callable, optional
        What reads tables that cannot be read so, as of a lake whose path has a percent sign; without it that
        is an error.

    Raises
    ------
    LakeError
        A table cannot be read, and there is nothing instead; from every method.
    """

    def __init__(self, root: str, instead: Callable[[], Reader] | None = None) -> None:
        from deltalake import DeltaTable

        self._open, self._is_table = cache(DeltaTable), DeltaTable.is_deltatable
        self._instead = None if instead is None else cache(instead)
        self.root = absolute_path(root)

    def schema(self, name: str) -> pa.Schema | None:
        """See :meth:`Reader.schema`."""
        return self._read(self._named(name), lambda: self._schema(name), lambda reader: reader.schema(name))

    def properties(self, name: str) -> Mapping[str, str]:
        """See :meth:`Reader.properties`."""
        return self._read(
            self._named(name),
            lambda: self._open(f"{self.root}/{name}").metadata().configuration,
            lambda reader: reader.properties(name),
        )

    def rows(
        self,
        name: str,
        columns: Sequence[str],
        among: Mapping[str, Collection[object]],
        limit: int | None = None,
    ) -> pa.Table:
        """See :meth:`Reader.rows`."""
        return self._read(
            self._named(name),
            lambda: self._rows(name, columns, among, limit),
            lambda reader: reader.rows(name, columns, among, limit),
        )

    def model_metadata(self, path: str) -> str:
        """See :meth:`Reader.model_metadata`."""

        def read() -> str:
            return next(Path(f"{path}/metadata").glob("part-*")).read_text(encoding="utf-8")

        return self._read(f"model {path}", read, lambda reader: reader.model_metadata(path))

    def model_frame(self, path: str) -> pa.Table:
        """See :meth:`Reader.model_frame`."""
        from pyarrow.parquet import read_table

        return self._read(f"model {path}", lambda: read_table(path), lambda reader: reader.model_frame(path))

    def _read(self, what: str, read: Callable[[], T], by: Callable[[Reader], T]) -> T:
        from deltalake.exceptions import DeltaError

        try:
            return read()
        except (DeltaError, OSError, StopIteration, pa.ArrowException) as error:
            if self._instead is None:
                raise LakeError(f"{what} cannot be read: {summary(error)}") from None
            return by(self._instead())

    def _named(self, name: str) -> str:
        return f"table {name!r} in {self.root}"

    def _schema(self, name: str) -> pa.Schema | None:
        path = f"{self.root}/{name}"
        return pa.schema(self._open(path).schema().to_arrow()) if self._is_table(path) else None

    def _rows(
        self, name: str, columns: Sequence[str], among: Mapping[str, Collection[object]], limit: int | None
    ) -> pa.Table:
        from deltalake import QueryBuilder

        table = self._open(f"{self.root}/{name}")
        schema = pa.schema(table.schema().to_arrow())
        queries = QueryBuilder().register("asked", table)
        # times of 96 bits, which Spark may write, read as nanoseconds would end in the years 1677 and 2262
        queries.execute("SET datafusion.execution.parquet.coerce_int96 = 'us'")
        listed = ", ".join(map(_name, columns))
        where = "".join(f" AND {_name(column)} IN ({_values(values)})" for column, values in among.items())
        most = "" if limit is None else f" LIMIT {limit}"
        select = f"SELECT {listed} FROM asked WHERE true{where}{most}"  # noqa: S608 - all of it is quoted
        found = pa.table(queries.execute(select).read_all())
        return found.cast(pa.schema([schema.field(column) for column in columns]))


def _name(column: str) -> str:
    """A column as SQL names it."""
    quotes = '"'
    return f"{quotes}{column.replace(quotes, 2 * quotes)}{quotes}"


def _values(values: Collection[object]) -> str:
    """Whole numbers, dates and texts as SQL lists them; of none it is a list in which nothing is."""
    return ", ".join(map(_literal, values)) or "NULL"


def _literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    text = "'" + str(value).replace("'", "''") + "'"
    return f"DATE {text}" if isinstance(value, date) else text


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
        from pyspark.errors import AnalysisException
        from pyspark.sql.pandas.types import to_arrow_schema

        if not self._lake.exists(name):
            return None
        try:
            return to_arrow_schema(self._lake.read(name).schema, timezone="UTC")
        except AnalysisException as error:
            raise LakeError(f"table {name!r} cannot be read: {summary(error)}") from None

    def properties(self, name: str) -> Mapping[str, str]:
        """See :meth:`Reader.properties`."""
        shown = self._lake.spark.sql(f"SHOW TBLPROPERTIES {self._lake.named_in_sql(name)}")
        return {row["key"]: row["value"] for row in shown.collect()}

    def rows(
        self,
        name: str,
        columns: Sequence[str],
        among: Mapping[str, Collection[object]],
        limit: int | None = None,
    ) -> pa.Table:
        """See :meth:`Reader.rows`."""
        from pyspark.sql import functions as F

        rows = self._lake.read(name)
        for column, values in among.items():
            rows = rows.where(F.col(column).isin(list(values)))
        rows = rows.select(*columns)
        return (rows if limit is None else rows.limit(limit)).toArrow()

    def model_metadata(self, path: str) -> str:
        """See :meth:`Reader.model_metadata`."""
        return str(self._saved(path, lambda spark: spark.read.text(f"{path}/metadata").collect()[0][0]))

    def model_frame(self, path: str) -> pa.Table:
        """See :meth:`Reader.model_frame`."""
        return self._saved(path, lambda spark: spark.read.parquet(path).toArrow())

    def _saved(self, path: str, read: Callable[[SparkSession], T]) -> T:
        from pyspark.errors import AnalysisException

        try:
            return read(self._lake.spark)
        except AnalysisException as error:
            raise LakeError(f"model {path} cannot be read: {summary(error)}") from None


def reader_of(location: Lake, session: Session) -> Reader:
    """A reader of a configuration's tables.

    Parameters
    ----------
    location : Lake
        Its ``lake`` section.
    session : Session
        Its ``session`` section, where Spark is needed.
    """

    def by_spark() -> Reader:
        from recsys_spark.lakehouse.tables import Lakehouse
        from recsys_spark.session import get_session

        return SparkReader(Lakehouse(get_session(session), location))

    return quickest_reader(location, by_spark)


def quickest_reader(location: Lake, by_spark: Callable[[], Reader]) -> Reader:
    """A reader without Spark where the tables are on a disk, and what cannot be read so is read by Spark.

    Parameters
    ----------
    location : Lake
        The configuration's ``lake`` section.
    by_spark : callable
        Makes the other reader, once it is needed.
    """
    on_disk = location.root is not None and absolute_path(location.root).startswith("/")
    installed = find_spec("deltalake") is not None  # a cluster does without
    return DeltaReader(str(location.root), by_spark) if on_disk and installed else by_spark()


def as_dicts(found: pa.Table) -> list[dict[str, Any]]:
    """Rows as dictionaries, and so are their maps; a map that is null is empty.

    Parameters
    ----------
    found : pyarrow.Table
        Of :meth:`Reader.rows`.
    """
    maps = [field.name for field in found.schema if pa.types.is_map(field.type)]
    # pyarrow's own way to have maps so came after the oldest version that is allowed
    return [{**row, **{name: dict(row[name] or ()) for name in maps}} for row in found.to_pylist()]


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
