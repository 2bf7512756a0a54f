"""Reference tables from the code: every key of the configuration, every Param of every registered estimator.

Before the build they are written to ``docs/_generated``, where the pages include them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recsys_spark.config import Config
from recsys_spark.config.sections import (
    BlockSizes,
    Columns,
    Delimited,
    Evaluate,
    FileSource,
    Ingest,
    Lake,
    MovieLensSource,
    Negatives,
    Recommend,
    Section,
    Session,
    SideTable,
    Split,
    SyntheticSource,
)
from recsys_spark.models.registry import REGISTRY

SECTIONS: dict[str, tuple[str, type[Section]]] = {
    "lake": ("lake", Lake),
    "session": ("session", Session),
    "ingest": ("ingest", Ingest),
    "ingest.source, format synthetic": ("ingest.source", SyntheticSource),
    "ingest.source, format movielens": ("ingest.source", MovieLensSource),
    "ingest.source, format csv, json, parquet or delta": ("ingest.source", FileSource),
    "ingest.source.columns": ("ingest.source.columns", Columns),
    "ingest.source.text": ("ingest.source.text", Delimited),
    "ingest.source.users and ingest.source.items": ("ingest.source.items", SideTable),
    "split": ("split", Split),
    "negatives": ("negatives", Negatives),
    "evaluate": ("evaluate", Evaluate),
    "recommend": ("recommend", Recommend),
    "recommend.block_sizes": ("recommend.block_sizes", BlockSizes),
}
"""Heading → prefix of the keys, and the section."""

NOT_KEYS = {"params", "origin"}
"""Fields of the configuration that no file sets: the models' sections, and the file's name."""


def configuration_reference() -> str:
    """The page's tables: one row per key."""
    parts = ["## Top level\n", _table(_key_rows("", Config))]
    for heading, (prefix, section) in SECTIONS.items():
        parts += [
            f"## `{heading}`\n" if "," not in heading else f"## {heading}\n",
            f"{_text(section.__doc__)}\n",
        ]
        parts.append(_table(_key_rows(f"{prefix}.", section)))
    parts.append("## Sections of the models\n")
    parts.append(
        "A section named like a model holds Params of its estimator; columns are set by the night itself.\n"
    )
    for name in REGISTRY:
        parts += [f"### `{name}`\n", params_table(name)]
    return "\n".join(parts)


def params_table(name: str) -> str:
    """The Params of a registered model: one row per Param."""
    kind: Any = REGISTRY[name].estimator
    estimator = kind()
    rows = []
    for param in estimator.params:
        default = repr(estimator.getOrDefault(param)) if estimator.hasDefault(param) else "–"
        rows.append((f"`{param.name}`", f"`{default}`" if default != "–" else default, _text(param.doc)))
    return _table([("Param", "default", "what it does"), *rows])


def write(_: object = None) -> None:
    """Write all generated parts."""
    folder = Path(__file__).parents[1] / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text(configuration_reference(), encoding="utf-8")
    for name in REGISTRY:
        (folder / f"params_{name}.md").write_text(params_table(name), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}


def _key_rows(prefix: str, section: type[Section]) -> list[tuple[str, ...]]:
    rows = [("key", "type", "default", "what it does")]
    for name, field in section.model_fields.items():
        if not (section is Config and name in NOT_KEYS):
            rows.append((f"`{prefix}{name}`", _type(field), _default(field), _text(field.description)))
    return rows


def _type(field: FieldInfo) -> str:
    """What a value may be, in words."""
    bounds = []
    for rule in field.metadata:
        for kind, words in ((Ge, "at least {}"), (Gt, "above {}"), (Le, "at most {}"), (Lt, "below {}")):
            if isinstance(rule, kind):
                bounds.append(words.format(getattr(rule, kind.__name__.lower())))
        if isinstance(rule, MinLen) and rule.min_length > 0:
            bounds.append("not empty")
    return ", ".join([_type_name(field.annotation), *dict.fromkeys(bounds)])


def _type_name(kind: Any) -> str:
    arguments = [argument for argument in get_args(kind) if argument is not type(None)]
    if get_origin(kind) is Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if isinstance(kind, type) and issubclass(kind, Section):
        return "section"
    if get_origin(kind) is list:
        return f"list of {_type_name(arguments[0])}"
    if get_origin(kind) is dict:
        return f"mapping of {_type_name(arguments[1])}"
    if arguments:  # a union with None, or with rules
        return _type_name(arguments[0])
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(
        kind, getattr(kind, "__name__", "any")
    )


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "–"
    if isinstance(field.default, Section):
        return "its own"
    return f"`{field.default}`"


def _text(doc: str | None) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join((doc or "").split())).replace("|", "\\|")


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
