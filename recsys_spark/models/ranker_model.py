"""What a ranker knows: its members, its trees, and what these ask about users and items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import matching_id, quoted, require_new, unused
from recsys_spark.errors import ModelError
from recsys_spark.kernels.arrays import Doubles
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.featured import feature_entries
from recsys_spark.models.members import folded_members
from recsys_spark.models.pair_model import packed_known_rows
from recsys_spark.models.persistence import FramesModel
from recsys_spark.models.ranker_params import RankerParams
from recsys_spark.models.storage import Stored
from recsys_spark.packing import one_array
from recsys_spark.recommend.candidate_features import (
    CONSUMED,
    ItemFeatures,
    SideFeatures,
    user_features,
)
from recsys_spark.recommend.candidates import candidates, side_by_side
from recsys_spark.recommend.score_blocks import BLOCKS, ItemBlocks, nothing_known, user_blocks
from recsys_spark.recommend.scores import LinearScores
from recsys_spark.recommend.top_n import REASON, RECOMMENDATIONS, ListRequest, distinct_ids, explode_lists
from recsys_spark.schema import ITEM, RANK, RATING, SCORE, USER
from recsys_spark.training.ranker import (
    PAIRS,
    explaining,
    ordering,
    predicting,
    rows_of_lists,
    score_of,
)
from recsys_spark.training.trees import SQUARED

RATED = "rating of a label"
"""Column of :func:`member_predictions`."""


class RankerModel(FramesModel, RecommenderModel, RankerParams):
    """Fitted members, trees, and what these may ask about users and items.

    Attributes
    ----------
    users : DataFrame
        One row per user: ``id``, ``values`` and ``profile``, arrays of float, as
        :func:`recsys_spark.recommend.candidate_features.user_features` makes them; with events ``consumed``,
        and with ``scoreBlocks`` ``blocks``, array<float>.
    items : DataFrame
        One row per item: ``id``, ``values`` array<float>, with ``scoreBlocks`` ``blocks``, array<float>.
    trees : DataFrame
        One row: ``trees``, as xgboost saves them.
    features : list of str
        Names of a candidate's features.
    gains : dict
        Name of a feature that the trees ask about → what a question about it gains, on average.
    matched : dict
        Column of texts of the items → first and end of its values among those of ``items``.
    blocks : dict
        Name of a feature → first and end of its places in the vectors ``blocks``.
    turns : dict
        Member → rows of the matrix that turns its users' vectors to those of ``blocks``.
    of_users : list
        Names of users' side features, their columns and scales, and days that ages are counted back from.
    """

    folds_in: ClassVar[bool] = True

    def __init__(self, users: DataFrame, items: DataFrame, trees: DataFrame) -> None:
        super().__init__()
        self.users = users
        self.items = items
        self.trees = trees
        self.features: list[str] = []
        self.gains: dict[str, float] = {}
        self.matched: dict[str, list[int]] = {}
        self.blocks: dict[str, list[int]] = {}
        self.turns: dict[str, list[list[float]]] = {}
        self.of_users: list[Any] = []
        self._stored: Stored | None = None
        self._on_driver: tuple[ItemFeatures, bytes] | None = None

    def known_users(self) -> DataFrame:
        """One row per user of the training data: ``user``."""
        return self.users.select(F.col("id").alias(USER))

    def foldIn(
        self, histories: DataFrame, ratingCol: str | None = None, userFeatures: DataFrame | None = None
    ) -> RankerModel:
        """A model of other users, whom each member folds in, and of whom the same features are made: the
        trees and what is known of the items stay as they are.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``, ``itemCol``, and ``ratingCol`` if it is named; items that the model does not know add
            nothing. Times are read where ``timestampCol`` is among the columns.
        ratingCol : str, optional
            Column of ratings; without it every row counts 1.
        userFeatures : DataFrame, optional
            As in the fit; without it no user has any.

        Returns
        -------
        RankerModel
            Its users are those of ``histories``. What the members' ``foldIn`` costs, two shuffles of the
            histories, and one of the features.

        Raises
        ------
        ModelError
            A member folds no users in, or the trees know events.
        """
        if CONSUMED in self.users.columns:
            raise ModelError("the trees know what users have consumed, and when: fit the model again")
        user, item, timestamp = self.getUserCol(), self.getItemCol(), self.getTimestampCol()
        members = folded_members(self.member_models(), histories, ratingCol, userFeatures)
        times = timestamp if timestamp in histories.columns else ""
        packed = packed_known_rows(histories, user, item, ratingCol, self.items, times)
        names, columns, scales, now = self.of_users
        side, items = None, self._item_features()
        if columns and userFeatures is not None:
            entries = feature_entries(userFeatures, user, columns, scales, packed.id_types[0])
            side = SideFeatures(entries, columns)
        users = user_features(packed, items, now, side, names)
        if self.blocks:
            users = with_blocks(users, vectors_of(self, members), items)
        model = self.copy()
        model.take_members(members)
        model.users = users.persist()
        return model._store(model.users, packed.packed)

    def recommend_lists(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """Best candidates of each known user; see :meth:`RecommenderModel.recommend_lists`. An entry has a
        ``reason`` too: the member that ranks it highest. Cost: the members' lists, a shuffle of each, and the
        trees.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Length, seen pairs, allowed and denied items, bounds of memory.
        """
        return self._ordered(users, request, request.length)

    def _ordered(self, users: DataFrame, request: ListRequest, n: int) -> DataFrame:
        """The best ``n`` of what members list."""
        entry = [
            T.StructField(ITEM, self.items.schema["id"].dataType),
            T.StructField(SCORE, T.FloatType()),
            T.StructField(REASON, T.StringType()),
        ]
        kinds = {"id": self.users.schema["id"].dataType, RECOMMENDATIONS: T.ArrayType(T.StructType(entry))}
        schema = T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])
        rows, shared = self._candidates(users, request)
        return self._held(rows.mapInArrow(ordering(shared, list(self.member_models()), n), schema))

    def _candidates(self, users: DataFrame, request: ListRequest) -> tuple[DataFrame, Broadcast[Any]]:
        """Known users with the members' lists, and what tasks need to order these."""
        wanted = self.users.join(distinct_ids(users, USER, self.users), "id", "left_semi")
        lists = member_lists(self.member_models(), self.numbers(), wanted, request)
        return side_by_side(lists, wanted), self._shared()

    def candidate_rows(self, users: DataFrame, request: ListRequest) -> DataFrame:
        """What members list for users, which the trees order.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Of the lists.

        Returns
        -------
        DataFrame
            One row per (user, item): ``user``, ``item``, and for each member ``<name>_score`` float and
            ``<name>_rank`` int, from 1: null where it does not list the item. Cost: the members' lists, and a
            shuffle of each.
        """
        wanted = self.users.join(distinct_ids(users, USER, self.users), "id", "left_semi")
        return self._held(candidates(member_lists(self.member_models(), self.numbers(), wanted, request)))

    def _shared(self) -> Broadcast[Any]:
        """What is known of items, and the trees, for tasks."""
        if self._on_driver is None:
            self._on_driver = self._item_features(), bytes(self.trees.collect()[0]["trees"])
        return self.users.sparkSession.sparkContext.broadcast(self._on_driver)

    def explain(self, users: DataFrame, request: ListRequest, features: int = 5) -> DataFrame:
        """What puts an item where it is in a list: the features that add most to its score, or take most off.

        Parameters
        ----------
        users : DataFrame
            ``user``, unique.
        request : ListRequest
            Of the lists.
        features : int
            How many for each item, at most.

        Returns
        -------
        DataFrame
            One row per (user, rank, feature): ``user``, ``item``, ``rank``, ``feature``, ``value`` float, NaN
            where it is missing, and ``contribution`` float (SHAP values): those of all features of an item
            add up to its score, less a number that is the same for all. Cost: that of the lists, and that of
            the answers for what is listed.
        """
        kinds = {USER: self.users.schema["id"].dataType, ITEM: self.items.schema["id"].dataType}
        kinds |= {RANK: T.IntegerType(), "feature": T.StringType(), "value": T.FloatType()}
        kinds["contribution"] = T.FloatType()
        schema = T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])
        rows, shared = self._candidates(users, request)
        told = explaining(shared, len(self.member_models()), request.n, self.features, features)
        return self._held(rows.mapInArrow(told, schema))

    def importances(self) -> DataFrame:
        """What the trees ask about.

        Returns
        -------
        DataFrame
            One row per feature of a candidate: ``feature``, and ``gain`` double: what a question about it
            gains on average, 0 where there is none.
        """
        rows = [(name, self.gains.get(name, 0.0)) for name in self.features]
        return self.users.sparkSession.createDataFrame(rows, "feature string, gain double")

    def unpersist(self) -> None:
        """Release the cached result of the fit, the members' too. Save and reload the model first: using it
        afterwards re-runs the fit.
        """
        self._on_driver = None
        for member in self.member_models().values():
            member.unpersist()
        if self._stored is not None:
            self._stored.unpersist()

    def frames(self) -> dict[str, DataFrame]:
        """Users, items and trees."""
        return {"users": self.users, "items": self.items, "trees": self.trees}

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames."""
        return ("users", "items", "trees")

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of users, items and trees; it has no members yet.

        Parameters
        ----------
        frames : dict
            Name of a frame → DataFrame.
        """
        return cls(frames["users"], frames["items"], frames["trees"])

    def fitted_values(self) -> dict[str, Any]:
        """Names and gains of features, which may match a user's, blocks of scores, and what other users'
        features are made by.
        """
        told = {"features": self.features, "gains": self.gains, "matched": self.matched}
        return {**told, "blocks": self.blocks, "turns": self.turns, "of_users": self.of_users}

    def _store(self, *kept: DataFrame) -> Self:
        """Let the model keep what is persisted."""
        self._stored = Stored(*kept, further=self._stored)
        for own in self.frames().values():
            self._held(own)
        return self

    def _held(self, frame: DataFrame) -> DataFrame:
        frame._made_from = self.member_models()  # type: ignore[attr-defined]
        return frame if self._stored is None else self._stored.hold(frame)

    def _item_features(self) -> ItemFeatures:
        table = self.items.toArrow().combine_chunks().sort_by("id")
        matched = {column: (bounds[0], bounds[1]) for column, bounds in self.matched.items()}
        values, blocks = rows_of_lists(one_array(table["values"])), None
        if self.blocks:
            bounds = {name: (first, end) for name, (first, end) in self.blocks.items()}
            blocks = ItemBlocks(rows_of_lists(one_array(table[BLOCKS])), bounds, self._turns())
        return ItemFeatures(one_array(table["id"]), values, (), matched, blocks)

    def _turns(self) -> dict[str, Doubles]:
        return {name: np.array(turn).reshape(len(turn), len(turn)) for name, turn in self.turns.items()}

    def _predicted(self, pairs: DataFrame) -> DataFrame:
        """Ratings of pairs of known users and items, as ``user``, ``item``, ``score``."""
        names = self.getUserCol(), self.getItemCol()
        for name, known in zip(names, (self.users, self.items), strict=True):
            pairs = pairs.join(known.select(F.col("id").alias(name)), name, "left_semi")
        rows = member_predictions(self.member_models(), pairs, *names).join(self.users, "id")
        kinds = {USER: self.users.schema["id"].dataType, ITEM: self.items.schema["id"].dataType}
        kinds[SCORE] = T.FloatType()
        schema = T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])
        return rows.mapInArrow(predicting(self._shared(), len(self.member_models())), schema)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        """Add the predicted rating with the squared loss; otherwise the score of a pair that is a candidate
        of the user, with what is seen; NaN for others.
        """
        prediction = self.getOrDefault(self.predictionCol)
        require_new(dataset, [prediction], "transform")
        kinds = {USER: self.users.schema["id"].dataType, ITEM: self.items.schema["id"].dataType}
        asked = {USER: unused("user id", dataset), ITEM: unused("item id", dataset)}
        user = matching_id(dataset, self.getUserCol(), kinds[USER])
        item = matching_id(dataset, self.getItemCol(), kinds[ITEM])
        score = unused("score", dataset)
        if self.getLoss() == SQUARED:
            pairs = dataset.select(user.alias(self.getUserCol()), item.alias(self.getItemCol()))
            every = self._predicted(pairs.dropna().distinct())
        else:
            users = dataset.select(user.alias(USER)).where(F.col(USER).isNotNull()).distinct()
            every = explode_lists(self._ordered(users, ListRequest(1), sum(self.numbers().values())))
        scores = every.select(
            F.col(USER).alias(asked[USER]), F.col(ITEM).alias(asked[ITEM]), F.col(SCORE).alias(score)
        )
        same = (user == F.col(asked[USER])) & (item == F.col(asked[ITEM]))
        found = F.coalesce(F.col(score), F.lit(float("nan")).cast("float"))
        rows = dataset.join(scores, same, "left").withColumn(prediction, found).drop(score, *asked.values())
        if self.getColdStartStrategy() == "drop":
            rows = rows.where(~F.isnan(quoted(prediction)))
        return self._held(rows)


