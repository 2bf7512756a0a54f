"""Models that are made of others: the Params that name these, and their estimators."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.param.shared import HasSeed
from pyspark.sql import DataFrame

from recsys_spark.console import progress_line
from recsys_spark.errors import ConfigError, ModelError
from recsys_spark.histories import PackedHistories
from recsys_spark.models.base import RecommenderEstimator, RecommenderModel
from recsys_spark.models.pair_model import ItemPairEstimator, ItemPairParams
from recsys_spark.params import param
from recsys_spark.schema import SEEDED

USUAL_MEMBERS: Mapping[str, Mapping[str, Any] | None] = MappingProxyType({"als": {}, "item_item": {}})


def to_members(value: object) -> dict[str, dict[str, Any]]:
    """Names of models with their Params.

    Parameters
    ----------
    value : mapping
        Name in the registry → Params by name, or None for none.

    Raises
    ------
    TypeError
        It is something else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(one, Mapping | None) for one in value.values()):
        raise TypeError(f"members must map the name of each model to its Params, got {value!r}")
    return {str(name): dict(params or {}) for name, params in value.items()}


class MemberParams(ItemPairParams, HasSeed):
    """The Params that estimators with members share with their models."""

    members: Param[dict[str, dict[str, Any]]] = param(
        "members", "the models: name in the registry, and Params of each", to_members
    )
    implicitPrefs: Param[bool] = param(
        "implicitPrefs",
        "whether ratings are weights of events, for members that ask and whose own Params do not say",
        TypeConverters.toBoolean,
    )
    timestampCol: Param[str] = param(
        "timestampCol", "column of timestamps, for members that read it", TypeConverters.toString
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            members=dict(USUAL_MEMBERS), implicitPrefs=False, timestampCol="timestamp", seed=SEEDED
        )

    def getMembers(self) -> dict[str, dict[str, Any]]:
        """Names of the members, and Params of each."""
        return self.getOrDefault(self.members)

    def getImplicitPrefs(self) -> bool:
        """Whether ratings are weights of events."""
        return self.getOrDefault(self.implicitPrefs)

    def getTimestampCol(self) -> str:
        """Column of timestamps."""
        return self.getOrDefault(self.timestampCol)


