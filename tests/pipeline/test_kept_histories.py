"""What the split keeps for steps in processes of their own: when it is read, when not, and when it goes."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from recsys_spark.errors import LakeError
from recsys_spark.histories import pack_histories, rows_of
from recsys_spark.pipeline import kept_histories
from recsys_spark.pipeline import maintain as maintain_step
from recsys_spark.pipeline import split as split_step
from recsys_spark.pipeline.forget import forget
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.maintain import maintain
from recsys_spark.pipeline.publish import publish
from recsys_spark.pipeline.split import split
from tests.pipeline.shop import NEXT, Shop
from tests.pipeline.test_events import event_shop
from tests.pipeline.test_publish import recommended

pytestmark = pytest.mark.slow

ROWS = [
    f"user {user},item {item},{1 + item % 5},{1500000000 + item}" for user in range(6) for item in range(5)
]

VIEWS = [f"user {user},item {item},view,2024-06-2{item}" for user in range(4) for item in range(5)]


def kept(shop):
    """Folders of histories in a lake."""
    return sorted(Path(shop.night().config.lake.models_path).glob("*-histories"))


def plant(shop):
    """Put histories of one pair in the place of those that were kept, which have one bucket too."""
    (folder,) = kept(shop)
    columns = "user string, item string, rating double, timestamp timestamp, part string"
    made = pack_histories(shop.spark.createDataFrame([("planted", "x", 1.0, None, "train")], columns), 1)
    made.save(str(folder))
    made.unpersist()


def users(night):
    """Of a night's pairs."""
    pairs = night.pairs()
    found = {row["user"] for row in pairs.rows("user").collect()}
    pairs.unpersist()
    return found


@pytest.fixture(scope="module")
def divided(spark, tmp_path_factory):
    """A shop whose ratings have been divided."""
    shop = Shop(spark, tmp_path_factory.mktemp("divided"))
    shop.ingested(*ROWS)
    split(shop.night())
    return shop


@pytest.fixture
def copied(divided, tmp_path):
    """The same lake, for one test alone."""
    return divided.copied(tmp_path)


def rows_of_parts(night):
    """Part → its ratings."""
    pairs = night.pairs()
    found = {part: sorted(map(tuple, rows_of(pairs.of(part)).collect())) for part in ("train", "test")}
    pairs.unpersist()
    return found


def test_a_later_step_has_the_parts_of_the_split(divided):
    parts = rows_of_parts(divided.night())
    stored = divided.rows("ratings", "user", "item", "rating", "timestamp")
    assert parts["test"] == [row for row in stored if row[1] == "item 4"]  # leave_last: the newest
    assert parts["train"] == [row for row in stored if row[1] < "item 3"]


def test_a_later_step_reads_what_the_split_has_packed(copied):
    plant(copied)
    assert users(copied.night()) == {"planted"}


def lost(file):
    file.unlink()


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])
    file.with_name(f".{file.name}.crc").unlink()


@pytest.mark.parametrize("damage", [lost, cut])
def test_what_is_damaged_is_packed_again(copied, divided, damage, capsys):
    (folder,) = kept(copied)
    (file,) = folder.glob("*.parquet")
    damage(file)
    assert rows_of_parts(copied.night()) == rows_of_parts(divided.night())
    told = capsys.readouterr().err
    assert f"packed histories in file:{folder} " in told
    assert "pack the ratings again, which is done now" in told


def test_what_is_gone_is_packed_again(copied, divided):
    (folder,) = kept(copied)
    shutil.rmtree(folder)
    assert rows_of_parts(copied.night()) == rows_of_parts(divided.night())


def test_other_code_does_not_read_them(copied, monkeypatch):
    plant(copied)
    monkeypatch.setattr(kept_histories, "code_version", lambda: "another")
    assert users(copied.night()) == {f"user {user}" for user in range(6)}


def test_other_settings_of_events_do_not_read_them(spark, tmp_path):
    shop = event_shop(spark, tmp_path)
    shop.receive(*VIEWS)
    for step in (ingest, split):
        step(shop.night())
    plant(shop)
    shop.tree["ingest"]["events"]["half_life"] = 1
    faded = shop.night().pairs()
    # a view on 24 June has lost half of its worth seven times when the 30th is over
    assert {row["rating"] for row in faded.rows("item", "rating").where("item = 'item 4'").collect()} == {
        2.0**-7
    }


def test_the_last_step_removes_them(copied):
    recommended(copied.night())
    assert len(kept(copied)) == 1
    publish(copied.night())
    assert kept(copied) == []


def test_a_date_that_is_divided_again_keeps_the_newest_alone(copied):
    night = copied.night()
    split(night)
    assert [folder.name for folder in kept(copied)] == [f"{night.run_id}-histories"]


def test_a_split_that_fails_leaves_none_behind(copied, monkeypatch):
    def fails(*_):
        raise LakeError("after it has written")

    monkeypatch.setattr(split_step, "progress_line", fails)
    with pytest.raises(LakeError, match="after it has written"):
        split(copied.night())
    monkeypatch.undo()
    night = copied.night()
    split(night)
    assert [folder.name for folder in kept(copied)] == [f"{night.run_id}-histories"]


def test_what_is_consumed_again_keeps_none(spark, tmp_path):
    shop = event_shop(spark, tmp_path)
    shop.tree["split"] = {"method": "leave_last", "repeats": True}
    shop.tree["recommend"] = {"n": 4, "exclude_seen": False, "similar_items": None}
    shop.receive(*VIEWS)
    for step in (ingest, split):
        step(shop.night())
    assert kept(shop) == []


def test_lists_that_are_not_served_for_a_later_date_keep_none(copied):
    recommended(copied.night(NEXT))
    publish(copied.night(NEXT))
    assert len(kept(copied)) == 1  # of the date before
    recommended(copied.night())
    assert publish(copied.night(), unless_later=True) is False
    assert kept(copied) == []


@pytest.mark.parametrize(("grace", "left"), [(timedelta(days=1), 1), (timedelta(0), 0)])
def test_upkeep_removes_old_ones(copied, monkeypatch, grace, left):
    monkeypatch.setattr(maintain_step, "GRACE", grace)
    maintain(copied.spark, copied.night().config, NEXT)
    assert len(kept(copied)) == left


def test_who_is_forgotten_is_in_none(copied):
    forget(copied.spark, copied.night().config, ["user 1"], date(2024, 7, 1))
    assert kept(copied) == []
