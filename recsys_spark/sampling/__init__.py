"""Negatives on the cluster, for feedback that has no zeros: :class:`NegativeSampler`."""

from recsys_spark.sampling.sampler import NegativeSampler
from recsys_spark.sampling.share import LABEL, LOG_Q, SHORTFALL

__all__ = ["LABEL", "LOG_Q", "SHORTFALL", "NegativeSampler"]