class MembersEstimator(ItemPairEstimator, MemberParams):
    """An estimator that fits others, which read the columns that it is told of, and their side features.

    A subclass says in :attr:`never_members` which names cannot be members.
    """

    never_members: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._features: dict[str, DataFrame] = {}
        self._fitted: Mapping[str, RecommenderModel] = {}

    def setMembers(self, value: Mapping[str, Mapping[str, Any] | None]) -> Self:
        """Set the members.

        Parameters
        ----------
        value : mapping
            Name of a model in the registry → its Params by name.
        """
        return self._set(members=value)

    def setImplicitPrefs(self, value: bool) -> Self:
        """Set the meaning of ratings.

        Parameters
        ----------
        value : bool
            Whether they are weights of events.
        """
        return self._set(implicitPrefs=value)

    def setTimestampCol(self, value: str) -> Self:
        """Set the column of timestamps.

        Parameters
        ----------
        value : str
            Name of the column.
        """
        return self._set(timestampCol=value)

    def setSeed(self, value: int) -> Self:
        """Set the seed.

        Parameters
        ----------
        value : int
            Of members whose Params have none.
        """
        return self._set(seed=value)

    def estimators(self) -> dict[str, RecommenderEstimator]:
        """Estimators of the members, by name; they read the columns of this one.

        Raises
        ------
        ValueError
            An unknown name or Param, a value of the wrong type or out of range.
        """
        from recsys_spark.models.registry import build  # which knows this module

        found = {}
        for name, params in self.getMembers().items():
            if name in self.never_members:
                raise ValueError(f"members must be other models, and one is {name}")
            try:
                estimator = build(name, params, self.getSeed(), "members", self.getImplicitPrefs())
            except ConfigError as error:
                raise ValueError(str(error)) from None
            for column in ("userCol", "itemCol", "ratingCol", "timestampCol"):
                if estimator.hasParam(column):
                    estimator.set(estimator.getParam(column), self.getOrDefault(column))
            found[name] = estimator
        return found

    @property
    def makes_models_that_fold_in(self) -> bool:  # type: ignore[override]
        """Whether those of all members do."""
        from recsys_spark.models.registry import REGISTRY  # which knows this module

        return all(
            REGISTRY[name].model.folds_in and one.makes_models_that_fold_in
            for name, one in self.estimators().items()
        )

    def feature_columns(self) -> dict[str, list[str]]:
        """Columns that members read features from, by side."""
        found: dict[str, dict[str, None]] = {}
        for estimator in self.estimators().values():
            for side, columns in estimator.feature_columns().items():
                found.setdefault(side, {}).update(dict.fromkeys(columns))
        return {side: list(columns) for side, columns in found.items()}

    def set_features(self, side: str, frame: DataFrame) -> None:
        """Let members read the features of a side from ``frame``.

        Parameters
        ----------
        side : str
            ``user`` or ``item``, one of :meth:`feature_columns`.
        frame : DataFrame
            One row per id: ``userCol`` or ``itemCol``, and the feature columns.
        """
        self._features[side] = frame

    def set_fitted(self, models: Mapping[str, RecommenderModel]) -> None:
        """Let ``fit`` take members as they are, which it would fit again. It cannot tell whether they are
        what it would make of its data.

        Parameters
        ----------
        models : mapping
            Name of a member → what its estimator, of :meth:`estimators`, made of the data that ``fit`` will
            be given.
        """
        self._fitted = models

    def member_of(
        self, name: str, estimator: RecommenderEstimator, dataset: DataFrame | PackedHistories
    ) -> RecommenderModel:
        """A member that knows all that ``fit`` was given: one of :meth:`set_fitted`, or fitted now.

        Parameters
        ----------
        name : str
            The member's name.
        estimator : RecommenderEstimator
            The member.
        dataset : DataFrame or PackedHistories
            What ``fit`` was given.
        """
        if name not in self._fitted:
            return self.fit_member(name, estimator, dataset)
        progress_line(f"  {name}, a member, is fitted already")
        return self._fitted[name]

    def fit_member(
        self, name: str, estimator: RecommenderEstimator, dataset: DataFrame | PackedHistories
    ) -> RecommenderModel:
        """Fit one of :meth:`estimators`, with the side features that it reads.

        Parameters
        ----------
        name : str
            The member's name.
        estimator : RecommenderEstimator
            The member.
        dataset : DataFrame or PackedHistories
            What is learnt from.
        """
        started = time.monotonic()
        for side in self._features.keys() & estimator.feature_columns():
            estimator.set_features(side, self._features[side])
        model: RecommenderModel = estimator.fit(dataset)  # type: ignore[arg-type]
        progress_line(f"  {name}, a member, is fitted in {time.monotonic() - started:.1f} s")
        return model


def folded_members(
    members: Mapping[str, Any], histories: DataFrame, ratingCol: str | None, userFeatures: DataFrame | None
) -> dict[str, Any]:
    """Members that know other users, as their ``foldIn`` makes them.

    Parameters
    ----------
    members : mapping
        Name → model.
    histories : DataFrame
        Of the users.
    ratingCol : str or None
        Column of ratings; None for none.
    userFeatures : DataFrame or None
        Of the users, for members that read some.

    Raises
    ------
    ModelError
        A member does not fold users in.
    """
    folded = {}
    for name, member in members.items():
        if not member.folds_in:
            raise ModelError(f"member {name} folds no users in: fit the model again")
        features: dict[str, DataFrame] = {}
        if userFeatures is not None and member.hasParam("userFeatureCols") and member.getUserFeatureCols():
            features["userFeatures"] = userFeatures
        folded[name] = member.foldIn(histories, ratingCol, **features)
    return folded
