"""A night under Airflow 3.3: each day one spark-submit per step, for the day before.

The run date is the run's partition, `2026-01-31`; of a run without one, its logical date. A step that runs
again changes nothing, so retries, backfills and `catchup` are safe; where a later date is served already, an
earlier one is made and not served: its task `publish` is skipped. This makes the three last days of January,
one after the other, as the 31st's night comes on the day after (one line):

    airflow backfill create --dag-id recsys_nightly --max-active-runs 1
        --from-date 2026-01-29 --to-date 2026-02-01

A closed gate is no failure: the task `gate` is skipped, `publish` with it, and an alert is sent; what was
served stays, and `report` shows why. So is an alert sent for a task that failed, after its last retry.
Publishing updates the asset `recsys_recommendations`, which other Dags can be scheduled on.

What is different elsewhere is read when a task runs, from the connection `spark_default` (master, deploy
mode, binary) and these Variables, which are all optional:

- `recsys_home`: folder with `jobs` and `conf`; default `/opt/recsys`.
- `recsys_config`: configuration of the night; default `<recsys_home>/conf/cluster.yaml`.
- `recsys_spark`: Spark settings, as a JSON object; by default Delta's package only.
- `recsys_env`: environment variables of the driver, as a JSON object, such as `PYSPARK_PYTHON`.
- `recsys_input`: a file or folder to wait for before a night begins, as
  `s3://shop/ratings/{run_date}/_SUCCESS`; by default nothing is waited for.
- `recsys_alert_url`: where alerts are posted, as `{"text": …}`, which Slack and others understand; by default
  they are in the task's log only.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import (
    DAG,
    Asset,
    Connection,
    Context,
    CronPartitionTimetable,
    ObjectStoragePath,
    Variable,
    task,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

STEPS = ("ingest", "split", "train", "evaluate", "recommend", "gate", "publish", "report")
"""In their order; ``sample_negatives`` may come after ``split``, with its section in the configuration."""

RUN_DATE = "{{ dag_run.partition_key or (dag_run.logical_date or dag_run.run_after) | ds }}"
_HOME = "var.value.get('recsys_home', '/opt/recsys')"
HOME = f"{{{{ {_HOME} }}}}"
CONFIG = f"{{{{ var.value.get('recsys_config', {_HOME} ~ '/conf/cluster.yaml') }}}}"
DELTA = {"spark.jars.packages": "io.delta:delta-spark_4.2_2.13:4.4.0"}
BAD_CONFIGURATION, NOT_SERVED = 2, 3
"""Exit codes of a step that another attempt would not change."""

SERVED = Asset("recsys_recommendations")


class Step(SparkSubmitOperator):
    """spark-submit of one step; found again after a lost worker where the driver runs on the cluster.

    Parameters
    ----------
    step : str
        Name of the step, of its file in ``jobs``, and of the task.
    arguments : tuple of str
        What the step is given besides configuration and run date.
    **options
        Those of every operator.
    """

    def __init__(self, *, step: str, arguments: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(
            task_id=step,
            name=f"recsys {step} {RUN_DATE}",
            application=f"{HOME}/jobs/{step}.py",
            application_args=["--config", CONFIG, "--run-date", RUN_DATE, *arguments],
            **options,
        )

    def execute(self, context: Context) -> None:
        """Submit the step.

        Raises
        ------
        AirflowSkipException
            The lists are not served: the gate is closed, of which an alert tells, or a later date is served.
        AirflowFailException
            The configuration is not valid, which no retry mends.
        """
        self.conf = Variable.get("recsys_spark", default=DELTA, deserialize_json=True)
        self.env_vars = Variable.get("recsys_env", default={}, deserialize_json=True)
        self._follow_on_cluster()
        try:
            super().execute(context)
        except AirflowException as error:
            said = str(error).strip().splitlines()[-1]
            code = int((re.findall(r"(?:Error|exit) code is: (\d+)", str(error)) or [1])[-1])
            if code == NOT_SERVED:
                if self.task_id == "gate":
                    alert(f"gate of {context['dag_run'].run_id}: {said}")
                raise AirflowSkipException(said) from None
            if code == BAD_CONFIGURATION:
                raise AirflowFailException(said) from None
            raise

    def _follow_on_cluster(self) -> None:
        """In cluster mode ask the cluster how the driver does, so that a retry can find it again."""
        connection = Connection.get(self._conn_id)
        on_cluster = connection.extra_dejson.get("deploy-mode") == "cluster"
        master = f"{connection.conn_type} {connection.host}"
        self._track_driver_via_k8s_api = on_cluster and "k8s" in master
        address = connection.extra_dejson.get("yarn_resourcemanager_webapp_address")
        self._yarn_track_via_rm_api = on_cluster and "yarn" in master and bool(address)
        self.durable = self._yarn_track_via_rm_api or "yarn" not in master


def alert(text: str) -> None:
    """Log a text as an error, and post it where the Variable ``recsys_alert_url`` says.

    Where it cannot be posted that is logged too: the task ends as it would have ended without an alert.

    Parameters
    ----------
    text : str
        One line for people.
    """
    import requests

    log = logging.getLogger(__name__)
    log.error("%s", text)
    url = Variable.get("recsys_alert_url", default=None)
    if url:
        try:
            requests.post(url, json={"text": text}, timeout=30).raise_for_status()
        except requests.RequestException:
            log.exception("the alert could not be posted")


def alert_of_failure(context: Context) -> None:
    """Tell of a task that failed.

    Parameters
    ----------
    context : Context
        Of the task.
    """
    said = str(context.get("exception", "")).strip().splitlines()
    alert(
        f"{context['ti'].task_id} of {context['dag_run'].run_id} failed: {said[-1] if said else 'no reason'}"
    )


with DAG(
    dag_id="recsys_nightly",
    description="Recommendations of a day, made, checked and served",
    schedule=CronPartitionTimetable("0 3 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,  # nights of two dates would wait for each other's executors
    default_args={
        "retries": 5,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2.0,  # a quarter of an hour in all: longer than the lease of a lock
        "on_failure_callback": alert_of_failure,
    },
    tags=["recsys"],
    doc_md=__doc__,
):

    @task.sensor(poke_interval=300, timeout=6 * 3600, mode="reschedule")
    def wait_for_input(place: str, run_date: str) -> bool:
        """Whether the input is there."""
        return not place or ObjectStoragePath(place.format(run_date=run_date)).exists()

    before = wait_for_input(place="{{ var.value.get('recsys_input', '') }}", run_date=RUN_DATE)
    for name in STEPS:
        options: dict[str, Any] = {}
        if name == "publish":
            options = {"arguments": ("--unless-later",), "outlets": [SERVED]}
        elif name == "report":
            options = {"trigger_rule": "none_failed"}  # also of lists that are not served
        before = before >> Step(step=name, **options)
