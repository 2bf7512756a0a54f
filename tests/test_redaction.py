"""Secrets leave no text that is printed, logged or stored."""

from __future__ import annotations

import pytest

from recsys_spark import console
from recsys_spark.errors import summary
from recsys_spark.redaction import masked, without_secrets

TEXTS = [
    "s3a://AKIDEXAMPLE:hush-hush@shop/ratings: no such bucket",
    "jdbc:postgresql://me:hush-hush@db/x",
    "spark.hadoop.fs.s3a.secret.key=hush-hush",
    "fs.azure.account.key.shop.dfs.core.windows.net: hush-hush, and more",
    '{"password": "hush-hush", "user": "me"}',
    "PASSWORD=hush-hush;",
    "https://shop.blob.core.windows.net/a?sv=2024&sig=hush-hush&se=1",
    "fs.s3a.session.token = hush-hush",
]


@pytest.mark.parametrize("text", TEXTS)
def test_secret_is_masked_and_the_rest_stays(text):
    shown = masked(text)
    assert "hush" not in shown
    assert shown == text.replace("AKIDEXAMPLE:", "").replace("me:", "").replace("hush-hush", "***")


@pytest.mark.parametrize(
    "text",
    [
        "user ann:8 has no list",
        "12:59:00   3 of 3 checks passed",
        "hdfs://host:8020/lake/ratings",
        "the key 'token' is unknown",
        "/data/secret/ratings.csv: line 3",
        "s3a://shop/year=2024/part-0.parquet",
        "ann@shop.example rated 3",
    ],
)
def test_other_texts_stay(text):
    assert masked(text) == text


def test_settings_of_secret_names_are_masked_at_any_depth():
    tree = {"session": {"spark": {"a.secret.key": "hush", "b": "open", "c": ["x://u:hush@h/p"]}}, "n": 3}
    assert without_secrets(tree) == {
        "session": {"spark": {"a.secret.key": "***", "b": "open", "c": ["x://***@h/p"]}},
        "n": 3,
    }


def test_titles_of_a_table_stay_as_they_are(capsys):
    console.table("lists", [{"title": "The Secret: Dare to Dream (2020)"}], ["title"])
    assert "The Secret: Dare to Dream (2020)" in capsys.readouterr().out


def test_lines_and_errors_are_masked(capsys, tmp_path):
    console.configure(log_file=tmp_path / "log")
    try:
        console.progress_line(TEXTS[0])
        console.error_line(TEXTS[1])
        console.result_line(TEXTS[2])
    finally:
        console.configure()
    printed = capsys.readouterr()
    told = printed.out + printed.err + (tmp_path / "log").read_text() + summary(ValueError(TEXTS[3]))
    assert "hush" not in told
    assert told.count("***") == 6
