"""The jars that Ivy found are remembered from one start of Spark to the next."""

from __future__ import annotations

from threading import Thread

import pytest

from recsys_spark.class_archive import ClassArchive
from recsys_spark.jars import FoundJars

DELTA = "io.delta:delta-spark_4.2_2.13:4.4.0"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("SPARK_CONF_DIR", "SPARK_HOME", "PYSPARK_SUBMIT_ARGS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def jars(tmp_path):
    found = [tmp_path / "delta.jar", tmp_path / "another one.jar"]
    for jar in found:
        jar.write_bytes(b"classes")
    return found


def listed(jars):
    """As Spark has them in ``spark.jars``."""
    return ",".join(f"file://{jar}" for jar in jars)


def test_what_was_found_is_known_at_the_next_start(jars):
    assert FoundJars([DELTA], {}).read() is None
    FoundJars([DELTA], {}).write(listed(jars))
    assert FoundJars([DELTA], {"spark.log.level": "INFO"}).read() == ",".join(map(str, jars))


@pytest.mark.parametrize(
    ("packages", "settings"),
    [([DELTA, "org:more:1"], {}), ([DELTA], {"spark.jars.repositories": "https://mirror"})],
)
def test_other_packages_and_repositories_are_looked_for(jars, packages, settings):
    FoundJars([DELTA], {}).write(listed(jars))
    assert FoundJars(packages, settings).read() is None


@pytest.mark.parametrize("name", ["SPARK_CONF_DIR", "SPARK_HOME", "PYSPARK_SUBMIT_ARGS"])
def test_settings_that_are_not_known_beforehand_are_left_to_spark(jars, monkeypatch, name):
    FoundJars([DELTA], {}).write(listed(jars))
    monkeypatch.setenv(name, "further")
    assert FoundJars([DELTA], {}).read() is None


def test_a_jar_that_is_gone_or_was_cut_off_is_looked_for(jars):
    FoundJars([DELTA], {}).write(listed(jars))
    jars[1].write_bytes(b"cla")
    assert FoundJars([DELTA], {}).read() is None
    jars[1].unlink()
    assert FoundJars([DELTA], {}).read() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"jar": '])
def test_a_memory_that_is_damaged_is_none(jars, cache, text):
    FoundJars([DELTA], {}).write(listed(jars))
    (file,) = (cache / "recsys-spark").iterdir()
    file.write_text(text)
    assert FoundJars([DELTA], {}).read() is None


def test_one_process_fetches_while_others_wait_for_what_it_finds(jars):
    found = []

    def fetch_too():
        with FoundJars([DELTA], {}).fetching():
            found.append(FoundJars([DELTA], {}).read())

    other = Thread(target=fetch_too)
    with FoundJars([DELTA], {}).fetching():
        other.start()
        other.join(0.2)
        assert other.is_alive()
        FoundJars([DELTA], {}).write(listed(jars))
    other.join(60)
    assert found == [",".join(map(str, jars))]


def test_a_cache_that_cannot_be_written_remembers_nothing(jars, cache):
    cache.write_text("a file")
    with FoundJars([DELTA], {}).fetching():
        FoundJars([DELTA], {}).write(listed(jars))
    assert FoundJars([DELTA], {}).read() is None
    assert cache.read_text() == "a file"


def test_a_user_without_a_home_starts_without_a_memory(jars, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", no_home)
    with FoundJars([DELTA], {}).fetching():
        FoundJars([DELTA], {}).write(listed(jars))
    assert FoundJars([DELTA], {}).read() is None
    assert ClassArchive(str(jars[0])).options == []
