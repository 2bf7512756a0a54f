"""One task's share of the sampling: its positives by user, their negatives, and the rows of the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.errors import ModelError
from recsys_spark.ids import hash_ids
from recsys_spark.kernels.arrays import Doubles, Floats, Hashes, Integers, Ints, Longs
from recsys_spark.kernels.negatives import Drawn, Proposal, draw_negatives
from recsys_spark.kernels.randomness import mix, uniform
from recsys_spark.kernels.sets import distinct
from recsys_spark.packing import one_array
from recsys_spark.schema import ITEM, USER

LABEL, LOG_Q, SHORTFALL = "label", "log_q", "shortfall"
BATCH, RATIO = "batch", "ratio"
"""Columns that packed rows carry beside ``user`` and ``item``: a user's batch, and the number of negatives of
a positive.
"""
OUT_ROWS = 200_000
"""Rows of a batch of results, on average."""


@dataclass(frozen=True)
class Catalogue:
    """What may be drawn: ids in the order of their hashes (ascending), and the distribution over them."""

    ids: pa.Array
    id_hashes: Hashes
    proposal: Proposal

    @classmethod
    def build(cls, ids: pa.Array, weights: Doubles) -> Catalogue:
        """The catalogue of distinct ``ids``, drawn in proportion to ``weights``.

        Raises
        ------
        ModelError
            Two ids have the same hash.
        """
        id_hashes = hash_ids(ids)
        order = np.argsort(id_hashes)
        if (id_hashes[order][1:] == id_hashes[order][:-1]).any():
            raise ModelError("two items of the catalogue have the same 64-bit hash: rename one of them")
        return cls(ids.take(pa.array(order)), id_hashes[order], Proposal.build(weights[order]))

    def positions(self, column: pa.ChunkedArray) -> Ints:
        """Catalogue position of each id, -1 for unknown ones."""
        encoded = one_array(column).dictionary_encode()
        id_hashes = hash_ids(encoded.dictionary)
        nearest = np.searchsorted(self.id_hashes, id_hashes).clip(max=len(self.id_hashes) - 1)
        positions = np.where(self.id_hashes[nearest] == id_hashes, nearest, -1).astype(np.int32)
        return positions[encoded.indices.to_numpy()]


@dataclass(frozen=True)
class Settings:
    """What every task must know.

    Attributes
    ----------
    user : what the input calls the column of users
    strategy, seed, epoch, candidates : Params of the sampler
    strict : whether a user with too few unseen items is an error
    columns : columns of packed positives that make the result, in order
    item : that of them that holds the item
    """

    user: str
    strategy: str
    seed: int
    epoch: int
    candidates: int
    strict: bool
    columns: list[str]
    item: str


@dataclass(frozen=True)
class Negatives:
    """Negatives of a task's positives.

    Attributes
    ----------
    items, log_q : catalogue positions and their log probabilities, one positive after the other
    counts : number of negatives of each positive
    """

    items: Ints
    log_q: Floats
    counts: Ints


@dataclass(frozen=True)
class HardScorer:
    """Vectors of a model: ``items``, in the order of the catalogue, and ``users``, rows ``user,
    features``.
    """

    items: Floats
    users: pa.Table


@dataclass(frozen=True)
class Share:
    """One task's positives, by user.

    Attributes
    ----------
    catalogue, settings : what may be drawn, and how
    positives : rows, those of a user together, in order of their items
    users, id_hashes : distinct users and their hashes, in order of batch and hash
    batches : batch of each user, ascending
    rows, positions : user and catalogue position (or -1) of each positive
    wanted : negatives of each positive
    known_rows, known : user and position of every known pair, ascending and unique
    """

    catalogue: Catalogue
    settings: Settings
    positives: pa.Table
    users: pa.Array
    id_hashes: Hashes
    batches: Ints
    rows: Ints
    positions: Ints
    wanted: Ints
    known_rows: Ints
    known: Ints

    @classmethod
    def build(cls, positives: pa.Table, history: pa.Table, catalogue: Catalogue, settings: Settings) -> Share:
        """Number the users, and put the positives and all known pairs in order.

        Raises
        ------
        ModelError
            A number of negatives below 1.
        """
        columns = [USER, ITEM, *([BATCH] if BATCH in positives.column_names else [])]
        tables = [positives.select(columns), history.select(columns)]
        pairs = pa.concat_tables(tables, promote_options="permissive")
        users, id_hashes, batches, all_rows = _number_users(pairs)
        n_items, n_own = len(catalogue.ids), positives.num_rows
        positions = catalogue.positions(pairs[ITEM])
        known = distinct((all_rows.astype(np.int64) * n_items + positions)[positions >= 0])
        keys: tuple[Any, ...] = positions[:n_own], all_rows[:n_own]
        if (positions[:n_own] < 0).any():
            keys = hash_ids(one_array(positives[ITEM])), *keys
        order = np.lexsort(keys)
        ordered, rows = positives.take(pa.array(order)).combine_chunks(), all_rows[:n_own][order]
        return cls(
            catalogue=catalogue,
            settings=settings,
            positives=ordered,
            users=users,
            id_hashes=id_hashes,
            batches=batches,
            rows=rows,
            positions=positions[:n_own][order],
            wanted=_wanted(ordered, id_hashes[rows], rows, settings),
            known_rows=(known // n_items).astype(np.int32),
            known=(known % n_items).astype(np.int32),
        )

    def draw(self, scorer: HardScorer | None) -> Negatives:
        """Negatives of all positives; with a ``scorer`` the best scored of several draws each."""
        settings = self.settings
        keys = mix(settings.seed, settings.epoch, 0, self.id_hashes)
        if settings.strategy == "in-batch":
            parts = [self._draw_in_batch(batch, keys) for batch in distinct(self.batches[self.rows])]
            names = ("items", "log_q", "counts")
            return Negatives(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        wanted = self.wanted * settings.candidates if scorer is not None else self.wanted
        known = (_indptr(self.known_rows, len(self.users)), self.known)
        proposal = self.catalogue.proposal
        drawn = draw_negatives(keys, known, _indptr(self.rows, len(self.users)), wanted, proposal)
        if scorer is not None:
            return self._hardest(drawn, scorer)
        return Negatives(drawn.items, _log_q(drawn, self.rows, proposal), drawn.counts)

    def result(self, negatives: Negatives) -> Iterator[pa.RecordBatch]:
        """Rows of the result: the positives, then their negatives.

        Raises
        ------
        ModelError
            ``strict``, and a user has too few unseen items.
        """
        shortfall = self.wanted - negatives.counts
        self._require_enough(shortfall)
        rows = self.positives.select(self.settings.columns)
        log_q = np.full(len(self.positions), np.nan, np.float32)
        if self.settings.strategy not in ("hard", "in-batch"):
            in_catalogue = self.positions >= 0
            log_q[in_catalogue] = self.catalogue.proposal.log_q[self.positions[in_catalogue]]
        yield from _labelled(rows, 1, log_q, shortfall)
        ends = np.cumsum(negatives.counts, dtype=np.int64)
        cuts = np.searchsorted(ends, np.arange(OUT_ROWS, ends[-1] + OUT_ROWS, OUT_ROWS)) + 1
        field = rows.schema.field(self.settings.item)
        for begin, end in pairwise([0, *cuts.clip(max=len(ends)).tolist()]):
            counts = negatives.counts[begin:end]
            part = slice(ends[end - 1] - counts.sum(), ends[end - 1])
            repeated = rows.take(pa.array(np.repeat(np.arange(begin, end), counts)))
            items = _as_type(self.catalogue.ids.take(pa.array(negatives.items[part])), field.type)
            repeated = repeated.set_column(rows.column_names.index(field.name), field, items)
            yield from _labelled(repeated, 0, negatives.log_q[part], np.zeros(len(items), np.int32))

    def _draw_in_batch(self, batch: int, keys: Hashes) -> Negatives:
        """Negatives of the positives of one batch, in proportion to the items' counts in it."""
        low, high = np.searchsorted(self.batches, [batch, batch + 1])
        own = slice(*np.searchsorted(self.rows, [low, high]))
        of_known = slice(*np.searchsorted(self.known_rows, [low, high]))
        rows, positions, wanted = self.rows[own] - low, self.positions[own], self.wanted[own]
        local, weights = np.unique(positions[positions >= 0], return_counts=True)
        if not len(local):
            return Negatives(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(len(rows), np.int32))
        offered = np.isin(self.known[of_known], local)
        known_rows = self.known_rows[of_known][offered] - low
        known = np.searchsorted(local, self.known[of_known][offered]).astype(np.int32)
        proposal, size = Proposal.build(weights.astype(np.float64)), high - low
        by_user = _indptr(known_rows, size), known
        drawn = draw_negatives(keys[low:high], by_user, _indptr(rows, size), wanted, proposal)
        return Negatives(local[drawn.items], _log_q(drawn, rows, proposal), drawn.counts)

    def _hardest(self, drawn: Drawn, scorer: HardScorer) -> Negatives:
        """Of each positive's draws, in groups of ``candidates``, the best scored."""
        users = self._user_vectors(scorer)
        # as many groups as negatives are wanted, as long as there are draws for them
        counts = np.minimum(self.wanted, drawn.counts)
        slot = np.repeat(np.arange(len(counts)), drawn.counts)
        place = np.arange(len(slot)) - np.repeat(np.cumsum(drawn.counts) - drawn.counts, drawn.counts)
        group = (np.cumsum(counts) - counts)[slot] + place * counts[slot] // drawn.counts[slot]
        scores = np.empty(len(slot), np.float32)
        for begin in range(0, len(slot), OUT_ROWS):
            part = slice(begin, begin + OUT_ROWS)
            x, y = users[self.rows[slot[part]]], scorer.items[drawn.items[part]]
            scores[part] = np.einsum("ij,ij->i", x, y)
        scores[np.isnan(scores)] = -np.inf  # neither the user nor the item has a vector
        starts = np.searchsorted(group, np.arange(counts.sum()))
        if not len(starts):
            return Negatives(np.zeros(0, np.int32), np.zeros(0, np.float32), counts.astype(np.int32))
        largest = np.flatnonzero(scores == np.maximum.reduceat(scores, starts)[group])
        items = drawn.items[largest[np.searchsorted(group[largest], np.arange(len(starts)))]]
        return Negatives(items, np.full(len(items), np.nan, np.float32), counts.astype(np.int32))

    def _user_vectors(self, scorer: HardScorer) -> Floats:
        """Vectors of the users with a last 1 for the items' biases; zero for a user without one."""
        vectors = np.zeros((len(self.users), scorer.items.shape[1]), np.float32)
        index = pc.index_in(one_array(scorer.users[USER]), value_set=self.users)
        known = index.is_valid().to_numpy(zero_copy_only=False)
        features = np.asarray(one_array(scorer.users["features"]).flatten(), np.float32)
        features = features.reshape(len(known), -1)[known]
        vectors[index.drop_null().to_numpy()] = np.column_stack(
            [features, np.ones(len(features), np.float32)]
        )
        return vectors

    def _require_enough(self, shortfall: Ints) -> None:
        if self.settings.strict and shortfall.any():
            worst = int(np.argmax(shortfall))
            user = self.positives[USER][worst].as_py()
            left = self.wanted[worst] - shortfall[worst]
            raise ModelError(
                f"user {user!r} has too few unseen items: {self.wanted[worst]} negatives are wanted for a "
                f"positive, {left} are left. Lower ratio, or set onExhausted to 'fewer'"
            )


