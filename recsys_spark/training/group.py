"""Tasks of one Spark stage that run the same program at once, each on its own share, and exchange arrays
directly.

Spark's barrier execution mode starts all tasks of a stage together and, when one is lost, runs all of them
again. What it lacks is a way for them to talk: here they open one connection for each pair of tasks, and a
program that takes a :class:`Group` reads like a single-machine one (SPMD: single program, multiple data).

    group.all_to_all([...])     what each task sent to this one, in rank order
    group.all_gather(array)     every task's array, in rank order
    group.all_reduce(array)     their sum
    group.ordered_sum(parts, …) the sum of a sequence of parts that is spread over the group, to the last bit
                                the same whatever the number of tasks

Only arrays and their shapes travel, over :mod:`recsys_spark.training.connections`, which authenticates both
ends, and encrypts where the session has ``spark.network.crypto.enabled`` or ``spark.ssl.rpc.enabled``. A task
that dies closes its connections, which ends the others at once; a machine that vanishes is noticed by TCP
keep-alive in about half a minute.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from recsys_spark.errors import GroupError
from recsys_spark.training.connections import HANDSHAKE_SECONDS, Array, Connection, Endpoint, GroupKey, dial
from recsys_spark.training.tree_sum import TreeSum, branch_sizes, branches_of

Report = Callable[[Array], None] | None
"""Function that sends a task's progress to the driver, or None in tasks that do not report."""

MAX_TASKS = 64
CONNECT_SECONDS = 120.0
MEETING_SECONDS = 1.0
"""For which tasks wait for the others in the driver: one step of Spark's own barrier."""

_REPORTER, _MEMBERS = 1, range(2, 2 + MAX_TASKS)
"""Who calls the driver: the task that reports, and each task that meets the others."""


class Group:
    """One task's view of its group; made by :func:`connect` or :func:`barrier_group`.

    Parameters
    ----------
    rank : this task's number, from 0
    connections : rank → connection, for every other task

    Every method is collective: all tasks call the same ones in the same order. Arrays have one or two
    dimensions and a fixed-size dtype.
    """

    def __init__(self, rank: int, connections: dict[int, Connection]) -> None:
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
                    self._connections[to].send(arrays[to])
            except OSError as error:
                failures.append(error)
                self.close()  # or the receiving half would wait for a task that is gone

        # two tasks that both send before they receive would wait for each other for ever
        sender = threading.Thread(target=send_all, daemon=True)
        sender.start()
        try:
            for step in range(1, self.size):
                source = (self.rank - step) % self.size
                received[source] = self._connections[source].receive()
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

    def ordered_sum(self, parts: Iterable[Array], count: int, length: int) -> Array:
        """Sum, float64, of all tasks' ``parts``, which are one sequence in rank order.

        Parameters
        ----------
        parts : own parts, arrays of ``length`` floats; taken one after the other
        count : how many they are, which may differ between tasks
        length : how long each is

        Returns
        -------
        float64 array, shape (length,)
            The same bits however the same sequence of parts is spread over tasks.

        Notes
        -----
        Memory, in bytes: ``16 * length * log2(all parts)``, and as much for what is received.
        """
        counts = [int(other[0]) for other in self.all_gather(np.array([count], np.int64))]
        own = branches_of(sum(counts[: self.rank]), parts, length)
        bounds = _even_bounds(length, self.size)
        slices = self.all_to_all(
            [np.ascontiguousarray(own[:, bounds[r] : bounds[r + 1]]) for r in range(self.size)]
        )
        tree = TreeSum(0)
        for rank, branches in enumerate(slices):
            sizes = branch_sizes(sum(counts[:rank]), counts[rank])
            for branch, size in zip(branches, sizes, strict=True):
                tree.add(branch, size)
        return np.concatenate(self.all_gather(tree.total(bounds[self.rank + 1] - bounds[self.rank])))

    def barrier(self) -> None:
        """Wait until every task is here."""
        self.all_gather(np.zeros(1, np.int8))


