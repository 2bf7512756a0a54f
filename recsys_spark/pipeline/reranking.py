"""Lists of a night as they are shown: chosen again from the best candidates, where that is configured."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame

from recsys_spark.config import config_problem
from recsys_spark.errors import ConfigError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import ListMaker
from recsys_spark.recommend.rerank import reranked
from recsys_spark.recommend.top_n import ListRequest


def shown_lists(
    night: Night, record: StepRecord, model: ListMaker, users: DataFrame, request: ListRequest
) -> DataFrame:
    """A model's lists, by ``recommend.rerank`` where the configuration has it.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added where it is read.
    model : ListMaker
        What makes the lists.
    users : DataFrame
        ``user``, unique.
    request : ListRequest
        Of the lists that are shown.

    Raises
    ------
    ConfigError
        The table ``items`` lacks a column.
    """
    wanted = night.config.recommend.rerank
    if wanted is None:
        return model.recommend_lists(users, request)
    candidates = model.recommend_lists(users, replace(request, n=max(request.n, wanted.candidates)))
    items = ranked_items(night, record)
    return reranked(candidates, items, request.n, wanted.diversity, wanted.by, wanted.caps)


def ranked_items(night: Night, record: StepRecord) -> DataFrame:
    """The table ``items``, which has the columns that ``recommend.rerank`` names.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version of ``items`` is added.

    Raises
    ------
    ConfigError
        It lacks a column, or there is none.
    """
    wanted, lake = night.config.recommend.rerank, night.lake
    named = [] if wanted is None else [*([wanted.by] if wanted.diversity else []), *wanted.caps]
    known = list[str]()
    if lake.exists("items"):
        version = record.versions_read.setdefault("items", lake.version("items"))
        items = lake.read("items", version)
        known = items.columns
    missing = [name for name in named if name not in known]
    if missing:
        key, allowed = "recommend.rerank", f"columns of the table items: {known}"
        raise ConfigError(config_problem(night.config.origin, key, missing, allowed))
    return items
