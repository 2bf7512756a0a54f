"""The neighbours of every item, which a night makes beside its lists."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.pair_model import NeighborModel
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.checks import check_neighbors
from recsys_spark.pipeline.fitted import compared, load
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.refit import Folded, ListMaker
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, MEASURE, NEIGHBOR, RANK, SIMILARITY
from recsys_spark.training.item_item import WEIGHT

NEIGHBOR_ROWS = "similar_rows"
"""Count of the ledger's row of ``recommend``: how many there are; missing where there are none."""


def similar_items(
    night: Night,
    record: StepRecord,
    request: ListRequest,
    champion: str,
    model: ListMaker,
    kept: ExitStack,
) -> DataFrame | None:
    """Neighbours of every item that a model knows, checked: by the configured measure of its vectors, or by
    its weights of item pairs.

    They are the champion's; where it has neither, as popularity, those of the first of ``models`` that has.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; counts are added.
    request : ListRequest
        What was asked for the lists: the items that it allows for everybody are neighbours.
    champion : str
        The model's name.
    model : RecommenderModel or Folded
        What makes the lists.
    kept : ExitStack
        Frees, at its end, what is kept in memory.

    Returns
    -------
    DataFrame or None
        One row per (item, rank): ``run_date``, ``item``, ``rank``, ``neighbor``, ``similarity`` float,
        ``measure``, ``model``; None where none are configured, or no model has any.

    Raises
    ------
    PublishError
        They break an invariant of :func:`~recsys_spark.pipeline.checks.check_neighbors`.
    """
    wanted = night.config.recommend.similar_items
    if wanted is None:
        return None
    name, found = _with_neighbors(night, champion, model)
    if found is None:
        return None
    measure: str = wanted.measure
    among: dict[str, Any] = {"allowedItems": request.allowed_items, "deniedItems": request.denied_items}
    if isinstance(found, NeighborModel):
        measure, alike = WEIGHT, found.similarItems(wanted.n, **among)
    else:
        alike = found.similarItems(wanted.n, measure, blockSizes=request.block_sizes, **among)
    rows = alike.select(
        F.lit(night.run_date).alias("run_date"),
        ITEM,
        RANK,
        NEIGHBOR,
        SIMILARITY,
        F.lit(measure).alias(MEASURE),
        F.lit(name).alias("model"),
    )
    rows = rows.persist()
    kept.callback(rows.unpersist)
    counts = check_neighbors(rows)
    record.counts |= {NEIGHBOR_ROWS: counts["rows"], "similar_items": counts["lists"]}
    return rows


def write_similar_items(night: Night, record: StepRecord, rows: DataFrame | None) -> None:
    """Write this date's partition of ``similar_items``; without rows there is none afterwards.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself; the version is added.
    rows : DataFrame or None
        Of :func:`similar_items`.
    """
    lake, name = night.lake, "similar_items"
    if rows is not None:
        lake.create(name, *night.config.ingest.id_types)
        where = f"run_date = '{night.run_date}'"
        record.versions_written[name] = lake.replace(name, rows, where, record.counts[NEIGHBOR_ROWS])
    elif lake.exists(name):
        lake.delete(name, F.col("run_date") == F.lit(night.run_date))


def _with_neighbors(
    night: Night, champion: str, model: ListMaker
) -> tuple[str, FactorModel | NeighborModel | None]:
    own, kinds = model.kept if isinstance(model, Folded) else model, (FactorModel, NeighborModel)
    if isinstance(own, kinds):
        return champion, own
    for name in night.config.models:
        if issubclass(REGISTRY[name].model, kinds):
            other: Any = load(compared(night)[name])
            return name, other
    return champion, None
