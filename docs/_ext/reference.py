"""Reference tables from the code: keys of the configuration, Params of the estimators, reasons of rejections.

Before the build they are written to ``docs/_generated``, where the pages include them.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from numpydoc.docscrape import NumpyDocString
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recsys_spark.config import Config, ingest, rules, sections, tuning
from recsys_spark.config.section import Section
from recsys_spark.data.cleaning import REASONS
from recsys_spark.models.registry import REGISTRY

SECTIONS: dict[str, tuple[str, type[Section]]] = {
    "`lake`": ("lake", sections.Lake),
    "`session`": ("session", sections.Session),
    "`ingest`": ("ingest", ingest.Ingest),
    "`ingest.events`": ("ingest.events", ingest.Events),
    "`ingest.source`, format synthetic": ("ingest.source", ingest.SyntheticSource),
    "`ingest.source`, format movielens": ("ingest.source", ingest.MovieLensSource),
    "`ingest.source`, format csv, json, parquet or delta": ("ingest.source", ingest.FileSource),
    "`ingest.source.columns`": ("ingest.source.columns", ingest.Columns),
    "`ingest.source.text`": ("ingest.source.text", ingest.Delimited),
    "`ingest.source.users`": ("ingest.source.users", ingest.SideTable),
    "`ingest.source.users.text`": ("ingest.source.users.text", ingest.Delimited),
    "`ingest.source.items`": ("ingest.source.items", ingest.SideTable),
    "`ingest.source.items.text`": ("ingest.source.items.text", ingest.Delimited),
    "`split`": ("split", sections.Split),
    "`negatives`": ("negatives", sections.Negatives),
    "`evaluate`": ("evaluate", sections.Evaluate),
    "`recommend`": ("recommend", sections.Recommend),
    "`recommend.users`": ("recommend.users", rules.UserRules),
    "`recommend.users.table`": ("recommend.users.table", rules.Listed),
    "`recommend.items`": ("recommend.items", rules.ItemRules),
    "`recommend.items.allow`, each": ("recommend.items.allow", rules.Listed),
    "`recommend.items.deny`, each": ("recommend.items.deny", rules.Listed),
    "`recommend.rerank`": ("recommend.rerank", rules.Rerank),
    "`recommend.rerank.boosts`, each": ("recommend.rerank.boosts", rules.Boost),
    "`recommend.rerank.floors`, each": ("recommend.rerank.floors", rules.Floor),
    "`recommend.slots`, each": ("recommend.slots", rules.Slot),
    "`recommend.shelves`": ("recommend.shelves", sections.Shelves),
    "`recommend.similar_items`": ("recommend.similar_items", sections.SimilarItems),
    "`recommend.block_sizes`": ("recommend.block_sizes", sections.BlockSizes),
    "`gate`": ("gate", sections.Gate),
    "`feedback`": ("feedback", sections.Feedback),
    "`report`": ("report", sections.Report),
    "`tune`": ("tune", tuning.Tune),
    "`tune.ranges`, a range": ("tune.ranges", tuning.Range),
    "`mlflow`": ("mlflow", sections.MLflow),
    "`retention`": ("retention", sections.Retention),
}
"""Heading → prefix of the keys, and the section."""

NOT_KEYS = {"params", "origin"}
"""Fields of the configuration that no file sets: the models' sections, and the file's name."""


def configuration_reference() -> str:
    """The tables of the page on configuration: one row per key."""
    parts = ["## Top level\n", _table(_key_rows("", Config))]
    for heading, (prefix, section) in SECTIONS.items():
        parts += [f"## {heading}\n", f"{_text(section.__doc__)}\n", _table(_key_rows(f"{prefix}.", section))]
    parts.append("## Sections of the models\n")
    parts.append(
        "A section named like a model sets Params of its estimator. A night sets the Params that name "
        "columns (`…Col`) itself and rejects a section that names one; `seed` is the configuration's unless "
        "the section has its own.\n"
    )
    for name in REGISTRY:
        parts += [f"### `{name}`\n", params_table(name)]
    return "\n".join(parts)


def params_table(name: str) -> str:
    """The Params of a registered model: one row per Param, in the order of the constructor."""
    estimator: Any = REGISTRY[name].estimator()
    documented = _documented(type(estimator))
    rows = []
    for param in documented:
        if estimator.hasParam(param):
            kind, doc = documented[param]
            has_default = estimator.hasDefault(estimator.getParam(param))
            default = f"`{estimator.getOrDefault(param)!r}`" if has_default else "–"
            rows.append((f"`{param}`", kind, default, doc))
    return _table([("Param", "type", "default", "what it does, and what it may be"), *rows])


def arguments_table(name: str) -> str:
    """The arguments of a registered estimator's constructor that are no Params; empty where it has none."""
    estimator: Any = REGISTRY[name].estimator()
    rows = [
        (f"`{argument}`", kind, doc)
        for argument, (kind, doc) in _documented(type(estimator)).items()
        if not estimator.hasParam(argument)
    ]
    return "" if not rows else _table([("argument that is no Param", "type", "what it is"), *rows])


