"""Choosing a model's Params by what users would see."""

from recsys_spark.tuning.evaluator import TopNEvaluator

__all__ = ["TopNEvaluator"]
