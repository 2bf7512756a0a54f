"""Negatives: distributions against the exact ones, and never a positive."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from recsys_spark.kernels.negatives import Proposal, draw_negatives

SKEWED = np.array([100.0, 30.0, 10.0, 5.0, 3.0, 1.0, 1.0, 0.2])


def draw(weights, known, positives, wanted, key=1):
    """Negatives of one user with ``positives`` positives, as a list for each."""
    seen = np.array(sorted(known), np.int32)
    drawn = draw_negatives(
        np.array([key], np.uint64),
        (np.array([0, len(seen)]), seen),
        np.array([0, positives]),
        np.full(positives, wanted, np.int32),
        Proposal.build(weights),
    )
    return np.split(drawn.items, np.cumsum(drawn.counts)[:-1]), drawn


def unseen(weights, known):
    left = np.array(weights, float)
    left[list(known)] = 0.0
    return left / left.sum()


@pytest.mark.parametrize(
    ("weights", "known"),
    [(np.ones(8), []), (np.ones(8), [0, 3, 7]), (SKEWED, []), (SKEWED, [1, 2]), (SKEWED, [0, 1, 2, 4])],
    ids=["uniform", "uniform, some known", "skewed", "skewed, some known", "nearly all of the mass known"],
)
def test_one_negative_is_distributed_as_the_unseen_items_weigh(weights, known):
    lists, drawn = draw(weights, known, 60_000, 1)
    expected = unseen(weights, known)
    counts = np.bincount(np.concatenate(lists), minlength=8)
    assert counts[known].sum() == 0
    possible = expected > 0
    assert chisquare(counts[possible], 60_000 * expected[possible]).pvalue > 1e-3
    assert drawn.log_unseen[0] == pytest.approx(np.log(1 - (weights / weights.sum())[known].sum()), rel=1e-4)


@pytest.mark.parametrize("known", [[], [0, 1, 2]], ids=["nothing known", "nearly all of the mass known"])
def test_negatives_of_a_positive_are_drawn_without_replacement(known):
    """All ordered pairs: the second in proportion to what the first leaves. A weight of 5,000 makes most
    draws repeat.
    """
    weights = np.array([5e6, 1e6, 1e6, 5000.0, 3.0, 2.0, 1.0]) if known else np.array([5000.0, 3.0, 2.0, 1.0])
    lists, _ = draw(weights, known, 40_000, 2)
    q = unseen(weights, known)
    pairs = list(permutations(np.flatnonzero(q), 2))
    expected = np.array([q[a] * q[b] / (1 - q[a]) for a, b in pairs])
    index = {pair: k for k, pair in enumerate(pairs)}
    counts = np.bincount([index[tuple(one)] for one in lists], minlength=len(pairs))
    often = expected * 40_000 > 5
    observed = np.append(counts[often], counts[~often].sum())
    rare = expected[~often].sum()
    assert chisquare(observed, 40_000 * np.append(expected[often], rare) / expected.sum()).pvalue > 1e-3


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_never_a_known_item_nor_one_twice_and_as_many_as_there_are(data):
    n = data.draw(st.integers(1, 40))
    weights = data.draw(
        st.sampled_from([np.ones(n), 1 / np.arange(1, n + 1) ** 3, 10.0 ** -np.arange(n).clip(max=12)])
    )
    known = data.draw(st.sets(st.integers(0, n - 1)))
    wanted = data.draw(st.integers(1, 50))
    lists, drawn = draw(weights, known, 3, wanted, key=data.draw(st.integers(0, 2**64 - 1)))
    assert drawn.counts.tolist() == [min(wanted, n - len(known))] * 3
    for one in lists:
        assert len(set(one.tolist())) == len(one)
        assert set(one.tolist()).isdisjoint(known)


def test_draws_of_a_user_depend_on_their_key_alone():
    rng = np.random.default_rng(0)
    proposal = Proposal.build(rng.random(50))
    known = [np.unique(rng.integers(0, 50, 10)).astype(np.int32) for _ in range(3)]
    keys = np.array([11, 12, 11], np.uint64)

    def drawn(users):
        indptr = np.concatenate([[0], np.cumsum([len(known[u]) for u in users])])
        seen = np.concatenate([known[u] for u in users])
        wanted = np.full(4 * len(users), 3, np.int32)
        return draw_negatives(
            keys[users], (indptr, seen), np.arange(len(users) + 1) * 4, wanted, proposal
        ).items

    together, last = drawn([0, 1, 2]), drawn([1])
    assert together[12:24].tolist() == last.tolist()
    assert together[:12].tolist() != last.tolist()


def test_weights_that_are_not_a_distribution_are_rejected():
    for weights in ([], [1.0, 0.0], [1.0, np.nan], [-1.0]):
        with pytest.raises(ValueError, match="positive finite"):
            Proposal.build(np.array(weights))
