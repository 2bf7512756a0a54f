"""The training program on threads, without Spark: bits, normal equations, modes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.errors import ModelError
from recsys_spark.training.als.config import ALSConfig
from recsys_spark.training.als.program import ALSProgram, sampled, train
from recsys_spark.training.interactions import HEAVY_EVENTS, prepare
from recsys_spark.training.ownership import split_by_task
from tests.training.groups import run_group

MLLIB = ALSConfig(
    rank=7,
    max_iterations=3,
    solver="cholesky",
    cg_steps=3,
    implicit=True,
    binary=False,
    alpha=2.0,
    regularization=0.1,
    reg_exponent=1.0,
    all_pairs_weight=1.0,
    regularize_all_pairs=False,
    gravity=0.0,
    biases=False,
    tolerance=0.0,
    seed=1,
)
EXPLICIT = replace(MLLIB, implicit=False, all_pairs_weight=0.0)
MODES = {
    "implicit": MLLIB,
    "implicit by conjugate gradients": replace(MLLIB, solver="cg"),
    "explicit": EXPLICIT,
    "explicit with biases": replace(EXPLICIT, rank=6, biases=True),  # one width: one set of kernels
    "gravity": replace(EXPLICIT, gravity=0.3),
    "iALS": replace(
        EXPLICIT,
        binary=True,
        all_pairs_weight=0.2,
        regularize_all_pairs=True,
        reg_exponent=0.7,
        regularization=0.01,
    ),
    "nonnegative": replace(EXPLICIT, solver="nonnegative"),
}


HEAVY = 14
"""Three of the users and most of the items of :func:`events` have more."""


def events(n=600, users=60, items=37, seed=0, name=int):
    """Random events, with repeated pairs of different ratings."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(0, users, n),
        rng.integers(0, items, n) ** 2 // items,
        rng.choice([-1.0, 0.5, 1.0, 3.0], n),
    ]
    ids = [[name(value) for value in column.tolist()] for column in columns[:2]]
    return pa.table(
        [pa.array(ids[0]), pa.array(ids[1]), pa.array(columns[2], pa.float32())],
        names=["user", "item", "rating"],
    )


def fit(table, size, config, start=None, heavy_events=HEAVY_EVENTS, payloads=None):
    """Vectors by id, and what task 0 reports, of a fit on ``size`` tasks whose events come in chunks, and
    ``payloads`` in the first.
    """
    nothing = table.slice(0, 0)
    shares = [
        [
            pa.table(
                [nothing[c].combine_chunks().dictionary_encode() for c in ("user", "item")]
                + [nothing["rating"]],
                names=table.column_names,
            )
        ]
        for _ in range(size)
    ]
    for begin in range(0, table.num_rows, 97):
        for task, part in split_by_task(table.slice(begin, 97), size):
            shares[task].append(part)

    def program(group):
        given = (
            start
            if group.rank == 0 or start is None
            else tuple((ids.slice(0, 0), rows[:0]) for ids, rows in start)
        )
        interactions = prepare(group, pa.concat_tables(shares[group.rank]), heavy_events)
        if config.samples:
            program = ALSProgram(config, (table["user"].type, table["item"].type))
            given = payloads or {}
            features = program.side_features(group, interactions, given if group.rank == 0 else {})
            return sampled(group, interactions, config, None, features)
        return train(group, interactions, config, given)

    trained = run_group(size, program)
    sides = []
    for side in ("users", "items"):
        pairs = [getattr(one, side) for one in trained]
        sides.append(
            {name: row for ids, rows in pairs for name, row in zip(ids.to_pylist(), rows, strict=True)}
        )
    return *sides, trained[0]


def bits(vectors):
    return {name: row.tobytes() for name, row in vectors.items()}


@pytest.mark.parametrize("mode", MODES)
def test_factors_are_the_same_to_the_last_bit_on_any_number_of_tasks(mode):
    table, rng = events(), np.random.default_rng(5)
    users, items, trained = fit(table, 1, MODES[mode])
    for size in (2, 3, 7):
        shuffled = table.take(pa.array(rng.permutation(table.num_rows)))
        other_users, other_items, other = fit(shuffled, size, MODES[mode])
        assert bits(other_users) == bits(users)
        assert bits(other_items) == bits(items)
        assert [one.objective for one in other.iterations] == [one.objective for one in trained.iterations]


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_all_tasks_share_have_the_same_bits_on_any_number_of_tasks(mode):
    table, config = events(), replace(MODES[mode], max_iterations=2)
    users, items, trained = fit(table, 1, config, heavy_events=HEAVY)
    for size in (2, 3, 7):
        other_users, other_items, other = fit(table, size, config, heavy_events=HEAVY)
        assert bits(other_users) == bits(users)
        assert bits(other_items) == bits(items)
        assert [one.objective for one in other.iterations] == [one.objective for one in trained.iterations]


