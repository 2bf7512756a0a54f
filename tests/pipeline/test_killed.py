"""A night whose processes are all killed, again and again, ends as one that nobody has disturbed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from deltalake import DeltaTable

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.long]

DAY = "2026-01-31"
KILLS = [
    ("writes", "ratings"),
    ("has done", "ingest"),
    ("has done", "split"),
    ("writes", "models"),
    ("has done", "train"),
    ("writes", "user_metrics"),
    ("writes", "metrics"),
    ("has done", "evaluate"),
    ("writes", "recommendations"),
    ("has done", "recommend"),
    ("has done", "gate"),
    ("writes", "current_recommendations"),
]
"""When: a data file of a table is there, and its commit is not yet; or a step has said that it is done."""


class Nights:
    """A lake, and processes that run one night in it."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder
        tree = {
            "lake": {"root": "lake"},
            "ingest": {"source": {"format": "synthetic", "ratings": 5_000}, "scale": [1, 5]},
            "models": ["popularity", "als"],
            "als": {"implicitPrefs": True, "rank": 8, "solver": "cg"},
            "session": {"cores": 2, "memory": "1g"},
            "recommend": {"similar_items": None},
            "report": None,
        }
        (folder / "night.yaml").write_text(yaml.safe_dump(tree))

    def start(self):
        command = [sys.executable, "-c", "from recsys_spark.cli import main; main()", "nightly"]
        command += ["--config", "night.yaml", "--run-date", DAY, "--log-file", "log"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.folder, start_new_session=True, **quiet)

    def finish(self):
        assert self.start().wait(300) == 0, self.log()

    def kill_when(self, does, what):
        """Start a night, and kill Python and Java when it does it; whether the night came so far."""
        before = self.happened(does, what)
        process = self.start()
        while self.happened(does, what) <= before:
            if process.poll() is not None:
                raise AssertionError(f"ended before it {does} {what}: {self.log()}")
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def happened(self, does, what):
        if does == "writes":
            return len(list((self.folder / "lake" / what).rglob("*.parquet")))
        return len(re.findall(rf" {what}: \d+\.\d s$", self.log(), re.MULTILINE))

    def log(self):
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def rows(self, table):
        return DeltaTable(str(self.folder / "lake" / table)).to_pyarrow_table().to_pylist()

    def result(self):
        """What the night has made, without what names a run or a time."""
        measuring = [row for row in self.rows("runs") if row["step"] in ("evaluate", "gate")]
        ended = {row["run_id"] for row in measuring if row["state"] == "done"}
        metrics = [row for row in self.rows("metrics") if row["run_id"] in ended]
        of_metrics = ("model", "part", "segment", "metric", "k", "value", "low", "high", "verdict")
        columns = {
            "ratings": (self.rows("ratings"), ("user", "item", "rating", "timestamp", "first_run")),
            "metrics": (metrics, of_metrics),
            "user_metrics": (self.rows("user_metrics"), ("model", "user", "ndcg", "recall")),
            "recommendations": (self.rows("recommendations"), ("user", "rank", "item", "score", "model")),
            "served": (self.rows("current_recommendations"), ("user", "rank", "item", "score", "run_date")),
        }
        return {
            name: sorted(tuple(map(str, (row[column] for column in wanted))) for row in rows)
            for name, (rows, wanted) in columns.items()
        }


@pytest.mark.parametrize(
    ("kills", "died"),
    [
        pytest.param([KILLS[0], KILLS[4], KILLS[8]], {"ingest", "recommend"}, id="some"),
        pytest.param(KILLS, {"ingest", "train", "evaluate", "recommend"}, id="all"),
    ],
)
def test_killed_at_every_step_and_write_it_ends_as_if_undisturbed(tmp_path, kills, died):
    undisturbed, killed = Nights(tmp_path / "undisturbed"), Nights(tmp_path / "killed")
    undisturbed.finish()
    for does, what in kills:
        killed.kill_when(does, what)
    killed.finish()
    expected = undisturbed.result()
    assert all(expected.values())
    assert killed.result() == expected
    states = [(row["step"], row["state"]) for row in killed.rows("runs")]
    assert {step for step, state in states if state == "died"} >= died
