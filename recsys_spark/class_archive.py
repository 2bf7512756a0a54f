"""Java's classes in the form that Java itself has of them, in a file of the user's cache.

A start of Spark reads and checks more than ten thousand classes, which is a good part of what a short command
takes. Java can write them down when it has them, and maps that file into its memory at the next start.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyspark
from py4j.protocol import Py4JError

from recsys_spark.user_cache import cache_folder

OPTIONS_OF_OTHERS = ("SPARK_CONF_DIR", "SPARK_HOME", "JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS")
"""Where one of these is set, Java or its classes may be others than they seem."""

UNUSED_DAYS = 30
_HALF_WRITTEN_DAYS = 1

_QUIET = "-Xlog:cds*=off"
_COMMANDS = "com.sun.management:type=DiagnosticCommand"


class ClassArchive:
    """The classes of one Java and one Spark, if an earlier process has kept them.

    Parameters
    ----------
    java : str or None
        Its program.

    Notes
    -----
    Java checks that the file is of its own build and of the same jars, and starts without it otherwise. Where
    it cannot be written, nothing is kept. It takes up to 200 MB; files of other Javas and Sparks that no
    process has started with for :data:`UNUSED_DAYS` are removed when one is written, and so is what processes
    left behind that were killed while they wrote.
    """

    def __init__(self, java: str | None) -> None:
        """Nothing is read or written."""
        self._file = None if java is None else _file_of(java)

    @property
    def options(self) -> list[str]:
        """Options of Java: to start with the file, or to be able to write it."""
        if self._file is None:
            return []
        if self._file.exists():
            with suppress(OSError):
                os.utime(self._file)  # it is in use
            return [f"-XX:SharedArchiveFile={self._file}", _QUIET]
        return ["-XX:+RecordDynamicDumpInfo", _QUIET]

    def keep(self, gateway: Any) -> None:
        """Write what Java has loaded, unless there is a file. It takes some seconds.

        Parameters
        ----------
        gateway : JavaGateway
            Of the process that was started with :attr:`options`.
        """
        if self._file is None or self._file.exists():
            return
        written = self._file.with_name(f"{self._file.name}.{uuid.uuid4().hex}")
        with suppress(OSError, Py4JError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _write(gateway, written)
            if written.exists():
                written.replace(self._file)
            _remove_unused(self._file.parent)
        written.unlink(missing_ok=True)


def _file_of(java: str) -> Path | None:
    """Where the classes are; None where they cannot be told by a name."""
    cache = cache_folder()
    if cache is None or any(name in os.environ for name in OPTIONS_OF_OTHERS):
        return None
    try:
        program, jars = Path(java).resolve(), Path(pyspark.__file__).parent / "jars"
        of_files = [(str(path), path.stat().st_mtime_ns) for path in (program, jars)]
    except OSError:
        return None
    key = hashlib.sha256(repr((of_files, pyspark.__version__)).encode()).hexdigest()[:16]
    file = cache.resolve() / f"classes-{key}.jsa"
    return None if any(map(str.isspace, str(file))) else file  # Spark divides Java's options there


def _remove_unused(folder: Path) -> None:
    for file in folder.glob("classes-*.jsa*"):
        days = UNUSED_DAYS if file.suffix == ".jsa" else _HALF_WRITTEN_DAYS
        if time.time() - file.stat().st_mtime > days * 86_400:
            file.unlink(missing_ok=True)


def _write(gateway: Any, file: Path) -> None:
    """By Java's own command; by reflection, as the class that takes it is not open to others."""
    java: Any = gateway.jvm.java
    # what Java tells of it is not the command's output
    java.lang.System.setOut(java.io.PrintStream(java.io.OutputStream.nullOutputStream()))
    commands = gateway.jvm.javax.management.ObjectName(_COMMANDS)
    server = java.lang.management.ManagementFactory.getPlatformMBeanServer()
    named = java.lang.Class.forName

    def array(kind: Any, *values: Any) -> Any:
        made = gateway.new_array(kind, len(values))
        for place, value in enumerate(values):
            made[place] = value
        return made

    taken = ("javax.management.ObjectName", "java.lang.String", "[Ljava.lang.Object;", "[Ljava.lang.String;")
    invoke = named("javax.management.MBeanServer").getMethod(
        "invoke", array(java.lang.Class, *map(named, taken))
    )
    words = array(java.lang.String, "dynamic_dump", str(file))
    values, kinds = array(java.lang.Object, words), array(java.lang.String, taken[-1])
    invoke.invoke(server, array(java.lang.Object, commands, "vmCds", values, kinds))
