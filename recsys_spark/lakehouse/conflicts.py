"""Two writers at once: what Delta says to try again is tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from delta import exceptions

from recsys_spark.errors import LakeError

T = TypeVar("T")

CONFLICTS = (
    exceptions.ConcurrentAppendException,
    exceptions.ConcurrentDeleteDeleteException,
    exceptions.ConcurrentDeleteReadException,
    exceptions.ConcurrentTransactionException,
    exceptions.ConcurrentWriteException,
    exceptions.DeltaConcurrentModificationException,
    exceptions.MetadataChangedException,
    exceptions.ProtocolChangedException,
)
"""Errors of a write that made no commit because another one came first."""

ATTEMPTS = 20
LONGEST_PAUSE = 2.0
"""Seconds between two attempts, at most."""


def retried(write: Callable[[], T], table: str, *further: type[Exception]) -> T:
    """What ``write`` returns, tried again while another writer's commit comes first.

    Parameters
    ----------
    write : callable
        Makes one commit, or raises without one.
    table : str
        Name of the table, for the error.
    *further : type of exceptions
        Others after which ``write`` is tried again.

    Raises
    ------
    LakeError
        Another commit came first :data:`ATTEMPTS` times.
    """
    conflicts: tuple[type[Exception], ...] = (*CONFLICTS, *further)
    for attempt in range(ATTEMPTS):
        try:
            return write()
        except conflicts:
            time.sleep(random.uniform(0, min(LONGEST_PAUSE, 0.1 * 2**attempt)))  # noqa: S311 – no secret
    raise LakeError(
        f"table {table!r}: other writers committed first {ATTEMPTS} times: run the step again when they are "
        "done"
    )
