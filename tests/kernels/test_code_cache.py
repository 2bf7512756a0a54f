"""Kernels that are loaded instead of compiled: by other processes too, and never another's."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recsys_spark
from recsys_spark.kernels import code_cache
from recsys_spark.kernels.arrays import exact_jit, inlined_exact_jit, inlined_jit, jit

PROGRAM = """
import sys
from recsys_spark.kernels.arrays import exact_jit, inlined_exact_jit
def made(factor):
    @inlined_exact_jit
    def inner(x):
        return x * factor
    @exact_jit
    def outer(x):
        return inner(x) + 1
    return outer
for factor in map(int, sys.argv[1:]):
    kernel = made(factor)
    print(kernel(5), sum(kernel.stats.cache_hits.values()))
"""
SOLVERS = """
import sys
import numpy as np
from recsys_spark.kernels.conjugate_gradient import compiled_conjugate_gradient
from recsys_spark.kernels.normal_equations import compiled_exact
random = np.random.default_rng(7)
rank, rows, columns = 24, 40, 60
indptr = np.arange(0, 30 * (rows + 1), 30)
events = random.integers(0, columns, 30 * rows).astype(np.int32), random.random(30 * rows).astype(np.float32)
factors = random.normal(size=(columns, rank)).astype(np.float32)
row_reg, nothing = np.full(rows, 0.1, np.float32), np.empty(0, np.float32)
def solved(name):
    squares, X = (factors * factors).sum(0), np.zeros((rows, rank), np.float32)
    data = indptr, *events, nothing, factors
    weights = row_reg, True, np.float32(4), np.float32(0)
    if name == "conjugate_gradient":
        kernel, rest = compiled_conjugate_gradient(rank), (3,)
    else:
        kernel, rest = getattr(compiled_exact(rank, np.float32), name), (np.ones(rows, np.bool_),)
        squares = np.diag(squares) if name == "nonnegative" else squares
    value = kernel(*data, squares, *weights, *rest, X)
    return name, sum(kernel.stats.cache_hits.values()), float(value).hex(), X.tobytes().hex()
for name in sys.argv[1:]:
    print(*solved(name))
"""


@exact_jit
def fibonacci(n):
    """Too much for the compiler to inline by itself."""
    return fibonacci(n - 1) + fibonacci(n - 2) if n > 1 else n


def scaled(factor, decorate=exact_jit):
    """A kernel that encloses another one and a number."""
    part = {exact_jit: inlined_exact_jit, jit: inlined_jit}[decorate]

    @part
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


def test_kernel_that_calls_one_which_is_not_inlined_is_refused(cache):
    @exact_jit
    def whole(n):
        return fibonacci(n) * 2

    with pytest.raises(
        TypeError, match=r"whole.* calls .*fibonacci.* not inlined: decorate it with inlined_jit"
    ):
        whole(3)


@pytest.fixture
def run(tmp_path):
    """Runs a program in a process of its own, on a copy of the package and with a cache of its own."""
    shutil.copytree(Path(recsys_spark.__file__).parent, tmp_path / "recsys_spark")

    def run(program, *arguments, **settings):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env={"XDG_CACHE_HOME": str(tmp_path / "cache"), **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split() for line in done.stdout.splitlines()]

    return run


def test_another_process_loads_what_one_has_compiled_until_a_kernel_is_altered(tmp_path, run):
    """Also where hashes of texts differ, and the altered kernel is none that is asked for."""
    assert run(PROGRAM, "2", PYTHONHASHSEED="1") == [["11", "0"]]
    assert run(PROGRAM, "2", PYTHONHASHSEED="2") == [["11", "1"]]
    source = tmp_path / "recsys_spark" / "kernels" / "bags.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(PROGRAM, "2") == [["11", "0"]]


def test_kernels_that_differ_in_what_they_enclose_are_not_taken_for_one_another(run):
    """Each is the first that its process has compiled, from which numba makes its name."""
    assert run(PROGRAM, "2") == [["11", "0"]]
    assert run(PROGRAM, "3") == [["16", "0"]]
    assert run(PROGRAM, "3", "2") == [["16", "1"], ["11", "1"]]
    assert run(PROGRAM, "4", "2", "3") == [["21", "0"], ["11", "1"], ["16", "1"]]


@pytest.mark.slow
def test_loaded_solvers_give_the_bits_that_compiled_ones_give(run):
    names = ["conjugate_gradient", "cholesky", "nonnegative"]
    compiled = run(SOLVERS, *names)
    loaded = run(SOLVERS, *reversed(names))
    assert [hits for _, hits, *_ in compiled] == ["0"] * 3
    assert [hits for _, hits, *_ in loaded] == ["1"] * 3
    assert [(name, *bits) for name, _, *bits in loaded[::-1]] == [
        (name, *bits) for name, _, *bits in compiled
    ]
