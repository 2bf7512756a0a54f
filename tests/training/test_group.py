"""Groups on threads, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from recsys_spark.errors import GroupError
from recsys_spark.training import group as training_group
from recsys_spark.training.connections import GroupKey
from recsys_spark.training.group import connect, listening, reporting
from tests.training.groups import KEY, run_group

ENCRYPTED = GroupKey(b"k" * 32, encrypted=True)


@pytest.mark.parametrize("key", [KEY, ENCRYPTED])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_task_receives_what_was_sent_to_it(size, key):
    def program(group):
        mine = [np.full((to + 1, 2), 10 * group.rank + to, np.float32) for to in range(group.size)]
        return group.all_to_all(mine)

    for rank, received in enumerate(run_group(size, program, key)):
        assert [array.shape for array in received] == [(rank + 1, 2)] * size
        assert [array[0, 0] for array in received] == [10 * source + rank for source in range(size)]


@pytest.mark.parametrize("key", [KEY, ENCRYPTED])
def test_arrays_of_any_size_and_dtype_arrive(key):
    arrays = [
        np.arange(3_000_000),
        np.zeros(0, np.int8),
        np.array([True, False]),
        np.ones((0, 4), np.float32),
    ]
    for array in arrays:
        first, second = run_group(2, lambda group, array=array: group.all_gather(array), key)
        for received in (*first, *second):
            assert (received.dtype, received.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(received, array)


@pytest.mark.parametrize("size", [1, 3])
def test_reduce_is_the_sum(size):
    results = run_group(size, lambda group: group.all_reduce(np.arange(6).reshape(2, 3) + group.rank))
    expected = size * np.arange(6).reshape(2, 3) + sum(range(size))
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("n", [1, 16, 23])
def test_ordered_sum_has_the_same_bits_on_any_number_of_tasks(n):
    rng = np.random.default_rng(0)
    parts = (rng.normal(size=(n, 5)) * 10.0 ** rng.integers(0, 8, (n, 1))).astype(np.float32)
    results = set()
    for size in (1, 2, 3, 7):
        bounds = [0, *np.sort(rng.integers(0, n + 1, size - 1)), n]

        def program(group, bounds=bounds):
            own = parts[bounds[group.rank] : bounds[group.rank + 1]]
            return group.ordered_sum(iter(own), *own.shape)

        for total in run_group(size, program):
            np.testing.assert_allclose(total, parts.sum(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-3)
            results.add(total.tobytes())
    assert len(results) == 1


def test_ordered_sum_adds_pairs_of_neighbours():
    parts = np.array([[1.0], [1e16], [-1e16], [1.0]])  # one after the other they would be 1

    def program(group):
        return group.ordered_sum(parts[2 * group.rank : 2 * group.rank + 2], 2, 1)[0]

    assert run_group(2, program) == [0.0, 0.0]


def test_peer_that_dies_ends_the_others_at_once():
    ended = {}

    def program(group):
        if group.rank == 1:
            return  # its connections are closed
        try:
            group.all_gather(np.zeros(10_000_000))
        except GroupError as error:
            ended[group.rank] = (time.monotonic() - started, str(error))

    started = time.monotonic()
    run_group(3, program)
    assert set(ended) == {0, 2}
    for seconds, message in ended.values():
        assert seconds < 5
        assert "is gone" in message


@pytest.mark.parametrize("encrypted", [False, True])
def test_strangers_learn_nothing_and_disturb_nothing(encrypted):
    strangers = []

    def intrude(address):
        port = int(address.split("|")[1])
        strangers.append(socket.create_connection(("127.0.0.1", port)))  # says nothing, and stays
        strangers.append(socket.create_connection(("127.0.0.1", port)))
        strangers[-1].sendall(b"GET / HTTP/1.1\r\n\r\n".ljust(200))

    addresses, all_here = [""] * 2, threading.Barrier(2)

    def task(rank, results):
        def exchange(address):
            if rank == 0:
                intrude(address)  # before the other task comes
            addresses[rank] = address
            all_here.wait(20)
            return addresses

        with connect(rank, 2, GroupKey(b"secret" * 6, encrypted), "127.0.0.1", exchange) as group:
            results[rank] = int(group.all_reduce(np.ones(1, np.int64))[0])

    results = {}
    threads = [threading.Thread(target=task, args=(rank, results)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {0: 2, 1: 2}
    silent, loud = strangers
    silent.close()
    answer = b""
    loud.settimeout(10)  # it is not kept waiting: a timeout fails the test
    with loud, suppress(ConnectionError):
        while chunk := loud.recv(4096):
            answer += chunk
    assert len(answer) == 32  # a random challenge, and no more


def test_reports_arrive_in_order_while_their_tasks_run_and_those_of_strangers_do_not(spark):
    heard, arrived = [], threading.Semaphore(0)

    def receive(array):
        heard.append(array.tolist())
        arrived.release()

    with listening(KEY, spark, receive) as address:
        with reporting(GroupKey(b"x" * 32), address) as report:
            report(np.array([-1.0]))
        with reporting(KEY, address) as report:
            for number in range(3):
                report(np.array([number, 0.5]))
            for _ in range(3):
                assert arrived.acquire(timeout=10)
    assert heard == [[0, 0.5], [1, 0.5], [2, 0.5]]


def test_report_to_a_driver_that_has_gone_is_lost(spark):
    heard = []
    with listening(KEY, spark, heard.append) as address:
        pass
    with reporting(KEY, address) as report:
        report(np.zeros(3))
    assert heard == []


def meeting_of(driver, size, *addresses):
    """What each of the tasks gets that come, each with its address; its rank is the address's last digit."""

    def come(own):
        found[own] = training_group.met(KEY, driver, int(own[-1]), size, own)

    found = {}
    came = [threading.Thread(target=come, args=(own,)) for own in addresses]
    for thread in came:
        thread.start()
    for thread in came:
        thread.join()
    return found


