"""Java's classes, kept from one start to the next."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from recsys_spark.class_archive import ClassArchive
from recsys_spark.session import java_program

LOADED = """
from recsys_spark.session import get_session, keep_classes
keep_classes()
session = get_session()
session.range(3).count()
options = session._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean().getInputArguments()
print(sum("SharedArchiveFile" in option for option in options))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "recsys-spark"


def started(folder):
    """What a process prints that starts Spark, and all else that it writes."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.spark
def test_the_second_start_reads_what_the_first_has_written_and_what_nobody_uses_goes(cache, tmp_path):
    cache.mkdir(parents=True)
    used, unused = cache / "classes-of-another-java.jsa", cache / "classes-of-long-ago.jsa"
    half_written = cache / "classes-of-who-was-killed.jsa.0f"
    for file, days in ((used, 29), (unused, 31), (half_written, 2)):
        file.write_bytes(b"theirs")
        os.utime(file, (time.time() - days * 86_400,) * 2)
    assert started(tmp_path) == ("0\n", "")
    (kept,) = set(cache.glob("classes-*")) - {used}
    assert used.exists()
    assert kept.stat().st_size > 2**20
    assert started(tmp_path) == ("1\n", "")


@pytest.mark.slow
@pytest.mark.spark
def test_a_file_that_is_damaged_is_not_read_and_nothing_is_told(cache, tmp_path):
    kept = ClassArchive(java_program())
    (option,) = (one for one in kept.options if "Dump" in one)
    cache.mkdir(parents=True)
    name = kept._file.name
    (cache / name).write_bytes(b"no archive at all")
    assert option not in ClassArchive(java_program()).options
    assert started(tmp_path) == ("1\n", "")


def test_another_java_and_another_spark_have_files_of_their_own(cache, tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()
    other.touch()
    first = ClassArchive(str(one))._file
    assert ClassArchive(str(one))._file == first
    assert ClassArchive(str(other))._file != first
    os.utime(one, (1, 1))  # it was replaced
    assert ClassArchive(str(one))._file != first
    second = ClassArchive(str(one))._file
    monkeypatch.setattr("pyspark.__version__", "9.9.9")
    assert ClassArchive(str(one))._file != second


@pytest.mark.parametrize("name", ["SPARK_HOME", "JAVA_TOOL_OPTIONS"])
def test_where_java_may_be_another_than_it_seems_it_is_left_alone(cache, monkeypatch, name):
    monkeypatch.setenv(name, "something")
    assert ClassArchive(java_program()).options == []


def test_without_java_or_in_a_folder_whose_name_java_would_divide_nothing_is_kept(
    cache, tmp_path, monkeypatch
):
    assert ClassArchive(None).options == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    assert ClassArchive(java_program()).options == []
