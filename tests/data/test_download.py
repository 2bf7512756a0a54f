"""Downloads from a local HTTP server: checksum, resume, safe unpacking."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recsys_spark.data.download import download, extract
from recsys_spark.errors import DownloadError


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


RELEASE = zipped(
    **{"ml-latest-small/ratings.csv": b"userId,movieId\n1,2\n" * 5000, "ml-latest-small/movies.csv": b"x"}
)


class Mirror(ThreadingHTTPServer):
    """Serves one release; can break off half-way, once."""

    content, breaks, ranges = RELEASE, False, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, *_args: object) -> None: ...

    def do_GET(self) -> None:
        if self.path.endswith(".md5"):
            self._send(200, f"MD5 (x.zip) = {hashlib.md5(RELEASE).hexdigest()}\n".encode())
        elif self.path != "/ml-latest-small.zip":
            self._send(404, b"")
        else:
            asked = self.headers.get("Range")
            self.server.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
            self._send(206 if start else 200, self.server.content[start:], self.server.breaks)
            self.server.breaks = False

    def _send(self, status: int, body: bytes, breaks: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if breaks else body)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_release_is_downloaded_checked_and_unpacked(mirror, tmp_path):
    archive = download("latest-small", tmp_path, mirror.address)
    assert archive.read_bytes() == RELEASE
    assert (tmp_path / "ml-latest-small/ratings.csv").read_bytes().startswith(b"userId")
    assert not (tmp_path / "ml-latest-small.zip.part").exists()


def test_complete_release_is_not_downloaded_again(mirror, tmp_path):
    download("latest-small", tmp_path, mirror.address)
    download("latest-small", tmp_path, mirror.address)
    assert len(mirror.asked) == 1


def test_broken_download_continues_where_it_stopped(mirror, tmp_path):
    mirror.breaks = True
    with pytest.raises(DownloadError, match="run the same command again"):
        download("latest-small", tmp_path, mirror.address)
    present = (tmp_path / "ml-latest-small.zip.part").stat().st_size
    assert 0 < present < len(RELEASE)
    assert download("latest-small", tmp_path, mirror.address).read_bytes() == RELEASE
    assert mirror.asked == [None, f"bytes={present}-"]


def test_server_without_ranges_starts_over(mirror, tmp_path):
    (tmp_path / "ml-latest-small.zip.part").write_bytes(b"old rubbish")
    mirror.ranges = False
    assert download("latest-small", tmp_path, mirror.address).read_bytes() == RELEASE


def test_file_with_a_wrong_checksum_is_removed(mirror, tmp_path):
    mirror.content = RELEASE[:-1] + b"?"
    with pytest.raises(DownloadError, match="MD5 is"):
        download("latest-small", tmp_path, mirror.address)
    assert list(tmp_path.iterdir()) == []


def test_unknown_release_and_missing_file(mirror, tmp_path):
    with pytest.raises(DownloadError, match="ml-100k, ml-1m"):
        download("ml-7", tmp_path, mirror.address)
    with pytest.raises(DownloadError, match="404"):
        download("ml-1m", tmp_path, f"{mirror.address}/elsewhere")


def test_server_that_does_not_answer(tmp_path):
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        download("ml-100k", tmp_path, "http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "c:\\evil"])
def test_no_path_leaves_the_target(tmp_path, name):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(**{"fine.txt": b"1", name: b"2"}))
    target = tmp_path / "target"
    with pytest.raises(DownloadError, match="would leave the folder"):
        extract(archive, target)
    assert not target.exists()


def test_link_in_an_archive_is_an_error(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        content.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="would leave the folder"):
        extract(archive, tmp_path / "target")


def spoilt(where: int, change: bytes) -> bytes:
    return RELEASE[:where] + change + RELEASE[where + len(change) :]


@pytest.mark.parametrize(
    "content",
    [
        RELEASE[: len(RELEASE) // 2],
        spoilt(70, b"\xff" * 8),
        spoilt(6, b"\x01").replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
    ],
    ids=["cut off", "bytes changed", "encrypted"],
)
def test_damaged_archive_is_named(tmp_path, content):
    archive = tmp_path / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match=r"a\.zip: cannot be unpacked"):
        extract(archive, tmp_path / "target")


def test_archive_that_grows_beyond_the_bound_is_not_unpacked(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(one=b"0" * 600, two=b"0" * 401))
    monkeypatch.setattr("recsys_spark.data.download.MAX_UNPACKED", 1_000)
    with pytest.raises(DownloadError, match="would grow to 1,001 bytes, and at most 1,000"):
        extract(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    extract(archive, tmp_path / "target", lambda name: name == "one")
    assert (tmp_path / "target" / "one").stat().st_size == 600


def test_member_that_is_larger_than_it_says_is_not_unpacked_whole(tmp_path):
    archive = tmp_path / "a.zip"
    told, real = (600).to_bytes(4, "little"), (60_000).to_bytes(4, "little")
    archive.write_bytes(zipped(one=b"0" * 60_000).replace(real, told))
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        extract(archive, tmp_path / "target")
    assert (tmp_path / "target" / "one").stat().st_size <= 600
