"""The documents hold: code prints what they say, configurations load, commands parse, files are there."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import typer
from sybil import Sybil
from sybil.example import SybilFailure
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

import recsys_spark
from recsys_spark.cli import app
from recsys_spark.config import load_config
from recsys_spark.errors import ConfigError
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.night import check_models

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [path for path in DOCUMENTS if not {"_build", "_generated"} & set(path.parts)]
FENCE = re.compile(r"^```(python|yaml|bash)$", re.MULTILINE)
NIGHTS = ["serving.md"]
"""Documents that run whole nights."""


def marks_of(path):
    """Those of models have nearly the examples of the models' docstrings."""
    if path.parent.name == "models":
        return [pytest.mark.slow, pytest.mark.long]
    return [pytest.mark.slow] if path.name in NIGHTS else []


RUNNABLE = [
    pytest.param(path, marks=marks_of(path))
    for path in DOCUMENTS
    if FENCE.search(path.read_text(encoding="utf-8"))
]
DOCTESTED = [
    module.name
    for module in pkgutil.walk_packages(recsys_spark.__path__, "recsys_spark.")
    if ">>> " in importlib.util.find_spec(module.name).loader.get_source(module.name)
]


AIRFLOW = (ROOT / "jobs" / "airflow" / "recsys_nightly.py").read_text(encoding="utf-8")

USAGE_ERRORS = {"NoSuchOption", "BadParameter", "MissingParameter", "AssertionError", "Failed"}
"""Names of click's errors of usage, of which typer has a copy, and what this module itself raises."""


def name_of(path):
    return str(path.relative_to(ROOT))


def load_yaml(example):
    path = example.namespace["folder"] / "night.yaml"
    path.write_text(example.parsed, encoding="utf-8")
    check_models(load_config(path, REGISTRY, environment={}))


def check_commands(example):
    for line in example.parsed.replace("\\\n", " ").splitlines():
        check_command(line)


def check_command(line):
    words = shlex.split(re.sub(r"(^|\s)#.*", "", line))
    words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    match words:
        case []:
            pass
        case ["recsys", *_]:
            parse(typer.main.get_command(app), words)
        case ["make", target, *_]:
            assert has_target(target), line
        case ["spark-submit", *_]:
            job = next(n for n, word in enumerate(words) if word.endswith(".py"))
            assert (ROOT / words[job]).is_file(), line
            step = Path(words[job]).stem.replace("_", "-")
            parse(typer.main.get_command(app), ["recsys", step, *words[job + 1 :]])
        case ["python", "-m", module, *options]:
            source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
            for option in options:
                assert not option.startswith("--") or f'"{option}"' in source, f"{line}: {option}"
        case ["export"] | ["mkdir", "-p", "libs", "&&", "tar", *_]:
            pass  # tests/cluster does the same
        case ["airflow", "variables", "set", name, *_]:
            assert f'"{name}"' in AIRFLOW or f"'{name}'" in AIRFLOW, line
        case ["airflow", "connections" | "backfill", *_]:
            pass  # tests/cluster does the same
        case _:
            pytest.fail(f"a command that nothing checks: {line}")


