"""What is popular among people of a kind: of one age, country or tariff."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Param, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys_spark.columns import id_column, matching_id, quoted
from recsys_spark.errors import ModelError
from recsys_spark.histories import PackedHistories, rows_of
from recsys_spark.kernels.arrays import Floats
from recsys_spark.models.base import InteractionColumns
from recsys_spark.models.factor_model import FactorModel
from recsys_spark.models.featured import FeaturedEstimator
from recsys_spark.packing import encoded_ids, lists_of
from recsys_spark.params import KeywordParams, check_ranges, keyword_constructor, param
from recsys_spark.schema import ITEM, USER
from recsys_spark.training.side_features import check_columns

MOST = 100
"""Segments at most: as long are the vectors."""

_SEGMENT, _PLACE = "segment", "place"


class SegmentPopularityParams(InteractionColumns):
    """The Params that the estimator shares with its model."""

    userFeatureCols: Param[list[str]] = param(
        "userFeatureCols", "columns of userFeatures whose values make segments", TypeConverters.toListString
    )
    smoothing: Param[float] = param(
        "smoothing", "interactions of everybody that a segment's are mixed with", TypeConverters.toFloat
    )
    coldStartStrategy: Param[str] = param(
        "coldStartStrategy",
        "what transform does with unknown users and items: nan or drop",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userFeatureCols=[], smoothing=1000.0, coldStartStrategy="nan")

    def getUserFeatureCols(self) -> list[str]:
        """Columns whose values make segments."""
        return self.getOrDefault(self.userFeatureCols)

    def getSmoothing(self) -> float:
        """Interactions of everybody that a segment's are mixed with."""
        return self.getOrDefault(self.smoothing)

    def getColdStartStrategy(self) -> str:
        """What ``transform`` does with unknown users and items."""
        return self.getOrDefault(self.coldStartStrategy)


