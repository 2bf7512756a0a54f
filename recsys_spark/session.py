"""The one builder of Spark sessions.

On its own (a laptop, a test, CI) it starts a local session with everything set. Under ``spark-submit`` the
cluster's settings stand: only what a night cannot do without is added, where it is not set.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from delta import configure_spark_with_delta_pip
from py4j.java_gateway import JavaClass
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.utils import is_remote

from recsys_spark.class_archive import ClassArchive
from recsys_spark.config import Session
from recsys_spark.errors import SetupError
from recsys_spark.jars import FoundJars

MIN_JAVA = 17
_log: Path | None = None
_keep_log = False
_keep_classes = False
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
DELTA_JAR = "io.delta:delta-spark_4.2_2.13:4.4.0"

NOT_REMOTE = (
    "this is a session of Spark Connect (or of serverless compute), which has no barrier tasks for training, "
    "no broadcasts for making lists and no way to Java: use a classic session, as spark-submit makes it, and "
    "unset SPARK_REMOTE"
)

DELTA_SETTINGS = ("spark.sql.extensions", "spark.sql.catalog.spark_catalog")
NEEDED = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
    # with any smaller limit Spark sums up the batch's size at each row, which costs more than the row
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
    "spark.sql.adaptive.enabled": "true",
    # or what is kept in memory has as many partitions as a shuffle may have, however little it is
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
    # larger methods are never compiled by Java, and run ten times slower than without generated code
    "spark.sql.codegen.hugeMethodLimit": "8000",
    # a query's text holds those of all that it reads from memory, each as often as it is read
    "spark.sql.maxPlanStringLength": "100000",
    # times as Parquet has them now, with least and largest in each file: Spark's 96 bits have none
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # one BLAS and numba thread per Python worker: Spark owns the parallelism
    **{f"spark.executorEnv.{name}": "1" for name in THREAD_VARIABLES},
}
"""What a night cannot do without, wherever it runs; a cluster's own value wins."""

FEW_CORES = 2
ON_FEW_CORES = {
    "Tier4InvocationThreshold": 50_000,
    "Tier4MinInvocationThreshold": 6_000,
    "Tier4CompileThreshold": 150_000,
    "Tier4BackEdgeThreshold": 400_000,
}
"""Where a local session has :data:`FEW_CORES` or less, Java's second compiler, which takes them from the
work, starts ten times as late: a step runs most of its code a few times only. And garbage is collected
without threads of its own.
"""

ON_A_CLUSTER = {
    "spark.log.level": "WARN",  # a night's ten lines are not to be looked for among thousands
    # Delta's default of 50 slows every small commit down
    "spark.databricks.delta.snapshotPartitions": "4",
}
"""Beside these, where a cluster says nothing."""


def get_session(settings: Session | None = None, app_name: str = "recsys-spark") -> SparkSession:
    """The session of this process: the running one, the cluster's under spark-submit, or a new local one.

    Parameters
    ----------
    settings : Session, optional
        The configuration's section ``session``; without it its defaults.
    app_name : str
        Name shown in Spark's own pages.

    Raises
    ------
    SetupError
        Java is missing or too old, or Delta's jars cannot be fetched: one line that says what to install. Or
        the session would be one of Spark Connect.
    """
    settings = settings or Session()
    if "SPARK_REMOTE" in os.environ or is_remote():
        raise SetupError(NOT_REMOTE)
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return _submitted(settings, app_name)
    return _local(settings, app_name)


def require_delta(spark: SparkSession) -> None:
    """Check that a session can read and write Delta tables.

    Parameters
    ----------
    spark : SparkSession
        Any session.

    Raises
    ------
    SetupError
        Delta's jar is missing or of another version, or its extension or its catalog is not set. Or it is a
        session of Spark Connect.
    """
    if type(spark).__module__.startswith("pyspark.sql.connect"):
        raise SetupError(NOT_REMOTE)
    found = delta_version(spark)
    wanted = {key: NEEDED[key] for key in DELTA_SETTINGS}
    is_set = all(value in (spark.conf.get(key, "") or "") for key, value in wanted.items())
    same = found is not None and found.split(".")[:2] == DELTA_JAR.split(":")[-1].split(".")[:2]
    if same and is_set:
        return
    has = "" if same else f" (it has {'none of its jars' if found is None else f'version {found}'})"
    options = " ".join(f"--conf {key}={value}" for key, value in wanted.items())
    raise SetupError(
        f"this Spark session cannot use Delta Lake{has}: start it with --packages {DELTA_JAR} {options}, or "
        "make it with recsys_spark.get_session()"
    )


