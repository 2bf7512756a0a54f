"""One standalone cluster for all tests here: a master and two workers of one core, each a process."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest

SPARK_HOME = Path(pyspark.__file__).parent
JOBS = Path(__file__).parents[2] / "jobs"
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
"""An interpreter without this package."""


def pytest_collection_modifyitems(items):
    """All of them start Spark themselves, and take their time."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.spark)
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Cluster:
    """Where it is, and what is submitted to it."""

    url: str
    folder: Path
    packed: Path
    settings: dict[str, str]

    def submit(self, folder, job, *arguments, packages=True, libraries=True, settings=()):
        """Run spark-submit in ``folder``; standard output and standard error together."""
        command = [SPARK_HOME / "bin" / "spark-submit", "--master", self.url, "--executor-memory", "1g"]
        if packages:
            command += ["--jars", ",".join(map(str, (self.packed / "jars").glob("*.jar")))]
        if libraries:
            command += ["--archives", f"{self.packed}/recsys-libraries.tar.gz#env"]
        for setting in ("spark.executorEnv.PYTHONPATH=env", *settings):
            command += ["--conf", setting]
        command += [JOBS / job, *arguments]
        of_driver = {"PYTHONPATH": str(self.packed / "unpacked"), "PYSPARK_PYTHON": str(PYTHON)}
        return subprocess.run(
            command,
            cwd=folder,
            env={**environment(), **of_driver},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def environment():
    """Variables of this process, without those of its own session and its own environment."""
    own = ("PYSPARK", "SPARK", "_PYSPARK", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """What ``recsys pack`` writes, and its libraries unpacked for the driver."""
    folder = tmp_path_factory.mktemp("packed")
    command = [sys.executable, "-c", "from recsys_spark.cli import main; main()", "pack", "--to", str(folder)]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    with tarfile.open(folder / "recsys-libraries.tar.gz") as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return folder


@contextmanager
def standalone(folder, packed, settings):
    """A master and two workers, which have these settings too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"spark://127.0.0.1:{port}"
    (folder / "spark.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    local = ["--host", "127.0.0.1", "--webui-port", "0", "--properties-file", str(folder / "spark.conf")]
    daemons = []
    with (folder / "daemons.log").open("w") as log:

        def start(name, *arguments):
            command = [
                SPARK_HOME / "bin" / "spark-class",
                f"org.apache.spark.deploy.{name}",
                *local,
                *arguments,
            ]
            daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
            )

        start("master.Master", "--port", str(port))
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.1)
        for number in range(2):
            work = ["--work-dir", str(folder / f"worker-{number}"), url]
            start("worker.Worker", "--cores", "1", "--memory", "2g", *work)
        yield Cluster(url, folder, packed, settings)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, packed):
    with standalone(tmp_path_factory.mktemp("cluster"), packed, {}) as started:
        yield started


@pytest.fixture
def encrypting_cluster(tmp_path, packed):
    settings = {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secrets.token_hex(16),
        "spark.network.crypto.enabled": "true",
    }
    with standalone(tmp_path, packed, settings) as started:
        yield started
