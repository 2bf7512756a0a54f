"""What ``recsys preview`` prints: what a file is, which rows would be rejected, and the section to paste."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recsys_spark.console import result_line, table
from recsys_spark.preview.columns import Mapping, describe, find_roles, rejections
from recsys_spark.preview.sample import Row, Sample, take_sample
from recsys_spark.schema import EVENT, ITEM, RATING, TIMESTAMP, USER

MAX_COLUMNS = 40
"""Columns that are shown."""
MAX_SHOWN = 100
"""Characters of a rejected row that are shown."""


def preview(path: str) -> None:
    """Print what a sample of a file or folder shows, and the configuration that reads it.

    Parameters
    ----------
    path : str
        Local file, folder or glob.

    Raises
    ------
    SourceError
        Nothing is there, or nothing that can be read; with what to do.
    """
    sample = take_sample(path)
    if sample.format == "movielens":
        result_line(f"{path}: a MovieLens release. To read it, write:\n")
        result_line(_yaml({"source": {"format": "movielens", "path": path}}))
        return
    mapping = find_roles(sample)
    result_line(f"{path}: {_what(sample)}")
    for note in sample.notes:
        result_line(f"  {note}")
    roles = {name: role for role, name in mapping.roles.items()}
    infos = describe(sample)
    rows = [
        {
            "column": info.name,
            "type": info.type,
            "empty": info.empty,
            "examples": ", ".join(value if len(value) <= 30 else value[:30] + "…" for value in info.examples),
            "looks like": roles.get(info.name, ""),
        }
        for info in infos[:MAX_COLUMNS]
    ]
    table(f"{len(sample.rows):,} rows of the first files", rows, list(rows[0]) if rows else [])
    if len(infos) > MAX_COLUMNS:
        result_line(f"and {len(infos) - MAX_COLUMNS:,} more columns")
    _print_mapping(sample, mapping)


def suggested(sample: Sample, mapping: Mapping) -> dict[str, Any]:
    """The ``ingest`` section that reads a sample.

    Parameters
    ----------
    sample : Sample
        What was seen.
    mapping : Mapping
        Of its columns.
    """
    roles = [role for role in (USER, ITEM, RATING, EVENT, TIMESTAMP) if role in mapping.roles]
    columns = {role: mapping.roles[role] for role in roles}
    source: dict[str, Any] = {"format": sample.format, "path": sample.path, "columns": columns}
    if sample.dialect is not None:
        text = _text(sample)
        source |= {"text": text} if text else {}
    source |= {f"{role}_type": kind for role, kind in mapping.id_types.items() if kind != "string"}
    section: dict[str, Any] = {"source": source}
    if mapping.timestamps != "auto":
        section["timestamps"] = mapping.timestamps
    if mapping.earliest is not None:
        section["earliest"] = mapping.earliest
    if mapping.events:
        section["events"] = {"weights": dict.fromkeys(mapping.events, 1.0)}
    if mapping.scale is not None:
        section["scale"] = list(mapping.scale)
    return section


def _what(sample: Sample) -> str:
    files = f"{sample.files:,} files, " if sample.files > 1 else ""
    size = f"{files}{sample.bytes:,} bytes"
    dialect = sample.dialect
    if dialect is None:
        kinds = {"json": "JSON, one object a line", "parquet": "Parquet", "delta": "a Delta table"}
        return f"{kinds[sample.format]}, {size}"
    quoting = "no quotes" if not dialect.quote else f"quotes {dialect.quote}"
    escape = f", escapes {dialect.escape}" if dialect.escape else ""
    header = "a header" if dialect.header else "no header"
    comma = ", decimal commas" if dialect.decimal == "," else ""
    fields = f"delimiter {dialect.delimiter!r}, {quoting}{escape}, {header}{comma}"
    return f"text, {size}, {dialect.encoding}, {fields}"


def _text(sample: Sample) -> dict[str, Any]:
    dialect = sample.dialect
    if dialect is None:
        return {}
    given = {
        "delimiter": dialect.delimiter,
        "quote": dialect.quote,
        "escape": dialect.escape,
        "decimal": dialect.decimal,
        "encoding": dialect.encoding,
    }
    usual = {"delimiter": ",", "quote": '"', "escape": "", "decimal": ".", "encoding": "utf-8"}
    text = {key: value for key, value in given.items() if value != usual[key]}
    return text if dialect.header else {**text, "header": False, "names": dialect.names}


def _print_mapping(sample: Sample, mapping: Mapping) -> None:
    missing = [role for role in (USER, ITEM) if role not in mapping.roles]
    if missing:
        result_line(f"\nNo column looks like {' or '.join(missing)}: map them in columns below")
    elif mapping.guessed:
        result_line("\nThe names do not say what is user and item: their order was taken; look twice")
    if mapping.span is not None:
        first, last = mapping.span
        unit = f" (timestamps: {mapping.timestamps})" if mapping.timestamps != "auto" else ""
        result_line(f"Times from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC{unit}")
    if RATING not in mapping.roles and EVENT not in mapping.roles:
        result_line("No rating: every row would count 1")
    if mapping.events:
        result_line("Every event would count 1: give each its weight")
    if not missing:
        _print_rejections(sample, rejections(sample, mapping))
    result_line("\nTo read it, write:\n")
    result_line(_yaml(suggested(sample, mapping)))


def _print_rejections(sample: Sample, rejected: dict[str, list[Row]]) -> None:
    count = sum(map(len, rejected.values()))
    result_line(f"{count:,} of {len(sample.rows):,} rows would be rejected" + (":" if count else ""))
    for reason, rows in sorted(rejected.items(), key=lambda pair: -len(pair[1])):
        row = rows[0]
        raw = row.raw if len(row.raw) <= MAX_SHOWN else row.raw[:MAX_SHOWN] + "…"
        result_line(f"  {reason} {len(rows):,}, such as {row.place}: {raw!r}")


def _yaml(section: dict[str, Any]) -> str:
    path = section["source"]["path"]
    source = {**section["source"], "path": path if "://" in path else str(Path(path))}
    whole = {"ingest": {**section, "source": source}}
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text.rstrip()