class SegmentPopularityRecommender(
    FeaturedEstimator,
    KeywordParams,
    SegmentPopularityParams,
    DefaultParamsReadable[Any],
    DefaultParamsWritable,
):
    """Scores an item by its share of the interactions of the user's segment, mixed with that of everybody's.

        score(u, i) = (n_si + smoothing · p_i) / (n_s + smoothing)

    where s are the users with the same values of ``userFeatureCols``, n_s their interactions, n_si those with
    the item, and p_i the item's share of all. Who has no value is scored by p_i.

    Parameters
    ----------
    userCol, itemCol : str, default "user", "item"
        Columns of the input.
    predictionCol : str, default "prediction"
        Column that ``transform`` adds: the share.
    userFeatureCols : sequence of str, default ()
        Columns of ``userFeatures`` whose values, together, make segments: single values, as text; at most
        100 different sets of them.
    smoothing : float, default 1000.0
        Interactions of everybody that a segment's are mixed with, at least 0.
    coldStartStrategy : str, default "nan"
        What ``transform`` does with unknown users and items: ``nan`` or ``drop``.
    userFeatures : DataFrame, optional
        One row per user: ``userCol`` and the columns. Who is in it and has no interactions is served too. Not
        saved with the estimator.

    Raises
    ------
    TypeError
        An unknown argument, with the nearest known one; a value of the wrong type.
    ValueError
        From ``fit``: a Param out of range.
    ModelError
        From ``fit``: there are too many segments, no rows, null ids, a column is missing or holds lists, or
        one of features and their names is given without the other.

    Notes
    -----
    Two shuffles; ``n_items * segments`` counts pass through the driver. A score is a dot product: a user's
    vector names the segment, an item's has its shares.

    Examples
    --------
    >>> from recsys_spark import SegmentPopularityRecommender
    >>> rows = [("ann", "tea"), ("bob", "cola"), ("cid", "cola"), ("dan", "cola"), ("eve", "tea")]
    >>> bought = spark.createDataFrame(rows, "user string, item string")
    >>> ages = [("ann", "old"), ("eve", "old"), ("bob", "young"), ("fay", "old")]
    >>> people = spark.createDataFrame(ages, "user string, age string")
    >>> named = {"userFeatureCols": ["age"], "userFeatures": people}
    >>> model = SegmentPopularityRecommender(smoothing=1.0, **named).fit(bought)
    >>> asked = spark.createDataFrame([("fay",), ("dan",)], "user string")
    >>> [(row.user, row.item) for row in model.recommend(asked, 1).orderBy("user").collect()]
    [('dan', 'cola'), ('fay', 'tea')]
    """

    @keyword_constructor
    def __init__(
        self,
        *,
        userCol: str = "user",
        itemCol: str = "item",
        predictionCol: str = "prediction",
        userFeatureCols: Sequence[str] = (),
        smoothing: float = 1000.0,
        coldStartStrategy: str = "nan",
        userFeatures: DataFrame | None = None,
    ) -> None:
        super().__init__()
        self.userFeatures = userFeatures
        self._set_given()

    def setUserFeatureCols(self, value: list[str]) -> Self:
        """Set the columns whose values make segments.

        Parameters
        ----------
        value : list[str]
            Columns of ``userFeatures``.
        """
        return self._set(userFeatureCols=value)

    def setSmoothing(self, value: float) -> Self:
        """Set how many interactions of everybody a segment's are mixed with.

        Parameters
        ----------
        value : float
            At least 0.
        """
        return self._set(smoothing=value)

    def setColdStartStrategy(self, value: str) -> Self:
        """Set the answer to unknown users and items.

        Parameters
        ----------
        value : str
            ``nan`` or ``drop``.
        """
        return self._set(coldStartStrategy=value)

    def check(self) -> None:
        """Raise ``ValueError`` with a sentence for Params out of range."""
        check_ranges(self, {"smoothing": 0}, {"coldStartStrategy": ("nan", "drop")})

    def _fit(self, dataset: DataFrame | PackedHistories) -> SegmentPopularityModel:
        self.check()
        names = self.getUserCol(), self.getItemCol()
        if isinstance(dataset, PackedHistories):
            names, dataset = (USER, ITEM), rows_of(dataset)
        user, item = (id_column(dataset, name) for name in names)
        rows = dataset.select(user.alias("id"), item.alias(ITEM))
        frame, kind = self.side_frames().get("user"), rows.schema["id"].dataType
        people = _people(frame, self.getUserCol(), self.getUserFeatureCols(), kind)
        counted = rows if people is None else rows.join(people, "id", "left")
        segment = F.lit(None).cast("string") if people is None else F.col(_SEGMENT)
        nulls = F.count_if(F.col("id").isNull() | F.col(ITEM).isNull()).alias("nulls")
        sums = counted.groupBy(segment.alias(_SEGMENT), ITEM).agg(F.count("*").alias("n"), nulls).toArrow()
        if not sums.num_rows:
            raise ModelError("the training data has no rows")
        if pc.sum(sums["nulls"]).as_py():
            raise ModelError(f"{pc.sum(sums['nulls']).as_py():,} rows have a null id: leave them out")
        segments = sorted(pc.unique(sums[_SEGMENT].drop_null()).to_pylist())
        if len(segments) > MOST:
            raise ModelError(
                f"userFeatureCols {', '.join(self.getUserFeatureCols())} have {len(segments):,} different "
                f"sets of values among users with interactions; at most {MOST} can be segments: name fewer "
                "columns, or group their values"
            )
        ids, shares = _shares(sums, segments, self.getSmoothing())
        spark = rows.sparkSession
        vectors = T.StructField("features", T.ArrayType(T.FloatType()))
        items = spark.createDataFrame(
            pa.table([ids, lists_of(shares)], names=["id", "features"]),
            T.StructType([T.StructField("id", rows.schema[ITEM].dataType), vectors]),
        )
        users = _named(rows.select("id").distinct(), people, segments, everyone=True).persist()
        model = SegmentPopularityModel(users, items)
        model.segments = segments
        model._store(users)
        return self._copyValues(model)


