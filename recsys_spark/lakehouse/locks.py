"""One run for one date: a lock in the lake, with a lease that its holder renews."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from recsys_spark.errors import LakeError, summary
from recsys_spark.lakehouse.processes import is_gone, this_process
from recsys_spark.lakehouse.tables import Lakehouse

WHOLE_LAKE = "the lake"
"""Name of the lock that no other lock goes together with."""

LEASE = timedelta(minutes=10)
"""How long a lock outlives the last sign of life of its holder."""


class Held(NamedTuple):
    """A row of the table ``locks``: a lock that is held, or was by somebody who did not release it."""

    name: str
    holder: str
    host: str
    process: str
    since: datetime
    until: datetime

    def is_over(self, now: datetime) -> bool:
        """Whether its lease is over, or its process on this machine is gone.

        Parameters
        ----------
        now : datetime
            With a time zone.
        """
        return self.until < now or is_gone(self.host, self.process)

    def __str__(self) -> str:
        """Who holds it, where and since when."""
        since, until = (f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for time in (self.since, self.until))
        return (
            f"run {self.holder} on {self.host}, process {self.process.split()[0]}, since {since} UTC (unless "
            f"it renews its lease, until {until})"
        )


class Lock:
    """A named lock, held inside a ``with`` block; a thread renews its lease meanwhile.

    It is a row of the table ``locks``, which whoever takes or releases one revises as a whole: of several at
    one instant one does, and the others find its row. A lock whose lease is over, or whose process on this
    machine is gone, is taken over.

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
        self._revise(self._taken)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; one that was taken over is left alone."""
        self._released.set()
        self._thread.join()
        try:
            self._revise(self._without_mine)
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
            try:
                self._revise(self._renewed)
            except Exception:  # noqa: S112 – the next attempt may succeed, and the lease is longer than both
                continue
            if self._lost is not None:
                return

    def _taken(self, held: Mapping[str, Held]) -> dict[str, Held]:
        """The locks with this one, which nobody may hold, nor one that does not go together with it."""
        now = datetime.now(UTC)
        for other in held.values():
            together = other.name != self.name and WHOLE_LAKE not in (other.name, self.name)
            if not together and other.holder != self.holder and not other.is_over(now):
                raise LakeError(f"{other.name} is being run by {other}: wait for it, or stop it")
        mine = Held(self.name, self.holder, socket.gethostname(), this_process(), now, now + self.lease)
        return {**held, self.name: mine}

    def _renewed(self, held: Mapping[str, Held]) -> Mapping[str, Held]:
        mine = held.get(self.name)
        if mine is not None and mine.holder == self.holder:
            return {**held, self.name: mine._replace(until=datetime.now(UTC) + self.lease)}
        who = mine or "nobody"
        self._lost = f"run {self.holder} no longer holds {self.name}, which {who} does: it stops here"
        return held

    def _without_mine(self, held: Mapping[str, Held]) -> dict[str, Held]:
        return {
            name: other for name, other in held.items() if (name, other.holder) != (self.name, self.holder)
        }

    def _revise(self, change: Callable[[Mapping[str, Held]], Mapping[str, Held]]) -> None:
        """Replace all locks, by name, by what ``change`` makes of them."""

        def changed(rows: list[dict[str, Any]]) -> list[Held] | None:
            held = {row["name"]: Held(**row) for row in rows}
            wanted = change(held)
            return None if wanted == held else list(wanted.values())

        self.lake.revise("locks", changed)