def rejections_table() -> str:
    """The reasons why a row of the input is rejected."""
    return _table(
        [("reason", "what it means"), *((f"`{code}`", _text(text)) for code, text in REASONS.items())]
    )


def write(_: object = None) -> None:
    """Write all generated parts."""
    folder = Path(__file__).parents[1] / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text(configuration_reference(), encoding="utf-8")
    (folder / "rejections.md").write_text(rejections_table(), encoding="utf-8")
    for name in REGISTRY:
        content = f"{params_table(name)}\n{arguments_table(name)}"
        (folder / f"params_{name}.md").write_text(content, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}


def _documented(estimator: type) -> dict[str, tuple[str, str]]:
    """Argument → type and description, from the section Parameters of the class."""
    found = {}
    for parameter in NumpyDocString(inspect.getdoc(estimator) or "")["Parameters"]:
        kind = re.split(r", (?:default|optional)", parameter.type)[0]
        for name in parameter.name.split(", "):
            found[name] = (kind, _text(" ".join(parameter.desc)))
    return found


def _key_rows(prefix: str, section: type[Section]) -> list[tuple[str, ...]]:
    rows = [("key", "type", "allowed", "default", "what it does")]
    schema = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        if not (section is Config and name in NOT_KEYS):
            kind, allowed = _type(schema[name])
            rows.append((f"`{prefix}{name}`", kind, allowed, _default(field), _text(field.description)))
    return rows


def _type(schema: dict[str, Any]) -> tuple[str, str]:
    """A value's type and what it may be, in words, from its JSON schema."""
    if "anyOf" in schema:  # types, or one and null
        told = [_type(choice) for choice in schema["anyOf"] if choice.get("type") != "null"]
        return ", or ".join(kind for kind, _ in told), ", ".join(allowed for _, allowed in told if allowed)
    if "$ref" in schema or "oneOf" in schema:
        return "section", ""
    if "const" in schema or "enum" in schema:
        return "string", ", ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    if schema["type"] == "array":
        kind, allowed = _type(schema["items"])
        size = {None: "", 1: "not empty"}.get(schema.get("minItems"), f"exactly {schema.get('maxItems')}")
        return f"list of {_plural(kind)}", ", ".join(
            part for part in (size, allowed and f"each {allowed}") if part
        )
    if schema["type"] == "object":
        patterns = schema.get("patternProperties", {"": schema.get("additionalProperties")})
        ((pattern, values),) = patterns.items()
        kind, allowed = _type(values)
        names = _cell(f"`{pattern}`") if pattern else ""
        bounds = [f"keys {names}" if names else "", f"each {allowed}" if allowed else ""]
        return f"mapping to {_plural(kind)}", ", ".join(bound for bound in bounds if bound)
    kind = schema.get("format") or {"boolean": "true or false"}.get(schema["type"], schema["type"])
    return kind, ", ".join(_bounds(schema))


def _plural(kind: str) -> str:
    return kind.replace("list of", "lists of") if kind.startswith("list of") else f"{kind}s"


def _bounds(schema: dict[str, Any]) -> list[str]:
    words = {
        "minimum": "at least {:,}",
        "exclusiveMinimum": "above {:,}",
        "maximum": "at most {:,}",
        "exclusiveMaximum": "below {:,}",
        "minLength": "not empty",
        "maxLength": "at most {} character",
        "pattern": "`{}`",
    }
    return [_cell(text.format(schema[rule])) for rule, text in words.items() if rule in schema]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "–"
    if isinstance(field.default, Section):
        return "all defaults"
    value = field.default if isinstance(field.default, str) else json.dumps(field.default)
    return f"`{_cell(value)}`"


def _text(doc: str | None) -> str:
    """A docstring as one line of Markdown."""
    return _cell(re.sub(r"``([^`]+)``", r"`\1`", " ".join((doc or "").split())))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
