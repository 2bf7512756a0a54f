"""A disk that is full in the middle of a night."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import yaml
from deltalake import DeltaTable

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.long]

SCRIPT = """
set -e
mount -t tmpfs -o size=100m tmpfs lake
night() { "$1" -c 'from recsys_spark.cli import main; main()' nightly --config night.yaml --run-date "$2"; }
night "$1" 2026-01-30
mount -o remount,size=$(($(du -sk lake | cut -f1) + 300))k lake
night "$1" 2026-01-31 > full.txt 2>&1 || echo $? > full.code
cp -r lake when_full
mount -o remount,size=100m lake
night "$1" 2026-01-31
cp -r lake when_rerun
"""


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """One night, a second one on a disk with 300 KB left, and the second again with more."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no small disk can be made here: unshare -rm is not allowed")
    folder = tmp_path_factory.mktemp("full")
    tree = {
        "lake": {"root": "lake"},
        "ingest": {"source": {"format": "synthetic", "ratings": 20_000}, "scale": [1, 5]},
        "models": ["popularity", "als"],
        "als": {"implicitPrefs": True, "rank": 8, "solver": "cg"},
        "session": {"cores": 2, "memory": "1g"},
        "recommend": {"similar_items": None},
        "report": None,
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(tree))
    (folder / "lake").mkdir()
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def served(lake):
    rows = (
        DeltaTable(str(lake / "current_recommendations")).to_pyarrow_table(columns=["run_date"]).to_pylist()
    )
    return {row["run_date"].isoformat() for row in rows}, len(rows)


def test_full_disk_ends_in_one_line_that_says_so(nights):
    assert (nights / "full.code").read_text().strip() == "1"
    lines = (nights / "full.txt").read_text().splitlines()
    assert "No space left on device: make room, and run it again" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_full_disk_leaves_what_is_served(nights):
    dates, rows = served(nights / "when_full")
    assert dates == {"2026-01-30"}
    assert rows == served(nights / "when_rerun")[1]


def test_rerun_with_room_serves_the_date(nights):
    assert served(nights / "when_rerun")[0] == {"2026-01-31"}
