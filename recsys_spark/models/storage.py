"""What a fit keeps in Spark's storage, for as long as a model or something that it returned is in use."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.sql import DataFrame


class Stored:
    """Persisted frames that are released when nothing refers to this object any more.

    Copies of a model share one, and so do the frames that it returns. Frames that are made of those do not:
    they stay right, and run the fit again.
    """

    def __init__(self, *frames: DataFrame, further: Stored | None = None) -> None:
        self._further = further  # what must be kept as long
        self._of_jvm = [frame._jdf for frame in frames]  # not the frames, which may refer to this object
        self._release = weakref.finalize(self, _unpersist_soon, self._of_jvm)
        self._release.atexit = False

    def hold(self, frame: DataFrame) -> DataFrame:
        """The same frame, which now refers to this object.

        Parameters
        ----------
        frame : DataFrame
            What is computed from the persisted one.
        """
        frame._stored = self  # type: ignore[attr-defined]
        return frame

    def unpersist(self) -> None:
        """Release it now."""
        if self._release.detach():
            for frame in self._of_jvm:
                frame.unpersist(False)


def _unpersist_soon(frames: list[Any]) -> None:
    """Unpersist in a thread of its own: a finaliser may run in the midst of another call to the JVM."""
    if SparkContext._active_spark_context is not None:
        threading.Thread(target=_unpersist, args=(frames,), daemon=True).start()


def _unpersist(frames: list[Any]) -> None:
    with suppress(Py4JError, OSError):  # the session has ended meanwhile
        for frame in frames:
            frame.unpersist(False)