def has_target(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if name.startswith("bench-"):
        return (ROOT / "tests" / "benchmarks" / f"{name.removeprefix('bench-')}.py").is_file()
    return re.search(rf"^{name}:", makefile, re.MULTILINE) is not None


def parse(command, words):
    """Let the command line parse its words without running anything; it raises for what it does not take."""
    name, *arguments = words
    context = None
    while hasattr(command, "get_command"):  # a group of commands
        given = arguments[:] or ["--help"]
        context = command.make_context(name, given, parent=context, resilient_parsing=True)
        if not arguments or arguments[0].startswith("-"):
            options = {option for param in command.get_params(context) for option in param.opts}
            assert {word for word in arguments if word.startswith("-")} <= options, words
            return
        name, *arguments = arguments
        inner = command.get_command(context, name)
        assert inner is not None, f"no command {name}"
        command = inner
    command.make_context(name, arguments, parent=context)


CHECKED = [
    CodeBlockParser(language="yaml", evaluator=load_yaml),
    CodeBlockParser(language="bash", evaluator=check_commands),
]
MARKDOWN = Sybil([PythonCodeBlockParser(), *CHECKED])
SETTINGS = re.compile(r"^```(yaml|bash)$", re.MULTILINE)
OF_MODELS = [
    path
    for path in DOCUMENTS
    if path.parent.name == "models" and SETTINGS.search(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("path", OF_MODELS, ids=name_of)
def test_settings_and_commands_of_a_models_document_are_valid(tmp_path, path):
    document = Sybil(CHECKED).parse(path)
    document.namespace.update(folder=tmp_path)
    examples = list(document.examples())
    assert len(examples) == len(SETTINGS.findall(path.read_text(encoding="utf-8")))
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("path", RUNNABLE, ids=name_of)
def test_every_code_block_of_a_document_runs(spark, tmp_path, path):
    document = MARKDOWN.parse(path)
    document.namespace.update(spark=spark, folder=tmp_path)
    examples = list(document.examples())
    assert len(examples) >= len(FENCE.findall(path.read_text(encoding="utf-8")))
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("module", DOCTESTED)
def test_examples_of_docstrings_print_what_they_say(spark, module):
    imported = importlib.import_module(module)
    document = Sybil([DocTestParser()]).parse(Path(imported.__file__))
    document.namespace.update(vars(imported), spark=spark)
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize(
    "line",
    [
        "recsys nightly --config night.yaml --run-date 2026-01-31 --shoe 3",
        "recsys nightly --config night.yaml --run-date yesterday",
        "recsys nightly --config night.yaml",
        "recsys dream --config night.yaml",
        "recsys datasets download",
        "recsys --verse",
        "make bench-dreams",
        "make dream",
        "spark-submit jobs/nightly.py --config night.yaml",
        "python -m tests.benchmarks.als --dreams 3",
        "rm -r lake",
    ],
)
def test_a_wrong_command_would_be_found(line):
    with pytest.raises((Exception, pytest.fail.Exception)) as error:
        check_command(line)
    assert type(error.value).__name__ in USAGE_ERRORS


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_within_sentences_parse(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    for span in spans:
        if "<" not in span and re.match(r"(make \w|python -m tests\.benchmarks\.|recsys \w+ --)", span):
            check_command(span)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_a_document_names_are_there(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (path.parent / target).is_file(), target
    for target in re.findall(r"`((?:recsys_spark|conf|jobs|tests)/[\w/.]*)`", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_tests_that_a_document_names_are_there(path):
    text = path.read_text(encoding="utf-8")
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_the_road_names_functions_that_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    stops = re.findall(r"^\d+\. `(\w[\w/.]+)`: (.+)$", text, re.MULTILINE)
    assert len(stops) == 16
    for file, names in stops:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(def|class) {name}\b|\b{name}\(", source, re.MULTILINE), f"{file}: {name}"


@pytest.mark.parametrize(
    "block",
    [
        "```python\n>>> 1 + 1\n3\n\n```\n",
        "```python\nimport recsys_spork\n```\n",
        "```yaml\nlake: { root: there }\ningest: { source: { format: synthetic } }\nals: { rnak: 3 }\n```\n",
        "```bash\nrecsys dream\n```\n",
    ],
)
def test_a_wrong_code_block_would_be_found(tmp_path, block):
    path = tmp_path / "page.md"
    path.write_text(block, encoding="utf-8")
    document = MARKDOWN.parse(path)
    document.namespace["folder"] = tmp_path
    (example,) = document.examples()
    with pytest.raises((SybilFailure, ConfigError, ImportError, AssertionError)):
        example.evaluate()


def test_readme_fits_on_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
