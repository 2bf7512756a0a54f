"""A weighted sum of several models' standardised scores.

How scores are standardised and added is in :mod:`recsys_spark.recommend.blend`; how weights are chosen in
:mod:`recsys_spark.kernels.blend`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

from pyspark.ml.param import Param, TypeConverters
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import matching_id
from recsys_spark.console import progress_line
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.kernels import metrics as kernels
from recsys_spark.kernels.blend import greedy_weights
from recsys_spark.kernels.metrics import ACCURACY
from recsys_spark.models.base import RecommenderModel
from recsys_spark.models.members import USUAL_MEMBERS, MemberParams, MembersEstimator, folded_members
from recsys_spark.models.pair_model import PairModel
from recsys_spark.params import check_ranges, keyword_constructor, param
from recsys_spark.recommend.blend import (
    Member,
    blended,
    blended_users,
    candidates,
    contributions,
    standardized,
)
from recsys_spark.schema import ITEM, NEIGHBOR, SEEDED, USER
from recsys_spark.training.item_item import WEIGHT

_NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})
CANDIDATES = 10
"""Items of each member among which lists are compared, for each item of a list."""


def to_weights(value: object) -> dict[str, float]:
    """Names of members with their weights.

    Parameters
    ----------
    value : mapping
        Name → number.

    Raises
    ------
    TypeError
        It is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"memberWeights must map the name of each member to a number, got {value!r}")
    return {str(name): TypeConverters.toFloat(weight) for name, weight in value.items()}


