"""One run for one date: the lock in the lake, its lease, and who may take it over."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from pyspark.sql import functions as F

from recsys_spark.config import Lake
from recsys_spark.errors import LakeError
from recsys_spark.lakehouse.locks import Lock
from recsys_spark.lakehouse.processes import is_gone, this_process
from recsys_spark.lakehouse.tables import Lakehouse

SHORT = timedelta(seconds=9)


@pytest.fixture
def lake(spark, tmp_path):
    return Lakehouse(spark, Lake(root=str(tmp_path / "lake")))


def holders(lake):
    return {row["name"]: row["holder"] for row in lake.read("locks").collect()}


def test_of_several_at_one_instant_one_gets_in(lake):
    start = Barrier(4)

    def attempt(number):
        lock = Lock(lake, "2024-06-30", f"run {number}")
        start.wait()
        try:
            lock.__enter__()
        except LakeError as error:
            return str(error)
        return lock

    for _ in range(2):  # into a new table, and into one from which locks have been taken
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(attempt, range(4)))
        (won,) = (one for one in outcomes if isinstance(one, Lock))
        lost = [one for one in outcomes if one is not won]
        assert all(one.startswith(f"2024-06-30 is being run by run {won.holder} on ") for one in lost)
        assert holders(lake) == {"2024-06-30": won.holder}
        won.__exit__(None, None, None)
        assert holders(lake) == {}


def test_another_date_is_another_lock(lake):
    with Lock(lake, "2024-06-30", "a"), Lock(lake, "2024-07-01", "b"):
        assert holders(lake) == {"2024-06-30": "a", "2024-07-01": "b"}


def held_by(lake, process, until):
    """As if another process had taken the lock."""
    with Lock(lake, "day", "other"):
        values = {"process": F.lit(process), "until": F.expr(until), "holder": F.lit("x")}
        lake.update("locks", F.lit(True), values)
    assert holders(lake) == {"day": "x"}


def test_lock_of_a_process_that_is_gone_is_taken_over_at_once(lake):
    ended = subprocess.run(
        [sys.executable, "-c", "from recsys_spark.lakehouse.processes import this_process as t; print(t())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    held_by(lake, ended.stdout.strip(), "current_timestamp() + interval 1 hour")
    with Lock(lake, "day", "me"):
        assert holders(lake) == {"day": "me"}


def test_lock_of_another_machine_is_taken_over_after_its_lease(lake):
    elsewhere = "1 1700000000 pid:[1]"
    held_by(lake, elsewhere, "current_timestamp() + interval 1 hour")
    with pytest.raises(LakeError, match=r"day is being run by run x on .*, process 1, since 20.* UTC"):
        Lock(lake, "day", "me").__enter__()
    lake.update("locks", F.lit(True), {"until": F.expr("current_timestamp() - interval 1 second")})
    with Lock(lake, "day", "me"):
        assert holders(lake) == {"day": "me"}


@pytest.mark.slow
def test_lease_is_renewed_while_it_is_held(lake):
    with Lock(lake, "day", "me", SHORT) as lock:
        time.sleep(2 * SHORT.total_seconds())
        with pytest.raises(LakeError, match="day is being run by run me"):
            Lock(lake, "day", "other").__enter__()
        lock.require()


@pytest.mark.slow
def test_who_lost_the_lock_is_told_so_and_leaves_it(lake):
    with Lock(lake, "day", "me", SHORT) as lock:
        lake.update("locks", F.lit(True), {"holder": F.lit("other")})
        with pytest.raises(LakeError, match=r"run me no longer holds day, which run other on .* does"):
            for _ in range(100):
                lock.require()
                time.sleep(0.5)
    assert holders(lake) == {"day": "other"}


def test_a_number_that_another_process_got_later_is_not_it():
    number, started, *space = this_process().split()
    host = socket.gethostname()
    assert not is_gone(host, " ".join([number, started, *space]))
    assert is_gone(host, " ".join([number, str(int(started) - 60), *space]))
    assert not is_gone("elsewhere", " ".join([number, str(int(started) - 60), *space]))
    assert not is_gone(host, f"{number} {int(started) - 60} pid:[1]")
