"""Where the jars of Maven packages lie, remembered from one start of Spark to the next.

Otherwise Spark has Ivy look for them at each start, for seconds, also where they were fetched long ago.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyspark

from recsys_spark.user_cache import cache_folder

SETTINGS = "spark.jars"
"""What the names of the settings begin with that decide which jars Ivy finds."""


class FoundJars:
    """What Ivy found for some packages and settings at an earlier start, in a file of the user's cache.

    Parameters
    ----------
    packages : sequence of str
        Maven coordinates.
    settings : mapping of str to str
        Of the session.

    Notes
    -----
    Nothing is remembered where Spark reads further settings that are not known before it starts: those of
    ``SPARK_CONF_DIR``, ``SPARK_HOME`` and ``PYSPARK_SUBMIT_ARGS``.
    """

    def __init__(self, packages: Sequence[str], settings: Mapping[str, str]) -> None:
        """Nothing is read or written."""
        asked = {key: value for key, value in settings.items() if key.startswith(SETTINGS)}
        key = json.dumps([sorted(packages), sorted(asked.items()), pyspark.__version__])
        cache = cache_folder() or Path(os.devnull)  # where nothing can be written
        self._file = cache / f"jars-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        self._lock = cache / "fetching.lock"
        names = ("SPARK_CONF_DIR", "SPARK_HOME", "PYSPARK_SUBMIT_ARGS")
        self._off = any(name in os.environ for name in names)

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """While other processes wait that would fetch too: Ivy's cache is not made for two at once, of which
        one finds half of a file. Nobody waits where the cache cannot be written, or files cannot be locked.
        """
        with ExitStack() as held:
            with suppress(OSError, ImportError):
                import fcntl  # Windows has none

                self._lock.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(self._lock.open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> str | None:
        """The jars as ``spark.jars`` takes them; None where they are not known, or one is not as it was."""
        if self._off:
            return None
        try:
            sizes = json.loads(self._file.read_text(encoding="utf-8"))
            same = all(Path(jar).stat().st_size == size for jar, size in sizes.items())
        except (OSError, ValueError, AttributeError):
            return None
        return ",".join(sizes) if sizes and same else None

    def write(self, jars: str) -> None:
        """Remember jars; where the cache cannot be written nothing is.

        Parameters
        ----------
        jars : str
            The session's ``spark.jars``.
        """
        if self._off:
            return
        with suppress(OSError):
            paths = [jar.removeprefix("file://") for jar in jars.split(",") if jar]
            sizes = {path: Path(path).stat().st_size for path in paths}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            half = self._file.with_suffix(f".{os.getpid()}")
            half.write_text(json.dumps(sizes), encoding="utf-8")
            half.replace(self._file)
