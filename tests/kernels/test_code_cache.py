"""Kernels that are loaded instead of compiled: by other processes too, and never another's."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recsys_spark
from recsys_spark.kernels import code_cache
from recsys_spark.kernels.arrays import exact_jit, jit

PROGRAM = """
from recsys_spark.kernels.arrays import exact_jit
@exact_jit
def inner(x):
    return x * 2
def made():
    @exact_jit
    def outer(x):
        return inner(x) + 1
    return outer
kernel = made()
print(kernel(5), sum(kernel.stats.cache_hits.values()))
"""


def scaled(factor, decorate=exact_jit):
    """A kernel that encloses another one and a number."""

    @decorate
    def times(x):
        return x * factor

    @decorate
    def summed(values):
        total = 0.0
        for value in values:
            total += times(value)
        return total

    return summed


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, for kernels that are made from now on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code_cache.folder_of_sources.cache_clear()
    yield tmp_path
    code_cache.folder_of_sources.cache_clear()


def loaded(kernel):
    """Signatures that were not compiled."""
    return sum(kernel.stats.cache_hits.values())


def test_kernel_made_anew_is_loaded_and_does_the_same(cache):
    values = np.array([1.0, 2.0, 4.0])
    first, again = scaled(3.0), scaled(3.0)
    assert (first(values), loaded(first)) == (21.0, 0)
    assert (again(values), loaded(again)) == (21.0, 1)


@pytest.mark.parametrize("other", [lambda: scaled(5.0), lambda: scaled(3), lambda: scaled(3.0, jit)])
def test_kernel_that_encloses_something_else_or_has_other_settings_is_another(cache, other):
    values = np.array([1.0, 2.0, 4.0])
    scaled(3.0)(values)
    kernel = other()
    assert loaded(kernel) == 0
    assert kernel(values) in (21.0, 35.0)
    assert loaded(kernel) == 0


def test_other_types_of_arguments_are_compiled(cache):
    kernel, again = scaled(3.0), scaled(3.0)
    assert kernel(np.array([1.0, 2.0], np.float32)) == 9.0
    assert again(np.array([1, 2])) == 9.0
    assert loaded(again) == 0


@pytest.mark.parametrize("damage", [lambda code: code[:-7], lambda code: code[:0], lambda code: code[::-1]])
def test_damaged_file_is_compiled_anew(cache, damage):
    values = np.array([1.0, 2.0, 4.0])
    scaled(3.0)(values)
    for file in (cache / "recsys-spark" / "kernels").glob("*/*"):
        file.write_bytes(damage(file.read_bytes()))
    kernel, again = scaled(3.0), scaled(3.0)
    assert (kernel(values), loaded(kernel)) == (21.0, 0)
    assert (again(values), loaded(again)) == (21.0, 1)


def test_without_a_folder_that_can_be_written_nothing_is_kept(cache, monkeypatch):
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    code_cache.folder_of_sources.cache_clear()
    kernel, again = scaled(3.0), scaled(3.0)
    assert kernel(np.ones(2)) == again(np.ones(2)) == 6.0
    assert loaded(again) == 0


def test_another_process_loads_what_one_has_compiled_until_a_kernel_is_altered(tmp_path):
    """Also where hashes of texts differ, and the altered kernel is none that is asked for."""
    shutil.copytree(Path(recsys_spark.__file__).parent, tmp_path / "recsys_spark")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")

    def run(seed):
        settings = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, str(tmp_path / "program.py")],
            env={**settings, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert run("1") == ["11", "0"]
    assert run("2") == ["11", "1"]
    source = tmp_path / "recsys_spark" / "kernels" / "bags.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run("1") == ["11", "0"]
