"""The command line in processes of its own: exit codes and output."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable

from recsys_spark import __version__
from recsys_spark.cli import app, main
from recsys_spark.console import table
from recsys_spark.data.download import RELEASES
from recsys_spark.jars import FoundJars
from recsys_spark.pipeline import STEP_NAMES
from recsys_spark.pipeline.steps import STEPS
from recsys_spark.session import DELTA_JAR

PROJECT = Path(__file__).parents[1]


def recsys(*arguments, cwd, **environment):
    command = [sys.executable, "-c", "from recsys_spark.cli import main; main()", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=300, check=False
    )


def test_wrong_configuration_exits_with_2_before_spark_starts(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "lake: {root: lake}\ningest: {source: {format: synthetic}}\nsplitt: {}\n"
    )
    done = recsys("nightly", "--config", "c.yaml", "--run-date", "2026-01-31", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "recsys: c.yaml: splitt: given 'splitt'; allowed: did you mean 'split'? Known keys: "
        "lake, ingest, session, split, negatives, models, history, evaluate, recommend, gate, feedback, "
        "report, tune, mlflow, retention, seed, als, blend, item_item, mllib_als, pairwise, popularity, "
        "ranker, segment_popularity, softmax, spectral\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nightly", "--run-date", "2026-01-31"], "Missing option '--config'"),
        (
            ["nightly", "--config", "c.yaml", "--run-date", "tonight"],
            "'tonight' is not a day such as 2026-01-31",
        ),
        (["nightly", "--config", "c.yaml"], "Missing option '--run-date'"),
        (["datasets", "download", "netflix"], f"not one of {', '.join(RELEASES)}"),
        (["serve"], "No such command 'serve'"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path, arguments, message):
    done = recsys(*arguments, cwd=tmp_path, COLUMNS="300", TERM="dumb")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.spark
def test_failed_step_exits_with_1_and_one_line(tmp_path):
    text = "lake: {root: lake}\nsession: {memory: 1g}\n"
    text += "ingest: {source: {format: movielens, path: nowhere.zip}}\n"
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "nowhere.zip").write_bytes(b"no zip")
    done = recsys("ingest", "--config", "c.yaml", "--run-date", "2026-01-31", cwd=tmp_path)
    assert done.returncode == 1
    assert "recsys: nowhere.zip: is neither a folder nor a zip" in done.stderr
    assert "Traceback" not in done.stderr
    assert "WARN" not in done.stderr


def test_missing_input_is_noticed_before_spark_starts(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(
        "lake: {root: lake}\n"
        "ingest: {source: {format: csv, path: 'in/*.csv', items: {path: items.csv, id: sku}}}\n"
    )
    arguments = ("--config", "c.yaml", "--run-date", "2026-01-31")
    done = recsys("nightly", *arguments, cwd=tmp_path, JAVA_HOME="/nowhere")
    assert done.returncode == 2
    assert done.stderr == (
        f"recsys: c.yaml: ingest.source.path: given 'in/*.csv'; allowed: an existing file, folder or glob; "
        f"looked for in {tmp_path}\n"
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["ingest", *arguments])
    assert ended.value.code == 2
    assert "ingest.source.items.path: given 'items.csv'" in capsys.readouterr().err


def test_help_and_version_import_neither_spark_nor_models(tmp_path):
    program = (
        "import sys\nfrom recsys_spark.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([name for name in ('pyspark', 'numba', 'pandas', 'pyarrow') if name in sys.modules])\n"
    )
    for argument, expected in (("--help", "nightly"), ("--version", f"recsys-spark {__version__}")):
        done = subprocess.run(
            [sys.executable, "-c", program, argument],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        assert expected in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


def test_every_step_is_a_command_whose_help_says_what_it_reads_and_writes():
    assert list(STEPS) == list(STEP_NAMES)
    commands = {command.name: command.callback for command in app.registered_commands}
    for name, step in STEPS.items():
        line = inspect.getdoc(step).splitlines()[0]
        assert "reads" in line
        assert "writes" in line
        assert commands[name.replace("_", "-")].__doc__ == line


def test_train_takes_the_models_to_train(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text("lake: {root: lake}\ningest: {source: {format: synthetic}}\n")
    monkeypatch.chdir(tmp_path)
    models = ("--models", "als", "--models", "alz")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "c.yaml", "--run-date", "2026-01-31", *models])
    assert ended.value.code == 2
    message = capsys.readouterr().err.replace("\n", " ")
    known = "als, blend, item_item, mllib_als, pairwise, popularity, ranker, "
    known += "segment_popularity, softmax, spectral"
    assert f"models: given 'alz'; allowed: {known}" in message


@pytest.mark.spark
def test_library_use_leaves_nothing_in_the_folders_it_runs_in(tmp_path):
    (tmp_path / "tmp").mkdir()
    program = (
        "from recsys_spark import get_session\nprint(get_session().sql('create table t as select 1').count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path / "tmp")},
        check=True,
    )
    assert done.stdout.strip() == "0"
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("recsys")] == []


def test_table_shows_markup_and_control_characters_as_text(capsys):
    table("T", [{"title": "[/red] [bold]x \\ \x1b[31m \u202eevil \N{ZERO WIDTH JOINER}"}], ["title"])
    assert "[/red] [bold]x \\ \ufffd[31m \ufffdevil \N{ZERO WIDTH JOINER}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("java", "message"),
    [
        (None, "Java not found: install a JDK 17, 21 or 25"),
        ("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n", "Java 11 is too old for Spark 4.2"),
        ("#!/bin/sh\necho 'java version \"1.8.0_202\"' >&2\n", "Java 8 is too old for Spark 4.2"),
    ],
)
def test_missing_or_old_java_is_one_line(tmp_path, java, message):
    (tmp_path / "bin").mkdir()
    if java:
        (tmp_path / "bin/java").write_text(java)
        (tmp_path / "bin/java").chmod(0o755)
    (tmp_path / "c.yaml").write_text("lake: {root: lake}\ningest: {source: {format: synthetic}}\n")
    done = recsys("split", "-c", "c.yaml", "-d", "2026-01-31", cwd=tmp_path, JAVA_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"recsys: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def without_maven(tmp_path):
    """A configuration whose Ivy finds nothing; its settings."""
    (tmp_path / "ivysettings.xml").write_text(
        '<ivysettings><settings defaultResolver="none"/><resolvers>'
        f'<filesystem name="none"><artifact pattern="{tmp_path}/[artifact].jar"/></filesystem>'
        "</resolvers></ivysettings>"
    )
    settings = {
        "spark.jars.ivy": f"{tmp_path}/ivy",
        "spark.jars.ivySettings": f"{tmp_path}/ivysettings.xml",
    }
    lines = [f"    {key}: '{value}'\n" for key, value in settings.items()]
    text = "lake: {root: lake}\ningest: {source: {format: synthetic}}\nsession:\n  memory: 1g\n  spark:\n"
    (tmp_path / "c.yaml").write_text(text + "".join(lines))
    return settings


@pytest.mark.spark
def test_jar_that_cannot_be_fetched_is_one_line(tmp_path, without_maven):
    done = recsys("split", "-c", "c.yaml", "-d", "2026-01-31", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("recsys: Delta's jar io.delta:delta-spark_4.2_2.13:4.4.0 cannot be fetched")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.spark
def test_jars_that_were_fetched_are_not_asked_for_again(tmp_path, without_maven, spark, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own cache"))  # with a blank no classes are kept
    FoundJars([DELTA_JAR], without_maven).write(spark.sparkContext.getConf().get("spark.jars"))
    done = recsys("split", "-c", "c.yaml", "-d", "2026-01-31", cwd=tmp_path)
    assert done.returncode == 1
    # Spark has started, and Delta has been asked
    assert done.stderr.splitlines()[-1].startswith("recsys: table 'ratings' is not in lake")


@pytest.mark.spark
def test_doctor_finds_everything_in_order(tmp_path):
    done = recsys("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    for check in (
        "Java",
        "Spark",
        "Delta jars",
        "Python of workers",
        "BLAS threads of workers",
        "Write access",
        "Free memory",
    ):
        assert check in done.stdout


def test_doctor_without_java_says_what_to_install(tmp_path):
    done = recsys("doctor", cwd=tmp_path, JAVA_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "install a JDK 17, 21 or 25" in done.stdout


def test_spark_connect_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "c.yaml").write_text("lake: {root: lake}\ningest: {source: {format: synthetic}}\n")
    done = recsys(
        "split", "-c", "c.yaml", "-d", "2026-01-31", cwd=tmp_path, SPARK_REMOTE="sc://localhost:15002"
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("recsys: this is a session of Spark Connect")


@pytest.mark.spark
def test_submitted_session_keeps_what_the_cluster_set(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "from recsys_spark.config import Session\n"
        "from recsys_spark.session import get_session\n"
        "spark = get_session(Session(cores=1, spark={'spark.sql.shuffle.partitions': '3'}))\n"
        "for key in ('spark.master', 'spark.sql.session.timeZone', 'spark.sql.shuffle.partitions', "
        "'spark.sql.extensions'):\n"
        "    print(key, spark.conf.get(key))\n"
    )
    submit = Path(sys.executable).with_name("spark-submit")
    ours = {
        "spark.sql.session.timeZone": "Europe/Paris",
        "spark.sql.shuffle.partitions": "7",
        "spark.ui.enabled": "false",
    }
    settings = [part for key, value in ours.items() for part in ("--conf", f"{key}={value}")]
    packages = ["--packages", "io.delta:delta-spark_4.2_2.13:4.4.0"]
    command = [
        str(submit),
        "--master",
        "local[2]",
        "--driver-memory",
        "1g",
        *packages,
        *settings,
        str(script),
    ]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300, check=True)
    assert done.stdout.splitlines()[-4:] == [
        "spark.master local[2]",
        "spark.sql.session.timeZone Europe/Paris",
        "spark.sql.shuffle.partitions 7",
        "spark.sql.extensions io.delta.sql.DeltaSparkSessionExtension",
    ]


@pytest.fixture
def at_one_instant(tmp_path):
    """A function that runs a command three times at once: of 2026-01-30, and twice of 2026-01-31, of which
    one is refused.
    """
    source = {"format": "synthetic", "ratings": 1_000}
    tree = {"lake": {"root": "lake"}, "ingest": {"source": source}, "models": ["popularity"]}
    (tmp_path / "night.yaml").write_text(yaml.safe_dump({**tree, "session": {"memory": "1g", "cores": 1}}))
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(PROJECT)}, "text": True}

    def run(name):
        command = [sys.executable, "-c", "from recsys_spark.cli import main; main()", name, "-q"]
        started = [
            subprocess.Popen([*command, "-c", "night.yaml", "-d", day], stderr=subprocess.PIPE, **options)
            for day in ("2026-01-30", "2026-01-31", "2026-01-31")
        ]
        errors = [one.communicate()[1] for one in started]
        codes = [one.returncode for one in started]
        assert codes[0] == 0, errors[0]
        assert sorted(codes[1:]) == [0, 1], errors[1:]
        (refused,) = (error for error, code in zip(errors[1:], codes[1:], strict=True) if code)
        assert re.search(r"2026-01-31 is being run by run \w+ on \S+, process \d+, since 20\d\d-", refused)

    return run


@pytest.mark.slow
def test_of_steps_that_begin_at_one_instant_one_of_a_date_is_let_in(at_one_instant, tmp_path):
    at_one_instant("ingest")
    done = DeltaTable(tmp_path / "lake" / "runs").to_pandas()
    done = done[(done["step"] == "ingest") & (done["state"] == "done")]
    assert sorted(map(str, done["run_date"])) == ["2026-01-30", "2026-01-31"]
    read, inserted = ([dict(counts)[name] for counts in done["counts"]] for name in ("read", "inserted"))
    assert read == [1_000, 1_000]
    assert min(inserted) == 0 < max(inserted)  # one of them found all that the other had written


@pytest.mark.long
@pytest.mark.slow
def test_of_nights_that_begin_at_one_instant_one_of_a_date_is_let_in(at_one_instant, tmp_path):
    at_one_instant("nightly")
    lists = DeltaTable(tmp_path / "lake" / "recommendations").to_pandas()
    assert lists.groupby("run_date").size().nunique() == 1
    assert {str(day) for day in lists["run_date"]} == {"2026-01-30", "2026-01-31"}
    served = DeltaTable(tmp_path / "lake" / "current_recommendations").to_pandas()
    assert {str(day) for day in served["run_date"]} == {"2026-01-31"}
