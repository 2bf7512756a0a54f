"""A second stage: trees that order what several models retrieve, or that predict ratings, by these models'
scores and by what is known of users and items.

Candidates are in :mod:`recsys_spark.recommend.candidates`, what is known of them in
:mod:`recsys_spark.recommend.candidate_features`, what tasks do in :mod:`recsys_spark.training.ranker`, and
the trees in :mod:`recsys_spark.training.trees`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, cast

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from recsys_spark.columns import quoted
from recsys_spark.console import progress_line
from recsys_spark.data.repeats import Consumption
from recsys_spark.data.split import leave_last_out, temporal_split
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, pack_histories
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.blend import cutoff_of
from recsys_spark.models.featured import KINDS, FeaturedEstimator
from recsys_spark.models.members import USUAL_MEMBERS, MembersEstimator
from recsys_spark.models.pair_model import packed_rows
from recsys_spark.models.ranker_model import (
    RATED,
    RankerModel,
    member_lists,
    member_predictions,
    vectors_of,
    with_blocks,
)
from recsys_spark.models.ranker_params import NO_NUMBERS, RankerParams
from recsys_spark.models.storage import Stored
from recsys_spark.packing import lists_of
from recsys_spark.params import check_ranges, keyword_constructor
from recsys_spark.recommend.candidate_features import (
    ItemFeatures,
    SideFeatures,
    consumed,
    feature_names,
    item_features,
    kept_names,
    user_features,
)
from recsys_spark.recommend.candidates import side_by_side
from recsys_spark.recommend.score_blocks import BLOCKS, item_blocks
from recsys_spark.recommend.top_n import ListRequest
from recsys_spark.schema import ITEM, PART, RATING, SEEDED, TEST, TIMESTAMP, TRAIN, USER
from recsys_spark.training.ranker import (
    querying,
    querying_ratings,
)
from recsys_spark.training.side_features import Scales
from recsys_spark.training.trees import QUERIES, SQUARED, Trees, TreesConfig, fit_trees, require_xgboost

JUDGED = 5
"""One user in so many judges how many trees there should be, and is in none."""


class KnownUsers(NamedTuple):
    """What users' features are made by.

    Attributes
    ----------
    names : of their side features
    columns : what these are made of
    scales : of the numbers among them
    now : days that ages are counted back from
    """

    names: list[str]
    columns: list[str]
    scales: Scales
    now: float


@dataclass(frozen=True)
class Known:
    """What is known of users and items at a time.

    Attributes
    ----------
    users : ``id``, ``values`` and ``profile``, arrays of float, with ``scoreBlocks`` vectors, and with events
        what each has consumed
    items : of the items
    names : of all features of a candidate
    of_users : what makes the same of other users
    """

    users: DataFrame
    items: ItemFeatures
    names: list[str]
    of_users: KnownUsers


class Division(NamedTuple):
    """Ratings before the labels, and the labels.

    Attributes
    ----------
    parts : of part ``train`` and of part ``test``
    left_out : pairs that lists do not hold; None for none
    events : those of part ``train``, where there are events
    """

    parts: PackedHistories
    left_out: PackedHistories | DataFrame | None
    events: DataFrame | None


class RankerRecommender(MembersEstimator, FeaturedEstimator, RankerParams):
    """Members list candidates, and gradient-boosted trees order them.

    The trees learn from what came last: the rows of ``labels`` are taken away, members are fitted on the
    others, and list candidates for users of whom they know nothing later; of those candidates the trees learn
    which ones came. Then members are fitted again, on all rows. With ``loss="squared"`` the trees learn the
    ratings of the labels instead, from the members' predictions of them.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of ids in the input.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds: the trees' score, a rating with ``loss="squared"`` alone.
    ratingCol, timestampCol : str, default "rating", "timestamp"
        Columns that members read, and features are made of; empty for none.
    members : dict, default {'als': {}, 'item_item': {}}
        Name of a model in the registry → its Params by name; at least one. It may be a blend.
    candidates : dict, default {}
        Name of a member → how many items it lists for a user, at least 1; 100 for those that are not named.
    labels : str, default "leave_last"
        What the trees learn from: ``leave_last``, the last rows of each user, ``temporal``, the last rows
        of all, or ``folds``, each row once. The first suits lists that are judged by each user's next item,
        the second what comes after a day, the third ratings that may be of any time.
    labelRows : int, default 1
        Rows of each user, for ``leave_last``, at least 1.
    labelFraction : float, default 0.1
        Fraction of all rows, for ``temporal``, between 0 and 1.
    numFolds : int, default 5
        Parts that ``folds`` makes of the rows at random, at least 2: of each, members that are fitted on the
        others know nothing (stacked generalisation, Wolpert 1992).
    minRating : float, default 0.0
        Rows with a rating below it are none of those that lists should have; not asked of ``squared``.
    metric : str, default "ndcg@10"
        What the number of trees is chosen by, on a fifth of the users, of whom no tree is made; with
        ``loss="squared"`` it is the RMSE.
    maxUsers : int, default 10000
        Users that the trees learn from, at most: those with the smallest hashes.
    maxCategories : int, default 50
        Values of a column of texts, the most frequent ones, at most.
    maxIter : int, default 300
        Trees, at most.
    loss : str, default "logistic"
        What the trees make small: ``logistic``, that of each candidate; ``lambdarank``, that of the order
        of a user's candidates (LambdaMART, Burges 2010), which wants more labels of each user; or
        ``squared``, the errors of ratings: lists are then in the order of predicted ratings.
    maxDepth : int, default 3
        Questions from a root to a leaf, at most.
    stepSize : float, default 0.05
        What each tree's answer is multiplied by, above 0 and at most 1.
    subsamplingRate : float, default 1.0
        Fraction of the candidates that each tree is made of, above 0 and at most 1.
    featureFraction : float, default 0.5
        Fraction of the features that each tree may ask about, above 0 and at most 1.
    regParam : float, default 1.0
        L2 regularisation of the trees' answers, at least 0.
    implicitPrefs : bool, default False
        Given to members that have it and whose Params do not.
    seed : int, default 42
        Of the trees, of labels of one time, and of members whose Params have none.
    userFeatureCols, itemFeatureCols : sequence of str, default ()
        Columns of ``userFeatures`` and ``itemFeatures`` that the trees may ask about, beside those that
        members read: text, arrays, or numbers. What is missing is missing, and not 0.
    scoreBlocks : sequence of str, default ()
        Members whose scores are told to the trees of every candidate, not of those alone that the member
        lists, and by blocks: what the strongest axis of its vectors adds, the next two, the next four and so
        on, and biases. Such as ``als``; their scores must be of vectors alone.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with pairs that are no candidates, or with ``loss="squared"`` have a user or
        an item that is not in the training data: ``nan`` or ``drop``.
    userFeatures, itemFeatures : DataFrame, optional
        One row per user or item: ``userCol`` or ``itemCol``, and the feature columns. Not saved with the
        estimator.
    events : DataFrame, optional
        One row per event: ``userCol``, ``itemCol``, ``timestampCol``, and ``ratingCol`` where that is not
        empty, of which a pair's rating is the sum. With it what was consumed before may be a label and a
        candidate, and trees may ask how often and how long ago it was consumed. Not saved with the estimator.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: a Param out of range, an unknown member, or one with a Param that is not valid.
    ModelError
        From ``fit``: what a member raises; one of ``scoreBlocks`` has no vectors; no candidate of any user is
        among the labels, or no rating; ids of ``events`` are of other types than those of the ratings.
    SetupError
        From ``fit``: xgboost is not installed; the session has no slot for training.

    Notes
    -----
    Members are fitted twice, with ``folds`` once for each and once more. Trees are made in one task for each
    slot; these hold the candidates of the users that trees learn from, ``4 * features`` bytes each, a few
    times. A task of lists has 500 users at a time. All items' features, ``4 * n_items * features`` bytes,
    pass through the driver and are broadcast. Over how many tasks the candidates are divided changes the
    trees a little: as many slots make the same trees.
    Needs the package ``xgboost`` (extra ``ranker``).

    Examples
    --------
    >>> from recsys_spark import RankerRecommender
    >>> rows = [(u, i, 1.0) for u in range(12) for i in range(8) if (u + i) % 2 == 0 and i != u % 8]
    >>> ratings = spark.createDataFrame(rows, "user int, item int, rating double")
    >>> members = {"popularity": {}, "item_item": {"weighting": "cosine"}}
    >>> model = RankerRecommender(members=members, maxIter=10, timestampCol="").fit(ratings)
    >>> model.recommendForUserSubset(ratings.where("user = 3"), 1, ratings).select(
    ...     "recommendations.item"
    ... ).show()
    +----+
    |item|
    +----+
    | [3]|
    +----+
    <BLANKLINE>
    """

    has_linear_scores = False
    never_members = ("ranker",)

    @property
    def makes_models_that_fold_in(self) -> bool:  # type: ignore[override]
        """Whether those of all members do, and trees know no events."""
        events = self.events is not None or self._consumption is not None
        return not events and super().makes_models_that_fold_in

    @property
    def predicts_ratings(self) -> bool:  # type: ignore[override]
        """True for squared loss."""
        return self.getLoss() == SQUARED

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = "user",
        itemCol: str = "item",
        predictionCol: str = "prediction",
        ratingCol: str = "rating",
        timestampCol: str = "timestamp",
        members: Mapping[str, Mapping[str, Any] | None] = USUAL_MEMBERS,
        candidates: Mapping[str, int] = NO_NUMBERS,
        labels: str = "leave_last",
        labelRows: int = 1,
        labelFraction: float = 0.1,
        numFolds: int = 5,
        minRating: float = 0.0,
        metric: str = "ndcg@10",
        maxUsers: int = 10_000,
        maxCategories: int = 50,
        maxIter: int = 300,
        loss: str = "logistic",
        maxDepth: int = 3,
        stepSize: float = 0.05,
        subsamplingRate: float = 1.0,
        featureFraction: float = 0.5,
        regParam: float = 1.0,
        implicitPrefs: bool = False,
        seed: int = SEEDED,
        userFeatureCols: list[str] | tuple[str, ...] = (),
        itemFeatureCols: list[str] | tuple[str, ...] = (),
        scoreBlocks: list[str] | tuple[str, ...] = (),
        coldStartStrategy: str = "nan",
        userFeatures: DataFrame | None = None,
        itemFeatures: DataFrame | None = None,
        events: DataFrame | None = None,
    ) -> None:
        super().__init__()
        self.events = events
        self._consumption: Consumption | None = None
        for side, frame in (("user", userFeatures), ("item", itemFeatures)):
            if frame is not None:
                self.set_features(side, frame)
        self._set_given()

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range, and members that cannot be built."""
        least = {
            "labelRows": 1,
            "maxUsers": 1,
            "maxCategories": 0,
            "maxIter": 1,
            "maxDepth": 1,
            "numFolds": 2,
            "regParam": 0,
        }
        allowed = {"labels": ("leave_last", "temporal", "folds"), "coldStartStrategy": ("nan", "drop")}
        allowed["loss"] = ("logistic", "lambdarank", SQUARED)
        check_ranges(self, least, allowed)
        if self.predicts_ratings and (self.getImplicitPrefs() or not self.getRatingCol()):
            raise ValueError("loss squared is of ratings: give ratingCol, and do not set implicitPrefs")
        for name in ("stepSize", "subsamplingRate", "featureFraction"):
            if not 0 < self.getOrDefault(name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {self.getOrDefault(name)}")
        if not 0 < self.getLabelFraction() < 1:
            raise ValueError(f"labelFraction must be between 0 and 1, got {self.getLabelFraction()}")
        if self.events is not None or self._consumption is not None:
            self.check_repeats()
        cutoff_of(self.getMetric())
        members, numbers = self.getMembers(), self.getCandidates()
        if not members:
            raise ValueError("members must be at least one model, got none")
        if not set(numbers) <= set(members) or min(numbers.values(), default=1) < 1:
            raise ValueError(
                f"candidates must have a number of at least 1 for some of {', '.join(members)}, got {numbers}"
            )
        estimators = self.estimators()
        for name in self.getScoreBlocks():
            if name not in members or not estimators[name].has_linear_scores:
                raise ValueError(
                    f"scoreBlocks must name members whose scores are of vectors, and has {name}; members are "
                    f"{', '.join(members)}"
                )

    def check_repeats(self) -> None:
        """Raise ``ValueError`` with a sentence for Params with which nothing is learnt of events."""
        if self.getLabels() == "folds" or not self.getTimestampCol():
            raise ValueError("events are divided by time: give timestampCol, and labels other than folds")
        if self.predicts_ratings:
            raise ValueError("events are of what is consumed again, and loss squared is of ratings")

    def feature_columns(self) -> dict[str, list[str]]:
        """Columns that the trees and members read features from, by side."""
        found = MembersEstimator.feature_columns(self)
        for side, own in FeaturedEstimator.feature_columns(self).items():
            found[side] = list(dict.fromkeys([*own, *found.get(side, [])]))
        return found

    def set_features(self, side: str, frame: DataFrame) -> None:
        """Let the trees and members read the features of a side from ``frame``.

        Parameters
        ----------
        side : str
            ``user`` or ``item``, one of :meth:`feature_columns`.
        frame : DataFrame
            One row per id: ``userCol`` or ``itemCol``, and the feature columns.
        """
        MembersEstimator.set_features(self, side, frame)
        FeaturedEstimator.set_features(self, side, frame)

    def set_consumption(self, consumption: Consumption) -> None:
        """Let the trees learn what users consume again, and when: labels are taken from events, and what was
        consumed before may be among them.

        Parameters
        ----------
        consumption : Consumption
            The events that the ratings are made of.
        """
        self._consumption = consumption

    def queries(self, dataset: DataFrame | PackedHistories) -> tuple[DataFrame, list[str]]:
        """What the trees learn from: candidates of members that do not know the labels. Fits the members.

        Parameters
        ----------
        dataset : DataFrame or PackedHistories
            As ``fit`` takes it.

        Returns
        -------
        queries : DataFrame
            One row per user: ``id``, ``candidates``, an array of items, those of the labels with
            ``loss="squared"``, and the columns of :data:`recsys_spark.training.trees.QUERIES`. Persisted
            while it is in use.
        names : list of str
            Of a candidate's features.
        """
        packed = dataset if isinstance(dataset, PackedHistories) else self._packed(dataset)
        try:
            made, names, stored = list[DataFrame](), list[str](), Stored()
            for place, division in enumerate(self._divided(packed)):
                rows, names = self._queries_of(division, place)
                made.append(rows)
                stored = Stored(rows, further=stored)
        finally:
            if packed is not dataset:
                packed.unpersist()
        return stored.hold(reduce(DataFrame.unionByName, made)), names

    def _queries_of(self, division: Division, place: int) -> tuple[DataFrame, list[str]]:
        """The queries of one division of the ratings, persisted, and the names of features. Its place among
        the divisions keeps their numbers apart.
        """
        parts = division.parts
        with ExitStack() as kept:
            kept.callback(parts.unpersist)
            history = parts.of(TRAIN)
            members = self._fitted_members(history, self.fit_member)
            for member in members.values():
                kept.callback(member.unpersist)
            known = self._known(history, members, division.events)
            users = self._labelled(parts, place).join(known.users, "id").persist()
            kept.callback(users.unpersist)
            user, item = parts.id_types
            schema = cast(T.StructType, T.StructType.fromDDL(QUERIES))
            schema.add("id", user).add("candidates", T.ArrayType(item))
            shared = parts.sparkSession.sparkContext.broadcast(known.items)
            tell = querying_ratings if self.predicts_ratings else querying
            asked = self._asked(members, users, division)
            rows = asked.mapInArrow(tell(shared, len(members)), schema).persist()
            rows.count()  # before what it is made of is released
        return rows, known.names

    def _asked(
        self, members: Mapping[str, RecommenderModel], users: DataFrame, division: Division
    ) -> DataFrame:
        """Users with what their queries are made of: members' lists, or their predictions of the labels."""
        parts = division.parts
        if not self.predicts_ratings:
            request = ListRequest(1, division.left_out)
            return side_by_side(member_lists(members, self.numbers(), users, request), users)
        user, item = self.getUserCol(), self.getItemCol()
        rated = parts.of(TEST).rows(USER, ITEM, RATING).dropna()
        renamed = rated.withColumnsRenamed({USER: user, ITEM: item, RATING: RATED})
        theirs = renamed.join(users.select(F.col("id").alias(user)), user, "left_semi")
        return member_predictions(members, theirs, user, item).join(users, "id")

    def _fit(self, dataset: DataFrame | PackedHistories) -> RankerModel:
        self.check()
        require_xgboost()
        packed = dataset if isinstance(dataset, PackedHistories) else self._packed(dataset)
        try:
            queries, names = self.queries(packed)
            trees = self._trees(queries, names)
            del queries  # which frees them
            model = self._model(packed, trees, self._events())
        except BaseException:
            if packed is not dataset:
                packed.unpersist()
            raise
        model.features = names
        return self._copyValues(model._store(*([] if packed is dataset else [packed.packed])))

    def _trees(self, queries: DataFrame, names: list[str]) -> Trees:
        metric, k = cutoff_of(self.getMetric())
        config = TreesConfig(
            trees=self.getMaxIter(),
            loss=self.getLoss(),
            depth=self.getMaxDepth(),
            step_size=self.getStepSize(),
            sampling=self.getSubsamplingRate(),
            features=self.getFeatureFraction(),
            regularization=self.getRegParam(),
            metric=metric,
            k=k,
            seed=self.getSeed(),
        )
        trees = fit_trees(queries, names, config)
        if trees.measured:
            value, what = trees.measured[trees.number], "rmse" if self.predicts_ratings else self.getMetric()
            progress_line(f"  {trees.number} trees: {what} {value:.4f} on users of whom no tree is made")
        return trees

    def _model(
        self, histories: PackedHistories, trees: Trees, consumption: Consumption | None
    ) -> RankerModel:
        """The members, fitted on everything, and what is known then."""
        members = self._fitted_members(histories, self.member_of)
        events = None if consumption is None else consumption.events
        known = self._known(histories, members, events)
        users, items = known.users.persist(), known.items
        users.count()
        fields = [T.StructField("id", histories.id_types[1])]
        fields.append(T.StructField("values", T.ArrayType(T.FloatType())))
        table = pa.table([items.ids, lists_of(items.values)], names=["id", "values"])
        if items.blocks is not None:
            fields.append(T.StructField(BLOCKS, T.ArrayType(T.FloatType())))
            table = table.append_column(BLOCKS, lists_of(items.blocks.vectors))
        spark = histories.sparkSession
        saved = spark.createDataFrame([(bytearray(trees.saved),)], "trees binary")
        model = RankerModel(users, spark.createDataFrame(table, T.StructType(fields)), saved)
        model.gains = trees.gains
        model.of_users = list(known.of_users)
        model.matched = {column: list(bounds) for column, bounds in items.matched.items()}
        if items.blocks is not None:
            model.blocks = {name: list(bounds) for name, bounds in items.blocks.bounds.items()}
            model.turns = {name: turn.tolist() for name, turn in items.blocks.turns.items()}
        model.take_members(members)
        return model._store(users)

    def _fitted_members(
        self, histories: PackedHistories, fit: Callable[..., RecommenderModel]
    ) -> dict[str, RecommenderModel]:
        """The members, fitted one after the other by :meth:`fit_member` or :meth:`member_of`."""
        names = self.getUserCol(), self.getItemCol(), self.getRatingCol() or RATING, self.getTimestampCol()
        given: DataFrame | PackedHistories = histories
        if names != (USER, ITEM, RATING, TIMESTAMP):
            user, item, rating, timestamp = names
            renamed = {USER: user, ITEM: item, RATING: rating, TIMESTAMP: timestamp or TIMESTAMP}
            given = histories.rows(*renamed).withColumnsRenamed(renamed)
        return {name: fit(name, one, given) for name, one in self.estimators().items()}

    def _packed(self, rows: DataFrame) -> PackedHistories:
        columns = self.getUserCol(), self.getItemCol(), self.getRatingCol(), self.getTimestampCol()
        return packed_rows(rows, *columns)

    def _events(self) -> Consumption | None:
        """What was consumed, as it was given."""
        if self.events is None:
            return self._consumption
        rating, timestamp = self.getRatingCol(), self.getTimestampCol()
        names = {
            self.getUserCol(): USER,
            self.getItemCol(): ITEM,
            rating or RATING: RATING,
            timestamp: TIMESTAMP,
        }
        worth = self.events if rating else self.events.withColumn(RATING, F.lit(1.0))
        return Consumption.of_rows(
            worth.select(*(F.col(quoted(own)).alias(name) for own, name in names.items()))
        )

    def _divided(self, packed: PackedHistories) -> Iterator[Division]:
        """The ratings with what the trees learn from as ``test``, once or for each fold."""
        consumption = self._events()
        if consumption is not None:
            yield self._divided_events(packed, consumption)
            return
        for parts in self._divided_rows(packed):
            yield Division(parts, parts.of(TRAIN), None)

    def _divided_events(self, packed: PackedHistories, consumption: Consumption) -> Division:
        """What is consumed before the labels, and the labels, which may be of what was consumed before."""
        rows, by_user = packed.rows(USER, ITEM, RATING, TIMESTAMP), self.getLabels() == "leave_last"
        if by_user:
            parts = leave_last_out(rows, self.getLabelRows(), self.getSeed())
        else:
            parts = temporal_split(rows, 0.0, self.getLabelFraction())
        for name, kind in zip((USER, ITEM), packed.id_types, strict=True):
            if consumption.events.schema[name].dataType != kind:
                own = consumption.events.schema[name].dataType.simpleString()
                raise ModelError(f"the {name}s of events are {own}, and of ratings {kind.simpleString()}")
        divided = consumption.divided(parts, by_user)
        known = divided.before(TEST).events
        return Division(
            pack_histories(divided.in_parts(TEST), 2 * packed.size), divided.seen_before(TEST), known
        )

    def _divided_rows(self, packed: PackedHistories) -> Iterator[PackedHistories]:
        rows, folds = packed.rows(USER, ITEM, RATING, TIMESTAMP), self.getNumFolds()
        if self.getLabels() == "temporal":
            tests = [temporal_split(rows, 0.0, self.getLabelFraction())]
        elif self.getLabels() == "folds":
            own = F.pmod(F.xxhash64(F.lit(self.getSeed()), USER, ITEM), F.lit(folds))
            tests = [rows.withColumn(PART, F.when(own == fold, F.lit(TEST))) for fold in range(folds)]
        else:
            tests = [leave_last_out(rows, self.getLabelRows(), self.getSeed())]
        known = F.when(F.col(PART) == TEST, F.lit(TEST)).otherwise(F.lit(TRAIN))
        for parts in tests:
            yield pack_histories(parts.withColumn(PART, known), packed.size)

    def _labelled(self, parts: PackedHistories, place: int) -> DataFrame:
        """Users that trees learn from: ``id``, ``wanted``, an array of items, ``query``, ``validation``."""
        seed, wanted = self.getSeed(), parts.of(TEST).rows(USER, ITEM, RATING)
        if self.predicts_ratings:
            wanted = wanted.where(F.col(RATING).isNotNull())
        else:
            wanted = wanted.where(F.coalesce(F.col(RATING) >= self.getMinRating(), F.lit(True)))
        users = wanted.groupBy(F.col(USER).alias("id")).agg(F.collect_set(ITEM).alias("wanted"))
        chance = F.xxhash64(F.lit(seed), "id")
        some = users.orderBy(chance, "id").limit(self.getMaxUsers())
        number = F.row_number().over(Window.orderBy(chance, "id"))
        folds = self.getLabels() == "folds"  # in all of which a user judges, or in none
        judged = F.pmod(chance if folds else number, F.lit(JUDGED)) == 0
        query = number * self.getNumFolds() + place if folds else number
        return some.select("id", "wanted", query.cast("int").alias("query"), judged.alias("validation"))

    def _known(
        self,
        histories: PackedHistories,
        members: Mapping[str, RecommenderModel],
        events: DataFrame | None,
    ) -> Known:
        """What is known of users and items from some histories, what was fitted on them, their events, and
        side features.
        """
        kinds = tuple(map(to_arrow_type, histories.id_types))
        entries, scales = self.side_entries(kinds)
        sides = {
            side: SideFeatures(entries[kind], self.feature_columns()[side])
            for side, kind in KINDS.items()
            if kind in entries
        }
        most = self.getMaxCategories()
        items, now = item_features(histories, sides.get("item"), most)
        of_users = kept_names(sides["user"], most) if "user" in sides else []
        users = user_features(histories, items, now, sides.get("user"), of_users)
        if events is not None:
            users = users.join(consumed(events, now), "id", "left")
        if self.getScoreBlocks():
            vectors = vectors_of(self, members)
            items = items._replace(blocks=item_blocks(vectors, items.ids))
            users = with_blocks(users, vectors, items)
        known_users = KnownUsers(
            of_users, self.feature_columns().get("user", []), scales.get("user", {}), now
        )
        names = feature_names(list(members), of_users, items, events is not None)
        return Known(users, items, names, known_users)