@pytest.mark.parametrize("mode", [mode for mode in MODES if MODES[mode].solver != "cg"])
def test_rows_that_all_tasks_share_get_the_solution_of_one_task(mode):
    table, config = events(), replace(MODES[mode], max_iterations=1)
    users, items, trained = fit(table, 3, config, heavy_events=HEAVY)
    alone_users, alone_items, alone = fit(table, 3, config)
    for shared, own in ((users, alone_users), (items, alone_items)):
        assert all(shared[name] == pytest.approx(own[name], rel=1e-3, abs=1e-4) for name in own)
    assert trained.iterations[0].objective == pytest.approx(alone.iterations[0].objective, rel=1e-5)


def test_events_of_a_row_that_all_tasks_share_are_spread_over_them():
    table = events()
    counts = np.unique(table["user"].to_numpy(), return_counts=True)
    heavy = set(counts[0][counts[1] > HEAVY].tolist())

    def program(group):
        parts = [part for task, part in split_by_task(table, group.size) if task == group.rank]
        users = prepare(group, pa.concat_tables(parts), HEAVY).users
        lonely = dict(zip(users.ids.to_pylist(), np.diff(users.indptr).tolist(), strict=True))
        return {name for name, events in lonely.items() if not events}, len(users.heavy.columns)

    lonely, shared = zip(*run_group(3, program), strict=True)
    assert set.union(*lonely) == heavy
    assert sum(shared) == counts[1][counts[1] > HEAVY].sum()
    assert min(shared) > 0


def objective(table, users, items, config, mean):
    """The objective of :mod:`recsys_spark.training.als.program`, pair by pair, in double precision."""
    d, counts = config.rank, {"user": {}, "item": {}}
    total = 0.0
    x = {name: row.astype(float) for name, row in users.items()}
    y = {name: row.astype(float) for name, row in items.items()}
    rows = table.to_pylist()
    for row in rows:
        counted = row["rating"] > 0 or not (config.implicit or config.binary)
        for side in counts:
            counts[side][row[side]] = counts[side].get(row[side], 0) + counted
        xu, yi, r = x[row["user"]], y[row["item"]], row["rating"]
        score = xu[:d] @ yi[:d]
        if config.implicit:
            c = config.alpha * abs(r)
            total += (1 + c) * ((r > 0) - score) ** 2 - score**2
        elif config.binary:
            total += (float(r > 0) - score) ** 2
        else:
            total += (r - mean - score - (xu[d] + yi[d] if config.biases else 0.0)) ** 2
    pairs = config.gravity * len(rows) / len(x) / len(y) if config.gravity else config.all_pairs_weight
    total += pairs * sum((xu[:d] @ yi[:d]) ** 2 for xu in x.values() for yi in y.values())
    for side, vectors, other in (("user", x, y), ("item", y, x)):
        for name, row in vectors.items():
            scale = counts[side][name] + (pairs * len(other) if config.regularize_all_pairs else 0.0)
            total += config.regularization * scale**config.reg_exponent * (row @ row)
    return total


@pytest.mark.parametrize("mode", MODES)
def test_reported_objective_is_the_one_written_down(mode):
    table = events()
    users, items, trained = fit(table, 2, MODES[mode])
    expected = objective(table, users, items, MODES[mode], trained.global_mean)
    assert trained.iterations[-1].objective == pytest.approx(expected, rel=1e-5)
    values = [one.objective for one in trained.iterations]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    "mode", ["implicit", "implicit by conjugate gradients", "explicit", "gravity", "iALS"]
)
@pytest.mark.parametrize("regularization", [1e-12, 0.0])
def test_components_that_no_item_has_are_left_at_zero(mode, regularization):
    """With fewer items than the rank, and next to no regularisation, they would be rounding errors divided by
    each other.
    """
    table = events(n=40, users=12, items=4)
    config = replace(MODES[mode], regularization=regularization)
    users, items, trained = fit(table, 2, config)
    assert len(items) < config.rank
    expected = objective(table, users, items, config, trained.global_mean)
    assert trained.iterations[-1].objective == pytest.approx(expected, rel=1e-3, abs=1e-3)
    values = [one.objective for one in trained.iterations]
    assert all(after <= before + 1e-4 * abs(before) + 1e-4 for before, after in pairwise(values))


