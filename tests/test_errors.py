"""One line for every failure of Spark's: what failed, where, and why."""

from __future__ import annotations

import gzip
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j import protocol
from py4j.java_gateway import GatewayClient
from py4j.protocol import Py4JError

from recsys_spark.cli import main
from recsys_spark.errors import NO_ANSWER, summary

CONFIGURATION = """
lake: {root: lake}
ingest: {source: {format: synthetic, ratings: 20_000}}
models: [popularity]
session: {cores: 1, memory: 1g}
"""


def cut_short(path):
    lines = b"".join(f"{number},{number * 7919}\n".encode() for number in range(300_000))
    path.write_bytes(gzip.compress(lines)[:-1_000])


def damaged_in_the_middle(path):
    pq.write_table(pa.table({"n": list(range(100_000))}), path)
    data = bytearray(path.read_bytes())
    data[500:2_500] = b"\xff" * 2_000
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name", "kind", "cause"),
    [
        (cut_short, "a.csv.gz", "text", "Unexpected end of input stream"),
        (damaged_in_the_middle, "a.parquet", "parquet", "FAILED_TO_UNCOMPRESS"),
    ],
)
def test_unreadable_file_is_named_with_the_innermost_cause(spark, tmp_path, damage, name, kind, cause):
    damage(tmp_path / name)
    frame = spark.read.format(kind).load(str(tmp_path / name))
    with pytest.raises(Exception, match="FAILED_READ_FILE") as caught:
        frame.groupBy(*frame.columns).count().collect()
    line = summary(caught.value)
    assert "\n" not in line
    assert name in line
    assert cause in line


@pytest.mark.parametrize(
    "text",
    [
        "Job aborted due to stage failure: org.apache.spark.memory.SparkOutOfMemoryError: "
        "[AGGREGATE_OUT_OF_MEMORY] No enough memory for aggregation",
        "An error occurred while calling o1.count.\n: java.lang.OutOfMemoryError: Java heap space\n\tat x",
        "Job aborted\nCaused by: java.lang.OutOfMemoryError: GC overhead limit exceeded",
    ],
)
def test_memory_that_runs_out_has_its_mend(text):
    assert summary(RuntimeError(text)).endswith("(recommend.block_sizes)")
    assert ": give it more memory (session.memory, or --driver-memory" in summary(RuntimeError(text))


@pytest.mark.parametrize(
    "said", ["io does not exist in the JVM", "An error occurred while calling o260.nullable"]
)
def test_java_that_is_gone_when_it_is_asked_is_the_same_sentence(said):
    assert summary(Py4JError(said)) == NO_ANSWER


def test_java_that_answers_with_a_trace_is_not_gone():
    said = "An error occurred while calling o1.two. Trace:\npy4j.Py4JException: Method two() does not exist\n"
    assert "Method two() does not exist" in summary(Py4JError(said))


def test_a_command_prints_nothing_of_what_py4j_logs_when_java_hangs_up(caplog):
    def ask_one_that_hangs_up():
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=lambda: server.accept()[0].close()).start()
            answer = GatewayClient(port=server.getsockname()[1]).send_command("c\n", retry=False)
        assert answer == protocol.ERROR
        return [record.getMessage() for record in caplog.records]

    before = list(logging.getLogger().filters)
    logging.getLogger().filters.clear()
    try:
        assert ask_one_that_hangs_up() == ["Exception while sending command."]
        caplog.clear()
        with pytest.raises(SystemExit):
            main(["--version"])
        assert ask_one_that_hangs_up() == []
    finally:
        logging.getLogger().filters[:] = before


@pytest.mark.slow
def test_killed_java_is_one_sentence_with_the_log(tmp_path):
    (tmp_path / "conf.yaml").write_text(CONFIGURATION)
    command = [
        Path(sys.executable).with_name("recsys"),
        "ingest",
        "--config",
        "conf.yaml",
        "--run-date",
        "2026-01-31",
    ]
    with (tmp_path / "shown").open("w") as shown:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=shown, stderr=subprocess.STDOUT)
        while "ingest ..." not in (tmp_path / "shown").read_text():
            assert run.poll() is None
            time.sleep(0.1)
        below = psutil.Process(run.pid).children(recursive=True)
        os.kill(next(process.pid for process in below if process.name() == "java"), signal.SIGKILL)
        assert run.wait(timeout=120) == 1
    lines = (tmp_path / "shown").read_text().splitlines()
    assert re.fullmatch(
        r"recsys: Spark's Java process no longer answers: .* \(Spark's log: /.*\.log\)", lines[-1]
    )
    assert len(lines) == 2
