"""Step one: raw inputs into ``ratings`` or ``events``, ``rejected_ratings``, ``users`` and ``items``, with
every row accounted for.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from pathlib import Path
from urllib.parse import unquote

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.columns import quoted
from recsys_spark.config import (
    Config,
    FileSource,
    Ingest,
    MovieLensSource,
    SideTable,
    SyntheticSource,
    config_problem,
)
from recsys_spark.console import progress_line
from recsys_spark.data.cleaning import (
    HEADER_LINE,
    LATER,
    Rules,
    clean_ratings,
    clean_side_table,
    rejected_rows,
    without_forgotten,
)
from recsys_spark.data.deduplication import latest_per_pair
from recsys_spark.data.events import distinct_events, month_of
from recsys_spark.data.files import line_number
from recsys_spark.data.movielens import movielens_inputs
from recsys_spark.data.sources import RawTables, read_source
from recsys_spark.data.synthetic import synthetic_inputs, world_of
from recsys_spark.errors import AccountingError, ConfigError, RejectedFractionError, SourceError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.lakehouse.tables import Upserted
from recsys_spark.pipeline.derive import derive_ratings, require_one_kind
from recsys_spark.pipeline.details import INPUT
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.resume import input_of
from recsys_spark.schema import EVENT, ITEM, RAW, REASON, SOURCE_FILE, TIMESTAMP, USER, FeatureType, IdType

NEWER = """
    (old.timestamp IS NULL AND new.timestamp IS NOT NULL) OR new.timestamp > old.timestamp
    OR (new.timestamp <=> old.timestamp AND new.rating > old.rating)