def connect(
    rank: int, size: int, key: GroupKey, host: str, exchange: Callable[[str], Sequence[str]]
) -> Group:
    """Open the group: a listener here, its address to every task, one authenticated connection to each of
    them.

    Parameters
    ----------
    rank, size : this task's number, and the number of tasks
    key : shared by the tasks of this fit
    host : name or address under which the others reach this task
    exchange : returns every task's address, in rank order, once all have handed in their own

    Raises
    ------
    GroupError
        The others could not be reached within two minutes.
    """
    with socket.create_server((host, 0), family=_family(host), backlog=128) as listener:
        endpoint = Endpoint(key, host, listener.getsockname()[1])
        addresses = exchange(endpoint.address)
        deadline = time.monotonic() + CONNECT_SECONDS
        accepted: dict[int, Connection] = {}
        callers = range(rank + 1, size)
        closed = threading.Event()
        waiting = threading.Thread(
            target=_accept, args=(listener, endpoint, callers, accepted, closed), daemon=True
        )
        waiting.start()
        try:
            connections = {other: dial(addresses[other], key, rank, other, deadline) for other in range(rank)}
            while len(accepted) < len(callers):
                if time.monotonic() > deadline:
                    missing = sorted({*callers} - {*accepted})
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
def barrier_group(key: GroupKey, driver: str) -> Iterator[Group]:
    """The group of the barrier stage that this code runs in, closed when the block ends.

    The tasks tell each other their addresses in the driver. Spark's own barrier, which waits in steps
    of a second, is for those that cannot reach the driver or do not all come in that time.

    Parameters
    ----------
    key : shared by the tasks of this fit and the driver
    driver : the address at which it is :func:`listening`
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    tasks = context.getTaskInfos()
    rank, size = context.partitionId(), len(tasks)
    host = tasks[rank].address.rpartition(":")[0].strip("[]") or tasks[rank].address

    def exchange(own: str) -> Sequence[str]:
        if size == 1:
            return [own]
        return met(key, driver, rank, size, own) or context.allGather(own)

    with connect(rank, size, key, host, exchange) as group:
        yield group


def met(key: GroupKey, driver: str, rank: int, size: int, own: str) -> list[str]:
    """Every task's address, in rank order, once all have handed in their own to the driver; or nothing, which
    then all of them get.

    Parameters
    ----------
    key : shared by the tasks of this fit and the driver
    driver : the address at which it is :func:`listening`
    rank, size : this task's number, and the number of tasks
    own : this task's address

    Raises
    ------
    GroupError
        The driver went away meanwhile.
    """
    try:
        connection = dial(driver, key, _MEMBERS[rank], 0, time.monotonic() + HANDSHAKE_SECONDS)
    except GroupError:
        return []
    try:
        connection.send(np.array([size], np.int64))
        connection.send(np.frombuffer(own.encode(), np.uint8))
        return connection.receive().tobytes().decode().splitlines()
    except OSError as error:
        raise GroupError(
            f"the driver is gone, where task {rank} of {size} met the others: {error}"
        ) from error
    finally:
        connection.close()


@dataclass
class _Round:
    """The tasks that have come to one meeting, and whether it has come to nothing."""

    addresses: dict[int, str] = field(default_factory=dict)
    missed: bool = False


class _Meeting:
    """The driver's side of :func:`met`: of a stage's tasks either all get all addresses, or none does."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._round = _Round()

    def serve(self, rank: int, task: Connection) -> None:
        """Answer a task when all have come, or it has waited long enough."""
        (size,) = task.receive().tolist()
        addresses = self._all(size, rank, task.receive().tobytes().decode())
        task.send(np.frombuffer("\n".join(addresses).encode(), np.uint8))

    def _all(self, size: int, rank: int, own: str) -> list[str]:
        with self._changed:
            if rank in self._round.addresses:  # it comes again: with the others, in the stage's next attempt
                self._round = _Round()
            here = self._round
            here.addresses[rank] = own
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(here.addresses) == size or here.missed, MEETING_SECONDS)
            here.missed |= len(here.addresses) < size
            self._changed.notify_all()
            return [] if here.missed else [here.addresses[other] for other in range(size)]


@contextmanager
def listening(key: GroupKey, spark: Any, receive: Callable[[Array], None]) -> Iterator[str]:
    """Receive reports from a stage while it runs, and let its tasks meet; yields the address at which they
    :func:`report <reporting>` and :func:`meet <met>`.

    Parameters
    ----------
    key : shared by the tasks of this fit and this process
    spark : the session, whose executors know an address of this process
    receive : called with each array, in a thread of its own for each task that reports
    """
    settings = spark.sparkContext.getConf()
    host = (settings.get("spark.driver.host") or "127.0.0.1").strip("[]")
    bound = (settings.get("spark.driver.bindAddress") or host).strip("[]")
    closed, meeting = threading.Event(), _Meeting()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            caller, task = endpoint.admit(connection, range(_REPORTER, _MEMBERS.stop))
            if caller in _MEMBERS:
                meeting.serve(_MEMBERS.index(caller), task)
                return
            while not closed.is_set():
                receive(task.receive())

    def accept() -> None:
        while not closed.is_set():
            with suppress(TimeoutError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((bound, 0), family=_family(bound)) as listener:
        endpoint = Endpoint(key, host, listener.getsockname()[1])
        listener.settimeout(0.05)
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield endpoint.address
        finally:
            closed.set()
            accepting.join()


@contextmanager
def reporting(key: GroupKey, address: str) -> Iterator[Callable[[Array], None]]:
    """A function that sends an array to the driver that is :func:`listening`; it does nothing where the
    driver cannot be reached.
    """
    try:
        connection = dial(address, key, _REPORTER, 0, time.monotonic() + HANDSHAKE_SECONDS)
    except GroupError:
        yield lambda _: None
        return

    def report(array: Array) -> None:
        with suppress(OSError):
            connection.send(array)

    try:
        yield report
    finally:
        connection.close()


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


def new_key(spark: Any) -> GroupKey:
    """A key for one fit; its tasks encrypt what they exchange where Spark encrypts what it sends."""
    settings = spark.sparkContext.getConf()
    encrypting = ("spark.network.crypto.enabled", "spark.ssl.rpc.enabled")
    encrypted = any(settings.get(name, "false").lower() == "true" for name in encrypting)
    return GroupKey(secrets.token_bytes(32), encrypted)


def _even_bounds(length: int, parts: int) -> list[int]:
    return [length * part // parts for part in range(parts + 1)]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _accept(
    listener: socket.socket,
    endpoint: Endpoint,
    callers: range,
    accepted: dict[int, Connection],
    closed: threading.Event,
) -> None:
    """Take connections until ``closed``; each authenticates in a thread of its own, so that a silent
    stranger delays no other.
    """
    listener.settimeout(0.05)
    while not closed.is_set() and len(accepted) < len(callers):
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        arguments = (connection, endpoint, callers, accepted, closed)
        threading.Thread(target=_admit, args=arguments, daemon=True).start()


def _admit(
    connection: socket.socket,
    endpoint: Endpoint,
    callers: range,
    accepted: dict[int, Connection],
    closed: threading.Event,
) -> None:
    try:
        caller, admitted = endpoint.admit(connection, callers)
        if closed.is_set():
            raise OSError("too late")
        accepted[caller] = admitted
    except OSError:
        connection.close()
