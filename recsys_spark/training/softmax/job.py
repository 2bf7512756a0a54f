"""The softmax model on Spark: vectors of users from their histories."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Floats
from recsys_spark.packing import lists_of
from recsys_spark.recommend.scores import collect_factors
from recsys_spark.schema import ITEM, RATING, USER
from recsys_spark.training.barrier import EVENTS, by_task, packed_by_user, packed_ratings, read_payloads
from recsys_spark.training.gradient.job import collect_features, collect_layers
from recsys_spark.training.gradient.program import NAME, VALUES
from recsys_spark.training.histories import distinct_pairs
from recsys_spark.training.ownership import number_ids
from recsys_spark.training.side_features import USER_FEATURES, Features
from recsys_spark.training.softmax.batch import INPUTS
from recsys_spark.training.softmax.config import SoftmaxConfig
from recsys_spark.training.softmax.program import user_vectors


def encode_users(
    ratings: DataFrame, features: DataFrame | None, tables: DataFrame, config: SoftmaxConfig, tasks: int
) -> DataFrame:
    """ψ of the users in ``ratings``, from their histories.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item`` of the catalogue's type, ``rating`` float; rows of unknown items, and of 0 or less,
        are ignored.
    features : DataFrame, optional
        Of users, as :func:`recsys_spark.training.side_features.entries_of` makes them.
    tables : DataFrame
        Of a fit.
    config : SoftmaxConfig
        The network.
    tasks : int
        How many tasks share the users.

    Returns
    -------
    DataFrame
        One row per user with a known item: ``id``, ``features``. One shuffle; the items' vectors pass through
        the driver and are broadcast. Without ``features`` no user has any.
    """
    broadcast = ratings.sparkSession.sparkContext.broadcast(collect_tables(tables, config))

    def encode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        payloads = read_payloads(batches)
        if EVENTS not in payloads:
            return
        catalogue, learnt, feature_names = broadcast.value
        events = pa.concat_tables(payloads[EVENTS])
        events = events.filter(pc.greater(events[RATING], 0.0))
        users, rows = number_ids(events[USER])
        names, codes = number_ids(events[ITEM])
        index = pc.fill_null(pc.index_in(names, value_set=catalogue), -1).to_numpy()[codes]
        served, indptr, items = distinct_pairs(rows, index, len(catalogue))
        served_ids = users.take(pa.array(served))
        if USER_FEATURES in payloads:
            of_users = Features.build(served_ids, pa.concat_tables(payloads[USER_FEATURES]), feature_names)
        else:
            of_users = Features.none(len(served))
            learnt = {**learnt, USER_FEATURES: learnt[USER_FEATURES][:0]}
        psi = user_vectors(indptr, items, of_users, learnt, config)
        yield pa.RecordBatch.from_arrays([served_ids, lists_of(psi)], names=["id", "features"])

    packed = packed_ratings(ratings, tasks)
    if features is not None:
        packed = packed.unionAll(packed_by_user(features, USER_FEATURES, tasks))
    schema = f"id {ratings.schema[USER].dataType.simpleString()}, features array<float>"
    return by_task(packed, tasks).mapInArrow(encode, schema)


def collect_tables(tables: DataFrame, config: SoftmaxConfig) -> tuple[pa.Array, dict[str, Floats], pa.Array]:
    """What makes a user's vector, on the driver: ids of the items in ascending order, the tables by name,
    names of features.
    """
    inputs = tables.where(F.col(NAME) == INPUTS).select(
        F.col(ITEM).alias("id"), F.col(VALUES).alias("features")
    )
    ids, vectors, _ = collect_factors(inputs)
    names, feature_vectors = collect_features(tables, USER_FEATURES, config.embedding_dim)
    return ids, {INPUTS: vectors, USER_FEATURES: feature_vectors, **collect_layers(tables)}, names
