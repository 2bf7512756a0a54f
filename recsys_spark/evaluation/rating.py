"""Errors of predicted ratings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.ranking import MetricValue
from recsys_spark.schema import RATING


def rating_metrics(predicted: Mapping[str, DataFrame], prediction: str = "prediction") -> list[MetricValue]:
    """Errors of each model on the pairs it predicted, and how many pairs it did not predict.

    Parameters
    ----------
    predicted : mapping of DataFrame
        Model name → held-out rows with ``rating`` and the prediction, NaN or null where the model has none.
    prediction : str
        Name of the prediction's column.

    Returns
    -------
    list of MetricValue
        ``rmse``, the root of the mean squared error, and ``mae``, the mean absolute error (Herlocker et al.
        2004), where at least one pair was predicted; ``unpredicted``, the number of pairs without a
        prediction. Never NaN. ``users`` counts the pairs behind the value. One job.

    Examples
    --------
    >>> from recsys_spark.evaluation.rating import rating_metrics
    >>> rows = [(5.0, 4.0), (2.0, 4.0), (3.0, float("nan"))]  # errors 1 and -2; one is not predicted
    >>> predicted = spark.createDataFrame(rows, "rating double, prediction double")
    >>> {value.metric: round(value.value, 4) for value in rating_metrics({"mine": predicted})}
    {'rmse': 1.5811, 'mae': 1.5, 'unpredicted': 1.0}
    """
    if not predicted:
        return []
    metrics = []
    error = (F.col(RATING) - F.col(prediction).cast("double")).alias("error")
    errors = [frame.select(F.lit(name).alias("model"), error) for name, frame in predicted.items()]
    known = F.when(F.abs("error") < float("inf"), F.col("error"))
    rows = (
        reduce(DataFrame.unionAll, errors)
        .groupBy("model")
        .agg(
            F.count("*").alias("rows"),
            F.count(known).alias("known"),
            F.sqrt(F.avg(known * known)).alias("rmse"),
            F.avg(F.abs(known)).alias("mae"),
        )
    )
    for row in sorted(rows.collect(), key=lambda row: list(predicted).index(row["model"])):
        if row["known"]:
            metrics.append(MetricValue(row["model"], "rmse", 0, row["rmse"], None, None, row["known"]))
            metrics.append(MetricValue(row["model"], "mae", 0, row["mae"], None, None, row["known"]))
        unpredicted = float(row["rows"] - row["known"])
        metrics.append(MetricValue(row["model"], "unpredicted", 0, unpredicted, None, None, row["rows"]))
    return metrics
