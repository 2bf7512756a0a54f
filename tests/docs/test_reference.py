"""The generated references are complete, and what conf/ says of defaults is true."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from recsys_spark.config import load_config, sections
from recsys_spark.lakehouse.schemas import TABLES
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.night import check_models

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "conf").glob("*.yaml"))


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_ext" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def keys(reference):
    """Key → type, allowed, default and text, as the page has them."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.*?) \| (.*) \|$",
        reference.configuration_reference(),
        re.MULTILINE,
    )
    return {key: cells for key, *cells in rows}


def fields_of(section, prefix=""):
    """Every key that a configuration may have, from the pydantic models alone."""
    found = {}
    for name, field in section.model_fields.items():
        if section is sections.Config and name in ("params", "origin"):
            continue
        found[prefix + name] = field
        for kind in nested(field.annotation):
            found |= fields_of(kind, f"{prefix}{name}.")
    return found


def nested(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in nested(part)]


def test_every_key_is_in_the_reference_with_what_it_does(keys):
    fields = fields_of(sections.Config)
    assert len(fields) > 80
    assert fields.keys() == keys.keys()
    for key, field in fields.items():
        if key not in ("ingest.source.format", "ingest.source.users", "ingest.source.items"):
            # those are keys of several kinds of sources
            text = re.sub(r"`+|\\", "", keys[key][3])
            assert text == " ".join(re.sub("`+", "", field.description).split()), key
        assert len(keys[key][3]) > 5


@pytest.mark.parametrize(
    ("key", "kind", "allowed", "default"),
    [
        ("seed", "integer", "at least 0, below 2,147,483,648", "`42`"),
        ("lake", "section", "", "required"),
        ("session.cores", "integer", "at least 1", "–"),
        ("ingest.source.text.decimal", "string", "`.`, `,`", "`.`"),
        ("ingest.scale", "list of numbers", "exactly 2", "–"),
        ("ingest.events.half_life", "number", "above 0", "–"),
        ("recommend.exclude_seen", "true or false, or list of strings", "not empty", "`true`"),
        ("ingest.earliest", "date", "", "–"),
        ("ingest.max_rejected_fraction", "number", "at least 0, at most 1", "`0.05`"),
        ("ingest.source.text.header", "true or false", "", "`true`"),
        ("ingest.source.items.list_separator", "string", "not empty", r"`\|`"),
        ("split.test_fraction", "number", "above 0, below 1", "`0.1`"),
        ("evaluate.cutoffs", "list of integers", "not empty, each at least 1", "`[5, 10, 20]`"),
    ],
)
def test_a_key_is_described(keys, key, kind, allowed, default):
    assert keys[key][:3] == [kind, allowed, default]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_param_is_in_the_reference_with_its_default(spark, reference, name):
    estimator = REGISTRY[name].estimator()
    table = reference.params_table(name)
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|$", table, re.M)}
    assert rows.keys() == {param.name for param in estimator.params}
    for param in estimator.params:
        kind, default, text = rows[param.name]
        expected = f"`{estimator.getOrDefault(param)!r}`" if estimator.hasDefault(param) else "–"
        assert default == expected, param.name
        assert kind, param.name
        assert len(text) > 10, param.name
    assert f"### `{name}`\n\n{table}" in reference.configuration_reference()


def test_pages_include_what_is_generated(reference, tmp_path):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert "```{include} _generated/configuration.md\n```" in page
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "models").glob("*.md")]
    for name in REGISTRY:
        assert sum(f"```{{include}} ../_generated/params_{name}.md\n```" in text for text in pages) == 1


def test_every_table_and_column_is_on_the_page_of_the_night():
    page = (ROOT / "docs" / "night.md").read_text(encoding="utf-8")
    rows = {
        row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| one row [^|]+ \| (.+) \|$", page, re.MULTILINE)
    }
    assert rows.keys() == TABLES.keys()
    for name, table in TABLES.items():
        assert re.findall(r"`(\w+)`", rows[name]) == list(table.columns)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_shipped_configuration_loads(spark, path):
    config = load_config(path, REGISTRY, environment={})
    check_models(config)
    assert set(config.params) <= set(config.models)


def test_cluster_example_says_of_every_value_what_its_default_is(spark):
    fields = fields_of(sections.Config)
    claims = claims_of((ROOT / "conf" / "cluster.yaml").read_text(encoding="utf-8"))
    assert len(claims) > 30
    for key, claim in claims.items():
        assert claim is not None, f"{key}: no word on its default"
        required, default = claim == "required", yaml.safe_load(claim.removeprefix("default: ").split(";")[0])
        section, _, name = key.partition(".")
        if section in REGISTRY:
            estimator = REGISTRY[section].estimator()
            actual = estimator.getOrDefault(estimator.getParam(name))
            assert default == (list(actual) if isinstance(actual, tuple) else actual), key
        elif required:
            assert fields[key].is_required(), key
        else:
            actual = fields[key].default
            if isinstance(actual, BaseModel):
                actual = actual.model_dump(exclude_none=True)
            assert (None if default == "none" else default) == actual, key


def claims_of(text):
    """Key → the comment beside its value, of a block of YAML; None where a value has no such comment."""
    found, path = {}, []
    for line in text.splitlines():
        match = re.match(r"( *)(\w+):( [^#\n]+?)?(?: # (.+))?$", line)
        if match:
            indent, name, value, comment = match.groups()
            path = [*path[: len(indent) // 2], name]
            claim = comment if comment and re.match(r"default: |required$", comment) else None
            if value or claim:
                found[".".join(path)] = claim
    return found