@pytest.mark.parametrize("mode", ["implicit", "explicit", "explicit with biases", "gravity", "iALS"])
def test_every_user_solves_its_normal_equation_after_a_fit(mode):
    config, table = MODES[mode], events()
    users, items, trained = fit(table, 2, config)
    base = objective(table, users, items, config, trained.global_mean)
    step = 0.5  # the objective is quadratic in one user, so differences of any width give its derivatives
    for name in list(users)[:5]:
        for direction in np.eye(config.width):
            up, down = (
                objective(
                    table,
                    {**users, name: users[name].astype(float) + sign * step * direction},
                    items,
                    config,
                    trained.global_mean,
                )
                for sign in (1, -1)
            )
            slope, curvature = (up - down) / (2 * step), (up - 2 * base + down) / step**2
            assert abs(slope / curvature) < 1e-4  # how far the minimum lies in this direction


@pytest.mark.parametrize("mode", ["implicit", "explicit with biases", "iALS", "nonnegative"])
def test_items_and_users_are_scaled_so_that_the_regularisation_is_least(mode):
    """Another scale with the same scores costs more: at c = 1 the derivative of c² |x|² + |y|² / c² is
    zero.
    """
    config, table = replace(MODES[mode], max_iterations=60), events()
    users, items, trained = fit(table, 2, config)

    def cost(c):
        scaled = np.r_[np.full(config.rank, c), np.ones(config.width - config.rank)].astype(np.float32)
        x, y = (
            {name: row * scaled**sign for name, row in side.items()}
            for side, sign in ((users, 1), (items, -1))
        )
        return objective(table, x, y, config, trained.global_mean)

    assert cost(1.0) < min(cost(0.97), cost(1.03))


@pytest.mark.parametrize("mode", ["implicit", "implicit by conjugate gradients", "iALS"])
def test_factors_are_in_the_basis_in_which_the_items_gram_matrix_is_diagonal(mode):
    items = np.array(list(fit(events(), 2, MODES[mode])[1].values()), float)
    gram = items.T @ items
    strength = gram.diagonal()
    np.testing.assert_allclose(gram, np.diag(strength), atol=1e-5 * strength.max())
    assert (np.diff(strength) <= 1e-5 * strength.max()).all()


def test_mean_is_that_of_the_ratings():
    table = events()
    assert fit(table, 3, MODES["explicit with biases"])[2].global_mean == pytest.approx(
        np.mean(table["rating"].to_numpy())
    )


def test_strings_are_ids_like_any_other():
    users, _, _ = fit(events(name=lambda value: f"id {value} ☃"), 3, MLLIB)
    assert set(users) == {f"id {value} ☃" for value in events()["user"].to_pylist()}


def test_fit_continues_from_given_factors():
    table = events()
    users, items, one = fit(table, 2, replace(MLLIB, max_iterations=4))
    start = tuple(
        (pa.array(list(side)), np.array(list(side.values())))
        for side in fit(table, 3, replace(MLLIB, max_iterations=2))[:2]
    )
    again_users, again_items, two = fit(table, 1, replace(MLLIB, max_iterations=2), start)
    assert bits(again_users) == bits(users)
    assert bits(again_items) == bits(items)
    assert two.iterations[-1].objective == one.iterations[-1].objective


def test_unknown_rows_of_given_factors_start_fresh():
    table = events()
    strangers = (pa.array([10**6, 10**7]), np.ones((2, MLLIB.rank), np.float32))
    assert bits(fit(table, 2, MLLIB, (strangers, strangers))[0]) == bits(fit(table, 2, MLLIB)[0])


def test_fit_stops_when_the_objective_stalls():
    _, _, trained = fit(events(), 2, replace(MLLIB, max_iterations=500, tolerance=1e-3))
    values = [one.objective for one in trained.iterations]
    assert trained.converged
    assert values[-2] - values[-1] <= 1e-3 * values[-2]
    assert all(a - b > 1e-3 * a for a, b in pairwise(values[:-1]))


def test_item_with_almost_all_events_and_tasks_with_none():
    rows = [(u, 0, 1.0) for u in range(200)] + [(3, 7, 2.0)]
    table = pa.table(
        {
            "user": [r[0] for r in rows],
            "item": [r[1] for r in rows],
            "rating": pa.array([r[2] for r in rows], pa.float32()),
        }
    )
    results = [fit(table, size, MLLIB) for size in (1, 7)]
    assert bits(results[0][1]) == bits(results[1][1])
    assert set(results[0][1]) == {0, 7}


def test_ratings_beyond_the_solver_stop_the_fit():
    table = events().set_column(2, "rating", pa.array([3e38] * 600, pa.float32()))
    with pytest.raises(
        ModelError, match=r'^the objective .* in iteration 1: .* use solver="cholesky", or scale'
    ):
        fit(table, 2, MODES["implicit by conjugate gradients"])
    with pytest.raises(ModelError, match=r"^the objective .* in iteration 1: .* raise regParam, or scale"):
        fit(table, 2, MODES["gravity"])