def vectors_of(asked: RankerParams, members: Mapping[str, RecommenderModel]) -> dict[str, LinearScores]:
    """What the scores of ``scoreBlocks`` are made of.

    Parameters
    ----------
    asked : RankerParams
        Says which members.
    members : mapping of str to RecommenderModel
        By name.
    """
    found = {name: members[name].linear_scores() for name in asked.getScoreBlocks()}
    return {name: scores for name, scores in found.items() if scores is not None}


def with_blocks(users: DataFrame, members: Mapping[str, LinearScores], items: ItemFeatures) -> DataFrame:
    """Users with the vectors by which scores are told by blocks.

    Parameters
    ----------
    users : DataFrame
        ``id``.
    members : mapping of str to LinearScores
        Of :func:`vectors_of`.
    items : ItemFeatures
        Those of the items.

    Returns
    -------
    DataFrame
        With ``blocks``, array<float>.
    """
    assert items.blocks is not None  # noqa: S101
    vectors = user_blocks(members, items.blocks.turns)
    missing = nothing_known(items.blocks.vectors.shape[1])
    return users.join(vectors, "id", "left").withColumn(BLOCKS, F.coalesce(BLOCKS, missing))


def member_predictions(
    members: Mapping[str, RecommenderModel], pairs: DataFrame, user: str, item: str
) -> DataFrame:
    """What each member predicts of some pairs.

    Parameters
    ----------
    members : mapping of str to RecommenderModel
        By name.
    pairs : DataFrame
        The columns that members read ids from; for labels their ratings too.
    user, item : str
        Names of the ids' columns.

    Returns
    -------
    DataFrame
        One row per user: ``id`` and :data:`recsys_spark.training.ranker.PAIRS`. The members' joins, and a
        shuffle of the pairs.
    """
    entry = [F.col(quoted(item)).alias(ITEM)]
    if RATED in pairs.columns:
        entry.append(F.col(quoted(RATED)).cast("float").alias(RATING))
    for place, member in enumerate(members.values()):
        if member.hasParam("coldStartStrategy"):
            member = member.copy({member.getParam("coldStartStrategy"): "nan"})
        predicted, name = member.transform(pairs), member.getOrDefault("predictionCol")
        pairs = predicted.withColumnRenamed(name, score_of(place))
        entry.append(F.col(score_of(place)).cast("float").alias(score_of(place)))
    own = F.collect_list(F.struct(*entry)).alias(PAIRS)
    return pairs.groupBy(F.col(quoted(user)).alias("id")).agg(own)


def member_lists(
    members: Mapping[str, RecommenderModel],
    numbers: Mapping[str, int],
    users: DataFrame,
    request: ListRequest,
) -> dict[str, DataFrame]:
    """Each member's lists of some users, as long as its number, or as the request asks for.

    Parameters
    ----------
    members : mapping of str to RecommenderModel
        By name.
    numbers : mapping of str to int
        Name → how many items.
    users : DataFrame
        ``id``.
    request : ListRequest
        Of the lists that are made of them.
    """
    asked = users.select(F.col("id").alias(USER))
    return {
        name: member.recommend_lists(asked, replace(request, n=max(request.n, numbers[name])))
        for name, member in members.items()
    }
