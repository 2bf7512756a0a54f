"""The pair models' program on threads, without Spark: gradients, tasks, negatives, what it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.training.group import Group
from recsys_spark.training.histories import build_histories, gather_features
from recsys_spark.training.ownership import split_by_task
from recsys_spark.training.pairwise.batch import MiniBatch
from recsys_spark.training.pairwise.config import PairwiseConfig
from recsys_spark.training.pairwise.program import (
    PairwiseProgram,
    TrainingPairs,
    combined_vectors,
    network_scores,
)
from tests.training.groups import run_group

ID_TYPES = (pa.int64(), pa.int64())

PLAIN = PairwiseConfig(
    embedding_dim=5,
    product=True,
    network=False,
    hidden=(6,),
    activation="tanh",
    dropout=0.0,
    loss="logistic",
    n_negatives=3,
    popularity_exponent=0.0,
    rotate_negatives=True,
    margin=0.1,
    negative_weight=2.0,
    biases=True,
    init_std=0.3,
    mean=None,
    batch_size=40,
    max_epochs=2,
    learning_rate=0.02,
    schedule="linear",
    weight_decay=0.001,
    seed=1,
)
MODES = {
    "logistic": PLAIN,
    "bpr, by popularity": replace(PLAIN, loss="bpr", popularity_exponent=0.75),
    "ccl": replace(PLAIN, loss="ccl", biases=False),
    "squared": replace(PLAIN, loss="squared"),
    "mlp": replace(PLAIN, product=False, network=True, hidden=(6, 4), dropout=0.2),
    "dot+mlp, squared": replace(PLAIN, network=True, loss="squared", activation="relu"),
}


def rated(users=40, items=18, seed=0):
    """Users of two colours and items of their own, rated 1 to 5, as events."""
    rng = np.random.default_rng(seed)
    rows = [(u, i) for u in range(users) for i in rng.choice(np.arange(u % 2, items, 2), 5, replace=False)]
    ratings = pa.array(rng.integers(1, 6, len(rows)), pa.float32())
    return pa.table(
        [pa.array([row[0] for row in rows]), pa.array([row[1] for row in rows]), ratings],
        ["user", "item", "rating"],
    )


def entries(ids, names):
    """Features as payloads have them: the colour, and half of one that depends on the last digit."""
    lists = pa.array([[names[k % 2], "small" if k % 10 < 5 else "large"] for k in ids])
    weights = pa.array([[1.0, 0.5] for _ in ids], pa.list_(pa.float32()))
    return pa.table([pa.array(ids), lists, weights], ["id", "names", "weights"])


def laid_out(group, table, config):
    """One task's histories, with features of users and items that arrive in any task."""
    parts = [part for task, part in split_by_task(table, group.size) if task == group.rank]
    nothing = pa.table(
        [pa.array([], pa.int64()).dictionary_encode()] * 2 + [pa.array([], pa.float32())], table.column_names
    )
    data = build_histories(group, pa.concat_tables([nothing, *parts]), config.explicit)
    users = [entries(range(group.rank, 40, group.size), ("even", "odd"))]
    items = [entries(range(group.rank, 18, group.size), ("light", "dark"))]
    return replace(
        data,
        user_features=gather_features(group, data.ids, users, owned=True),
        item_features=gather_features(group, data.catalogue, items, owned=False),
    )


def fit(size, config, table=None):
    """State, epochs and data of a fit, of each task."""

    def program(group):
        data = laid_out(group, rated() if table is None else table, config)
        program = PairwiseProgram(config, ID_TYPES)
        state = program.initial_state(data)
        return state, program.train(group, data, state, config.max_epochs), data

    return run_group(size, program)


