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
# # 7. The second stage
#
# Models retrieve; what people see is decided afterwards. Several models list candidates, trees order them by
# all that is known of users and items, and the list that is shown is chosen from the best: of several kinds,
# like what the user has had, with room for what is seldom seen.

# %%
import os

import altair as alt
import pandas as pd
from pyspark.sql import Window
from pyspark.sql import functions as F

from recsys_spark import ALS, ItemItemRecommender, PopularityRecommender, RankerRecommender, get_session
from recsys_spark.config import Lake, Split
from recsys_spark.console import configure
from recsys_spark.data.split import split_ratings
from recsys_spark.evaluation.ranking import ranking_metrics
from recsys_spark.histories import pack_histories
from recsys_spark.kernels.slots import Slot
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.recommend.candidates import candidates
from recsys_spark.recommend.rerank import Reranking, reranked
from recsys_spark.recommend.slots import Pool, with_slots
from recsys_spark.recommend.top_n import ListRequest, explode_lists

alt.renderers.enable("png")
configure(quiet=True)
spark = get_session()
lake = Lakehouse(spark, Lake(root=os.environ.get("RECSYS_LAKE", "../.recsys/demo")))
items = lake.read("items").persist()
parts = split_ratings(lake.read("ratings"), Split(method="leave_last"), seed=42).persist()
train, test = parts.where("part <> 'test'").drop("part"), parts.where("part = 'test'").select("user", "item")
testers = test.select("user").distinct().persist()

# %% [markdown]
# ## Candidates
#
# Each model lists a hundred items for each user. The union has more of the held-out items than any of them
# alone.

# %%
params = {
    "als": {"implicitPrefs": True, "rank": 32, "alpha": 5.0, "regParam": 0.05},
    "item_item": {"neighbors": 100, "regParam": 100.0},
    "popularity": {},
}
kinds = {"als": ALS, "item_item": ItemItemRecommender, "popularity": PopularityRecommender}
request = ListRequest(100, train.select("user", "item"))
models = {name: kind(**params[name]).fit(train) for name, kind in kinds.items()}
lists = {name: model.recommend_lists(testers, request).persist() for name, model in models.items()}
found = candidates(lists).persist()
found.orderBy("user", F.asc_nulls_last("als_rank")).show(5)

# %%
wanted = test.join(found, ["user", "item"], "left")
recalls = wanted.agg(
    *(F.avg(F.col(f"{name}_rank").isNotNull().cast("double")).alias(name) for name in models),
    F.avg(F.coalesce(*(F.col(f"{name}_rank") for name in models)).isNotNull().cast("double")).alias("union"),
).toPandas()
recalls.round(3)

# %% [markdown]
# ## A ranker
#
# The trees learn from each user's last item before the test, with members that do not know it. What they ask
# about most is what they gain by.

# %%
ranker = RankerRecommender(members=params, maxIter=100, itemFeatureCols=["genres"], itemFeatures=items)
model = ranker.fit(train)
gains = model.importances().orderBy(F.desc("gain")).limit(12).toPandas()
alt.Chart(gains).mark_bar().encode(x="gain", y=alt.Y("feature", sort="-x")).properties(width=400)

# %%
lists["ranker"] = model.recommend_lists(testers, ListRequest(100, request.seen)).persist()
measured = ranking_metrics(lists, test, train, items, [10], bootstrap=200, seed=42)
table = pd.DataFrame([vars(one) for one in measured if one.metric == "ndcg"]).set_index("model")
table[["value", "low", "high"]].round(4)

# %% [markdown]
# ## Lists fit to show
#
# Ten of the ranker's hundred: by the order of its scores; of several genres; of the genres of the user's
# history; with two of ten places for what is not among the most rated fifth. Each costs something, and each
# does what it is for: diversity is how unlike a list's items are, and with two places for the long tail the
# share of popular ones falls.

# %%
counts = train.groupBy("item").agg(F.count("*").alias("ratings"))
place = F.row_number().over(Window.orderBy(F.desc("ratings"), "item"))
head = counts.select("item", (place <= 0.2 * counts.count()).alias("head"))
known = items.join(head, "item", "left").fillna(False, ["head"])
packed = pack_histories(train.withColumn("part", F.lit("train")), train.count())
how = {
    "by score": Reranking(),
    "diverse": Reranking(diversity=0.4),
    "calibrated": Reranking(calibration=0.4),
    "two of the long tail": Reranking(floors={"not head": 2}),
}
shown = {name: reranked(lists["ranker"], known, 10, one, packed).persist() for name, one in how.items()}
chosen = pd.DataFrame(
    [vars(one) for one in ranking_metrics(shown, test, train, items, [10], bootstrap=0, seed=42)]
).pivot(index="model", columns="metric", values="value")
chosen.loc[list(how), ["ndcg", "diversity", "popularity_share", "coverage"]].round(3)

# %% [markdown]
# ## Slots that are drawn
#
# What is never shown is never answered. In half of the lists the last place goes to one of the ranker's
# hundred, drawn at random; beside each row of that place is the propensity with which its item was to be
# there, so that answers tell what any other choice would be worth. Where nothing was drawn, it is that of the
# list's own item.

# %%
rows = explode_lists(shown["by score"]).withColumns({"model": F.lit("ranker"), "reason": F.lit("model")})
pool = Pool(lists["ranker"], "ranker", "exploration")
drawn = with_slots(rows, [pool], [Slot(rank=10, pool=0, rate=0.5)], 10, seed=42, day=0).persist()
last = drawn.where("rank = 10").groupBy("reason")
last.agg(F.count("*").alias("lists"), F.round(F.avg("propensity"), 4).alias("propensity")).toPandas()

# %% [markdown]
# ## Why a row is there
#
# Of one user's first three items: the features that add most to their scores, or take most off. The
# contributions of all features add up to the score, less what is the same for all.

# %%
user = testers.orderBy("user").limit(1)
titles = items.select("item", "title")
told = model.explain(user, ListRequest(3, request.seen), features=3).join(titles, "item")
told.orderBy("rank", F.desc(F.abs("contribution"))).select(
    "rank", "title", "feature", F.round("value", 2).alias("value"), F.round("contribution", 2).alias("adds")
).toPandas()
