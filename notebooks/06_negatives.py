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
# # 6. Why negatives
#
# Purchases have no zeros: every row of the data says *bought*. A model of pairs that sees nothing else
# learns to say 1 of every pair, which is right for all that it has seen and useless for a list. What to
# see: it does; with items that the user did not buy as negatives it learns; and how many, and which,
# matters.

# %%
import os

import altair as alt
import pandas as pd
from pyspark.sql import functions as F

from recsys_spark import NegativeSampler, PairwiseRecommender, get_session
from recsys_spark.config import Lake, Split
from recsys_spark.console import configure
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.inspection.model_charts import metrics_chart
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.recommend.top_n import ListRequest

alt.renderers.enable("png")
configure(quiet=True)
spark = get_session()
lake = Lakehouse(spark, Lake(root=os.environ.get("RECSYS_LAKE", "../.recsys/demo")))
bought = lake.read("ratings").withColumn("rating", F.lit(1.0))
parts = split_ratings(bought, Split(method="leave_last"), seed=42).persist()
train, test = parts.where("part = 'train'"), parts.where("part = 'test'").select("user", "item")

# %% [markdown]
# ## Without negatives
#
# Squared error, and no row that is not 1. The predictions of pairs that were bought later, and of pairs
# that were never bought, are the same: 1.

# %%
alone = PairwiseRecommender(loss="squared", numNegatives=0, maxIter=10).fit(train)
sampler = NegativeSampler(strategy="uniform", ratio=1.0)
never = sampler.transform(test).where("label = 0").select("user", "item")
for what, pairs in {"bought later": test, "never bought": never}.items():
    alone.transform(pairs).selectExpr(f"'{what}' AS pairs", "avg(prediction)", "stddev(prediction)").show()

# %% [markdown]
# ## With negatives
#
# Negatives of a squared error are rows like any others, with a 0 for a rating; the sampler makes them, one
# of each purchase. The other losses draw theirs while they train: one of each purchase, or eight; the same
# ones in every epoch, or new ones (`rotateNegatives`); of all items alike, or more often of popular ones
# (`popularityExponent`). `logistic` is cross-entropy.

# %%
with_zeros = sampler.transform(train).withColumn("rating", F.col("label").cast("double"))
several = {"loss": "logistic", "numNegatives": 8, "stepSize": 0.01, "maxIter": 15}
squared = {"loss": "squared", "numNegatives": 0, "stepSize": 0.01, "maxIter": 15}
models = {
    "none": PairwiseRecommender(**squared).fit(train),
    "1:1, squared": PairwiseRecommender(**squared).fit(with_zeros),
    "1:1": PairwiseRecommender(**{**several, "numNegatives": 1}).fit(train),
    "1:8, the same in each epoch": PairwiseRecommender(**several, rotateNegatives=False).fit(train),
    "1:8": PairwiseRecommender(**several).fit(train),
    "1:8, by popularity": PairwiseRecommender(**several, popularityExponent=0.75).fit(train),
}
wanted = ListRequest(10, train.select("user", "item"))
testers = test.select("user").distinct()
lists = {name: model.recommend_lists(testers, wanted) for name, model in models.items()}
measured = ranking_metrics(lists, test, train, None, [10], bootstrap=200, seed=42)
table = pd.DataFrame([vars(m) for m in measured])
metrics_chart(table[table["metric"] == "ndcg"], "ndcg@10").properties(width=600)

# %% [markdown]
# To see: without negatives the lists are no better than chance, and cross-entropy makes far better ones
# than a squared error. Eight negatives of each purchase are *not* better than one here, after as many
# epochs: novelty, in bits, says that they leave popular items on top, which are seldom drawn among so many.
# Drawn by popularity, these are pushed down, and rarer items come up.

# %%
table.pivot(index="model", columns="metric", values="value").loc[
    list(lists), ["ndcg", "novelty", "coverage"]
].round(3)
