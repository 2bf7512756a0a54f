"""What a person sees while a night runs: a spinner and rich tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import math
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys_spark.redaction import masked
from recsys_spark.schema import ITEM, USER

_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

NOT_COUNTED = (USER, ITEM, "year")
"""Columns whose whole numbers are told as they are."""

SMALL = 0.001
"""Numbers nearer to nothing have two digits that say something, however many noughts come before."""

PLAIN_WIDTH = 160
"""Columns of tables that do not go to a terminal."""

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
"""Standard output: results."""

err = Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else PLAIN_WIDTH)
"""Standard error: progress and errors."""

_quiet = False
_log_file: Path | None = None


def configure(quiet: bool = False, log_file: Path | None = None) -> None:
    """Say where progress goes.

    Parameters
    ----------
    quiet : bool
        Do not print progress; errors and results are printed all the same.
    log_file : Path, optional
        Append progress and errors to this file too, each line with its time.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    global _quiet, _log_file
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log_file.open("a", encoding="utf-8").close()
    _quiet, _log_file = quiet, log_file


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that ``what`` is under way, then how long it took.

    Parameters
    ----------
    what : str
        Name of the work.
    """
    started = time.monotonic()
    if err.is_terminal and not _quiet:
        with err.status(what):
            yield
    else:
        progress_line(f"{what} ...")
        yield
    progress_line(f"{what}: {time.monotonic() - started:.1f} s")


def progress_line(line: str) -> None:
    """A plain line of progress, after the time (UTC).

    Parameters
    ----------
    line : str
        What to print.
    """
    now, line = datetime.now(UTC), printable(masked(line))
    if not _quiet:
        err.print(f"{now:%H:%M:%S} {line}", markup=False, soft_wrap=True)
    _log(now, line)


def error_line(line: str) -> None:
    """An error, printed even when progress is not.

    Parameters
    ----------
    line : str
        What to print.
    """
    line = printable(masked(line))
    err.print(line, markup=False, style="red", soft_wrap=True)
    _log(datetime.now(UTC), line)


def result_line(line: str, style: str | None = None) -> None:
    """A line of the result, on standard output.

    Parameters
    ----------
    line : str
        What to print.
    style : str, optional
        Of rich, such as ``bold``.
    """
    out.print(printable(masked(line)), markup=False, style=style, soft_wrap=True)


@dataclass(frozen=True)
class Section:
    """A part of an answer.

    Parameters
    ----------
    name : str
        Its key, for programs.
    title : str
        Line above its table, for people.
    rows : sequence of mappings
        Column → value.
    columns : sequence of str
        Those that people see, in order.
    """

    name: str
    title: str
    rows: Sequence[Mapping[str, object]]
    columns: Sequence[str]


def answer(sections: Iterable[Section], as_json: bool = False) -> None:
    """Print an answer: a table for each section, or one JSON object with an array of rows for each.

    Parameters
    ----------
    sections : iterable of Section
        The parts, in order.
    as_json : bool
        For programs: every column of the rows; days and times are texts, and what is no number is null.
    """
    if as_json:
        tree: dict[str, list[Mapping[str, object]]] = {}
        for section in sections:
            tree.setdefault(section.name, []).extend(section.rows)
        text = json.dumps(_finite(tree), indent=2, default=str, allow_nan=False)
        out.print(text, markup=False, soft_wrap=True)
        return
    for section in sections:
        table(section.title, section.rows, section.columns)


def _finite(tree: Any) -> Any:
    """Without NaN and infinity, which JSON has not."""
    if isinstance(tree, Mapping):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def table(title: str, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Print ``rows`` with the ``columns`` named, numbers to the right.

    Parameters
    ----------
    title : str
        Line above the table.
    rows : iterable of mappings
        Column → value.
    columns : sequence of str
        Columns to print, in order.
    """
    rows = list(rows)
    result_line(f"\n{title}", "bold")
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column not in NOT_COUNTED and all(
            isinstance(row.get(column), int | float) or row.get(column) is None for row in rows
        )
        shown.add_column(
            Text(printable(column)), justify="right" if numeric and rows else "left", overflow="fold"
        )
    for row in rows:
        shown.add_row(*(Text(cell_text(row.get(column), column)) for column in columns))
    out.print(shown)


def cell_text(value: object, column: str = "") -> str:
    """A value of a table as people read it.

    Parameters
    ----------
    value : object
        Of any type; nothing is a dash. Of a list of items their titles are told.
    column : str
        Its column: whole numbers in ``user``, ``item`` and ``year`` are no counts.
    """
    if value is None:
        return "–"
    if isinstance(value, list):
        value = ", ".join(
            str(of.get("title") or of[ITEM]) if isinstance(of, Mapping) else str(of) for of in value
        )
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {of}" for key, of in sorted(value.items()))
    if isinstance(value, float):
        small = value != 0 and abs(value) < SMALL
        return f"{value:.2g}" if small else f"{value:,.4f}".rstrip("0").rstrip(".")
    if isinstance(value, int) and not isinstance(value, bool) and column not in NOT_COUNTED:
        return f"{value:,}"
    return printable(str(value)).replace("\n", "\N{REPLACEMENT CHARACTER}")


def duration(seconds: float) -> str:
    """Seconds as people say them: ``42 s``, ``2 min 5 s``, ``1 h 3 min``.

    Parameters
    ----------
    seconds : float
        At least 0.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _log(now: datetime, line: str) -> None:
    if _log_file is not None:
        with _log_file.open("a", encoding="utf-8") as file:
            file.write(f"{now:%Y-%m-%dT%H:%M:%SZ} {line}\n")


def printable(text: str) -> str:
    """What of ``text`` a terminal may get, as titles, ids and names of files may be anyone's.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        With U+FFFD in the place of each control character but the end of a line, of each half of a surrogate
        pair, and of what changes the direction of writing.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if c in _OVERRIDES or (c != "\n" and unicodedata.category(c) in _UNPRINTABLE)
        else c
        for c in text
    )
