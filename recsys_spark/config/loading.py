"""Reading a configuration: YAML files into closed models, with overrides, and errors that say where."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recsys_spark.config.ingest import SOURCE_TYPES, Ingest
from recsys_spark.config.section import Section
from recsys_spark.config.sections import Config
from recsys_spark.errors import ConfigError

ENV_PREFIX = "RECSYS__"
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises for text that is not YAML, or whose dates, numbers or tags are none."""

SPARK_SETTING = "session.spark."


def load_config(
    path: str | Path,
    sections: Collection[str],
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read ``path`` and apply overrides.

    Parameters
    ----------
    path : str or Path
        YAML file.
    sections : collection of str
        Names of the models that may have a section of Params.
    overrides : iterable of str
        ``key.path=value``, as given to ``--set``.
    environment : mapping of str to str, optional
        Variables to look through for ``RECSYS__KEY__PATH``; without it the process's own.

    Raises
    ------
    ConfigError
        File, key path, what was given and what is allowed, one line for each problem.
    """
    tree = _read_yaml(Path(path))
    environment = os.environ if environment is None else environment
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split("__")
            if keys[0] in sections:
                keys[1:] = [_camel_case(key) for key in keys[1:]]
            _set(tree, keys, environment[name], f"environment variable {name}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: given {override!r}; allowed: key.path=value")
        if key.startswith(SPARK_SETTING):
            _set(
                tree, ["session", "spark", key.removeprefix(SPARK_SETTING)], repr(value), f"--set {override}"
            )
        else:
            _set(tree, key.split("."), value, f"--set {override}")
    return _build(tree, str(path), sections)


def _camel_case(words: str) -> str:
    """``REG_PARAM`` in lower case as Spark's ``regParam``."""
    first, *others = words.split("_")
    return first + "".join(word.capitalize() for word in others)


def config_problem(origin: str, key: str, given: object, allowed: str) -> str:
    """The one form of a configuration error's line.

    Parameters
    ----------
    origin : str
        File or variable that the value comes from.
    key : str
        Key path.
    given : object
        The value.
    allowed : str
        What is allowed.
    """
    return f"{origin}: {key}: given {given!r}; allowed: {allowed}"


def _build(tree: dict[str, Any], origin: str, sections: Collection[str]) -> Config:
    own = {key: value for key, value in tree.items() if key not in sections}
    params = {key: value or {} for key, value in tree.items() if key in sections}
    for reserved in {"params", "origin"} & own.keys():
        raise ConfigError(config_problem(origin, reserved, own[reserved], _known((), reserved, sections)))
    for name, section in params.items():
        if not isinstance(section, dict):
            raise ConfigError(config_problem(origin, name, section, "a mapping of the model's parameters"))
    try:
        config = Config.model_validate({**own, "params": params, "origin": origin}, strict=True)
    except ValidationError as error:
        lines = [_problem_line(origin, problem, sections) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    for model in config.models:
        if model not in sections:
            raise ConfigError(config_problem(origin, "models", model, ", ".join(sorted(sections))))
    if len(set(config.models)) < len(config.models):
        raise ConfigError(config_problem(origin, "models", config.models, "each model once"))
    return config


def _problem_line(origin: str, problem: Any, sections: Collection[str]) -> str:
    loc = [part for index, part in enumerate(problem["loc"]) if not (index == 2 and part in SOURCE_TYPES)]
    key = ".".join(str(part) for part in loc) or "(whole file)"
    given: object = problem["input"]
    if problem["type"] == "extra_forbidden":
        given, allowed = loc[-1], _known(problem["loc"][:-1], str(loc[-1]), sections)
    elif problem["type"].startswith("union_tag"):
        key, allowed = f"{key}.format", "one of " + ", ".join(SOURCE_TYPES)
        given = (
            problem["input"].get("format", "nothing")
            if isinstance(problem["input"], dict)
            else problem["input"]
        )
    elif problem["type"] == "missing":
        given, allowed = "nothing", "this key is required"
    else:
        allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return config_problem(origin, key, given, allowed)


def _known(location: tuple[Any, ...], given: str, sections: Collection[str]) -> str:
    """The keys that are known at ``location``, with the nearest to ``given`` named first."""
    model: Any = Config
    for part in location:
        if part in SOURCE_TYPES and model is Ingest:
            model = SOURCE_TYPES[part]
        elif isinstance(part, str) and model is not None and part in getattr(model, "model_fields", {}):
            annotation = model.model_fields[part].annotation
            options = [annotation, *getattr(annotation, "__args__", ())]
            section = next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
            model = section if part != "source" else Ingest
    names = [n for n in getattr(model, "model_fields", {}) if n not in ("params", "origin")]
    if model is Config:
        names += sorted(sections)
    near = difflib.get_close_matches(given, names, 1)
    return (f"did you mean {near[0]!r}? Known keys: " if near else "one of ") + ", ".join(names)


class _Loader(yaml.SafeLoader):
    """YAML with the numbers and booleans of version 1.2, where ``1e-4`` is a number, ``017`` is 17, and
    ``1:30``, ``no`` and ``on`` are texts. A key given twice is an error; in PyYAML the later one wins.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in its base

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "")
        return int(digits, 0 if digits.lstrip("+-")[:2] in ("0x", "0o") else 10)


_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?\d[\d_]*|0x[\da-fA-F_]+|0o[0-7_]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.\d+|\d[\d_]*(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "timestamp": (r"\d{4}-\d\d-\d\d", "0123456789"),
    "merge": (r"<<", "<"),
}
"""Tag → the texts it stands for, as YAML 1.2 has them (and with ``_`` between digits), and how they begin."""

for _tag, (_pattern, _beginnings) in _SCALARS.items():
    _starts = [*_beginnings, ""] if _tag == "null" else [*_beginnings]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _starts)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except UNREADABLE as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(config_problem(str(path), "(whole file)", tree, "a mapping of sections"))
    return tree


def _set(tree: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except UNREADABLE:
        raise ConfigError(f"{origin}: given {text!r}; allowed: a YAML value") from None
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"{origin}: given {key!r} as a section; allowed: keys of sections ({key} is a value)"
            )
        node = child
    node[keys[-1]] = value
