"""A self-contained HTML page of words, charts and tables: without network, on a phone, and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_spark.console import Section, cell_text
from recsys_spark.errors import SetupError
from recsys_spark.redaction import masked

if TYPE_CHECKING:
    import altair as alt

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Search:
    """Items that one can look up, each with the items that are most like it.

    Parameters
    ----------
    label : str
        What to type.
    titles : sequence of str
        Of all items that are named.
    neighbors : mapping of int to sequence
        Place in ``titles`` → of its neighbours the place and how alike they are, the most similar first.
    """

    label: str
    titles: Sequence[str]
    neighbors: Mapping[int, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Part:
    """A part of a page, under a heading of its own.

    Parameters
    ----------
    heading : str
        What it is about.
    words : str
        A sentence that says what to see in it.
    chart : altair.Chart, optional
        Its description is what those get who do not see it.
    rows : sequence of mappings
        Column → value, of a table; none where it is empty.
    columns : sequence of str
        Those that are shown, in order.
    folded : bool
        The table is hidden until it is asked for.
    more : sequence of Section
        Further tables, hidden until they are asked for.
    search : Search, optional
        What one can look up.
    """

    heading: str
    words: str = ""
    chart: alt.Chart | alt.LayerChart | None = None
    rows: Sequence[Mapping[str, object]] = ()
    columns: Sequence[str] = ()
    folded: bool = False
    more: Sequence[Section] = ()
    search: Search | None = None


def page(title: str, parts: Sequence[Part]) -> str:
    """The text of a page; about a megabyte of it is the library that draws the charts.

    Parameters
    ----------
    title : str
        Heading of the page.
    parts : sequence of Part
        In order.
    """
    import vl_convert
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("recsys_spark.inspection", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda value, column: masked(cell_text(value, column))
    environment.tests["right"] = _is_number
    return environment.get_template(TEMPLATE).render(
        title=title,
        parts=[_Shown(number, part) for number, part in enumerate(parts)],
        library=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
    )


def write_page(path: Path, title: str, parts: Sequence[Part]) -> int:
    """Write a page.

    Parameters
    ----------
    path : Path
        The file, in a folder that is there.
    title : str
        Heading of the page.
    parts : sequence of Part
        In order.

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    return path.write_bytes(page(title, parts).encode())


def require_writable(path: Path) -> None:
    """Check that a page can be written, before what it shows is computed; makes its folder.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    SetupError
        It cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}; name another file") from None


class _Shown:
    """A part as the template reads it."""

    def __init__(self, number: int, part: Part) -> None:
        self.id = f"part-{number}"
        self.heading, self.words, self.folded = part.heading, masked(part.words), part.folded
        self.rows, self.columns, self.more = part.rows, part.columns, part.more
        self.search = part.search
        self.chart: dict[str, Any] | None = None if part.chart is None else _specification(part.chart)

    @property
    def description(self) -> str:
        """What the chart shows, in words."""
        return str((self.chart or {}).get("description", ""))


def _specification(chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
    """What is drawn, with all rows of the frames, which are as small as they can be."""
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None):
        return dict(chart.to_dict())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
