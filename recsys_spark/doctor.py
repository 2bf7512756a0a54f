"""``recsys doctor``: whether this machine has all that a run needs."""

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
from recsys_spark.session import DELTA_JAR, THREAD_VARIABLES, delta_version, get_session, require_java

ENOUGH_MEMORY = 2.0
"""Free GiB below which a run on a laptop is likely to fail."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes
    ----------
    check : what was checked
    found : what it is
    ok : whether that will do
    advice : what to do if not
    """

    check: str
    found: str
    ok: bool
    advice: str = ""


def examine(lake: Lake | None = None) -> list[Check]:
    """Check Java, Spark, Delta, Python on the driver and the workers, threads, write access and memory.

    Starts a session. A failed check is a line of the result, never an error.

    Parameters
    ----------
    lake : Lake, optional
        The configuration's ``lake`` section, whose root must be writable; without it the temporary folder.

    Returns
    -------
    list of Check
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
    checks: dict[str, Callable[[SparkSession], Check]] = {
        "Spark": _spark,
        "Delta jars": _delta,
        "Python of workers": _workers,
        "BLAS threads of workers": _threads,
    }
    for name, check in checks.items():
        try:
            yield check(spark)
        except Exception as error:
            yield Check(name, f"{type(error).__name__}: {str(error).splitlines()[0]}", False, "see the error")


def _python() -> Check:
    version = platform.python_version()
    supported = (3, 11) <= tuple(map(int, version.split(".")[:2])) < (3, 14)
    return Check("Python", version, supported, "install Python 3.11 to 3.13")


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    advice = f"close other programs: at least {ENOUGH_MEMORY} GiB should be free"
    return Check("Free memory", f"{free:.1f} GiB", free >= ENOUGH_MEMORY, advice)


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
    same = spark.version == pyspark.__version__
    advice = f"install Spark {pyspark.__version__} on the cluster, the version of this pyspark"
    return Check("Spark", f"{spark.version}, {spark.sparkContext.master}", same, advice)


def _delta(spark: SparkSession) -> Check:
    found, wanted = delta_version(spark), DELTA_JAR.split(":")[-1]
    if found != wanted:
        advice = f"install delta-spark {wanted}, and on a cluster use --packages {DELTA_JAR}"
        return Check("Delta jars", found or "missing", False, advice)
    with tempfile.TemporaryDirectory() as folder:
        spark.range(1).write.format("delta").save(f"{folder}/t")
    return Check("Delta jars", f"{found}, a table was written", True)


def _workers(spark: SparkSession) -> Check:
    driver = platform.python_version()
    worker = spark.sparkContext.parallelize([0], 1).map(lambda _: platform.python_version()).first()
    return Check(
        "Python of workers", str(worker), worker == driver, f"the driver has {driver}: set PYSPARK_PYTHON"
    )


def _threads(spark: SparkSession) -> Check:
    names = list(THREAD_VARIABLES)
    one_row = spark.sparkContext.parallelize([0], 1)
    values = one_row.map(lambda _: {name: os.environ.get(name) for name in names}).first()
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    advice = "set " + ", ".join(f"spark.executorEnv.{name}=1" for name in names)
    return Check("BLAS threads of workers", shown, set(values.values()) == {"1"}, advice)
