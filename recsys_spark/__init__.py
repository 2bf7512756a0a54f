"""Recommendations on Spark and Delta Lake: Spark ML estimators, and a nightly job that makes tables to serve.

The names below are what most programs need; they are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recsys_spark.revision import __version__

if TYPE_CHECKING:
    from recsys_spark.models import (
        ALS,
        ALSModel,
        BlendModel,
        BlendRecommender,
        ItemItemModel,
        ItemItemRecommender,
        MLlibALS,
        MLlibALSModel,
        PairwiseModel,
        PairwiseRecommender,
        PopularityModel,
        PopularityRecommender,
        RankerModel,
        RankerRecommender,
        SegmentPopularityModel,
        SegmentPopularityRecommender,
        SoftmaxModel,
        SoftmaxRecommender,
        SpectralModel,
        SpectralRecommender,
    )
    from recsys_spark.sampling import NegativeSampler
    from recsys_spark.session import get_session

_MODELS = "recsys_spark.models"
_HOMES = {
    "ALS": _MODELS,
    "ALSModel": _MODELS,
    "BlendModel": _MODELS,
    "BlendRecommender": _MODELS,
    "ItemItemModel": _MODELS,
    "ItemItemRecommender": _MODELS,
    "MLlibALS": _MODELS,
    "MLlibALSModel": _MODELS,
    "NegativeSampler": "recsys_spark.sampling",
    "PairwiseModel": _MODELS,
    "PairwiseRecommender": _MODELS,
    "PopularityModel": _MODELS,
    "PopularityRecommender": _MODELS,
    "RankerModel": _MODELS,
    "RankerRecommender": _MODELS,
    "SegmentPopularityModel": _MODELS,
    "SegmentPopularityRecommender": _MODELS,
    "SoftmaxModel": _MODELS,
    "SoftmaxRecommender": _MODELS,
    "SpectralModel": _MODELS,
    "SpectralRecommender": _MODELS,
    "get_session": "recsys_spark.session",
}

__all__ = [
    "ALS",
    "ALSModel",
    "BlendModel",
    "BlendRecommender",
    "ItemItemModel",
    "ItemItemRecommender",
    "MLlibALS",
    "MLlibALSModel",
    "NegativeSampler",
    "PairwiseModel",
    "PairwiseRecommender",
    "PopularityModel",
    "PopularityRecommender",
    "RankerModel",
    "RankerRecommender",
    "SegmentPopularityModel",
    "SegmentPopularityRecommender",
    "SoftmaxModel",
    "SoftmaxRecommender",
    "SpectralModel",
    "SpectralRecommender",
    "__version__",
    "get_session",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
