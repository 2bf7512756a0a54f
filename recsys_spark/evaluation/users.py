"""The same metrics, one row for each user: who gained, who lost, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from recsys_spark.evaluation.hits import hits_at_ranks
from recsys_spark.kernels.metrics import ACCURACY
from recsys_spark.schema import USER


def user_metrics(rows: DataFrame, names: Sequence[str], k: int) -> DataFrame:
    """Accuracy of each user's list of each model.

    Parameters
    ----------
    rows : DataFrame
        Of :func:`~recsys_spark.evaluation.hits.with_lists`.
    names : sequence of str
        The models' names, in the order of the lists.
    k : int
        Cut-off, at least 1.

    Returns
    -------
    DataFrame
        One row per (model, user): ``model``, ``user``, and a double for each of
        :data:`recsys_spark.kernels.metrics.ACCURACY`. A user without a list has zeros.

    Examples
    --------
    >>> from recsys_spark.evaluation.hits import by_user, with_lists
    >>> from recsys_spark.evaluation.users import user_metrics
    >>> relevant = spark.createDataFrame([("ann", "jam"), ("bob", "tea")], "user string, item string")
    >>> schema = "id string, recommendations array<struct<item:string,score:float>>"
    >>> lists = spark.createDataFrame([("ann", [("rusk", 2.0), ("jam", 1.0)])], schema)  # bob has no list
    >>> rows = with_lists({"mine": lists}, by_user(relevant))
    >>> found = user_metrics(rows, ["mine"], k=2).orderBy("user").collect()
    >>> [(row.user, row.hit_rate, row.mrr) for row in found]
    [('ann', 1.0, 0.5), ('bob', 0.0, 0.0)]
    """
    fields = [T.StructField("model", T.StringType()), T.StructField(USER, rows.schema["id"].dataType)]
    fields += [T.StructField(name, T.DoubleType()) for name in ACCURACY]
    return rows.mapInArrow(_measuring(list(names), k), T.StructType(fields))


def _measuring(names: Sequence[str], k: int) -> Any:
    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch["relevant"].flatten().unique()
            for index, name in enumerate(names):
                hits, n_relevant, _ = hits_at_ranks(batch["relevant"], batch[f"list{index}"], ids, k)
                values = [pa.array(metric(hits, n_relevant, k)) for metric in ACCURACY.values()]
                model = pa.array([name] * batch.num_rows, pa.string())
                yield pa.RecordBatch.from_arrays([model, batch["id"], *values], ["model", USER, *ACCURACY])

    return measure
