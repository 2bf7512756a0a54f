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
# # 4. Looking at embeddings
#
# What an implicit ALS has learnt of the items: which are alike, which have long vectors, and where they
# lie.

# %%
import os

import altair as alt

from recsys_spark import ALS, get_session
from recsys_spark.config import Lake
from recsys_spark.console import configure
from recsys_spark.inspection import charts, embeddings
from recsys_spark.inspection.lists import coverage, exposure
from recsys_spark.inspection.model_charts import coverage_chart, exposure_chart
from recsys_spark.lakehouse.tables import Lakehouse

alt.renderers.enable("png")
configure(quiet=True)
spark = get_session()
lake = Lakehouse(spark, Lake(root=os.environ.get("RECSYS_LAKE", "../.recsys/demo")))
ratings, items = lake.read("ratings").persist(), lake.read("items")
model = ALS(rank=32, implicitPrefs=True, alpha=5.0, regParam=0.05).fit(ratings)

# %% [markdown]
# ## Neighbours
#
# Of an item with about as many ratings as the median, by three measures. A dot product is larger for long
# vectors, and popular items have long ones; a cosine leaves the length out; *tempered* is between the two.
# To see: the neighbours by cosine have the fewest ratings, and those by dot product the most.

# %%
counts = ratings.groupBy("item").count()
middle = counts.approxQuantile("count", [0.5], 0.0)[0]
some = counts.where(f"count = {middle}").orderBy("item").limit(1)
neighbors = embeddings.neighbors(model, some, 8, titles=items.select("item", "title"))
rated = {row["item"]: row["count"] for row in counts.collect()}
neighbors["ratings"] = neighbors["neighbor"].map(rated)
neighbors.pivot(index="rank", columns="measure", values=["title", "ratings"])

# %%
neighbors.groupby("measure")["ratings"].mean().round(1)

# %% [markdown]
# ## Norms
#
# To see: a rising cloud. The rank correlation says how surely.

# %%
correlation = embeddings.norm_correlation(model, ratings)
print(f"rank correlation of norm and popularity: {correlation:.2f}")
charts.norms_chart(embeddings.norms(model, ratings), correlation).properties(width=600)

# %% [markdown]
# ## Maps
#
# Principal directions keep distances as they are, as far as two of them can; t-SNE keeps neighbours
# together, and its distances between groups say nothing. To see: with t-SNE genres become islands where the
# model has learnt them.

# %%
genres = {
    row["item"]: row["genres"][0] if row["genres"] else None
    for row in items.select("item", "genres").collect()
}
maps = []
for method in ("pca", "tsne"):
    places = embeddings.item_map(model, ratings, method, points=600)
    chart = charts.map_chart(places.assign(genre=places["item"].map(genres)))
    maps.append(chart.properties(width=300, height=300, title=method))
alt.hconcat(*maps)

# %% [markdown]
# ## Lists
#
# How much the lists favour popular items, and how much of the catalogue they show. To see: the blue line
# above the orange one is popularity bias.

# %%
users = ratings.select("user").distinct()
lists = model.recommend(users, 10, ratings.select("user", "item")).persist()
exposure_chart(exposure(lists, ratings)).properties(width=600)

# %%
coverage_chart(coverage(lists, counts.count())).properties(width=600)
