"""A night whose lists may hold what users have had: it is held out too, and a ranker learns from it."""

from datetime import date, timedelta

import numpy as np
import pytest

from recsys_spark.errors import ConfigError, GateError
from recsys_spark.histories import rows_of
from recsys_spark.inspection.lists import calibration, calibration_error
from recsys_spark.models.softmax import SoftmaxModel
from recsys_spark.pipeline.steps import STEPS, run_night
from tests.pipeline.shop import Shop

pytestmark = pytest.mark.slow

USERS, ITEMS = 60, 20
START, LAST = date(2024, 6, 1), date(2024, 6, 30)


def plays():
    """Who plays what on which day: a favourite every fifth day and on the last three, six others once."""
    rng, rows = np.random.default_rng(2), []
    for user in range(USERS):
        favourite, *others = (int(item) for item in rng.choice(ITEMS, 7, replace=False))
        rows += [(user, favourite, day) for day in (0, 5, 10, 15, 20, 27, 28, 29)]
        rows += [(user, item, int(rng.integers(0, 25))) for item in others]
    return rows


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeats")
    shop = Shop(spark, folder)
    shop.header = "u,i,t"
    columns = {"user": "u", "item": "i", "timestamp": "t"}
    source = {"format": "csv", "path": str(folder / "in"), "columns": columns}
    shop.tree |= {
        "ingest": {"source": source},
        "split": {"method": "leave_last", "repeats": True},
        "models": ["popularity", "ranker"],
        "ranker": {"members": {"popularity": {}}, "maxIter": 20, "featureFraction": 1.0, "metric": "ndcg@3"},
        "recommend": {"n": 3, "exclude_seen": False, "similar_items": None},
    }
    shop.receive(*(f"user {user},item {item},{START + timedelta(days=day)}" for user, item, day in plays()))
    run_night(shop.night(LAST))
    return shop


def copy_of(shop, folder):
    """Another shop whose nights read what this one's do."""
    copied = shop.copied(folder)
    copied.tree["ingest"] = shop.tree["ingest"]
    return copied


def test_ranker_is_measured_by_what_is_consumed_again_and_lists_it_first(shop):
    favourites = {f"user {user}": f"item {item}" for user, item, day in plays() if day == 29}
    listed = shop.rows("recommendations", "rank", "user", "item", "model")
    assert {user: item for rank, user, item, _ in listed if rank == 1} == favourites
    assert {model for *_, model in listed} == {"ranker"}
    hits = shop.night(LAST).lake.read("metrics").where("metric = 'hit_rate' AND k = 3 AND segment = 'all'")
    found = {(row["model"], row["part"]): row["value"] for row in hits.collect()}
    assert found["ranker", "test"] == 1
    popular = found["popularity", "test"]
    assert popular < 0.5


def test_each_reader_of_the_ratings_knows_what_came_before(shop):
    night = shop.night(LAST)
    held = {row["user"]: row for row in night.held_out().collect()}
    plays_of = {}
    for user, item, day in plays():
        plays_of.setdefault((f"user {user}", f"item {item}"), []).append(day)
    days = {user: sorted(max(of) for (owner, _), of in plays_of.items() if owner == user) for user in held}
    fitted = {
        parts: {(row["user"], row["item"]): row["rating"] for row in rows_of(night.rated(*parts)).collect()}
        for parts in (("train",), ("train", "fold_in", "validation"), ())
    }
    for parts, place in ((("train",), -2), (("train", "fold_in", "validation"), -1)):
        assert fitted[parts] == {
            pair: count
            for pair, of in plays_of.items()
            if (count := sum(day < days[pair[0]][place] for day in of))
        }
    assert fitted[()] == {pair: len(of) for pair, of in plays_of.items()}
    for user, row in held.items():
        known = {item for owner, item in fitted["train", "fold_in", "validation"] if owner == user}
        assert row["known"] == len(known)
        assert row["test"] == [item for (owner, item), of in plays_of.items() if owner == user and 29 in of]


def test_what_was_rated_begins_with_the_training_part(shop):
    with pytest.raises(ValueError, match="begins with the training part, got test"):
        shop.night(LAST).rated("test")


def test_labels_that_are_not_divided_by_time_are_refused_before_anything_is_read(shop):
    with pytest.raises(ConfigError, match=r"ranker with split\.repeats: .* labels other than folds"):
        shop.night(LAST, ranker={"labels": "folds"})


def test_split_that_judges_by_new_items_only_says_so_where_lists_may_hold_seen_ones(shop, tmp_path, capsys):
    told = []
    for repeats in (True, False):
        folder = tmp_path / str(repeats)
        folder.mkdir()
        night = copy_of(shop, folder).night(LAST, split={"method": "leave_last", "repeats": repeats})
        capsys.readouterr()
        STEPS["split"](night)
        told.append("split.repeats judges by it" in capsys.readouterr().err)
    assert told == [False, True]


@pytest.mark.long
def test_probabilities_are_of_all_that_a_list_may_hold(shop, tmp_path):
    other = copy_of(shop, tmp_path)
    models = {"models": ["softmax"], "softmax": {"embeddingDim": 4, "maxIter": 2}, "report": {"users": 1}}
    with pytest.raises(GateError):  # it has learnt too little to be served, which the page shows too
        run_night(other.night(LAST, **models))
    fit = other.night(LAST).lake.read("models").where("model = 'softmax' AND purpose = 'comparison'").first()
    held = [(f"user {user}", f"item {item}") for user, item, day in plays() if day == 29]
    relevant = shop.spark.createDataFrame(held, "user string, item string")
    error = calibration_error(calibration(SoftmaxModel.load(fit["path"]), relevant, None))
    page = (tmp_path / "lake" / "reports" / f"{LAST}.html").read_text(encoding="utf-8")
    assert f"The expected calibration error is {error:.4f}." in page
