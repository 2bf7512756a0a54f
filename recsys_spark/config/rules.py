"""Who gets lists, and what may be in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from recsys_spark.config.section import Count, Section

Condition = Annotated[str, Field(min_length=1)]


def _several(given: Any) -> Any:
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


class Listed(Section):
    """A file or table of users, of items, or of both; read anew each night."""

    path: str = Field(min_length=1)
    """File, folder or glob."""
    format: Literal["csv", "json", "parquet", "delta"] = "csv"
    """Format of the files or the table; csv has commas and a header."""
    user: str | None = None
    """Column of user ids; without it rows are for everybody."""
    item: str | None = None
    """Column of item ids."""
    segment: dict[str, str] = Field(default_factory=dict)
    """Column of the table ``users`` → that of the file with the same values, such as ``{ country: land }``: a
    row of ``allow`` or ``deny`` is for all users who have its values.
    """

    @property
    def columns(self) -> dict[str, str]:
        """Role → column."""
        return {role: name for role, name in (("user", self.user), ("item", self.item)) if name is not None}


Tables = Annotated[list[Listed], BeforeValidator(_several)]
"""Tables of one purpose; where the configuration has one mapping, this alone."""


class UserRules(Section):
    """Who gets a list; the others have none, and cost nothing."""

    where: Condition | None = None
    """SQL condition over the columns of the table ``users`` and ``run_date``, such as ``country = 'NL'``: who
    gets a list is whom it is true for, which it is for nobody without a row there.
    """
    active_days: Count | None = None
    """Who has a rating or an event of so many days, the run date the last of them."""
    table: Listed | None = None
    """Who is in this table; with ``user``."""
    new: bool = False
    """Whether people who are in the table ``users`` and have rated nothing yet get a list too: of a model
    that knows people by their features, or else of popular items.
    """

    @model_validator(mode="after")
    def _of_users(self) -> Self:
        table = self.table
        if table is not None and (table.user is None or table.item is not None or table.segment):
            raise ValueError("table lists users: give its column user, and no item and no segment")
        return self


class Boost(Section):
    """Items that come earlier, or later."""

    where: Condition
    """SQL condition over the columns of the table ``items``, ``run_date``, ``ratings``, how often the item is
    rated, and ``head``, whether it is among the most rated fifth.
    """
    by: Annotated[float, Field(ge=-1, le=1)]
    """What is added to the relevance, which is 1 for the first candidate and 0 for the last: below 0 to bury
    them.
    """


class Floor(Section):
    """Items that a list has at least some of, such as a promotion, or those that are seldom rated."""

    where: Condition
    """SQL condition, as of a boost."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the slots, rounded up to a whole number: the last ones, where scores do not give as much."""


class Rerank(Section):
    """How lists are chosen from more candidates than they have room for."""

    candidates: Count = 100
    """The best so many by the model's score, of which ``n`` are shown."""
    diversity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of how like an item is to one that is in the list already, against its score: 0 for none."""
    calibration: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of how far the list's values are from those of the user's history, against its score."""
    by: str = Field("genres", min_length=1)
    """Column of the table ``items`` whose values, one or several, make items alike, and histories."""
    caps: dict[str, Count] = Field({})
    """Column of ``items`` → how many items of a list may share a value of it; more only where nothing else is
    left of the candidates.
    """
    boosts: list[Boost] = Field([])
    """Items that come earlier, or later."""
    floors: list[Floor] = Field([])
    """Items that a list has at least some of; fewer only where the candidates have no more."""

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        if not (self.diversity or self.calibration or self.caps or self.boosts or self.floors):
            raise ValueError("give one of diversity, calibration, caps, boosts and floors")
        if self.diversity + self.calibration >= 1:
            raise ValueError("diversity and calibration together must be below 1")
        for name in ("boosts", "floors"):
            conditions = [one.where for one in getattr(self, name)]
            if len(set(conditions)) < len(conditions):
                raise ValueError(f"{name} has a condition twice")
        if sum(floor.share for floor in self.floors) > 1:
            raise ValueError("the shares of floors must add up to at most 1")
        return self


class Slot(Section):
    """Ranks of every list that are not the model's to fill: pinned, or drawn."""

    ranks: Annotated[list[Count], Field(min_length=1)]
    """Which, from 1."""
    where: Condition | None = None
    """SQL condition, as of a boost: the items that they show, those that are rated most first. Items that
    have never been rated are among them where it is true of them.
    """
    draw: bool = False
    """Draw the item: from those of the condition, or without one from the best of the model; the item that
    the list would have there is always among what is drawn from.
    """
    rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With ``draw``, the share of lists in which it is drawn; in the others the slot is as it would be."""
    candidates: Count = 100
    """With ``draw``, how many items it is drawn from, at most."""

    @model_validator(mode="after")
    def _gives_away(self) -> Self:
        if self.where is None and not self.draw:
            raise ValueError("give a condition where, or draw, or both")
        if not self.draw and self.model_fields_set & {"rate", "candidates"}:
            raise ValueError("rate and candidates are of slots that are drawn: set draw, or leave them out")
        return self


class ItemRules(Section):
    """What lists may hold. Lists are as long as ever, as the best of what is left are taken."""

    where: Condition | None = None
    """SQL condition over the columns of the table ``items`` and ``run_date``, such as ``stock > 0 AND
    available_from <= run_date``: an item is listed, or named as similar, where it is true, which it is of no
    item without a row there.
    """
    for_user: Condition | None = None
    """SQL condition over ``item.<column>`` of ``items``, ``user.<column>`` of ``users`` and ``run_date``,
    such as ``item.minimum_age <= user.age``: a user is shown an item where it is true. The columns of users
    that it names may have at most 1,000 different sets of values.
    """
    allow: Tables = Field([])
    """Nothing else is listed; with ``user`` or ``segment``, nothing else for the users who are there. One
    table, or a list of them, all of which hold; at most one with ``user``.
    """
    deny: Tables = Field([])
    """Never listed; with ``user`` or ``segment``, never for that user or those users. One table, or a list
    of them.
    """
    not_again_days: Count | None = None
    """What was listed to a user by lists of so many days before that were served is not listed again."""

    @model_validator(mode="after")
    def _of_items(self) -> Self:
        for name in ("allow", "deny"):
            for table in getattr(self, name):
                if table.item is None:
                    raise ValueError(f"{name} lists items: give its column item")
                if table.user is not None and table.segment:
                    raise ValueError(f"{name} is for single users or for segments: give user or segment")
        if sum(table.user is not None for table in self.allow) > 1:
            raise ValueError("allow has one table with user at most: put them into one")
        return self

    def tables(self) -> dict[str, Listed]:
        """Key, such as ``deny``, or of several ``deny.0``, → table."""
        found: dict[str, Listed] = {}
        for name, tables in (("allow", self.allow), ("deny", self.deny)):
            keys = [name] if len(tables) == 1 else [f"{name}.{place}" for place in range(len(tables))]
            found |= dict(zip(keys, tables, strict=True))
        return found
