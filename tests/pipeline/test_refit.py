"""Nights between two fits; what made a night's lists; and the same lists once more."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from delta.tables import DeltaTable
from pyspark.sql import functions as F

from recsys_spark.cli import main
from recsys_spark.errors import ConfigError, LakeError, PublishError
from recsys_spark.pipeline.gate import gate
from recsys_spark.pipeline.publish import publish
from recsys_spark.pipeline.refit import fit_to_keep
from recsys_spark.pipeline.reproduce import reproduce
from recsys_spark.pipeline.show_runs import describe_lineage
from recsys_spark.pipeline.steps import run_night
from tests.lakehouse.test_retention import grown_old
from tests.pipeline.shop import DAY, NEXT, Shop

pytestmark = [pytest.mark.slow, pytest.mark.long]

USERS = 60


def rated(user, items, first=0):
    return [
        f"u{user:02d},i{item:02d},5,{1_600_000_000 + 100 * n + user}" for n, item in enumerate(items, first)
    ]


def items_of(user, count=9):
    return random.Random(user).sample(range(user % 2, 30, 2), count)


def two_nights(shop, **models):
    """Two nights: on the second three users have rated more, one of them for the first time."""
    shop.tree |= {"models": list(models), **models, "recommend": {"n": 4, "refit_every": 3}}
    shop.tree["gate"] = {"max_loss": None, "max_segment_loss": None}
    before = [line for user in range(USERS) for line in rated(user, items_of(user))]
    shop.receive(*before)
    run_night(shop.night(DAY))
    more = [
        *rated(3, items_of(3, 12)[9:], 9),
        *rated(8, items_of(8, 11)[9:], 9),
        *rated(USERS, items_of(USERS, 5)),
    ]
    shop.receive(*before, *more)
    run_night(shop.night(NEXT))
    return shop


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    shop = Shop(spark, tmp_path_factory.mktemp("refit"))
    return two_nights(shop, als=shop.tree["als"])


def lists(shop, day):
    rows = shop.night().lake.read("recommendations").where(F.col("run_date") == F.lit(day)).collect()
    return {
        user: {row["item"]: row["score"] for row in rows if row["user"] == user and row["reason"] == "model"}
        for user in {row["user"] for row in rows}
    }


def test_users_with_new_ratings_are_folded_in_to_the_kept_model(shop):
    ledger = shop.night(NEXT).ledger
    assert ledger.last_done("recommend")["counts"]["folded_in"] == 3
    kept, now = lists(shop, DAY), lists(shop, NEXT)
    changed = {"u03", "u08", f"u{USERS}"}
    assert set(now) == set(kept) | changed
    for user in set(kept) - changed:
        assert now[user] == kept[user]
    for user in changed:
        assert now[user] != kept.get(user)
    assert {int(item[1:]) % 2 for item in now[f"u{USERS}"]} == {USERS % 2}  # as the history


@pytest.mark.parametrize("champion", ["blend", "ranker"])
def test_models_of_others_are_kept_too(spark, tmp_path, champion):
    members = {"als": {"rank": 3, "implicitPrefs": True}, "item_item": {"regParam": 1.0}}
    params = {"memberWeights": {"als": 0.4, "item_item": 0.6}} if champion == "blend" else {"maxIter": 5}
    own = two_nights(Shop(spark, tmp_path), **{champion: {"members": members, **params}})
    made = own.night(NEXT).ledger.last_done("recommend")
    assert (made["details"]["champion"], made["counts"]["folded_in"]) == (champion, 3)
    rows = own.night().lake.read("recommendations").where(F.col("run_date") == F.lit(NEXT)).collect()
    assert len({row["user"] for row in rows}) == USERS + 1
    listed = [row for row in rows if row["model"] == champion]
    assert {row["user"] for row in listed} >= {"u03", "u08", f"u{USERS}"}
    assert {row["reason"] for row in listed} <= set(members)


def test_no_model_but_the_popular_items_is_fitted_between_two_fits(shop):
    models = shop.night().lake.read("models").where(F.col("run_date") == F.lit(NEXT)).collect()
    assert [(row["model"], row["purpose"]) for row in models] == [("popularity", "fallback")]
    states = {
        (row["purpose"], row["state"])
        for row in shop.night().lake.read("models").where(F.col("run_date") == F.lit(DAY)).collect()
    }
    assert {("comparison", "champion"), ("serving", "champion"), ("fallback", "retired")} <= states


def test_quality_of_the_folded_in_is_reported(shop):
    measured = (
        shop.night()
        .lake.read("metrics")
        .where((F.col("run_date") == F.lit(NEXT)) & (F.col("model") == "als") & (F.col("metric") == "ndcg"))
    )
    users = {
        row["segment"]: row["users"] for row in measured.where("part = 'test' AND verdict IS NULL").collect()
    }
    assert (users["fit=folded_in"], users["fit=kept"], users["all"]) == (3, USERS - 2, USERS + 1)


@pytest.mark.parametrize(
    ("days", "changes", "kept"),
    [
        (2, {}, True),
        (3, {}, False),  # it is due
        (2, {"als": {"rank": 5, "maxIter": 3, "implicitPrefs": True}}, False),
        (2, {"split": {"method": "random"}}, False),
        (2, {"models": ["popularity"]}, False),
        (2, {"recommend": {"n": 4}}, False),
    ],
)
def test_when_a_fit_is_kept(shop, days, changes, kept):
    night = shop.night(DAY + timedelta(days=days), **changes)
    assert (fit_to_keep(night) is not None) is kept


def test_a_fit_cannot_be_kept_longer_than_its_ratings(shop):
    with pytest.raises(ConfigError, match=r"retention\.days as long"):
        shop.night(recommend={"refit_every": 31})


def test_lists_are_not_asked_about_for_longer_than_they_are_kept(shop):
    with pytest.raises(ConfigError, match=r"not_again_days, 31, .* retention\.dates keeps those of 30"):
        shop.night(recommend={"items": {"not_again_days": 31}}, retention={"dates": 30})


def test_lists_are_reproduced_from_what_they_were_made_from(shop, spark, capsys):
    for day in (DAY, NEXT):  # fitted, and folded in
        assert reproduce(spark, shop.night().config, day).lists == len(lists(shop, day))
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "reproduce",
                "-c",
                str(shop.folder / "conf.yaml"),
                "-d",
                str(DAY),
                "--to",
                str(shop.folder / "again"),
            ]
        )
    assert ended.value.code in (None, 0)
    assert "identical: 240 rows of 60 users" in capsys.readouterr().out
    assert spark.read.parquet(str(shop.folder / "again")).count() == 240


def test_lists_that_are_not_what_was_made_are_found(shop, spark):
    table = DeltaTable.forPath(spark, str(shop.folder / "lake" / "recommendations"))
    version = shop.night().lake.version("recommendations")
    table.update(f"run_date = '{DAY}' AND user = 'u07' AND rank = 2", {"score": F.lit(0.125).cast("float")})
    with pytest.raises(PublishError, match=r"2 rows differ from the 240 of 2024-06-30 .* by the same code"):
        reproduce(spark, shop.night().config, DAY)
    table.restoreToVersion(version)


def test_lineage_names_tables_models_and_code(shop):
    (lineage,) = describe_lineage(shop.reader(), NEXT)
    told = " ".join(str(value) for row in lineage.rows for value in row.values())
    runs = {day: shop.night(day).ledger.last_done("train")["run_id"] for day in (DAY, NEXT)}
    for part in (
        "als for serving, champion",
        "ratings, version 2",
        "gate open",
        runs[DAY],
        runs[NEXT],
        "0.1.0+",
    ):
        assert part in told
    with pytest.raises(LakeError, match="step 'recommend' has not been done for run date 1999-01-01"):
        describe_lineage(shop.reader(), DAY.replace(year=1999, month=1, day=1))


def test_a_week_between_two_steps_changes_nothing_and_after_retention_a_sentence_says_so(shop, spark):
    grown_old(shop.folder / "lake", days=8)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    gate(shop.night(DAY))
    publish(shop.night(DAY), "the weekly schedule")
    assert {row["run_date"] for row in shop.night().lake.read("current_recommendations").collect()} == {DAY}
    assert reproduce(spark, shop.night().config, DAY).rows == 240
    grown_old(shop.folder / "lake", days=40)
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    with pytest.raises(LakeError, match="version 1 of table 'ratings' is no longer kept"):
        reproduce(spark, shop.night().config, DAY)