def learnt(done):
    """Everything that was learnt, by table and id."""
    state, _, data = done[0]
    row_ids = {
        "items": data.catalogue,
        "user features": data.user_features.names,
        "item features": data.item_features.names,
    }
    found = {}
    for name, table in state.tables.items():
        if name in row_ids:
            found |= {(name, key): row for key, row in zip(row_ids[name].to_pylist(), table, strict=True)}
        elif name != "users":
            found[name, 0] = table.ravel()
    for state, _, data in done:
        found |= {
            ("users", key): row for key, row in zip(data.ids.to_pylist(), state.tables["users"], strict=True)
        }
    return found


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_tasks_learns_the_same(mode):
    one = fit(1, MODES[mode])
    expected = learnt(one)
    for size in (2, 7):
        other = fit(size, MODES[mode])
        found = learnt(other)
        assert found.keys() == expected.keys()
        for key, row in expected.items():
            assert found[key] == pytest.approx(row, abs=1e-4), key
        assert [epoch.loss for epoch in other[0][1]] == pytest.approx(
            [epoch.loss for epoch in one[0][1]], abs=1e-4
        )
        again = learnt(fit(size, MODES[mode]))  # the same bytes every time
        assert all(again[key].tobytes() == row.tobytes() for key, row in found.items())
        for state, _, _ in other:  # and in every task, of what is not its own
            assert state.tables["items"].tobytes() == other[0][0].tables["items"].tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_central_differences(mode):
    # without the kinks of relu and of the margin, over which differences are not gradients
    config = replace(MODES[mode], dropout=0.0, activation="tanh", margin=-2.0)
    group = Group(0, {})
    data = laid_out(group, rated(users=4), config)
    program = PairwiseProgram(config, ID_TYPES)
    state = program.initial_state(data)
    state.tables = {name: table.astype(np.float64) for name, table in state.tables.items()}
    events = TrainingPairs.build(data, config)
    negatives = events.negatives(0)
    chosen = np.arange(len(data.items))
    candidates = np.column_stack([data.items, negatives])
    batch = MiniBatch.build(group, data, config, events.rows, candidates)
    mean = program.global_mean(group, data)

    def loss():
        tables = {name: table.astype(np.float32) for name, table in state.tables.items()}
        return batch.gradients(replace_tables(state, tables), data.ratings[chosen], mean)[0].sum(
            dtype=np.float64
        )

    _, gradients = batch.gradients(
        replace_tables(state, {n: t.astype(np.float32) for n, t in state.tables.items()}),
        data.ratings[chosen],
        mean,
    )
    for name, gradient in gradients.items():
        for row, sums in list(zip(gradient.rows, gradient.sums, strict=True))[:4]:
            for column in range(len(sums)):
                if column == config.embedding_dim and not config.biases:
                    continue
                kept, values = state.tables[name][row, column], []
                for step in (1e-2, -1e-2):
                    state.tables[name][row, column] = kept + step
                    values.append(loss())
                state.tables[name][row, column] = kept
                assert sums[column] == pytest.approx((values[0] - values[1]) / 2e-2, rel=0.02, abs=0.02), (
                    name,
                    row,
                    column,
                )


def replace_tables(state, tables):
    return type(state)(tables, state.first, state.second)


def test_negatives_rotate_are_not_known_and_are_the_same_on_any_number_of_tasks():
    def drawn(size, epoch, config=PLAIN):
        def program(group):
            data = laid_out(group, rated(), config)
            events = TrainingPairs.build(data, config)
            names = np.array(data.catalogue.to_pylist())
            found = {}
            for row, item, others in zip(events.rows, data.items, events.negatives(epoch), strict=True):
                found[data.ids[row].as_py(), names[item]] = names[others].tolist()
            return found

        return {pair: others for part in run_group(size, program) for pair, others in part.items()}

    first, known = (
        drawn(1, 0),
        set(zip(*(rated()[name].to_pylist() for name in ("user", "item")), strict=True)),
    )
    assert first.keys() == known
    assert all(
        len(set(others)) == 3 and not known & {(user, other) for other in others}
        for (user, _), others in first.items()
    )
    assert drawn(7, 0) == first
    assert drawn(1, 1) != first
    assert drawn(1, 1, replace(PLAIN, rotate_negatives=False)) == first


@pytest.mark.parametrize("mode", [mode for mode in MODES if "squared" not in mode])
def test_learns_which_users_like_which_items(mode):
    config = replace(MODES[mode], max_epochs=60, weight_decay=0.0, dropout=0.0)
    state, epochs, data = fit(1, config)[0]
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    users = combined_vectors(state.tables["users"], data.user_features, state.tables["user features"], config)
    items = combined_vectors(state.tables["items"], data.item_features, state.tables["item features"], config)
    pairs = np.stack(np.meshgrid(range(len(users)), range(len(items)), indexing="ij"), -1).reshape(-1, 2)
    x, y = users[pairs[:, 0]], items[pairs[:, 1]]
    scores = x[:, -1] + y[:, -1] + ((x[:, :-1] * y[:, :-1]).sum(axis=1) if config.product else 0)
    if config.network:
        scores = scores + network_scores(x[:, :-1], y[:, :-1], state.tables, config)
    colours = [np.array(ids.to_pylist()) % 2 for ids in (data.ids, data.catalogue)]
    same = colours[0][pairs[:, 0]] == colours[1][pairs[:, 1]]
    for user in range(len(users)):
        of_user = pairs[:, 0] == user
        assert scores[of_user & same].mean() > scores[of_user & ~same].mean()


def test_squared_loss_counts_every_rating_and_others_only_what_was_liked():
    table = pa.table(
        {"user": [1, 1, 1, 2], "item": [5, 5, 6, 5], "rating": pa.array([1, 2, -3, 4], pa.float32())}
    )
    for loss, expected in (("squared", [1, 2, -3, 4]), ("logistic", [1, 1])):
        config = replace(PLAIN, loss=loss)
        group = Group(0, {})
        data = laid_out(group, table, config)
        assert sorted(data.ratings.tolist()) == sorted(expected)
        assert PairwiseProgram(config, ID_TYPES).global_mean(group, data) == (
            1.0 if loss == "squared" else 0.0
        )
    assert PairwiseProgram(replace(PLAIN, mean=7.0), ID_TYPES).global_mean(group, data) == 7.0
