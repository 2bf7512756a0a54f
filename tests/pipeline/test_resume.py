"""A night that is run again does what is not done, and says why."""

from __future__ import annotations

import pytest
from pyspark.sql import functions as F

from recsys_spark.errors import LakeError, ModelError
from recsys_spark.lakehouse.locks import Lock
from recsys_spark.pipeline.evaluate import evaluate
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.publish import rollback
from recsys_spark.pipeline.resume import input_of
from recsys_spark.pipeline.served import served_lists
from recsys_spark.pipeline.show_runs import describe_runs
from recsys_spark.pipeline.split import split
from recsys_spark.pipeline.steps import run_night
from tests.pipeline.shop import DAY, NEXT, Shop

pytestmark = pytest.mark.slow

RATED = [
    f"u{u},i{i},{1 + (u + i) % 5},{1_600_000_000 + i}" for u in range(8) for i in range(6) if (u + i) % 3
]
ALL = ["ingest", "split", "train", "evaluate", "recommend", "gate", "publish"]


@pytest.fixture
def shop(spark, tmp_path):
    shop = Shop(spark, tmp_path)
    shop.tree["models"] = ["popularity"]
    shop.receive(*RATED)
    return shop


def steps(night):
    """What the night did, with how it ended."""
    rows = night.lake.read("runs").where((F.col("run_id") == night.run_id) & (F.col("state") != "running"))
    ended = [(row["step"], row["state"]) for row in rows.orderBy("started").collect()]
    return [step if state == "done" else f"{step} {state}" for step, state in ended]


def ran(night, **options):
    run_night(night, **options)
    return steps(night)


def test_a_night_is_resumed_where_something_has_changed(shop, capsys):
    assert ran(shop.night()) == ALL
    assert ran(shop.night()) == []
    assert "publish: done by run" in capsys.readouterr().err
    assert ran(shop.night(recommend={"n": 2})) == ["recommend", "gate", "publish"]
    assert "recommend: its settings have changed" in capsys.readouterr().err
    assert {row["rank"] for row in served_lists(shop.night().lake)[1].collect()} == {1, 2}
    shop.receive(*RATED, "u1,i1,5,1700000000")
    assert ran(shop.night(recommend={"n": 2})) == ALL
    evaluate(shop.night(recommend={"n": 2}))
    assert ran(shop.night(recommend={"n": 2})) == ["recommend", "gate", "publish"]
    assert "recommend: evaluate has been done again" in capsys.readouterr().err


@pytest.mark.long
def test_a_night_may_be_run_from_a_step_or_all_again(shop):
    ingest(shop.night())
    with pytest.raises(LakeError, match="'sample_negatives' is not among the steps"):
        run_night(shop.night(), first="sample_negatives")
    with pytest.raises(LakeError, match="step 'split' has not been done"):
        run_night(shop.night(), first="evaluate")
    run_night(shop.night())
    assert ran(shop.night(), first="recommend") == ["recommend", "gate", "publish"]
    assert ran(shop.night(), again=True) == ALL


@pytest.mark.long
def test_after_a_failure_the_night_goes_on_where_it_failed(shop, monkeypatch, spark):
    def fail(*_, **__):
        raise ModelError("it broke")

    with monkeypatch.context() as patched:
        patched.setattr("recsys_spark.pipeline.recommend.check_lists", fail)
        night = shop.night()
        with pytest.raises(ModelError, match="it broke"):
            run_night(night)
    assert steps(night) == [*ALL[:4], "recommend failed"]
    assert ran(shop.night()) == ["recommend", "gate", "publish"]
    run_night(shop.night(NEXT))
    rollback(spark, shop.night().config)
    assert ran(shop.night(NEXT)) == ["publish"]  # as a person took it back, and now asks for it again


def test_no_step_goes_on_after_one_that_failed(shop):
    ingest(shop.night())
    split(shop.night())
    shop.header = "another,header"
    shop.receive("1,2")
    with pytest.raises(Exception, match="columns"):
        ingest(shop.night())
    with pytest.raises(LakeError, match=r"'ingest' of 2024-06-30 failed when .* before 'split'"):
        split(shop.night())
    shop.header = "u,i,r,t"
    shop.receive(*RATED)
    ingest(shop.night())
    split(shop.night())


def test_steps_of_a_killed_run_are_found_dead(shop):
    ingest(shop.night())
    killed = shop.night()
    step = killed.ledger.step("split")
    step.__enter__()  # and never left
    (ledger,) = describe_runs(shop.reader())
    assert [row["state"] for row in ledger.rows] == ["done", "running"]
    night = shop.night()
    with night.alone():
        (died,) = night.lake.read("runs").where("state = 'died'").collect()
    assert (died["run_id"], died["step"]) == (killed.run_id, "split")
    assert "ended without a word" in died["error"]
    (failed,) = describe_runs(shop.reader(), failed=True)
    assert [(row["step"], row["state"]) for row in failed.rows] == [("split", "died")]
    with pytest.raises(LakeError, match="step 'split' of 2024-06-30 died when it was run last"):
        shop.night().step("train").__enter__()
    split(shop.night())


def test_a_night_that_is_being_run_is_not_run_twice(shop):
    night = shop.night()
    other = Lock(night.lake, DAY.isoformat(), "the other")
    with other, pytest.raises(LakeError, match="2024-06-30 is being run by run the other"):
        run_night(night)
    assert not night.lake.exists("runs")


@pytest.mark.long
def test_a_delta_table_that_has_changed_is_another_input(shop, spark):
    path = str(shop.folder / "source")
    rows = spark.createDataFrame([("a", "x", 3.0)], "user string, item string, rating double")
    rows.write.format("delta").save(path)
    shop.tree["ingest"] = {"source": {"format": "delta", "path": path, "columns": {"rating": "rating"}}}
    before = input_of(spark, shop.night().config)
    assert input_of(spark, shop.night().config) == before
    rows.write.format("delta").mode("append").save(path)
    assert input_of(spark, shop.night().config) != before
