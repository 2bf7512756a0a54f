"""Who gets lists and what may be in them: lists hold all that the rules leave, and nothing else."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError, GateError, PublishError, SourceError
from recsys_spark.lakehouse.ledger import StepRecord
from recsys_spark.pipeline.eligibility import Rules
from recsys_spark.pipeline.fitted import load
from recsys_spark.pipeline.forget import forget
from recsys_spark.pipeline.publish import publish
from recsys_spark.pipeline.recommend import make_lists
from recsys_spark.pipeline.served import rows_expected
from recsys_spark.pipeline.shelves import SHELF_ROWS, names_of, shelf_members
from recsys_spark.pipeline.steps import STEPS
from recsys_spark.recommend.top_n import ListRequest
from tests.pipeline.shop import DAY, Shop

pytestmark = pytest.mark.slow

USERS, ITEMS = [f"u{n:02}" for n in range(12)], [f"i{n}" for n in range(8)]
AGE = {user: 12 if n % 3 == 0 else 40 for n, user in enumerate(USERS[:-1])}
"""Of all users but the last, who has no row."""
COUNTRY = {user: "BE" if n in (4, 5) else "NL" for n, user in enumerate(USERS[:-1])}
NEW = {"v0": "NL", "v1": "BE", "v2": "", "v3": "FR"}
"""Who has rated nothing, and their countries; of one nothing is known."""
FROM_AGE = {item: 18 if n < 2 else 0 for n, item in enumerate(ITEMS)}
KIND = {item: "odd" if n % 2 else "even" for n, item in enumerate(ITEMS)}
STOCK = {item: 0 if item == "i2" else 5 for item in ITEMS}
SEEN = {user: {ITEMS[(n + k) % 8] for k in range(3)} for n, user in enumerate(USERS)}
LONG_AGO = "u07"
"""Has rated nothing of late."""
DENIED = [("u01", "i4"), ("u01", "i5"), ("u02", "i2"), ("nobody", "i1")]
ALLOWED = [("u03", "i6"), ("u03", "i5"), ("u06", "no such item")]
"""Users to whom nothing else may be shown."""
RULES = {
    "users": {"where": "country = 'NL'", "active_days": 90},
    "items": {
        "where": "stock > 0 AND run_date < DATE'2030-01-01'",
        "for_user": "item.from_age <= user.age",
        "deny": {"path": "denied.csv", "user": "u", "item": "i"},
        "allow": {"path": "allowed.csv", "user": "u", "item": "i"},
    },
}


@pytest.fixture(scope="module")
def shop(spark, tmp_path_factory):
    """After a night up to its lists, with every kind of rule."""
    shop = Shop(spark, tmp_path_factory.mktemp("rules"))

    def write(name, header, rows):
        path = shop.folder / name
        path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
        return str(path)

    users = write(
        "users.csv",
        "u,age,country",
        [(u, (AGE | dict.fromkeys(NEW, 40))[u], c) for u, c in (COUNTRY | NEW).items()],
    )
    items = write("items.csv", "i,from_age,stock,kind", [(i, FROM_AGE[i], STOCK[i], KIND[i]) for i in ITEMS])
    RULES["items"]["deny"]["path"] = write("denied.csv", "u,i", DENIED)
    RULES["items"]["allow"]["path"] = write("allowed.csv", "u,i", ALLOWED)
    shop.tree["ingest"]["source"] |= {
        "users": {
            "path": users,
            "id": "u",
            "columns": {"age": "age", "country": "country"},
        },
        "items": {
            "path": items,
            "id": "i",
            "columns": {"from_age": "from_age", "stock": "stock", "kind": "kind"},
            "types": {"from_age": "int", "stock": "int"},
        },
    }
    shop.tree["recommend"] = {"n": 8, "similar_items": {"n": 7}, "shelves": {"by": "kind", "n": 2}, **RULES}
    at = {user: 1_600_000_000 if user == LONG_AGO else 1_718_000_000 for user in USERS}
    shop.receive(*(f"{u},{i},{3 + n % 3},{at[u] + n}" for u in USERS for n, i in enumerate(sorted(SEEN[u]))))
    night = shop.night()
    for step in ("ingest", "split", "train", "evaluate", "recommend"):
        STEPS[step](night)
    return shop


def test_lists_hold_all_that_the_rules_leave_and_nothing_else(shop):
    expected = {}
    for user in USERS:
        if COUNTRY.get(user) == "NL" and user != LONG_AGO:
            own = {item for listed, item in ALLOWED if listed == user} or set(ITEMS)
            gone = SEEN[user] | {item for denied, item in DENIED if denied == user}
            fit = {item for item in ITEMS if STOCK[item] and FROM_AGE[item] <= AGE[user]}
            expected[user] = own & fit - gone
    found = {}
    for user, item in shop.rows("recommendations", "user", "item"):
        found.setdefault(user, set()).add(item)
    assert found == {user: items for user, items in expected.items() if items}
    assert not expected["u06"]


def test_the_gate_asks_the_rules_once_more_of_what_is_stored(shop, tmp_path):
    """An item that is recalled after the lists were made closes it; its rows are in lists and shelves."""
    recalled = shop.rows("shelves", "item")[0][0]  # of items that are in the lists, too
    (tmp_path / "recalled.csv").write_text(f"i\n{recalled}\n")
    stored = [row for table in ("recommendations", "shelves") for row in shop.rows(table, "item")]
    rows = stored.count((recalled,))
    copied = shop.copied(tmp_path)
    wanted = copied.tree["recommend"]
    deny = {"path": str(tmp_path / "recalled.csv"), "item": "i"}
    night = copied.night(recommend=wanted | {"items": wanted["items"] | {"deny": deny}})
    with pytest.raises(GateError, match=rf"the number of rows against recommend\.items\.deny is {rows}, and"):
        STEPS["gate"](night)
    found = night.lake.read("metrics").where("metric LIKE 'rows_against%' AND value = 0").collect()
    assert {row["metric"]: row["verdict"] for row in found} == dict.fromkeys(
        [f"rows_against_{rule}" for rule in ("users_where", "users_active_days")]
        + [f"rows_against_items_{rule}" for rule in ("where", "for_user", "allow")],
        "pass",
    )


def test_shelves_are_the_first_of_each_kind_of_the_list(shop):
    """As all that a user may be shown is in the list."""
    expected = []
    for user in USERS:
        rows = shop.rows("recommendations", "user", "rank", "item", "score", "model", "reason")
        for kind in ("even", "odd"):
            own = [row for row in rows if row[0] == user and KIND[row[2]] == kind]
            expected += [(user, kind, n + 1, *row[2:]) for n, row in enumerate(own[:2])]
    assert expected
    assert shop.rows("shelves", "user", "shelf", "rank", "item", "score", "model", "reason") == expected


def test_a_column_without_shelves_ends_the_split(shop, monkeypatch):
    night = shop.night(recommend={"n": 8, "shelves": {"by": "maker"}})
    with pytest.raises(ConfigError, match=r"recommend\.shelves\.by: given 'maker'; allowed: .*'kind'"):
        shelf_members(night, StepRecord())
    monkeypatch.setattr("recsys_spark.pipeline.side_tables.MOST_VALUES", 1)
    with pytest.raises(ConfigError, match="at most 1 different values"):
        names_of(shop.night(), shelf_members(shop.night(), StepRecord()))


def test_neighbours_are_what_everybody_may_be_shown(shop):
    rows = shop.rows("similar_items", "item", "neighbor")
    assert {item for item, _ in rows} == set(ITEMS)
    assert {neighbor for _, neighbor in rows} == set(ITEMS) - {"i2"}


def test_a_night_says_what_its_rules_left_out(shop):
    counts = shop.night().ledger.last_done("recommend")["counts"]
    assert counts["users"] == 8
    assert {name: counts[name] for name in counts if name.startswith("rule")} == {
        "rule_users_where_left_out": 3,
        "rule_users_active_days_left_out": 1,
        "rule_users_left_out": 4,
        "rule_items_where_allowed_items": 7,
        "rule_items_allow_allowed_pairs": 3,
        "rule_items_deny_denied_pairs": 4,
        "rule_denied_to_groups": 2 + 8,  # to the young, and to whom has no age
        "rule_user_groups": 3,
    }


def test_what_was_served_of_late_is_not_listed_again(shop):
    """And what was only made is."""
    days = {"items": {"not_again_days": 7, "deny": RULES["items"]["deny"]}}

    def denied(day):
        night = shop.night(day, recommend={"n": 8, **days})
        rows = Rules(night, StepRecord()).request(ListRequest(8)).denied_pairs
        return sorted(map(tuple, rows.collect()))

    assert denied(DAY + timedelta(days=7)) == sorted(DENIED)
    publish(shop.night(), reason="to be seen")
    listed = {(user, item) for user, item in shop.rows("recommendations", "user", "item")}
    columns = "user", "shelf", "rank", "item", "score", "reason"
    assert shop.rows("current_shelves", *columns) == shop.rows("shelves", *columns)
    assert denied(DAY + timedelta(days=7)) == sorted({*DENIED, *listed})
    assert denied(DAY + timedelta(days=8)) == denied(DAY) == sorted(DENIED)
    rules = Rules(shop.night(DAY + timedelta(days=1), recommend={"n": 8, **days}), StepRecord())
    planted = shop.spark.createDataFrame([min(listed - set(DENIED))], "user string, item string")
    with pytest.raises(PublishError, match=r"1 rows of the lists break recommend\.items\.not_again_days"):
        rules.check(planted)


@pytest.mark.parametrize(
    ("key", "user", "item"),
    [
        ("recommend.users.where", "u04", "i7"),
        ("recommend.users.where", "u11", "i7"),
        ("recommend.users.active_days", LONG_AGO, "i6"),
        ("recommend.items.where", "u01", "i2"),
        ("recommend.items.where", "u01", "no such item"),
        ("recommend.items.for_user", "u00", "i1"),
        ("recommend.items.deny", "u01", "i5"),
        ("recommend.items.allow", "u03", "i7"),
    ],
)
def test_a_row_that_breaks_a_rule_is_found(shop, key, user, item):
    rules, planted = (
        Rules(shop.night(), StepRecord()),
        shop.spark.createDataFrame([(user, item)], "user string, item string"),
    )
    with pytest.raises(PublishError, match=rf"1 rows of the lists break {key}; nothing was written"):
        rules.check(planted)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"items": {"where": "stok > 0"}},
            r"recommend\.items\.where: given 'stok > 0'; allowed: .*'stock'.*stok",
        ),
        ({"items": {"where": "stock > "}}, r"recommend\.items\.where: given 'stock > '"),
        (
            {"items": {"for_user": "item.from_age <= user.years"}},
            r"recommend\.items\.for_user: .*'age', 'country'",
        ),
        ({"items": {"for_user": "item.stock > 3"}}, r"names a user\.<column>; recommend\.items\.where"),
        ({"users": {"where": "stock > 0"}}, r"recommend\.users\.where: .*'country'"),
        ({"items": {"where": "int(item) > 0"}}, r"cannot be asked of every row: .*CAST_INVALID_INPUT"),
    ],
)
def test_a_condition_that_cannot_be_asked_is_named(shop, rules, message):
    with pytest.raises(ConfigError, match=message):
        Rules(shop.night(recommend={"n": 8, **rules}), StepRecord()).require()


def test_a_table_with_a_row_without_an_id_ends_the_split(shop, tmp_path):
    (tmp_path / "odd.csv").write_text("u,i\nu01,\nu02,i1\n")
    deny = {"path": str(tmp_path / "odd.csv"), "user": "u", "item": "i"}
    with pytest.raises(SourceError, match=r"odd\.csv, which recommend\.items\.deny names, .*missing_item 1"):
        STEPS["split"](shop.night(recommend={"n": 8, "items": {"deny": deny}}))


def test_an_index_of_items_cannot_keep_rules_of_users(shop):
    night = shop.night(models=["softmax"], softmax={"retrieval": "approximate"})
    with pytest.raises(ConfigError, match=r"softmax\.retrieval: given 'approximate'; allowed: exact, where"):
        Rules(night, StepRecord()).require()


@pytest.fixture
def of_segments(tmp_path):
    """Tables for countries and ages."""

    def given(name, header, rows, **segment):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return {"path": str(path), "item": "i", "segment": segment}

    return given


def left_by(rules):
    """User → the items that rules leave, seen ones too."""
    popular = load(rules.night.lake.read("models").where(F.col("purpose") == "fallback").first())
    lists = popular.recommend_lists(rules.users(), rules.request(ListRequest(8))).collect()
    return {row["id"]: {entry["item"] for entry in row["recommendations"]} for row in lists}


def test_tables_for_segments_hold_for_the_users_with_their_values(shop, of_segments):
    """The young of a country are denied two items, and those of another are shown but three."""
    deny = of_segments(
        "deny", "land,years,i", ["NL,12,i3", "NL,12,i4", "FR,40,i5"], country="land", age="years"
    )
    allow = of_segments("allow", "land,i", ["BE,i0", "BE,i1", "BE,i2", "BE,gone"], country="land")
    night = shop.night(recommend={"n": 8, "items": {"deny": deny, "allow": allow}})
    rules = Rules(night, StepRecord())
    rules.require()
    found = left_by(rules)
    expected = {key: set(ITEMS) for key in USERS}
    for user in USERS[:-1]:  # of the last one nothing is known
        if COUNTRY[user] == "BE":
            expected[user] = {"i0", "i1", "i2"}
        elif AGE[user] == 12:
            expected[user] = set(ITEMS) - {"i3", "i4"}
    assert found == expected
    broken = [("u00", "i3"), ("u00", "i5"), ("u01", "i3"), ("u04", "i0"), ("u04", "i7"), ("u11", "i7")]
    rows = shop.spark.createDataFrame(broken, "user string, item string")
    assert rules.broken(rows) == {"recommend.items.deny": 1, "recommend.items.allow": 1}


def test_several_tables_hold_together(shop, of_segments, tmp_path):
    """What is recalled, what a country may not be shown and what one user has complained of; and of two lists
    of what may be shown, and one for a country, what is on all of them.
    """

    def listed(name, header, rows, **columns):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return {"path": str(path), "item": "i", **columns}

    deny = [
        listed("recalled", "i", ["i0"]),
        listed("complaints", "u,i", ["u01,i3", "u04,i4"], user="u"),
        of_segments("deny", "land,i", ["BE,i5"], country="land"),
    ]
    allow = [
        listed("summer", "i", [f"i{n}" for n in range(7)]),
        listed("licensed", "i", [f"i{n}" for n in range(8) if n != 1]),
        of_segments("allow", "land,i", [f"BE,i{n}" for n in (0, 2, 4, 5, 7)], country="land"),
    ]
    night = shop.night(recommend={"n": 8, "items": {"deny": deny, "allow": allow}})
    rules = Rules(night, StepRecord())
    rules.require()
    found = left_by(rules)
    expected = {user: {"i2", "i3", "i4", "i5", "i6"} for user in USERS}
    expected |= {"u01": {"i2", "i4", "i5", "i6"}, "u04": {"i2"}, "u05": {"i2", "i4"}}
    assert found == expected
    broken = [("u00", "i0"), ("u00", "i1"), ("u01", "i3"), ("u04", "i5"), ("u05", "i3"), ("u05", "i7")]
    rows = shop.spark.createDataFrame(broken, "user string, item string")
    assert {key.removeprefix("recommend.items."): count for key, count in rules.broken(rows).items()} == {
        "allow.0": 1,
        "allow.1": 1,
        "allow.2": 1,
        "deny.0": 1,
        "deny.1": 1,
        "deny.2": 1,
    }


@pytest.mark.parametrize(
    ("header", "segment", "error", "message"),
    [
        (
            "land,i",
            {"land": "land"},
            ConfigError,
            r"items\.deny\.segment: given 'land'; allowed: .*'age', 'country'",
        ),
        ("years,i", {"age": "years"}, SourceError, r"deny\.csv, which .*deny names, .*: no_age 2$"),
        ("land,i", {"country": "years"}, SourceError, "years"),
    ],
)
def test_a_segment_that_cannot_be_compared_is_named(shop, of_segments, header, segment, error, message):
    deny = of_segments("deny", header, ["12,i3", "old,i3", " ,i3"], **segment)
    with pytest.raises(error, match=message):
        Rules(shop.night(recommend={"n": 8, "items": {"deny": deny}}), StepRecord()).require()


def test_more_groups_of_users_than_can_be_told_apart_are_an_error(shop, monkeypatch):
    monkeypatch.setattr("recsys_spark.pipeline.eligibility.MAX_GROUPS", 1)
    with pytest.raises(ConfigError, match="at most 1 different sets of values"):
        Rules(shop.night(), StepRecord()).require()


def lists_of(night, champion):
    """Rows of lists by one of the shop's two models."""
    of_night = night.lake.read("models").where(F.col("purpose").isin("serving", "fallback")).collect()
    models = {row["purpose"]: load(row) for row in of_night}
    model, fallback = models["serving"], models["fallback"]
    if champion == "popularity":
        model, fallback = fallback, None
    with ExitStack() as kept:
        made = make_lists(night, Rules(night, StepRecord()), champion, model, fallback, kept)
        return made.rows.collect()


