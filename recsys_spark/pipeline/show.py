"""What a person or a program asks of the tables: a user, an item, items like another one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from recsys_spark.console import Section
from recsys_spark.errors import UnknownIdError
from recsys_spark.lakehouse.reader import Reader, require
from recsys_spark.pipeline.lookup import (
    add_titles,
    ids_of,
    labels,
    lists_shown,
    since_1970,
    told_time,
    unknown_id,
    users_shown,
)
from recsys_spark.schema import ITEM, MEASURE, NEIGHBOR, RANK, SIMILARITY, USER

if TYPE_CHECKING:
    from recsys_spark.pipeline.saved_models import SavedModels

BECAUSE = "because"
"""Of a recommendation: the items of the history that add most to its score."""

FEATURES = "features"
"""Of a ranker's recommendation: the features that add most to its score, or take most off."""

HISTORY_LENGTH, NEIGHBORS_SHOWN = 10, 10


def describe_user(
    reader: Reader, user: str, run_date: date | None = None, why: SavedModels | None = None
) -> list[Section]:
    """A user's best-rated history and list, with titles where there are any.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    user : str
        The user's id.
    run_date : date, optional
        The night; without it what is served.
    why : SavedModels, optional
        By which each recommendation is told with the items of the history that add most to its score:
        :func:`~recsys_spark.inspection.reasons.reasons`, by the ratings as they are now.

    Raises
    ------
    LakeError
        Nothing is published, or nothing was made for that date; with ``why``, its models are gone.
    UnknownIdError
        No user has this id; the nearest ids are named.
    """
    shown, lists, of_date = lists_shown(reader, run_date)
    known = ids_of(require(reader, "ratings"), USER, user)
    columns = [USER, RANK, ITEM, "score", "model", "reason"]
    listed = reader.rows(lists, columns, {**of_date, USER: known}).to_pylist()
    history = reader.rows("ratings", [USER, ITEM, "rating", "timestamp"], {USER: known}).to_pylist()
    if not listed and not history:
        users: dict[str, str | None] = dict.fromkeys(users_shown(reader, lists, of_date))
        raise unknown_id("user", user, users, "neither in ratings nor in recommendations")
    listed.sort(key=lambda row: row[RANK])
    history.sort(key=lambda row: row[ITEM])
    history.sort(key=lambda row: (row["rating"], since_1970(row["timestamp"])), reverse=True)
    because: list[dict[str, Any]] = []
    explained = False
    if why is not None:
        from recsys_spark.pipeline.saved_models import add_reasons

        add_reasons(why, shown, history, listed)
        because = [reason for row in listed for reason in row[BECAUSE]]
        explained = _add_features(reader, shown, known, listed)
    told = [name for name, there in ((BECAUSE, why is not None), (FEATURES, explained)) if there]
    history = [{**row, "timestamp": told_time(row["timestamp"])} for row in history[:HISTORY_LENGTH]]
    titled = add_titles(reader, history + listed + because)
    return [
        Section(
            "history",
            f"User {user}: best-rated {len(history)} of the history",
            history,
            [ITEM, *titled, "rating", "timestamp"],
        ),
        Section(
            "recommendations",
            f"User {user}: recommendations of {shown}",
            listed,
            [RANK, ITEM, *titled, *columns[3:], *told],
        ),
    ]


def describe_item(reader: Reader, item: str, run_date: date | None = None) -> list[Section]:
    """An item: its features, its ratings, and the lists that it is in.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    item : str
        The item's id.
    run_date : date, optional
        The night; without it what is served.

    Raises
    ------
    LakeError
        Nothing is published, or nothing was made for that date.
    UnknownIdError
        No item has this id; the nearest ids and titles are named.
    """
    shown, lists, of_date = lists_shown(reader, run_date)
    known = ids_of(require(reader, "ratings"), ITEM, item)
    schema = reader.schema("items")
    features = reader.rows("items", schema.names, {ITEM: known}).to_pylist() if schema is not None else []
    ratings = reader.rows("ratings", ["rating", "timestamp"], {ITEM: known}).to_pylist()
    ranks = reader.rows(lists, [RANK], {**of_date, ITEM: known})[RANK].to_pylist()
    if not features and not ratings:
        raise unknown_id("item", item, labels(reader, lists, of_date), "neither in items nor in ratings")
    id_ = (known or [item])[0]
    shown_features = [name for name in (features or [{ITEM: id_}])[0] if not _is_vector(schema, name)]
    times = [row["timestamp"] for row in ratings if row["timestamp"] is not None]
    rated = {
        ITEM: id_,
        "ratings": len(ratings),
        "mean": sum(row["rating"] for row in ratings) / len(ratings) if ratings else None,
        "first": told_time(min(times, default=None)),
        "last": told_time(max(times, default=None)),
    }
    in_lists = {
        ITEM: id_,
        "lists": len(ranks),
        "mean_rank": sum(ranks) / len(ranks) if ranks else None,
        "at_rank_1": ranks.count(1),
    }
    return [
        Section("item", f"Item {item}", features or [{ITEM: id_}], shown_features),
        Section("ratings", f"Item {item}: ratings", [rated], list(rated)),
        Section("lists", f"Item {item}: in lists of {shown}", [in_lists], list(in_lists)),
    ]


