"""The gate: what may be served without anybody looking first, and what stays out."""

from __future__ import annotations

import contextlib
import random

import pytest
from pyspark.sql import functions as F

from recsys_spark.cli import main
from recsys_spark.errors import GateError, LakeError
from recsys_spark.kernels.metrics import ACCURACY
from recsys_spark.pipeline.details import PATHS
from recsys_spark.pipeline.evaluate import COMPARED_WITH
from recsys_spark.pipeline.forget import forget
from recsys_spark.pipeline.gate import gate
from recsys_spark.pipeline.publish import publish
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import DAY, NEXT, Shop

pytestmark = pytest.mark.slow

USERS = 200


def evaluated(night, ndcg, age=None):
    """As if the night had been evaluated: ``ndcg`` has, for each model, a function of the user's number."""
    night.lake.create("user_metrics", "string", "string")
    with night.step("evaluate") as record:
        rows = [
            {
                "run_id": night.run_id,
                "run_date": night.run_date,
                "model": model,
                "user": f"u{u}",
                "k": 3,
                **dict.fromkeys(ACCURACY, of_user(u)),
                "activity": "q1",
                "age": age and age(u),
            }
            for model, of_user in ndcg.items()
            for u in range(USERS)
        ]
        columns = night.lake.read("user_metrics").schema
        frame = night.spark.createDataFrame(rows, columns).coalesce(1)
        night.lake.replace("user_metrics", frame, f"run_date = '{night.run_date}'", len(rows))
        if "served" in ndcg:
            record.details[COMPARED_WITH] = "als of yesterday"


def recommended(night, lists, *, users=None, scores=(1.0, 3.0), fallback=0):
    """As if the night had made ``lists`` for u0, u1 and so on; the first ``fallback`` rows are filled in."""
    night.lake.create("recommendations", "string", "string")
    entries = [(f"u{u}", rank, item) for u, items in enumerate(lists) for rank, item in enumerate(items, 1)]
    rows = [
        {
            "run_date": night.run_date,
            "user": user,
            "rank": rank,
            "item": item,
            "score": scores[n % 2],
            "model": "popularity" if n < fallback else "als",
            "reason": "fallback" if n < fallback else "model",
        }
        for n, (user, rank, item) in enumerate(entries)
    ]
    with night.step("recommend") as record:
        frame = night.spark.createDataFrame(rows, night.lake.read("recommendations").schema).coalesce(1)
        night.lake.replace("recommendations", frame, f"run_date = '{night.run_date}'", len(rows))
        record.counts |= {"rows": len(rows), "lists": len(lists), "users": users or len(lists)}
        record.counts["fallback_rows"] = fallback
        record.details |= {"champion": "als", PATHS: "{}"}
    night.lake.create("models")


def level(value):
    return lambda _: value


GOOD = {"als": level(0.3), "served": level(0.3), "baseline": level(0.1)}
LISTS = ["abc"] * 10


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """A lake whose first date is served."""
    shop = Shop(spark, tmp_path_factory.mktemp("gate"))
    night = shop.night(DAY)
    evaluated(night, {"als": level(0.3), "baseline": level(0.1)})
    recommended(night, LISTS)
    gate(night)
    publish(night)
    return shop


def verdicts(night):
    rows = night.lake.read("metrics").where((F.col("run_id") == night.run_id) & F.col("verdict").isNotNull())
    return {(row["metric"], row["segment"]): row for row in rows.collect()}


def failed(night):
    return {key for key, row in verdicts(night).items() if row["verdict"] == "fail"}


def test_first_night_has_nothing_to_be_compared_with(shop):
    rows = shop.night().lake.read("metrics").where(F.col("run_date") == F.lit(DAY)).collect()
    assert {(row["metric"], row["verdict"]) for row in rows} == {
        ("loss_to_baseline", "pass"),
        ("rows_missing", "pass"),
        ("uncovered_share", "pass"),
        ("fallback_share", "pass"),
    }


def test_equal_lists_pass_every_check(shop):
    night = shop.night(NEXT)
    evaluated(night, GOOD, age=lambda u: "18-24" if u < 150 else "25-34")
    recommended(night, LISTS)
    gate(night)
    rows = verdicts(night)
    assert {row["verdict"] for row in rows.values()} == {"pass"}
    losses = {segment for metric, segment in rows if metric == "loss_to_served"}
    assert losses == {"all", "activity=q1", "age=18-24"}  # the other band has 50 users only
    for metric in ("row_change", "churn", "score_drift"):
        assert rows[metric, "all"].value == pytest.approx(0)
    assert rows["loss_to_baseline", "all"].value == pytest.approx(-0.2)
    assert rows["loss_to_served", "all"].threshold == pytest.approx(0.05 * 0.3)


