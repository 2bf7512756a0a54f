"""Configuration: what is rejected, and that the error says file, key, given and allowed."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from recsys_spark.config import load_config
from recsys_spark.errors import ConfigError
from recsys_spark.models.registry import REGISTRY, build

GOOD = """
lake: {root: lake}
ingest: {source: {format: synthetic}}
"""
CSV = """
lake: {root: lake}
ingest:
  source: {format: csv, path: x.csv, columns: {user: u, item: i, event: e}}
  events: {weights: {view: 1, purchase: 5, return: -5}}
"""


@pytest.fixture
def load(tmp_path):
    def loaded(text=GOOD, *overrides, environment=None):
        path = tmp_path / "conf.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, REGISTRY, overrides, environment or {})

    return loaded


@pytest.mark.parametrize(
    ("overrides", "key", "given", "allowed"),
    [
        (["splits.k=1"], "splits", "'splits'", "did you mean 'split'"),
        (["split.metod=random"], "split.metod", "'metod'", "did you mean 'method'"),
        (["split.rows_per_user=0"], "split.rows_per_user", "0", "greater than or equal to 1"),
        (["split.rows_per_user=two"], "split.rows_per_user", "'two'", "integer"),
        (["split.test_fraction=1.5"], "split.test_fraction", "1.5", "less than 1"),
        (["split.method=luck"], "split.method", "'luck'", "leave_last"),
        (["seed=-1"], "seed", "-1", "greater than or equal to 0"),
        (["evaluate.cutoffs=[]"], "evaluate.cutoffs", "[]", "at least 1 item"),
        (["evaluate.champion_metric=ndcg@7"], "evaluate", "{", "cut-off that is not in [5"),
        (["models=[alz]"], "models", "'alz'", "als, blend, item_item"),
        (["models=[als, als]"], "models", "['als', 'als']", "each model once"),
        (["als=7"], "als", "7", "mapping"),
        (["ingest.source.format=xml"], "ingest.source.format", "'xml'", "synthetic, movielens, csv"),
        (["ingest.source.pat=1"], "ingest.source.pat", "'pat'", "ratings"),
        (["ingest.scale=[5, 1]"], "ingest", "{", "scale must be [smallest, largest]"),
        (["ingest.max_rejected_fraction=2"], "ingest.max_rejected_fraction", "2", "less than or equal to 1"),
        (["ingest.events.weights={view: 1}"], "ingest", "{", "belong together"),
        (["ingest.events.cap=3"], "ingest", "{", "for sources without ratings"),
        (["lake.catalog=a.b"], "lake", "{", "exactly one of root and catalog"),
        (["session.memory=lots"], "session.memory", "'lots'", "match pattern"),
        (["origin=x"], "origin", "'x'", "lake"),
        (["params={}"], "params", "{}", "lake"),
    ],
)
def test_error_names_file_key_given_and_allowed(load, tmp_path, overrides, key, given, allowed):
    with pytest.raises(ConfigError) as caught:
        load(GOOD, *overrides)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'conf.yaml'}: {key}: given {given}")
    assert allowed in message


def test_every_problem_is_named_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load(GOOD, "split.rows_per_user=0", "seed=x", "recommend.m=3")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lake: [", "is not YAML"),
        ("- a\n- b", "a mapping of sections"),
        ("lake: {root: a}\nlake: {root: b}", "key 'lake' is given twice"),
        ("", "a mapping of sections"),
        ("lake: {root: {{LAKE}}}", "is not YAML"),
        ("ingest: {earliest: 2020-13-45}", "is not YAML"),
        ("seed: !!int x", "is not YAML"),
        ("ingest: {source: {format: synthetic}}", "lake: given 'nothing'; allowed: this key is required"),
    ],
)
def test_file_that_is_not_a_configuration_is_rejected(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_merge_keys_are_read(load):
    merged = load(
        "split: &s {rows_per_user: 2}\nlake: {root: a}\n"
        "ingest: {source: {format: synthetic, <<: {ratings: 5000}}}"
    )
    assert merged.ingest.source.ratings == 5000


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config(tmp_path / "nowhere.yaml", REGISTRY)


@pytest.mark.parametrize(
    ("override", "message"),
    [("split.rows_per_user", "key.path=value"), ("=3", "key.path=value"), ("seed.x=1", "given 'seed'")],
)
def test_malformed_override_is_rejected(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load(GOOD + "seed: 1", override)


def test_command_line_beats_environment_beats_file(load):
    text = GOOD + "split: {rows_per_user: 2}\nseed: 1\nrecommend: {n: 5}"
    config = load(
        text,
        "split.rows_per_user=4",
        environment={"RECSYS__SPLIT__ROWS_PER_USER": "3", "RECSYS__SEED": "9", "OTHER": "1"},
    )
    assert (config.split.rows_per_user, config.seed, config.recommend.n) == (4, 9, 5)


def test_params_in_camel_case_come_from_the_environment(load):
    environment = {"RECSYS__ALS__REG_PARAM": "0.5", "RECSYS__ALS__RANK": "8"}
    assert load(GOOD, environment=environment).params == {"als": {"regParam": 0.5, "rank": 8}}


def test_spark_settings_keep_their_dots_and_are_text(load):
    assert load(GOOD, "session.spark.spark.sql.shuffle.partitions=4").session.spark == {
        "spark.sql.shuffle.partitions": "4"
    }


def test_model_sections_become_parameters(load):
    assert load(GOOD, "als.rank=64").params == {"als": {"rank": 64}}


def test_events_and_a_mapped_column_need_each_other(load):
    assert load(CSV).ingest.events.weights["view"] == 1
    with pytest.raises(ConfigError, match="belong together"):
        load(CSV, "ingest.events={}")


TIMED = ["ingest.source.columns.timestamp=t"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ingest.events.weights={return: -5}"], r"ingest\.events: .*one weight must be above 0"),
        (["ingest.events.weights={view: 0, buy: 1}"], "weight of 0 says nothing"),
        (["ingest.events.weights.return=-4", "ingest.events.combine=max"], "'return' must have the weight"),
        (["ingest.events.half_life=30"], r"half_life, .* need source\.columns\.timestamp"),
        (["ingest.events.window=30"], r"window .* need source\.columns\.timestamp"),
        (["ingest.events.combine=latest"], r"latest need source\.columns\.timestamp"),
        (["ingest.scale=[1, 5]"], r"events\.cap bounds their worth"),
        (["history.als=[buy]"], r"history\.als names the event 'buy', which ingest\.events\.weights has not"),
        (["history.softmax=[view]"], "history names 'softmax', which is not among models"),
        (["recommend.exclude_seen=[bought]"], r"recommend\.exclude_seen names the event 'bought'"),
        (["recommend.exclude_seen=[]"], r"recommend\.exclude_seen"),
        (["recommend.seen_days=7"], r"recommend\.seen_days needs ingest\.source\.columns\.timestamp"),
        (["split.repeats=true"], r"split\.repeats is for events, and needs .*columns\.timestamp"),
        ([*TIMED, "split.repeats=true"], r"lists that may hold what was seen: .* recommend\.exclude_seen"),
        (
            [*TIMED, "split.repeats=true", "recommend.exclude_seen=false", "split.method=random"],
            r"split\.repeats is for temporal and leave_last, got random",
        ),
        (["recommend.users.active_days=7"], r"users\.active_days needs ingest\.source\.columns\.timestamp"),
        (["recommend.users.table={path: a}"], r"recommend\.users: .*table lists users: give its column user"),
        (["recommend.items.deny={path: a, user: u}"], r"recommend\.items: .*deny lists items: give .* item"),
        (["recommend.items.deny=[{path: a, item: i}, {path: b}]"], r"recommend\.items: .*deny lists items"),
        (
            ["recommend.items.allow=[{path: a, item: i, user: u}, {path: b, item: i, user: u}]"],
            r"recommend\.items: .*allow has one table with user at most",
        ),
        (
            ["recommend.items.allow={path: a, user: u, item: i, segment: {age: b}}"],
            r"recommend\.items: .*allow is for single users or for segments: give user or segment",
        ),
        (
            ["recommend.users.table={path: a, user: u, segment: {age: b}}"],
            r"recommend\.users: .*table lists users: .* no item and no segment",
        ),
    ],
)
def test_contradictions_about_events_are_named(load, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(CSV, *overrides)


def test_shipped_configurations_are_valid():
    folder = Path(__file__).parents[1] / "conf"
    files = sorted(folder.glob("*.yaml"))
    assert [file.name for file in files] == [
        "cluster.yaml",
        "demo.yaml",
        "movielens.yaml",
        "second_stage.yaml",
    ]
    for file in files:
        config = load_config(file, REGISTRY, environment={})
        for name in config.models:
            build(name, config.params.get(name, {}), config.seed)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rnak": 3}, r"als\.rnak: given 3; allowed: did you mean 'rank'"),
        ({"rank": "many"}, r"als\.rank: given 'many'"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"regParam": -0.1}, "regParam must be at least 0"),
        ({"userCol": "u"}, r"als\.userCol: given 'u'"),
    ],
)
def test_model_parameters_are_checked_against_the_estimators_own(params, message):
    with pytest.raises(ConfigError, match=message):
        build("als", params, 1)


def test_params_reach_the_estimator_with_the_seed_of_the_configuration():
    estimator = build("als", {"rank": 3}, 99)
    assert (estimator.getOrDefault("rank"), estimator.getOrDefault("seed")) == (3, 99)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5e+1", -5.0),
        (".inf", float("inf")),
        ("017", 17),
        ("0x1F", 31),
        ("0o17", 15),
        ("100_000", 100_000),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("Y", "Y"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1e", "1e"),
        ("2024-01-31", date(2024, 1, 31)),
        ("2024-01-31 10:00", "2024-01-31 10:00"),
        ("'7'", "7"),
    ],
)
@pytest.mark.parametrize("where", ["file", "override", "environment"])
def test_scalars_are_those_of_yaml_1_2(load, where, written, value):
    if where == "file":
        config = load(f"{GOOD}\nals: {{regParam: {written}}}")
    elif where == "override":
        config = load(GOOD, f"als.regParam={written}")
    else:
        config = load(GOOD, environment={"RECSYS__ALS__REG_PARAM": written})
    read = config.params["als"]["regParam"]
    assert (type(read), read) == (type(value), value)


def test_columns_may_be_called_no_and_on(load):
    config = load(CSV.replace("user: u, item: i", "user: no, item: on"))
    assert (config.ingest.source.columns.user, config.ingest.source.columns.item) == ("no", "on")
