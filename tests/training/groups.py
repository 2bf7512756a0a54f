"""A training group on threads of this process, over real sockets on the loopback interface."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from recsys_spark.training.connections import GroupKey
from recsys_spark.training.group import Group, connect

T = TypeVar("T")
KEY = GroupKey(b"k" * 32)


@contextmanager
def one_core() -> Iterator[None]:
    """Threads that are started here stay on one core: they take turns at the interpreter's lock, which is
    twice as fast where no other core must be woken.
    """
    if not hasattr(os, "sched_setaffinity"):  # not on macOS
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_group(size: int, program: Callable[[Group], T], key: GroupKey = KEY) -> list[T]:
    """What ``program`` returns in each of ``size`` tasks, in rank order."""
    addresses: list[str] = [""] * size
    all_here = threading.Barrier(size)

    def task(rank: int) -> T:
        def exchange(address: str) -> list[str]:
            addresses[rank] = address
            all_here.wait(10)
            return addresses

        with connect(rank, size, key, "127.0.0.1", exchange) as group:
            return program(group)

    with one_core(), ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(task, rank) for rank in range(size)]]