"""
"""Whether a rating supersedes the one in the table: later, or as late and larger."""


EXAMPLES, MAX_SHOWN = 3, 120
"""How many rejected rows an error shows, and how many characters of each."""


@dataclass(frozen=True)
class _Cleaned:
    """One input after cleaning.

    Attributes
    ----------
    rows : all rows, with their reasons
    read : how many there are
    rejected : reason → rejected rows
    later : rows of days after the run date, left for their own nights
    headers : header lines, which are no rows
    latest : one good row per key: (user, item), or all that an event is
    distinct : how many keys there are
    persisted : the persisted frame behind it all, to be unpersisted when the tables are written
    """

    rows: DataFrame
    read: int
    rejected: Mapping[str, int]
    later: int
    headers: int
    latest: DataFrame
    distinct: int
    persisted: DataFrame


def ingest(night: Night) -> None:
    """Bring the tables up to date: reads the source, writes ratings, events, rejected_ratings, users, items.

    The same input twice changes nothing the second time. Rejected rows are written first, so that they can be
    looked at even when there are too many of them. Where the source has events, ratings are derived from
    them.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    SourceError
        The source cannot be read.
    RejectedFractionError
        More rows were rejected than ``ingest.max_rejected_fraction`` allows; the tables are as they were.
    AccountingError
        Rows in do not equal inserted + updated + duplicates + unchanged + rejected + later.
    LakeError
        The lake has given ratings and the source has events, or the other way round.
    """
    settings = night.config.ingest
    main = "events" if settings.has_events else "ratings"
    with night.step("ingest") as record, _advised(settings.source), _opened(night) as inputs:
        record.details[INPUT] = input_of(night.spark, night.config)
        require_one_kind(night)
        user_type, item_type = settings.id_types
        forgotten = _forgotten(night)
        rows = _clean(inputs.ratings, _rules(night, user_type, item_type), settings.has_events, forgotten)
        users = _side(inputs.users, USER, user_type, _types(settings, "users"), forgotten)
        items = _side(inputs.items, ITEM, item_type, _types(settings, "items"))
        cleaned = {main: rows, "users": users, "items": items}
        present = {name: rows for name, rows in cleaned.items() if rows is not None}
        try:
            record.counts |= {"read": rows.read, "rejected": sum(rows.rejected.values())}
            _keep_rejected(night, record, present)
            _require_one_header(rows)
            for name, table in present.items():
                _require_few_rejected(night, name, table)
            for name, table in present.items():
                features = dict(table.latest.drop(USER, ITEM).dtypes) if name in ("users", "items") else {}
                unnamed = night.lake.create(name, user_type, item_type, features)
                if unnamed:
                    progress_line(f"  {name}: {', '.join(unnamed)} not in the source, left as in the table")
                before = night.lake.version(name) if name == "events" else 0
                _account(record, name, table, _upsert(night, name, table))
                if name == "events":
                    derive_ratings(night, record, before)
        finally:
            for table in present.values():
                table.persisted.unpersist()  # or a later night of this process would read old rows
        example = _examples(night, main, rows, 1) if rows.rejected else ""
        _say(main, record.counts, rows.rejected, example)


def require_inputs(config: Config) -> None:
    """Check, before Spark starts, that the configured local files exist; those on a cluster's storage are
    Spark's to find.

    Parameters
    ----------
    config : Config
        The whole configuration.

    Raises
    ------
    ConfigError
        Key path of the first file that is missing, and where it was looked for.
    """
    source = config.ingest.source
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ or "spark.hadoop.fs.defaultFS" in config.session.spark
    if submitted or isinstance(source, SyntheticSource):
        return
    paths = {"path": source.path}
    if isinstance(source, FileSource):
        tables = {"users": source.users, "items": source.items}
        paths |= {f"{name}.path": table.path for name, table in tables.items() if table is not None}
    for key, path in paths.items():
        local = re.sub(r"^file:(//)?(?=/)", "", path)
        alternatives = "{" in local  # which Hadoop's globs have and Python's do not
        if "://" not in local and not alternatives and not Path(local).exists() and not glob.glob(local):  # noqa: PTH207
            allowed = f"an existing file, folder or glob; looked for in {Path.cwd()}"
            raise ConfigError(config_problem(config.origin, f"ingest.source.{key}", path, allowed))


@contextmanager
def _advised(source: SyntheticSource | MovieLensSource | FileSource) -> Iterator[None]:
    """End errors about local inputs with what to try."""
    try:
        yield
    except (SourceError, RejectedFractionError) as error:
        if isinstance(source, SyntheticSource):
            raise
        sides = (source.users, source.items) if isinstance(source, FileSource) else ()
        paths = [side.path for side in sides if side is not None and str(error).startswith(side.path)]
        path = paths[0] if paths else source.path
        if "://" in path:
            raise
        raise type(error)(f"{error}; try `recsys preview {shlex.quote(path)}`") from None


@contextmanager
def _opened(night: Night) -> Iterator[RawTables]:
    source = night.config.ingest.source
    if isinstance(source, SyntheticSource):
        yield synthetic_inputs(
            night.spark, world_of(source.ratings, night.config.seed, source.users, source.items)
        )
    elif isinstance(source, MovieLensSource):
        with movielens_inputs(night.spark, source.path) as inputs:
            yield inputs
    else:
        yield read_source(night.spark, source)


def _rules(night: Night, user_type: IdType, item_type: IdType) -> Rules:
    settings = night.config.ingest
    return Rules(
        run_date=night.run_date,
        user_type=user_type,
        item_type=item_type,
        timestamps=settings.timestamps,
        events=tuple(settings.events.weights),
        scale=(settings.scale[0], settings.scale[1]) if settings.scale else None,
        earliest=settings.earliest,
        today=datetime.now(UTC).date(),
    )


def _types(settings: Ingest, name: str) -> Mapping[str, FeatureType]:
    """The declared types of the features of ``users`` or ``items``."""
    side = getattr(settings.source, name, None)
    return side.types if isinstance(side, SideTable) else {}


def _forgotten(night: Night) -> list[int]:
    """Hashes of the users that have been forgotten."""
    return [row["user_hash"] for row in night.lake.collect("forgotten")]


def _clean(raw: DataFrame, rules: Rules, has_events: bool, forgotten: Collection[int]) -> _Cleaned:
    rows = clean_ratings(raw, rules)
    rows = without_forgotten(rows, forgotten) if forgotten else rows
    if has_events:
        persisted = distinct_events(rows).persist(StorageLevel.MEMORY_AND_DISK)
        sums = (
            persisted.groupBy(REASON).agg(F.sum("rows").alias("rows"), F.count("*").alias("keys")).collect()
        )
        counts = {row[REASON]: row["rows"] for row in sums}
        distinct = sum(row["keys"] for row in sums if row[REASON] is None)
        latest = persisted.where(F.col(REASON).isNull()).drop(REASON, "rows")
    else:
        found = latest_per_pair(rows)
        latest, distinct, counts, persisted = found.rows, found.pairs, {**found.counts}, found.persisted
    headers = counts.pop(HEADER_LINE, 0)
    read, _ = sum(counts.values()), counts.pop(None, 0)
    later = counts.pop(LATER, 0)
    return _Cleaned(rows, read, counts, later, headers, latest, distinct, persisted)


def _side(
    raw: DataFrame | None,
    key: str,
    id_type: IdType,
    declared: Mapping[str, FeatureType],
    forgotten: Collection[int] = (),
) -> _Cleaned | None:
    if raw is None:
        return None
    rows = clean_side_table(raw, key, id_type, declared)
    rows = (without_forgotten(rows, forgotten) if forgotten else rows).persist()
    counted = (
        rows.groupBy(REASON).agg(F.count("*").alias("rows"), F.count_distinct(key).alias("keys")).collect()
    )
    headers = sum(row["rows"] for row in counted if row[REASON] == HEADER_LINE)
    counted = [row for row in counted if row[REASON] != HEADER_LINE]
    rejected = {row[REASON]: row["rows"] for row in counted if row[REASON] is not None}
    distinct = sum(row["keys"] for row in counted if row[REASON] is None)
    features = [name for name in rows.columns if name not in (key, REASON, RAW, SOURCE_FILE)]
    # of several rows of an id the largest stays: any rule would do that does not depend on the order of rows;
    # the constant is for tables without features
    whole = F.max(F.struct(F.lit(0).alias("0"), *map(quoted, features))).alias("features")
    chosen = (F.col(f"features.{quoted(name)}") for name in features)
    latest = rows.where(F.col(REASON).isNull()).groupBy(key).agg(whole).select(key, *chosen)
    return _Cleaned(rows, sum(row["rows"] for row in counted), rejected, 0, headers, latest, distinct, rows)


def _keep_rejected(night: Night, record: StepRecord, cleaned: Mapping[str, _Cleaned]) -> None:
    lake, today = night.lake, F.lit(night.run_date)
    kept = [
        rejected_rows(table.rows).select(today.alias("run_date"), F.lit(name).alias("input"), "*")
        for name, table in cleaned.items()
        if table.rejected
    ]
    before = lake.exists("rejected_ratings")
    if not kept and (not before or lake.read("rejected_ratings").where(F.col("run_date") == today).isEmpty()):
        return
    lake.create("rejected_ratings")
    none = lake.read("rejected_ratings").limit(0)
    rows = reduce(DataFrame.unionByName, kept, none)
    count = sum(sum(table.rejected.values()) for table in cleaned.values())
    version = lake.replace("rejected_ratings", rows, f"run_date = '{night.run_date}'", count)
    record.versions_written["rejected_ratings"] = version


def _require_one_header(ratings: _Cleaned) -> None:
    if "different_header" in ratings.rejected:
        odd = (
            ratings.rows.where(F.col(REASON) == "different_header")
            .select(SOURCE_FILE)
            .distinct()
            .limit(5)
            .collect()
        )
        files = ", ".join(sorted(row[SOURCE_FILE] for row in odd))
        raise SourceError(f"these files begin with another header than the first, ingest them apart: {files}")


def _require_few_rejected(night: Night, name: str, cleaned: _Cleaned) -> None:
    if not cleaned.read:
        raise SourceError(f"the {name} input is empty: nothing was written")
    allowed = night.config.ingest.max_rejected_fraction
    rejected = sum(count for reason, count in cleaned.rejected.items() if reason != "forgotten")
    if rejected > allowed * cleaned.read:
        raise RejectedFractionError(
            f"{rejected:,} of {cleaned.read:,} rows of {name} were rejected "
            f"({rejected / cleaned.read:.1%}; allowed is {allowed:.1%}): {_reasons(cleaned.rejected)}. "
            f"For example {_examples(night, name, cleaned, EXAMPLES)}. Nothing else was "
            "written; the rows are in rejected_ratings"
        )


def _reasons(rejected: Mapping[str, int]) -> str:
    leading = sorted(rejected.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{reason} {count:,}" for reason, count in leading)


def _examples(night: Night, name: str, cleaned: _Cleaned, count: int) -> str:
    """Some rejected rows, with their reasons, files and, of text files, lines."""
    source = night.config.ingest.source
    side = getattr(source, name, None) if isinstance(source, FileSource) else None
    table = side if isinstance(side, SideTable) else source
    encoding = None
    if isinstance(table, FileSource | SideTable) and table.format in ("csv", "json"):
        encoding = table.text.encoding if table.format == "csv" else "utf-8"
    shown = []
    for row in rejected_rows(cleaned.rows).where(F.col(RAW).isNotNull()).limit(count).collect():
        line = line_number(night.spark, row[SOURCE_FILE], row[RAW], encoding) if encoding else None
        file = unquote(row[SOURCE_FILE].rpartition("/")[2])
        raw = row[RAW] if len(row[RAW]) <= MAX_SHOWN else row[RAW][:MAX_SHOWN] + "…"
        shown.append(f"{file}{f':{line:,}' if line else ''} ({row[REASON]}): {raw!r}")
    return "; ".join(shown)


def _upsert(night: Night, name: str, cleaned: _Cleaned) -> Upserted:
    latest, count, today = cleaned.latest, cleaned.distinct, F.lit(night.run_date)
    if name == "ratings":
        rows = latest.withColumns({"first_run": today, "last_run": today})
        updates = {
            "rating": "new.rating",
            "timestamp": "new.timestamp",
            "last_run": "greatest(new.last_run, old.last_run)",
        }
        return night.lake.upsert(name, rows, (USER, ITEM), newer=F.expr(NEWER), updates=updates, count=count)
    if name == "events":
        rows = latest.withColumns({"month": month_of(F.col(TIMESTAMP)), "first_run": today})
        months = [row["month"] for row in rows.select("month").distinct().collect()]
        within = reduce(or_, (F.col("old.month").eqNullSafe(F.lit(month)) for month in months))
        return night.lake.upsert(name, rows, (USER, ITEM, EVENT, TIMESTAMP), within=within, count=count)
    key = name.removesuffix("s")
    features = [quoted(column) for column in latest.columns if column != key]
    differs = F.expr(" OR ".join(["false", *(f"NOT (new.{f} <=> old.{f})" for f in features)]))
    updates = {feature: f"new.{feature}" for feature in features}
    return night.lake.upsert(name, latest, (key,), newer=differs, updates=updates, count=count)


def _account(record: StepRecord, name: str, cleaned: _Cleaned, upserted: Upserted) -> None:
    rejected = sum(cleaned.rejected.values())
    counts = {
        "inserted": upserted.inserted,
        "updated": upserted.updated,
        "duplicates": cleaned.read - rejected - cleaned.later - cleaned.distinct,
        "unchanged": upserted.unchanged,
        "rejected": rejected,
        "later": cleaned.later,
    }
    if cleaned.read != sum(counts.values()):
        raise AccountingError(f"{name}: rows do not add up: {counts}")
    counts |= {"read": cleaned.read, "header_lines": cleaned.headers}
    prefix = "" if name in ("ratings", "events") else f"{name}_"
    record.counts |= {f"{prefix}{what}": count for what, count in counts.items()}
    record.counts |= {f"{prefix}rejected_{reason}": count for reason, count in cleaned.rejected.items()}
    record.versions_written[name] = upserted.version


def _say(main: str, counts: Mapping[str, int], rejected: Mapping[str, int], example: str) -> None:
    reasons = f" ({_reasons(rejected)}{f', such as {example}' if example else ''})" if rejected else ""
    parts = ["inserted", "updated", "duplicates", "unchanged", "rejected"]
    if main == "events":
        parts.remove("updated")
    later = f", {counts['later']:,} of later days, left for their own nights" if counts["later"] else ""
    progress_line(f"  {counts['read']:,} {main} read: {_listed(counts, parts)}{reasons}{later}")
    if main == "events":
        changes = {what: counts[f"ratings_{what}"] for what in ("inserted", "updated", "removed")}
        progress_line(f"  their ratings: {_listed(changes, [*changes])}")


def _listed(counts: Mapping[str, int], parts: list[str]) -> str:
    return ", ".join(f"{counts[part]:,} {part}" for part in parts)
