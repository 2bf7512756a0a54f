"""Nights under the real Airflow, on the cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import yaml
from deltalake import DeltaTable

from recsys_spark.pipeline.steps import STEPS
from tests.cluster.conftest import JOBS, PYTHON, SPARK_HOME, environment

BIN = JOBS.parent / ".venv-airflow" / "bin"
DAG = JOBS / "airflow" / "recsys_nightly.py"
TESTED, BACKFILLED = "2026-01-28", ("2026-01-29", "2026-01-30", "2026-01-31")
LIST_LENGTH, OTHER_LENGTH = 5, 20
LOCAL = {"AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"})}
"""A backfill starts Spark for each of its 21 tasks: on two cores, a cluster takes twice as long for that."""


@dataclass(frozen=True)
class Airflow:
    """An Airflow of its own, whose connection is the cluster."""

    folder: Path
    variables: dict[str, str]
    alerts: list[str]

    def run(self, *command, **settings):
        """Run a program of its environment, and return what it printed."""
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            cwd=self.folder,
            env=self.variables | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def rows(self, table):
        return DeltaTable(str(self.folder / "lake" / table)).to_pyarrow_table().to_pylist()

    def ask(self, query, *values):
        """Rows of Airflow's own database."""
        with closing(sqlite3.connect(self.folder / "home" / "airflow.db")) as database:
            return database.execute(query, values).fetchall()

    def tasks(self, run_date):
        """State of each task of a backfilled date, and how often it was tried."""
        query = (
            "SELECT task_id, task_instance.state, try_number FROM task_instance "
            "JOIN dag_run USING (dag_id, run_id) WHERE partition_key = ?"
        )
        return {task: Tried(state, tries) for task, state, tries in self.ask(query, run_date)}

    def state(self, run_date, task):
        return self.tasks(run_date).get(task, Tried(None, 0)).state


@contextmanager
def receiver():
    """Whoever gets alerts: an address, and what has come there."""
    alerts = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", alerts
    server.shutdown()


class Tried(NamedTuple):
    state: str | None
    tries: int


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def airflow(cluster, tmp_path_factory):
    if not BIN.exists():
        pytest.skip("Airflow is not installed: run make test-slow")
    folder = tmp_path_factory.mktemp("airflow")
    tree = {
        "lake": {"root": str(folder / "lake")},
        "ingest": {"source": {"format": "synthetic", "ratings": 5_000}, "scale": [1, 5]},
        "models": ["popularity", "als"],
        "als": {"implicitPrefs": True, "rank": 8, "solver": "cg"},
        "recommend": {"n": LIST_LENGTH},
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(tree))
    port = free_port()
    jars = ":".join(map(str, (cluster.packed / "jars").glob("*.jar")))
    spark = {  # every machine has the libraries at the same place, as an image or a shared disk would
        "spark.driver.extraClassPath": jars,
        "spark.executor.extraClassPath": jars,
        "spark.executorEnv.PYTHONPATH": str(cluster.packed / "unpacked"),
        "spark.executor.memory": "1g",
    }
    driver = {"PYTHONPATH": str(cluster.packed / "unpacked"), "PYSPARK_PYTHON": str(PYTHON)}
    variables = environment() | {
        "PATH": f"{BIN}:{SPARK_HOME / 'bin'}:{os.environ['PATH']}",
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAG.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only for the tests, and longer than thirty-two bytes",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": cluster.url}),
        "AIRFLOW_VAR_RECSYS_HOME": str(JOBS.parent),
        "AIRFLOW_VAR_RECSYS_CONFIG": str(folder / "night.yaml"),
        "AIRFLOW_VAR_RECSYS_SPARK": json.dumps(spark),
        "AIRFLOW_VAR_RECSYS_INPUT": str(folder / "ready-{run_date}"),
    }
    for run_date in (TESTED, *BACKFILLED):
        (folder / f"ready-{run_date}").touch()
    with receiver() as (address, alerts):
        started = Airflow(folder, variables | {"AIRFLOW_VAR_RECSYS_ALERT_URL": address}, alerts)
        started.run("airflow", "db", "migrate")
        started.run("airflow", "variables", "set", "recsys_env", json.dumps(driver))
        yield started


