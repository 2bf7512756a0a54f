"""Fits on the cluster, the package shipped as a zip."""

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


@pytest.mark.parametrize(
    ("model", "step", "kill_after", "first_iterations"),
    [
        # one job: the killed fit starts again
        ("als", "ALS iteration", 1, 3),
        # jobs of 20 epochs: what the first one learnt is kept
        ("softmax", "softmax epoch", 20, 2),
    ],
)
def test_executor_killed_in_mid_fit_costs_one_job_and_no_bit(
    cluster, tmp_path, model, step, kill_after, first_iterations
):
    package = Path(recsys_spark.__file__).parent
    archive = shutil.make_archive(str(tmp_path / "shipped"), "zip", package.parent, package.name)
    command = [sys.executable, "-m", "tests.cluster.fit_twice", cluster.url, archive, model]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as program:
        lines, killed = [], False
        for line in program.stderr:
            lines.append(line)
            reported = re.search(rf"{step} (\d+) of", line)
            if not killed and "and again\n" in lines and reported and int(reported[1]) > kill_after:
                kill_an_executor(cluster.folder)
                killed = True
        answer = program.stdout.read()
    assert program.returncode == 0, "".join(lines)
    answered = json.loads(answer.splitlines()[-1])
    assert killed
    assert sum(f"{step} 1 of" in line for line in lines) == first_iterations
    assert answered["same factors"]
    assert answered["same objectives"]
    assert "shipped.zip" in answered["module"]