@pytest.mark.parametrize("champion", ["als", "popularity"])
def test_who_has_rated_nothing_gets_what_is_popular_with_people_alike(shop, champion):
    """And where nothing is known of the user, or of people alike, what is popular at all."""
    night = shop.night(recommend={"n": 2, "users": {"new": True}, "fallback_by": "country"})
    rows = [
        (row["user"], row["rank"], row["item"], row["reason"])
        for row in lists_of(night, champion)
        if row["user"] in NEW
    ]

    def most(users):
        counts = Counter(item for user in users for item in SEEN[user])
        return [item for item, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:2]]

    expected = []
    for user, country in NEW.items():
        alike = [other for other in USERS if country and COUNTRY.get(other) == country]
        expected += [(user, rank + 1, item, "fallback") for rank, item in enumerate(most(alike or USERS))]
    assert sorted(rows) == sorted(expected)


@pytest.mark.parametrize("champion", ["als", "popularity"])
def test_items_that_nobody_has_rated_are_listed_where_nothing_else_may_be(shop, tmp_path, champion):
    copied = shop.copied(tmp_path)
    lake = copied.night().lake
    (one,) = lake.read("items").where("item = 'i3'").collect()
    new = [one.asDict() | {"item": f"new{n}", "kind": "launch"} for n in (1, 0)]
    lake.append("items", shop.spark.createDataFrame(new, lake.read("items").schema), len(new))
    night = copied.night(
        recommend={"n": 3, "items": {"where": "kind = 'launch' OR stock > 0 AND item = 'i3'"}}
    )
    found = {}
    for row in sorted(lists_of(night, champion), key=lambda row: row["rank"]):
        found.setdefault(row["user"], []).append((row["item"], row["score"], row["reason"]))
    launches = [("new0", 0.0, "fallback"), ("new1", 0.0, "fallback")]
    for user in USERS:
        rated, rest = found[user][:-2], found[user][-2:]
        assert rest == launches
        assert [item for item, *_ in rated] == (["i3"] if "i3" not in SEEN[user] else [])


def test_shelves_of_who_is_forgotten_go_and_the_rest_can_be_published(shop):
    night = shop.night()
    before = night.lake.read("shelves").count()
    own = [user for (user,) in shop.rows("shelves", "user")].count("u10")
    assert 0 < own < before
    forget(shop.spark, night.config, ["u10"], DAY)
    for table in ("shelves", "current_shelves"):
        assert "u10" not in {user for (user,) in shop.rows(table, "user")}
    left = len(shop.rows("shelves", "user"))
    assert left == before - own == rows_expected(shop.night(), SHELF_ROWS)
