"""Slots that are pinned and drawn, by hand and by what draws must come to."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.randomness import uniform
from recsys_spark.kernels.slots import OWN, Entries, Slot, fill_slots


def entries(*lists):
    return Entries(
        np.array([item for own in lists for item in own], np.int32), np.cumsum([0, *map(len, lists)])
    )


def items_of(filled, own, pools):
    """The items of each list."""
    items = np.concatenate([own.items, *(pool.items for pool in pools)])
    return [items[row[row >= 0]].tolist() for row in filled.entries]


def test_pins_are_where_they_are_wanted_and_the_own_items_go_round_them():
    own, pool = entries([0, 1, 2, 3]), entries([3, 9])
    slots = [Slot(4, 0, 0.0), Slot(2, 0, 0.0)]  # the one of the smaller rank chooses first
    filled = fill_slots(own, [pool], slots, np.zeros((1, 2)), 4)
    assert items_of(filled, own, [pool]) == [[0, 3, 1, 9]]
    assert filled.sources.tolist() == [[OWN, 0, OWN, 0]]
    assert np.isnan(filled.propensities).all()


def test_a_short_list_has_no_gap_before_its_pin_and_none_without_items():
    own, pool = entries([0], [], [1, 2]), entries([8], [8], [])
    filled = fill_slots(own, [pool], [Slot(3, 0, 0.0)], np.zeros((3, 1)), 3)
    assert items_of(filled, own, [pool]) == [[0, 8], [8], [1, 2]]


def test_each_pin_has_its_pool():
    own, pools = entries([0, 1]), [entries([5, 6]), entries([5, 7])]
    filled = fill_slots(own, pools, [Slot(1, 0, 0.0), Slot(2, 1, 0.0)], np.zeros((1, 2)), 3)
    assert items_of(filled, own, pools) == [[5, 7, 0]]


@pytest.mark.parametrize(
    ("draw", "item", "propensity"),
    [
        (0.05, 2, 0.6 + 0.4 / 3),  # the first third of what is drawn: the slot's own item
        (0.15, 7, 0.4 / 3),
        (0.39, 8, 0.4 / 3),
        (0.41, 2, 0.6 + 0.4 / 3),  # not drawn
    ],
)
def test_a_slot_is_drawn_from_what_is_not_listed_elsewhere(draw, item, propensity):
    own, pool = entries([0, 1, 2]), entries([1, 7, 2, 8])
    filled = fill_slots(own, [pool], [Slot(3, 0, 0.4)], np.array([[draw]]), 3)
    assert items_of(filled, own, [pool]) == [[0, 1, item]]
    assert filled.propensities[0, 2] == pytest.approx(propensity)
    assert np.isnan(filled.propensities[0, :2]).all()


def test_what_is_drawn_once_is_not_drawn_again():
    """The second slot's items: its own, and the first slot's, which is out of the list."""
    own, pool = entries([0, 1]), entries([7])
    filled = fill_slots(own, [pool], [Slot(1, 0, 1.0), Slot(2, 0, 1.0)], np.array([[0.9, 0.9]]), 2)
    assert items_of(filled, own, [pool]) == [[7, 1]]
    assert filled.propensities.tolist() == [[0.5, 1.0]]


def test_no_slot_beyond_the_end_and_none_that_a_pin_has_moved_to_is_drawn():
    own, pools = entries([0]), [entries([5]), entries([6, 7])]
    slots = [Slot(4, 0, 0.0), Slot(2, 1, 1.0), Slot(3, 1, 1.0)]
    filled = fill_slots(own, pools, slots, np.full((1, 3), 0.9), 4)
    assert items_of(filled, own, pools) == [[0, 5]]
    assert np.isnan(filled.propensities).all()


def test_propensities_are_how_often_items_are_drawn():
    """So that, divided by them, the slot's own items stand for all lists."""
    n_lists = 20_000
    own, pool = entries(*[[0, 1, 2]] * n_lists), entries(*[[3, 4, 5, 6]] * n_lists)
    draws = uniform(1, np.arange(n_lists)[:, None], np.arange(2))
    filled = fill_slots(own, [pool], [Slot(1, 0, 0.5), Slot(3, 0, 1.0)], draws, 3)
    lists = np.array(items_of(filled, own, [pool]))
    for place in (0, 2):
        kept = lists[:, place] == place
        assert (1 / filled.propensities[kept, place]).sum() == pytest.approx(n_lists, rel=0.05)
    assert np.mean(lists[:, 0] != 0) == pytest.approx(0.4, abs=0.02)
    assert filled.propensities[lists[:, 0] != 0, 0] == pytest.approx(0.1)