class SegmentPopularityModel(FactorModel, SegmentPopularityParams):
    """Shares of items in segments, and the users' segments.

    Attributes
    ----------
    userFactors : DataFrame
        One row per user: ``id``, ``features`` array<float>: 1 at the place of the segment, the first that of
        everybody.
    itemFactors : DataFrame
        One row per item: ``id``, ``features`` array<float>: its share in each.
    segments : list of str
        Names, in the order of places, after that of everybody: values of the columns, with commas between.
    """

    folds_in: ClassVar[bool] = True

    def __init__(self, user_factors: DataFrame, item_factors: DataFrame) -> None:
        super().__init__(user_factors, item_factors)
        self.segments: list[str] = []

    def fitted_values(self) -> dict[str, Any]:
        """The global mean, and the segments."""
        return {**super().fitted_values(), "segments": self.segments}

    def foldIn(
        self, histories: DataFrame, ratingCol: str | None = None, userFeatures: DataFrame | None = None
    ) -> SegmentPopularityModel:
        """A model of other users, by their features.

        Parameters
        ----------
        histories : DataFrame
            ``userCol``.
        ratingCol : str, optional
            Not read.
        userFeatures : DataFrame, optional
            As in the fit; who is not in it, or of a segment that the fit has not, is scored as everybody.

        Returns
        -------
        SegmentPopularityModel
            Its users are those of ``histories``. Two shuffles, when it is used.

        Raises
        ------
        ModelError
            A column is missing or holds lists.
        """
        kind, name = self.userFactors.schema["id"].dataType, self.getUserCol()
        people = _people(userFeatures, name, self.getUserFeatureCols(), kind)
        ids = histories.select(matching_id(histories, name, kind).alias("id")).dropna().distinct()
        model = self.copy()
        model.userFactors = _named(ids, people, self.segments, everyone=False).persist()
        model._store(model.userFactors)
        return model


def _people(frame: DataFrame | None, user: str, columns: Sequence[str], kind: T.DataType) -> DataFrame | None:
    """``id``, unique, and ``segment``, of those who have all values."""
    if frame is None or not columns:
        return None
    check_columns(frame, [user, *columns])
    lists = [name for name in columns if isinstance(frame.schema[name].dataType, T.ArrayType)]
    if lists:
        raise ModelError(
            f"userFeatureCols must be single values to make segments, and {lists[0]} holds lists"
        )
    values: list[Column] = []
    for name in columns:
        values += [F.lit(", ")] * bool(values) + [F.col(quoted(name)).cast("string")]
    rows = frame.select(matching_id(frame, user, kind).alias("id"), F.concat(*values).alias(_SEGMENT))
    return rows.dropna().groupBy("id").agg(F.min(_SEGMENT).alias(_SEGMENT))


def _named(ids: DataFrame, people: DataFrame | None, segments: list[str], everyone: bool) -> DataFrame:
    """Vectors of users; of all who have a segment too, where ``everyone`` is asked for."""
    place = F.lit(0)
    if people is not None and segments:
        known = dict(zip(segments, range(1, len(segments) + 1), strict=True))
        places = people.sparkSession.createDataFrame(list(known.items()), "segment string, place int")
        of_people = people.join(F.broadcast(places), _SEGMENT, "left")
        ids = ids.join(of_people, "id", "full" if everyone else "left")
        place = F.coalesce(_PLACE, place)
    every = F.sequence(F.lit(0), F.lit(len(segments)))
    return ids.select("id", F.transform(every, lambda one: (one == place).cast("float")).alias("features"))


def _shares(sums: pa.Table, segments: list[str], smoothing: float) -> tuple[pa.Array, Floats]:
    """Items, ascending, and their shares, shape (n_items, 1 + n_segments): of everybody, and of segments."""
    ids, at = encoded_ids(sums[ITEM])
    place = pc.fill_null(pc.index_in(sums[_SEGMENT], value_set=pa.array(segments, pa.string())), -1)
    counts = np.zeros((len(ids), 1 + len(segments)))
    np.add.at(counts, (at, 1 + place.to_numpy()), sums["n"].to_numpy())
    share = counts.sum(axis=1) / counts.sum()
    mixed = counts + smoothing * share[:, None]
    totals = mixed.sum(axis=0)
    shares = np.divide(mixed, totals, out=np.zeros_like(mixed), where=totals > 0)
    shares[:, 0] = share
    return ids, shares.astype(np.float32)