class BlendParams(MemberParams):
    """The Params that the estimator shares with its model."""

    memberWeights: Param[dict[str, float]] = param(
        "memberWeights", "weight of each member; empty to choose them on validation rows", to_weights
    )
    metric: Param[str] = param(
        "metric",
        "what weights are chosen by: a metric and its cut-off, such as ndcg@10",
        TypeConverters.toString,
    )
    steps: Param[int] = param(
        "steps",
        "steps of the choice: weights are multiples of one over a number of them",
        TypeConverters.toInt,
    )
    maxUsers: Param[int] = param(
        "maxUsers", "most users with validation rows that weights are chosen by", TypeConverters.toInt
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(memberWeights={}, metric="ndcg@10", steps=20, maxUsers=10_000)

    def getMemberWeights(self) -> dict[str, float]:
        """Weight of each member; empty where they are to be chosen."""
        return self.getOrDefault(self.memberWeights)

    def getMetric(self) -> str:
        """What weights are chosen by."""
        return self.getOrDefault(self.metric)

    def getSteps(self) -> int:
        """Steps of the choice."""
        return self.getOrDefault(self.steps)

    def getMaxUsers(self) -> int:
        """Most users that weights are chosen by."""
        return self.getOrDefault(self.maxUsers)


class BlendRecommender(MembersEstimator, BlendParams):
    """A score is the weighted sum of several models' scores, each standardised over the catalogue.

    Weights are chosen on validation rows alone (:meth:`set_validation`), by forward selection with
    replacement (Caruana et al. 2004); without such rows they are equal.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of ids in the input.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds: the score, no rating.
    ratingCol, timestampCol : str, default "rating", "timestamp"
        Columns that members read.
    members : dict, default {'als': {}, 'item_item': {}}
        Name of a model in the registry → its Params by name; at least two.
    memberWeights : dict, default {}
        Name of a member → its weight, at least 0; without it weights are chosen.
    metric : str, default "ndcg@10"
        What they are chosen by.
    steps : int, default 20
        Steps of the choice, at least 1: weights are multiples of one over a number of steps.
    maxUsers : int, default 10000
        Users with validation rows that weights are chosen by, at most: those with the smallest hashes.
    implicitPrefs : bool, default False
        Given to members that have it and whose Params do not.
    seed : int, default 42
        Of members whose Params have none.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with unknown users and items: ``nan`` or ``drop``.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: a Param out of range, an unknown member, or one with a Param that is not valid.
    ModelError
        From ``fit``: what a member raises; a member whose scores are no sums, such as a network's.

    Notes
    -----
    Members are fitted one after the other. Their vectors lie side by side in one model; users and items that
    a member does not know are left out. Members are kept beside it, and fold other users in. Lists cost what
    one model costs whose rank is the sum of the ranks. Standardising costs a member with weights of pairs its
    scores of all users once, and others the square of the rank for each user. To choose weights, the best
    ``10 k`` items by each member of at most ``maxUsers`` users are collected: ``4 * members² * 10 k`` bytes
    each. Weights of pairs pass through the driver: some 80 bytes each at the peak.

    Examples
    --------
    >>> from recsys_spark import BlendRecommender
    >>> rows = [("ann", "tea"), ("ann", "jam"), ("bob", "tea"), ("bob", "jam"), ("cid", "tea")]
    >>> ratings = spark.createDataFrame(rows, "user string, item string")
    >>> members = {"popularity": {}, "item_item": {"weighting": "cosine"}}
    >>> model = BlendRecommender(members=members, ratingCol="").fit(ratings)
    >>> model.getMemberWeights()
    {'popularity': 0.5, 'item_item': 0.5}
    >>> model.recommend(ratings.select("user").distinct(), 1, ratings).select("user", "item").show()
    +----+----+
    |user|item|
    +----+----+
    | cid| jam|
    +----+----+
    <BLANKLINE>
    """

    chooses_on_validation = True
    never_members = ("blend",)

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
        memberWeights: Mapping[str, float] = _NO_WEIGHTS,
        metric: str = "ndcg@10",
        steps: int = 20,
        maxUsers: int = 10_000,
        implicitPrefs: bool = False,
        seed: int = SEEDED,
        coldStartStrategy: str = "nan",
    ) -> None:
        super().__init__()
        self._validation: DataFrame | None = None
        self._left_out: DataFrame | None = None
        self._set_given()

    def setMemberWeights(self, value: Mapping[str, float]) -> Self:
        """Set the weights.

        Parameters
        ----------
        value : mapping
            Name of a member → its weight, at least 0; empty to choose them.
        """
        return self._set(memberWeights=value)

    def setMetric(self, value: str) -> Self:
        """Set what weights are chosen by.

        Parameters
        ----------
        value : str
            A metric and its cut-off, such as ``ndcg@10``.
        """
        return self._set(metric=value)

    def setSteps(self, value: int) -> Self:
        """Set the steps of the choice.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(steps=value)

    def setMaxUsers(self, value: int) -> Self:
        """Set how many users weights are chosen by.

        Parameters
        ----------
        value : int
            At least 1.
        """
        return self._set(maxUsers=value)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range, and members that cannot be built."""
        check_ranges(self, {"steps": 1, "maxUsers": 1}, {"coldStartStrategy": ("nan", "drop")})
        cutoff_of(self.getMetric())
        members, weights = self.getMembers(), self.getMemberWeights()
        if len(members) < 2:
            raise ValueError(f"members must be at least two models, got {list(members)}")
        if weights and (
            set(weights) != set(members) or min(weights.values()) < 0 or not any(weights.values())
        ):
            raise ValueError(
                f"memberWeights must have a number of at least 0 for each of {', '.join(members)}, and one "
                f"above 0, got {weights}"
            )
        for name, estimator in self.estimators().items():
            if not estimator.has_linear_scores:
                raise ValueError(f"member {name} has scores that are no sums, and cannot be blended")

    def set_validation(self, rows: DataFrame, left_out: DataFrame | None = None) -> None:
        """Choose weights by ``rows``.

        Parameters
        ----------
        rows : DataFrame
            ``userCol``, ``itemCol``: what lists should have.
        left_out : DataFrame, optional
            ``userCol``, ``itemCol``: what lists do not hold. Without it, what ``fit`` is given.
        """
        self._validation, self._left_out = rows, left_out

    def keep_choices(self, model: RecommenderModel) -> None:
        """Keep the weights of a blend of the same members.

        Parameters
        ----------
        model : BlendModel
            What was fitted on a part of the data.
        """
        self.setMemberWeights(cast(BlendModel, model).getMemberWeights())

    def _fit(self, dataset: DataFrame | PackedHistories) -> BlendModel:
        self.check()
        given, models = self.getMemberWeights(), dict[str, RecommenderModel]()
        members, first = list[Member](), 0
        for name, estimator in self.estimators().items():
            if given and not given[name]:
                continue  # it is no part of the model
            models[name] = self.member_of(name, estimator, dataset)
            scores = models[name].linear_scores()
            if scores is None:
                raise ModelError(f"member {name} has scores that are no sums, and cannot be blended")
            members.append(standardized(scores, first))
            first += members[-1].neighbors
        weights = given or self._chosen(dataset, members, list(models))
        model = self._blended(members, [weights[name] for name in models])
        for name, member in models.items():
            if not weights[name]:
                member.unpersist()
        model.take_members({name: member for name, member in models.items() if weights[name]})
        model.slices = {
            name: [member.length, member.first, member.first + member.neighbors]
            for name, member in zip(models, members, strict=True)
            if weights[name]
        }
        return self._copyValues(model)._set(memberWeights=weights)

    def _blended(self, members: Sequence[Member], weights: Sequence[float]) -> BlendModel:
        """The members as one model, which is in Spark's storage."""
        users, items, pairs = blended(members, weights)
        kept = users.persist(), items.persist()
        try:
            for frame in kept:
                frame.count()
        except BaseException:
            for frame in kept:
                frame.unpersist()
            raise
        fields = {ITEM: items.schema["id"].dataType, NEIGHBOR: T.IntegerType(), WEIGHT: T.FloatType()}
        kind = T.StructType([T.StructField(name, of_column) for name, of_column in fields.items()])
        return BlendModel(items.sparkSession.createDataFrame(pairs, kind), items, users)._store(*kept)

    def _chosen(
        self, dataset: DataFrame | PackedHistories, members: Sequence[Member], names: Sequence[str]
    ) -> dict[str, float]:
        """Weights by the validation rows."""
        if self._validation is None:
            return dict.fromkeys(names, 1 / len(names))
        metric, k = cutoff_of(self.getMetric())
        like = members[0].known.schema["id"].dataType, members[0].items.schema["id"].dataType
        own = self.getUserCol(), self.getItemCol()
        held = _pairs(self._validation, own, like)
        if self._left_out is not None:
            left_out = _pairs(self._left_out, own, like)
        elif isinstance(dataset, PackedHistories):
            left_out = _pairs(dataset.rows(USER, ITEM), (USER, ITEM), like)
        else:
            left_out = _pairs(dataset, own, like)
        of_users = held.groupBy("id").agg(F.collect_set(ITEM).alias("relevant"))
        some = of_users.orderBy(F.xxhash64("id"), "id").limit(self.getMaxUsers()).persist()
        try:
            theirs = left_out.join(some.select("id"), "id", "left_semi").groupBy("id")
            users = some.join(theirs.agg(F.collect_set(ITEM).alias("seen")), "id", "left")
            users = users.withColumn(
                "seen", F.coalesce("seen", F.array().cast(users.schema["seen"].dataType))
            )
            found = candidates(members, users, CANDIDATES * k)
        finally:
            some.unpersist()
        if not len(found.n_relevant):
            progress_line("  no user has validation rows: all members of the blend have equal weights")
            return dict.fromkeys(names, 1 / len(names))
        weights, alone, together = greedy_weights(*found, getattr(kernels, metric), k, self.getSteps())
        told = ", ".join(
            f"{weight:.2f} {name} ({value:.4f})"
            for name, weight, value in zip(names, weights, alone, strict=True)
        )
        progress_line(f"  {self.getMetric()} of the blend on validation {together:.4f}: {told}")
        return dict(zip(names, weights.tolist(), strict=True))


