"""A sample of a file or folder: its format, and the first rows of its first files."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.data.sniffing import excel_note, packed_problem, text_problem
from recsys_spark.errors import SourceError
from recsys_spark.preview.dialect import Dialect, fields_of, guess_dialect

SAMPLED_FILES = 4
SAMPLED_BYTES = 2**18
"""Of each of these files."""
SAMPLED_ROWS = 5_000
"""Of Parquet, of each file."""

MOVIELENS = (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))
"""Files of ratings and of items, by which a release is known."""


@dataclass(frozen=True)
class Row:
    """One row of a sample.

    Attributes
    ----------
    place : its file, and of text its line
    values : of the columns, in their order; none where the row is ``malformed``
    raw : as it is written
    fault : why it cannot be read, or None
    """

    place: str
    values: Sequence[Any]
    raw: str
    fault: str | None = None


@dataclass(frozen=True)
class Sample:
    """What was seen of a path.

    Attributes
    ----------
    path : as it was given
    format : ``csv``, ``json``, ``parquet``, ``delta`` or ``movielens``
    names : of the columns
    rows : of the first files
    dialect : of text
    files, bytes : how many files there are, and their size
    notes : what a reader should know
    """

    path: str
    format: str
    names: list[str]
    rows: list[Row]
    dialect: Dialect | None = None
    files: int = 1
    bytes: int = 0
    notes: list[str] = field(default_factory=list)


def take_sample(path: str) -> Sample:
    """Look at the first rows of the first files behind ``path``.

    Parameters
    ----------
    path : str
        Local file, folder or glob.

    Raises
    ------
    SourceError
        It does not exist, is elsewhere, or is nothing that can be read; with what to do.
    """
    local = Path(re.sub(r"^file:(//)?(?=/)", "", path))
    if re.match(r"^\w[\w+.-]*:/", str(local)):
        raise SourceError(f"{path}: preview looks at local files: copy a part of it here")
    if _is_movielens(local):
        return Sample(path, "movielens", [], [])
    roots = [local] if local.exists() else [Path(name) for name in sorted(glob.glob(str(local)))]  # noqa: PTH207
    if not roots:
        raise SourceError(f"{path}: does not exist")
    delta = any((root / "_delta_log").is_dir() for root in roots)
    files, notes = _files(roots)
    size = sum(file.stat().st_size for file in files)
    if not size:
        raise SourceError(f"{path}: is empty")
    kind, names, rows, dialect = _rows([file for file in files if file.stat().st_size][:SAMPLED_FILES])
    folders = {part.partition("=")[0] for file in files for part in file.parts[:-1] if "=" in part}
    if folders:
        notes.append(f"columns that the folders carry, and that can be mapped: {', '.join(sorted(folders))}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        notes.append(f"named twice, so that they cannot be mapped: {', '.join(twice)}")
    return Sample(path, "delta" if delta else kind, names, rows, dialect, len(files), size, notes)


def _is_movielens(path: Path) -> bool:
    if path.is_dir():
        return any((path / ratings).exists() and (path / items).exists() for ratings, items in MOVIELENS)
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).name for name in archive.namelist()}
    return any({ratings, items} <= names for ratings, items in MOVIELENS)


def _files(roots: list[Path]) -> tuple[list[Path], list[str]]:
    """The files that are read, and a note on those that are not."""
    found = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
    shown: list[Path] = []
    hidden: list[Path] = []
    for file in (file for file in found if file.is_file()):
        below = next(file.relative_to(root).parts for root in roots if file == root or root in file.parents)
        ignored = any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in below)
        (hidden if ignored else shown).append(file)
    hidden = [file for file in hidden if file.suffix != ".crc" and "_delta_log" not in file.parts]
    hidden = [file for file in hidden if file.name not in ("_SUCCESS", ".DS_Store")]
    if not shown:
        raise SourceError(f"{roots[0]}: has no files whose names do not begin with _ or .")
    return shown, [f"not read, as their names begin with _ or . : {len(hidden):,} files"] if hidden else []


def _rows(files: list[Path]) -> tuple[str, list[str], list[Row], Dialect | None]:
    with files[0].open("rb") as file:
        if file.read(4) == b"PAR1":
            return "parquet", *_parquet_rows(files), None
    texts = {file: _beginning(file) for file in files}
    if next(iter(texts.values())).lstrip().startswith(b"{"):
        return "json", *_json_rows(texts), None
    try:
        dialect = guess_dialect(b"".join(texts.values()))
    except SourceError as error:
        raise SourceError(f"{files[0]}: {error}") from None
    return "csv", dialect.names, list(_text_rows(texts, dialect)), dialect


def _beginning(path: Path) -> bytes:
    """The first whole lines of a file, decompressed."""
    opened: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    try:
        with path.open("rb") as file:
            problem = packed_problem(file.read(4096), str(path))
        if problem is None and path.suffix == ".zst":
            with pa.input_stream(str(path), compression="zstd") as stream:
                data = stream.read(SAMPLED_BYTES)
        elif problem is None:
            with opened(path, "rb") as file:
                data = file.read(SAMPLED_BYTES)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from None
    complete = problem is None and len(data) < SAMPLED_BYTES
    problem = problem or text_problem(data, complete) or excel_note(data)
    if problem is None and data.lstrip().startswith(b"["):
        problem = "is one JSON array: write one object a line, as jq -c '.[]' does"
    if problem is not None:
        raise SourceError(f"{path}: {problem}")
    return data if complete else data[: data.rfind(b"\n") + 1]


def _lines(texts: dict[Path, bytes], encoding: str) -> Iterator[tuple[str, str, bool]]:
    """Place and text of each line, and whether its bytes are text in ``encoding``."""
    for path, data in texts.items():
        for number, line in enumerate(io.BytesIO(data.replace(b"\r\n", b"\n")), 1):
            line = line.rstrip(b"\n")
            try:
                yield f"{path.name}:{number:,}", line.decode(encoding), True
            except UnicodeDecodeError:
                yield f"{path.name}:{number:,}", line.decode(encoding, "replace"), False


def _text_rows(texts: dict[Path, bytes], dialect: Dialect) -> Iterator[Row]:
    encoding = "cp1252" if dialect.encoding == "latin-1" else "utf-8-sig"
    header = None
    for place, line, decodes in _lines(texts, encoding):
        line = line.removeprefix("\ufeff")
        if dialect.header and header is None:
            header = line
        if line == header:
            continue
        if not decodes:
            yield Row(place, (), line, "undecodable_bytes")
            continue
        values = fields_of(line, dialect)
        if values is None:
            odd = dialect.quote and line.count(dialect.quote) % 2
            yield Row(place, (), line, "wrong_column_count" if odd else "malformed_line")
        elif not line.strip() or len(values) != len(dialect.names):
            yield Row(place, (), line, "wrong_column_count")
        else:
            yield Row(place, values, line)


def _json_rows(texts: dict[Path, bytes]) -> tuple[list[str], list[Row]]:
    names: dict[str, None] = {}
    parsed = []
    for place, line, _ in _lines(texts, "utf-8-sig"):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        flat = _flat(value) if isinstance(value, dict) else None
        names |= dict.fromkeys(flat or ())
        parsed.append((place, line, flat))
    rows = [
        Row(place, () if flat is None else [flat.get(name) for name in names], line)
        if flat is not None
        else Row(place, (), line, "malformed_line")
        for place, line, flat in parsed
    ]
    return list(names), rows


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of an object, those of objects in it by ``outer.inner``."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def _parquet_rows(files: list[Path]) -> tuple[list[str], list[Row]]:
    names: dict[str, None] = {}
    read = []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                batch = next(opened.iter_batches(SAMPLED_ROWS), None)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file}: is not a Parquet file: {' '.join(str(error).split())}") from None
        for value in batch.to_pylist() if batch is not None else []:
            flat = _flat(value)
            names |= dict.fromkeys(flat)
            read.append((file.name, flat))
    return list(names), [
        Row(place, [flat.get(name) for name in names], json.dumps(flat, default=str)) for place, flat in read
    ]
