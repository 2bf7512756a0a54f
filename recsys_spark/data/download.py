"""Download published MovieLens releases: with progress, resume, checksum, and unpacking that stays in its
folder.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from recsys_spark.console import err, progress_line
from recsys_spark.errors import DownloadError

MIRROR = "https://files.grouplens.org/datasets/movielens"
RELEASES = ("ml-100k", "ml-1m", "ml-25m", "ml-32m", "latest-small")
CHUNK = 1 << 20
MAX_UNPACKED = 16 * 2**30
"""Bytes of an archive's members; the largest published release has 1.2 GB."""


def download(name: str, target: Path, mirror: str = MIRROR) -> Path:
    """Download release ``name``, check it against the MD5 published beside it, and unpack it.

    A partial file of an earlier attempt is continued where the server allows it. A release that is already
    complete in ``target`` is not downloaded again.

    Parameters
    ----------
    name : str
        One of ``RELEASES``.
    target : Path
        Folder for the zip and the unpacked release; created if missing.
    mirror : str
        URL under which ``ml-*.zip`` and ``ml-*.zip.md5`` are found.

    Returns
    -------
    Path
        The zip, which ``ingest.source.path`` takes as it is.

    Raises
    ------
    DownloadError
        Unknown release, server not reached, checksum differs, or an archive that would write outside
        ``target``.
    """
    if name not in RELEASES:
        raise DownloadError(f"unknown release {name!r}: one of {', '.join(RELEASES)}")
    file = f"{name if name.startswith('ml-') else f'ml-{name}'}.zip"
    target.mkdir(parents=True, exist_ok=True)
    archive, partial = target / file, target / f"{file}.part"
    wanted = _published_md5(f"{mirror}/{file}.md5")
    if not (archive.exists() and _md5(archive) == wanted):
        _fetch(f"{mirror}/{file}", partial)
        actual = _md5(partial)
        if actual != wanted:
            partial.unlink()
            raise DownloadError(
                f"{file}: MD5 is {actual}, published is {wanted}; the partial file was removed, try again"
            )
        partial.replace(archive)
    extract(archive, target)
    progress_line(f"{archive}: MD5 {wanted}, unpacked in {target}")
    return archive


def extract(archive: Path, target: Path, wanted: Callable[[str], bool] = lambda _member: True) -> None:
    """Unpack the ``wanted`` files of ``archive`` into ``target``.

    Parameters
    ----------
    archive : Path
        A zip.
    target : Path
        Folder to write to.
    wanted : callable
        Whether to unpack a member, of its name; all of them by default.

    Raises
    ------
    DownloadError
        A member's path leaves ``target``, or it is a link, or the members are larger than
        :data:`MAX_UNPACKED` together: nothing is written. Or the archive is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = [m for m in content.infolist() if not m.is_dir() and wanted(m.filename)]
            for member in members:
                _require_safe(archive, member)
            size = sum(member.file_size for member in members)  # no more of a member is unpacked than it says
            if size > MAX_UNPACKED:
                raise DownloadError(
                    f"{archive}: would grow to {size:,} bytes, and at most {MAX_UNPACKED:,} are unpacked; "
                    "nothing was"
                )
            for member in members:
                file = target.joinpath(*PurePosixPath(member.filename).parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as packed, file.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise DownloadError(f"{archive}: cannot be unpacked: {error}") from None


def _require_safe(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or is_link:
        raise DownloadError(
            f"{archive}: member {member.filename!r} would leave the folder; nothing was unpacked"
        )


def _published_md5(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=60) as response:  # noqa: S310 - the caller chooses the mirror
            words = response.read(4096).decode("ascii", "replace").replace("=", " ").split()
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DownloadError(f"{address}: cannot be downloaded: {error}") from None
    hexadecimal = set("0123456789abcdef")
    for word in (word.lower() for word in words):
        if len(word) == 32 and set(word) <= hexadecimal:
            return word
    raise DownloadError(f"{address}: contains no MD5")


def _fetch(address: str, partial: Path) -> None:
    present = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={present}-"} if present else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            resumed = response.status == 206
            length = response.headers.get("Content-Length")
            _save(response, partial, present if resumed else 0, int(length) if length else None)
    except urllib.error.HTTPError as error:
        if error.code == 416 and present:  # nothing is left to download
            return
        raise DownloadError(f"{address}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DownloadError(
            f"{address}: the download broke off ({error}); run the same command again to continue it"
        ) from None


def _save(response, partial: Path, present: int, length: int | None) -> None:  # type: ignore[no-untyped-def]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    total = present + length if length is not None else None
    with (
        partial.open("ab" if present else "wb") as file,
        Progress(*columns, console=err, disable=not err.is_terminal) as bar,
    ):
        task = bar.add_task(partial.stem, total=total, completed=present)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.advance(task, len(chunk))
    if total is not None and partial.stat().st_size < total:
        raise OSError(f"{partial.stat().st_size} of {total} bytes arrived")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