def test_tasks_that_all_come_get_all_addresses_in_their_order(spark):
    with listening(KEY, spark, print) as driver:
        found = meeting_of(driver, 3, "at 2", "at 0", "at 1")
    assert found == {own: ["at 0", "at 1", "at 2"] for own in ("at 0", "at 1", "at 2")}


def test_where_one_does_not_come_none_gets_addresses_not_even_one_that_comes_later(spark, monkeypatch):
    monkeypatch.setattr(training_group, "MEETING_SECONDS", 0.2)
    with listening(KEY, spark, print) as driver:
        assert meeting_of(driver, 3, "at 0", "at 1") == {"at 0": [], "at 1": []}
        assert meeting_of(driver, 3, "at 2") == {"at 2": []}


def test_tasks_of_a_next_attempt_meet_each_other_and_not_those_before(spark, monkeypatch):
    monkeypatch.setattr(training_group, "MEETING_SECONDS", 0.2)
    with listening(KEY, spark, print) as driver:
        for both in (["first 0", "first 1"], ["again 0", "again 1"]):
            assert meeting_of(driver, 2, *both) == dict.fromkeys(both, both)
        assert meeting_of(driver, 2, "third 1") == {"third 1": []}
        last = ["fourth 0", "fourth 1"]
        found = meeting_of(driver, 2, *last)
        # who comes first may count as one of the third that is late, and then neither gets addresses
        assert found["fourth 0"] == found["fourth 1"]
        assert found["fourth 0"] in (last, [])


def test_without_a_driver_nobody_gets_addresses(spark):
    with listening(KEY, spark, print) as driver:
        pass
    assert meeting_of(driver, 2, "at 0", "at 1") == {"at 0": [], "at 1": []}


def test_task_with_another_key_is_not_let_in(monkeypatch):
    monkeypatch.setattr(training_group, "CONNECT_SECONDS", 1.0)
    addresses, all_here, failures = [""] * 2, threading.Barrier(2), {}

    def task(rank):
        def exchange(address):
            addresses[rank] = address
            all_here.wait(10)
            return addresses

        try:
            connect(rank, 2, GroupKey(bytes([rank]) * 32), "127.0.0.1", exchange)
        except GroupError as error:
            failures[rank] = str(error)

    threads = [threading.Thread(target=task, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert "cannot reach task 0" in failures[1]
    assert "was not reached by tasks [1]" in failures[0]