def cutoff_of(metric: str) -> tuple[str, int]:
    """A metric's name and its cut-off.

    Parameters
    ----------
    metric : str
        Such as ``ndcg@10``.

    Raises
    ------
    ValueError
        It is no metric of lists with a cut-off of at least 1.
    """
    name, _, k = metric.partition("@")
    if name not in ACCURACY or not k.isdecimal() or not int(k):
        raise ValueError(
            f"metric must be one of {', '.join(ACCURACY)} with a cut-off, such as ndcg@10, got {metric!r}"
        )
    return name, int(k)


def _pairs(rows: DataFrame, names: tuple[str, str], like: tuple[T.DataType, T.DataType]) -> DataFrame:
    """``id`` and ``item`` of rows, of the models' types; without those that are of another."""
    user, item = (matching_id(rows, name, kind) for name, kind in zip(names, like, strict=True))
    return rows.select(user.alias("id"), item.alias(ITEM)).dropna()


class BlendModel(PairModel, BlendParams):
    """Members' standardised and weighted scores as one model.

    Attributes
    ----------
    weights : DataFrame
        One row per (item, neighbor) of each member with weights of pairs: ``item``, ``neighbor`` int, a place
        in the users' ``items``, ``weight`` float.
    items : DataFrame
        One row per item that all members know: ``id``, ``features`` array<float>: the members' side by side.
    histories : DataFrame
        One row per user that all members know: ``id``, ``features`` array<float>, ``items`` array<int> and
        ``values`` array<float>.
    slices : dict
        Name of a member whose weight is above 0 → length of its features, and its first place in the users'
        ``items`` and the one after its last.
    """

    folds_in: ClassVar[bool] = True

    def __init__(self, weights: DataFrame, items: DataFrame, histories: DataFrame) -> None:
        super().__init__(weights, items, histories)
        self.slices: dict[str, list[int]] = {}

    def fitted_values(self) -> dict[str, Any]:
        """Which part of the vectors is whose."""
        return {"slices": self.slices}

    def foldIn(
        self, histories: DataFrame, ratingCol: str | None = None, userFeatures: DataFrame | None = None
    ) -> BlendModel:
        """A model of other users, whom each member folds in: same items, same weights.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``, ``itemCol``, and ``ratingCol`` if it is named. A user whom a member cannot fold in,
            as without an item that it knows, is not in the result.
        ratingCol : str, optional
            Column of ratings; without it every row counts 1.
        userFeatures : DataFrame, optional
            For members that read features of users.

        Returns
        -------
        BlendModel
            Its users are those of ``histories``. What the members' ``foldIn`` costs, and a join of them.

        Raises
        ------
        ModelError
            A member folds no users in.
        """
        folded = folded_members(self.member_models(), histories, ratingCol, userFeatures)
        members = [
            standardized(member.linear_scores(), self.slices[name][1]) for name, member in folded.items()
        ]
        weights = [self.getMemberWeights()[name] for name in folded]
        model = self.copy()
        model.take_members(folded)
        model.histories = blended_users(members, weights).persist()
        return model._store(model.histories)

    def unpersist(self) -> None:
        """Release the cached result of the fit, the members' too. Save and reload the model first: using it
        afterwards re-runs the fit.
        """
        super().unpersist()
        for member in self.member_models().values():
            member.unpersist()

    def with_reasons(self, lists: DataFrame) -> DataFrame:
        """Lists with the member that adds most to each score.

        Parameters
        ----------
        lists : DataFrame
            Of :meth:`recommend_lists`.

        Returns
        -------
        DataFrame
            ``id``, ``recommendations``, array<struct<item, score, reason>>. One join by user.
        """
        return contributions(lists, self.linear_scores(), self.slices)

    def _item_vectors(self) -> DataFrame:
        return self.items

    def _with_vectors(self, histories: DataFrame) -> DataFrame:
        return histories.withColumn("bias", F.lit(0.0).cast("float"))
