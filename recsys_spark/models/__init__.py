"""Spark ML estimators for recommendation: fit a model on ratings, get lists and predictions out.

The names below are imported when they are first used, as each brings its compiled kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys_spark.models.als import ALS, ALSModel
    from recsys_spark.models.blend import BlendModel, BlendRecommender
    from recsys_spark.models.item_item import ItemItemModel, ItemItemRecommender
    from recsys_spark.models.mllib import MLlibALS, MLlibALSModel
    from recsys_spark.models.pairwise import PairwiseModel, PairwiseRecommender
    from recsys_spark.models.popularity import PopularityModel, PopularityRecommender
    from recsys_spark.models.ranker import RankerRecommender
    from recsys_spark.models.ranker_model import RankerModel
    from recsys_spark.models.segment_popularity import (
        SegmentPopularityModel,
        SegmentPopularityRecommender,
    )
    from recsys_spark.models.softmax import SoftmaxModel, SoftmaxRecommender
    from recsys_spark.models.spectral import SpectralModel, SpectralRecommender

_HOMES = {
    "ALS": "als",
    "ALSModel": "als",
    "BlendModel": "blend",
    "BlendRecommender": "blend",
    "ItemItemModel": "item_item",
    "ItemItemRecommender": "item_item",
    "MLlibALS": "mllib",
    "MLlibALSModel": "mllib",
    "PairwiseModel": "pairwise",
    "PairwiseRecommender": "pairwise",
    "PopularityModel": "popularity",
    "PopularityRecommender": "popularity",
    "RankerModel": "ranker_model",
    "RankerRecommender": "ranker",
    "SegmentPopularityModel": "segment_popularity",
    "SegmentPopularityRecommender": "segment_popularity",
    "SoftmaxModel": "softmax",
    "SoftmaxRecommender": "softmax",
    "SpectralModel": "spectral",
    "SpectralRecommender": "spectral",
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
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
