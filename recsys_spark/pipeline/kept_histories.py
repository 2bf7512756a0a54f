"""The histories that a date's split has packed, kept for the steps that run in processes of their own.

A step that finds none packs the ratings again: they save time, and nothing else depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from recsys_spark.config import Config
from recsys_spark.console import progress_line
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, read_histories
from recsys_spark.lakehouse.paths import absolute_path
from recsys_spark.lakehouse.storage import folders, remove
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.pipeline.details import HISTORIES
from recsys_spark.revision import code_version
from recsys_spark.schema import ITEM, USER


def keep_histories(lake: Lakehouse, config: Config, run_id: str, packed: PackedHistories) -> str:
    """Write packed histories beside the models.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    config : Config
        The whole configuration.
    run_id : str
        Of the split.
    packed : PackedHistories
        Of all pinned ratings.

    Returns
    -------
    str
        How to read them, as JSON: the ledger's row of the split has it as detail ``histories``.
    """
    saved = packed.save(f"{_root(lake)}/{_name(run_id)}")
    told = {"saved": saved, "buckets": packed.buckets, "size": packed.size}
    return json.dumps({**told, "packed_by": _packed_by(config)})


def kept_histories(lake: Lakehouse, config: Config, split: Mapping[str, Any]) -> PackedHistories | None:
    """What a split has kept; None where that is gone, or this code or configuration would pack otherwise.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    config : Config
        The whole configuration, with the split's settings and seed.
    split : mapping
        The ledger's row of the split.
    """
    told = json.loads(split["details"].get(HISTORIES, "{}"))
    if told.get("packed_by") != _packed_by(config):
        return None
    found = _folders(lake, [split])
    if not found:
        return None
    schema = lake.read("ratings", split["versions_read"]["ratings"]).schema
    kinds = schema[USER].dataType, schema[ITEM].dataType
    try:
        return read_histories(lake.spark, found[0], told["saved"], told["buckets"], kinds, told["size"])
    except ModelError as error:
        progress_line(f"  {error}, which is done now")
        return None


def drop_histories(lake: Lakehouse, splits: Iterable[Mapping[str, Any]]) -> int:
    """Remove what splits have kept.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    splits : iterable of mapping
        Rows of the ledger, in any state; of one that has died nothing else tells what it has written.

    Returns
    -------
    int
        How many had kept something.
    """
    found = _folders(lake, splits)
    for folder in found:
        remove(lake.spark, folder)
    return len(found)


def drop_old_histories(lake: Lakehouse, before: datetime) -> int:
    """Remove what splits of any date have kept that began before a time.

    Parameters
    ----------
    lake : Lakehouse
        The tables.
    before : datetime
        With a time zone.

    Returns
    -------
    int
        How many had kept something.
    """
    splits = lake.collect("runs", {"step": ["split"]}, ["run_id", "started"])
    return drop_histories(lake, [row for row in splits if row["started"] < before])


def _folders(lake: Lakehouse, splits: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is there of what splits have kept."""
    names = {_name(row["run_id"]) for row in splits}
    found = folders(lake.spark, _root(lake)) if names else []
    return [folder for folder in found if folder.rpartition("/")[2] in names]


def _root(lake: Lakehouse) -> str:
    return absolute_path(lake.location.models_path)


def _name(run_id: str) -> str:
    """Of the folder, which stands beside those of the runs' models."""
    return f"{run_id}-histories"


def _packed_by(config: Config) -> str:
    """What tells packed histories apart beside ratings, run date and split: the code, and what makes events
    ratings.
    """
    events = config.ingest.model_dump(mode="json")["events"] if config.ingest.has_events else None
    return json.dumps([code_version(), events], sort_keys=True)