IMPORTED = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
(dag,) = bag.dags.values()
tasks = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
print(json.dumps([bag.import_errors, tasks, sorted({name.split(".")[0] for name in sys.modules})]))
"""


FOLLOWED = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
step = DagBag(dag_folder=sys.argv[1]).dags["recsys_nightly"].get_task("train")
step._follow_on_cluster()
print(json.dumps([step._track_driver_via_k8s_api, step._yarn_track_via_rm_api, step.durable]))
"""


def printed_by_airflow(folder, program, **settings):
    """What a program prints last, with the Dags as its argument."""
    if not BIN.exists():
        pytest.skip("Airflow is not installed: run make test-slow")
    own = {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [BIN / "python", "-c", program, str(DAG.parent)]
    done = subprocess.run(
        command, env=environment() | own | settings, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("host", "extra", "kubernetes", "yarn", "durable"),
    [
        ("spark://master:7077", {}, False, False, True),
        ("yarn", {"deploy-mode": "client"}, False, False, False),
        ("yarn", {"deploy-mode": "cluster"}, False, False, False),
        (
            "yarn",
            {"deploy-mode": "cluster", "yarn_resourcemanager_webapp_address": "http://rm:8088"},
            False,
            True,
            True,
        ),
        ("k8s://https://api:443", {"deploy-mode": "cluster", "namespace": "shop"}, True, False, True),
    ],
)
def test_driver_is_followed_where_the_cluster_can_be_asked(tmp_path, host, extra, kubernetes, yarn, durable):
    connection = json.dumps({"conn_type": "spark", "host": host, "extra": extra})
    followed = printed_by_airflow(tmp_path, FOLLOWED, AIRFLOW_CONN_SPARK_DEFAULT=connection)
    assert followed == [kubernetes, yarn, durable]


ENDED = """
import json, sys
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1]).dags["recsys_nightly"]
ends = []
for name in ("gate", "publish"):
    try:
        instance = SimpleNamespace(dag_id="d", task_id=name, run_id="a run", try_number=1, map_index=-1)
        dag.get_task(name).execute({"dag_run": SimpleNamespace(run_id="a run"), "ti": instance})
    except Exception as error:
        ends.append(type(error).__name__)
print(json.dumps(ends))
"""


@pytest.mark.parametrize(
    ("code", "end", "alerts"),
    [(1, "AirflowException", []), (2, "AirflowFailException", []), (3, "AirflowSkipException", ["gate"])],
)
def test_exit_code_says_whether_a_task_is_tried_again(tmp_path, code, end, alerts):
    """What spark-submit says is said by a script; whoever gets alerts is there, and then is not."""
    (tmp_path / "spark-submit").write_text(f"#!/bin/sh\necho 'recsys: not today'\nexit {code}\n")
    (tmp_path / "spark-submit").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    local = json.dumps({"conn_type": "spark", "host": "local[1]"})
    with receiver() as (address, received):
        for url in (address, f"http://127.0.0.1:{free_port()}"):
            settings = {"AIRFLOW_CONN_SPARK_DEFAULT": local, "AIRFLOW_VAR_RECSYS_ALERT_URL": url}
            assert printed_by_airflow(tmp_path, ENDED, PATH=path, **settings) == [end, end]
    assert received == [f"{step} of a run: recsys: not today" for step in alerts]


def test_airflow_imports_it_and_nothing_that_takes_time(tmp_path):
    errors, downstream, imported = printed_by_airflow(tmp_path, IMPORTED)
    assert errors == {}
    steps = [step for step in STEPS if step != "sample_negatives"]
    assert downstream == {task: [after] for task, after in pairwise(["wait_for_input", *steps])} | {
        steps[-1]: []
    }
    assert not {"recsys_spark", "pyspark", "numpy", "pandas", "delta"} & set(imported)
    assert all((JOBS / f"{step}.py").exists() for step in steps)


@pytest.fixture(scope="module")
def tested(airflow):
    """What `airflow dags test` printed of a night."""
    return airflow.run("airflow", "dags", "test", "recsys_nightly", TESTED)


@pytest.mark.long
def test_dags_test_runs_a_whole_night(tested, airflow):
    rows = airflow.rows("current_recommendations")
    assert {row["run_date"].isoformat() for row in rows} == {TESTED}
    lengths = Counter(row["user"] for row in rows)
    assert set(lengths.values()) == {LIST_LENGTH}


@pytest.fixture(scope="module")
def backfilled(airflow, tested):
    """Three dates: a task of the first is killed, and the lists of the last have another length."""
    with (airflow.folder / "standalone.log").open("w") as log:
        running = subprocess.Popen(
            [BIN / "airflow", "standalone"],
            cwd=airflow.folder,
            env=airflow.variables | LOCAL,
            stdout=log,
            stderr=log,
        )
        try:
            wait(lambda: (airflow.folder / "standalone.log").read_text().count("ready") > 0, airflow, 180)
            airflow.run("airflow", "dags", "reserialize")
            airflow.run("airflow", "dags", "unpause", "recsys_nightly")
            window = ["--from-date", BACKFILLED[0], "--to-date", "2026-02-01", "--max-active-runs", "1"]
            airflow.run("airflow", "backfill", "create", "--dag-id", "recsys_nightly", *window)
            os.kill(wait(lambda: task_of("train", BACKFILLED[0]), airflow, 600), signal.SIGKILL)
            wait(lambda: airflow.state(BACKFILLED[1], "publish") == "success", airflow, 1_800)
            longer = driver_of(airflow) | {"RECSYS__RECOMMEND__N": str(OTHER_LENGTH)}
            airflow.run("airflow", "variables", "set", "recsys_env", json.dumps(longer))
            wait(lambda: airflow.state(BACKFILLED[2], "publish") in ("skipped", "success"), airflow, 900)
            yield {run_date: airflow.tasks(run_date) for run_date in BACKFILLED}
        finally:
            for process in (*psutil.Process(running.pid).children(recursive=True), running):
                process.kill()


def driver_of(airflow):
    return json.loads(airflow.run("airflow", "variables", "get", "recsys_env").splitlines()[-1])


def wait(condition, airflow, seconds):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, (airflow.folder / "standalone.log").read_text()[-5_000:]
        time.sleep(2)
    return found


def task_of(step, run_date):
    """Process of the task whose spark-submit runs a step."""
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "java" and f"{JOBS}/{step}.py" in words and run_date in words:
            return process.parent().pid
    return None


@pytest.mark.long
def test_backfilled_dates_are_made_one_after_the_other(backfilled, airflow):
    began = {}
    for row in airflow.rows("runs"):
        began.setdefault(row["run_date"].isoformat(), []).append(row["started"])
    for earlier, later in pairwise(BACKFILLED):
        assert max(began[earlier]) < min(began[later])


@pytest.mark.long
def test_killed_task_is_tried_again(backfilled):
    first = backfilled[BACKFILLED[0]]
    assert first["train"].tries > 1
    assert {task: tried.state for task, tried in first.items()} == dict.fromkeys(first, "success")


@pytest.mark.long
def test_closed_gate_is_not_tried_again_and_leaves_what_is_served(backfilled, airflow):
    last = backfilled[BACKFILLED[2]]
    assert last["gate"] == ("skipped", 1)
    assert last["publish"].state == "skipped"
    assert last["recommend"] == ("success", 1)
    rows = airflow.rows("current_recommendations")
    assert {row["run_date"].isoformat() for row in rows} == {BACKFILLED[1]}
    assert set(Counter(row["user"] for row in rows).values()) == {LIST_LENGTH}


@pytest.mark.long
def test_only_the_closed_gate_is_told_of(backfilled, airflow):
    assert len(airflow.alerts) == 1
    assert airflow.alerts[0].startswith("gate of ")
    assert "rows" in airflow.alerts[0]


@pytest.mark.long
def test_asset_is_updated_by_what_is_served(backfilled, airflow):
    query = (
        "SELECT asset.name, asset_event.partition_key FROM asset_event "
        "JOIN asset ON asset.id = asset_event.asset_id"
    )
    events = [event for event in airflow.ask(query) if event[1] is not None]
    assert sorted(events) == [("recsys_recommendations", run_date) for run_date in BACKFILLED[:2]]
