"""Tasks of one Spark stage that run the same program at once, each on its own share, and exchange arrays
directly.

Spark's barrier execution mode starts all tasks of a stage together and, when one is lost, runs all of them
again. What it lacks is a way for them to talk: here they open one connection for each pair of tasks, and a
program that takes a :class:`Group` reads like a single-machine one (SPMD: single program, multiple data).

    group.all_to_all([...])     what each task sent to this one, in rank order
    group.all_gather(array)     every task's array, in rank order
    group.all_reduce(array)     their sum
    group.ordered_sum(parts)    the sum of a sequence of parts that is spread over the group, to the last bit
                                the same whatever the number of tasks

Only arrays and their shapes travel, and nothing is unpickled. Both ends of a connection prove that they know
the key of this fit, which travels in the task's closure (challenge and response, HMAC-SHA256, RFC 2104),
before they send anything else; a connection that cannot is dropped. The arrays themselves are not encrypted,
so a session with ``spark.network.crypto.enabled`` raises :class:`~recsys_spark.errors.GroupError`. A task
that dies closes its connections, which ends the others at once; a machine that vanishes is noticed by TCP
keep-alive in about half a minute.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recsys_spark.errors import GroupError

Array = npt.NDArray[Any]
Report = Callable[[Array], None] | None
"""Function that sends a task's progress to the driver, or None in tasks that do not report."""

MAX_TASKS = 64
CONNECT_SECONDS = 120.0
HANDSHAKE_SECONDS = 5.0
_NONCE = 32
_HEADER = struct.Struct("!4sB3xQQ")  # dtype, dimensions, first two lengths
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Group:
    """One task's view of its group; made by :func:`connect` or :func:`barrier_group`.

    Parameters
    ----------
    rank : this task's number, from 0
    connections : rank → connected socket, for every other task

    Every method is collective: all tasks call the same ones in the same order. Arrays have one or two
    dimensions and a fixed-size dtype.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket]) -> None:
        self.rank = rank
        self.size = len(connections) + 1
        self._connections = connections

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; tasks that still wait for this one get a :class:`GroupError`."""
        for connection in self._connections.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def all_to_all(self, arrays: Sequence[Array]) -> list[Array]:
        """Send ``arrays[r]`` to task r, and return the arrays that the others sent here, in rank order.

        Parameters
        ----------
        arrays : one array for each task, this one included

        Raises
        ------
        GroupError
            A task is gone.
        """
        received: list[Array] = [arrays[self.rank]] * self.size
        failures: list[OSError] = []

        def send_all() -> None:
            try:
                for step in range(1, self.size):
                    to = (self.rank + step) % self.size
                    _send(self._connections[to], arrays[to])
            except OSError as error:
                failures.append(error)
                self.close()  # or the receiving half would wait for a task that is gone

        # two tasks that both send before they receive would wait for each other for ever
        sender = threading.Thread(target=send_all, daemon=True)
        sender.start()
        try:
            for step in range(1, self.size):
                source = (self.rank - step) % self.size
                received[source] = _receive(self._connections[source])
        except OSError as error:
            self.close()
            raise GroupError(
                f"task {source} of {self.size} is gone, as task {self.rank} waited for it: {error}"
            ) from error
        finally:
            sender.join()
        if failures:
            raise GroupError(
                f"another task of {self.size} is gone, as task {self.rank} sent to it: {failures[0]}"
            )
        return received

    def all_gather(self, array: Array) -> list[Array]:
        """Every task's ``array``, in rank order."""
        return self.all_to_all([array] * self.size)

    def all_reduce(self, array: Array) -> Array:
        """Sum of every task's ``array``, added in rank order; all have one shape and dtype.

        Sums of floats depend on the number of tasks in their last bits; see :meth:`ordered_sum`.
        """
        flat = array.reshape(-1)
        if (
            self.size == 2
        ):  # the same sum in one exchange of whole arrays, which carries as much as two of halves
            first, second = self.all_gather(flat)
            return (first + second).reshape(array.shape)
        bounds = _even_bounds(len(flat), self.size)
        slices = self.all_to_all([flat[bounds[r] : bounds[r + 1]] for r in range(self.size)])
        own = slices[0].copy()
        for part in slices[1:]:
            own += part
        return np.concatenate(self.all_gather(own)).reshape(array.shape)

    def ordered_sum(self, parts: Array) -> Array:
        """Sum, float64, of all rows of all tasks' ``parts``, added one after the other in rank order.

        Parameters
        ----------
        parts : shape (own parts, length); the number of parts may differ between tasks

        Returns
        -------
        float64 array, shape (length,)
            The same bits however the same sequence of parts is spread over tasks.
        """
        bounds = _even_bounds(parts.shape[1], self.size)
        slices = self.all_to_all(
            [np.ascontiguousarray(parts[:, bounds[r] : bounds[r + 1]]) for r in range(self.size)]
        )
        total = np.zeros(bounds[self.rank + 1] - bounds[self.rank])
        for part in (row for rows in slices for row in rows):
            total += part
        return np.concatenate(self.all_gather(total))

    def barrier(self) -> None:
        """Wait until every task is here."""
        self.all_gather(np.zeros(1, np.int8))


