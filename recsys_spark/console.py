"""What a person sees while a night runs: a spinner and rich tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNSAFE = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

PLAIN_WIDTH = 160
"""Columns of tables that do not go to a terminal."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
"""Standard output: results."""

err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PLAIN_WIDTH)
"""Standard error: progress and errors."""


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that ``what`` is under way, then how long it took."""
    started = time.monotonic()
    if err.is_terminal:
        with err.status(what):
            yield
    else:
        err.print(f"{what} ...", markup=False, soft_wrap=True)
        yield
    err.print(f"{what}: {time.monotonic() - started:.1f} s", markup=False, soft_wrap=True)


def progress_line(line: str) -> None:
    """A plain line of progress."""
    err.print(line, markup=False, soft_wrap=True)


def table(title: str, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Print ``rows`` with the ``columns`` named, numbers to the right."""
    rows = list(rows)
    out.print(f"\n{title}", markup=False, style="bold", soft_wrap=True)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float) or row.get(column) is None for row in rows)
        shown.add_column(column, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(row.get(column)) for column in columns))
    out.print(shown)


def _cell(value: object) -> Text:
    if value is None:
        return Text("–")
    if isinstance(value, float):
        return Text(f"{value:,.4f}".rstrip("0").rstrip("."))
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    return Text(_plain(str(value)))


def _plain(text: str) -> str:
    """``text`` without control characters and bidirectional overrides, which could rewrite the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if c in _UNSAFE or unicodedata.category(c) == "Cc" else c for c in text
    )