def test_closed_gate_keeps_what_is_served_and_says_by_how_much(shop):
    night = shop.night(NEXT)
    evaluated(night, {**GOOD, "als": lambda u: 0.2 + 0.02 * (u % 2)})
    recommended(night, LISTS)
    with pytest.raises(
        GateError,
        match=r"the gate for 2024-07-01 is closed, and the lists of 2024-06-30 stay served: the loss of als "
        r"in ndcg@3 against als of yesterday is 0\.09 \(0\.08\d+ to 0\.09\d+\), and at most 0\.015 is "
        r"allowed; .* recsys publish --run-date 2024-07-01 --force --reason",
    ):
        gate(night)
    assert failed(night) == {("loss_to_served", "all"), ("loss_to_served", "activity=q1")}
    with pytest.raises(GateError, match="is closed"):
        publish(shop.night(NEXT))
    assert shop.served()["run_date"] == DAY


def test_a_loss_that_may_be_chance_passes(shop):
    """A mean loss of 0.02 of 200 users with a deviation of 0.3 has a standard error of 0.02."""
    draw = random.Random(3)
    noise = [draw.gauss(0, 0.3) for _ in range(USERS)]
    centred = [value - sum(noise) / USERS for value in noise]
    for loss, closed in ((0.02, False), (0.2, True)):
        night = shop.night(NEXT)
        evaluated(night, {**GOOD, "als": lambda u, loss=loss: 0.3 - loss + centred[u]})
        recommended(night, LISTS)
        with contextlib.suppress(GateError):
            gate(night)
        row = verdicts(night)["loss_to_served", "all"]
        assert row.value == pytest.approx(loss)
        assert row.value > row.threshold
        assert (row.verdict == "fail") is closed


def test_a_loss_of_one_segment_closes_the_gate(shop):
    """Everybody else gains as much."""
    night = shop.night(NEXT)
    evaluated(
        night,
        {**GOOD, "als": lambda u: 0.2 if u < 100 else 0.4},
        age=lambda u: "18-24" if u < 100 else "25-34",
    )
    recommended(night, LISTS)
    with pytest.raises(GateError, match=r"for age=18-24 is 0\.1 \(0\.1000 to 0\.1000\), and at most 0\.06"):
        gate(night)
    assert failed(night) == {("loss_to_served", "age=18-24")}


def test_popular_items_of_a_fixed_date_must_be_beaten(shop):
    night = shop.night(NEXT)
    evaluated(night, {**GOOD, "served": level(0.2), "als": level(0.2), "baseline": level(0.25)})
    recommended(night, LISTS)
    with pytest.raises(GateError, match=r"against popular items is 0\.05"):
        gate(night)
    assert failed(night) == {("loss_to_baseline", "all")}


@pytest.mark.parametrize(
    ("metric", "limit", "value", "lists", "options"),
    [
        ("uncovered_share", "max_uncovered", 1 - 10 / 12, LISTS, {"users": 12}),
        pytest.param("fallback_share", "max_fallback", 0.4, LISTS, {"fallback": 12}, marks=pytest.mark.long),
        pytest.param("row_change", "max_row_change", 0.6, LISTS[:4], {}, marks=pytest.mark.long),
        ("row_change", "max_row_change", 0.6, LISTS[:8] * 2, {}),
        ("churn", "max_churn", 1.0, ["xyz"] * 10, {}),
        ("score_drift", "max_drift", 2.5, LISTS, {"scores": (3.5, 5.5)}),
    ],
)
def test_each_property_of_the_lists_may_close_the_gate(shop, metric, limit, value, lists, options):
    night = shop.night(NEXT)
    evaluated(night, GOOD)
    recommended(night, lists, **options)
    with pytest.raises(GateError):
        gate(night)
    assert failed(night) == {(metric, "all")}
    assert verdicts(night)[metric, "all"].value == pytest.approx(value, abs=1e-6)
    unchecked = shop.night(NEXT, gate={limit: None})
    gate(unchecked)
    assert (metric, "all") not in verdicts(unchecked)


