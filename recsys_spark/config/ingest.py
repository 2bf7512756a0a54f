"""The section ``ingest``: what comes in, from where, and which rows are rejected."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys_spark.config.section import Count, Fraction, Section
from recsys_spark.schema import RESERVED_FEATURES, USUAL_FEATURES, FeatureType, IdType


class Columns(Section):
    """Names, in the source, of the columns of a rating."""

    user: str = "user"
    """Column of user ids; outside text files, ``user.id`` may be the field ``id`` of the column ``user``."""
    item: str = "item"
    """Column of item ids."""
    rating: str | None = None
    """Column of ratings; without it rows are events."""
    timestamp: str | None = None
    """Column of timestamps; without it rows have none."""
    event: str | None = None
    """Column of event types, whose weights are in ``ingest.events.weights``; instead of ``rating``."""

    @model_validator(mode="after")
    def _rating_or_event(self) -> Self:
        if self.rating is not None and self.event is not None:
            raise ValueError("map a rating or an event, not both")
        given = self.given()
        if len(set(given.values())) < len(given):
            raise ValueError("two roles are mapped to the same column")
        return self

    def given(self) -> dict[str, str]:
        """Role → source column, of those that are mapped."""
        return {role: name for role, name in self if name is not None}


class Delimited(Section):
    """How the lines of a text file divide into fields."""

    delimiter: str = Field(",", min_length=1)
    """One or more characters between fields."""
    quote: str = Field('"', max_length=1)
    """Quoting character, doubled inside a quoted field; empty for none."""
    escape: str = Field("", max_length=1)
    """Character before a quote inside a quoted field, and before itself, as the backslash is in files that
    Spark writes; with an empty ``quote``, before delimiters too, as in exports of databases. Empty for none:
    quotes are doubled.
    """
    decimal: Literal[".", ","] = "."
    """What divides a number's fraction."""
    header: bool = True
    """Whether each file begins with a line of column names; without it give ``names``."""
    names: list[str] | None = None
    """Column names in file order, when there is no header line."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """Encoding of the files; latin-1 is read as Windows' superset of it, cp1252."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.quote in self.delimiter and self.quote:
            raise ValueError("delimiter and quote must differ")
        if self.quote == "\\" or "\\" in self.delimiter:
            raise ValueError('a backslash can neither delimit nor quote; a tab is "\\t" in double quotes')
        if self.escape and (self.escape in self.delimiter or self.escape == self.quote):
            raise ValueError("escape must differ from delimiter and quote; doubled quotes need no escape")
        if self.header == (self.names is not None):
            raise ValueError("give names exactly when header is false")
        if self.names is not None and len(set(self.names)) < len(self.names):
            raise ValueError("names holds a column twice")
        return self


class SideTable(Section):
    """Features of users or items in a file or table of their own."""

    path: str = Field(min_length=1)
    """File, folder or glob; files in sub-folders are read too."""
    format: Literal["csv", "json", "parquet", "delta"] = "csv"
    """Format of the files or the table."""
    text: Delimited = Delimited()
    """How lines divide into fields, for csv."""
    id: str
    """Source column that holds the id."""
    columns: dict[Annotated[str, Field(pattern=r"^[^\W\d]\w*$")], str] = Field({})
    """Feature → source column: any features, under names of your own. Two names are roles: ``title`` is what
    is shown, and the diversity of lists is that of their items' ``genres``.
    """
    types: dict[str, FeatureType] = Field({})
    """Feature → its type. Without it ``genres`` is an array, ``year`` and ``age`` are whole numbers, and all
    others what their columns are: in text files and JSON text.
    """
    list_separator: str = Field("|", min_length=1)
    """Separator of the entries of an array in one field of text; numbers may have commas or blanks too."""

    @model_validator(mode="after")
    def _features(self) -> Self:
        taken = {name.casefold() for name in RESERVED_FEATURES}
        for name in self.columns:
            if name.casefold() in taken:
                raise ValueError(f"columns has {name!r} twice, but for capitals, or the tables need the name")
            taken.add(name.casefold())
        for name, kind in self.types.items():
            if name not in self.columns:
                raise ValueError(f"types names {name!r}, which is not among columns")
            if name in ("title", "genres") and kind != USUAL_FEATURES[name]:
                raise ValueError(f"{name} is always {USUAL_FEATURES[name]}: give {kind} another name")
        return self

    @property
    def features(self) -> list[str]:
        """Names of the features; a title tells the ``year``."""
        names = list(self.columns)
        return [*names, "year"] if "title" in names and "year" not in names else names


class SyntheticSource(Section):
    """The built-in data set: latent tastes, genres, a power-law catalogue; made by Spark, the same for a
    seed.
    """

    format: Literal["synthetic"]
    """The built-in data set."""
    ratings: Annotated[int, Field(ge=1_000, le=1_000_000_000)] = 100_000
    """How many ratings, about so many beyond 131,072 users; users and items follow from it."""
    users: Count | None = None
    """Number of users; as in MovieLens when absent."""
    items: Annotated[int, Field(ge=18)] | None = None
    """Number of items, at least one of each of 18 genres; as in MovieLens when absent."""


