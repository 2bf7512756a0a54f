"""Nights on events: what is kept, what pairs are worth as of a day, what a second night touches, what counts
as seen.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from delta.tables import DeltaTable
from pyspark.sql import functions as F

from recsys_spark.errors import LakeError
from recsys_spark.histories import rows_of
from recsys_spark.pipeline import ingest as ingest_step
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.saved_models import SavedModels
from recsys_spark.pipeline.show import describe_user
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import DAY, NEXT, Shop

pytestmark = pytest.mark.slow

WEIGHTS = {"view": 1, "purchase": 5, "return": -5}


def event_shop(spark, folder):
    shop = Shop(spark, folder)
    shop.header = "u,i,e,t"
    columns = {"user": "u", "item": "i", "event": "e", "timestamp": "t"}
    source = {"format": "csv", "path": str(folder / "in"), "columns": columns}
    shop.tree["ingest"] = {"source": source, "events": {"weights": WEIGHTS}, "max_rejected_fraction": 0.5}
    return shop


@pytest.fixture
def shop(spark, tmp_path):
    return event_shop(spark, tmp_path)


FIRST = ("ann,tea,view,2024-06-28", "ann,tea,purchase,2024-06-27", "bob,tea,view,2024-06-01")


def current(shop, day=DAY):
    """A night that reads the tables as they are."""
    night = shop.night(day)
    night.pin({table: night.lake.version(table) for table in ("ratings", "events")})
    return night


def ratings(shop, day=DAY):
    """(user, item) → rating, as the steps after the split read them."""
    return {(row["user"], row["item"]): row["rating"] for row in current(shop, day).ratings().collect()}


def touched(shop, day):
    """What the ingest of a date did to ratings."""
    counts = shop.night(day).ledger.last_done("ingest")["counts"]
    return {what: n for what in ("inserted", "updated", "removed") if (n := counts[f"ratings_{what}"])}


class Story:
    """One lake after each of six ingests."""

    first = (
        "ann,tea,view,2024-06-28",
        "ann,tea,purchase,2024-06-27",
        "eve,milk,view,2024-06-02",
        "dan,milk,view,2024-06-01",  # the first day of the window of DAY
        "fay,tea,purchase,2024-06-20",
        "fay,milk,purchase,2024-06-20",
        "fay,milk,view,2024-06-19",
    )
    second = (
        "eve,milk,purchase,2024-06-03",  # late
        "gil,tea,view,2024-07-01",
        "fay,tea,return,2024-07-01",
        "fay,milk,return,2024-07-01",
    )

    def __init__(self, spark, folder):
        self.shop = shop = event_shop(spark, folder)
        shop.tree["ingest"]["events"]["window"] = 30
        self.events, self.touched, self.ratings, self.versions, self.kept = [], [], [], [], []
        unknown = "ann,tea,eyed,2024-06-28"
        self.ingest(DAY, *self.first)
        self.ingest(DAY, *self.first, self.first[0], unknown)
        self.ingest(NEXT, *self.second)
        self.ingest(DAY, *self.first)
        self.ingest(NEXT, *self.second)
        shop.tree["ingest"]["events"]["weights"] = {**WEIGHTS, "view": 2}
        self.ingest(NEXT, *self.second)

    def ingest(self, day, *lines):
        self.events.append(self.shop.ingested(*lines, day=day))
        self.touched.append(touched(self.shop, day))
        self.ratings.append(ratings(self.shop, day))
        self.versions.append(current(self.shop).versions())
        self.kept.append(self.shop.rows("ratings", "user", "item", "rating", "timestamp"))


@pytest.fixture(scope="module")
def story(spark, tmp_path_factory):
    return Story(spark, tmp_path_factory.mktemp("story"))


def test_purchase_counts_beside_a_later_view(story):
    assert story.events[0] == {"inserted": 7}
    assert story.touched[0] == {"inserted": 5}
    assert story.ratings[0] == {
        ("ann", "tea"): 6.0,
        ("dan", "milk"): 1.0,
        ("eve", "milk"): 1.0,
        ("fay", "tea"): 5.0,
        ("fay", "milk"): 6.0,
    }


def test_same_file_twice_changes_nothing(story):
    assert story.events[1] == {"unchanged": 7, "duplicates": 1, "rejected": 1}
    assert story.versions[1] == story.versions[0] == {"events": 1, "ratings": 1}


def test_late_and_reversed_events_and_those_that_leave_the_window(story):
    assert story.events[2] == {"inserted": 4}
    assert story.ratings[2] == {
        ("ann", "tea"): 6.0,
        ("eve", "milk"): 6.0,
        ("fay", "milk"): 1.0,
        ("gil", "tea"): 1.0,
    }


def test_second_night_touches_what_changed_only(story):
    assert story.touched[2] == {"inserted": 1, "updated": 4}
    rows = story.shop.rows("ratings", "user", "item", "first_run", "last_run")
    assert rows[0] == ("ann", "tea", DAY, NEXT)  # by the last ingest, with other weights
    untouched = [row for row in story.kept[2] if row in story.kept[1]]
    assert [row[:3] for row in untouched] == [("ann", "tea", 6.0)]


def test_pairs_that_are_worth_nothing_are_packed_beside_what_is_rated(story):
    night = current(story.shop, NEXT)
    rated = {(row["user"], row["item"]): row["rating"] for row in rows_of(night.rated()).collect()}
    pairs = {tuple(row) for row in night.pairs().rows("user", "item").collect()}
    night.pairs().unpersist()
    assert rated == story.ratings[-1]
    assert pairs - set(rated) == {("fay", "tea"), ("dan", "milk")}  # returned, and out of the window


def test_pairs_that_are_worth_nothing_are_kept_as_seen(story):
    worth = {row[:2]: row[2] for row in story.kept[2]}
    assert (worth["fay", "tea"], worth["dan", "milk"]) == (0.0, 0.0)


def test_earlier_date_run_again_derives_as_of_that_date(story):
    assert story.touched[3] == {"updated": 3, "removed": 1}
    assert story.ratings[3] != story.ratings[0]  # an event of before came in since
    assert {**story.ratings[3], ("eve", "milk"): 1.0} == story.ratings[0]
    assert story.kept[4] == story.kept[2]


def test_other_weights_derive_all_again(story):
    assert story.events[5] == {"unchanged": 4}
    assert story.ratings[5] == {
        ("ann", "tea"): 7.0,
        ("eve", "milk"): 7.0,
        ("fay", "milk"): 2.0,
        ("gil", "tea"): 2.0,
    }


def test_events_are_kept_by_month(story):
    kept = story.shop.rows("events", "user", "item", "event", "month", "first_run")
    assert len(kept) == 11
    assert ("eve", "milk", "purchase", date(2024, 6, 1), NEXT) in kept
    assert ("fay", "milk", "return", date(2024, 7, 1), NEXT) in kept
    assert ("ann", "tea", "purchase", date(2024, 6, 1), DAY) in kept


def test_fading_touches_no_row(shop):
    shop.tree["ingest"]["events"]["half_life"] = 1
    shop.ingested("ann,tea,view,2024-06-29", "bob,tea,purchase,2024-06-30")
    assert ratings(shop) == {("ann", "tea"): 0.25, ("bob", "tea"): 2.5}
    shop.ingested("bob,tea,view,2024-07-01", day=NEXT)
    assert touched(shop, NEXT) == {"updated": 1}
    assert ratings(shop, NEXT) == {("ann", "tea"): 0.125, ("bob", "tea"): 1.25 + 0.5}


def test_run_that_failed_between_events_and_ratings_is_made_up_for(shop, monkeypatch):
    shop.ingested(*FIRST)
    shop.receive("bob,milk,view,2024-06-29")

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ingest_step, "derive_ratings", fail)
        ingest(shop.night())
    assert len(ratings(shop)) == 2
    shop.ingested("ann,tea,view,2024-07-01", day=NEXT)
    assert ratings(shop, NEXT) == {("ann", "tea"): 7.0, ("bob", "milk"): 1.0, ("bob", "tea"): 1.0}


def test_pairs_deleted_from_events_leave_ratings(shop):
    shop.ingested(*FIRST)
    DeltaTable.forPath(shop.spark, str(shop.folder / "lake" / "events")).delete("user = 'bob'")
    shop.ingested(FIRST[0])
    assert touched(shop, DAY) == {"removed": 1}
    assert shop.rows("ratings", "user") == [("ann",)]


def test_rows_without_type_and_time_count_once_each(shop):
    shop.header, columns = "u,i", {"user": "u", "item": "i"}
    shop.tree["ingest"]["source"]["columns"], shop.tree["ingest"]["events"] = columns, {}
    assert shop.ingested("ann,tea", "ann,tea", "bob,tea") == {"inserted": 2, "duplicates": 1}
    assert shop.ingested("ann,tea", "ann,milk", day=NEXT) == {"inserted": 1, "unchanged": 1}
    assert ratings(shop, NEXT) == {("ann", "tea"): 1.0, ("bob", "tea"): 1.0, ("ann", "milk"): 1.0}
    assert shop.rows("events", "event", "timestamp", "month") == [("event", None, None)] * 3


def test_given_and_derived_ratings_do_not_mix(shop, tmp_path):
    shop.ingested(*FIRST)
    explicit = Shop.__new__(Shop)
    explicit.__dict__ |= shop.__dict__
    explicit.tree = {**shop.tree, "ingest": {"source": {**shop.tree["ingest"]["source"]}}}
    explicit.tree["ingest"]["source"]["columns"] = {"user": "u", "item": "i", "rating": "e", "timestamp": "t"}
    explicit.receive("ann,tea,5,2024-06-30")
    with pytest.raises(LakeError, match=r"derived from the table 'events'.*columns\.event"):
        ingest(explicit.night())
    explicit.tree["lake"] = {"root": str(tmp_path / "explicit")}
    ingest(explicit.night())
    shop.tree["lake"] = explicit.tree["lake"]
    shop.receive(*FIRST)
    with pytest.raises(LakeError, match=r"not derived from events.*columns\.rating"):
        ingest(shop.night())
    assert shop.rows("ratings", "rating") == [(5.0,)]


BOUGHT = [
    f"user {u},item {i},purchase,2024-06-{10 + i}" for u in range(8) for i in range(6) if (u + i) % 2 == 0
]
VIEWED = [f"user {u},item {i},view,2024-06-{10 + i}" for u in range(8) for i in range(6) if (u + i) % 3 == 0]


@pytest.fixture(scope="module")
def bought_and_viewed(spark, tmp_path_factory):
    """After a whole night whose lists leave out what was bought."""
    shop = event_shop(spark, tmp_path_factory.mktemp("bought"))
    shop.tree |= {
        "models": ["popularity", "als"],
        "history": {"als": ["purchase"]},
        "recommend": {"n": 6, "exclude_seen": ["purchase"]},
    }
    shop.receive(*BOUGHT, *VIEWED)
    run_night(shop.night())
    return shop


def test_lists_leave_out_what_was_bought_and_hold_what_was_viewed(bought_and_viewed):
    lists = {}
    for user, item in bought_and_viewed.rows("recommendations", "user", "item"):
        lists.setdefault(user, set()).add(item)
    assert lists == {f"user {u}": {f"item {i}" for i in range(6) if (u + i) % 2} for u in range(8)}


@pytest.mark.parametrize(
    ("exclude", "seen"),
    [
        (True, {*BOUGHT, *VIEWED}),
        (["view"], {*VIEWED}),
        (["purchase", "view"], {*BOUGHT, *VIEWED}),
        (False, set()),
    ],
)
def test_what_counts_as_seen(bought_and_viewed, exclude, seen):
    night = bought_and_viewed.night(recommend={"exclude_seen": exclude})
    found = night.seen()
    rows = [] if found is None else rows_of(found).select("user", "item").collect()
    assert {tuple(row) for row in rows} == {tuple(line.split(",")[:2]) for line in seen}


@pytest.mark.parametrize(("exclude", "seen"), [(True, [*BOUGHT, *VIEWED]), (["purchase"], BOUGHT)])
def test_what_was_seen_long_ago_may_be_listed_again(bought_and_viewed, exclude, seen):
    """Of the 17 days until 30 June the first is the 14th."""
    night = bought_and_viewed.night(recommend={"exclude_seen": exclude, "seen_days": 17})
    rows = rows_of(night.seen()).select("user", "item").collect()
    recent = [line for line in seen if line.split(",")[3] >= "2024-06-14"]
    assert {tuple(row) for row in rows} == {tuple(line.split(",")[:2]) for line in recent}


def test_model_is_fitted_on_the_types_of_its_history(bought_and_viewed):
    night = bought_and_viewed.night()
    fitted = {
        name: {r["rating"] for r in rows_of(night.fitted_on(name)).collect()}
        for name in ("als", "popularity")
    }
    assert fitted == {"als": {5.0}, "popularity": {1.0, 5.0, 6.0}}
    assert rows_of(night.fitted_on("als")).count() == len(BOUGHT)


def test_reasons_are_what_the_model_was_fitted_on_and_add_what_is_not_known(bought_and_viewed):
    shop, bought = bought_and_viewed, {tuple(line.split(",")[:2]) for line in BOUGHT}
    shown = 0
    for user in (f"user {u}" for u in range(8)):
        _, lists = describe_user(shop.reader(), user, why=SavedModels(shop.reader(), shop.night().config))
        for row in (row for row in lists.rows if row["model"] == "als"):
            assert {(user, reason["item"]) for reason in row["because"]} <= bought
            assert {reason["contribution"] for reason in row["because"]} <= {None}
            shown += len(row["because"])
    assert shown


def test_steps_read_the_events_that_the_split_pinned(bought_and_viewed):
    shop = bought_and_viewed
    shop.ingested("user 0,item 5,purchase,2024-06-29")
    night = shop.night()
    assert night.versions() == {"ratings": 1, "events": 1}
    assert rows_of(night.fitted_on("als")).count() == len(BOUGHT)


def test_timestamps_at_midnight_utc_belong_to_their_month(shop):
    shop.ingested("ann,tea,view,2024-05-31T23:59:59Z", "ann,tea,view,2024-06-01T00:00:00Z")
    months = {
        row["month"]: row["timestamp"]
        for row in shop.night()
        .lake.read("events")
        .select("month", F.unix_seconds("timestamp").alias("timestamp"))
        .collect()
    }
    june = int(datetime(2024, 6, 1, tzinfo=UTC).timestamp())
    assert months == {date(2024, 5, 1): june - 1, date(2024, 6, 1): june}
