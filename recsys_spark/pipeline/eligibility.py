"""Who gets lists and what may be in them, by the configuration's ``recommend.users`` and ``recommend.items``.

What the rules leave is asked of the engine, so that lists are no shorter for them; that no list breaks one is
checked afterwards, by queries that know nothing of groups and masks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import quoted
from recsys_spark.config import Listed, config_problem
from recsys_spark.data.cleaning import HEADER_LINE, clean_ids
from recsys_spark.data.sources import read_cells
from recsys_spark.errors import ConfigError, PublishError, SourceError, summary
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.served import served_before
from recsys_spark.recommend.top_n import GROUP, GroupRules, ListRequest
from recsys_spark.schema import ITEM, REASON, USER

MAX_GROUPS = 1_000
"""How many different sets of values the columns may have by which users are told apart."""

RULE = "rule_"
"""How counts of the ledger begin that say what rules left out."""

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
            for rows in self._given().values():
                rows.count()
            if condition is not None:
                self._asked(self._sets_of_values(condition), condition).count()
        except PySparkException as error:
            raise ConfigError(
                f"{self.night.config.origin}: a condition of recommend.users or recommend.items cannot be "
                f"asked of every row: {summary(error)}"
            ) from None

    def _require_exact(self) -> None:
        """An index of items cannot be searched for what some users alone may be shown."""
        items, params = self.night.config.recommend.items, self.night.config.params
        if items.for_user is None and (items.allow is None or items.allow.user is None):
            return
        for name in self.night.config.models:
            if params.get(name, {}).get("retrieval", "exact") != "exact":
                allowed = "exact, where recommend.items has for_user, or allow with user"
                raise ConfigError(self._problem(f"{name}.retrieval", params[name]["retrieval"], allowed))

    def users(self) -> DataFrame:
        """``user``, unique: who gets a list."""
        everybody = self._everybody()
        users = self._chosen_users(everybody)
        if users is not everybody:
            self.record.counts[f"{RULE}users_left_out"] = everybody.count() - users.count()
        return users

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
        condition = self.night.config.recommend.items.for_user
        # every list, shelf and check reads them
        given = {key: rows.localCheckpoint() for key, rows in self._given().items()}
        self.record.counts |= {f"{RULE}{key}": rows.count() for key, rows in given.items()}
        groups = None if condition is None else self._groups(condition)
        return replace(request, group_rules=groups, **given)  # type: ignore[arg-type]

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

    def _chosen_users(self, users: DataFrame) -> DataFrame:
        rules = self.night.config.recommend.users
        if rules.where is not None:
            users = users.join(self._where(f"{_USERS}.where", "users", rules.where), USER, "left_semi")
        if rules.active_days is not None:
            users = users.join(self._active(rules.active_days), USER, "left_semi")
        if rules.table is not None:
            users = users.join(self._read(f"{_USERS}.table", rules.table), USER, "left_semi")
        return users

    def _active(self, days: int) -> DataFrame:
        return self.night.stored().where(self.night.of_last(days)).select(USER)

    def _given(self) -> dict[str, DataFrame]:
        """What the engine is asked, but for what depends on the columns of users."""
        rules, given = self.night.config.recommend.items, dict[str, DataFrame]()
        if rules.where is not None or rules.for_user is not None:
            given["allowed_items"] = self._where(f"{_ITEMS}.where", "items", rules.where or "true")
        for name, word, table in (("allow", "allowed", rules.allow), ("deny", "denied", rules.deny)):
            if table is not None:
                rows = self._read(f"{_ITEMS}.{name}", table)
                key = f"{word}_items" if table.user is None else f"{word}_pairs"
                given[key] = given[key].join(rows, ITEM, "left_semi") if key in given else rows
        if rules.not_again_days is not None:
            shown = served_before(self.night, rules.not_again_days)
            denied = given.get("denied_pairs")
            given["denied_pairs"] = shown if denied is None else shown.unionByName(denied).distinct()
        return given

    def _sets_of_values(self, condition: str) -> DataFrame:
        """Values of the columns of users that the condition names, and a number for each set of them."""
        by = self._asked_of_users(condition)
        values = self._of("users").select(by).distinct().limit(MAX_GROUPS + 1)
        rows = [tuple(row) for row in values.collect()]
        if len(rows) > MAX_GROUPS:
            allowed = f"columns of users that have at most {MAX_GROUPS:,} different sets of values together"
            raise ConfigError(self._problem(f"{_ITEMS}.for_user", condition, allowed))
        nothing = (None,) * len(by)  # of users without a row
        rows += [] if nothing in rows else [nothing]
        numbered = [(*row, number) for number, row in enumerate(rows)]
        kind = values.schema.add(_NUMBER, T.IntegerType())
        for field in kind.fields:
            field.nullable = True
        return self.night.spark.createDataFrame(numbered, kind)

    def _groups(self, condition: str) -> GroupRules:
        """Users by the values that the condition asks of them, and what it denies to each."""
        groups = self._sets_of_values(condition)
        by = [name for name in groups.columns if name != _NUMBER]
        number = F.col(quoted(_NUMBER)).alias(GROUP)
        denied = self._asked(groups, condition).select(number, F.col(f"item.{ITEM}").alias(ITEM))
        everybody = self._everybody().join(self._of("users").select(USER, *by), USER, "left")
        same = reduce(and_, (everybody[name].eqNullSafe(groups[name]) for name in by))
        self.record.counts |= {
            f"{RULE}user_groups": groups.count(),
            f"{RULE}denied_to_groups": denied.count(),
        }
        return GroupRules(everybody.join(F.broadcast(groups), same).select(USER, number), denied)

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
        columns = table.columns
        raw = read_cells(self.night.spark, table.format, table.path, columns)
        rows = clean_ids(raw, {role: types[role] for role in columns})
        rows = rows.where(F.col(REASON).isNull() | (F.col(REASON) != HEADER_LINE))
        bad = rows.where(F.col(REASON).isNotNull()).groupBy(REASON).count().collect()
        if bad:
            reasons = ", ".join(f"{row[REASON]} {row['count']:,}" for row in bad)
            raise SourceError(f"{table.path}, which {key} names, has rows that cannot be read: {reasons}")
        return rows.select(*columns).distinct()

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
        if items.deny is not None:
            denied = self._read(f"{_ITEMS}.deny", items.deny)
            found[f"{_ITEMS}.deny"] = lambda rows: rows.join(denied, denied.columns, "left_semi")
        if items.not_again_days is not None:
            shown = served_before(self.night, items.not_again_days)
            found[f"{_ITEMS}.not_again_days"] = lambda rows: rows.join(shown, shown.columns, "left_semi")
        if items.allow is not None:
            allowed = self._read(f"{_ITEMS}.allow", items.allow)
            bound = allowed.select(USER).distinct() if USER in allowed.columns else None

            def outside(rows: DataFrame) -> DataFrame:
                limited = rows if bound is None else rows.join(bound, USER, "left_semi")
                return limited.join(allowed, allowed.columns, "left_anti")

            found[f"{_ITEMS}.allow"] = outside
        return found


def _true(condition: str) -> Column:
    """Whether a condition is true; not where it is null."""
    return F.coalesce(F.expr(condition), F.lit(False))
