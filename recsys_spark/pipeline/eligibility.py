"""Who gets lists and what may be in them, by the configuration's ``recommend.users`` and ``recommend.items``.

What the rules leave is asked of the engine, so that lists are no shorter for them; that no list breaks one is
checked afterwards, by queries that know nothing of groups and masks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_, or_
from typing import cast

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import quoted
from recsys_spark.config import Listed, config_problem
from recsys_spark.data.cleaning import HEADER_LINE, clean_ids
from recsys_spark.data.features import feature, is_given
from recsys_spark.data.sources import read_cells
from recsys_spark.errors import ConfigError, PublishError, SourceError, summary
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.served import served_before
from recsys_spark.recommend.top_n import GROUP, GroupRules, ListRequest
from recsys_spark.schema import ITEM, REASON, USER, FeatureType

MAX_GROUPS = 1_000
"""How many different sets of values the columns may have by which users are told apart."""

RULE = "rule_"
"""How counts of the ledger begin that say what rules leave or leave out."""

_RUN_DATE, _NUMBER = "run_date", "number of the group"
_USERS, _ITEMS = "recommend.users", "recommend.items"


@dataclass(frozen=True)
class Rules:
    """The configured rules over this night's tables.

    Attributes
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.
    record : StepRecord
        What the step says of itself: versions that are read, and counts, are added.
    """

    night: Night
    record: StepRecord

    def require(self) -> None:
        """Check that the conditions can be asked of the tables, and that the files can be read.

        Raises
        ------
        ConfigError
            A condition names an unknown column, or is none, or tells too many groups of users apart.
        SourceError
            A file or table is not there, lacks a column, or has a row without an id.
        """
        users, condition = self.night.config.recommend.users, self.night.config.recommend.items.for_user
        self._require_exact()
        try:  # a condition that reads a number in a text fails on the row where there is none
            if users.where is not None:
                self._where(f"{_USERS}.where", "users", users.where).count()
            if users.table is not None:
                self._read(f"{_USERS}.table", users.table)
            for _, rows in self._tables().values():
                rows.count()
            for key, table in self._of_segments().items():
                self._read(f"{_ITEMS}.{key}", table)
            groups = self._groups()
            if groups is not None and condition is not None:
                self._asked(groups, condition).count()
        except PySparkException as error:
            raise ConfigError(
                f"{self.night.config.origin}: a condition of recommend.users or recommend.items cannot be "
                f"asked of every row: {summary(error)}"
            ) from None

    def _require_exact(self) -> None:
        """An index of items cannot be searched for what some users alone may be shown."""
        items, params = self.night.config.recommend.items, self.night.config.params
        of_users = any(table.user is not None for table in items.allow)
        if items.for_user is None and not of_users and not self._of_segments():
            return
        for name in self.night.config.models:
            if params.get(name, {}).get("retrieval", "exact") != "exact":
                allowed = "exact, where recommend.items has for_user, allow with user, or a segment"
                raise ConfigError(self._problem(f"{name}.retrieval", params[name]["retrieval"], allowed))

    def users(self) -> DataFrame:
        """``user``, unique: who gets a list."""
        users, rules = self._everybody(), self._rules_of_users()
        if not rules:
            return users
        for rule, those in rules.items():
            users = users.join(those.select(USER).distinct().withColumn(rule, F.lit(True)), USER, "left")
        users = users.localCheckpoint()  # all rules are asked once
        left_out = {f"users_{rule}_left_out": F.col(rule).isNull() for rule in rules}
        left_out["users_left_out"] = reduce(or_, left_out.values())
        (counts,) = users.agg(*(F.count_if(out).alias(name) for name, out in left_out.items())).collect()
        self.record.counts |= {f"{RULE}{name}": count for name, count in counts.asDict().items()}
        return users.where(~left_out["users_left_out"]).select(USER)

    def request(self, request: ListRequest) -> ListRequest:
        """The same request for what the rules leave.

        Parameters
        ----------
        request : ListRequest
            Of lists.

        Raises
        ------
        ConfigError, SourceError
            As of :meth:`require`.
        """
        tables = {key: (what, rows.localCheckpoint()) for key, (what, rows) in self._tables().items()}
        self.record.counts |= {
            f"{RULE}items_{key.replace('.', '_')}_{what}": rows.count()
            for key, (what, rows) in tables.items()
        }
        # every list, shelf and check reads them
        given = {what: rows.localCheckpoint() for what, rows in _together(tables.values()).items()}
        groups = self._groups()
        rules = None if groups is None else self._group_rules(groups)
        return replace(request, group_rules=rules, **given)  # type: ignore[arg-type]

    def check(self, rows: DataFrame) -> None:
        """Check that no list breaks a rule, each by a query of its own.

        Parameters
        ----------
        rows : DataFrame
            ``user``, ``item``: of all lists.

        Raises
        ------
        PublishError
            Rows break a rule.
        """
        for key, number in self.broken(rows).items():
            if number:
                raise PublishError(f"{number:,} rows of the lists break {key}; nothing was written")

    def broken(self, rows: DataFrame) -> dict[str, int]:
        """Rule → how many rows break it, by a query of its own over tables and files as they are now.

        Parameters
        ----------
        rows : DataFrame
            ``user``, ``item``: of all lists.
        """
        return {key: breaking(rows).count() for key, breaking in self._breaking().items()}

    def _everybody(self) -> DataFrame:
        """Who has rated anything, and where that is configured who is known otherwise."""
        rated = self.night.pairs().user_counts().select(USER)
        if not self.night.config.recommend.users.new:
            return rated
        return rated.unionByName(self._of("users").select(USER)).distinct()

    def _rules_of_users(self) -> dict[str, DataFrame]:
        """Rule → ``user``: who satisfies it."""
        rules, found = self.night.config.recommend.users, dict[str, DataFrame]()
        if rules.where is not None:
            found["where"] = self._where(f"{_USERS}.where", "users", rules.where)
        if rules.active_days is not None:
            found["active_days"] = self._active(rules.active_days)
        if rules.table is not None:
            found["table"] = self._read(f"{_USERS}.table", rules.table)
        return found

    def _active(self, days: int) -> DataFrame:
        return self.night.stored().where(self.night.of_last(days)).select(USER)

    def _tables(self) -> dict[str, tuple[str, DataFrame]]:
        """Rule → the field of a request that it is asked by, and its rows; not what is asked by groups of
        users.
        """
        rules, found = self.night.config.recommend.items, dict[str, tuple[str, DataFrame]]()
        if rules.where is not None or rules.for_user is not None:
            fit = self._where(f"{_ITEMS}.where", "items", rules.where or "true")
            found["where" if rules.where is not None else "for_user"] = "allowed_items", fit
        for key, table in rules.tables().items():
            if not table.segment:
                what = "denied" if _is_deny(key) else "allowed"
                kind = "items" if table.user is None else "pairs"
                found[key] = f"{what}_{kind}", self._read(f"{_ITEMS}.{key}", table)
        if rules.not_again_days is not None:
            found["not_again_days"] = "denied_pairs", served_before(self.night, rules.not_again_days)
        return found

    def _of_segments(self) -> dict[str, Listed]:
        """Which of the tables of items are for segments of users."""
        tables = self.night.config.recommend.items.tables()
        return {key: table for key, table in tables.items() if table.segment}

    def _groups(self) -> DataFrame | None:
        """Values of the columns of users that the condition and the tables of segments name, and a number for
        each set of them; None where users are not told apart.
        """
        condition = self.night.config.recommend.items.for_user
        by = [] if condition is None else self._asked_of_users(condition)
        by += [column for table in self._of_segments().values() for column in table.segment]
        by = list(dict.fromkeys(by))
        if not by:
            return None
        values = self._of("users").select(by).distinct().limit(MAX_GROUPS + 1)
        rows = [tuple(row) for row in values.collect()]
        if len(rows) > MAX_GROUPS:
            allowed = f"columns of users that have at most {MAX_GROUPS:,} different sets of values together"
            raise ConfigError(self._problem(f"{_ITEMS}: for_user and segment", ", ".join(by), allowed))
        nothing = (None,) * len(by)  # of users without a row
        rows += [] if nothing in rows else [nothing]
        numbered = [(*row, number) for number, row in enumerate(rows)]
        kind = values.schema.add(_NUMBER, T.IntegerType())
        for field in kind.fields:
            field.nullable = True
        return self.night.spark.createDataFrame(numbered, kind)

    def _group_rules(self, groups: DataFrame) -> GroupRules:
        """Users by their group, and what is denied to each."""
        by = [name for name in groups.columns if name != _NUMBER]
        number = F.col(quoted(_NUMBER)).alias(GROUP)
        denied = self._denied_to(groups).localCheckpoint()
        everybody = self._everybody().join(self._of("users").select(USER, *by), USER, "left")
        same = reduce(and_, (everybody[name].eqNullSafe(groups[name]) for name in by))
        self.record.counts |= {
            f"{RULE}user_groups": groups.count(),
            f"{RULE}denied_to_groups": denied.count(),
        }
        return GroupRules(everybody.join(F.broadcast(groups), same).select(USER, number), denied)

    def _denied_to(self, groups: DataFrame) -> DataFrame:
        """``group``, ``item``, distinct: what the condition and the tables of segments deny."""
        condition, number = self.night.config.recommend.items.for_user, F.col(quoted(_NUMBER)).alias(GROUP)
        found = list[DataFrame]()
        if condition is not None:
            found.append(self._asked(groups, condition).select(number, F.col(f"item.{ITEM}").alias(ITEM)))
        for key, table in self._of_segments().items():
            rows, by = self._read(f"{_ITEMS}.{key}", table), list(table.segment)
            if _is_deny(key):
                rows = groups.join(rows, by)
            else:  # all else is denied
                limited = groups.join(rows.select(by).distinct(), by, "left_semi")
                rows = limited.crossJoin(self._all_items()).join(rows, [*by, ITEM], "left_anti")
            found.append(rows.select(number, ITEM))
        return reduce(DataFrame.unionByName, found).distinct()

    def _all_items(self) -> DataFrame:
        """``item``, distinct: all that a model may know."""
        rated = self.night.stored().select(ITEM)
        if self.night.lake.exists("items"):
            rated = rated.unionByName(self._of("items").select(ITEM))
        return rated.distinct()

    def _asked_of_users(self, condition: str) -> list[str]:
        """Columns of users that the condition names."""
        users = self._of("users").drop(_RUN_DATE)
        self._asked(users, condition)
        named = [
            name for name in users.columns if re.search(rf"(?i)\buser\.`?{re.escape(name)}\b", condition)
        ]
        if not named:
            allowed = f"a condition that names a user.<column>; {_ITEMS}.where is for items alone"
            raise ConfigError(self._problem(f"{_ITEMS}.for_user", condition, allowed))
        return named

    def _asked(self, users: DataFrame, condition: str) -> DataFrame:
        try:
            return self._denied(users, condition)
        except AnalysisException as error:
            known = {f"{side}s": self._of(f"{side}s").columns for side in (USER, ITEM)}
            allowed = (
                f"a condition over user.<column> of {known['users']} and item.<column> of {known['items']}"
            )
            raise ConfigError(
                f"{self._problem(f'{_ITEMS}.for_user', condition, allowed)}; {summary(error)}"
            ) from None

    def _denied(self, users: DataFrame, condition: str) -> DataFrame:
        """Pairs of users, or of groups of them, and items for which the condition is not true."""
        of_items = self._of("items").alias(ITEM)  # whose run date is the only one
        return users.drop(_RUN_DATE).alias(USER).crossJoin(of_items).where(~_true(condition))

    def _where(self, key: str, side: str, condition: str) -> DataFrame:
        """The ids of ``users`` or ``items`` for which a condition is true."""
        rows = self._of(side)
        try:
            return rows.where(F.expr(condition)).select(side.removesuffix("s"))
        except AnalysisException as error:
            problem = self._problem(key, condition, f"a condition over {rows.columns}")
            raise ConfigError(f"{problem}; {summary(error)}") from None

    def _of(self, side: str) -> DataFrame:
        """The table ``users`` or ``items``, with the run date."""
        lake = self.night.lake
        if not lake.exists(side):
            raise ConfigError(
                self._problem(f"ingest.source.{side}", None, f"a table, which recommend.{side} asks")
            )
        version = self.record.versions_read.setdefault(side, lake.version(side))
        return lake.read(side, version).withColumn(_RUN_DATE, F.lit(self.night.run_date))

    def _read(self, key: str, table: Listed) -> DataFrame:
        """Distinct typed ids of a file or table."""
        types = dict(zip((USER, ITEM), self.night.config.ingest.id_types, strict=True))
        ids, segment = table.columns, self._types_of_segment(key, table)
        raw = read_cells(self.night.spark, table.format, table.path, {**ids, **table.segment})
        rows = clean_ids(raw, {role: types[role] for role in ids}, list(segment))
        rows = rows.where(F.col(REASON).isNull() | (F.col(REASON) != HEADER_LINE))
        for name, kind in segment.items():
            own = raw.schema[name].dataType
            value = F.when(is_given(name, own), feature(name, own, kind))
            unknown = F.when(F.col(name).isNull(), F.lit(f"no_{name}"))
            rows = rows.withColumn(name, value).withColumn(REASON, F.coalesce(REASON, unknown))
        bad = rows.where(F.col(REASON).isNotNull()).groupBy(REASON).count().collect()
        if bad:
            reasons = ", ".join(f"{row[REASON]} {row['count']:,}" for row in bad)
            raise SourceError(f"{table.path}, which {key} names, has rows that cannot be read: {reasons}")
        return rows.select(*ids, *segment).distinct()

    def _types_of_segment(self, key: str, table: Listed) -> dict[str, FeatureType]:
        """Column of users by which a table tells them apart → its type."""
        if not table.segment:
            return {}
        known = {
            field.name: field.dataType
            for field in self._of("users").schema
            if not isinstance(field.dataType, T.ArrayType) and field.name not in (USER, _RUN_DATE)
        }
        for column in table.segment:
            if column not in known:
                allowed = f"columns of users with one value: {list(known)}"
                raise ConfigError(self._problem(f"{key}.segment", column, allowed))
        return {name: cast(FeatureType, known[name].simpleString()) for name in table.segment}

    def _problem(self, key: str, given: object, allowed: str) -> str:
        return config_problem(self.night.config.origin, key, given, allowed)

    def _breaking(self) -> dict[str, Callable[[DataFrame], DataFrame]]:
        """Rule → the rows that break it."""
        users, items = self.night.config.recommend.users, self.night.config.recommend.items
        found: dict[str, Callable[[DataFrame], DataFrame]] = {}

        def untrue(side: str, condition: str) -> Callable[[DataFrame], DataFrame]:
            key = side.removesuffix("s")
            fit = self._of(side).where(_true(condition)).select(key)
            return lambda rows: rows.join(fit, key, "left_anti")

        def unlisted(table: DataFrame) -> Callable[[DataFrame], DataFrame]:
            return lambda rows: rows.join(table, table.columns, "left_anti")

        def against_table(key: str, table: Listed) -> Callable[[DataFrame], DataFrame]:
            listed = self._read(f"{_ITEMS}.{key}", table)
            against = _in_table if _is_deny(key) else _outside_table
            if not table.segment:
                return lambda rows: against(rows, listed)
            segments = self._of("users").select(USER, *table.segment)
            return lambda rows: against(rows.join(segments, USER), listed)

        if users.where is not None:
            found[f"{_USERS}.where"] = untrue("users", users.where)
        if users.active_days is not None:
            found[f"{_USERS}.active_days"] = unlisted(self._active(users.active_days))
        if users.table is not None:
            found[f"{_USERS}.table"] = unlisted(self._read(f"{_USERS}.table", users.table))
        if items.where is not None:
            found[f"{_ITEMS}.where"] = untrue("items", items.where)
        if items.for_user is not None:
            condition = items.for_user

            def unfit(rows: DataFrame) -> DataFrame:
                listed = rows.select(F.col(USER).alias("_user"), F.col(ITEM).alias("_item"))
                of_users, of_items = (
                    self._of("users").drop(_RUN_DATE).alias(USER),
                    self._of("items").alias(ITEM),
                )
                known = listed.join(of_users, F.col("_user") == F.col(f"{USER}.{USER}"), "left")
                known = known.join(of_items, F.col("_item") == F.col(f"{ITEM}.{ITEM}"), "left")
                return known.where(~_true(condition))

            found[f"{_ITEMS}.for_user"] = unfit
        if items.not_again_days is not None:
            shown = served_before(self.night, items.not_again_days)
            found[f"{_ITEMS}.not_again_days"] = lambda rows: rows.join(shown, shown.columns, "left_semi")
        for key, table in items.tables().items():
            found[f"{_ITEMS}.{key}"] = against_table(key, table)
        return found


def _together(tables: Iterable[tuple[str, DataFrame]]) -> dict[str, DataFrame]:
    """What several rules ask by the same field: all that one of them denies, and what all of them allow."""
    found = dict[str, DataFrame]()
    for what, rows in tables:
        before = found.get(what)
        if before is None:
            found[what] = rows
        elif what.startswith("denied"):
            found[what] = before.unionByName(rows).distinct()
        else:
            found[what] = before.join(rows, ITEM, "left_semi")
    return found


def _is_deny(key: str) -> bool:
    """Whether a table is one of ``deny``, and not of ``allow``, by its key."""
    return key.startswith("deny")


def _in_table(rows: DataFrame, listed: DataFrame) -> DataFrame:
    return rows.join(listed, listed.columns, "left_semi")


def _outside_table(rows: DataFrame, listed: DataFrame) -> DataFrame:
    """Rows of the users whom a table is for, that are not in it."""
    bound = [name for name in listed.columns if name != ITEM]
    if bound:
        rows = rows.join(listed.select(bound).distinct(), bound, "left_semi")
    return rows.join(listed, listed.columns, "left_anti")


def _true(condition: str) -> Column:
    """Whether a condition is true; not where it is null."""
    return F.coalesce(F.expr(condition), F.lit(False))
