"""What a path names: the files behind it, what is left out, and their first bytes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import SourceError, summary

HEAD_BYTES = 2**20
"""Bytes of a file's beginning that tell what it is."""

COUNTED_LINES = 1_000_000
"""Lines of a file among which the number of a rejected one is looked for."""

MANY_FILES = 10_000
"""From this number on a folder's files are too small for Spark to read them well."""


@dataclass(frozen=True)
class Listing:
    """The files behind a path.

    Attributes
    ----------
    files : paths or URIs of those that are read, sorted
    ignored : local files whose names begin with ``_`` or ``.``, which Spark does not read
    bytes : size of all files together
    fingerprint : changes when a file is added, removed or written again
    """

    files: tuple[str, ...]
    ignored: tuple[str, ...]
    bytes: int
    fingerprint: str


def literal(path: str) -> str:
    """``path`` with the wildcards of globs escaped, where a file or folder of exactly this name exists.

    Parameters
    ----------
    path : str
        File, folder or glob.
    """
    local = local_path(path)
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path) if local is not None and local.exists() else path


def local_path(path: str) -> Path | None:
    """``path`` on this machine's disk, or None where its scheme says that it is elsewhere.

    Parameters
    ----------
    path : str
        Path or URI.
    """
    bare = re.sub(r"^file:(//)?(?=/)", "", path)  # neither Hadoop nor Spark decode what follows
    return None if re.match(r"^\w[\w+.-]*:/", bare) else Path(bare)


def list_files(spark: SparkSession, path: str) -> Listing:
    """All files that ``path`` names, those in sub-folders included.

    Parameters
    ----------
    spark : SparkSession
        Session that resolves globs and other file systems.
    path : str
        File, folder or glob.

    Returns
    -------
    Listing

    Raises
    ------
    SourceError
        ``path`` names nothing, is a glob with an open bracket, or leads to a link whose target is missing or
        to a folder that must not be read.
    """
    exact = literal(path)
    if exact == path:
        _require_closed(path)
    roots = _resolved(spark, path, exact)
    found = [entry for root in roots for entry in _walk(spark, root)]
    if not found:
        raise SourceError(f"{path}: names no file")
    shown = sorted((entry for entry in found if not entry.hidden), key=attrgetter("name"))
    ignored = sorted(entry.name for entry in found if entry.hidden and not _bookkeeping(entry.name))
    told = repr([(entry.name, entry.size, entry.modified) for entry in shown])
    return Listing(
        tuple(entry.name for entry in shown),
        tuple(ignored),
        sum(entry.size for entry in shown),
        hashlib.sha256(told.encode()).hexdigest()[:16],
    )


def decompressed(file: BinaryIO, name: str, size: int) -> bytes:
    """The first bytes of an open file.

    Parameters
    ----------
    file : binary file
        At its beginning.
    name : str
        Its name, which says how it is compressed.
    size : int
        How many bytes.
    """
    return _unpacked(file, name).read(size)


def _unpacked(file: BinaryIO, name: str) -> BinaryIO:
    reader: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(Path(name).suffix)
    return file if reader is None else reader(file)


def open_file(spark: SparkSession, path: str) -> BinaryIO:
    """A file for reading, wherever it is.

    Parameters
    ----------
    spark : SparkSession
        Session that opens files of other file systems.
    path : str
        Path or URI.
    """
    local = local_path(path)
    return local.open("rb") if local is not None else io.BufferedReader(_HadoopFile(spark, path), 2**16)


def line_number(spark: SparkSession, uri: str, line: str, encoding: str) -> int | None:
    """The first line of a text file that reads ``line``.

    Parameters
    ----------
    spark : SparkSession
        Session that opens files of other file systems.
    uri : str
        The file, as Spark names it.
    line : str
        The line, without its end.
    encoding : str
        ``utf-8`` or ``latin-1``.

    Returns
    -------
    int or None
        From 1; None where the file cannot be opened, or the line is not among its first
        :data:`COUNTED_LINES`.
    """
    path = unquote(uri)
    python_encoding = "cp1252" if encoding == "latin-1" else "utf-8-sig"
    try:
        with open_file(spark, path) as file, _unpacked(file, path) as unpacked:
            lines = io.TextIOWrapper(unpacked, python_encoding, errors="replace")
            counted = islice(enumerate(lines, 1), COUNTED_LINES)
            return next((number for number, text in counted if text.rstrip("\n") == line), None)
    except (OSError, EOFError, Py4JError):
        return None


