"""What puts the rows of a ranker's lists where they are, as a table."""

from __future__ import annotations

from typing import cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.ranker_model import RankerModel
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import Folded, ListMaker
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, USER

EXPLANATIONS = "explanations"


def write_explanations(
    night: Night,
    record: StepRecord,
    rows: DataFrame,
    users: DataFrame,
    champion: str,
    model: ListMaker,
    request: ListRequest,
) -> None:
    """Write this date's partition of ``explanations``, where that is configured and a ranker has made the
    lists; there is none afterwards otherwise.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version and a count are added.
    rows : DataFrame
        ``user``, ``item``, ``model``: the lists. What others than the ranker have filled in is not explained.
    users : DataFrame
        ``user``: whom they are for.
    champion : str
        The model's name.
    model : RecommenderModel or Folded
        What has made the lists.
    request : ListRequest
        What was asked for them, as long as lists can be that theirs were chosen from. The candidates are
        found and ordered once more.
    """
    lake, most = night.lake, night.config.recommend.explain
    rankers = [model.kept, model.folded_in] if isinstance(model, Folded) else [model]
    if not most or not all(isinstance(one, RankerModel) for one in rankers):
        if lake.exists(EXPLANATIONS):
            lake.delete(EXPLANATIONS, F.col("run_date") == F.lit(night.run_date))
        return
    found = _explained(model, users, request, most)
    shown = rows.where(F.col("model") == champion).select(USER, ITEM)
    told = F.struct((-F.abs("contribution")).alias("order"), "feature", "value", "contribution")
    features = F.transform(
        F.sort_array(F.collect_list(told)),
        lambda one: F.struct(*(one[name].alias(name) for name in ("feature", "value", "contribution"))),
    )
    listed = found.join(shown, [USER, ITEM], "left_semi").groupBy(USER, ITEM).agg(features.alias("features"))
    listed = listed.select(F.lit(night.run_date).alias("run_date"), USER, ITEM, "features").persist()
    try:
        count = record.counts[EXPLANATIONS] = listed.count()
        lake.create(EXPLANATIONS, *night.config.ingest.id_types)
        where = f"run_date = '{night.run_date}'"
        record.versions_written[EXPLANATIONS] = lake.replace(EXPLANATIONS, listed, where, count)
    finally:
        listed.unpersist()


def _explained(model: ListMaker, users: DataFrame, request: ListRequest, most: int) -> DataFrame:
    """What a ranker says of the lists of users; of those whom it has folded in too."""
    if not isinstance(model, Folded):
        return cast(RankerModel, model).explain(users, request, most)
    kept, folded_in = cast(RankerModel, model.kept), cast(RankerModel, model.folded_in)
    same = kept.explain(users.join(model.users, USER, "left_anti"), request, most)
    changed = folded_in.explain(users.join(model.users, USER, "left_semi"), request, most)
    return same.unionByName(changed)
