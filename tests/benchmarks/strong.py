"""Every model beside the others on MovieLens 1M by strong generalisation: users whom no model was fitted on,
by four fifths of their histories.

Ratings of 4 and 5 are interactions. A tenth of the users are test users, a tenth validation users, and a
fifth of each one's history is what lists should have. A model that folds histories in is fitted on the other
users alone; one that cannot is fitted on them and the four fifths. Settings, and the weights of the blend,
are those that were best on the validation users: ``--search`` finds them, and prints all that it tried.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.evaluation.ranking import MetricValue, ranking_metrics
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.registry import REGISTRY, build
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.night import with_peaks
from tests.benchmarks.report import publish

KS = [20, 100]
WANTED = "ndcg"
SEED = 7
LEAST_RATING, LEAST_EVENTS = 4, 5

SETTINGS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "als": {"rank": 256, "regParam": 0.01, "unobservedWeight": 0.1},
    "item_item": {"neighbors": 500, "regParam": 200.0, "dropout": 0.3},
    "spectral": {"rank": 256, "alpha": 0.5, "neighbors": 100},
    "softmax": {"embeddingDim": 128, "maxIter": 20},
    "pairwise": {"loss": "logistic", "embeddingDim": 128, "maxIter": 30},
    "mllib_als": {"rank": 64, "regParam": 0.1, "alpha": 1.0},
    "blend": {},
}
"""What the search found; the members of the blend have their own."""

ALWAYS: dict[str, dict[str, Any]] = {
    "als": {"implicitPrefs": True, "regExponent": 1.0, "maxIter": 12, "checkpointInterval": -1},
    "mllib_als": {"implicitPrefs": True, "maxIter": 12},
    "softmax": {"checkpointInterval": -1},
    "pairwise": {"checkpointInterval": -1},
}

GRIDS: dict[str, dict[str, list[Any]]] = {
    "als": {"rank": [64, 128, 256], "regParam": [0.003, 0.01, 0.03], "unobservedWeight": [0.1, 0.3]},
    "item_item": {"neighbors": [200, 500], "regParam": [50.0, 200.0, 500.0], "dropout": [0.0, 0.3]},
    "spectral": {"rank": [32, 64, 128, 256], "alpha": [0.2, 0.5, 1.0], "neighbors": [100, 300]},
    "softmax": {"embeddingDim": [64, 128], "maxIter": [20, 60], "numNegatives": [0, 2000]},
    "pairwise": {"loss": ["bpr", "logistic"], "embeddingDim": [64, 128], "maxIter": [10, 30]},
    "mllib_als": {"rank": [64], "regParam": [0.03, 0.1], "alpha": [1.0, 10.0]},
}
MEMBERS = (
    ("als", "item_item"),
    ("als", "item_item", "spectral"),
    ("als", "item_item", "spectral", "softmax"),
)
"""Of blends."""


class Held(NamedTuple):
    """Users whom models are measured on.

    Attributes
    ----------
    known : four fifths of their histories: ``user``, ``item``
    wanted : the rest
    """

    known: DataFrame
    wanted: DataFrame


class Data(NamedTuple):
    """The three sets of users."""

    train: DataFrame
    validation: Held
    test: Held


def read(spark: SparkSession, folder: Path) -> Data:
    """Divide the users."""
    with gzip.open(folder / "ratings_uir.dat.gz", "rt") as file:
        cells = np.array([line.split("::") for line in file], np.float64)
    pairs = pd.DataFrame(cells[cells[:, 2] >= LEAST_RATING, :2].astype(np.int32), columns=["user", "item"])
    pairs = pairs[pairs.groupby("user")["item"].transform("size") >= LEAST_EVENTS]
    rng = np.random.default_rng(SEED)
    users = rng.permutation(pairs["user"].unique())
    tenth = len(users) // 10
    last_fifth = pairs.assign(draw=rng.random(len(pairs))).groupby("user")["draw"].rank(pct=True) > 0.8

    def held(some: Any) -> Held:
        own = pairs["user"].isin(some)
        return Held(frame(pairs[own & ~last_fifth]), frame(pairs[own & last_fifth]))

    def frame(rows: pd.DataFrame) -> DataFrame:
        made = spark.createDataFrame(rows).repartition(2).persist()
        made.count()
        return made

    own = ~pairs["user"].isin(users[: 2 * tenth])
    return Data(frame(pairs[own]), held(users[:tenth]), held(users[tenth : 2 * tenth]))


def fitted(
    name: str, params: dict[str, Any], data: Data, held: Held, weights: Any = None
) -> RecommenderModel:
    """A model that knows the histories of the users who are measured; a blend without weights chooses them
    by these users, whom its members are fitted on.
    """
    estimator: Any = build(name, ALWAYS.get(name, {}) | params, SEED)
    if estimator.hasParam("ratingCol"):
        estimator.setRatingCol("")
    if weights is not None:
        estimator.setMemberWeights(weights)
    elif name == "blend":
        estimator.set_validation(held.wanted)
    choosing = name == "blend" and weights is None
    if REGISTRY[name].model.folds_in and not choosing:
        model: Any = estimator.fit(data.train).foldIn(held.known)
    else:
        model = estimator.fit(data.train.unionByName(held.known))
    return model


def measured(model: RecommenderModel, data: Data, held: Held, bootstrap: int = 0) -> dict[str, MetricValue]:
    """Metrics of a model's lists, by name and cut-off."""
    users = held.wanted.select("user").distinct()
    lists = model.recommend_lists(users, ListRequest(max(KS), held.known)).persist()
    found = ranking_metrics({"it": lists}, held.wanted, data.train, None, KS, bootstrap, SEED)
    lists.unpersist()
    return {f"{value.metric}@{value.k}": value for value in found}


