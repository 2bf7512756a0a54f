"""What every question to the tables needs: which lists are meant, ids as they are typed, titles, times."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from recsys_spark.errors import LakeError, UnknownIdError
from recsys_spark.lakehouse.reader import Reader
from recsys_spark.schema import ITEM, RANK, USER

NEAR, ALIKE = 3, 50
"""So many ids or titles are named where one is unknown, and how alike of 100 they are at least."""

TIME = "%Y-%m-%d %H:%M:%S"


def lists_shown(reader: Reader, run_date: date | None) -> tuple[date, str, dict[str, Collection[object]]]:
    """Date, table and partition of the lists that are served, or that were made for ``run_date``."""
    if run_date is not None:
        of_date: dict[str, Collection[object]] = {"run_date": [run_date]}
        if reader.schema("recommendations") is None or not _some(reader, "recommendations", of_date):
            raise LakeError(f"there are no recommendations of {run_date}: run the night first")
        return run_date, "recommendations", of_date
    lists = "current_recommendations"
    served = [] if reader.schema(lists) is None else _some(reader, lists)
    if not served:
        raise LakeError("nothing has been published: run the night first")
    return served[0], lists, {}


def users_shown(reader: Reader, lists: str, of_date: Mapping[str, Collection[object]]) -> list[str]:
    """Ids of the users with lists."""
    return [str(user) for user in reader.rows(lists, [USER], {**of_date, RANK: [1]})[USER].to_pylist()]


def _some(reader: Reader, lists: str, of_date: Mapping[str, Collection[object]] | None = None) -> list[date]:
    """Dates of a table's first ranks."""
    dates = reader.rows(lists, ["run_date"], {**(of_date or {}), RANK: [1]})["run_date"].unique()
    return [value.as_py() for value in dates]


def ids_of(schema: pa.Schema, column: str, given: str) -> list[object]:
    """What is given as an id of the column's type; nothing where it cannot be one."""
    kind = schema.field(column).type
    if not pa.types.is_integer(kind):
        return [given]
    if not re.fullmatch(r"-?[0-9]{1,19}", given):
        return []
    try:
        return [pa.scalar(int(given), kind).as_py()]
    except (pa.ArrowInvalid, OverflowError):  # too large for the type
        return []


def unknown_id(kind: str, given: str, choices: Mapping[str, str | None], where: str) -> UnknownIdError:
    """An error that names the ids and titles nearest to what was given; choices are ids and their titles."""
    from rapidfuzz import fuzz, process, utils

    titled = [id_ for id_, title in choices.items() if title]
    ids, labels = [*choices, *titled], [*choices, *(str(choices[id_]) for id_ in titled)]
    found = process.extract(given, labels, scorer=fuzz.WRatio, processor=utils.default_process, limit=NEAR)
    near = dict.fromkeys(ids[at] for _, score, at in found if score > ALIKE)
    told = [f"{id_!r} ({choices[id_]})" if choices[id_] else repr(id_) for id_ in near]
    return UnknownIdError(f"no {kind} {given!r}, {where}" + (f"; near: {', '.join(told)}" if told else ""))


def labels(reader: Reader, lists: str, of_date: Mapping[str, Collection[object]]) -> dict[str, str | None]:
    """Ids of the items, and their titles where there are any; without side table those of the lists."""
    schema = reader.schema("items")
    if schema is None:
        return {str(item): None for item in reader.rows(lists, [ITEM], of_date)[ITEM].unique().to_pylist()}
    rows = reader.rows("items", [ITEM, *(["title"] if "title" in schema.names else [])], {}).to_pylist()
    return {str(row[ITEM]): None if row.get("title") is None else str(row["title"]) for row in rows}


def add_titles(reader: Reader, rows: Iterable[dict[str, Any]], key: str = ITEM) -> list[str]:
    """Add titles and genres to rows of items, whose ids are in ``key``; which of them the items have."""
    rows, schema = list(rows), reader.schema("items")
    titled = [name for name in ("title", "genres") if schema is not None and name in schema.names]
    if titled:
        items = reader.rows("items", [ITEM, *titled], {ITEM: {row[key] for row in rows}})
        known = {row.pop(ITEM): row for row in items.to_pylist()}
        for row in rows:
            row.update(known.get(row[key], dict.fromkeys(titled)))
    return titled


def since_1970(time: datetime | None) -> float:
    """Seconds; none come before all."""
    return float("-inf") if time is None else time.timestamp()


def told_time(time: datetime | None) -> str | None:
    """A time in UTC as text."""
    return None if time is None else f"{time.astimezone(UTC):{TIME}}"