class MovieLensSource(Section):
    """A MovieLens release as published: the folder, a folder that holds it, or the zip."""

    format: Literal["movielens"]
    """A MovieLens release."""
    path: str = Field(min_length=1)
    """The folder, a folder that holds it, or the zip."""


class FileSource(Section):
    """Delimited text, JSON lines, Parquet or Delta of any column names."""

    format: Literal["csv", "json", "parquet", "delta"]
    """Format of the files or the table; json has one object a line."""
    path: str = Field(min_length=1)
    """File, folder or glob; files in sub-folders are read too."""
    columns: Columns = Columns()
    """Role: name of the column in the source."""
    text: Delimited = Delimited()
    """How lines divide into fields, for csv."""
    user_type: IdType = "string"
    """Type of user ids in all tables."""
    item_type: IdType = "string"
    """Type of item ids in all tables."""
    users: SideTable | None = None
    """Features of users."""
    items: SideTable | None = None
    """Features of items, for titles and for the diversity of lists."""


SOURCE_TYPES: dict[str, type[Section]] = {
    "synthetic": SyntheticSource,
    "movielens": MovieLensSource,
    **dict.fromkeys(("csv", "json", "parquet", "delta"), FileSource),
}
"""Value of ``ingest.source.format`` → the section's type."""


class Events(Section):
    """What a pair's events are worth, where the source has events: rows without a rating. The table
    ``events`` keeps them all, and ``ratings`` has the worth of each pair as of the run date.
    """

    weights: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field({})
    """Event type → weight; rows of any other type are rejected. A type that takes another back, as a return
    does a purchase, has the other's weight with a minus. Needs ``columns.event``, without which every event
    weighs 1.
    """
    combine: Literal["sum", "max", "latest", "count"] = "sum"
    """``sum`` of the weights; ``max``, the largest of a type that was not taken back; ``latest``, that of the
    last event; ``count`` of the events, less those that take back.
    """
    half_life: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Days in which an event's weight halves; without it events stay as they are."""
    window: Count | None = None
    """Only the events of so many days, the run date the last of them, are worth something; without it
    all are.
    """
    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The most that a pair is worth."""

    @model_validator(mode="after")
    def _takes_back(self) -> Self:
        weights = self.weights.values()
        if self.weights and max(weights) <= 0:
            raise ValueError("at least one weight must be above 0")
        if 0.0 in weights:
            raise ValueError("a weight of 0 says nothing: leave the type's rows out, or weigh them")
        lonely = [name for name, weight in self.weights.items() if weight < 0 and -weight not in weights]
        if self.combine == "max" and lonely:
            raise ValueError(
                f"with combine: max the type {lonely[0]!r} must have the weight of the type that it takes "
                "back, with a minus"
            )
        return self


class Ingest(Section):
    """What comes in, and which rows are rejected."""

    source: Annotated[SyntheticSource | MovieLensSource | FileSource, Field(discriminator="format")]
    """Where the interactions come from."""
    timestamps: Literal[
        "auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "excel", "iso8601"
    ] = "auto"
    """``auto`` tells the unit of numbers since 1970 by their size, and reads ``20240131``, ``20240131101500``
    and ISO 8601; numbers from 30,000 to 80,000, which may be Excel's days, are rejected. Times without a zone
    are UTC.
    """
    events: Events = Events()
    """What a pair's events are worth."""
    scale: list[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(None, min_length=2, max_length=2)
    """``[smallest, largest]`` allowed rating."""
    earliest: date | None = None
    """Ratings before this day (UTC) are rejected, by default numbers before 1970; those after the run date
    always are.
    """
    max_rejected_fraction: Fraction = 0.05
    """Above this fraction of rejected rows the step fails before it writes anything else."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        columns = self.source.columns if isinstance(self.source, FileSource) else None
        mapped = columns is not None and columns.event is not None
        if mapped != bool(self.events.weights):
            raise ValueError("events.weights (type: weight) and source.columns.event belong together")
        if self.events != Events() and not self.has_events:
            raise ValueError("events is for sources without ratings")
        timed = columns is not None and columns.timestamp is not None
        if not timed and (self.events.half_life or self.events.window or self.events.combine == "latest"):
            raise ValueError("events.half_life, window and combine: latest need source.columns.timestamp")
        if self.has_events and self.scale is not None:
            raise ValueError("scale is for ratings, and the source has events: events.cap bounds their worth")
        return self

    @property
    def id_types(self) -> tuple[IdType, IdType]:
        """Types of user and item ids that the source has."""
        if isinstance(self.source, FileSource):
            return self.source.user_type, self.source.item_type
        return "integer", "integer"

    @property
    def has_timestamps(self) -> bool:
        """Whether the source says when."""
        return not isinstance(self.source, FileSource) or self.source.columns.timestamp is not None

    @property
    def has_events(self) -> bool:
        """Whether the source has events, or neither ratings nor events: then a row is an event, and a rating
        is what a pair's events are worth, not an opinion.
        """
        return isinstance(self.source, FileSource) and self.source.columns.rating is None
