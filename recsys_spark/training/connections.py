"""Arrays over one socket: authenticated, and encrypted where the session asks for it.

Both ends prove that they know the key of the fit before they send anything else (challenge and response,
HMAC-SHA256, RFC 2104). To encrypt, they also agree on keys that nobody else can compute, not even who later
finds the fit's key: the listener's public key comes with its address, by way of Spark, the caller's with its
proof (X25519, RFC 7748; HKDF, RFC 5869). What follows is AES-256-GCM in records that are counted, so that a
record that is altered, repeated, left out or cut off ends the connection. Nothing is unpickled.

::

    listener → caller   nonce
    caller → listener   nonce, its rank, its public key or zeros, proof
    listener → caller   proof
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from recsys_spark.errors import GroupError

Array = npt.NDArray[Any]

HANDSHAKE_SECONDS = 5.0
RECORD_BYTES = 2**20
"""Plain bytes of an encrypted record, at most."""
_NONCE = _PROOF = _PUBLIC = 32
_TAG = 16
_HEADER = struct.Struct("!4sB3xQQ")  # dtype, dimensions, first two lengths
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class GroupKey:
    """What the tasks of one fit know and nobody else.

    Attributes
    ----------
    secret : at least 16 bytes
    encrypted : whether what they exchange is encrypted
    """

    secret: bytes = field(repr=False)
    encrypted: bool = False


class Endpoint:
    """What others call: an address, and where the key says so a key pair of its own."""

    def __init__(self, key: GroupKey, host: str, port: int) -> None:
        self._key = key
        self._private = X25519PrivateKey.generate() if key.encrypted else None
        self.address = f"{host}|{port}|{_public_bytes(self._private).hex()}"

    def admit(self, connection: socket.socket, ranks: range) -> tuple[int, Connection]:
        """Let a caller of one of ``ranks`` in, and return its rank.

        Raises
        ------
        OSError
            It does not know the key, or does not answer in five seconds.
        """
        connection.settimeout(HANDSHAKE_SECONDS)
        own = secrets.token_bytes(_NONCE)
        connection.sendall(own)
        hello = _received(connection, _NONCE + 4 + _PUBLIC)
        proof = _received(connection, _PROOF)
        transcript = own + hello + _public_bytes(self._private)
        theirs, caller = hello[:_NONCE], int.from_bytes(hello[_NONCE : _NONCE + 4], "big")
        if not hmac.compare_digest(proof, _proof(self._key, b"caller", transcript)) or caller not in ranks:
            raise OSError("not of this group")
        connection.sendall(_proof(self._key, b"listener", transcript))
        _ready(connection)
        if self._private is None:
            return caller, Connection(connection)
        of_caller, of_listener = _keys(self._key, self._private, hello[-_PUBLIC:], own + theirs)
        return caller, EncryptedConnection(connection, of_listener, of_caller)


def dial(address: str, key: GroupKey, rank: int, other: int, deadline: float) -> Connection:
    """Connect task ``rank`` to the :class:`Endpoint` of task ``other``.

    Raises
    ------
    GroupError
        It cannot be reached until ``deadline``, or does not know the key.
    """
    host, port, public = address.rsplit("|", 2)
    private = X25519PrivateKey.generate() if key.encrypted else None
    with ExitStack() as unless_reached:
        try:
            seconds = max(1.0, deadline - time.monotonic())
            connection = socket.create_connection((host, int(port)), timeout=seconds)
            unless_reached.enter_context(connection)
            theirs, own = _received(connection, _NONCE), secrets.token_bytes(_NONCE)
            hello = own + rank.to_bytes(4, "big") + _public_bytes(private)
            transcript = theirs + hello + bytes.fromhex(public)
            connection.sendall(hello + _proof(key, b"caller", transcript))
            if not hmac.compare_digest(_received(connection, _PROOF), _proof(key, b"listener", transcript)):
                raise OSError("authentication failed")
            _ready(connection)
        except OSError as error:
            raise GroupError(f"task {rank} cannot reach task {other} at {host}:{port}: {error}") from error
        unless_reached.pop_all()
    if private is None:
        return Connection(connection)
    return EncryptedConnection(connection, *_keys(key, private, bytes.fromhex(public), theirs + own))


class Connection:
    """One of the connections of a task; sends and receives arrays of one or two dimensions.

    Parameters
    ----------
    connection : socket whose other end is known to be of this group
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, array: Array) -> None:
        """Send an array of a fixed-size dtype.

        Raises
        ------
        OSError
            The other end is gone.
        """
        array = np.ascontiguousarray(array)
        lengths = (*array.shape, 0)[:2]
        self._write(memoryview(_HEADER.pack(array.dtype.str[-2:].encode().ljust(4), array.ndim, *lengths)))
        if array.nbytes:
            self._write(memoryview(array.data).cast("B"))

    def receive(self) -> Array:
        """The next array.

        Raises
        ------
        OSError
            The other end is gone, or what came is not what it sent.
        """
        header = bytearray(_HEADER.size)
        self._read_into(memoryview(header))
        kind, dimensions, *lengths = _HEADER.unpack(header)
        dtype = np.dtype(kind.decode("ascii", "replace").strip())
        if dtype.kind not in "biuf":
            raise ConnectionError(f"arrays of {dtype} are not exchanged")
        array = np.empty(lengths[:dimensions], dtype)
        if array.nbytes:
            self._read_into(memoryview(array.data).cast("B"))
        return array

    def close(self) -> None:
        """End the connection, also for a thread that waits for the other end."""
        with suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _write(self, data: memoryview) -> None:
        self._socket.sendall(data)

    def _read_into(self, view: memoryview) -> None:
        _fill(self._socket, view)


