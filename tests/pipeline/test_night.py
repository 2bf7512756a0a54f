"""Whole nights on small data: every row accounted for, the same night twice, steps alone, failures that
leave no trace.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pyspark.sql import functions as F

from recsys_spark import histories
from recsys_spark.errors import (
    ConfigError,
    LakeError,
    ModelError,
    PublishError,
    RejectedFractionError,
    SourceError,
)
from recsys_spark.histories import pack_histories
from recsys_spark.lakehouse.reader import SparkReader
from recsys_spark.models.pairwise import PairwiseModel
from recsys_spark.models.popularity import PopularityModel
from recsys_spark.pipeline import checks
from recsys_spark.pipeline.checks import check_lists
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import redacted
from recsys_spark.pipeline.served import served_lists
from recsys_spark.pipeline.show import describe_item, describe_user, sample_users
from recsys_spark.pipeline.show_runs import describe_current, describe_lineage, describe_runs
from recsys_spark.pipeline.split import split
from recsys_spark.pipeline.steps import STEPS, run_night, steps_of
from recsys_spark.recommend.top_n import ListRequest
from tests.pipeline.shop import DAY, NEXT, Shop

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_night_on_movielens_10m_keeps_accents(spark, tmp_path):
    release = tmp_path / "ml-10M100K"
    release.mkdir()
    titles = [
        "Mis\u00e9rables, Les (1995)",
        "Am\u00e9lie (2001)",
        "\u5343\u3068\u5343\u5c0b (2001)",
        "Le\u00f3n (1994)",
    ]
    movies = [f"{1000 + n}::{title}::Drama|Romance\n" for n, title in enumerate(titles)]
    (release / "movies.dat").write_text("".join(movies), encoding="utf-8")
    rated = [(u, 1000 + n) for u in range(1, 9) for n in range(4) if n != u % 4]
    lines = [f"{u}::{i}::{0.5 + (u + i) % 10 / 2}::{838985046 + i}\n" for u, i in rated]
    (release / "ratings.dat").write_text("".join(lines))
    shop = Shop(spark, tmp_path)
    shop.tree["ingest"] = {"source": {"format": "movielens", "path": str(tmp_path)}, "scale": [0.5, 5]}
    shop.tree["models"] = ["popularity"]
    shop.tree["recommend"] = {"n": 1}
    night = shop.night()
    run_night(night)
    lists = {row.user: row.item for row in night.lake.read("recommendations").collect()}
    assert lists == {u: 1000 + u % 4 for u in range(1, 9)}
    assert sorted(row.title for row in night.lake.read("items").collect()) == sorted(titles)
    history, lists = describe_user(shop.reader(), "4")
    assert {row["title"] for row in (*history.rows, *lists.rows)} == set(titles)


CHECKERBOARD = [
    f"user {u},item {i:02d},{1 + (u * i) % 5},{1_600_000_000 + i}"
    for u in range(16)
    for i in range(12)
    if (u + i) % 2
]


@pytest.fixture(scope="module")
def twice(spark, tmp_path_factory):
    """The same night run twice, and then the next."""
    shop = Shop(spark, tmp_path_factory.mktemp("twice"))
    shop.receive(*CHECKERBOARD, "user 1,item 00,9,1600000000")
    shop.snapshots = []
    for day in (DAY, DAY, NEXT):
        night = shop.night(day)
        run_night(night, again=True)
        lists = shop.rows("recommendations", "run_date", "user", "rank", "item", "model", "reason")
        shop.snapshots.append((night.run_id, night.lake.version("ratings"), lists))
    return shop


def test_first_night_lists_every_user(twice):
    _, _, lists = twice.snapshots[0]
    assert {row[1] for row in lists} == {f"user {u}" for u in range(16)}
    assert {row[0] for row in lists} == {DAY}
    seen = {tuple(line.split(",")[:2]) for line in CHECKERBOARD}
    assert not seen & {(row[1], row[3]) for row in lists}


def test_same_night_twice_changes_no_rows(twice):
    (_, version, lists), (_, again, relisted), _ = twice.snapshots
    assert (again, relisted) == (version, lists)


def test_ledger_records_what_each_run_did(twice):
    rows = twice.night().lake.read("runs").where("state <> 'running'").orderBy("started").collect()
    assert [row["step"] for row in rows] == steps_of(twice.night().config) * 3
    assert {row["state"] for row in rows} == {"done"}
    first, second = (row["counts"] for row in rows if row["step"] == "ingest" and row["run_date"] == DAY)
    assert (first["inserted"], first["unchanged"], first["rejected"]) == (len(CHECKERBOARD), 0, 1)
    assert (second["inserted"], second["unchanged"], second["rejected"]) == (0, len(CHECKERBOARD), 1)
    recommended = next(row for row in rows if row["step"] == "recommend")
    assert recommended["versions_read"] == {"ratings": twice.snapshots[0][1]}
    assert "recommendations" in recommended["versions_written"]
    assert json.loads(recommended["config"])["params"]["als"]["rank"] == 4


def test_next_night_leaves_the_last_alone(twice):
    before = twice.snapshots[1][2]
    after = twice.snapshots[2][2]
    assert [row for row in after if row[0] == DAY] == before
    assert len([row for row in after if row[0] == NEXT]) == len(before)


def test_rejected_rows_are_kept_once_per_date(twice):
    rows = twice.rows("rejected_ratings", "run_date", "input", "reason", "raw")
    expected = ("ratings", "rating_out_of_scale", "user 1,item 00,9,1600000000")
    assert rows == [(DAY, *expected), (NEXT, *expected)]


def test_metrics_name_run_model_and_cutoff(twice):
    rows = twice.night().lake.read("metrics").where(F.col("run_id") == twice.snapshots[0][0]).collect()
    measured = {(row["part"], row["model"]) for row in rows if row["verdict"] is None}
    assert measured == {
        ("validation", "popularity"),
        ("validation", "als"),
        ("test", "popularity"),
        ("test", "als"),
        ("test", "baseline"),
    }
    assert {row["k"] for row in rows if row["metric"] == "ndcg"} == {3}
    assert {row["split"] for row in rows} == {"leave_last"}


def test_served_is_the_last_night_and_any_asked_for(twice):
    lake = twice.night().lake
    assert served_lists(lake)[0] == NEXT
    day, rows = served_lists(lake, DAY)
    assert day == DAY
    assert rows.count() == len(twice.snapshots[0][2])


def test_answers_without_spark_are_those_of_spark(twice):
    """Of all that people ask; the two readers have nothing in common."""
    readers = (twice.reader(), SparkReader(twice.night().lake))
    (user,) = sample_users(readers[0], 1)
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for ask in (
        lambda reader: describe_user(reader, user),
        lambda reader: describe_user(reader, user, DAY),
        lambda reader: describe_item(reader, "item 03"),
        lambda reader: describe_runs(reader, NEXT),
        lambda reader: describe_lineage(reader, NEXT),
        lambda reader: describe_current(reader, now),
        lambda reader: sample_users(reader, 3),
    ):
        assert ask(readers[0]) == ask(readers[1])


def test_steps_run_alone_make_the_lists_of_one_run(shop, twice):
    shop.receive(*CHECKERBOARD)
    for name in steps_of(shop.night().config):
        STEPS[name](shop.night())  # each in a night of its own, as a job of its own would
    lists = shop.rows("recommendations", "run_date", "user", "rank", "item", "model", "reason")
    assert lists == twice.snapshots[0][2]


def test_negatives_are_written_where_they_are_configured(shop):
    shop.receive(*CHECKERBOARD)
    shop.tree["negatives"] = {"strategy": "uniform", "ratio": 2}
    for name in ("ingest", "split", "sample_negatives", "sample_negatives"):
        STEPS[name](shop.night())
    rows = shop.rows("negatives", "run_date", "user", "positive", "item", "log_q")
    known = {tuple(row) for row in shop.night().rated("train").rows("user", "item").collect()}
    assert {row[0] for row in rows} == {DAY}
    assert {(user, positive) for _, user, positive, _, _ in rows} == known
    assert not {(user, item) for _, user, _, item, _ in rows} & known
    counts = shop.night().ledger.last_done("sample_negatives")["counts"]
    assert counts == {
        "positives": len(known),
        "negatives": len(rows),
        "shortfall": 2 * len(known) - len(rows),
    }
    assert "sample_negatives" in steps_of(shop.night().config)
    shop.tree["negatives"] = None
    assert "sample_negatives" not in steps_of(shop.night().config)
    with pytest.raises(ConfigError, match="negatives: given 'nothing'"):
        STEPS["sample_negatives"](shop.night())


@pytest.mark.parametrize(
    ("step", "needs"),
    [
        ("train", "split"),
        ("evaluate", "split"),
        ("recommend", "split"),
        ("gate", "recommend"),
        ("publish", "gate"),
    ],
)
def test_step_before_the_one_it_needs_says_what_to_run(shop, step, needs):
    shop.receive(*CHECKERBOARD)
    ingest(shop.night())
    with pytest.raises(
        LakeError, match=f"step '{needs}' has not been done for run date 2024-06-30: run it first"
    ):
        STEPS[step](shop.night())


def test_a_full_dump_is_read_night_by_night(shop):
    dump = [
        "a,v,3,2024-06-27",
        "a,w,3,2024-06-28",
        "a,y,3,2024-06-30T23:59:59.999Z",
        "a,z,3,2024-07-01",
        "b,z,9,2024-07-01",
    ]
    dump.append("a,x,1,2999-01-01")
    assert shop.ingested(*dump) == {"inserted": 3, "rejected": 2, "later": 1}
    assert shop.ingested(*dump, day=NEXT) == {"inserted": 1, "unchanged": 3, "rejected": 2}
    for day, items in ((DAY, {"v", "w", "y"}), (NEXT, {"v", "w", "y", "z"})):
        split(shop.night(day))
        night = shop.night(day)
        assert {row["item"] for row in night.ratings().collect()} == items
        assert {row["item"] for row in night.pairs().rows("item").collect()} == items


def test_late_and_corrected_rows(shop):
    assert shop.ingested("a,x,3,1000", "b,x,3,1000") == {"inserted": 2}
    # a: later; b: older, so it stays; c: new; d: twice the same
    assert shop.ingested("a,x,2,2000", "b,x,5,500", "c,x,1,1", "d,x,4,7", "d,x,4,7", day=NEXT) == {
        "inserted": 2,
        "updated": 1,
        "unchanged": 1,
        "duplicates": 1,
    }
    rows = shop.rows("ratings", "user", "rating", "first_run", "last_run")
    assert rows[:2] == [("a", 2.0, DAY, NEXT), ("b", 3.0, DAY, DAY)]
    assert shop.ingested("a,x,3,2000", "b,x,3,1000") == {"updated": 1, "unchanged": 1}  # as late and larger


def test_conflicting_rows_of_one_file(shop):
    assert shop.ingested("a,x,5,1000", "a,x,2,2000", "a,x,3,2000", "b,y,nonsense,1") == {
        "inserted": 1,
        "duplicates": 2,
        "rejected": 1,
    }
    assert shop.rows("ratings", "user", "item", "rating") == [("a", "x", 3.0)]


def test_error_shows_three_rejected_rows_with_file_and_line(shop):
    shop.receive("a,x,3,1000", 'b,"x, y",4;5,1000', "c,x,three,1000", "d,x,1.5.2,1000", "e,x,,1000")
    with pytest.raises(RejectedFractionError) as caught:
        ingest(shop.night())
    message = str(caught.value)
    for line, raw in ((3, 'b,"x, y",4;5,1000'), (4, "c,x,three,1000"), (5, "d,x,1.5.2,1000")):
        assert f"ratings.csv:{line} (unparsable_rating): {raw!r}" in message
    assert "e,x" not in message


def test_too_many_rejected_rows_stop_the_step_before_ratings(shop):
    shop.ingested("a,x,3,1000")
    version = shop.night().lake.version("ratings")
    shop.receive("b,x,3,1000", "c,x,9,1000", "d,,3,1000", "e,x,10,1000")
    with pytest.raises(
        RejectedFractionError,
        match=r"3 of 4 rows of ratings were rejected.*75\.0%.*rating_out_of_scale 2, missing_item 1",
    ):
        ingest(shop.night())
    assert shop.night().lake.version("ratings") == version
    assert len(shop.rows("rejected_ratings", "raw")) == 3
    failed = shop.night().lake.read("runs").where("state = 'failed'").first()
    assert "3 of 4 rows of ratings were rejected" in failed["error"]


def test_files_with_different_headers_stop_the_step(shop):
    shop.receive("a,x,3,1000")
    (shop.folder / "in" / "other.csv").write_text("i,u,r,t\nx,b,3,1000\n")
    with pytest.raises(SourceError, match=r"another header.*other\.csv.*; try `recsys preview .*`$"):
        ingest(shop.night())


def test_a_rejected_row_is_shown_with_its_place(shop, capsys):
    shop.ingested("a,x,3,1000", "b,x,7,1000")
    shown = capsys.readouterr().err
    assert (
        "1 rejected (rating_out_of_scale 1, such as ratings.csv:3 (rating_out_of_scale): 'b,x,7,1000')"
        in shown
    )


def test_rejected_rows_of_a_repaired_file_are_gone(shop):
    shop.ingested("a,x,3,1000", "b,x,7,1000")
    shop.ingested("a,x,3,1000", "b,x,4,1000")
    assert shop.rows("rejected_ratings", "raw") == []


def test_user_with_few_items_left_is_filled_from_popular_ones(shop):
    shop.tree["split"] = {"min_user_ratings": 3}
    shop.receive(*CHECKERBOARD, "newcomer,item 00,5,1600000000")
    night = shop.night(models=["als"], recommend={"n": 4, "refit": False})
    run_night(night)
    rows = shop.night().lake.read("recommendations").where("user = 'newcomer'").orderBy("rank").collect()
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert {(row["model"], row["reason"]) for row in rows} == {("popularity", "fallback")}


def test_what_the_split_leaves_out_is_rated_and_in_no_part(shop):
    shop.tree["split"] = {"min_user_ratings": 3}
    shop.receive(*CHECKERBOARD, "newcomer,item 00,5,1600000000")
    for name in ("ingest", "split"):
        STEPS[name](shop.night())
    night = shop.night()
    rated = sorted(map(tuple, night.rated().rows("user", "item", "rating").collect()))
    assert rated == sorted(shop.rows("ratings", "user", "item", "rating"))
    of_parts = {row["user"] for row in night.known_before("test").rows("user").collect()}
    assert of_parts == {row[0] for row in rated} - {"newcomer"}
    night.pairs().unpersist()


@pytest.mark.long
def test_holdout_users_needs_models_that_score_new_users(shop):
    with pytest.raises(ConfigError, match=r"split\.method: given 'holdout_users'.*als cannot"):
        shop.night(split={"method": "holdout_users"})
    shop.receive(*CHECKERBOARD)
    how = {"method": "holdout_users", "test_fraction": 0.4, "validation_fraction": 0.3}
    run_night(shop.night(split=how, models=["popularity"]))
    assert {row[0] for row in shop.rows("metrics", "split")} == {"holdout_users"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("u", 1, "a"), ("u", 3, "b")], "gaps in their ranks"),
        ([("u", 1, "a"), ("u", 1, "b")], "gaps in their ranks"),
        ([("u", 1, "a"), ("u", 2, "a")], "hold an item twice"),
        ([("u", 1, "seen")], "hold an item already seen"),
        ([], "no lists to publish"),
    ],
)
def test_lists_that_break_an_invariant_are_not_written(spark, rows, message):
    frame = spark.createDataFrame(rows, "user string, rank int, item string")
    ratings = spark.createDataFrame([("u", "seen"), ("v", "a")], "user string, item string")
    with pytest.raises(PublishError, match=message):
        check_lists(frame, ratings)


@pytest.mark.parametrize("planted", [None, "user 7", "user 12"])
def test_an_item_already_seen_is_found_in_packed_histories(spark, monkeypatch, planted):
    monkeypatch.setattr(checks, "TASK_ROWS", 20)
    monkeypatch.setattr(histories, "BUCKET_ROWS", 20)
    known = [
        (f"user {u}", f"item {u + k}", part) for u in range(20) for k, part in ((0, "train"), (1, "test"))
    ]
    ratings = spark.createDataFrame(known, "user string, item string, part string")
    packed = pack_histories(ratings.selectExpr("*", "1.0 AS rating", "now() AS timestamp"), len(known))
    lists = [(user, item, 1) for user, item, part in known if part == "test"]  # which counts as not seen
    lists += [(user, item, 2) for user, item, part in known if part == "train" and user == planted]
    lists = spark.createDataFrame(lists, "user string, item string, rank int").repartition(3)
    if planted is None:
        assert check_lists(lists, packed.of("train")) == {"rows": 20, "lists": 20}
    else:
        with pytest.raises(PublishError, match="1 of 20 users' lists hold an item already seen"):
            check_lists(lists, packed.of("train"))
    packed.unpersist()


def test_bad_lists_leave_the_table_as_it_was(shop, monkeypatch):
    shop.tree["models"] = ["popularity"]
    shop.receive(*CHECKERBOARD)
    run_night(shop.night())
    before = shop.night().lake.version("recommendations")

    masked = PopularityModel.recommend_lists

    def blind(self, users, request):
        return masked(self, users, ListRequest(request.n))

    monkeypatch.setattr(PopularityModel, "recommend_lists", blind)
    with pytest.raises(PublishError, match="hold an item already seen"):
        STEPS["recommend"](shop.night())
    assert shop.night().lake.version("recommendations") == before


def test_header_lines_are_counted_apart(shop):
    shop.receive("a,x,3,1600000000", "u,i,r,t", "b,x,4,1600000001")
    night = shop.night()
    ingest(night)
    counts = night.ledger.last_done("ingest")["counts"]
    assert (counts["read"], counts["header_lines"]) == (2, 2)


@pytest.mark.long
def test_old_date_run_again_writes_its_own_rows_again(shop):
    shop.tree["models"] = ["popularity"]
    shop.receive(*CHECKERBOARD)
    run_night(shop.night(DAY))
    before = shop.rows("recommendations", "user", "rank", "item", "score")
    shop.receive(*(f"user {u},item 99,5,1700000000" for u in range(12)))
    run_night(shop.night(NEXT))
    shop.receive(*CHECKERBOARD)
    run_night(shop.night(DAY))
    lists = shop.night().lake.read("recommendations")
    again = sorted(
        tuple(row)
        for row in lists.where("run_date = '2024-06-30'").select("user", "rank", "item", "score").collect()
    )
    assert again == before
    assert lists.where("run_date = '2024-07-01' and item = 'item 99'").count() > 0


def test_steps_of_one_date_must_agree_on_the_split(shop):
    shop.receive(*CHECKERBOARD)
    for name in ("ingest", "split"):
        STEPS[name](shop.night())
    with pytest.raises(LakeError, match=r"was done as .*leave_last.* the configuration says .*random"):
        STEPS["train"](shop.night(split={"method": "random"}))


def test_secrets_are_not_kept_in_the_ledger(shop):
    shop.tree["session"] = {"spark": {"spark.hadoop.fs.s3a.secret.key": "hush", "spark.x": "open"}}
    kept = redacted(shop.night().config)
    assert "hush" not in kept
    assert "open" in kept


def test_test_part_without_a_relevant_row_is_an_error(shop):
    shop.receive(*CHECKERBOARD)
    with pytest.raises(ModelError, match=r"no held-out row counts as relevant.*evaluate\.min_rating"):
        run_night(shop.night(evaluate={"cutoffs": [3], "champion_metric": "ndcg@3", "min_rating": 99.0}))


def test_empty_input_is_an_error(shop):
    shop.receive()
    with pytest.raises(SourceError, match="the ratings input is empty"):
        ingest(shop.night())


@pytest.mark.long
def test_models_trained_separately_are_evaluated_together(shop):
    shop.ingested(*CHECKERBOARD)
    STEPS["split"](shop.night())
    STEPS["train"](shop.night(models=["popularity"]))
    with pytest.raises(
        LakeError, match="there is no als trained on this split of ratings version 1: run the train step"
    ):
        STEPS["evaluate"](shop.night())
    STEPS["train"](shop.night(models=["als"]))
    STEPS["evaluate"](shop.night())
    assert {row[0] for row in shop.rows("metrics", "model")} == {"popularity", "als", "baseline"}


@pytest.mark.long
def test_models_take_features_from_the_tables_of_users_and_items(shop):
    colours = ["i,title,genres", *(f"item {i:02d},Item {i},{('dark', 'light')[i % 2]}" for i in range(13))]
    (shop.folder / "items.csv").write_text("\n".join(colours) + "\n")
    items = {
        "path": str(shop.folder / "items.csv"),
        "format": "csv",
        "id": "i",
        "columns": {"title": "title", "genres": "genres"},
    }
    shop.tree["ingest"]["source"]["items"] = items
    small = {"embeddingDim": 4, "maxIter": 30, "batchSize": 20, "stepSize": 0.05}
    shop.tree |= {"models": ["popularity", "pairwise"], "pairwise": {**small, "itemFeatureCols": ["genres"]}}
    shop.receive(*CHECKERBOARD)
    run_night(shop.night())
    (trained,) = [
        row
        for row in shop.night().lake.read("runs").collect()
        if (row["step"], row["state"]) == ("train", "done")
    ]
    assert trained["versions_read"] == {"ratings": 1, "items": 1}
    (path,) = {
        row[0]
        for row in shop.rows("models", "path", "model", "purpose")
        if row[1:] == ("pairwise", "comparison")
    }
    model = PairwiseModel.load(path)
    # item 12 has no rating at all, 8 to 11 are the last two of all users and held out; but all have genres
    without = {row.id for row in model.itemFactors.where("count = 0").collect()}
    assert without == {f"item {number:02d}" for number in range(8, 13)}
    shop.tree["pairwise"]["userFeatureCols"] = ["age"]
    with pytest.raises(
        ConfigError,
        match=r"pairwise.userFeatureCols: given \['age'\]; allowed: features of ingest.source.users: \[\]",
    ):
        STEPS["train"](shop.night())
