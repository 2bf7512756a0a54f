"""Columns of the tables ``users`` and ``items`` that a configuration names."""

from __future__ import annotations

from pyspark.sql import DataFrame

from recsys_spark.config import config_problem
from recsys_spark.errors import ConfigError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.night import Night

MOST_VALUES = 100
"""Of a column whose values are each worked through by themselves."""


def table_with(night: Night, record: StepRecord, table: str, key: str, column: str) -> DataFrame:
    """A table that has a column.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the table's version is added.
    table : str
        ``users`` or ``items``.
    key : str
        Of the configuration, that names the column.
    column : str
        Which.

    Raises
    ------
    ConfigError
        It has no such column, or there is no such table.
    """
    known = list[str]()
    if night.lake.exists(table):
        version = record.versions_read.setdefault(table, night.lake.version(table))
        rows = night.lake.read(table, version)
        known = rows.columns
    if column not in known:
        allowed = f"one of the columns of the table {table}: {known}"
        raise ConfigError(config_problem(night.config.origin, key, column, allowed))
    return rows


def few_values(night: Night, key: str, given: str, rows: DataFrame, column: str) -> list[str]:
    """The values of a column of texts, ascending.

    Parameters
    ----------
    night : Night
        The run.
    key, given : str
        Of the configuration, and what it says.
    rows : DataFrame
        Has the column.
    column : str
        Which.

    Raises
    ------
    ConfigError
        There are more than :data:`MOST_VALUES`.
    """
    found = rows.select(column).distinct().limit(MOST_VALUES + 1).collect()
    if len(found) > MOST_VALUES:
        allowed = f"a column with at most {MOST_VALUES} different values"
        raise ConfigError(config_problem(night.config.origin, key, given, allowed))
    return sorted(row[column] for row in found)
