"""A training group on threads of this process, over real sockets on the loopback interface."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from recsys_spark.training.group import Group, connect

T = TypeVar("T")


def run_group(size: int, program: Callable[[Group], T], key: bytes = b"k" * 32) -> list[T]:
    """What ``program`` gives in each of ``size`` tasks, in rank order."""
    addresses: list[str] = [""] * size
    everybody = threading.Barrier(size)

    def task(rank: int) -> T:
        def exchange(address: str) -> list[str]:
            addresses[rank] = address
            everybody.wait(10)
            return addresses

        with connect(rank, size, key, "127.0.0.1", exchange) as group:
            return program(group)

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(task, rank) for rank in range(size)]]