def connect(rank: int, size: int, key: bytes, host: str, exchange: Callable[[str], Sequence[str]]) -> Group:
    """Open the group: a listener here, its address to every task, one authenticated connection to each of
    them.

    Parameters
    ----------
    rank, size : this task's number, and the number of tasks
    key : shared secret of this fit, at least 16 bytes
    host : name or address under which the others reach this task
    exchange : returns every task's address, in rank order, once all have handed in their own

    Raises
    ------
    GroupError
        The others could not be reached within two minutes.
    """
    with socket.create_server((host, 0), family=_family(host), backlog=128) as listener:
        port = listener.getsockname()[1]
        addresses = exchange(f"{host}|{port}")
        deadline = time.monotonic() + CONNECT_SECONDS
        accepted: dict[int, socket.socket] = {}
        wanted = size - 1 - rank
        closed = threading.Event()
        waiting = threading.Thread(
            target=_accept, args=(listener, key, rank, size, accepted, closed), daemon=True
        )
        waiting.start()
        try:
            connections = {
                other: _dial(addresses[other], key, rank, other, deadline) for other in range(rank)
            }
            while len(accepted) < wanted:
                if time.monotonic() > deadline:
                    missing = sorted({*range(rank + 1, size)} - {*accepted})
                    raise GroupError(
                        f"task {rank} of {size} was not reached by tasks {missing}: check for a firewall "
                        "between the executors"
                    )
                time.sleep(0.001)
        finally:
            closed.set()
            waiting.join()
    return Group(rank, connections | accepted)


@contextmanager
def barrier_group(key: bytes) -> Iterator[Group]:
    """The group of the barrier stage that this code runs in, closed when the block ends."""
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    tasks = context.getTaskInfos()
    rank = context.partitionId()
    host = tasks[rank].address.rpartition(":")[0].strip("[]") or tasks[rank].address
    with connect(rank, len(tasks), key, host, context.allGather) as group:
        yield group


@contextmanager
def listening(key: bytes, spark: Any, receive: Callable[[Array], None]) -> Iterator[str]:
    """Receive reports from a stage while it runs; yields the address that its tasks :func:`report
    <reporting>` to.

    Parameters
    ----------
    key : shared secret of this fit
    spark : the session, whose executors know an address of this process
    receive : called with each array, in a thread of its own for each task that reports
    """
    settings = spark.sparkContext.getConf()
    host = (settings.get("spark.driver.host") or "127.0.0.1").strip("[]")
    bound = (settings.get("spark.driver.bindAddress") or host).strip("[]")
    closed = threading.Event()

    def serve(connection: socket.socket) -> None:
        accepted: dict[int, socket.socket] = {}
        _admit(connection, key, 0, 2, accepted, closed)
        with suppress(OSError):
            while accepted and not closed.is_set():
                receive(_receive(connection))
        connection.close()

    def accept() -> None:
        while not closed.is_set():
            with suppress(TimeoutError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((bound, 0), family=_family(bound)) as listener:
        listener.settimeout(0.05)
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"{host}|{listener.getsockname()[1]}"
        finally:
            closed.set()
            accepting.join()


@contextmanager
def reporting(key: bytes, address: str) -> Iterator[Callable[[Array], None]]:
    """A function that sends an array to the driver that is :func:`listening`; it does nothing where the
    driver cannot be reached.
    """
    try:
        connection = _dial(address, key, 1, 0, time.monotonic() + HANDSHAKE_SECONDS)
    except GroupError:
        yield lambda _: None
        return

    def report(array: Array) -> None:
        with suppress(OSError):
            _send(connection, array)

    with connection:
        yield report


def group_size(spark: Any) -> int:
    """How many tasks a group in this session has: one for each slot, at most ``MAX_TASKS``.

    Raises
    ------
    GroupError
        The session's settings allow no group, or it has no free slots; the message says what to set.
    """
    context = spark.sparkContext
    settings = context.getConf()
    if settings.get("spark.dynamicAllocation.enabled", "false").lower() == "true":
        raise GroupError(
            "training runs all its tasks at once, which Spark does not allow with dynamic allocation: set "
            "spark.dynamicAllocation.enabled=false and a fixed spark.executor.instances"
        )
    if settings.get("spark.network.crypto.enabled", "false").lower() == "true":
        raise GroupError(
            "spark.network.crypto.enabled is set, and the exchange between training tasks is authenticated "
            "but not encrypted: unset it for this job, or use the MLlib models"
        )
    scala = context._jsc.sc()
    slots = scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile())
    if slots < 1:
        raise GroupError(
            "no executor has a free slot, and training needs all its tasks at once: check "
            "spark.executor.instances"
        )
    return min(int(slots), MAX_TASKS)


