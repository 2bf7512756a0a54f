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
# # 3. The softmax model
#
# A user is a bag of items, sent through a small network; the softmax over the catalogue says which item
# comes next. What to see: hidden layers and larger embeddings help or not; training goes on from a model;
# its neighbours are others than those of ALS; and whether its probabilities are what happens.

# %%
import os

import altair as alt
import pandas as pd

from recsys_spark import ALS, SoftmaxRecommender, get_session
from recsys_spark.config import Lake, Split
from recsys_spark.console import configure
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.comparison import list_overlap
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.inspection import embeddings
from recsys_spark.inspection.lists import calibration, calibration_error
from recsys_spark.inspection.model_charts import calibration_chart, learning_chart
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.recommend.top_n import ListRequest

alt.renderers.enable("png")
configure(quiet=True)
spark = get_session()
lake = Lakehouse(spark, Lake(root=os.environ.get("RECSYS_LAKE", "../.recsys/demo")))
parts = split_ratings(lake.read("ratings"), Split(method="leave_last"), seed=42).persist()
train, test = parts.where("part = 'train'"), parts.where("part = 'test'").select("user", "item")
titles = lake.read("items").select("item", "title")

# %%
estimators = {
    "no hidden layer": SoftmaxRecommender(hiddenDims=[], embeddingDim=32, maxIter=10),
    "one hidden layer": SoftmaxRecommender(hiddenDims=[64], embeddingDim=32, maxIter=10),
    "two hidden layers": SoftmaxRecommender(hiddenDims=[128, 64], embeddingDim=32, maxIter=10),
    "eight dimensions": SoftmaxRecommender(hiddenDims=[64], embeddingDim=8, maxIter=10),
}
models = {name: estimator.fit(train) for name, estimator in estimators.items()}

# %% [markdown]
# Training goes on from a model where `initialModel` names it: ten more epochs of the second.

# %%
more = SoftmaxRecommender(
    hiddenDims=[64], embeddingDim=32, maxIter=10, initialModel=models["one hidden layer"]
)
models["one hidden layer, ten more epochs"] = more.fit(train)
steps = [
    {"model": name, "step": step, "objective": loss}
    for name, model in models.items()
    for step, loss in enumerate(model.summary.objectiveHistory, 1)
]
learning_chart(pd.DataFrame(steps)).properties(width=600)

# %% [markdown]
# A loss that falls further is no better list by itself: NDCG of the item that each user took last.

# %%
wanted = ListRequest(10, train.select("user", "item"))
testers = test.select("user").distinct()
lists = {name: model.recommend_lists(testers, wanted) for name, model in models.items()}
measured = ranking_metrics(lists, test, train, None, [10], bootstrap=200, seed=42)
pd.DataFrame([vars(m) for m in measured if m.metric == "ndcg"])[["model", "value", "low", "high"]].round(3)

# %% [markdown]
# ## Neighbours, before and after
#
# The items that are most like the most rated one, by cosine: after ten epochs, after twenty, and as ALS has
# it. To see: more training changes some of them; ALS names mostly others.

# %%
popular = train.groupBy("item").count().orderBy("count", ascending=False).limit(1)
als = ALS(rank=32, implicitPrefs=True, alpha=5.0, regParam=0.05).fit(train)
compared = {
    "after 10 epochs": models["one hidden layer"],
    "after 20": models["one hidden layer, ten more epochs"],
    "ALS": als,
}
found = {
    name: embeddings.neighbors(model, popular, 8, ["cosine"], titles)["title"]
    for name, model in compared.items()
}
pd.DataFrame(found)

# %% [markdown]
# Over all items, as rank-biased overlap of lists of ten neighbours: 1 for the same, 0 for none in common.

# %%
neighbors = {
    name: model.similarItems(10).selectExpr("item AS user", "neighbor AS item", "rank")
    for name, model in compared.items()
}
before = neighbors.pop("after 10 epochs")
{name: round(list_overlap(before, lists_of)[0], 2) for name, lists_of in neighbors.items()}

# %% [markdown]
# ## Whether the probabilities are what happens
#
# Of the twenty items that each user is shown, grouped by predicted probability: how often each is the one
# that came. On the dashed line they would be the same. What is above it happens more often than predicted,
# as seen items are in the softmax and cannot come again.

# %%
groups = calibration(models["one hidden layer"], test, train.select("user", "item"))
calibration_chart(groups, calibration_error(groups)).properties(width=400)
