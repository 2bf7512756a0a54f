"""What the models reach on MovieLens: errors on u1 to u5, ranking of each user's last rating, gravity, NCF's
protocol, negatives.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Split
from recsys_spark.data.download import extract
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.models import (
    ALS,
    BlendRecommender,
    ItemItemRecommender,
    MLlibALS,
    PairwiseRecommender,
    PopularityRecommender,
    SoftmaxRecommender,
    SpectralRecommender,
)
from recsys_spark.models.base import RecommenderEstimator, RecommenderModel
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.session import get_session
from tests.benchmarks.report import publish

FOLD = "user int, item int, rating double, timestamp long"
Longs = npt.NDArray[np.int64]


SOFTMAX: dict[str, dict[str, Any]] = {
    "softmax, 60 epochs": {"maxIter": 60},
    "softmax, 20 epochs": {},
    "softmax, 20 epochs, tied": {"tieItems": True},
    "softmax, 20 epochs, 2,000 sampled items": {"numNegatives": 2000},
    "softmax, 20 epochs, hidden layers 128 and 64, tanh, dropout 0.3": {
        "hiddenDims": [128, 64],
        "activation": "tanh",
        "dropout": 0.3,
    },
}
PAIRWISE: dict[str, dict[str, Any]] = {
    "pairwise, logistic, 8 negatives, 40 epochs": {"numNegatives": 8, "maxIter": 40},
    "pairwise, bpr, 4 negatives, 30 epochs": {"loss": "bpr", "maxIter": 30, "stepSize": 0.01},
    "pairwise, ccl, 50 negatives, 20 epochs": {"loss": "ccl", "numNegatives": 50, "maxIter": 20},
    "pairwise, logistic, mlp of 64 and 32, 4 negatives, 10 epochs": {"interaction": "mlp", "maxIter": 10},
    "pairwise, logistic, dot+mlp, 4 negatives, 10 epochs": {"interaction": "dot+mlp", "maxIter": 10},
}
ITEM_ITEM: dict[str, dict[str, Any]] = {
    "item pairs, exact, regParam 500 (EASE elsewhere: .719, .449)": {
        "weighting": "exact",
        "neighbors": 4000,
        "regParam": 500.0,
    },
    "item pairs, exact, regParam 1000": {"weighting": "exact", "neighbors": 4000, "regParam": 1000.0},
    "item pairs, ridge, 500 neighbours": {"neighbors": 500, "regParam": 500.0},
    "item pairs, ridge, 500 neighbours, dropout 0.3": {"neighbors": 500, "regParam": 200.0, "dropout": 0.3},
    "item pairs, ridge, 500 neighbours, user exponent 0.2": {
        "neighbors": 500,
        "regParam": 200.0,
        "userExponent": 0.2,
    },
    "item pairs, ridge, 500 neighbours, item exponent 0.2": {
        "neighbors": 500,
        "regParam": 50.0,
        "itemExponent": 0.2,
    },
    "item pairs, ridge, 200 neighbours": {"neighbors": 200, "regParam": 200.0},
    "item pairs, cosine, 200 neighbours": {"weighting": "cosine"},
    "item pairs, rp3beta, 200 neighbours": {"weighting": "rp3beta"},
}
"""Settings measured on NCF's ML-1M; what they do not name are the defaults."""