def fold_in_tasks(spark: Any) -> int:
    """How many tasks share the users of a fold-in, which needs no group: one for each slot, at most
    ``MAX_TASKS``.
    """
    return min(MAX_TASKS, max(1, int(spark.sparkContext.defaultParallelism)))


def new_key() -> bytes:
    """A secret for one fit."""
    return secrets.token_bytes(32)


def _even_bounds(length: int, parts: int) -> list[int]:
    return [length * part // parts for part in range(parts + 1)]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _accept(
    listener: socket.socket,
    key: bytes,
    rank: int,
    size: int,
    accepted: dict[int, socket.socket],
    closed: threading.Event,
) -> None:
    """Take connections until ``closed``; each authenticates in a thread of its own, so that a silent
    stranger delays no other.
    """
    listener.settimeout(0.05)
    while not closed.is_set() and len(accepted) < size - 1 - rank:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        threading.Thread(
            target=_admit, args=(connection, key, rank, size, accepted, closed), daemon=True
        ).start()


def _admit(
    connection: socket.socket,
    key: bytes,
    rank: int,
    size: int,
    accepted: dict[int, socket.socket],
    closed: threading.Event,
) -> None:
    try:
        connection.settimeout(HANDSHAKE_SECONDS)
        own = secrets.token_bytes(_NONCE)
        connection.sendall(own)
        theirs = _recv_exactly(connection, _NONCE)
        caller_bytes = _recv_exactly(connection, 4)
        proof = _recv_exactly(connection, 32)
        caller = int.from_bytes(caller_bytes, "big")
        if (
            not hmac.compare_digest(proof, _proof(key, b"caller", own, theirs, caller_bytes))
            or not rank < caller < size
        ):
            raise OSError("not of this group")
        connection.sendall(_proof(key, b"listener", theirs, own, caller_bytes))
        _ready(connection)
        if closed.is_set():
            raise OSError("too late")
        accepted[caller] = connection
    except OSError:
        connection.close()


def _dial(address: str, key: bytes, rank: int, other: int, deadline: float) -> socket.socket:
    host, _, port = address.rpartition("|")
    try:
        connection = socket.create_connection(
            (host, int(port)), timeout=max(1.0, deadline - time.monotonic())
        )
        theirs = _recv_exactly(connection, _NONCE)
        own, own_rank = secrets.token_bytes(_NONCE), rank.to_bytes(4, "big")
        connection.sendall(own + own_rank + _proof(key, b"caller", theirs, own, own_rank))
        if not hmac.compare_digest(
            _recv_exactly(connection, 32), _proof(key, b"listener", own, theirs, own_rank)
        ):
            raise OSError("authentication failed")
    except OSError as error:
        raise GroupError(f"task {rank} cannot reach task {other} at {host}:{port}: {error}") from error
    _ready(connection)
    return connection


def _proof(key: bytes, side: bytes, first: bytes, second: bytes, caller: bytes) -> bytes:
    return hmac.digest(key, b"|".join((side, first, second, caller)), "sha256")


def _ready(connection: socket.socket) -> None:
    connection.settimeout(None)  # a peer may compute for as long as it likes
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, array: Array) -> None:
    array = np.ascontiguousarray(array)
    lengths = (*array.shape, 0)[:2]
    connection.sendall(_HEADER.pack(array.dtype.str[-2:].encode().ljust(4), array.ndim, *lengths))
    if array.nbytes:
        connection.sendall(memoryview(array.data).cast("B"))


def _receive(connection: socket.socket) -> Array:
    kind, dimensions, *lengths = _HEADER.unpack(_recv_exactly(connection, _HEADER.size))
    array = np.empty(lengths[:dimensions], np.dtype(kind.decode().strip()))
    if array.nbytes:
        _fill(connection, memoryview(array.data).cast("B"))
    return array


def _recv_exactly(connection: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    _fill(connection, memoryview(buffer))
    return bytes(buffer)


def _fill(connection: socket.socket, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = connection.recv_into(view[done:], len(view) - done, socket.MSG_WAITALL)
        if not count:
            raise ConnectionError("the connection was closed")
        done += count
