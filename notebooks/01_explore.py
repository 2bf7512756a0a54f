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
# # 1. Exploring ratings, users and items
#
# Before any model: how many ratings there are, who gave them, and what they are of. Everything is
# aggregated by Spark; what reaches this notebook is small, whatever the data's size.
#
# The data are the tables that `make demo` leaves; `RECSYS_LAKE` names another lake.

# %%
import os

import altair as alt

from recsys_spark import get_session
from recsys_spark.config import Lake
from recsys_spark.inspection import charts, exploring
from recsys_spark.lakehouse.tables import Lakehouse

alt.renderers.enable("png")
spark = get_session()
lake = Lakehouse(spark, Lake(root=os.environ.get("RECSYS_LAKE", "../.recsys/demo")))
ratings, users, items = (lake.read(name) for name in ("ratings", "users", "items"))

# %%
exploring.overview(ratings, users, items).T

# %% [markdown]
# `density` is the share of all pairs that are rated: some percent at most. What is not rated is not
# disliked; it is unknown, and that is what recommendations are about.
#
# ## The long tail
#
# A point says how many users, or items, have so many ratings. Both axes are logarithmic. To see: a falling
# line to the right, which is the long tail of a few very active users and a few very popular items.

# %%
counts = {
    "users": exploring.counts_of_counts(ratings, "user"),
    "items": exploring.counts_of_counts(ratings, "item"),
}
charts.counts_chart(counts).properties(width=600)

# %% [markdown]
# The same as shares: were all equal, the curve would be the dashed line. The Gini coefficient is twice the
# area between the two: 0 where all have equally many ratings, towards 1 where one has all.

# %%
print({of: round(exploring.gini(frame), 2) for of, frame in counts.items()})
charts.long_tail_chart(counts).properties(width=600)

# %% [markdown]
# ## Ratings
#
# To see: people rate what they like, so that high ratings are more frequent than low ones.

# %%
histogram = exploring.rating_histogram(ratings, items)
charts.ratings_chart(histogram).properties(width=600)

# %% [markdown]
# By genre the differences are small where genres are shared by many items.

# %%
charts.ratings_by_genre_chart(histogram).properties(width=600)

# %% [markdown]
# ## Over time
#
# A cut in time, as `split.method: temporal` makes it, is only fair where there are ratings on both sides of
# it.

# %%
charts.over_time_chart(exploring.over_time(ratings, "month"), "month").properties(width=600)

# %% [markdown]
# ## Users, and genres
#
# On the diagonal, how many items have a genre; beside it, how many have both.

# %%
charts.users_chart(exploring.users_by(users, "age")).properties(width=600)

# %%
charts.genres_chart(exploring.genre_pairs(items)).properties(width=500)