class _HadoopFile(io.RawIOBase):
    """A file of any file system that Spark knows."""

    def __init__(self, spark: SparkSession, path: str) -> None:
        jvm: Any = spark._jvm
        hadoop_path = jvm.org.apache.hadoop.fs.Path(path)
        system = hadoop_path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())
        self._size = system.getFileStatus(hadoop_path).getLen()
        self._stream = system.open(hadoop_path)
        self._copy = jvm.org.apache.commons.io.IOUtils.toByteArray
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        self._stream.seek(self._at)
        buffer[:wanted] = self._copy(self._stream, wanted)
        self._at += wanted
        return wanted

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _require_closed(path: str) -> None:
    text = re.sub(r"\\.", "", path)
    for opening, closing in ("[]", "{}"):
        if text.count(opening) != text.count(closing):
            lacking = opening if text.count(closing) > text.count(opening) else closing
            raise SourceError(
                f"{path}: does not exist, and as a glob lacks {lacking!r}: add it, or write a backslash "
                "before a character that stands for itself"
            )


def _resolved(spark: SparkSession, path: str, exact: str) -> list[str]:
    """Files and folders that a path or glob names."""
    jvm: Any = spark._jvm
    try:
        hadoop_path = jvm.org.apache.hadoop.fs.Path(exact)
        system = hadoop_path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())
        statuses = system.globStatus(hadoop_path)
    except Py4JError as error:
        raise SourceError(f"{path}: cannot be read: {summary(error)}") from None
    names = [] if statuses is None else [status.getPath().toString() for status in statuses]
    local = local_path(path)
    if not names and local is not None and local.is_symlink():
        raise SourceError(f"{path}: is a link to {local.readlink()}, which does not exist")
    if not names:
        raise SourceError(f"{path}: does not exist")
    return names


@dataclass(frozen=True)
class _Entry:
    """A file; ``hidden`` where Spark ignores it, ``modified`` in seconds since 1970."""

    name: str
    size: int
    hidden: bool
    modified: float


def _walk(spark: SparkSession, root: str) -> Iterator[_Entry]:
    """Each file at or below ``root``."""
    local = local_path(root)
    if local is None:
        yield from _walk_elsewhere(spark, root)
    elif not local.is_dir():
        yield _entry(local, False)
    else:
        yield from _walk_here(local)


def _walk_here(folder: Path) -> Iterator[_Entry]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        for inner in (Path(parent) / name for name in folders):
            if inner.is_symlink() and Path(parent).resolve().is_relative_to(inner.resolve()):
                raise SourceError(f"{inner}: is a link to a folder that it is in: remove it")
        below = Path(parent).relative_to(folder).parts
        hidden = any(map(_is_hidden, below))
        for name in names:
            yield _entry(Path(parent) / name, hidden or _is_hidden(name))


def _entry(path: Path, hidden: bool) -> _Entry:
    try:
        found = path.stat()
    except OSError as error:
        if path.is_symlink():
            target = path.readlink()
            raise SourceError(
                f"{path}: is a link to {target}, which does not exist: remove or mend it"
            ) from None
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{path}: is not a regular file")
    return _Entry(str(path), found.st_size, hidden, found.st_mtime)


def _walk_elsewhere(spark: SparkSession, root: str) -> Iterator[_Entry]:
    # the names and sizes only: contents are not read unless they are asked for
    files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(literal(root))
    modified = F.unix_micros("modificationTime") / 1e6
    for row in files.select("path", "length", modified.alias("modified")).collect():
        yield _Entry(row["path"], row["length"], False, row["modified"])


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _bookkeeping(path: str) -> bool:
    """Whether a file is a writer's own note and no data."""
    name = Path(path).name
    return name.endswith(".crc") or name in ("_SUCCESS", ".DS_Store", "_metadata", "_common_metadata")
