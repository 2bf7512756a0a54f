"""What the columns of a sample hold, which of them make a rating, and which rows would be rejected."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from recsys_spark.preview.dialect import is_number
from recsys_spark.preview.sample import Row, Sample
from recsys_spark.schema import EVENT, ITEM, MAX_ID_LENGTH, RATING, TIMESTAMP, USER

NAMES = {
    TIMESTAMP: r"timestamp|date|time|ts|created|createdat|when|day|dt|unixreviewtime|reviewtime",
    RATING: r"rating|rate|score|stars?|grade|overall|plays?|playcount|quantity|qty|weight|listens?|count"
    r"|value",
    EVENT: r"event|eventtype|eventname|action|behaviou?r|interaction|interactiontype|type",
    USER: r"user|usr|uid|customer|cust|client|visitor|member|reader|reviewer|account|buyer|person|profile",
    ITEM: r"item|iid|movie|film|product|sku|asin|song|track|artist|book|isbn|article|game|content|video|show"
    r"|anime|recipe|listing|business|place|joke|parentasin",
}
"""Role → what its column is usually called, without an ending such as ``_id``."""
ENDINGS = r"(id|ids|key|no|num|number|code|pseudoid)?"
TYPED_VALUES = 2_000
"""Values of a column that its type is told by."""
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EXCEL_DAYS = (30_000, 80_000)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class ColumnInfo:
    """One column of a sample: its type in words, the number of its empty cells, and three of its values."""

    name: str
    type: str
    empty: int
    examples: list[str]


@dataclass(frozen=True)
class Mapping:
    """How the columns make a rating.

    Attributes
    ----------
    roles : role → column
    guessed : whether names told nothing, and the order of the columns was taken
    id_types : of users and items
    timestamps : value of ``ingest.timestamps``
    earliest : value of ``ingest.earliest``, where numbers are before 1970
    span : first and last time
    events : types of events
    scale : smallest and largest rating, of a usual scale
    """

    roles: dict[str, str]
    guessed: bool
    id_types: dict[str, str]
    timestamps: str = "auto"
    earliest: date | None = None
    span: tuple[datetime, datetime] | None = None
    events: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None


def describe(sample: Sample) -> list[ColumnInfo]:
    """What each column holds.

    Parameters
    ----------
    sample : Sample
        Its rows.
    """
    return [_info(name, _values(sample, at), sample) for at, name in enumerate(sample.names)]


def find_roles(sample: Sample) -> Mapping:
    """Which columns look like user, item, rating or event, and time.

    Parameters
    ----------
    sample : Sample
        Its rows.
    """
    columns = {name: _values(sample, at) for at, name in enumerate(sample.names)}
    kinds = {name: _info(name, values, sample).type for name, values in columns.items()}
    roles: dict[str, str] = {}
    for role, pattern in NAMES.items():
        wanted = {TIMESTAMP: ("time", "whole number", "number"), RATING: ("whole number", "number")}.get(role)
        for name in columns:
            bare = re.sub(r"[^a-z]", "", name.rpartition(".")[2].casefold() or name.casefold())
            whole = re.sub(r"[^a-z]", "", name.casefold())
            fits = any(re.fullmatch(f"({pattern}){ENDINGS}", text) for text in (bare, whole))
            if fits and name not in roles.values() and (wanted is None or kinds[name] in wanted):
                roles.setdefault(role, name)
    if EVENT in roles and (RATING in roles or kinds[roles[EVENT]] != "text"):
        del roles[EVENT]
    guessed = USER not in roles or ITEM not in roles
    if guessed:
        _by_content(columns, kinds, roles)
    return _mapping(columns, roles, guessed, sample)


def rejections(sample: Sample, mapping: Mapping) -> dict[str, list[Row]]:
    """Reason → rows of the sample that ingest would reject; the reasons are those of the night.

    Parameters
    ----------
    sample : Sample
        Its rows.
    mapping : Mapping
        How they are read.
    """
    found: dict[str, list[Row]] = {}
    for row in sample.rows:
        reason = row.fault or _reason(dict(zip(sample.names, row.values, strict=True)), sample, mapping)
        if reason is not None:
            found.setdefault(reason, []).append(row)
    return found


def _values(sample: Sample, at: int) -> list[Any]:
    return [row.values[at] for row in sample.rows if row.fault is None]


def _info(name: str, values: Sequence[Any], sample: Sample) -> ColumnInfo:
    given = [value for value in values if value is not None]
    looked_at = given[:TYPED_VALUES]
    counted = Counter(_type_of(value, sample) for value in looked_at)
    if counted["number"]:
        counted["number"] += counted.pop("whole number", 0)
    examples = list(dict.fromkeys(str(value) for value in given[:200]))[:3]
    # a few odd cells do not make a column of numbers one of texts
    kind, most = counted.most_common(1)[0] if counted else ("empty", 0)
    if looked_at and most <= len(looked_at) / 2:
        kind = "text" if all(isinstance(value, str) for value in looked_at) else "mixed"
    return ColumnInfo(name, kind, len(values) - len(given), examples)


def _type_of(value: Any, sample: Sample) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, date | datetime):
        return "time"
    if isinstance(value, list | dict):
        return "list"
    if isinstance(value, int | float | Decimal):
        return "whole number" if value == value // 1 else "number"
    text = str(value)
    # in JSON and Parquet a text is a text
    if sample.dialect is not None and is_number(text):
        number = _number(text, sample)
        return "text" if number is None else "whole number" if number == number // 1 else "number"
    return "time" if not is_number(text) and _time(text, "auto", sample) is not None else "text"


def _by_content(columns: dict[str, list[Any]], kinds: dict[str, str], roles: dict[str, str]) -> None:
    """Roles of columns whose names tell nothing: times and few numbers by their look, ids by their order."""
    free = [name for name in columns if name not in roles.values() and kinds[name] not in ("list", "empty")]
    if TIMESTAMP not in roles:
        times = [name for name in free if kinds[name] == "time" or _all_epochs(columns[name])]
        roles |= {TIMESTAMP: times[0]} if times else {}
    ids = [name for name in free if name not in roles.values()]
    if RATING not in roles and EVENT not in roles:
        few = [name for name in ids[1:] if "number" in kinds[name] and len(set(columns[name])) <= 21]
        if few and len(ids) > 2:
            roles[RATING] = few[-1]
            ids.remove(few[-1])
    for role in (USER, ITEM):
        if role not in roles and (left := [name for name in ids if name not in roles.values()]):
            roles[role] = left[0]


def _all_epochs(values: Sequence[Any]) -> bool:
    numbers = [
        float(value)
        for value in values
        if value is not None and is_number(str(value)) and "," not in str(value)
    ]
    return bool(numbers) and len(numbers) > len(values) / 2 and all(abs(number) > 10**8 for number in numbers)


def _mapping(columns: dict[str, list[Any]], roles: dict[str, str], guessed: bool, sample: Sample) -> Mapping:
    id_types: dict[str, str] = {
        role: _id_type(columns[roles[role]], sample) for role in (USER, ITEM) if role in roles
    }
    timestamps, earliest, span = "auto", None, None
    if TIMESTAMP in roles:
        values = [value for value in columns[roles[TIMESTAMP]] if value is not None]
        numbers = [number for value in values if (number := _number(value, sample)) is not None]
        days = [EXCEL_DAYS[0] <= number <= EXCEL_DAYS[1] for number in numbers]
        timestamps = "excel" if sum(days) > len(values) / 2 else "auto"
        times = [time for value in values if (time := _time(value, timestamps, sample)) is not None]
        span = (min(times), max(times)) if times else None
        early = sum(number < 0 for number in numbers)
        if span is not None and early > len(values) / 10:
            earliest = span[0].date()
    events: tuple[str, ...] = ()
    if EVENT in roles:
        events = tuple(sorted({str(value) for value in columns[roles[EVENT]] if value is not None}))
    scale = None
    if RATING in roles:
        given = [_number(value, sample) for value in columns[roles[RATING]]]
        numbers = [number for number in given if number is not None]
        scale = _scale(numbers)
    return Mapping(roles, guessed, id_types, timestamps, earliest, span, events, scale)


def _scale(numbers: Sequence[float]) -> tuple[float, float] | None:
    """The usual scale that nearly all ratings are on, or None."""
    for low, high in ((1, 5), (0.5, 5), (1, 10), (0.5, 10)):
        on_it = [number for number in numbers if number * 2 % 1 == 0 and low <= number <= high]
        halves = any(number % 1 for number in on_it)
        if len(on_it) > 0.9 * len(numbers) and max(on_it) > high / 2 + 1 and halves == (low == 0.5):
            return low, high
    return None


def _id_type(values: Sequence[Any], sample: Sample) -> str:
    given = [value for value in values if value is not None]
    numbers = [_number(value, sample) for value in given]
    zeros = any(isinstance(value, str) and re.match(r"\s*[+-]?0\d", value) for value in given)
    texts = sample.dialect is None and any(isinstance(value, str) for value in given)
    whole = [number for number in numbers if number is not None and number == number // 1]
    if not given or zeros or texts or len(whole) < len(given):
        return "string"
    return "integer" if max(map(abs, whole)) < 2**31 else "long"


def _reason(cells: dict[str, Any], sample: Sample, mapping: Mapping) -> str | None:
    roles = mapping.roles
    mapped = [cells[name] for name in roles.values()]
    if any(isinstance(value, str) and _CONTROLS.search(value) for value in mapped):
        return "control_characters"
    ids = {role: cells[roles[role]] for role in (USER, ITEM) if role in roles}
    for role, value in ids.items():
        if value is None or not str(value).strip():
            return f"missing_{role}"
    if any(len(str(value)) > MAX_ID_LENGTH for value in ids.values()):
        return "id_too_long"
    for role, value in ids.items():
        if not _is_id(value, mapping.id_types[role], sample):
            return f"unparsable_{role}"
    rating = _number(cells[roles[RATING]], sample) if RATING in roles else 1.0
    if rating is None:
        return "unparsable_rating"
    if EVENT in roles and cells[roles[EVENT]] is None:
        return "unparsable_event"
    time = _time(cells[roles[TIMESTAMP]], mapping.timestamps, sample) if TIMESTAMP in roles else _EPOCH
    if time is None:
        return "unparsable_timestamp"
    if not math.isfinite(rating):
        return "not_finite_rating"
    if RATING in roles and mapping.scale and not mapping.scale[0] <= rating <= mapping.scale[1]:
        return "rating_out_of_scale"
    if time >= datetime.now(UTC) + timedelta(days=1):
        return "timestamp_in_future"
    counted = TIMESTAMP in roles and _number(cells[roles[TIMESTAMP]], sample) is not None
    start = datetime.combine(mapping.earliest, datetime.min.time(), UTC) if mapping.earliest else _EPOCH
    return "timestamp_before_start" if time < start and (counted or mapping.earliest) else None


def _is_id(value: Any, wanted: str, sample: Sample) -> bool:
    if isinstance(value, bool | list | dict | date):
        return False
    number = _number(value, sample)
    if wanted != "string":
        return number is not None and number == number // 1
    if isinstance(value, str):
        written = value.strip()
        fraction = re.fullmatch(r"[+-]?\d*\.\d+", written) and len(written) <= 19
        return sample.dialect is None or not fraction or float(written) == float(written) // 1
    # of Parquet: bytes are read as text; other types are no ids
    return isinstance(value, bytes) or (isinstance(value, int | float | Decimal) and value == value // 1)


def _number(value: Any, sample: Sample) -> float | None:
    if isinstance(value, bool) or value is None or isinstance(value, list | dict | date):
        return None
    text = str(value).strip()
    if isinstance(value, str) and sample.dialect is not None and sample.dialect.decimal == ",":
        text = text.replace(",", ".") if "." not in text else ""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", text, re.IGNORECASE):
        return None
    try:
        return float(Decimal(text))
    except InvalidOperation:
        return None


def _time(value: Any, form: str, sample: Sample) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    number = _number(value, sample)
    try:
        if number is None:
            told = datetime.fromisoformat(str(value).strip()) if value is not None else None
            return told if told is None or told.tzinfo else told.replace(tzinfo=UTC)
        if form == "excel":
            return _EPOCH + timedelta(days=number - 25_569)
        if EXCEL_DAYS[0] <= number <= EXCEL_DAYS[1]:
            return None
        digits = str(int(number))
        form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits), "")
        if form and re.match(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", digits):
            return datetime.strptime(digits, form).replace(tzinfo=UTC)
        for size in UNITS.values():
            if -2.3e9 * size <= number < 1e11 * size:
                return _EPOCH + timedelta(seconds=number / size)
    except (ValueError, OverflowError):
        pass
    return None
