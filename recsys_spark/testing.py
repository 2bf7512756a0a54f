"""The contract of :mod:`recsys_spark.models.base` as a test suite, for authors of models.

A model's tests inherit :class:`ModelContract` and say how to make an estimator. pytest must be installed, and
there must be a fixture ``spark``: a session such as :func:`recsys_spark.get_session` makes::

    # conftest.py
    import pytest
    from recsys_spark import get_session

    pytest.register_assert_rewrite("recsys_spark.testing")  # failures show what was compared


    @pytest.fixture(scope="session")
    def spark():
        session = get_session()
        yield session
        session.stop()


    # test_my_model.py
    from recsys_spark.testing import ModelContract


    class TestMyModel(ModelContract):
        def estimator(self):
            return MyRecommender(rank=4, seed=1)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ModelError
from recsys_spark.histories import pack_histories
from recsys_spark.recommend.shelves import by_shelf
from recsys_spark.recommend.top_n import GroupRules, ListRequest, explode_lists

USERS, ITEMS = 12, 10
ID_TYPES: dict[str, Callable[[int], int | str]] = {
    "int": lambda n: n,
    "bigint": lambda n: n + 2**40,
    "string": lambda n: f"id {n:02d}; '\N{SNOWMAN}",
}


def checkerboard(spark: SparkSession, id_type: str = "int", partitions: int = 2) -> DataFrame:
    """Even users have even items, odd users odd ones, but each user ``u`` misses item ``u`` (mod ITEMS).

    A model that has learnt the pattern recommends the missing item first: the only unseen one of the user's
    colour.

    Parameters
    ----------
    spark : SparkSession
        Makes the rows.
    id_type : str
        ``int``, ``bigint`` or ``string``.
    partitions : int
        Partitions of the result.

    Returns
    -------
    DataFrame
        One row per (user, item): ``user``, ``item`` of the type asked for, ``rating`` 1.0.
    """
    name = ID_TYPES[id_type]
    rows = [
        (name(u), name(i), 1.0)
        for u in range(USERS)
        for i in range(ITEMS)
        if (u + i) % 2 == 0 and i != u % ITEMS
    ]
    return spark.createDataFrame(rows, f"user {id_type}, item {id_type}, rating double").repartition(
        partitions
    )


class ModelContract:
    """What every model must do. Subclasses define :meth:`estimator`, and say what does not hold for them."""

    learns_taste: ClassVar[bool] = True
    """Whether the model knows one user from another."""
    new_users: ClassVar[str] = "no"
    """Whether users whom the model was not fitted on are served: ``everyone``, by a ``history``, by
    ``features``, or ``no``.
    """
    new_items: ClassVar[str] = "no"
    """Whether items that the model was not fitted on are listed: by ``features``, or ``no``."""
    nested: ClassVar[str] = "array<struct<item:int,rating:float>>"
    """What ``recommendForAllUsers`` returns: Spark's shape, or more."""

    @abstractmethod
    def estimator(self) -> Any:
        """A new estimator, good enough for the checkerboard."""

    @pytest.fixture(scope="class")
    def fitted(self, spark: SparkSession) -> Any:
        """A model fitted on the checkerboard, one for the class."""
        return self.estimator().fit(checkerboard(spark))

    def test_recommends_the_one_missing_item_first(self, spark: SparkSession, fitted: Any) -> None:
        if not self.learns_taste:
            pytest.skip("the same list for every user")
        data = checkerboard(spark)
        rows = fitted.recommend(data.select("user").distinct(), 1, data).collect()
        assert {row["user"]: row["item"] for row in rows} == {u: u % ITEMS for u in range(USERS)}

    def test_lists_hold_no_seen_item_and_count_ranks_from_one(self, spark: SparkSession, fitted: Any) -> None:
        data = checkerboard(spark)
        rows = fitted.recommend(data.select("user").distinct(), 3, data).collect()
        seen = {(row["user"], row["item"]) for row in data.collect()}
        assert not seen & {(row["user"], row["item"]) for row in rows}
        for user in range(USERS):
            own = sorted((row["rank"], row["score"]) for row in rows if row["user"] == user)
            assert [rank for rank, _ in own] == [1, 2, 3]
            assert [score for _, score in own] == sorted((score for _, score in own), reverse=True)

    def test_nothing_but_allowed_and_no_denied_items_are_recommended(
        self, spark: SparkSession, fitted: Any
    ) -> None:
        users = spark.createDataFrame([(0,), (1,)], "user int")
        allowed = spark.createDataFrame([(1,), (2,), (3,), (777,)], "item int")
        denied = spark.createDataFrame([(2,), (9,)], "item int")
        rows = fitted.recommend(users, 99, allowedItems=allowed, deniedItems=denied).collect()
        assert {(row["user"], row["item"]) for row in rows} == {(u, i) for u in (0, 1) for i in (1, 3)}

    def test_users_are_recommended_what_they_may_be_shown(self, spark: SparkSession, fitted: Any) -> None:
        users = spark.createDataFrame([(user,) for user in range(4)], "user int")
        pairs = "user int, item int"
        groups = spark.createDataFrame([(2, 0), (3, None)], "user int, group int")
        request = ListRequest(
            99,
            allowed_pairs=spark.createDataFrame([(0, 1), (0, 2), (0, 777), (888, 1)], pairs),
            denied_pairs=spark.createDataFrame([(0, 2), (1, 3), (1, 777)], pairs),
            group_rules=GroupRules(
                groups, spark.createDataFrame([(0, 4), (0, 5), (0, 777)], "group int, item int")
            ),
        )
        listed: dict[int, set[int]] = {user: set() for user in range(4)}
        for row in explode_lists(fitted.recommend_lists(users, request)).collect():
            listed[row["user"]].add(row["item"])
        everything = set(range(ITEMS))
        assert listed == {0: {1}, 1: everything - {3}, 2: everything - {4, 5}, 3: everything}

    def test_the_best_of_each_shelf_are_the_first_of_it_in_the_whole_list(
        self, spark: SparkSession, fitted: Any
    ) -> None:
        users = spark.createDataFrame([(0,), (1,)], "user int")
        held = {"low": (0, 1, 2, 3, 777), "even": (0, 2, 4), "none": (999,)}
        rows = [(item, shelf) for shelf, items in held.items() for item in items]
        shelves = spark.createDataFrame(rows, "item int, shelf string")
        request = ListRequest(2, shelves=shelves)
        found = by_shelf(fitted.recommend_lists(users, request), shelves, 2)
        whole = fitted.recommend(users, 99).collect()
        expected = dict[tuple[int, str, int], float]()
        for user in (0, 1):
            scores = {row["item"]: row["score"] for row in whole if row["user"] == user}
            for shelf, items in held.items():
                best = sorted((scores[item] for item in items if item in scores), reverse=True)[:2]
                expected |= {(user, shelf, rank): score for rank, score in enumerate(best, start=1)}
        listed = {(row["user"], row["shelf"], row["rank"]): row for row in found.collect()}
        assert all(row["item"] in held[shelf] for (_, shelf, _), row in listed.items())
        assert {key: row["score"] for key, row in listed.items()} == pytest.approx(expected, rel=1e-4)

    def test_more_than_the_catalogue_gives_what_there_is(self, spark: SparkSession, fitted: Any) -> None:
        users = spark.createDataFrame([(0,)], "user int")
        assert len(fitted.recommend(users, 99).collect()) == ITEMS

    def test_user_with_everything_seen_gets_no_row(self, spark: SparkSession, fitted: Any) -> None:
        users = spark.createDataFrame([(0,), (1,)], "user int")
        everything = spark.createDataFrame([(0, i) for i in range(ITEMS)], "user int, item int")
        assert {row["user"] for row in fitted.recommend(users, 3, everything).collect()} == {1}

    def test_unknown_user_is_served_only_by_models_that_can(self, spark: SparkSession, fitted: Any) -> None:
        users = spark.createDataFrame([(0,), (777,)], "user int")
        served = {row["user"] for row in fitted.recommend(users, 3).collect()}
        assert served == ({0, 777} if fitted.scores_new_users else {0})

    def test_whom_and_what_it_serves_is_what_it_says(self, spark: SparkSession, fitted: Any) -> None:
        assert fitted.scores_new_users == (self.new_users == "everyone")
        able = fitted.folds_in and self.estimator().makes_models_that_fold_in
        assert able == (self.new_users in ("history", "everyone"))
        by_features = {"itemFeatureCols": self.new_items, "userFeatureCols": self.new_users}
        for name, served in by_features.items():
            assert served != "features" or self.estimator().hasParam(name)
        if self.new_users == "history":  # a newcomer with what the even users have, but for one item
            rows = [(500, item) for item in range(0, ITEMS, 2) if item != 4]
            history = spark.createDataFrame(rows, "user int, item int")
            newcomer = fitted.foldIn(history)
            (best, *_) = newcomer.recommend(history.select("user").distinct(), 2, history).collect()
            assert (best["user"], best["rank"]) == (500, 1)
            assert best["item"] == 4 or not self.learns_taste

    def test_seen_pairs_of_unknown_ids_do_no_harm(self, spark: SparkSession, fitted: Any) -> None:
        users = spark.createDataFrame([(0,)], "user int")
        odd = spark.createDataFrame([(0, 999), (888, 1), (0, 0), (0, 0)], "user int, item int")
        assert {row["item"] for row in fitted.recommend(users, 99, odd).collect()} == set(range(1, ITEMS))

    def test_ids_of_another_type_are_unknown_and_no_error(self, spark: SparkSession, fitted: Any) -> None:
        users = spark.createDataFrame([("0",), ("no number",)], "user string")
        odd = spark.createDataFrame(
            [("0", "no number"), ("no number", "1"), ("0", "0")], "user string, item string"
        )
        listed: dict[str, set[int]] = {}
        for row in fitted.recommend(users, 99, odd).collect():
            listed.setdefault(str(row["user"]), set()).add(row["item"])
        expected = {"0": set(range(1, ITEMS))}
        if fitted.scores_new_users:  # who has seen item 1
            expected["no number"] = {0, *range(2, ITEMS)}
        assert listed == expected

    @pytest.mark.parametrize("id_type", ID_TYPES)
    def test_ids_of_any_type_come_back_as_they_were(self, spark: SparkSession, id_type: str) -> None:
        data = checkerboard(spark, id_type)
        model = self.estimator().fit(data)
        rows = model.recommend(data.select("user").distinct(), 2, data)
        assert dict(rows.dtypes)["user"] == dict(rows.dtypes)["item"] == id_type
        names = {ID_TYPES[id_type](n) for n in range(USERS)}
        found = {row["user"]: row["item"] for row in rows.where("rank = 1").collect()}
        assert set(found) == names
        assert set(found.values()) <= names
        if self.learns_taste:
            assert found == {ID_TYPES[id_type](u): ID_TYPES[id_type](u % ITEMS) for u in range(USERS)}

    def test_same_seed_same_lists_on_any_partitioning(self, spark: SparkSession) -> None:
        lists = []
        for partitions in (1, 2, 7):
            data = checkerboard(spark, partitions=partitions)
            rows = self.estimator().fit(data).recommend(data.select("user").distinct(), 3, data)
            lists.append({(row["user"], row["rank"]): (row["item"], row["score"]) for row in rows.collect()})
        for other in lists[1:]:
            assert {key: item for key, (item, _) in other.items()} == {
                key: item for key, (item, _) in lists[0].items()
            }
            assert other == {
                key: (item, pytest.approx(score, rel=1e-3)) for key, (item, score) in lists[0].items()
            }

    def test_packed_histories_are_fitted_as_the_rows_are(self, spark: SparkSession, fitted: Any) -> None:
        data = checkerboard(spark)
        held = data.select(
            "user", (F.col("user") % ITEMS).alias("item"), F.lit(9.0).alias("rating")
        ).distinct()
        parts = data.withColumn("part", F.lit("train")).unionByName(held.withColumn("part", F.lit("test")))
        packed = pack_histories(parts.withColumn("timestamp", F.lit(None).cast("timestamp")), USERS * ITEMS)
        model = self.estimator().fit(packed.of("train"))
        users = data.select("user").distinct()
        lists = [
            sorted(
                map(tuple, made.recommend(users, 3, data).select("user", "rank", "item", "score").collect())
            )
            for made in (fitted, model)
        ]
        packed.unpersist()
        assert lists[0] == lists[1]

    def test_loaded_model_gives_the_same_rows(self, spark: SparkSession, fitted: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "model")
        fitted.write().save(path)
        loaded = type(fitted).load(path)
        data = checkerboard(spark)
        users = data.select("user").distinct()
        assert set(loaded.recommend(users, 5, data).collect()) == set(
            fitted.recommend(users, 5, data).collect()
        )
        assert (loaded.uid, loaded.getOrDefault("userCol")) == (fitted.uid, fitted.getOrDefault("userCol"))
        with pytest.raises(ModelError, match="still reads it"):
            loaded.write().overwrite().save(path)
        assert set(loaded.recommend(users, 5, data).collect()) == set(
            fitted.recommend(users, 5, data).collect()
        )

    def test_saving_twice_needs_overwrite(self, fitted: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "model")
        fitted.write().save(path)
        with pytest.raises(Exception, match=r"(?i)exist"):
            fitted.write().save(path)
        fitted.write().overwrite().save(path)
        assert type(fitted).load(path).uid == fitted.uid

    def test_damaged_or_foreign_folder_is_named(self, fitted: Any, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="nowhere"):
            type(fitted).load(str(tmp_path / "nowhere"))
        path = tmp_path / "model"
        fitted.write().save(str(path))
        (metadata,) = (path / "metadata").glob("part-*")
        (path / "metadata" / f".{metadata.name}.crc").unlink()
        metadata.write_text(metadata.read_text().replace(type(fitted).__name__, "Other"))
        with pytest.raises(ModelError, match="not a"):
            type(fitted).load(str(path))
        for damaged in ("{", "[]"):
            metadata.write_text(damaged)
            with pytest.raises(ModelError, match="is not a complete"):
                type(fitted).load(str(path))

    def test_truncated_file_of_a_model_is_named(self, fitted: Any, tmp_path: Path) -> None:
        path = tmp_path / "model"
        fitted.write().save(str(path))
        files = list(path.rglob("*.parquet"))
        assert files
        for file in files:
            file.with_name(f".{file.name}.crc").unlink()
            file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ModelError, match="is not a complete"):
            type(fitted).load(str(path))

    def test_sparks_nested_shape(self, spark: SparkSession, fitted: Any) -> None:
        rows = fitted.recommendForAllUsers(3)
        assert rows.schema["recommendations"].dataType.simpleString() == self.nested
        assert rows.columns == ["user", "recommendations"]
        found = {row["user"]: [entry["rating"] for entry in row["recommendations"]] for row in rows.collect()}
        assert set(found) == set(range(USERS))
        assert {len(scores) for scores in found.values()} == {3}
        some = spark.createDataFrame([(3,), (3,), (None,)], "user int")
        (row,) = fitted.recommendForUserSubset(some, 3).collect()
        # scores, not items: which of two that are all but equal comes first may depend on who else is served
        assert row["user"] == 3
        assert [entry["rating"] for entry in row["recommendations"]] == pytest.approx(found[3], rel=1e-4)

    def test_transform_adds_the_prediction_and_keeps_the_rest(self, spark: SparkSession, fitted: Any) -> None:
        data = checkerboard(spark).withColumn("note", F.lit("kept"))
        rows = fitted.transform(data)
        assert dict(rows.dtypes) == {**dict(data.dtypes), "prediction": "float"}
        assert rows.count() == data.count()
        listed = {
            (r["user"], r["item"]): r["score"]
            for r in fitted.recommend(data.select("user").distinct(), ITEMS).collect()
        }
        for row in rows.collect():
            assert row["prediction"] == pytest.approx(listed[row["user"], row["item"]], rel=1e-5)

    def test_any_column_of_the_input_comes_back_as_it_was(self, spark: SparkSession, fitted: Any) -> None:
        values = {
            "_user": "'a'",
            "_item": "2.5",
            "User vector": "array(1, null)",
            "item id": "map('a', 1)",
            "item.price": "3",
            "interval": "interval 3 months",
            "calendar": "make_interval(1, 2, 3)",
            "nothing": "array()",
        }
        data = checkerboard(spark).select("*", *(F.expr(value).alias(name) for name, value in values.items()))
        rows = fitted.transform(data)
        assert rows.dtypes == [*data.dtypes, ("prediction", "float")]
        texts = [F.to_json(F.struct(F.col(f"`{name}`").cast("string"))) for name in data.columns]
        assert sorted(rows.select(texts).collect()) == sorted(data.select(texts).collect())

    @pytest.mark.parametrize("name", ["prediction", "Prediction"])
    def test_a_prediction_that_is_there_already_is_refused(
        self, spark: SparkSession, fitted: Any, name: str
    ) -> None:
        with pytest.raises(ModelError, match=f"^the input has a column '{name}' already"):
            fitted.transform(checkerboard(spark).withColumn(name, F.lit(1)))

    def test_a_number_with_a_fraction_is_no_id(self, spark: SparkSession, fitted: Any) -> None:
        pairs = [(2.0, 4.0), (2.5, 4.0), (2.0, 4.5), (777.0, 4.0), (2.0, 777.0)]
        data = spark.createDataFrame(pairs, "user double, item double")
        found = {
            (row["user"], row["item"]): str(row["prediction"]) for row in fitted.transform(data).collect()
        }
        assert found.get((2.5, 4.0)) == found.get((777.0, 4.0))
        assert found.get((2.0, 4.5)) == found.get((2.0, 777.0))
        whole = spark.createDataFrame([(2, 4)], "user int, item int")
        assert [str(row["prediction"]) for row in fitted.transform(whole).collect()] == [found[2.0, 4.0]]
        lists = {row["user"] for row in fitted.recommendForUserSubset(data, 99).collect()}
        assert lists == ({2, 777} if fitted.scores_new_users else {2})
        (unseen,) = fitted.recommendForUserSubset(whole, 99, excludeSeen=data).collect()
        assert {entry["item"] for entry in unseen["recommendations"]} == set(range(ITEMS)) - {4}

    def test_works_in_a_pipeline_that_is_saved(self, spark: SparkSession, tmp_path: Path) -> None:
        data = checkerboard(spark)
        model = Pipeline(stages=[self.estimator()]).fit(data)
        model.write().save(str(tmp_path / "pipeline"))
        again = PipelineModel.load(str(tmp_path / "pipeline"))
        assert again.transform(data).where("prediction is not null").count() == data.count()
        assert sorted(again.transform(data).collect()) == sorted(model.transform(data).collect())

    def test_copy_has_its_own_params(self) -> None:
        estimator = self.estimator()
        other = estimator.copy({estimator.predictionCol: "other"})
        assert (estimator.getPredictionCol(), other.getPredictionCol()) == ("prediction", "other")
        assert other.uid == estimator.uid
