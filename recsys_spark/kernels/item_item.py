"""Weights of item pairs: which items of a history speak for an item, and how much.

A history's score of item i is ``Σ_j w_ij x_j`` over its items j. All weights come from the items' Gram matrix
``G = Σ_u s_u x_u x_uᵀ`` over users' histories x_u, of which only rows that are worked on are ever held:

* measures of two items: cosine ``G_ij / √(G_ii G_jj)``; Jaccard's, of which ``G`` counts users; and RP3β
  (Paudel et al. 2017), with ``s_u = 1 / |x_u|``: ``G_ij / (n_j n_i^β)`` where n counts users;
* ridge regressions of item i on its best neighbours N by cosine, ``(G_NN + Λ) w_i = G_Ni``: with N all other
  items it is EASE (Steck 2019, "Embarrassingly shallow autoencoders"), which :func:`exact_weights` has in
  closed form.

A ridge on a support is that of fsSLIM (Ning & Karypis 2011). Sums of a row run over users in their order, in
float64, so that its bits do not depend on which rows are made together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Floats, Ints, Longs, exact_jit, inlined_exact_jit


class Histories(NamedTuple):
    """Users' items, as compressed rows.

    Attributes
    ----------
    indptr : int64 array, shape (n_users + 1,)
    items : int32 array, shape (n,): positions of items, ascending in each row
    values : float32 array, shape (n,), or empty where all are 1
    weights : float32 array, shape (n_users,): s_u
    """

    indptr: Longs
    items: Ints
    values: Floats
    weights: Floats


class Audiences(NamedTuple):
    """The same by item: who has it.

    Attributes
    ----------
    indptr : int64 array, shape (n_items + 1,)
    users : int32 array, shape (n,): rows of the histories, ascending
    values : float32 array, shape (n,), or empty where all are 1
    """

    indptr: Longs
    users: Ints
    values: Floats

    @classmethod
    def of(cls, histories: Histories, n_items: int) -> Audiences:
        """Turn the rows. Cost: a sort of all events by item."""
        order = np.argsort(histories.items, kind="stable")
        users = np.repeat(np.arange(len(histories.indptr) - 1, dtype=np.int32), np.diff(histories.indptr))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(histories.items, minlength=n_items))])
        values = histories.values[order] if len(histories.values) else histories.values
        return cls(indptr.astype(np.int64), users[order], values)


class PairWeights(NamedTuple):
    """Weights w_ij as compressed rows: of each item j of a history the items i that it speaks for.

    Attributes
    ----------
    indptr : int64 array, shape (items of histories + 1,)
    targets : int32 array, shape (n,): where a score is added
    weights : float32 array, shape (n,)
    """

    indptr: Longs
    targets: Ints
    weights: Floats


class Bags(NamedTuple):
    """Items of some users, as compressed rows, with their values.

    Attributes
    ----------
    indptr : int64 array, shape (n_users + 1,)
    items : int32 array, shape (n,): ascending in each row
    values : float32 array, shape (n,)
    """

    indptr: Longs
    items: Ints
    values: Floats

    def rows(self, start: int, stop: int) -> Bags:
        """Those of some users."""
        first, last = self.indptr[start], self.indptr[stop]
        return Bags(self.indptr[start : stop + 1] - first, self.items[first:last], self.values[first:last])


class Measure(NamedTuple):
    """How a Gram entry becomes a measure: ``scale_i[i] G_ij scale_j[j]``, or Jaccard's.

    Attributes
    ----------
    target, neighbor : float64 arrays, shape (n_items,)
        Scales; with ``jaccard`` the first is the number of users.
    jaccard : bool
        Whether it is G_ij / (n_i + n_j - G_ij).
    """

    target: Doubles
    neighbor: Doubles
    jaccard: bool


def squares(histories: Histories, n_items: int) -> Doubles:
    """The diagonal of G, shape (n_items,)."""
    found = np.zeros(n_items)
    _add_squares(*histories, found)
    return found


def costs(histories: Histories, n_items: int) -> Longs:
    """For each item the events of all its users: what finding its neighbours costs."""
    found = np.zeros(n_items, np.int64)
    _add_costs(histories.indptr, histories.items, found)
    return found


def neighbors(histories: Histories, own: Ints, measure: Measure, k: int) -> tuple[Ints, Floats]:
    """The ``k`` best neighbours of some items, by a measure above 0.

    Parameters
    ----------
    histories : of all users
    own : int32 array, shape (n,): the items
    measure : of all items
    k : at least 1

    Returns
    -------
    neighbors : int32 array, shape (n, k), ascending; -1 after the last one
    measures : float32 array, shape (n, k)

    Of equal measures the smaller item is nearer. Cost: a look at all events, and for each user of each item
    the user's events. Memory: 17 bytes for each item of the catalogue, and 8 for each event of the own ones.
    """
    n_items = len(measure.target)
    place = np.full(n_items, -1, np.int32)
    place[own] = np.arange(len(own), dtype=np.int32)
    starts, users, values = _users_of(*histories[:3], place, len(own))
    found = np.full((len(own), k), -1, np.int32)
    measures = np.zeros((len(own), k), np.float32)
    _neighbors(*histories, starts, users, values, own, *measure, found, measures)
    order = np.argsort(np.where(found < 0, n_items, found), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(measures, order, axis=1)


def gram_among(histories: Histories, chosen: Ints, n_items: int) -> Doubles:
    """G of some items, float64, shape (n, n).

    Parameters
    ----------
    histories : of all users
    chosen : int32 array, shape (n,), ascending
    n_items : size of the catalogue

    Cost: a look at every event, and for each user half the square of how many of the items it has.
    """
    place = np.full(n_items, -1, np.int32)
    place[chosen] = np.arange(len(chosen), dtype=np.int32)
    gram = np.zeros((len(chosen), len(chosen)))
    _add_gram(*histories, place, gram)
    return gram


class Head(NamedTuple):
    """Items whose Gram matrix is at hand.

    Attributes
    ----------
    place : int32 array, shape (n_items,): place in the matrix, -1 for the others
    gram : float64 array, shape (n, n)
    """

    place: Ints
    gram: Doubles


def gram_beside_head(
    audiences: Audiences, weights: Floats, head: Head, chosen: Ints, newest: Ints
) -> Doubles:
    """The same as :func:`gram_among` of a few items: pairs of the head are looked up, and the others counted
    over who has them.

    Parameters
    ----------
    audiences : of all items
    weights : float32 array, shape (n_users,): s_u
    head : items with many users, best
    chosen : int32 array, shape (n,), ascending
    newest : int32 array, shape (n_users,), of -1, which it is afterwards too: workspace

    Cost: unless all items are in the head, a look at each one's users, and for each user a sum for each pair
    of the items that is not in it. Memory: 16 bytes for each event of the items that are not in the head.
    """
    gram = np.zeros((len(chosen), len(chosen)))
    in_head = head.place[chosen]
    tail, top = np.flatnonzero(in_head < 0), np.flatnonzero(in_head >= 0)
    gram[np.ix_(top, top)] = head.gram[np.ix_(in_head[top], in_head[top])]
    if len(tail):
        _add_tail(*audiences, weights, chosen, tail, top, newest, gram)
    return gram


def ridge_weights(gram: Doubles, chosen: Ints, own: Ints, neighbors: Ints, penalty: Doubles) -> Floats:
    """Ridge regression of each own item on its neighbours: ``(G_NN + Λ) w = G_Ni``.

    Parameters
    ----------
    gram : float64 array, shape (n, n): of ``chosen``
    chosen : int32 array, shape (n,), ascending: has all that follow
    own : int32 array, shape (m,)
    neighbors : int32 array, shape (m, k), -1 after the last one
    penalty : float64 array, shape (n,): Λ of ``chosen``, above 0

    Returns
    -------
    float32 array, shape (m, k)
    """
    weights = np.zeros(neighbors.shape, np.float32)
    places, sizes = np.searchsorted(chosen, neighbors), np.count_nonzero(neighbors >= 0, axis=1)
    for row, item in enumerate(np.searchsorted(chosen, own).tolist()):
        place = places[row, : sizes[row]]
        system = gram[np.ix_(place, place)]
        system[np.diag_indices_from(system)] += penalty[place]
        weights[row, : len(place)] = np.linalg.solve(system, gram[place, item])
    return weights


def exact_weights(gram: Doubles, penalty: Doubles, k: int) -> tuple[Ints, Floats]:
    """EASE: each item's regression on all others, of which the ``k`` largest weights are kept.

    Parameters
    ----------
    gram : float64 array, shape (n_items, n_items); overwritten
    penalty : float64 array, shape (n_items,): Λ, above 0
    k : weights of an item that are kept, at most

    Returns
    -------
    neighbors : int32 array, shape (n_items, min(k, n_items - 1)), ascending
    weights : float32 array, of this shape
    """
    gram[np.diag_indices_from(gram)] += penalty
    inverse = np.linalg.inv(gram)
    inverse /= -inverse.diagonal()[:, None]
    np.fill_diagonal(inverse, 0.0)
    k = min(k, len(gram) - 1)
    kept = np.empty((len(gram), k), np.int32)
    for item, row in enumerate(inverse):
        kept[item] = np.sort(np.argsort(-np.abs(row), kind="stable")[:k])
    return kept, np.take_along_axis(inverse, kept.astype(np.int64), axis=1).astype(np.float32)


def add_scores(scores: Floats, bags: Bags, weights: PairWeights) -> None:
    """Add ``Σ_j w_ij x_j`` to the scores of each user, shape (n_users, n_targets), item by item.

    Cost: an addition for each weight of each item of the bags.
    """
    _add_scores(scores, *bags, *weights)


def pair_scores(bags: Bags, rows: Longs, targets: Ints, weights: PairWeights) -> Floats:
    """``Σ_j w_ij x_j`` of pairs of a bag and an item.

    Parameters
    ----------
    bags : of users
    rows : int64 array, shape (n,): which bag each pair has
    targets : int32 array, shape (n,): the pairs' items; -1 for one without weights
    weights : here as rows of each target, with the items of histories as ``targets``, ascending

    Returns
    -------
    float32 array, shape (n,)
    """
    scores = np.zeros(len(targets), np.float32)
    _pair_scores(scores, *bags, rows, targets, *weights)
    return scores


@exact_jit
def _add_scores(
    scores: Any, starts: Any, items: Any, values: Any, indptr: Any, targets: Any, weights: Any
) -> None:
    for user in range(len(starts) - 1):
        row = scores[user]
        for event in range(starts[user], starts[user + 1]):
            x, item = values[event], items[event]
            for at in range(indptr[item], indptr[item + 1]):
                row[targets[at]] += x * weights[at]


@exact_jit
def _pair_scores(
    scores: Any,
    starts: Any,
    items: Any,
    values: Any,
    rows: Any,
    targets: Any,
    indptr: Any,
    neighbors: Any,
    weights: Any,
) -> None:
    for pair in range(len(targets)):
        if targets[pair] < 0:
            continue
        at, end = indptr[targets[pair]], indptr[targets[pair] + 1]
        for event in range(starts[rows[pair]], starts[rows[pair] + 1]):
            item = items[event]
            while at < end and neighbors[at] < item:
                at += 1
            if at < end and neighbors[at] == item:
                scores[pair] += values[event] * weights[at]


@exact_jit
def _users_of(indptr: Any, items: Any, values: Any, place: Any, n_own: Any) -> Any:
    """Users of the items that have a place, and the values there, as compressed rows."""
    starts = np.zeros(n_own + 1, np.int64)
    for item in items:
        if place[item] >= 0:
            starts[place[item] + 1] += 1
    for own in range(n_own):
        starts[own + 1] += starts[own]
    users, theirs = np.empty(starts[n_own], np.int32), np.empty(starts[n_own], np.float32)
    ends = starts[:-1].copy()
    for user in range(len(indptr) - 1):
        for event in range(indptr[user], indptr[user + 1]):
            own = place[items[event]]
            if own >= 0:
                users[ends[own]] = user
                theirs[ends[own]] = values[event] if len(values) else np.float32(1)
                ends[own] += 1
    return starts, users, theirs


@exact_jit
def _neighbors(
    indptr: Any,
    items: Any,
    values: Any,
    weights: Any,
    starts: Any,
    users: Any,
    theirs: Any,
    own: Any,
    target: Any,
    neighbor: Any,
    jaccard: Any,
    found: Any,
    measures: Any,
) -> None:
    n_items, k = len(target), found.shape[1]
    gram, is_touched = np.zeros(n_items, np.float64), np.zeros(n_items, np.bool_)
    touched = np.empty(n_items, np.int32)
    for row in range(len(own)):
        item, n = own[row], 0
        for at in range(starts[row], starts[row + 1]):
            user = users[at]
            x = np.float64(weights[user]) * theirs[at]
            for event in range(indptr[user], indptr[user + 1]):
                other = items[event]
                if not is_touched[other]:
                    is_touched[other] = True
                    touched[n] = other
                    n += 1
                gram[other] += x * values[event] if len(values) else x
        kept = 0
        for at in range(n):
            other = touched[at]
            if jaccard:
                value = np.float32(gram[other] / (target[item] + target[other] - gram[other]))
            else:
                value = np.float32(target[item] * gram[other] * neighbor[other])
            gram[other], is_touched[other] = 0.0, False
            if other == item or value <= 0:
                continue
            if kept < k:
                kept += 1
                _lift(found[row], measures[row], kept - 1, other, value)
            elif _is_nearer(other, value, found[row, 0], measures[row, 0]):
                _sink(found[row], measures[row], k, other, value)


@inlined_exact_jit
def _is_nearer(item: Any, value: Any, other: Any, others_value: Any) -> Any:
    return value > others_value or (value == others_value and item < other)


@inlined_exact_jit
def _lift(items: Any, values: Any, at: Any, item: Any, value: Any) -> None:
    """Put an item into a heap, whose root is the farthest, from place ``at`` upwards."""
    while at > 0:
        above = (at - 1) // 2
        if _is_nearer(items[above], values[above], item, value):
            items[at], values[at] = items[above], values[above]
            at = above
        else:
            break
    items[at], values[at] = item, value


@inlined_exact_jit
def _sink(items: Any, values: Any, n: Any, item: Any, value: Any) -> None:
    """Put an item into a heap of n in place of its root."""
    at = 0
    while 2 * at + 1 < n:
        below = 2 * at + 1
        if below + 1 < n and _is_nearer(items[below], values[below], items[below + 1], values[below + 1]):
            below += 1
        if _is_nearer(items[below], values[below], item, value):
            break
        items[at], values[at] = items[below], values[below]
        at = below
    items[at], values[at] = item, value


@exact_jit
def _add_squares(indptr: Any, items: Any, values: Any, weights: Any, found: Any) -> None:
    for user in range(len(indptr) - 1):
        for event in range(indptr[user], indptr[user + 1]):
            x = np.float64(values[event]) if len(values) else 1.0
            found[items[event]] += weights[user] * x * x


@exact_jit
def _add_costs(indptr: Any, items: Any, found: Any) -> None:
    for user in range(len(indptr) - 1):
        for event in range(indptr[user], indptr[user + 1]):
            found[items[event]] += indptr[user + 1] - indptr[user]


@inlined_exact_jit
def _mirror(gram: Any) -> None:
    """Copy the upper half to the lower one."""
    for row in range(len(gram)):
        for column in range(row):
            gram[row, column] = gram[column, row]


@exact_jit
def _add_gram(indptr: Any, items: Any, values: Any, weights: Any, place: Any, gram: Any) -> None:
    longest = 0
    for user in range(len(indptr) - 1):
        longest = max(longest, indptr[user + 1] - indptr[user])
    places, x = np.empty(longest, np.int32), np.empty(longest, np.float64)
    for user in range(len(indptr) - 1):
        n = 0
        for event in range(indptr[user], indptr[user + 1]):
            at = place[items[event]]
            if at >= 0:
                places[n] = at
                x[n] = np.float64(values[event]) if len(values) else 1.0
                n += 1
        for a in range(n):
            row, xa = gram[places[a]], weights[user] * x[a]
            for b in range(a, n):
                row[places[b]] += xa * x[b]
    _mirror(gram)


@exact_jit
def _add_tail(
    indptr: Any,
    users: Any,
    values: Any,
    weights: Any,
    chosen: Any,
    tail: Any,
    top: Any,
    newest: Any,
    gram: Any,
) -> None:
    """``newest`` is a user's last entry of the tail's items, from which the earlier ones follow."""
    total = 0
    for a in tail:
        total += indptr[chosen[a] + 1] - indptr[chosen[a]]
    places, x, before = np.empty(total, np.int32), np.empty(total, np.float64), np.empty(total, np.int32)
    n = 0
    for a in tail:
        for at in range(indptr[chosen[a]], indptr[chosen[a] + 1]):
            user = users[at]
            value = np.float64(values[at]) if len(values) else 1.0
            places[n], x[n], before[n] = a, value, newest[user]
            newest[user] = entry = n
            n += 1
            while entry >= 0:
                gram[places[entry], a] += weights[user] * x[entry] * value
                entry = before[entry]
    for b in top:
        for at in range(indptr[chosen[b]], indptr[chosen[b] + 1]):
            user = users[at]
            value = np.float64(values[at]) if len(values) else 1.0
            entry = newest[user]
            while entry >= 0:
                gram[places[entry], b] += weights[user] * x[entry] * value
                entry = before[entry]
    for a in tail:
        for b in top:
            gram[b, a] = gram[a, b]
        for b in tail:
            if b < a:
                gram[a, b] = gram[b, a]
        for at in range(indptr[chosen[a]], indptr[chosen[a] + 1]):
            newest[users[at]] = -1
