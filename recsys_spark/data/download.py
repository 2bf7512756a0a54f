"""Fetch published MovieLens releases: with progress, resume, checksum, and unpacking that stays in its
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


def download(name: str, target: Path, mirror: str = MIRROR) -> Path:
    """Fetch release ``name``, check it against the MD5 published beside it, and unpack it.

    A partial file of an earlier attempt is continued where the server allows it. A release that is already
    there and whole is not fetched again.

    Parameters
    ----------
    name : one of ``RELEASES``
    target : folder for the zip and the unpacked release; made where missing
    mirror : address under which ``ml-*.zip`` and ``ml-*.zip.md5`` are found

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
        found = _md5(partial)
        if found != wanted:
            partial.unlink()
            raise DownloadError(
                f"{file}: MD5 is {found}, published is {wanted}; the partial file was removed, try again"
            )
        partial.replace(archive)
    extract(archive, target)
    progress_line(f"{archive}: MD5 {wanted}, unpacked in {target}")
    return archive


def extract(archive: Path, target: Path, wanted: Callable[[str], bool] = lambda _member: True) -> None:
    """Unpack ``archive``'s ``wanted`` files into ``target``.

    Raises
    ------
    DownloadError
        A member's path leaves ``target``, or it is a link, or the archive is damaged; then nothing at all is
        unpacked.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = [m for m in content.infolist() if not m.is_dir() and wanted(m.filename)]
            for member in members:
                _require_safe(archive, member)
            for member in members:
                file = target.joinpath(*PurePosixPath(member.filename).parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as packed, file.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise DownloadError(f"{archive}: cannot be unpacked: {error}") from None


def _require_safe(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if (
        path.is_absolute()
        or ".." in path.parts
        or ":" in member.filename
        or stat.S_ISLNK(member.external_attr >> 16)
    ):
        raise DownloadError(
            f"{archive}: member {member.filename!r} would leave the folder; nothing was unpacked"
        )


def _published_md5(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - the mirror is the caller's choice
            words = answer.read(4096).decode("ascii", "replace").replace("=", " ").split()
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DownloadError(f"{address}: cannot be fetched: {error}") from None
    found = [
        word.lower() for word in words if len(word) == 32 and set(word.lower()) <= set("0123456789abcdef")
    ]
    if not found:
        raise DownloadError(f"{address}: holds no MD5")
    return found[0]


def _fetch(address: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            resumed = answer.status == 206
            length = answer.headers.get("Content-Length")
            _save(answer, partial, have if resumed else 0, int(length) if length else None)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            return
        raise DownloadError(f"{address}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DownloadError(
            f"{address}: broke off ({error}); run the same command again to go on from there"
        ) from None


def _save(answer, partial: Path, have: int, length: int | None) -> None:  # type: ignore[no-untyped-def]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    total = have + length if length is not None else None
    with (
        partial.open("ab" if have else "wb") as file,
        Progress(*columns, console=err, disable=not err.is_terminal) as bar,
    ):
        task = bar.add_task(partial.stem, total=total, completed=have)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            bar.advance(task, len(chunk))
    if total is not None and partial.stat().st_size < total:
        raise OSError(f"{partial.stat().st_size} of {total} bytes came")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
