# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Alternating least squares, and gravity
#
# A model may predict ratings well and make bad lists. It learns from pairs that were rated, and a list is
# made of pairs that were not. *Gravity* draws the predictions of all pairs towards 0, so that only what
# speaks for an item lifts it. What to see: with it the error of the ratings rises, and the lists become
# better.

# %%
import os

import altair as alt
import pandas as pd

from recsys_spark import ALS, get_session
from recsys_spark.config import Lake, Split
from recsys_spark.console import configure
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.evaluation.rating import rating_metrics
from recsys_spark.inspection import charts, embeddings
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.recommend.top_n import ListRequest

alt.renderers.enable("png")
configure(quiet=True)
spark = get_session()
lake = Lakehouse(spark, Lake(root=os.environ.get("RECSYS_LAKE", "../.recsys/demo")))
split = Split(method="random", test_fraction=0.1, validation_fraction=0.1)
parts = split_ratings(lake.read("ratings"), split, seed=42).persist()
train, test = parts.where("part = 'train'"), parts.where("part = 'test'")
items = lake.read("items")

# %% [markdown]
# Four models: of ratings without regularisation, with L2, with L2 and gravity; and of implicit preferences,
# where a rating only says how sure it is that somebody wanted the item.

# %%
estimators = {
    "no regularisation": ALS(rank=20, regParam=1e-6),
    "L2": ALS(rank=20, regParam=0.1),
    "L2 and gravity": ALS(rank=20, regParam=0.1, gravity=1.0),
    "implicit": ALS(rank=20, regParam=0.05, alpha=5.0, implicitPrefs=True),
}
models = {name: estimator.fit(train) for name, estimator in estimators.items()}

# %% [markdown]
# `rmse` is about the ratings of the test part; `ndcg` and `coverage` about lists of ten items, ranked over
# the whole catalogue.

# %%
predicted = {name: model.transform(test) for name, model in models.items() if name != "implicit"}
wanted = ListRequest(10, train.select("user", "item"))
testers = test.select("user").distinct()
lists = {name: model.recommend_lists(testers, wanted) for name, model in models.items()}
measured = rating_metrics(predicted) + ranking_metrics(lists, test, train, None, [10], bootstrap=0, seed=42)
table = pd.DataFrame([{"model": m.model, "metric": m.metric, "value": m.value} for m in measured])
table.pivot(index="model", columns="metric", values="value").loc[
    list(models), ["rmse", "ndcg", "coverage"]
].round(3)

# %% [markdown]
# ## What it does to the vectors
#
# The length of an item's vector beside its number of ratings. To see: without regularisation rare items
# have the longest vectors, by chance; with L2 all are about as long; with gravity, and in implicit models,
# length follows popularity, as an item that few have taken has little that lifts it.

# %%
norms = []
for name, model in models.items():
    correlation = embeddings.norm_correlation(model, train)
    chart = charts.norms_chart(embeddings.norms(model, train), correlation)
    norms.append(chart.properties(width=260, height=200, title=f"{name}: rank correlation {correlation:.2f}"))
alt.vconcat(alt.hconcat(*norms[:2]), alt.hconcat(*norms[2:]))

# %% [markdown]
# ## What it does to the map
#
# The two directions in which the vectors differ most; colours are genres. To see: genres lie apart in the
# models that were asked about all pairs, and in one cloud in those that were not.

# %%
genres = {
    row["item"]: row["genres"][0] if row["genres"] else None
    for row in items.select("item", "genres").collect()
}
maps = []
for name in ("L2", "L2 and gravity"):
    places = embeddings.item_map(models[name], train, points=600)
    chart = charts.map_chart(places.assign(genre=places["item"].map(genres)))
    maps.append(chart.properties(width=260, height=260, title=name))
alt.hconcat(*maps)
