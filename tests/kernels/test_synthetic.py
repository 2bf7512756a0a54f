"""The synthetic world: deterministic, of the size asked for, and with tastes that can be learnt."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.data.synthetic import title_of, world_of
from recsys_spark.errors import ConfigError
from recsys_spark.kernels.randomness import mix, normal, uniform
from recsys_spark.kernels.synthetic import GENRES, World, genres_of, ratings_of_users, tastes

WORLD = World(users=300, items=400, ratings=15_000, seed=7)


def all_ratings(world):
    return ratings_of_users(world, np.arange(world.users))


def test_users_do_not_depend_on_the_block_they_are_made_in():
    whole = ratings_of_users(WORLD, np.arange(100))
    parts = [ratings_of_users(WORLD, np.arange(start, start + 25)) for start in (75, 0, 50, 25)]
    together = np.concatenate([np.stack([p.user, p.item, p.rating, p.when]) for p in parts], axis=1)
    order = np.lexsort((together[1], together[0]))
    expected = np.stack([whole.user, whole.item, whole.rating, whole.when])
    np.testing.assert_array_equal(together[:, order], expected[:, np.lexsort((expected[1], expected[0]))])


def test_nobody_rates_an_item_twice_and_everything_is_in_range():
    made = all_ratings(WORLD)
    assert len(np.unique(made.user * 400 + made.item)) == len(made.user)
    assert made.item.min() >= 0
    assert made.item.max() < 400
    assert set(np.unique(made.rating)) == {1, 2, 3, 4, 5}
    assert made.when.min() >= 0
    assert made.when.max() < 1


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("ratings", [1_000, 20_000, 100_000])
def test_there_are_as_many_ratings_as_asked_for(ratings, seed):
    made = all_ratings(world_of(ratings, seed))
    assert len(made.user) == pytest.approx(ratings, rel=0.02)


@pytest.mark.parametrize(
    ("ratings", "users", "items"),
    [
        (20_000, 2_000, None),  # ten each, below the minimum of MovieLens
        (20_000, None, 200),  # nearly half of the items each
        (20_000, 300, 80),  # most of the items each
        (20_000, 10_000, 500),
        (1_000, 1_000, 18),  # one each
        (1_000, 40, 25),  # all there are
    ],
)
def test_there_are_as_many_ratings_as_asked_for_with_given_users_and_items(ratings, users, items):
    world = world_of(ratings, 3, users, items)
    made = all_ratings(world)
    assert len(made.user) == pytest.approx(ratings, rel=0.02)
    assert len(np.unique(made.user * world.items + made.item)) == len(made.user)
    assert (world.users, world.items) == (users or world.users, items or world.items)
    assert len(np.unique(made.user)) == world.users  # each of them has a rating


@pytest.mark.parametrize(("ratings", "users", "items"), [(1_000, 1_001, 50), (1_001, 20, 50)])
def test_impossible_number_of_ratings_is_an_error(ratings, users, items):
    with pytest.raises(ConfigError, match=f"{users:,} users and 50 items can have .* not {ratings:,}"):
        world_of(ratings, 1, users, items)


def test_users_beyond_those_that_were_counted_rate_as_much():
    """The weight of the tail is set by the first users of a large world, and fits all of them."""
    world = world_of(4_000_000, 5, users=200_000, items=2_000)
    after = ratings_of_users(world, np.arange(150_000, 200_000))
    assert len(after.user) / 50_000 == pytest.approx(20, rel=0.02)


def test_how_much_users_rate_differs_widely():
    counts = np.sort(np.bincount(all_ratings(world_of(100_000, 1)).user))
    assert counts[0] >= 20
    assert np.median(counts) < 0.75 * counts.mean()
    assert counts[-1] > 5 * counts.mean()


def test_another_seed_makes_other_ratings():
    other = ratings_of_users(World(300, 400, 15_000, seed=8), np.arange(50))
    made = ratings_of_users(WORLD, np.arange(50))
    assert set(zip(made.user, made.item, strict=True)) != set(zip(other.user, other.item, strict=True))


def test_head_of_the_catalogue_is_picked_far_more_often_than_the_tail():
    world = world_of(100_000, 1)
    counts = np.sort(np.bincount(all_ratings(world).item, minlength=world.items))[::-1]
    assert counts[: world.items // 5].sum() > 2 * 0.2 * counts.sum()


def test_users_pick_from_the_genres_they_like():
    made = all_ratings(WORLD)
    liked = tastes(WORLD, np.arange(300)).argmax(axis=1)
    fraction = (made.item % len(GENRES) == liked[made.user]).mean()
    assert fraction > 3 / len(GENRES)


def test_items_are_those_of_drawing_until_there_are_enough_different_ones():
    """How many users rate each item, beside numpy's drawing without replacement; most users rate so many
    that their narrow tastes need far more draws than ratings.
    """
    world = World(users=4_000, items=36, ratings=80_000, seed=2)
    made, rng = all_ratings(world), np.random.default_rng(0)
    head, tail = 0.5**0.25, 1 - 0.5**0.25  # of the two items of a genre
    expected = np.zeros(36)
    for taste, count in zip(tastes(world, np.arange(4_000)), np.bincount(made.user), strict=True):
        chances = np.concatenate([taste * head, taste * tail])
        expected[rng.choice(36, count, replace=False, p=chances / chances.sum())] += 1
    # twice the largest variance of a count; five standard deviations
    assert np.abs(np.bincount(made.item) - expected).max() < 5 * np.sqrt(2 * 4_000 / 4)


def test_every_item_has_its_main_genre():
    items = np.arange(100)
    assert genres_of(WORLD, items)[items, items % len(GENRES)].all()


def test_titles_are_readable_and_unique():
    titles = {title_of(number, 1999) for number in range(20_000)}
    assert len(titles) == 20_000
    assert title_of(0, 1987) == "The Silent River (1987)"


def test_draws_are_uniform_and_independent_of_one_another():
    draws = uniform(3, np.arange(200_000))
    counts = np.bincount((draws * 20).astype(int), minlength=20)
    chi_square = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_square < 43.8  # 0.1 % quantile with 19 degrees of freedom
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.01


def test_normal_draws_have_mean_zero_and_deviation_one():
    draws = normal(3, np.arange(100_000))
    assert draws.mean() == pytest.approx(0, abs=0.015)
    assert draws.std() == pytest.approx(1, abs=0.01)


def test_each_key_changes_the_draw():
    assert (
        len({int(mix(1, 2, 3)), int(mix(1, 3, 2)), int(mix(2, 2, 3)), int(mix(1, 2)), int(mix(1, 2, -3))})
        == 5
    )
