"""The pair models on Spark: what their fits train, and lists in two stages for scores that are no dot product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.collectives import Group, Report
from recsys_spark.kernels.bags import Floats
from recsys_spark.models.descent import Epoch, State
from recsys_spark.models.factors import PairScorer
from recsys_spark.models.histories import Histories
from recsys_spark.models.pairwise_program import (
    ITEM_FEATURES,
    ITEMS,
    USER_FEATURES,
    USERS,
    PairwiseProblem,
    fresh,
    mean_rating,
    train,
    vectors,
)
from recsys_spark.recommend.host import RECOMMENDATIONS, collect_factors
from recsys_spark.schema import ITEM, SCORE


@dataclass(frozen=True)
class PairwiseLearner:
    """A pair model as :mod:`recsys_spark.models.descent_stage` trains it.

    Serves vectors with their bias as a last column, and of items the number of events after it.
    """

    problem: PairwiseProblem
    title: str = "pairwise"

    @property
    def explicit(self) -> bool:
        """Whether ratings are predicted."""
        return self.problem.explicit

    @property
    def epochs(self) -> int:
        """So many."""
        return self.problem.epochs

    def fresh(self, data: Histories) -> State:
        """Random vectors and network."""
        return fresh(data, self.problem)

    def train(self, group: Group, data: Histories, state: State, until: int, report: Report) -> list[Epoch]:
        """Go on from ``state``, in place."""
        return train(group, data, self.problem, state, until, report)

    def finished(self, state: State) -> bool:
        """Whether all epochs are done."""
        return state.epochs >= self.problem.epochs

    def vectors(self, data: Histories, state: State) -> tuple[Floats, Floats]:
        """Vectors of the own users and of the catalogue."""
        tables = state.tables
        users = vectors(tables[USERS], data.user_features, tables[USER_FEATURES], self.problem)
        items = vectors(tables[ITEMS], data.item_features, tables[ITEM_FEATURES], self.problem)
        return users, np.column_stack([items, data.counts.astype(np.float32)])

    def said(self, group: Group, data: Histories, state: State) -> dict[str, Any]:
        """The mean that predictions start from, and the mean embeddings of users and items, with their biases."""
        users = group.all_reduce(np.append(state.tables[USERS].sum(axis=0, dtype=np.float64), len(data.ids)))
        averages = {"user": users[:-1] / users[-1], "item": state.tables[ITEMS].mean(axis=0, dtype=np.float64)}
        return {"mean": mean_rating(group, data, self.problem), **{side: list(found) for side, found in averages.items()}}


_PAIRS_AT_ONCE = 100_000


def rescore(lists: DataFrame, users: DataFrame, items: DataFrame, n: int, score: PairScorer) -> DataFrame:
    """The second stage: of each user's candidates the best ``n`` by ``score`` and both biases.

    Parameters
    ----------
    lists : ``id``, ``recommendations``, as the top-N host gives them
    users, items : ``id``, ``features``, ``bias``

    Returns
    -------
    DataFrame
        In the shape of ``lists``; ties go to the smaller item. One join; the items' vectors are broadcast, and a task holds
        the vectors of about ``_PAIRS_AT_ONCE`` pairs.
    """
    ids, vectors_, biases = collect_factors(items)
    held = lists.sparkSession.sparkContext.broadcast((ids, vectors_, biases))
    together = lists.join(users.select("id", F.col("features").alias("_vector"), F.col("bias").alias("_bias")), "id")

    def best(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        catalogue, of_items, item_biases = held.value
        for batch in (part for whole in batches for part in _parts(whole)):
            entries = batch[RECOMMENDATIONS]
            lengths = pc.fill_null(pc.list_value_length(entries), 0).to_numpy()
            rows = np.repeat(np.arange(batch.num_rows), lengths)
            places = pc.index_in(pc.struct_field(entries.flatten(), ITEM), value_set=catalogue).to_numpy()
            x = np.asarray(batch["_vector"].flatten(), np.float32).reshape(batch.num_rows, -1)
            scores = score(x[rows], of_items[places]) + batch["_bias"].to_numpy()[rows] + item_biases[places]
            order = np.lexsort((places, -scores, rows))
            starts = np.cumsum(lengths) - lengths
            chosen = order[np.arange(len(order)) - starts[rows] < n]
            offsets = pa.array(np.concatenate([[0], np.cumsum(np.minimum(lengths, n))]).astype(np.int32))
            found = [catalogue.take(pa.array(places[chosen])), pa.array(scores[chosen].astype(np.float32))]
            structs = pa.StructArray.from_arrays(found, names=[ITEM, SCORE])
            columns = [batch["id"], pa.ListArray.from_arrays(offsets, structs)]
            yield pa.RecordBatch.from_arrays(columns, names=["id", RECOMMENDATIONS])

    return together.mapInArrow(best, lists.schema)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Runs of rows with about ``_PAIRS_AT_ONCE`` candidates, one row at least."""
    candidates = np.cumsum(pc.fill_null(pc.list_value_length(batch[RECOMMENDATIONS]), 0).to_numpy())
    bounds = np.flatnonzero(np.diff(candidates // _PAIRS_AT_ONCE, prepend=-1, append=np.iinfo(np.int64).max))
    for begin, end in pairwise(bounds.tolist()):
        yield batch.slice(begin, end - begin)
