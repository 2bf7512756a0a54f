"""Executors that are killed in the middle of a fit, of sampling, and of making lists; the package shipped as
a zip.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import recsys_spark
from tests.cluster.conftest import environment


def kill_an_executor(folder):
    """Of this cluster, whose workers' folders lie in ``folder``, and of no other on the machine."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        executor = any("CoarseGrainedExecutorBackend" in word for word in process.info["cmdline"] or [])
        if executor and (process.info["cwd"] or "").startswith(str(folder)):
            process.kill()
            return
    raise AssertionError("there is no executor to kill")


def worked_twice(cluster, folder, work, kill_at=None):
    """What the program answered and printed; an executor is killed at a line of its second time."""
    package = Path(recsys_spark.__file__).parent
    archive = shutil.make_archive(str(folder / "shipped"), "zip", package.parent, package.name)
    command = [sys.executable, "-m", "tests.cluster.work_twice", cluster.url, archive, work]
    command.append(json.dumps(cluster.settings))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as program:
        lines, killed = [], False
        for line in program.stderr:
            lines.append(line)
            if not killed and kill_at is not None and "and again\n" in lines and kill_at(line):
                kill_an_executor(cluster.folder)
                killed = True
        answer = program.stdout.read()
    assert program.returncode == 0, "".join(lines)
    assert killed == (kill_at is not None), "".join(lines)
    return json.loads(answer.splitlines()[-1]), lines


def after(step, number):
    """A line that tells of a later iteration than this."""

    def is_later(line):
        reported = re.search(rf"{step} (\d+) of", line)
        return reported and int(reported[1]) > number

    return is_later


@pytest.mark.long
@pytest.mark.parametrize(
    ("work", "step", "number", "first_iterations"),
    [
        # one job: the killed fit starts again
        pytest.param("als", "ALS iteration", 1, 3, id="als"),
        # jobs of twelve epochs: what the first one learnt is kept
        pytest.param("softmax", "softmax epoch", 12, 2, id="softmax"),
    ],
)
def test_executor_killed_in_mid_fit_costs_one_job_and_no_bit(
    cluster, tmp_path, work, step, number, first_iterations
):
    answered, lines = worked_twice(cluster, tmp_path, work, after(step, number))
    assert sum(f"{step} 1 of" in line for line in lines) == first_iterations
    assert answered["same"]
    assert "shipped.zip" in answered["module"]


@pytest.mark.long
@pytest.mark.parametrize("work", ["sampling", "lists"])
def test_executor_killed_in_mid_stage_costs_its_tasks_and_no_row(cluster, tmp_path, work):
    def in_the_middle(line):
        told = re.search(r"stage \d+: (\d+) of (\d+) tasks", line)
        return told and int(told[2]) >= 4 and 0 < int(told[1]) < int(told[2])

    answered, _ = worked_twice(cluster, tmp_path, work, in_the_middle)
    assert answered["same"]


@pytest.mark.long
def test_fit_on_a_cluster_that_encrypts_its_network(encrypting_cluster, tmp_path):
    answered, _ = worked_twice(encrypting_cluster, tmp_path, "als")
    assert answered["same"]