def _as_type(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Ids as the input has them; Arrow casts integers to long decimals only."""
    return (ids.cast(pa.decimal128(38, kind.scale)) if pa.types.is_decimal(kind) else ids).cast(kind)


def _number_users(pairs: pa.Table) -> tuple[pa.Array, Hashes, Ints, Ints]:
    """Distinct users in order of batch and hash, their hashes and batches, and the user of each pair."""
    encoded = one_array(pairs[USER]).dictionary_encode()
    codes, id_hashes = encoded.indices.to_numpy(), hash_ids(encoded.dictionary)
    batches = np.zeros(len(id_hashes), np.int32)
    if BATCH in pairs.column_names:
        batches[codes] = pairs[BATCH].to_numpy()
    order = np.lexsort((id_hashes, batches))
    index = np.empty(len(order), np.int32)
    index[order] = np.arange(len(order), dtype=np.int32)
    return encoded.dictionary.take(pa.array(order)), id_hashes[order], batches[order], index[codes]


def _wanted(positives: pa.Table, user_hashes: Hashes, rows: Ints, settings: Settings) -> Ints:
    """Number of negatives of each positive: the ratio, rounded up or down at random."""
    ratio = positives[RATIO].to_numpy(zero_copy_only=False)
    if not (ratio >= 1).all():
        raise ModelError(f"the number of negatives must be at least 1, found {ratio[~(ratio >= 1)][0]}")
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    chance = uniform(settings.seed, settings.epoch, 1, user_hashes, place)
    return (np.floor(ratio) + (chance < ratio % 1)).astype(np.int32)


def _labelled(rows: pa.Table, label: int, log_q: Floats, shortfall: Ints) -> Iterator[pa.RecordBatch]:
    columns = {
        LABEL: pa.array(np.full(rows.num_rows, label, np.int32)),
        LOG_Q: pa.array(log_q, from_pandas=True),
        SHORTFALL: pa.array(shortfall),
    }
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    yield from rows.combine_chunks().to_batches(max_chunksize=OUT_ROWS)


def _log_q(drawn: Drawn, rows: Ints, proposal: Proposal) -> Floats:
    """Log probability of each drawn item among those that its user (``rows``, of each positive) has not
    taken.
    """
    log_unseen = np.repeat(drawn.log_unseen[rows], drawn.counts)
    return (proposal.log_q[drawn.items] - log_unseen).astype(np.float32)


def _indptr(rows: Integers, n_rows: int) -> Longs:
    """Bounds, for each of ``n_rows``, of its entries in ascending ``rows``."""
    return np.searchsorted(rows, np.arange(n_rows + 1)).astype(np.int64)
