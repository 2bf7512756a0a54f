"""What users consume again: events before and after the times at which a split's parts begin.

A pair of user and item has one row among ratings, and so is in one part of a split. Where lists may hold what
was consumed before, such as music, its earlier events are known, and its later ones are what a list should
have found: so parts are then cut between events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.schema import EVENT, ITEM, PART, RATING, TEST, TIMESTAMP, TRAIN, USER, VALIDATION

BEGINS = {VALIDATION: "validation_begins", TEST: "test_begins"}
"""Part → the column of the time at which it begins."""


LeftOut = Callable[[DataFrame, Column], DataFrame | None]
"""Events before a time, and that time → the pairs, ``user``, ``item``, that a list made then does not hold;
None for none.
"""


def nothing_left_out(events: DataFrame, begins: Column) -> None:
    """Lists may hold whatever was consumed.

    Parameters
    ----------
    events : DataFrame
        Of any kind.
    begins : Column
        When lists are made.
    """


def leaving_out(types: bool | Sequence[str], days: int | None) -> LeftOut:
    """Lists do not hold what was seen.

    Parameters
    ----------
    types : bool or sequence of str
        Types of the events that count as seeing, or whether all do.
    days : int, optional
        How long it must be ago to be listed again; without it forever.
    """
    if types is False:
        return nothing_left_out

    def seen(events: DataFrame, begins: Column) -> DataFrame:
        if not isinstance(types, bool):
            events = events.where(F.col(EVENT).isin(*types))
        if days is not None:
            events = events.where(F.col(TIMESTAMP) >= begins - F.make_dt_interval(F.lit(days)))
        return events.select(USER, ITEM).distinct()

    return seen


@dataclass(frozen=True)
class Consumption:
    """Events, and what is made of them at any time.

    Parameters
    ----------
    events : DataFrame
        One row per event: ``user``, ``item``, ``timestamp``, and what the functions read.
    rated : callable
        Some of the events → one row per pair of theirs that is worth something: ``user``, ``item``,
        ``rating``, ``timestamp``, that of the last event.
    left_out : callable
        What lists do not hold.
    """

    events: DataFrame
    rated: Callable[[DataFrame], DataFrame]
    left_out: LeftOut

    @classmethod
    def of_rows(cls, events: DataFrame) -> Consumption:
        """Events of which a pair's rating is the sum, and after which all may be listed again.

        Parameters
        ----------
        events : DataFrame
            ``user``, ``item``, ``rating``, ``timestamp``.
        """
        sums = F.sum(RATING).alias(RATING), F.max(TIMESTAMP).alias(TIMESTAMP)
        return cls(events, lambda some: some.groupBy(USER, ITEM).agg(*sums), nothing_left_out)

    def divided(self, parts: DataFrame, by_user: bool) -> Consumption:
        """The same, with events that know when parts begin.

        Parameters
        ----------
        parts : DataFrame
            As :func:`with_beginnings` takes them.
        by_user : bool
            As there.
        """
        return replace(self, events=with_beginnings(self.events, parts, by_user))

    def before(self, part: str) -> Consumption:
        """What is known when a part begins; of :meth:`divided` events.

        Parameters
        ----------
        part : str
            ``validation`` or ``test``.
        """
        return replace(self, events=self.events.where(before(part)))

    def seen_before(self, part: str) -> DataFrame | None:
        """What a list does not hold that is made when a part begins; of :meth:`divided` events.

        Parameters
        ----------
        part : str
            ``validation`` or ``test``.
        """
        return self.left_out(self.before(part).events, F.col(BEGINS[part]))

    def in_parts(self, *held_out: str) -> DataFrame:
        """Pairs by the parts in which they have events; of :meth:`divided` events.

        Parameters
        ----------
        *held_out : str
            Parts after ``train``, in their order.

        Returns
        -------
        DataFrame
            One row per (pair, part): ``user``, ``item``, ``rating``, ``timestamp``, of the part's events, and
            ``part``. Of what is held out only that which a list could have held.
        """
        rows = self.rated(self.before(held_out[0]).events).withColumn(PART, F.lit(TRAIN))
        for place, part in enumerate(held_out):
            events = self.events.where(~before(part))
            for following in held_out[place + 1 :]:
                events = events.where(before(following))
            of_part, seen = self.rated(events), self.seen_before(part)
            if seen is not None:
                of_part = of_part.join(seen, [USER, ITEM], "left_anti")
            rows = rows.unionByName(of_part.withColumn(PART, F.lit(part)))
        return rows


def with_beginnings(events: DataFrame, parts: DataFrame, by_user: bool) -> DataFrame:
    """Events beside the times at which the held-out parts begin: those of the first pair of a part that is
    consumed for the last time.

    Parameters
    ----------
    events : DataFrame
        ``user``, ``timestamp``, and anything else.
    parts : DataFrame
        Pairs as :func:`~recsys_spark.data.split.split_ratings` marks them: ``user``, ``timestamp``, ``part``.
    by_user : bool
        Whether each user's parts begin at times of its own. Otherwise those of all do: a job finds them.

    Returns
    -------
    DataFrame
        The events with the columns of :data:`BEGINS`, timestamps: null where there is no such part.

    Examples
    --------
    >>> from recsys_spark.data.repeats import before, with_beginnings
    >>> rows = [("ann", "tea", 1), ("ann", "jam", 2), ("ann", "tea", 3)]
    >>> events = spark.createDataFrame(rows, "user string, item string, at int")
    >>> events = events.selectExpr("user", "item", "timestamp_seconds(at) AS timestamp")
    >>> pairs = [("ann", "jam", 2, "validation"), ("ann", "tea", 3, "test")]
    >>> parts = spark.createDataFrame(pairs, "user string, item string, at int, part string")
    >>> parts = parts.selectExpr("user", "timestamp_seconds(at) AS timestamp", "part")
    >>> known = with_beginnings(events, parts, by_user=True).where(before("test"))
    >>> [row.item for row in known.orderBy("timestamp").collect()]
    ['tea', 'jam']
    """
    events = events.drop(*BEGINS.values())  # of an outer division
    first = {name: F.min(F.when(F.col(PART) == part, F.col(TIMESTAMP))) for part, name in BEGINS.items()}
    # who has rows of test alone, has none that come before them
    first[BEGINS[VALIDATION]] = F.least(first[BEGINS[VALIDATION]], first[BEGINS[TEST]])
    columns = [column.alias(name) for name, column in first.items()]
    if by_user:
        return events.join(parts.groupBy(USER).agg(*columns), USER, "left")
    row = parts.agg(*(F.unix_micros(column).alias(name) for name, column in first.items())).collect()[0]
    begin = {name: F.timestamp_micros(F.lit(row[name]).cast("bigint")) for name in first}
    return events.withColumns(begin)


def before(part: str) -> Column:
    """Condition over events of :func:`with_beginnings`: what is known when a part begins.

    Parameters
    ----------
    part : str
        ``validation`` or ``test``.
    """
    at, begins = F.col(TIMESTAMP), F.col(BEGINS[part])
    return at.isNull() | begins.isNull() | (at < begins)