def rating_error(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """RMSE over the five published folds, as predicted and clipped to 1 to 5. Nothing was tuned on any of
    them.
    """
    models = {
        "ALS, rank 10, regParam 0.1 (elsewhere: .928 clipped)": ALS(
            rank=10, regParam=0.1, maxIter=15, seed=1
        ),
        "MLlib's ALS, the same": MLlibALS(rank=10, regParam=0.1, maxIter=15, seed=1),
        BIASED: biased(),
        "item pairs, ridge, of deviations from the user's mean": ItemItemRecommender(implicitPrefs=False),
        DRAWN: bayesian(),
        f"{DRAWN}, side features": bayesian(**side_features(spark, folder)),
        f"{DRAWN}, side features and histories": bayesian(useHistories=True, **side_features(spark, folder)),
        "pairwise, squared loss, biases": squared(),
        "pairwise, squared loss, biases, side features": squared(side_features(spark, folder)),
    }
    rows: list[dict[str, object]] = []
    for name, estimator in models.items():
        folds = [fold_error(spark, folder, estimator, fold) for fold in range(1, 6)]
        row: dict[str, object] = {"what": name, "u1, clipped": folds[0]["rmse, clipped"]}
        rows.append(row | {f"mean {key}": float(np.mean([fold[key] for fold in folds])) for key in folds[0]})
    return rows


DRAWN = "ALS, Bayesian, rank 20, 100 samples of 220 sweeps"
BIASED = "ALS with biases, rank 60, regParam 0.09"


def biased() -> ALS:
    """The explicit model with biases."""
    return ALS(rank=60, regParam=0.09, maxIter=15, useBiases=True, seed=1)


def bayesian(rank: int = 20, **params: Any) -> ALS:
    """The Bayesian model of ratings."""
    return ALS(rank=rank, bayesian=True, maxIter=220, burnIn=20, samples=100, seed=1, **params)


def squared(features: dict[str, Any] | None = None) -> PairwiseRecommender:
    """The pair model of ratings."""
    return PairwiseRecommender(
        loss="squared",
        embeddingDim=32,
        maxIter=20,
        batchSize=1024,
        regParam=1e-4,
        checkpointInterval=-1,
        seed=1,
        **features or {},
    )


def side_features(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """Gender, occupation and age of users, genres and year of items."""
    users = spark.read.csv(
        str(folder / "u.user"),
        sep="|",
        schema="user int, age int, gender string, occupation string, zip string",
    )
    flags = [f"g{number}" for number in range(19)]
    schema = "item int, title string, released string, video string, url string, " + ", ".join(
        f"{flag} int" for flag in flags
    )
    items = spark.read.csv(str(folder / "u.item"), sep="|", schema=schema, encoding="iso-8859-1")
    genres = F.filter(
        F.array(*(F.when(F.col(flag) == 1, F.lit(flag)) for flag in flags)), lambda name: name.isNotNull()
    )
    items = items.select(
        "item", genres.alias("genres"), F.substring("released", -4, 4).try_cast("int").alias("year")
    )
    named = {"userFeatureCols": ["gender", "occupation", "age"], "itemFeatureCols": ["genres", "year"]}
    return {"userFeatures": users, "itemFeatures": items, **named}


def million_cells(folder: Path) -> npt.NDArray[np.float64]:
    """User, item and rating of MovieLens 1M, in the file's order."""
    with gzip.open(folder / "ratings_uir.dat.gz", "rt") as file:
        return np.array([line.split("::") for line in file], np.float64)


def million_ratings(spark: SparkSession, folder: Path) -> DataFrame:
    """The same: ``user``, ``item`` int, ``rating`` double."""
    frame = pd.DataFrame(million_cells(folder), columns=["user", "item", "rating"])
    return spark.createDataFrame(frame.astype({"user": "int32", "item": "int32"}))


def million_features(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """The same of MovieLens 1M."""

    def rows(name: str, columns: list[str]) -> pd.DataFrame:
        lines = (folder / name).read_text(encoding="iso-8859-1").splitlines()
        return pd.DataFrame([line.split("::") for line in lines], columns=columns)

    users = spark.createDataFrame(rows("users.dat", ["user", "gender", "age", "occupation", "zip"]))
    items = spark.createDataFrame(rows("movies.dat", ["item", "title", "genres"]))
    users = users.select(F.col("user").cast("int"), "gender", "age", "occupation")
    year = F.regexp_extract("title", r"\((\d{4})\)", 1).try_cast("int")
    items = items.select(
        F.col("item").cast("int"), F.split("genres", r"\|").alias("genres"), year.alias("year")
    )
    named = {"userFeatureCols": ["gender", "occupation", "age"], "itemFeatureCols": ["genres", "year"]}
    return {"userFeatures": users, "itemFeatures": items, **named}


def fold_error(
    spark: SparkSession, folder: Path, estimator: RecommenderEstimator, fold: int
) -> dict[str, float]:
    """RMSE on one fold, as predicted and clipped, and how many pairs had no prediction."""
    train, test = (
        spark.read.csv(str(folder / f"u{fold}.{part}"), sep="\t", schema=FOLD) for part in ("base", "test")
    )
    plain = estimator.fit(train).transform(test).persist()
    inside = F.when(~F.isnan("prediction"), F.greatest(F.lit(1.0), F.least(F.lit(5.0), "prediction")))
    frames = {"rmse": plain, "rmse, clipped": plain.withColumn("prediction", inside)}
    found = {(m.model, m.metric): m.value for m in rating_metrics(frames)}
    return {name: found[name, "rmse"] for name in frames} | {"unpredicted": found["rmse", "unpredicted"]}


def random_tenth(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """RMSE on a random tenth of ML-1M, five times. Nothing was tuned on it."""
    cells = million_cells(folder)
    rows: list[dict[str, object]] = []
    features = million_features(spark, folder)
    models = {
        BIASED: biased(),
        DRAWN: bayesian(),
        f"{DRAWN}, side features": bayesian(**features),
        f"{DRAWN}, side features and histories": bayesian(useHistories=True, **features),
        f"{DRAWN}, side features and histories, but rank 40": bayesian(40, useHistories=True, **features),
    }
    for name, estimator in models.items():
        errors, taken = [], []
        for seed in range(5):
            held = np.random.default_rng(seed).random(len(cells)) < 0.1
            train, test = (
                spark.createDataFrame(
                    pd.DataFrame(cells[part], columns=["user", "item", "rating"]).astype(
                        {"user": "int32", "item": "int32"}
                    )
                ).persist()
                for part in (~held, held)
            )
            began = time.monotonic()
            model = estimator.fit(train)
            taken.append(time.monotonic() - began)
            inside = F.when(~F.isnan("prediction"), F.greatest(F.lit(1.0), F.least(F.lit(5.0), "prediction")))
            predicted = {"clipped": model.transform(test).withColumn("prediction", inside)}
            errors += [m.value for m in rating_metrics(predicted) if m.metric == "rmse"]
            print(f"{name}, seed {seed}: {errors[-1]:.4f}, {taken[-1]:.0f} s", flush=True)
            train.unpersist()
            test.unpersist()
        rows.append(
            {"what": name, "mean rmse, clipped": float(np.mean(errors)), "a fit, s": float(np.mean(taken))}
        )
    return rows


def gravity(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """The claim of the study: with gravity the error rises and the recommendations improve. Random fifth
    held out.
    """
    ratings = spark.read.csv(str(folder / "u.data"), sep="\t", schema=FOLD)
    parts = split_ratings(
        ratings.withColumn("timestamp", F.timestamp_seconds("timestamp")),
        Split(method="random", test_fraction=0.2),
        42,
    ).persist()
    train, test = parts.where("part <> 'test'"), parts.where("part = 'test'")
    users, rows = test.select("user").distinct(), []
    for weight in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        model = ALS(rank=30, regParam=0.05, maxIter=15, gravity=weight, seed=1).fit(train)
        errors = {m.metric: m.value for m in rating_metrics({"als": model.transform(test)})}
        found = {
            m.metric: m.value
            for m in ranking_metrics(
                {"als": model.recommend_lists(users, ListRequest(10, train))}, test, train, None, [10], 0, 42
            )
        }
        rows.append(
            {"what": f"explicit ALS, rank 30, gravity {weight}", "test MSE": errors["rmse"] ** 2}
            | {f"{name}@10": found[name] for name in ("ndcg", "recall")}
        )
    return rows


def ncf_data(spark: SparkSession, folder: Path) -> tuple[DataFrame, Longs, Longs]:
    """ML-1M as NCF has it: the training pairs, the test's users, and each one's candidates, the held-out
    item first.
    """
    pairs, users, candidates = ncf_arrays(folder)
    return spark.createDataFrame(pairs.tolist(), "user int, item int").persist(), users, candidates


def ncf_arrays(folder: Path) -> tuple[Longs, Longs, Longs]:
    """The same without Spark; training pairs ascending and unique, shape (n, 2)."""
    with gzip.open(folder / "ml-1m.train.rating.gz", "rt") as file:
        train = np.unique(np.loadtxt(file, dtype=np.int64)[:, :2], axis=0)
    with gzip.open(folder / "ml-1m.test.negative.gz", "rt") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    positives = np.array([[int(part) for part in line[0].strip("()").split(",")] for line in lines])
    candidates = np.column_stack(
        [positives[:, 1], np.array([[int(part) for part in line[1:]] for line in lines])]
    )
    return train, positives[:, 0], candidates


def held_out_among_negatives(model: RecommenderModel, users: Longs, candidates: Longs) -> dict[str, object]:
    """HR@10 and NDCG@10 of the first candidate of each row; an item that the model does not know scores 0."""
    spark = get_session()
    pairs = pd.DataFrame({"user": np.repeat(users, candidates.shape[1]), "item": candidates.ravel()})
    rows = model.transform(spark.createDataFrame(pairs.drop_duplicates())).toPandas()
    return hits(pairs.merge(rows, how="left")["prediction"].fillna(0).to_numpy().reshape(candidates.shape))


def hits(scores: npt.NDArray[Any]) -> dict[str, object]:
    """HR@10 and NDCG@10 of the first column among the others."""
    place = (scores[:, 1:] > scores[:, :1]).sum(
        axis=1
    )  # of the positive, from 0; a negative of the same item ties
    found = np.where(place < 10, 1 / np.log2(place + 2), 0)
    return {"HR@10": float((place < 10).mean()), "NDCG@10": float(found.mean())}


def ncf(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """The leave-one-out protocol of NCF on ML-1M: the held-out item among 99 negatives."""
    data, users, candidates = ncf_data(spark, folder)
    rows: list[dict[str, object]] = []
    for solver in ("cholesky", "cg"):
        model = ALS(**IALS, ratingCol="", solver=solver, seed=1).fit(data)
        seconds = sum(one.seconds for one in model.summary.iterations)
        measured = held_out_among_negatives(model, users, candidates)
        rows.append(
            {"what": f"iALS, rank 192, {solver} (published: .731, .452)", **measured, "training, s": seconds}
        )
    for what, params in SOFTMAX.items():
        softmax = SoftmaxRecommender(**params, checkpointInterval=-1, seed=1).fit(data)
        seconds = sum(one.seconds for one in softmax.summary.epochs)
        rows.append(
            {"what": what, **held_out_among_negatives(softmax, users, candidates), "training, s": seconds}
        )
    for what, params in PAIRWISE.items():
        pairwise = PairwiseRecommender(**params, checkpointInterval=-1, seed=1).fit(data)
        seconds = sum(one.seconds for one in pairwise.summary.epochs)
        rows.append(
            {"what": what, **held_out_among_negatives(pairwise, users, candidates), "training, s": seconds}
        )
    return rows


def item_pairs(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """Weights of item pairs, of every kind and option."""
    data, users, candidates = ncf_data(spark, folder)
    rows: list[dict[str, object]] = []
    for what, params in ITEM_ITEM.items():
        began = time.monotonic()
        model = ItemItemRecommender(**params, ratingCol="").fit(data)
        model.weights.count()
        seconds = time.monotonic() - began
        measured = held_out_among_negatives(model, users, candidates)
        model.unpersist()
        rows.append({"what": what, **measured, "training, s": seconds})
    return rows


IALS: dict[str, Any] = {
    "rank": 192,
    "regParam": 0.007,
    "regExponent": 1.0,
    "unobservedWeight": 0.3,
    "implicitPrefs": True,
    "maxIter": 12,
    "checkpointInterval": -1,
}
SPECTRAL: dict[str, dict[str, Any]] = {
    "spectral, rank 512, alpha 0.2": {},
    "spectral, rank 256, alpha 0.5": {"rank": 256, "alpha": 0.5},
}


def blends(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """Spectral models, and blends, whose weights are chosen on each user's latest training item."""
    data, users, candidates = ncf_data(spark, folder)
    rows: list[dict[str, object]] = []
    for what, params in SPECTRAL.items():
        began = time.monotonic()
        spectral = SpectralRecommender(**params, ratingCol="", seed=1).fit(data)
        spectral.weights.count()
        seconds = time.monotonic() - began
        rows.append(
            {"what": what, **held_out_among_negatives(spectral, users, candidates), "training, s": seconds}
        )
    held = ncf_latest(spark, folder).persist()
    before = data.join(held, ["user", "item"], "left_anti").persist()
    pairs = ITEM_ITEM["item pairs, ridge, 500 neighbours"]
    members: dict[str, dict[str, Any]] = {"als": IALS, "item_item": pairs}
    for some in (members, {**members, "spectral": SPECTRAL["spectral, rank 256, alpha 0.5"]}):
        blend = BlendRecommender(members=some, ratingCol="", seed=1)
        blend.set_validation(held)
        blend.keep_choices(blend.fit(before))
        began = time.monotonic()
        model = blend.fit(data)
        seconds = time.monotonic() - began
        weights = ", ".join(f"{weight:.2f} {name}" for name, weight in model.getMemberWeights().items())
        measured = held_out_among_negatives(model, users, candidates)
        rows.append({"what": f"blend: {weights}", **measured, "training, s": seconds})
    return rows


def ncf_latest(spark: SparkSession, folder: Path) -> DataFrame:
    """The latest training item of each user, and of several at one time the last in the file."""
    with gzip.open(folder / "ml-1m.train.rating.gz", "rt") as file:
        events = pd.DataFrame(np.loadtxt(file, dtype=np.int64), columns=["user", "item", "rating", "time"])
    latest = events.sort_values("time", kind="stable").groupby("user").tail(1)
    return spark.createDataFrame(latest[["user", "item"]].astype("int32"))


def negatives(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """What each knob of the negatives does to the logistic pair model: how many, fixed or rotated, uniform or
    by popularity.

    ``accuracy`` is that on as many held-out positives as unseen items, one each of every user; a pair is
    called positive where its logit is above that of the training's share of positives.
    """
    data, users, candidates = ncf_data(spark, folder)
    held = np.stack([users, candidates[:, 0]], axis=1), np.stack([users, candidates[:, 1]], axis=1)
    labelled = [(int(u), int(i), 1 - label) for label, pairs in enumerate(held) for u, i in pairs]
    pairs = spark.createDataFrame(labelled, "user int, item int, label int").persist()
    rows: list[dict[str, object]] = []
    for number, rotate, power in itertools.product((1, 4, 10), (False, True), (0.0, 0.75)):
        model = PairwiseRecommender(
            numNegatives=number,
            rotateNegatives=rotate,
            popularityExponent=power,
            maxIter=20,
            checkpointInterval=-1,
            seed=1,
        ).fit(data)
        called = F.col("prediction") > -math.log(number)
        right = model.transform(pairs).agg(F.avg((called == (F.col("label") == 1)).cast("double"))).first()
        drawn = f"{number}:1, {'rotated' if rotate else 'fixed'}, {'by popularity' if power else 'uniform'}"
        measured = held_out_among_negatives(model, users, candidates)
        rows.append({"what": drawn, **measured, "accuracy": right[0] if right else None})
    return rows


def ranking(spark: SparkSession, folder: Path) -> list[dict[str, object]]:
    """Popularity, recent popularity and implicit ALS on each user's last rating, with 95 % intervals."""
    ratings = spark.read.csv(str(folder / "u.data"), sep="\t", schema=FOLD)
    ratings = ratings.withColumn("timestamp", F.timestamp_seconds("timestamp"))
    parts = split_ratings(ratings, Split(method="leave_last"), 42).persist()
    train, test = parts.where("part <> 'test'"), parts.where("part = 'test'")
    models = {
        "popularity": PopularityRecommender().fit(train),
        "popularity, half-life 30 days": PopularityRecommender(halfLife=30.0).fit(train),
        "implicit ALS, rank 32, alpha 5, regParam 0.05": ALS(
            implicitPrefs=True, rank=32, alpha=5.0, regParam=0.05, seed=42
        ).fit(train),
    }
    users = test.select("user").distinct()
    lists = {name: model.recommend_lists(users, ListRequest(10, train)) for name, model in models.items()}
    found = {(m.model, m.metric): m for m in ranking_metrics(lists, test, train, None, [10], 1000, 42)}
    return [
        {
            "what": name,
            "NDCG@10": found[name, "ndcg"].value,
            "95 %": f"{found[name, 'ndcg'].low:.4f} to {found[name, 'ndcg'].high:.4f}",
            "HR@10": found[name, "hit_rate"].value,
            "coverage@10": found[name, "coverage"].value,
        }
        for name in models
    ]


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=["errors", "ranking", "gravity", "tenth", "ncf", "item_pairs", "blends", "negatives"],
        help="which tables",
    )
    chosen = parser.parse_args().only
    data = Path(os.environ["RECSYS_DATA_DIR"])
    spark = get_session()
    with tempfile.TemporaryDirectory() as name:
        extract(data / "ml-100k.zip", Path(name))
        folder = Path(name) / "ml-100k"
        tables = {"errors": rating_error, "ranking": ranking, "gravity": gravity}
        for part, measure in tables.items():
            if part in chosen:
                publish(
                    f"quality-{part}",
                    f"MovieLens 100K (Harper & Konstan 2015): {part}",
                    measure(spark, folder),
                )
    if "tenth" in chosen:
        rows = random_tenth(spark, data / "ml-1m")
        publish("quality-tenth", "MovieLens 1M, a random tenth of the ratings held out, five times", rows)
    of_ncf = {"ncf": ncf, "item_pairs": item_pairs, "blends": blends, "negatives": negatives}
    for part, measure in of_ncf.items():
        if part in chosen:
            publish(
                f"quality-{part}",
                f"MovieLens 1M by the protocol of NCF (He et al. 2017): {part}",
                measure(spark, data / "ncf-ml-1m"),
            )


if __name__ == "__main__":
    main()