def describe_similar(
    reader: Reader,
    item: str,
    measure: str | None = None,
    run_date: date | None = None,
    n: int = NEIGHBORS_SHOWN,
) -> list[Section]:
    """The items that are most like an item: those that are served, or by another measure.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    item : str
        The item's id.
    measure : str, optional
        ``cosine``, ``dot`` or ``tempered``, or ``weight`` of a model of item pairs; without it that of the
        table. What the table has not is computed from the model that made it.
    run_date : date, optional
        The night; without it what is served.
    n : int
        How many.

    Raises
    ------
    LakeError
        Nothing is published, or nothing was made for that date, or no model has vectors.
    UnknownIdError
        No item has this id, or the model does not know it; the nearest ids and titles are named.
    """
    shown, lists, of_date = lists_shown(reader, run_date)
    known = ids_of(require(reader, "ratings"), ITEM, item)
    stored = "current_similar_items" if run_date is None else "similar_items"
    columns, rows = [RANK, NEIGHBOR, SIMILARITY, MEASURE, "model"], []
    if reader.schema(stored) is not None:
        rows = reader.rows(stored, columns, {**of_date, ITEM: known}).to_pylist()
    rows.sort(key=lambda row: row[RANK])
    if not rows or (measure or rows[0][MEASURE]) != rows[0][MEASURE] or n > len(rows):
        from recsys_spark.inspection.saved import nearest
        from recsys_spark.pipeline.saved_models import neighbors_model

        name, saved = neighbors_model(reader, shown)
        measure = measure or (rows[0][MEASURE] if rows else saved.measure)
        found = nearest(saved, known[0], n, measure) if known else []
        rows = [
            {RANK: rank, NEIGHBOR: other, SIMILARITY: value, MEASURE: measure, "model": name}
            for rank, (other, value) in enumerate(found, 1)
        ]
    if not rows:
        choices = labels(reader, lists, of_date)
        if item in choices:
            raise UnknownIdError(
                f"item {item!r} has no neighbours: the model knows nothing of it, or no other"
            )
        raise unknown_id("item", item, choices, "which the model does not know")
    rows = rows[:n]
    itself: list[dict[str, Any]] = [{ITEM: known[0]}]
    titled = add_titles(reader, rows, NEIGHBOR)
    add_titles(reader, itself)
    told = f"{item} ({itself[0]['title']})" if itself[0].get("title") else item
    title = f"Item {told}: most similar by {rows[0][MEASURE]}, as {rows[0]['model']} of {shown} has it"
    return [Section("similar", title, rows, [RANK, NEIGHBOR, *titled, SIMILARITY])]


def sample_users(reader: Reader, count: int, run_date: date | None = None) -> list[str]:
    """Some users' ids of those with lists, the same ones each time: those with the smallest checksum.

    Parameters
    ----------
    reader : Reader
        Of the lake.
    count : int
        How many.
    run_date : date, optional
        The night; without it what is served.
    """
    if not count:
        return []
    _, lists, of_date = lists_shown(reader, run_date)
    users = users_shown(reader, lists, of_date)
    return sorted(users, key=lambda user: (zlib.crc32(user.encode()), user))[:count]


def _add_features(
    reader: Reader, run_date: date, users: Sequence[object], listed: Sequence[dict[str, Any]]
) -> bool:
    """Give rows the features that were written for them; whether there are any."""
    if reader.schema("explanations") is None:
        return False
    among = {"run_date": [run_date], USER: users}
    found = {
        row[ITEM]: row[FEATURES] for row in reader.rows("explanations", [ITEM, FEATURES], among).to_pylist()
    }
    for row in listed:
        row[FEATURES] = [
            {
                "title": f"{one['feature']} {_told_value(one['value'])} ({one['contribution']:+.2f})",
                **one,
                "value": None if math.isnan(one["value"]) else one["value"],
            }
            for one in found.get(row[ITEM], ())
        ]
    return bool(found)


def _told_value(value: float) -> str:
    return "missing" if math.isnan(value) else f"{value:.4g}"


def _is_vector(schema: pa.Schema | None, name: str) -> bool:
    kind = None if schema is None else schema.field(name).type
    return kind is not None and pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)
