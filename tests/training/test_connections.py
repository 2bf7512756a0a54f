"""What travels between two tasks: who may read it, and what is noticed."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from recsys_spark.errors import GroupError
from recsys_spark.training.connections import Connection, EncryptedConnection, Endpoint, GroupKey, dial

SECRET = b"s" * 32
PLAIN, SEALED = GroupKey(SECRET), GroupKey(SECRET, encrypted=True)
TOLD = np.frombuffer(b"what nobody else shall read" * 4, np.uint8)


class Wire:
    """Two ends that know a key, and a relay between them that keeps what goes from the caller to the
    listener.
    """

    def __init__(self, caller: GroupKey, listener: GroupKey) -> None:
        self.heard = bytearray()
        with (
            socket.create_server(("127.0.0.1", 0)) as behind,
            socket.create_server(("127.0.0.1", 0)) as before,
        ):
            endpoint = Endpoint(listener, "127.0.0.1", behind.getsockname()[1])
            public = endpoint.address.rpartition("|")[2]
            admitted = []

            def admit():
                connection, _ = behind.accept()
                try:
                    admitted.append(endpoint.admit(connection, range(1, 2))[1])
                except OSError:
                    connection.close()

            threads = [
                threading.Thread(target=admit),
                threading.Thread(target=self._relay, args=(before, behind)),
            ]
            for thread in threads:
                thread.start()
            port = before.getsockname()[1]
            try:
                self.caller = dial(f"127.0.0.1|{port}|{public}", caller, 1, 0, time.monotonic() + 5)
            finally:
                for thread in threads:
                    thread.join(10)
        (self.listener,) = admitted

    def _relay(self, before, behind):
        caller, _ = before.accept()
        listener = socket.create_connection(behind.getsockname())
        for source, target, kept in ((caller, listener, self.heard), (listener, caller, bytearray())):
            threading.Thread(target=forward, args=(source, target, kept), daemon=True).start()


def forward(source, target, kept):
    with suppress(OSError):
        while data := source.recv(65_536):
            kept += data
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def test_what_is_told_can_be_read_on_the_way_only_where_nothing_is_encrypted():
    for key, readable in ((PLAIN, True), (SEALED, False)):
        wire = Wire(key, key)
        wire.caller.send(TOLD)
        np.testing.assert_array_equal(wire.listener.receive(), TOLD)
        assert (TOLD.tobytes() in wire.heard) == readable


def test_keys_are_others_each_time():
    wires = [Wire(SEALED, SEALED) for _ in range(2)]
    ends = []
    for wire in wires:
        handshake = len(wire.heard)
        wire.caller.send(TOLD)
        wire.listener.receive()
        ends.append(bytes(wire.heard[handshake:]))
    assert len(ends[0]) == len(ends[1]) == 24 + TOLD.nbytes + 2 * 16  # a header, the array, a tag for each
    assert ends[0] != ends[1]


@pytest.mark.parametrize(("caller", "listener"), [(PLAIN, SEALED), (SEALED, PLAIN)])
def test_one_end_that_does_not_encrypt_is_not_talked_to(caller, listener):
    with pytest.raises(GroupError, match="task 1 cannot reach task 0"):
        Wire(caller, listener)


def test_key_is_in_no_text():
    assert "ssss" not in f"{SEALED} {SEALED!r}"


@pytest.fixture
def ends():
    """Raw bytes to write, and the encrypted connection that reads them."""
    written, read = socket.socketpair()
    yield written, EncryptedConnection(read, b"b" * 32, b"a" * 32)
    written.close()


def records(*arrays):
    """What a task sends of arrays, record by record: a header and the values of each."""
    left, right = socket.socketpair()
    sender = EncryptedConnection(left, b"a" * 32, b"b" * 32)
    found = []
    for array in arrays:
        sender.send(array)
        for length in (24 + 16, array.nbytes + 16):
            found.append(right.recv(length, socket.MSG_WAITALL))
    return found


NUMBERS = np.arange(8.0)


def flipped(record):
    return record[:-1] + bytes([record[-1] ^ 1])


@pytest.mark.parametrize(
    "tampered",
    [
        lambda header, values, *_: [header, flipped(values)],
        lambda header, values, *_: [flipped(header), values],
        lambda header, values, *_: [header, values[:7] + b"?" + values[8:]],
        lambda header, values, *_: [header, values, header, values],  # sent again
        lambda *both: [both[0], both[3]],  # two left out
        lambda *both: [both[2], both[3], both[0], both[1]],  # in another order
    ],
)
def test_altered_repeated_and_lost_records_are_noticed(ends, tampered):
    written, reader = ends
    written.sendall(b"".join(tampered(*records(NUMBERS, NUMBERS + 1))))
    with pytest.raises(ConnectionError, match="was not sent by the other end as it came"):
        for _ in range(2):
            reader.receive()


def test_message_that_is_cut_off_is_noticed(ends):
    written, reader = ends
    header, values = records(NUMBERS)
    written.sendall(header + values[:-1])
    written.close()
    with pytest.raises(ConnectionError, match="closed"):
        reader.receive()


def test_proof_that_was_heard_before_opens_nothing():
    wire = Wire(SEALED, SEALED)
    heard = bytes(wire.heard)
    left, right = socket.socketpair()
    left.sendall(heard)
    with pytest.raises(OSError, match="not of this group"):
        Endpoint(SEALED, "127.0.0.1", 1).admit(right, range(1, 2))


def test_objects_are_not_received():
    left, right = socket.socketpair()
    pickled = pickle.dumps(print)
    left.sendall(b"O8  " + bytes([1, 0, 0, 0]) + (1).to_bytes(8, "big") + bytes(8) + pickled)
    with pytest.raises(ConnectionError, match="arrays of object are not exchanged"):
        Connection(right).receive()
