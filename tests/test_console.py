"""Progress on standard error and in a log file."""

from __future__ import annotations

import re

import pytest

from recsys_spark import console


@pytest.fixture(autouse=True)
def default_console():
    yield
    console.configure()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3_600 + 3 * 60 + 20, "1 h 3 min"),
    ],
)
def test_durations_are_readable(seconds, expected):
    assert console.duration(seconds) == expected


def test_lines_of_progress_carry_the_time(capsys):
    with console.working("split"):
        console.progress_line("  10 to train")
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\d+\.\d s$", "…", line[9:]) for line in lines] == [
        "split ...",
        "  10 to train",
        "split: …",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)


ESCAPES = "\x1b]0;owned\x07 \x1b[2J\x9b31m \u202e \u2028 \ud800 \r\t"
"""Of a terminal's language, of the direction of writing, of lines, and a half of a character."""


def test_nothing_that_is_printed_speaks_to_the_terminal(capsys, tmp_path):
    log = tmp_path / "log"
    console.configure(log_file=log)
    console.progress_line(f"read {ESCAPES}")
    console.error_line(f"{ESCAPES}: is empty\nsecond line")
    console.result_line(ESCAPES)
    console.table(f"title {ESCAPES}", [{ESCAPES: f"cell\n{ESCAPES}"}], [ESCAPES])
    printed = "".join(capsys.readouterr()) + log.read_text(encoding="utf-8")
    assert "second line" in printed
    assert "owned" in printed
    assert {c for c in printed if not c.isprintable()} == {"\n"}


def test_quiet_prints_errors_only_and_the_log_file_has_everything(capsys, tmp_path):
    log = tmp_path / "logs" / "night.log"
    console.configure(quiet=True, log_file=log)
    console.progress_line("split ...")
    console.error_line("recsys: no such table")
    assert capsys.readouterr().err == "recsys: no such table\n"
    lines = log.read_text().splitlines()
    assert [line.split("Z ")[1] for line in lines] == ["split ...", "recsys: no such table"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    console.configure(log_file=log)
    console.progress_line("train ...")
    assert len(log.read_text().splitlines()) == 3  # appended to
