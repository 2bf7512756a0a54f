"""What a file's first bytes say it is. No Spark: the preview looks with the same eyes as the night."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it, or compress it by gzip, bzip2 or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", "export its sheet as CSV UTF-8"),
    (b"SQLite format 3", "an SQLite database", "export its table as CSV"),
    (b"\x89HDF", "an HDF5 file", "write it as Parquet"),
    (b"ARROW1\x00\x00", "an Arrow file (Feather)", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"PAR1", "a Parquet file", "set format: parquet"),
)
"""First bytes → what the file is, and what to do."""

COMPRESSIONS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"BZh", "bzip2", ".bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
)
"""First bytes → compression, and the ending of the name by which Spark knows it."""

ENCODINGS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Byte order marks; those of UTF-32 first, which begin as those of UTF-16 do."""


def wide_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32, told by a byte order mark or by zeros at regular places.

    Parameters
    ----------
    data : bytes
        The beginning of a file.

    Returns
    -------
    str or None
        Name of the encoding as Python knows it, or None.
    """
    for mark, name in ENCODINGS:
        if data.startswith(mark):
            return name
    sample = data[:4096]
    if len(sample) < 8:
        return None
    zeros = [sample[place::4].count(0) / len(sample[place::4]) for place in range(4)]
    if min(zeros) < 0.5 and min(sorted(zeros)[1:]) > 0.9:
        return "UTF-32-LE" if zeros[0] < 0.5 else "UTF-32-BE"
    if min(zeros[1], zeros[3]) > 0.5 and max(zeros[0], zeros[2]) < 0.2:
        return "UTF-16-LE"
    if min(zeros[0], zeros[2]) > 0.5 and max(zeros[1], zeros[3]) < 0.2:
        return "UTF-16-BE"
    return None


def packed_problem(data: bytes, path: str) -> str | None:
    """Why a file's bytes, before any decompression, cannot be lines of text, or None.

    Parameters
    ----------
    data : bytes
        Its beginning.
    path : str
        Its name.

    Returns
    -------
    str or None
        What was found, and what to write.
    """
    if data.startswith(b"PK\x03\x04"):
        if b"xl/" in data[:4096] or Path(path).suffix == ".xlsx":
            return "is an Excel workbook (.xlsx): export its sheet as CSV UTF-8"
        return "is a zip archive: unpack it, or compress its files by gzip"
    for signature, what, mend in SIGNATURES:
        if data.startswith(signature):
            return f"is {what}: {mend}"
    suffix = Path(path).suffix
    for signature, name, ending in COMPRESSIONS:
        if data.startswith(signature) and suffix != ending:
            return f"is compressed by {name}: let its name end in {ending}"
        if suffix == ending and data and not data.startswith(signature):
            return f"is not compressed by {name}, as the ending {ending} of its name says: rename it"
    return None


def excel_note(data: bytes) -> str | None:
    """What to do about a first line such as ``sep=;``, which tells Excel the delimiter; None without one.

    Parameters
    ----------
    data : bytes
        The beginning of a file.
    """
    found = re.match(rb"(?i)sep=(.)\r?\n", data)
    if found is None:
        return None
    mark = found.group(1).decode("latin-1")
    return f"begins with sep={mark}, a note for Excel: remove that line and set text.delimiter to {mark!r}"


def text_problem(data: bytes, complete: bool) -> str | None:
    """Why decompressed bytes cannot be lines of text, or None.

    Parameters
    ----------
    data : bytes
        The beginning of a file.
    complete : bool
        Whether that is the whole file.

    Returns
    -------
    str or None
        What was found, and what to write.
    """
    wide = wide_encoding(data)
    if wide is not None:
        return (
            f'is {wide}, as Excel\'s "Unicode text": save it as CSV UTF-8, or run '
            f"iconv -f {wide} -t UTF-8 on it"
        )
    if not complete and b"\n" not in data and b"\r" not in data:
        return f"has no line end in its first {len(data):,} bytes: one row a line is expected"
    return None
