"""Models by name, as configuration files name them; a model is imported when it is first asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import recsys_spark.models
from recsys_spark.config import config_problem
from recsys_spark.errors import ConfigError
from recsys_spark.schema import ITEM, RATING, TIMESTAMP, USER

if TYPE_CHECKING:
    from pyspark.ml.param import Params

    from recsys_spark.models.base import RecommenderEstimator, RecommenderModel


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: names in ``recsys_spark.models`` of what is fitted, and of what comes out."""

    estimator_name: str
    model_name: str

    @property
    def estimator(self) -> type[RecommenderEstimator]:
        """The estimator's class."""
        kind: type[RecommenderEstimator] = getattr(recsys_spark.models, self.estimator_name)
        return kind

    @property
    def model(self) -> type[RecommenderModel]:
        """The model's class."""
        kind: type[RecommenderModel] = getattr(recsys_spark.models, self.model_name)
        return kind


REGISTRY: dict[str, ModelEntry] = {
    "popularity": ModelEntry("PopularityRecommender", "PopularityModel"),
    "als": ModelEntry("ALS", "ALSModel"),
    "softmax": ModelEntry("SoftmaxRecommender", "SoftmaxModel"),
    "pairwise": ModelEntry("PairwiseRecommender", "PairwiseModel"),
    "item_item": ModelEntry("ItemItemRecommender", "ItemItemModel"),
    "spectral": ModelEntry("SpectralRecommender", "SpectralModel"),
    "blend": ModelEntry("BlendRecommender", "BlendModel"),
    "ranker": ModelEntry("RankerRecommender", "RankerModel"),
    "segment_popularity": ModelEntry("SegmentPopularityRecommender", "SegmentPopularityModel"),
    "mllib_als": ModelEntry("MLlibALS", "MLlibALSModel"),
}
"""Name → entry. A new model joins by one line here and by a test class that inherits the contract suite."""

_COLUMNS = {"userCol": USER, "itemCol": ITEM, "ratingCol": RATING, "timestampCol": TIMESTAMP}


def build(
    name: str, params: Mapping[str, Any], seed: int, origin: str = "configuration", implicit: bool = False
) -> RecommenderEstimator:
    """The estimator called ``name`` with ``params`` set, reading the columns of ``ratings``.

    Parameters
    ----------
    name : a key of :data:`REGISTRY`
    params : Param → value; the names of columns are not among them, the pipeline sets those
    seed : for estimators with a seed, unless ``params`` has one
    origin : where the params come from, for the error
    implicit : whether ratings are weights of events: then ``implicitPrefs`` is true where an estimator has
        it, unless ``params`` say otherwise

    Raises
    ------
    ConfigError
        Unknown name or Param, wrong type, value out of range: key path, what was given, what is allowed.
    """
    if name not in REGISTRY:
        raise ConfigError(config_problem(origin, "models", name, ", ".join(REGISTRY)))
    # pyspark.ml's classes are kept untyped here: mypy sees the abstract base in them
    kind: Any = REGISTRY[name].estimator
    estimator: Any = kind()
    known = sorted(param.name for param in estimator.params if not param.name.endswith("Col"))
    for key, value in params.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            allowed = (f"did you mean {near[0]!r}? " if near else "") + ", ".join(known)
            raise ConfigError(config_problem(origin, f"{name}.{key}", value, allowed))
        try:
            estimator.set(estimator.getParam(key), value)
        except (TypeError, ValueError) as error:
            doc = _first_sentence(estimator, key)
            raise ConfigError(config_problem(origin, f"{name}.{key}", value, f"{error} ({doc})")) from None
    if implicit and estimator.hasParam("implicitPrefs") and "implicitPrefs" not in params:
        estimator.set(estimator.getParam("implicitPrefs"), True)
    if estimator.hasParam("seed") and "seed" not in params:
        estimator.set(estimator.getParam("seed"), seed)
    for column, field in _COLUMNS.items():
        if estimator.hasParam(column):
            estimator.set(estimator.getParam(column), field)
    try:
        estimator.check()
    except ValueError as error:
        raise ConfigError(config_problem(origin, name, dict(params), str(error))) from None
    return estimator


def _first_sentence(estimator: Params, key: str) -> str:
    return estimator.getParam(key).doc.split(". ")[0]