def delta_version(spark: SparkSession) -> str | None:
    """Version of the Delta jar that a session has, or None where it has none.

    Parameters
    ----------
    spark : SparkSession
        Any session.
    """
    jvm: Any = spark._jvm
    package = getattr(jvm.io.delta, "package", None)
    return str(package.VERSION()) if isinstance(package, JavaClass) else None


def keep_log() -> Path | None:
    """Keep the file that takes what a local session's JVM writes on standard error; otherwise it is removed
    at exit.

    Returns
    -------
    Path or None
        The file, or None when this process started no local session.
    """
    global _keep_log
    _keep_log = True
    return _log


def keep_classes() -> None:
    """Keep Java's classes at exit, where this process started a local session: it has loaded what a night
    needs, and later ones start sooner.
    """
    global _keep_classes
    _keep_classes = True


def stop_submitted() -> None:
    """Stop the session of a driver that spark-submit started, if any: what Spark says of its executors' end
    comes before what the driver says last.
    """
    context = SparkContext._active_spark_context
    if "PYSPARK_GATEWAY_PORT" in os.environ and context is not None:
        with warnings.catch_warnings(), suppress(Exception):  # Java may be gone
            warnings.simplefilter("ignore")
            context.stop()


def java_program() -> str | None:
    """Path of the Java that Spark would start, or None when there is none."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home) / "bin" / "java")) if home else shutil.which("java")


def java_version() -> int | None:
    """Major version of the Java that Spark would start, or None when there is none."""
    java = java_program()
    if java is None:
        return None
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found else None


def require_java() -> int:
    """Major version of Java.

    Raises
    ------
    SetupError
        None on JAVA_HOME or the PATH, or older than 17.
    """
    version = java_version()
    if version is None:
        raise SetupError("Java not found: install a JDK 17, 21 or 25 and put it on the PATH or in JAVA_HOME")
    if version < MIN_JAVA:
        raise SetupError(
            f"Java {version} is too old for Spark 4.2: install a JDK 17, 21 or 25, set JAVA_HOME"
        )
    return version


def _submitted(settings: Session, app_name: str) -> SparkSession:
    SparkContext._ensure_initialized()  # before it, SparkConf knows nothing of what spark-submit was given
    cluster = SparkConf(_jvm=SparkContext._jvm)
    builder = SparkSession.builder
    if not cluster.contains("spark.app.name"):
        builder = builder.appName(app_name)
    for key, value in {**NEEDED, **ON_A_CLUSTER, **settings.spark}.items():
        if not cluster.contains(key):
            builder = builder.config(key, value)
    return builder.getOrCreate()


def _local(settings: Session, app_name: str) -> SparkSession:
    global _log
    require_java()
    # workers otherwise run the PATH's python3, not this environment's
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName(app_name)
    archive = ClassArchive(java_program())
    options = {**_temporary_warehouse(settings), **local_settings(settings, archive.options)}
    for key, value in options.items():
        builder = builder.config(key, value)
    with _quiet_start() as log:
        _log = log
        atexit.register(_remove_log)
        try:
            session = _with_delta(builder, settings.spark)
        except (PySparkException, RuntimeError, OSError) as error:
            keep_log()
            raise SetupError(_start_problem(log, error)) from None
    atexit.register(_write_classes, archive)
    # when Java dies, the end of its connection would be printed as a stack trace, beside the error itself
    session.sparkContext._accumulatorServer.handle_error = lambda *_: None  # type: ignore[method-assign]
    return session


def _temporary_warehouse(settings: Session) -> Mapping[str, str]:
    """A warehouse folder that goes with the process, or Spark would make ``spark-warehouse`` in the current
    folder.

    A Hive catalog outlives the process, and so must its warehouse.
    """
    if settings.spark.get("spark.sql.catalogImplementation") == "hive":
        return {}
    folder = tempfile.mkdtemp(prefix="recsys-warehouse-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"spark.sql.warehouse.dir": folder}


def _write_classes(archive: ClassArchive) -> None:
    gateway: Any = SparkContext._gateway
    if _keep_classes and gateway is not None and gateway.proc.poll() is None:
        archive.keep(gateway)


def _remove_log() -> None:
    if _log is not None and not _keep_log:
        _log.unlink(missing_ok=True)


def _with_delta(builder: SparkSession.Builder, further: Mapping[str, str]) -> SparkSession:
    """Start the session with Delta's package beside those that are configured, unless ``spark.jars`` names
    the jar files themselves.
    """
    if "spark.jars" in further:
        return builder.getOrCreate()
    packages = [package for package in further.get("spark.jars.packages", "").split(",") if package]
    found = FoundJars([DELTA_JAR, *packages], further)
    jars = found.read()
    if jars is None:
        with found.fetching():
            jars = found.read()  # another process may have fetched them meanwhile
            if jars is None:
                session = configure_spark_with_delta_pip(builder, packages).getOrCreate()
                found.write(session.sparkContext.getConf().get("spark.jars", ""))
                return session
    # and no package, which Ivy would look for
    return builder.config("spark.jars", jars).config("spark.jars.packages", "").getOrCreate()


def local_settings(settings: Session, java_options: Sequence[str] = ()) -> Mapping[str, str]:
    """Spark settings of a local session: small parallelism, since every Delta write costs as many files
    and tasks.

    Parameters
    ----------
    settings : Session
        The configuration's ``session`` section.
    java_options : sequence of str
        Options of Java, where that section has none.
    """
    cores = settings.cores or os.cpu_count() or 1
    options = [*_on_few_cores(cores), *java_options]
    gib = psutil.virtual_memory().total / 2**30
    return {
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": settings.memory or f"{round(min(8.0, max(1.0, gib / 4)))}g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.python.sql.dataFrameDebugging.enabled": "false",  # or each error is logged twice more, as JSON
        "spark.sql.shuffle.partitions": str(max(2, cores)),
        "spark.default.parallelism": str(max(2, cores)),
        # Delta's default of 50 slows every small commit down
        "spark.databricks.delta.snapshotPartitions": "2",
        # over TCP each task with a Python worker waits for the system's delayed acknowledgement
        "spark.python.unix.domain.socket.enabled": str(os.name == "posix").lower(),
        **({"spark.driver.extraJavaOptions": " ".join(options)} if options else {}),
        **NEEDED,
        **settings.spark,
    }


def _on_few_cores(cores: int) -> list[str]:
    """Java's options for so many cores; none for many."""
    if cores > FEW_CORES:
        return []
    collector, other_java = "-XX:+UseSerialGC", "-XX:+IgnoreUnrecognizedVMOptions"  # which need not know them
    return [other_java, collector, *(f"-XX:{name}={value}" for name, value in ON_FEW_CORES.items())]


@contextmanager
def _quiet_start() -> Iterator[Path]:
    """Send what the starting JVM writes on standard error (Ivy's report, Spark's banner) to a file;
    yields its path.
    """
    handle, name = tempfile.mkstemp(prefix="recsys-spark-", suffix=".log")
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # standard error is closed
        os.close(handle)
        yield Path(name)
        return
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _start_problem(log: Path, error: Exception) -> str:
    log_text = log.read_text(encoding="utf-8", errors="replace")
    if "unresolved dependenc" in log_text or "UNRESOLVED DEPENDENCIES" in log_text:
        return (
            f"Delta's jar {DELTA_JAR} cannot be fetched from Maven Central: connect once, set "
            "spark.jars.repositories or spark.jars.ivySettings to your mirror, or set spark.jars to the jar "
            f"files (report: {log})"
        )
    return f"Spark did not start: {str(error).strip().splitlines()[0]} (report: {log})"
