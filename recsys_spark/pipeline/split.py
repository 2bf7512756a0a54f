"""Step two: pin the version of ``ratings`` that this night reads, and say how it divides."""

from __future__ import annotations

from recsys_spark.console import progress_line
from recsys_spark.errors import LakeError, ModelError
from recsys_spark.histories import LEFT_OUT
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.eligibility import Rules
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.popular import people_by_segment, segments_of
from recsys_spark.pipeline.reranking import require_rerank
from recsys_spark.pipeline.shelves import names_of, shelf_members
from recsys_spark.pipeline.slots import require_slots
from recsys_spark.pipeline.tracking import require_mlflow
from recsys_spark.schema import TEST, TRAIN, VALIDATION


def split(night: Night) -> None:
    """Pin the version of ratings that this night reads: reads ratings, writes runs.

    No table holds the parts: they are a pure function of the pinned rows. As packed by user they are kept
    beside the models until the night's last step is done.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    LakeError
        There are no ratings yet.
    ConfigError, SourceError
        A rule of ``recommend.users`` or ``recommend.items`` cannot be asked.
    ModelError
        A part would be empty.
    SetupError
        MLflow is wanted, and is not installed.
    """
    with night.step("split") as record:
        night.pin(_versions(night))
        Rules(night, StepRecord()).require()  # long before the lists are made
        require_rerank(night)
        require_slots(night)
        require_mlflow(night)
        if night.config.recommend.shelves is not None:
            names_of(night, shelf_members(night, StepRecord()))
        if night.config.recommend.fallback_by is not None:
            segments_of(night, people_by_segment(night, StepRecord()))
        record.versions_read |= night.versions()
        for part, (ratings, users) in night.parts().counts().items():
            if part != LEFT_OUT:
                record.counts |= {part: ratings, f"{part}_users": users}
        record.details["split"] = night.split_described()
        for part in (TRAIN, VALIDATION, TEST):
            if not record.counts.get(part):
                raise ModelError(
                    f"the {night.config.split.method} split leaves no {part} rows: change split in "
                    f"{night.config.origin}"
                )
        night.keep_packed(record)
        rows = ", ".join(f"{record.counts[part]:,} {part}" for part in (TRAIN, VALIDATION, TEST))
        progress_line(
            f"  {rows} rows by {night.config.split.method}, ratings version {night.ratings_version()}"
        )
        config = night.config
        if config.ingest.has_events and config.recommend.exclude_seen is False and not config.split.repeats:
            progress_line(
                "  lists may hold what was seen, and nothing of it is held out: split.repeats judges by it"
            )
        if config.split.method == "leave_last":
            progress_line(
                "  leave_last trains on rows that are later than others' test rows: it flatters models that "
                "follow trends; split.method temporal does not"
            )


def _versions(night: Night) -> dict[str, int]:
    """The versions to read: the current ones, or those this date read before, if its ingest has changed
    nothing since.

    So a date that is run again reads the same rows, even after later dates have brought more.
    """
    tables = ("ratings", "events") if night.config.ingest.has_events else ("ratings",)
    try:
        before = night.ledger.last_done("split")
        ingested = night.ledger.last_done("ingest")
    except LakeError:
        return {table: night.lake.version(table) for table in tables}
    changes = ("inserted", "updated", "ratings_inserted", "ratings_updated", "ratings_removed")
    changed = any(ingested["counts"].get(change) for change in changes)
    if changed and ingested["started"] > before["started"]:
        return {table: night.lake.version(table) for table in tables}
    return {table: int(before["versions_read"][table]) for table in tables}
