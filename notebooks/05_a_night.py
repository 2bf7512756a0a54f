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
# # 5. A night, and the morning after
#
# What `recsys nightly` does, from Python: two nights over synthetic ratings, their tables, a gate that
# closes, a person who overrules it, and the way back.

# %%
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd

from recsys_spark import get_session
from recsys_spark.config import load_config
from recsys_spark.console import configure
from recsys_spark.errors import GateError
from recsys_spark.lakehouse.reader import reader_of
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.publish import publish, rollback
from recsys_spark.pipeline.show import describe_similar, describe_user, sample_users
from recsys_spark.pipeline.show_runs import describe_current, describe_metrics, describe_runs
from recsys_spark.pipeline.steps import run_night

configure(quiet=True)
spark = get_session()
folder = Path(tempfile.mkdtemp())
NIGHT = f"""
lake: {{root: {folder}/lake}}
ingest: {{source: {{format: synthetic, ratings: 5_000}}, scale: [1, 5]}}
models: [popularity, als]
als: {{implicitPrefs: true, rank: 16, alpha: 5.0, regParam: 0.05}}
report: null
"""
(folder / "night.yaml").write_text(NIGHT)
config = load_config(folder / "night.yaml", REGISTRY)
monday, tuesday = date(2026, 1, 26), date(2026, 1, 27)

# %%
night = Night(spark, config, monday)
run_night(night)
reader = reader_of(config.lake, config.session)
runs = describe_runs(reader, monday)[0]
pd.DataFrame(runs.rows)[["step", "state", "seconds", "versions"]]

# %% [markdown]
# Each step is a row of `runs`: what it read, what it wrote, how long it took. What was measured, and what
# the gate made of it:

# %%
metrics, gate = describe_metrics(reader, night.run_id, 10)
pd.DataFrame(metrics.rows).round(3)

# %%
pd.DataFrame(gate.rows)[gate.columns].round(3)

# %% [markdown]
# ## What people get
#
# Any reader can read the tables; this is what `recsys show` and `recsys similar` print.

# %%
(user,) = sample_users(reader, 1)
history, listed = describe_user(reader, user)
pd.DataFrame(listed.rows)[["rank", "title", "genres", "score", "model"]]

# %%
(similar,) = describe_similar(reader, str(listed.rows[0]["item"]), n=5)
pd.DataFrame(similar.rows)[["rank", "title", "genres", "similarity"]]

# %% [markdown]
# ## A gate that closes
#
# On Tuesday somebody shortens the lists from ten to four by mistake. Nothing in the code is wrong, and no
# step fails; but there are so many fewer rows than are served that the gate leaves those in place.

# %%
mistaken = load_config(folder / "night.yaml", REGISTRY, ["recommend.n=4", "recommend.similar_items=null"])
try:
    run_night(Night(spark, mistaken, tuesday))
except GateError as closed:
    refused = str(closed)
print(refused)

# %%
pd.DataFrame(describe_current(reader, datetime.now(UTC))[0].rows)[["run_date", "lists"]]

# %% [markdown]
# ## Overruled, and taken back
#
# A person may serve them all the same, and has to say why; the ledger keeps it. `rollback` serves Monday's
# lists again.

# %%
publish(Night(spark, mistaken, tuesday), reason="shorter lists are meant")
reader = reader_of(config.lake, config.session)
pd.DataFrame(describe_current(reader, datetime.now(UTC))[0].rows)[
    ["run_date", "lists", "step", "gate_overruled"]
]

# %%
rollback(spark, config)
reader = reader_of(config.lake, config.session)
pd.DataFrame(describe_current(reader, datetime.now(UTC))[0].rows)[
    ["run_date", "lists", "step", "gate_overruled"]
]
