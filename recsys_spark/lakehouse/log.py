"""A table's log, read as Delta's protocol lays it out.

Delta's own history says the same, and is a Spark job each time: a night asks twenty times and more.
Source: "Delta Transaction Log Protocol", https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark.lakehouse.storage import file_names, read_text


def newest_version(spark: SparkSession, table: str) -> int:
    """Version of a table's newest commit.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    table : str
        Path or URI of an existing table.

    Notes
    -----
    One listing of the log, which holds the commits of ``retention.days``.
    """
    # old commits go, and a checkpoint stands for them
    named = (
        re.match(r"(\d{20})\.(json|checkpoint\.)", name) for name in file_names(spark, f"{table}/_delta_log")
    )
    return max(int(name[1]) for name in named if name)


def commit_info(spark: SparkSession, table: str, version: int) -> dict[str, Any]:
    """What a commit says of itself, such as ``operationMetrics`` and ``readVersion``.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    table : str
        Path or URI of an existing table.
    version : int
        Version that the commit made; a recent one.
    """
    lines = read_text(spark, f"{table}/_delta_log/{version:020d}.json").splitlines()
    actions = (json.loads(line) for line in lines)
    return next(action["commitInfo"] for action in actions if "commitInfo" in action)