class EncryptedConnection(Connection):
    """The same in encrypted records. Both ends know how long the next one is, so nothing says it.

    Parameters
    ----------
    connection : socket whose other end is known to be of this group
    sending, receiving : keys of 32 bytes, one for each direction
    """

    def __init__(self, connection: socket.socket, sending: bytes, receiving: bytes) -> None:
        super().__init__(connection)
        self._sealing, self._opening = AESGCM(sending), AESGCM(receiving)
        self._sent = self._received = 0

    def _write(self, data: memoryview) -> None:
        for start in range(0, len(data), RECORD_BYTES):
            nonce = self._sent.to_bytes(12, "big")  # never twice with one key
            self._socket.sendall(self._sealing.encrypt(nonce, data[start : start + RECORD_BYTES], None))
            self._sent += 1

    def _read_into(self, view: memoryview) -> None:
        for start in range(0, len(view), RECORD_BYTES):
            part = view[start : start + RECORD_BYTES]
            record = _received(self._socket, len(part) + _TAG)
            try:
                part[:] = self._opening.decrypt(self._received.to_bytes(12, "big"), record, None)
            except InvalidTag:
                raise ConnectionError("what came was not sent by the other end as it came") from None
            self._received += 1


def _proof(key: GroupKey, side: bytes, transcript: bytes) -> bytes:
    mode = b"encrypted" if key.encrypted else b"plain"
    return hmac.digest(key.secret, b"|".join((side, mode, transcript)), "sha256")


def _public_bytes(private: X25519PrivateKey | None) -> bytes:
    return bytes(_PUBLIC) if private is None else private.public_key().public_bytes_raw()


def _keys(key: GroupKey, private: X25519PrivateKey, public: bytes, nonces: bytes) -> tuple[bytes, bytes]:
    """What the caller and what the listener encrypts with."""
    try:
        agreed = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # a point of small order
        raise OSError(f"no key can be agreed on: {error}") from None
    salt = hmac.digest(key.secret, nonces, "sha256")
    both = HKDF(SHA256(), 64, salt, b"recsys-spark training group").derive(agreed)
    return both[:32], both[32:]


def _ready(connection: socket.socket) -> None:
    connection.settimeout(None)  # a peer may compute for as long as it likes
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _received(connection: socket.socket, length: int) -> bytes:
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
