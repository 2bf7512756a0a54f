"""The steps of a night, in their order."""

from __future__ import annotations

from collections.abc import Callable

from recsys_spark.config import Config
from recsys_spark.pipeline.evaluate import evaluate
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.publish import publish
from recsys_spark.pipeline.recommend import recommend
from recsys_spark.pipeline.sample_negatives import sample_negatives
from recsys_spark.pipeline.split import split
from recsys_spark.pipeline.train import train

STEPS: dict[str, Callable[[Night], None]] = {
    "ingest": ingest,
    "split": split,
    "sample_negatives": sample_negatives,
    "train": train,
    "evaluate": evaluate,
    "recommend": recommend,
    "publish": publish,
}
"""Name → step. Each takes the night, writes its tables and one row of the ledger, and may be run alone,
and again.
"""


def steps_of(config: Config) -> list[str]:
    """Names of the steps of a configured night: negatives are a table only where a section asks for them.

    Parameters
    ----------
    config : Config
        The whole configuration.
    """
    return [name for name in STEPS if name != "sample_negatives" or config.negatives is not None]


def run_night(night: Night) -> None:
    """All steps of a night. Stops at the first that fails; run again, the night starts over and changes
    nothing twice.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    """
    for name in steps_of(night.config):
        STEPS[name](night)
