"""The documents hold: every code block runs, every command parses, the references are complete."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import click
import pytest
import typer
import yaml
from pydantic import BaseModel
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

import recsys_spark
from recsys_spark.cli import app
from recsys_spark.config import load_config, sections
from recsys_spark.models.registry import REGISTRY

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [path for path in DOCUMENTS if not {"_build", "_generated"} & set(path.parts)]
DOCTESTED = [
    module.name
    for module in pkgutil.walk_packages(recsys_spark.__path__, "recsys_spark.")
    if ">>> " in importlib.util.find_spec(module.name).loader.get_source(module.name)
]


def load_yaml(example):
    path = example.namespace["folder"] / "night.yaml"
    path.write_text(example.parsed, encoding="utf-8")
    config = load_config(path, REGISTRY, environment={})
    assert config.ingest.source.format in ("csv", "parquet")


def check_commands(example):
    lines = example.parsed.replace("\\\n", " ").splitlines()
    for line in lines:
        words = [
            word for word in shlex.split(re.sub(r"(^|\s)#.*", "", line)) if not re.match(r"[A-Z_]+=", word)
        ]
        if not words:
            continue
        if words[0] == "recsys":
            parse(typer.main.get_command(app), words)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif words[0] == "spark-submit":
            job = next(n for n, word in enumerate(words) if word.endswith(".py"))
            assert (ROOT / words[job]).is_file(), line
            parse(typer.main.get_command(app), ["recsys", Path(words[job]).stem, *words[job + 1 :]])
        else:
            assert words[0] == "python3", f"a command that nothing checks: {line}"


def parse(command, words):
    """Let click parse a command line without running it; it raises for what the command does not take."""
    context = command.make_context(words[0], ["--help"], resilient_parsing=True)
    name, *arguments = words[1:]
    while not name.startswith("-"):
        command = command.get_command(context, name)
        assert command is not None, f"no command {name}"
        context = click.Context(command, info_name=name, parent=context)
        if not isinstance(command, click.Group):
            command.make_context(name, arguments, parent=context)
            return
        name, *arguments = arguments


MARKDOWN = Sybil(
    [
        PythonCodeBlockParser(),
        CodeBlockParser(language="yaml", evaluator=load_yaml),
        CodeBlockParser(language="bash", evaluator=check_commands),
    ]
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_block_of_a_document_runs(spark, tmp_path, path):
    document = MARKDOWN.parse(path)
    document.namespace.update(spark=spark, folder=tmp_path)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    fences = re.findall(r"^```(python|yaml|bash)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(examples) >= len(fences)


@pytest.mark.parametrize("module", DOCTESTED)
def test_examples_of_docstrings_print_what_they_say(spark, module):
    document = Sybil([DocTestParser()]).parse(Path(importlib.import_module(module).__file__))
    document.namespace.update(vars(importlib.import_module(module)), spark=spark)
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_ext" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keys_of(section, prefix=""):
    """Every key that a configuration may have, from the pydantic models alone."""
    found = set()
    for name, field in section.model_fields.items():
        if section is sections.Config and name in ("params", "origin"):
            continue
        found.add(prefix + name)
        for kind in nested(field.annotation):
            found |= keys_of(kind, f"{prefix}{name}.")
    return found


def nested(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in nested(part)]


def test_reference_has_every_key_and_says_what_it_does(reference):
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.+?) \| (.+?) \| (.+?) \|$", reference.configuration_reference(), re.MULTILINE
    )
    said = {key: text for key, _, _, text in rows}
    # users and items share a section, as a side table's text shares that of the ratings
    keys = {re.sub(r"source\.users", "source.items", key) for key in keys_of(sections.Config)}
    keys = {re.sub(r"source\.items\.text\.", "source.text.", key) for key in keys} - {"ingest.source.items"}
    assert keys - {"ingest.source.items"} <= set(said)
    assert {"ingest.source.users", "ingest.source.items"} <= set(said)
    assert all(len(text) > 5 for text in said.values())


@pytest.mark.parametrize("name", REGISTRY)
def test_reference_has_every_param_with_its_default(spark, reference, name):
    estimator = REGISTRY[name].estimator()
    table = reference.params_table(name)
    for param in estimator.params:
        default = f"`{estimator.getOrDefault(param)!r}`" if estimator.hasDefault(param) else "–"
        row = rf"^\| `{param.name}` \| [^|]+ \| {re.escape(default)} \| .{{5,}} \|$"
        assert re.search(row, table, re.MULTILINE), param.name
    assert table in reference.configuration_reference()


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configuration_loads_and_names_the_defaults_it_claims(path):
    config = load_config(path, REGISTRY, environment={})
    assert config.models
    for line in path.read_text(encoding="utf-8").splitlines():
        claim = re.search(r"^(\s*)(\w+): (\S+) # (the default|default: (\S+))$", line)
        if claim and claim[4] == "the default":
            assert yaml.safe_load(claim[3]) in (
                field.default
                for section in vars(sections).values()
                if isinstance(section, type) and issubclass(section, BaseModel)
                for name, field in section.model_fields.items()
                if name == claim[2]
            )
