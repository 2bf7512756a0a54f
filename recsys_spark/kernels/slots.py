"""Slots of lists that are not the model's to fill: pinned ones, and those whose item is drawn.

A pin shows the first item of its pool that no pin before it shows; the list's own items fill the slots that
are left, in their order. Then each slot that is drawn shows, with the probability ``rate``, an item drawn
evenly from its pool, without what the list has elsewhere and with the item that it has itself; and that item
otherwise. So the item that a list would have without drawing always has a chance, and with s items to draw
from, itself among them,

    P(own item) = 1 - rate + rate / s,    P(another) = rate / s

given the slots that were drawn before. These propensities are what estimates from logs divide by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Doubles, Ints, Longs, exact_jit

OWN = -1
"""Pool of a slot that was not given away."""


class Slot(NamedTuple):
    """A slot that is given away.

    Attributes
    ----------
    rank : from 1
    pool : which of the pools its items are of
    rate : the probability with which it is drawn; 0 for a pin
    """

    rank: int
    pool: int
    rate: float


class Entries(NamedTuple):
    """Entries of lists.

    Attributes
    ----------
    items : int32 array, shape (n_entries,): which item, from 0
    starts : int64 array, shape (n_lists + 1,): where the lists begin
    """

    items: Ints
    starts: Longs


class Filled(NamedTuple):
    """Lists with all slots filled.

    Attributes
    ----------
    entries : int64 array, shape (n_lists, n): place of the entry among the lists' own and then those of each
        pool; -1 beyond a list's end
    sources : int32 array, shape (n_lists, n): the pool that the entry is of; :data:`OWN` for the list's own
    propensities : float64 array, shape (n_lists, n): the probability of the item in a slot that is drawn; NaN
        in others
    """

    entries: Longs
    sources: Ints
    propensities: Doubles


def fill_slots(
    own: Entries, pools: Sequence[Entries], slots: Sequence[Slot], draws: Doubles, n: int
) -> Filled:
    """Fill the slots of lists.

    Parameters
    ----------
    own : Entries
        The lists, best first, without repetitions.
    pools : sequence of Entries
        Of the same lists, best first; an item may be in several and in ``own``.
    slots : sequence of Slot
        Of different ranks, from 1 to ``n``.
    draws : float64 array, shape (n_lists, n_slots)
        In [0, 1), one for each slot; those of pins are not read.
    n : int
        Length of the lists. One is shorter where its own items and pins are fewer; a pin then moves up, and
        a slot beyond the end is not drawn.

    Cost: a pass over the pools of each list's slots.
    """
    order = sorted(range(len(slots)), key=lambda slot: slots[slot].rank)
    everything = [own, *pools]
    first = np.cumsum([0, *(len(source.items) for source in everything[:-1])])
    starts = np.stack([source.starts + start for source, start in zip(everything, first, strict=True)])
    items = np.concatenate([source.items for source in everything]).astype(np.int32)
    shape = len(own.starts) - 1, n
    filled = Filled(np.full(shape, -1, np.int64), np.full(shape, OWN, np.int32), np.full(shape, np.nan))
    _fill(
        items,
        starts.astype(np.int64),
        np.array([slots[slot].rank - 1 for slot in order], np.int64),
        np.array([slots[slot].pool + 1 for slot in order], np.int64),
        np.array([slots[slot].rate for slot in order], np.float64),
        np.ascontiguousarray(draws[:, order], np.float64),
        *filled,
    )
    return filled


@exact_jit
def _fill(
    items: Ints,
    starts: Longs,
    places: Longs,
    sources: Longs,
    rates: Doubles,
    draws: Doubles,
    entries: Longs,
    found_in: Ints,
    propensities: Doubles,
) -> None:
    n_lists, n = entries.shape
    listed = np.full(items.max() + 1 if len(items) else 0, -1, np.int64)  # the list that has an item
    pins = np.empty(len(places), np.int64)
    for row in range(n_lists):
        n_pins = 0
        for slot in range(len(places)):
            pins[slot] = -1
            if rates[slot] > 0:
                continue
            for entry in range(starts[sources[slot], row], starts[sources[slot], row + 1]):
                if listed[items[entry]] != row:
                    listed[items[entry]] = row
                    pins[slot] = entry
                    n_pins += 1
                    break
        entry, stop = starts[0, row], starts[0, row + 1]
        slot = length = 0
        while length < n:
            while entry < stop and listed[items[entry]] == row:
                entry += 1
            while slot < len(places) and pins[slot] < 0:
                slot += 1
            if slot < len(places) and (places[slot] <= length or entry == stop):
                entries[row, length], found_in[row, length] = pins[slot], sources[slot] - 1
                slot += 1
            elif entry < stop:
                entries[row, length] = entry
                listed[items[entry]] = row
                entry += 1
            else:
                break
            length += 1
        for slot in range(len(places)):
            place = places[slot]
            if rates[slot] == 0 or place >= length or found_in[row, place] != OWN:
                continue
            start, stop = starts[sources[slot], row], starts[sources[slot], row + 1]
            size = 1
            for other in range(start, stop):
                size += listed[items[other]] != row
            drawn = 0
            if draws[row, slot] < rates[slot]:
                drawn = min(int(draws[row, slot] / rates[slot] * size), size - 1)
            propensities[row, place] = rates[slot] / size + (0.0 if drawn else 1.0 - rates[slot])
            for other in range(start, stop):
                if drawn and listed[items[other]] != row:
                    drawn -= 1
                    if not drawn:
                        listed[items[entries[row, place]]] = -1
                        listed[items[other]] = row
                        entries[row, place], found_in[row, place] = other, sources[slot] - 1
                        break
