"""How the lines of a text file divide into fields, told from their look."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from charset_normalizer import from_bytes

from recsys_spark.errors import SourceError

DELIMITERS = ("::", "\t", ";", "|", ",", " ")
COMPARED_LINES = 2_000
"""Lines by which dialects are compared."""

_NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?\s*")
_DATE = re.compile(r"\s*\d{4}-\d\d-\d\d.*")
_USUAL = re.compile(r"user|item|movie|product|rating|score|title|event|(^|_)id$|time|date", re.IGNORECASE)
_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


@dataclass(frozen=True)
class Dialect:
    """The keys of the configuration's ``text`` section.

    Attributes
    ----------
    delimiter, quote, escape, header, names, encoding, decimal : as there; names are those of the header too
    """

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    header: bool = True
    names: list[str] = field(default_factory=list)
    encoding: str = "utf-8"
    decimal: str = "."


def guess_dialect(data: bytes) -> Dialect:
    """The dialect in which most lines have the same number of fields.

    Parameters
    ----------
    data : bytes
        Whole lines.

    Raises
    ------
    SourceError
        The lines are in an encoding that cannot be read.
    """
    encoding = _encoding(data)
    text = data.decode("cp1252" if encoding == "latin-1" else "utf-8-sig", "replace")
    lines = list(islice((line for line in text.splitlines() if line.strip()), COMPARED_LINES))
    compared = [(*_width(lines, dialect), dialect) for dialect in _candidates(lines)]
    _, count, best = max(compared, key=lambda found: found[:2])
    split = [fields_of(line, best) for line in lines]
    rows = [values for values in split if values is not None and len(values) == count]
    header = _is_header(rows)
    names = [value or "" for value in rows[0]] if header else [f"column{n}" for n in range(1, count + 1)]
    body = rows[1:] if header else rows
    commas = sum(bool(_COMMA.fullmatch(value)) for row in body for value in row if value)
    points = sum(bool(re.fullmatch(r"\s*\d+\.\d+\s*", value)) for row in body for value in row if value)
    decimal = "," if commas > points and best.delimiter != "," else "."
    return Dialect(best.delimiter, best.quote, best.escape, header, names, encoding, decimal)


def fields_of(line: str, dialect: Dialect) -> list[str | None] | None:
    """The fields of a line, None for empty ones; None for a line with a quote that does not close, or text
    after one that does.

    Parameters
    ----------
    line : str
        Without its end.
    dialect : Dialect
        How it divides.
    """
    special = [mark for mark in (dialect.quote, dialect.escape) if mark and mark in line]
    if len(dialect.delimiter) > 1 or not special:
        return [value or None for value in line.split(dialect.delimiter)]
    reader = csv.reader(
        [line],
        delimiter=dialect.delimiter,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        escapechar=dialect.escape or None,
        doublequote=not dialect.escape,
        strict=True,
    )
    try:
        read = next(reader)
    except (csv.Error, StopIteration):
        return None
    return [None if value in ("", "N" if dialect.escape else "") else value for value in read]


def is_number(value: str) -> bool:
    """Whether a cell is a number, with a point or a comma.

    Parameters
    ----------
    value : str
        Any text.
    """
    return bool(_NUMBER.fullmatch(value))


def _encoding(data: bytes) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        around = max(0, error.start - 2**15)
        best = from_bytes(data[around : around + 2**16]).best()
        if best is None or not {"cp1252", "latin_1"}.isdisjoint(best.could_be_from_charset):
            return "latin-1"
        name = best.encoding.replace("_", "-")
        raise SourceError(
            f"line {line:,} is no UTF-8, and may be {name}: run iconv -f {name} -t UTF-8 on the file"
        ) from None
    return "utf-8"


def _candidates(lines: Sequence[str]) -> list[Dialect]:
    text = "\n".join(lines)
    found = []
    for delimiter in [mark for mark in DELIMITERS if mark in text] or [","]:
        single = len(delimiter) == 1
        if single and '"' in text:
            found.append(Dialect(delimiter))
            if '\\"' in text:
                found.append(Dialect(delimiter, escape="\\"))
        elif single and "\\N" in text:
            found.append(Dialect(delimiter, quote="", escape="\\"))
        found.append(Dialect(delimiter, quote='"' if single and '"' not in text else ""))
    return found


def _width(lines: Sequence[str], dialect: Dialect) -> tuple[float, int]:
    """How well a dialect fits, and the number of fields that most lines have."""
    divided = [fields_of(line, dialect) for line in lines]
    if not dialect.quote:  # a field within quotes says that there are quotes
        divided = [None if values and any(map(_is_quoted, values)) else values for values in divided]
    widths = Counter(len(values) for values in divided if values is not None)
    if not widths:
        return 0.0, 1
    width, agreeing = max(widths.items(), key=lambda pair: (pair[1], pair[0]))
    share = round(agreeing / len(lines), 2)
    # blanks divide any prose; a file of one column is divided by nothing
    return share - (0.5 if width == 1 else 0.2 if dialect.delimiter == " " else 0.0), width


def _is_quoted(cell: str | None) -> bool:
    return cell is not None and len(cell) > 1 and cell[0] == cell[-1] == '"'


def _is_header(rows: list[list[str | None]]) -> bool:
    """Whether the first line has names: no numbers, where a column below has, or names that people give."""
    if not rows or any(cell is None or _is_value(cell) for cell in rows[0]):
        return False
    body = rows[1:101]
    if any(sum(map(_is_value, column)) > len(body) / 2 for column in zip(*body, strict=True)):
        return True
    return sum(bool(_USUAL.search(value or "")) for value in rows[0]) > len(rows[0]) / 2


def _is_value(cell: str | None) -> bool:
    return cell is not None and (is_number(cell) or _DATE.fullmatch(cell) is not None)
