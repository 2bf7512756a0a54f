"""Exact top-n of all scores: the inner loop of every recommendation table.

    score(u, i) = x_u · y_i + Σ_j w_ij x_uj + b_i

where the sum, over the items of the user's history, is that of models of item pairs. One float32 matrix
product per (user block, item block), to which the sums are added; what a user has seen, or may not be shown,
masked in place; and an exact selection that touches most scores only once: the maximum of each group of
``GROUP`` neighbouring items is taken first, and only the ``n`` best groups of a row are searched. An item
among the n best lies in one of the n groups with the largest maxima, so nothing is lost. The groups are laid
out so that the maximum runs over a strided view, which numpy vectorises; neighbouring items of the catalogue
share a group, which keeps the tie rule exact (smaller item first).

Where the best of each shelf are wanted, such as those of each genre, the same scores are looked at once for
each: the columns of its items are copied into the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Floats, Integers, Ints, Longs
from recsys_spark.kernels.item_item import Bags, PairWeights, add_scores
from recsys_spark.kernels.log_sums import log_sums_of
from recsys_spark.kernels.sets import distinct

GROUP = 32
"""Items whose maximum is taken together."""


class Shelf(NamedTuple):
    """Items of a block of which the best are wanted for themselves.

    Attributes
    ----------
    positions : int32 array, shape (size,): catalogue positions, ascending
    columns : int32 array, shape (n_groups * GROUP,): the columns of the block's scores in the order of the
        selection
    padding : int64 array: which of them pad the last group
    """

    positions: Ints
    columns: Ints
    padding: Longs


@dataclass(frozen=True)
class ItemBlock:
    """Items of consecutive catalogue positions, laid out for the selection.

    Column ``g + n_groups * j`` of the scores is item ``g * GROUP + j`` of the block, so that group ``g`` is a
    strided column and holds neighbouring items. The columns that pad the last group score -inf.

    Attributes
    ----------
    factors : float32 array, shape (rank, n_groups * GROUP), in C order, which the matrix product reads
        fastest
    biases : float32 array, shape (n_groups * GROUP,); -inf for padding
    start : first catalogue position of the block
    size : number of items, without padding
    weights : weights of item pairs whose targets are columns of the block, or None
    denied : bool array, shape (n_groups_of_users, n_groups * GROUP), or None: what the users of a group may
        not be shown
    shelves : of each shelf what lies in the block, perhaps nothing; or None, where the best of all are wanted
    """

    factors: Floats
    biases: Floats
    start: int
    size: int
    weights: PairWeights | None = None
    denied: Booleans | None = None
    shelves: tuple[Shelf, ...] | None = None

    @classmethod
    def build(cls, factors: Floats, biases: Floats, start: int = 0) -> ItemBlock:
        """Lay out ``factors``, shape (n_items, rank), and ``biases``, shape (n_items,), of the positions from
        ``start`` on.
        """
        size, rank = factors.shape
        n_groups = max(1, -(-size // GROUP))
        padded = np.zeros((n_groups * GROUP, rank), np.float32)
        padded[:size] = factors
        bias = np.full(n_groups * GROUP, -np.inf, np.float32)
        bias[:size] = biases
        columns = _laid_out(size)
        return cls(np.ascontiguousarray(padded[columns].T), bias[columns], start, size)

    def with_weights(self, weights: PairWeights) -> ItemBlock:
        """The block with those of the ``weights``, whose targets are catalogue positions, that lie in it."""
        inside = (weights.targets >= self.start) & (weights.targets < self.start + self.size)
        counted = np.concatenate([[0], np.cumsum(inside)])
        columns = self.columns(weights.targets[inside]).astype(np.int32)
        return replace(self, weights=PairWeights(counted[weights.indptr], columns, weights.weights[inside]))

    def with_denied(self, denied: Booleans) -> ItemBlock:
        """The block with those columns of ``denied``, shape (n_groups_of_users, n_items), that lie in it."""
        positions = np.arange(self.start, self.start + self.size, dtype=np.int64)
        inside = np.zeros((len(denied), len(self.biases)), bool)
        inside[:, self.columns(positions)] = denied[:, positions]
        return replace(self, denied=inside)

    def with_shelves(self, shelves: Sequence[Ints]) -> ItemBlock:
        """The block with what lies in it of each shelf, given as ascending catalogue positions."""
        held = []
        for shelf in shelves:
            own = shelf[(shelf >= self.start) & (shelf < self.start + self.size)]
            places = _laid_out(len(own))
            columns = np.zeros(len(places), np.int32)
            columns[places < len(own)] = self.columns(own)[places[places < len(own)]]
            held.append(Shelf(own, columns, np.flatnonzero(places >= len(own))))
        return replace(self, shelves=tuple(held))

    @property
    def n_groups(self) -> int:
        """Number of groups, the last one padded."""
        return len(self.biases) // GROUP

    def columns(self, positions: Integers) -> Longs:
        """Columns of catalogue ``positions``, all of which lie in this block."""
        group, member = np.divmod(positions.astype(np.int64) - self.start, GROUP)
        return group + self.n_groups * member


def _laid_out(size: int) -> Longs:
    """Which of ``size`` items is in each column of the selection's layout; ``size`` and above for padding."""
    return np.arange(max(1, -(-size // GROUP)) * GROUP).reshape(-1, GROUP).T.ravel()


class Allowed(NamedTuple):
    """What users may be shown at all; each of the two may be None, where it limits nobody.

    Attributes
    ----------
    groups : int32 array, shape (n_users,): the row of the blocks' ``denied`` that holds for a user, -1 for
        none
    only : CSR pair (indptr int64 (n_users + 1,), positions int32 (nnz,)): the catalogue positions that a
        user may be shown, in any order, -1 for an item that is not there; a user without any is not limited
    """

    groups: Ints | None = None
    only: tuple[Longs, Ints] | None = None

    def rows(self, start: int, stop: int) -> Allowed:
        """Of the users ``start`` to ``stop``."""
        groups = None if self.groups is None else self.groups[start:stop]
        if self.only is None:
            return Allowed(groups)
        indptr, positions = self.only
        ends = indptr[start : stop + 1]
        return Allowed(groups, (ends - ends[0], positions[ends[0] : ends[-1]]))


def top_n(
    users: Floats,
    blocks: list[ItemBlock],
    seen: tuple[Longs, Ints],
    n: int,
    user_block: int = 256,
    log_sums: Doubles | None = None,
    bags: Bags | None = None,
    allowed: Allowed | None = None,
) -> tuple[Ints, Floats]:
    """Best ``n`` unseen items of each user, of those that may be shown, best first; or the best ``n`` of each
    shelf, in one list.

    Parameters
    ----------
    users : float32 array, shape (n_users, rank)
        Finite.
    blocks : item blocks in catalogue order
        Finite factors; an item with a bias of -inf is recommended to nobody. All of them have the same
        shelves, or none has any.
    seen : CSR pair (indptr int64 (n_users + 1,), positions int32 (nnz,))
        Catalogue positions never to return; duplicates and any order allowed.
    n : int, at least 1
    user_block : users scored at a time
    log_sums : float64 array, shape (n_users,), or None: filled with log Σ e^score over all items that may be
        shown, seen ones included
    bags : the users' histories, where blocks have weights of item pairs
    allowed : what may be shown to whom; None for everything

    Returns
    -------
    items : int32 array, shape (n_users, n); -1 where fewer than n items are eligible
    scores : float32 array, shape (n_users, n); -inf there

    With shelves both have n columns for each, and an item that is on several is listed once. Ties go to the
    smaller position. Memory: ``user_block * (block items) * 4`` bytes of scores for the largest block, and as
    much again for its largest shelf, plus the result. Cost: one matrix product and one pass over the scores;
    with shelves a copy of and a pass over those of each; with ``log_sums`` an exponential of each.

    Raises
    ------
    ValueError
        If n < 1 or the shapes disagree.
    """
    indptr, positions = seen
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if len(indptr) != len(users) + 1:
        raise ValueError(f"seen has {len(indptr) - 1} rows for {len(users)} users")
    shelves = blocks[0].shelves
    shape = (1 if shelves is None else len(shelves), len(users), n)
    items, scores = np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)
    # one buffer for all blocks: newly allocated memory would cost as much as the selection
    buffer = np.empty(user_block * max(len(block.biases) for block in blocks), np.float32)
    part = np.empty(user_block * max(map(_widest_shelf, blocks)), np.float32)
    for start in range(0, len(users), user_block):
        rows = slice(start, min(start + user_block, len(users)))
        block_seen = positions[indptr[rows.start] : indptr[rows.stop]]
        block_rows = np.repeat(np.arange(rows.stop - rows.start), np.diff(indptr[rows.start : rows.stop + 1]))
        for block in blocks:
            product = score_block(users[rows], block, buffer)
            if bags is not None and block.weights is not None:
                add_scores(product, bags.rows(rows.start, rows.stop), block.weights)
            if allowed is not None:
                mask_all_but(product, block, allowed.rows(rows.start, rows.stop))
            if log_sums is not None:
                log_sums[rows] = add_log_sums(log_sums[rows] if block.start else None, product)
            mask_seen(product, block, block_rows, block_seen)
            for of_shelf, of_scores, best in zip(
                items, scores, _selected(product, block, n, part), strict=True
            ):
                of_shelf[rows], of_scores[rows] = _merge(of_shelf[rows], of_scores[rows], *best)
    items[np.isneginf(scores)] = -1
    return (items[0], scores[0]) if shelves is None else _in_one_list(items, scores)


def top_n_of_biases(biases: Floats, seen: tuple[Longs, Ints], n: int) -> tuple[Ints, Floats]:
    """The same lists where a score is the item's bias alone: everyone's best items, without those seen.

    Parameters
    ----------
    biases : float32 array, shape (n_items,)
        An item with a bias of -inf is recommended to nobody.
    seen : CSR pair (indptr int64 (n_users + 1,), positions int32 (nnz,))
        Positions never to return; duplicates and any order allowed.
    n : int, at least 1

    Returns
    -------
    items, scores : as of :func:`top_n`

    Cost: a look-up for each seen pair, and a sort of those among the best ``n`` and as many more as a user
    has seen.
    """
    indptr, positions = seen
    counts = np.diff(indptr)
    order = np.argsort(-biases, kind="stable").astype(np.int32)
    rank_of = np.empty(len(biases), np.int64)
    rank_of[order] = np.arange(len(biases))
    ranks, rows = rank_of[positions], np.repeat(np.arange(len(counts)), counts)
    near = ranks < n + counts[rows]
    keys = distinct(rows[near] * len(biases) + ranks[near])
    rows, ranks = np.divmod(keys, max(1, len(biases)))
    # before a user's j-th seen rank r there are r - j unseen ones
    ahead = ranks - (np.arange(len(rows)) - np.searchsorted(rows, rows))
    near = ahead < n
    skipped = np.bincount(rows[near] * n + ahead[near], minlength=len(counts) * n).reshape(-1, n)
    found = np.arange(n) + np.cumsum(skipped, axis=1)
    items = np.full((len(counts), n), -1, np.int32)
    scores = np.full((len(counts), n), -np.inf, np.float32)
    listed = found < len(biases)
    items[listed] = order[found[listed]]
    scores[listed] = biases[items[listed]]
    items[np.isneginf(scores)] = -1
    return items, scores


def score_block(users: Floats, block: ItemBlock, buffer: Floats) -> Floats:
    """Scores of a user block against an item block, shape (n_users, n_groups * GROUP), written into the
    flat ``buffer``.
    """
    width = len(block.biases)
    product = buffer[: len(users) * width].reshape(len(users), width)
    np.matmul(users, block.factors, out=product)
    biased = np.flatnonzero(block.biases)
    if len(biased) > width // 2:
        product += block.biases
    else:  # a pass over all scores is not free, and in most models only the padding has biases
        product[:, biased] += block.biases[biased]
    return product


def add_log_sums(before: Doubles | None, scores: Floats) -> Doubles:
    """Log Σ e^score of each row, added to the sums ``before``; scores of -inf add nothing."""
    sums = log_sums_of(scores)
    return sums if before is None else np.logaddexp(before, sums)


def mask_all_but(scores: Floats, block: ItemBlock, allowed: Allowed) -> None:
    """Set the scores of what may not be shown to -inf in place; ``allowed`` has as many users as ``scores``
    has rows.
    """
    if allowed.groups is not None and block.denied is not None:
        of_group = np.flatnonzero(allowed.groups >= 0)
        for group in distinct(allowed.groups[of_group]):
            rows = of_group[allowed.groups[of_group] == group]
            scores[np.ix_(rows, np.flatnonzero(block.denied[group]))] = -np.inf
    if allowed.only is not None:
        indptr, positions = allowed.only
        counts = np.diff(indptr)
        rows = np.repeat(np.arange(len(counts)), counts)
        inside = (positions >= block.start) & (positions < block.start + block.size)
        places = rows[inside], block.columns(positions[inside])
        kept = scores[places]
        scores[counts > 0] = -np.inf
        scores[places] = kept


def mask_seen(scores: Floats, block: ItemBlock, rows: Longs, positions: Ints) -> None:
    """Set the scores of the pairs (``rows``, catalogue ``positions``) to -inf in place, where they lie in
    ``block``.
    """
    inside = (positions >= block.start) & (positions < block.start + block.size)
    if not inside.all():
        rows, positions = rows[inside], positions[inside]
    scores[rows, block.columns(positions)] = -np.inf


def select(scores: Floats, n: int) -> tuple[Ints, Floats]:
    """Exact best ``n`` of each row of ``scores``, in the layout of a block, as places among its items
    (meaningless where the score is -inf).
    """
    n_users, n_groups = len(scores), scores.shape[1] // GROUP
    by_member = scores.reshape(n_users, GROUP, n_groups)
    groups = best_columns(by_member.max(axis=1), min(n, n_groups))  # (n_users, m)
    members = np.arange(GROUP)
    candidates = by_member[np.arange(n_users)[:, None, None], members, groups[:, :, None]].reshape(
        n_users, -1
    )
    best = best_columns(candidates, min(n, candidates.shape[1]))
    best_scores = np.take_along_axis(candidates, best, axis=1)
    order = np.argsort(-best_scores, axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    best_scores = np.take_along_axis(best_scores, order, axis=1)
    group = np.take_along_axis(groups, best // GROUP, axis=1)
    return (group * GROUP + best % GROUP).astype(np.int32), best_scores


def best_columns(values: Floats, n: int) -> Longs:
    """Columns of the ``n`` largest values of each row, in column order; among equal values the leftmost.

    ``n`` must not exceed the number of columns.
    """
    n_rows, width = values.shape
    threshold = np.partition(values, width - n, axis=1)[:, width - n, None]
    chosen = values >= threshold
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > n)
    if len(tied):
        above = values[tied] > threshold[tied]
        equal = chosen[tied] & ~above
        n_equal = n - np.count_nonzero(above, axis=1)
        chosen[tied] = above | (equal & (np.cumsum(equal, axis=1) <= n_equal[:, None]))
    return np.flatnonzero(chosen).reshape(n_rows, n) % width


def _widest_shelf(block: ItemBlock) -> int:
    """Columns of the block's largest shelf."""
    return max((len(shelf.columns) for shelf in block.shelves or ()), default=0)


def _selected(scores: Floats, block: ItemBlock, n: int, buffer: Floats) -> Iterator[tuple[Ints, Floats]]:
    """The best ``n`` of the block, or of each of its shelves, as catalogue positions; shelves are copied into
    the flat ``buffer``.
    """
    if block.shelves is None:
        places, best = select(scores, n)
        yield places + np.int32(block.start), best
        return
    for positions, columns, padding in block.shelves:
        own = buffer[: len(scores) * len(columns)].reshape(len(scores), len(columns))
        np.take(scores, columns, axis=1, out=own, mode="clip")  # any other mode copies once more
        own[:, padding] = -np.inf
        places, best = select(own, n)
        padded = np.append(positions, np.full(len(padding), -1, np.int32))
        yield padded[places], best


def _in_one_list(items: Ints, scores: Floats) -> tuple[Ints, Floats]:
    """Lists of several shelves, shape (n_shelves, n_users, n), one after another in one, best first."""
    n_users = items.shape[1]
    beside = items.transpose(1, 0, 2).reshape(n_users, -1), scores.transpose(1, 0, 2).reshape(n_users, -1)
    items, scores = _best_first(*beside)
    again = np.zeros(items.shape, bool)
    again[:, 1:] = items[:, 1:] == items[:, :-1]  # what is on two shelves has one score
    items[again], scores[again] = -1, -np.inf
    return _best_first(items, scores)


def _best_first(items: Ints, scores: Floats) -> tuple[Ints, Floats]:
    order = np.lexsort((items, -scores), axis=1)
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _merge(items: Ints, scores: Floats, more_items: Ints, more_scores: Floats) -> tuple[Ints, Floats]:
    """Best n of two lists, each best first; ``items`` come from smaller catalogue positions and win ties."""
    n = items.shape[1]
    both_items = np.concatenate([items, more_items], axis=1)
    both_scores = np.concatenate([scores, more_scores], axis=1)
    order = np.argsort(-both_scores, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(both_items, order, axis=1), np.take_along_axis(both_scores, order, axis=1)
