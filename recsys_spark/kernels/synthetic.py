"""The world behind the synthetic data set: who likes what, as pure functions of (seed, user or item number).

An item belongs to one main genre and has a place in it; the chance of being picked falls with the place as a
power law. A user has a taste, a distribution over genres, and a small latent vector; a rating is the affinity
of user and item, with noise, on the scale 1 to 5. Everything is computed from counters, so that a block of
users can be made anywhere, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Integers, Longs
from recsys_spark.kernels.randomness import normal, uniform

GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
LATENT = 4
"""Length of the latent vectors that make affinities differ within a genre."""

CONCENTRATION = 2.0
"""How far tastes differ: the standard deviation of a user's log odds of the genres."""

GENRE_TILT = 0.12
"""How much less liked, in log odds, each genre is than the one before it."""

POWER = 4.0
"""Exponent of the place drawn within a genre: the larger, the more the head of the catalogue is picked."""

MIN_RATINGS = 20
"""Fewest picks of a user, as in MovieLens."""

# what the draws are keyed by, so that no two quantities share their randomness
_DEGREE, _TASTE, _USER, _ITEM, _GENRE, _PLACE, _NOISE, _TIME, _SECONDARY, _PROFILE, _QUALITY = range(11)


@dataclass(frozen=True)
class World:
    """Sizes and seed of a synthetic data set.

    Attributes
    ----------
    users, items : how many there are, numbered from 0
    ratings : about how many picks there are in all
    seed : any integer
    """

    users: int
    items: int
    ratings: int
    seed: int


@dataclass(frozen=True)
class Picks:
    """Ratings of some users, one entry each: ``user``, ``item`` int64; ``rating`` 1.0 to 5.0; ``when``
    float64 in [0, 1).
    """

    user: Longs
    item: Longs
    rating: Doubles
    when: Doubles


def picks(world: World, users: Longs) -> Picks:
    """What ``users`` rated: each item at most once for a user, in the order of ``users``.

    Cost: about 60 array operations over twice the picks of the block; memory about 300 bytes a draw.
    """
    counts = _degrees(world, users)
    # twice as many draws as picks: a draw of an item that the user already has does not count
    draws = 2 * counts + 8
    row = np.repeat(np.arange(len(users)), draws)
    user, turn = users[row], _turns(draws)
    genre = _inverse_cdf(
        np.cumsum(tastes(world, users), axis=1), row, uniform(world.seed, _GENRE, user, turn)
    )
    in_genre = (world.items - genre + len(GENRES) - 1) // len(GENRES)
    place = np.floor(in_genre * uniform(world.seed, _PLACE, user, turn) ** POWER).astype(np.int64)
    item = place * len(GENRES) + genre
    _, first = np.unique(row * world.items + item, return_index=True)
    first.sort()
    distinct = np.bincount(row[first], minlength=len(users))
    first = first[_turns(distinct) < np.repeat(counts, distinct)]
    user, item = user[first], item[first]
    joined = uniform(world.seed, _TIME, user)
    when = joined + (1 - joined) * uniform(world.seed, _TIME, user, item) ** 2
    return Picks(user, item, _ratings(world, user, item), when)


def tastes(world: World, users: Longs) -> Doubles:
    """Chance of each genre for each user, shape (n_users, n_genres); rows sum to 1."""
    genres = np.arange(len(GENRES))[None, :]
    odds = np.exp(CONCENTRATION * normal(world.seed, _TASTE, users[:, None], genres) - GENRE_TILT * genres)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def genres_of(world: World, items: Longs) -> Booleans:
    """Genres of each item, shape (n_items, n_genres): the main one, and up to two more by chance."""
    member = uniform(world.seed, _SECONDARY, items[:, None], np.arange(len(GENRES))[None, :]) < 0.05
    member[np.arange(len(items)), items % len(GENRES)] = True
    return np.asarray(member)


def profiles(world: World, users: Longs, columns: int) -> Doubles:
    """Uniform draws behind a user's features, shape (n_users, columns)."""
    return uniform(world.seed, _PROFILE, users[:, None], np.arange(columns)[None, :])


def _degrees(world: World, users: Longs) -> Longs:
    """Picks of each user: MIN_RATINGS plus a lognormal whose mean makes ``world.ratings`` in all; at most
    half the items.
    """
    least = min(MIN_RATINGS, max(1, world.items // 4))
    wanted = world.ratings / world.users
    spread = 1.2
    heavy = np.exp(spread * normal(world.seed, _DEGREE, users) - spread**2 / 2)
    degree = least + np.maximum(0.0, wanted - least) * heavy
    return np.minimum(degree, max(least, world.items // 2)).astype(np.int64)


def _turns(counts: Longs) -> Longs:
    """0, 1, 2 … for each of the runs of length ``counts``."""
    return np.asarray(np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))


def _ratings(world: World, user: Longs, item: Longs) -> Doubles:
    axes = np.arange(LATENT)
    affinity = np.zeros(len(user))
    for axis in axes:
        affinity += (2 * uniform(world.seed, _USER, user, axis) - 1) * (
            2 * uniform(world.seed, _ITEM, item, axis) - 1
        )
    quality = 0.4 * normal(world.seed, _QUALITY, item) + 0.35 * normal(world.seed, _QUALITY, user, 1)
    noise = 0.6 * normal(world.seed, _NOISE, user, item)
    return np.asarray(np.clip(np.rint(3.6 + quality + 1.4 * affinity + noise), 1, 5))


def _inverse_cdf(cumulated: Doubles, row: Integers, draw: Doubles) -> Longs:
    """Column in which ``draw`` falls, for each ``row`` of cumulated chances."""
    found = np.zeros(len(draw), np.int64)
    for column in range(cumulated.shape[1] - 1):
        found += draw >= cumulated[row, column]
    return found
