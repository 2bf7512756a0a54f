"""One run for one date: a lock in the lake, with a lease that its holder renews."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pyspark.sql import functions as F

from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.processes import is_gone, this_process
from recsys_spark.lakehouse.tables import Lakehouse

WHOLE_LAKE = "the lake"
"""Name of the lock that no other lock goes together with."""

LEASE = timedelta(minutes=10)
"""How long a lock outlives the last sign of life of its holder."""


class Lock:
    """A named lock, held inside a ``with`` block; a thread renews its lease meanwhile.

    It is a row of the table ``locks``, taken by a MERGE: of several at one instant Delta lets one through,
    and the others find its row. A lock whose lease is over, or whose process on this machine is gone, is
    taken over.

    Parameters
    ----------
    lake : Lakehouse
        Where the table is.
    name : str
        Name of the lock, such as a run date.
    holder : str
        Who takes it: a run's id.
    lease : timedelta
        How long it outlives its holder's last sign of life.
    """

    def __init__(self, lake: Lakehouse, name: str, holder: str, lease: timedelta = LEASE) -> None:
        # a session of its own, so that renewing does not disturb what the holder does
        self.lake = Lakehouse(lake.spark.newSession(), lake.location, lake.retention)
        self.name, self.holder, self.lease = name, holder, lease
        self._released = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, name=f"lock {name}", daemon=True)

    def __enter__(self) -> Self:
        """Take the lock.

        Raises
        ------
        LakeError
            Somebody else holds it; or one of the two is :data:`WHOLE_LAKE`.
        """
        self.lake.create("locks")
        now = datetime.now(UTC)
        found = self._claimed(now, [])
        gone = [held["holder"] for held in found if is_gone(held["host"], held["process"])]
        if any(held["name"] == self.name and held["holder"] in gone for held in found):
            found = self._claimed(now, gone)
        others = [held for held in found if held["holder"] not in (*gone, self.holder)]
        for held in others:
            together = held["name"] != self.name and WHOLE_LAKE not in (held["name"], self.name)
            if held["until"] > now.timestamp() and not together:
                self.lake.delete("locks", self._mine())
                raise LakeError(f"{held['name']} is being run by {described(held)}: wait for it, or stop it")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; one that was taken over is left alone."""
        self._released.set()
        self._thread.join()
        try:
            self.lake.delete("locks", self._mine())
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"the lock {self.name!r} could not be released either: {summary(second)}")

    def require(self) -> None:
        """Check that the lock is still held.

        Raises
        ------
        LakeError
            The lease was not renewed in time, and another run has the lock.
        """
        if self._lost is not None:
            raise LakeError(self._lost)

    def _renew(self) -> None:
        """Until released, extend the lease three times in its length."""
        while not self._released.wait(self.lease.total_seconds() / 3):
            until = datetime.now(UTC) + self.lease
            try:
                self.lake.update("locks", self._mine(), {"until": F.lit(until)})
                held = {row["name"]: row for row in self._rows()}.get(self.name)
            except Exception:  # noqa: S112 – the next attempt may succeed, and the lease is longer than both
                continue
            if held is None or held["holder"] != self.holder:
                who = "nobody" if held is None else described(held)
                self._lost = f"run {self.holder} no longer holds {self.name}, which {who} does: it stops here"
                return

    def _claimed(self, now: datetime, gone: list[str]) -> list[dict[str, Any]]:
        """All locks, once this one is taken where it is free: its lease is over, or its holder ``gone``."""
        row = (self.name, self.holder, socket.gethostname(), this_process(), now, now + self.lease)
        free = (F.col("old.until") < F.lit(now)) | F.col("old.holder").isin(*gone, self.holder)
        self.lake.claim("locks", self.lake.rows("locks", [row]), ("name",), free)
        return self._rows()

    def _mine(self) -> Any:
        return (F.col("name") == self.name) & (F.col("holder") == self.holder)

    def _rows(self) -> list[dict[str, Any]]:
        in_seconds = {column: F.unix_seconds(column) for column in ("since", "until")}
        return [row.asDict() for row in self.lake.read("locks").withColumns(in_seconds).collect()]


def described(held: dict[str, Any]) -> str:
    """Who holds a lock, where and since when.

    Parameters
    ----------
    held : dict
        A row of ``locks``, its times as seconds since 1970.
    """
    process = held["process"].split()[0]
    since, until = (
        f"{datetime.fromtimestamp(held[column], UTC):%Y-%m-%d %H:%M:%S}" for column in ("since", "until")
    )
    return (
        f"run {held['holder']} on {held['host']}, process {process}, since {since} UTC (unless it renews its "
        f"lease, until {until})"
    )
