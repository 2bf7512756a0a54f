"""The world behind the synthetic data set: who likes what, as pure functions of (seed, user or item number).

An item belongs to one main genre and has a popularity rank in it; the chance of being rated falls with the
rank as a power law. A user has a taste, a distribution over genres, and a small latent vector; a rating is
the affinity of user and item, with noise, on the scale 1 to 5. Users draw items until they have as many
different ones as they rate; how many that is has a heavy tail, whose weight is set so that all users together
make the number of ratings asked for. Everything is computed from counters, so that a block of users can be
made anywhere, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys_spark.kernels.arrays import Booleans, Doubles, Integers, Longs
from recsys_spark.kernels.randomness import normal, uniform

GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
LATENT = 4
"""Length of the latent vectors that make affinities differ within a genre."""

CONCENTRATION = 2.0
"""How far tastes differ: the standard deviation of a user's log odds of the genres."""

GENRE_TILT = 0.12
"""How much less liked, in log odds, each genre is than the one before it."""

POWER = 4.0
"""Exponent of the power law within a genre: the larger, the more often the most popular items are rated."""

MIN_RATINGS = 20
"""Fewest ratings of a user, as in MovieLens; less where the mean is below twice this number."""

TAIL_SPREAD = 1.2
"""Standard deviation of the log of what a user rates beyond the minimum."""

CALIBRATION_USERS = 2**17
"""Users whose numbers of ratings the weight of the tail is set by: all of them up to this many, and the first
so many of a larger world.
"""

# what the draws are keyed by, so that no two quantities share their randomness
_COUNT, _TASTE, _USER, _ITEM, _GENRE, _RANK, _NOISE, _TIME, _SECONDARY, _PROFILE, _QUALITY, _MORE = range(12)


@dataclass(frozen=True)
class World:
    """Sizes and seed of a synthetic data set.

    Attributes
    ----------
    users, items : how many there are, numbered from 0; at least one item for each genre
    ratings : how many ratings there are in all; between one for each user and one for each pair
    seed : any integer
    """

    users: int
    items: int
    ratings: int
    seed: int

    @cached_property
    def tail_weight(self) -> float:
        """Mean of what users rate beyond the minimum, before the largest numbers are cut: the value with
        which users make ``ratings`` ratings in all.

        Exact to a few ratings up to ``CALIBRATION_USERS`` users. A larger world is calibrated on the first so
        many of them, whose mean differs from that of all by 0.4 % (standard error). Cost: about 0.1 s.
        """
        sample = np.arange(min(self.users, CALIBRATION_USERS))
        tails = _tails(self, sample)
        fewest, most = _bounds(self)
        wanted = self.ratings / self.users * len(sample)
        low, high = 0.0, (most - fewest + 1) / tails.min()
        for _ in range(60):  # halvings, after which the interval is no wider than its rounding
            middle = (low + high) / 2
            if _counts(self, tails, middle).sum() < wanted:
                low = middle
            else:
                high = middle
        return float(high)


@dataclass(frozen=True)
class SyntheticRatings:
    """Ratings of some users, one entry each: ``user``, ``item`` int64; ``rating`` 1.0 to 5.0; ``when``
    float64 in [0, 1).
    """

    user: Longs
    item: Longs
    rating: Doubles
    when: Doubles


def ratings_of_users(world: World, users: Longs) -> SyntheticRatings:
    """What ``users`` rated: each item at most once for a user, in the order of ``users``.

    Cost: about 60 array operations over twice the ratings of the block, and a pass over all items for each of
    the few users whose taste is too narrow for that many draws; memory about 300 bytes a draw.
    """
    counts = _counts(world, _tails(world, users), world.tail_weight)
    chances = tastes(world, users)
    # twice as many draws as ratings: a draw of an item that the user already has does not count
    draws = 2 * counts + 8
    row = np.repeat(np.arange(len(users)), draws)
    user, draw = users[row], _numbers_within(draws)
    genre = _inverse_cdf(np.cumsum(chances, axis=1), row, uniform(world.seed, _GENRE, user, draw))
    rank = np.floor(_genre_sizes(world, genre) * uniform(world.seed, _RANK, user, draw) ** POWER)
    item = rank.astype(np.int64) * len(GENRES) + genre
    _, first = np.unique(row * world.items + item, return_index=True)
    first.sort()
    distinct = np.bincount(row[first], minlength=len(users))
    first = first[_numbers_within(distinct) < np.repeat(counts, distinct)]
    row, item = row[first], item[first]
    short = np.flatnonzero(distinct < counts)
    if len(short):
        missing = counts[short] - distinct[short]
        ends = np.cumsum(np.minimum(distinct, counts))
        more = [
            _more_items(world, users[k], chances[k], item[ends[k] - distinct[k] : ends[k]], n)
            for k, n in zip(short, missing, strict=True)
        ]
        row, item = np.concatenate([row, np.repeat(short, missing)]), np.concatenate([item, *more])
        order = np.argsort(row, kind="stable")
        row, item = row[order], item[order]
    user = users[row]
    joined = uniform(world.seed, _TIME, user)
    when = joined + (1 - joined) * uniform(world.seed, _TIME, user, item) ** 2
    return SyntheticRatings(user, item, _ratings(world, user, item), when)


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


def _bounds(world: World) -> tuple[int, int]:
    """Fewest and most ratings of a user: half the items at most, unless the mean comes near to that."""
    mean = world.ratings / world.users
    fewest = max(1, min(MIN_RATINGS, int(mean / 2)))
    return fewest, min(world.items, max(world.items // 2, int(np.ceil(1.5 * mean))))


def _tails(world: World, users: Longs) -> Doubles:
    """A lognormal draw of mean 1 for each user: what it rates beyond the minimum, relative to others."""
    return np.asarray(np.exp(TAIL_SPREAD * normal(world.seed, _COUNT, users) - TAIL_SPREAD**2 / 2))


def _counts(world: World, tails: Doubles, weight: float) -> Longs:
    """Number of ratings of each user."""
    fewest, most = _bounds(world)
    return np.minimum(fewest + weight * tails, most).astype(np.int64)


def _genre_sizes(world: World, genres: Longs) -> Longs:
    """How many items have each of ``genres`` as their main one."""
    return np.asarray((world.items - genres + len(GENRES) - 1) // len(GENRES))


def _more_items(world: World, user: np.int64, taste: Doubles, known: Longs, count: np.int64) -> Longs:
    """``count`` further items of one user, as if draws had gone on until there were enough different ones.

    Drawing again until an item is new is drawing without replacement, for which an exponential race gives the
    same distribution (Efraimidis & Spirakis 2006): every other item arrives after an exponential time, at a
    rate that is its chance, and the first ``count`` to arrive are taken.
    """
    item = np.arange(world.items)
    rank, genre = np.divmod(item, len(GENRES))
    size = _genre_sizes(world, genre)
    chance = taste[genre] * (((rank + 1) / size) ** (1 / POWER) - (rank / size) ** (1 / POWER))
    arrival = -np.log(1.0 - uniform(world.seed, _MORE, user, item)) / chance
    arrival[known] = np.inf
    return np.argsort(arrival, kind="stable")[:count]


def _numbers_within(counts: Longs) -> Longs:
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
    column = np.zeros(len(draw), np.int64)
    for boundary in range(cumulated.shape[1] - 1):
        column += draw >= cumulated[row, boundary]
    return column
