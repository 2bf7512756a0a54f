"""Choosing a model's Params by what users would see."""

from recsys_spark.tuning.evaluator import RankingEvaluator

__all__ = ["RankingEvaluator"]
