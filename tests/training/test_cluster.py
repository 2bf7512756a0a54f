"""Fits on a small cluster: a standalone master and two workers of one core, the package
shipped as a zip.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyspark
import pytest

import recsys_spark

pytestmark = [pytest.mark.spark, pytest.mark.slow]

SPARK_CLASS = str(Path(pyspark.__file__).parent / "bin" / "spark-class")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def cluster(tmp_path):
    """URL of the master."""
    port = free_port()
    url = f"spark://127.0.0.1:{port}"
    master = [
        "org.apache.spark.deploy.master.Master",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--webui-port",
        "0",
    ]
    worker = [
        "org.apache.spark.deploy.worker.Worker",
        "--host",
        "127.0.0.1",
        "--cores",
        "1",
        "--memory",
        "2g",
        "--webui-port",
        "0",
    ]
    daemons = []
    with (tmp_path / "daemons.log").open("w") as log:

        def start(arguments):
            command = [SPARK_CLASS, *arguments]
            daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
            )

        start(master)
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, (tmp_path / "daemons.log").read_text()
            time.sleep(0.1)
        for number in range(2):
            start([*worker, "--work-dir", str(tmp_path / f"worker-{number}"), url])
        yield url
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def environment():
    """Variables of this process, without those of its own session."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYSPARK", "SPARK", "_PYSPARK"))
    }


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
    command = [sys.executable, "-m", "tests.training.cluster_fit", cluster, archive, model]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as program:
        lines, killed = [], False
        for line in program.stderr:
            lines.append(line)
            reported = re.search(rf"{step} (\d+) of", line)
            if not killed and "and again\n" in lines and reported and int(reported[1]) > kill_after:
                kill_an_executor(tmp_path)
                killed = True
        answer = program.stdout.read()
    assert program.returncode == 0, "".join(lines)
    answered = json.loads(answer.splitlines()[-1])
    assert killed
    assert sum(f"{step} 1 of" in line for line in lines) == first_iterations
    assert answered["same factors"]
    assert answered["same objectives"]
    assert "shipped.zip" in answered["module"]