def test_rows_that_are_gone_since_they_were_made_close_the_gate(shop):
    night = shop.night(NEXT)
    evaluated(night, GOOD)
    recommended(night, LISTS)
    night.lake.delete("recommendations", (F.col("run_date") == F.lit(NEXT)) & (F.col("user") == "u3"))
    with pytest.raises(GateError, match="the number of rows that were made and are not there is 3"):
        gate(night)


@pytest.mark.long
def test_rows_of_forgotten_people_are_not_missing(shop, spark):
    night = shop.night(NEXT)
    evaluated(night, GOOD)
    recommended(night, LISTS)
    forget(spark, night.config, {"u9"}, NEXT)
    gate(shop.night(NEXT))
    publish(shop.night(NEXT))
    assert shop.night().lake.read("current_recommendations").count() == 27
    publish(shop.night(DAY), "as it was")


def test_lists_that_were_made_again_need_the_gate_again(shop):
    night = shop.night(NEXT)
    evaluated(night, GOOD)
    recommended(night, LISTS)
    gate(night)
    recommended(shop.night(NEXT), LISTS)
    with pytest.raises(LakeError, match="were made again since the gate: run the gate step again"):
        publish(shop.night(NEXT))


def test_a_backfill_is_not_compared_with_later_lists(shop):
    before = shop.night(DAY.replace(day=1))
    evaluated(before, {"als": level(0.3), "baseline": level(0.1)})
    recommended(before, ["xyz"])
    gate(before)
    assert {metric for metric, _ in verdicts(before)} >= {"rows_missing", "uncovered_share"}
    assert not {"churn", "row_change"} & {metric for metric, _ in verdicts(before)}


def test_exit_code_of_a_closed_gate_and_overruling_it_on_the_record(shop, capsys):
    night = shop.night(NEXT)
    evaluated(night, GOOD)
    recommended(night, LISTS, users=20)
    with pytest.raises(GateError):
        gate(night)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["publish", "-c", str(shop.folder / "conf.yaml"), "-d", NEXT.isoformat(), *arguments])
        return ended.value.code

    assert run() == 3
    assert "the share of users without a list is 0.5, and at most 0.05" in capsys.readouterr().err
    assert run("--force") == 2
    assert shop.served()["run_date"] == DAY
    assert run("--force", "--reason", "half of them are test accounts") == 0
    now = shop.served()
    assert (now["run_date"], now["gate_overruled"]) == (NEXT, "half of them are test accounts")
    assert run("--unless-later") == 3
    assert publish(shop.night(DAY), "back to the first")


def test_a_night_with_a_worse_model_is_not_served(spark, tmp_path):
    """Odd users like odd items, even users even ones; popularity does not know that."""
    shop = Shop(spark, tmp_path)
    shop.receive(
        *(
            f"u{u:03d},i{i:02d},5,{1_600_000_000 + 100 * u + i}"
            for u in range(120)
            for i in random.Random(u).sample(range(u % 2, 30, 2), 9)
        )
    )
    shop.tree["evaluate"] = {"cutoffs": [10], "champion_metric": "ndcg@10", "bootstrap": 20}
    first = shop.night(DAY, models=["als"])
    run_night(first)
    assert shop.served()["rows_by_model"].keys() == {"als"}
    second = shop.night(NEXT, models=["popularity"])
    with pytest.raises(GateError, match="the loss of popularity in ndcg@10 against als of 2024-06-30"):
        run_night(second)
    assert shop.served()["run_date"] == DAY
    again = shop.night(NEXT, models=["popularity"])
    with pytest.raises(GateError):
        run_night(again)  # nothing is left to do, and the gate is still closed
    assert again.lake.read("runs").where(F.col("run_id") == again.run_id).count() == 0
    models = first.lake.read("models").collect()
    assert {(row["purpose"], row["state"]) for row in models if row["run_date"] == DAY} == {
        ("comparison", "champion"),
        ("serving", "champion"),
        ("fallback", "champion"),
        ("baseline", "candidate"),
    }
    assert {row["state"] for row in models if row["run_date"] == NEXT} == {"candidate"}
    publish(shop.night(NEXT), "as asked")
    models = first.lake.read("models").collect()
    states = {(row["run_date"], row["model"], row["purpose"]): row["state"] for row in models}
    assert states[DAY, "als", "serving"] == states[DAY, "als", "comparison"] == "retired"
    assert states[NEXT, "popularity", "serving"] == "champion"
    compared = [row for row in models if row["purpose"] == "comparison"]
    assert {frozenset(row["metrics"]) for row in compared} == {
        frozenset({"validation ndcg@10", "test ndcg@10", "lists_seconds"})
    }
