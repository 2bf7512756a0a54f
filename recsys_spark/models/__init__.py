"""Spark ML estimators for recommendation: fit a model on ratings, get lists and predictions out."""

from recsys_spark.models.als import ALS, ALSModel
from recsys_spark.models.mllib import MLlibALS, MLlibALSModel
from recsys_spark.models.pairwise import PairwiseModel, PairwiseRecommender
from recsys_spark.models.popularity import PopularityModel, PopularityRecommender
from recsys_spark.models.softmax import SoftmaxModel, SoftmaxRecommender

__all__ = [
    "ALS",
    "ALSModel",
    "MLlibALS",
    "MLlibALSModel",
    "PairwiseModel",
    "PairwiseRecommender",
    "PopularityModel",
    "PopularityRecommender",
    "SoftmaxModel",
    "SoftmaxRecommender",
]