def told(params: dict[str, Any]) -> str:
    """Params as text."""
    return ", ".join(f"{name} {value}" for name, value in params.items()) or "defaults"


def search(data: Data, names: list[str]) -> None:
    """Every point of every grid, on the validation users; the best of each model first. Published model by
    model.
    """
    for name in names:
        grid, found = GRIDS[name], list[dict[str, Any]]()
        for values in itertools.product(*grid.values()):
            params = dict(zip(grid, values, strict=True))
            started = time.monotonic()
            model = fitted(name, params, data, data.validation)
            value = measured(model, data, data.validation)[f"{WANTED}@{KS[1]}"].value
            model.unpersist()
            found.append({"settings": told(params), "NDCG@100": value})
            print(f"{name}, {told(params)}: {value:.4f}, {time.monotonic() - started:.1f} s", flush=True)
        title = f"MovieLens 1M, settings of {name} by validation users"
        publish(f"strong-search-{name}", title, sorted(found, key=lambda row: -row["NDCG@100"]))


def compare(data: Data, names: list[str]) -> list[dict[str, object]]:
    """All models on the test users, with 95 % intervals."""
    points: list[tuple[str, str, dict[str, Any]]] = []
    for name in names:
        if name == "blend":
            members = [{one: ALWAYS.get(one, {}) | SETTINGS[one] for one in some} for some in MEMBERS]
            points += [(f"blend of {', '.join(some)}", name, {"members": some}) for some in members]
        else:
            points.append((f"{name}, {told(SETTINGS[name])}", name, SETTINGS[name]))
    rows = []
    for what, name, params in points:
        weights, models = None, list[RecommenderModel]()
        if name == "blend":
            params = params | {"metric": f"{WANTED}@{KS[1]}"}
            chosen: Any = fitted(name, params, data, data.validation)
            weights = chosen.getMemberWeights()
            what += ": " + ", ".join(f"{weight:.2f}" for weight in weights.values())
            chosen.unpersist()

        def work(
            name: str = name, params: dict[str, Any] = params, weights: Any = weights, models: Any = models
        ) -> None:
            models.append(fitted(name, params, data, data.test, weights))
            models[0].recommend_lists(data.test.wanted.select("user").distinct(), ListRequest(10)).count()

        taken, java, python = with_peaks(work)
        found = measured(models[0], data, data.test, 1000)
        recall, ndcg = found["recall@20"], found[f"{WANTED}@{KS[1]}"]
        models[0].unpersist()
        rows.append(
            {
                "what": what,
                "R@20": recall.value,
                "R@20, 95 %": f"{recall.low:.4f} to {recall.high:.4f}",
                "NDCG@100": ndcg.value,
                "NDCG@100, 95 %": f"{ndcg.low:.4f} to {ndcg.high:.4f}",
                "users": "folded in" if REGISTRY[name].model.folds_in else "in the fit",
                "fit and lists, s": taken,
                "Java, GiB": java,
                "Python, GiB": python,
            }
        )
    return rows


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", action="store_true", help="try the grids on the validation users")
    parser.add_argument("--models", nargs="+", default=list(SETTINGS))
    options = parser.parse_args()
    data = read(get_session(), Path(os.environ["RECSYS_DATA_DIR"]) / "ml-1m")
    if options.search:
        search(data, [name for name in options.models if name in GRIDS])
    else:
        fitted("als", SETTINGS["als"], data, data.validation).unpersist()  # compiles
        title = "MovieLens 1M, strong generalisation: a tenth of the users, who are in no fit"
        publish("strong", title, compare(data, options.models))


if __name__ == "__main__":
    main()
