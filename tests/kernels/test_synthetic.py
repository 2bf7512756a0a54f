"""The synthetic world: deterministic, of the asked size, and with a taste that can be learnt."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.data.synthetic import title_of, world_of
from recsys_spark.kernels.randomness import mix, normal, uniform
from recsys_spark.kernels.synthetic import GENRES, World, genres_of, picks, tastes

WORLD = World(users=300, items=400, ratings=15_000, seed=7)


def test_users_do_not_depend_on_the_block_they_are_made_in():
    whole = picks(WORLD, np.arange(100))
    parts = [picks(WORLD, np.arange(start, start + 25)) for start in (75, 0, 50, 25)]
    together = np.concatenate([np.stack([p.user, p.item, p.rating, p.when]) for p in parts], axis=1)
    order = np.lexsort((together[1], together[0]))
    expected = np.stack([whole.user, whole.item, whole.rating, whole.when])
    np.testing.assert_array_equal(together[:, order], expected[:, np.lexsort((expected[1], expected[0]))])


def test_nobody_rates_an_item_twice_and_everything_is_in_range():
    made = picks(WORLD, np.arange(300))
    assert len(np.unique(made.user * 400 + made.item)) == len(made.user)
    assert made.item.min() >= 0
    assert made.item.max() < 400
    assert set(np.unique(made.rating)) == {1, 2, 3, 4, 5}
    assert made.when.min() >= 0
    assert made.when.max() < 1


def test_size_is_about_what_was_asked_for():
    made = picks(world := world_of(100_000, 1), np.arange(world.users))
    assert 80_000 < len(made.user) < 120_000


def test_another_seed_gives_other_ratings():
    other = picks(World(300, 400, 15_000, seed=8), np.arange(50))
    made = picks(WORLD, np.arange(50))
    assert set(zip(made.user, made.item, strict=True)) != set(zip(other.user, other.item, strict=True))


def test_head_of_the_catalogue_is_picked_far_more_often_than_the_tail():
    world = world_of(100_000, 1)
    counts = np.sort(np.bincount(picks(world, np.arange(world.users)).item, minlength=world.items))[::-1]
    assert counts[: world.items // 5].sum() > 2 * 0.2 * counts.sum()


def test_users_pick_from_the_genres_they_like():
    made = picks(WORLD, np.arange(300))
    liked = tastes(WORLD, np.arange(300)).argmax(axis=1)
    share = (made.item % len(GENRES) == liked[made.user]).mean()
    assert share > 3 / len(GENRES)


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
