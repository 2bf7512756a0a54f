"""``recsys doctor``: is everything here that a night needs?"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark
from pyspark.sql import SparkSession

from recsys_spark.config import Lake, Session
from recsys_spark.errors import SetupError
from recsys_spark.session import DELTA_JAR, THREAD_VARIABLES, get_session, require_java

ENOUGH_MEMORY = 2.0
"""Free GiB below which a night on a laptop is likely to fail."""


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, whether it will do, and what to do if
    not.
    """

    check: str
    found: str
    ok: bool
    advice: str = ""


def examine(lake: Lake | None = None) -> list[Check]:
    """Look at Java, Spark, Delta, Python on both sides, threads, write access and memory.

    Starts a session; never raises for a finding.
    """
    checks = [_python(), _memory(), _write_access(lake)]
    try:
        checks.append(Check("Java", str(require_java()), True))
    except SetupError as problem:
        return [*checks, Check("Java", "missing or too old", False, str(problem))]
    try:
        spark = get_session(Session())
    except SetupError as problem:
        return [*checks, Check("Spark and Delta jars", "session did not start", False, str(problem))]
    return [*checks, *_guarded(spark)]


def _guarded(spark: SparkSession) -> Iterator[Check]:
    looks: dict[str, Callable[[SparkSession], Check]] = {
        "Spark": _spark,
        "Delta jars": _delta,
        "Python of workers": _workers,
        "BLAS threads of workers": _threads,
    }
    for name, look in looks.items():
        try:
            yield look(spark)
        except Exception as error:
            yield Check(name, f"{type(error).__name__}: {str(error).splitlines()[0]}", False, "see the error")


def _python() -> Check:
    version = platform.python_version()
    return Check(
        "Python",
        version,
        (3, 11) <= tuple(map(int, version.split(".")[:2])) < (3, 14),
        "install Python 3.11 to 3.13",
    )


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    return Check(
        "Free memory",
        f"{free:.1f} GiB",
        free >= ENOUGH_MEMORY,
        f"close something: {ENOUGH_MEMORY} GiB are wanted",
    )


def _write_access(lake: Lake | None) -> Check:
    root = lake.root if lake is not None and lake.root and "://" not in lake.root else tempfile.gettempdir()
    try:
        folder = Path(root)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("Write access", f"{root}: {error.strerror}", False, "choose another lake.root")
    return Check("Write access", str(root), True)


def _spark(spark: SparkSession) -> Check:
    return Check(
        "Spark",
        f"{spark.version}, {spark.sparkContext.master}",
        spark.version == pyspark.__version__,
        "same version on both sides",
    )


def _delta(spark: SparkSession) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        spark.range(1).write.format("delta").save(f"{folder}/t")
    return Check("Delta jars", f"{DELTA_JAR.split(':')[-1]}, a table was written", True)


def _workers(spark: SparkSession) -> Check:
    here = platform.python_version()
    there = spark.sparkContext.parallelize([0], 1).map(lambda _: platform.python_version()).first()
    return Check("Python of workers", str(there), there == here, f"the driver has {here}: set PYSPARK_PYTHON")


def _threads(spark: SparkSession) -> Check:
    names = list(THREAD_VARIABLES)
    found = (
        spark.sparkContext.parallelize([0], 1)
        .map(lambda _: {name: os.environ.get(name) for name in names})
        .first()
    )
    return Check(
        "BLAS threads of workers",
        ", ".join(f"{k}={v}" for k, v in found.items()),
        set(found.values()) == {"1"},
        "set spark.executorEnv.*=1",
    )
