"""The softmax program on threads, without Spark: gradients, tasks, what it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.errors import ModelError
from recsys_spark.kernels.negatives import Proposal
from recsys_spark.training.gradient.steps import scheduled_rate
from recsys_spark.training.group import Group
from recsys_spark.training.histories import build_histories
from recsys_spark.training.ownership import split_by_task
from recsys_spark.training.softmax.batch import MiniBatch, SampledItems, score_gradients
from recsys_spark.training.softmax.config import SoftmaxConfig
from recsys_spark.training.softmax.program import SoftmaxProgram, item_vectors, user_vectors
from tests.training.groups import run_group

ID_TYPES = (pa.int64(), pa.int64())

PLAIN = SoftmaxConfig(
    embedding_dim=6,
    hidden=(),
    activation="relu",
    dropout=0.0,
    tie_items=False,
    bag_exponent=1.0,
    cosine=False,
    temperature=1.0,
    n_negatives=0,
    popularity_exponent=0.75,
    target_fraction=0.4,
    user_exponent=0.5,
    batch_size=16,
    max_epochs=3,
    learning_rate=0.02,
    schedule="constant",
    weight_decay=0.0,
    gravity=0.0,
    validation_fraction=0.0,
    patience=0,
    seed=1,
)
MODES = {
    "no hidden layers": PLAIN,
    "tied": replace(PLAIN, tie_items=True),
    "hidden layers": replace(PLAIN, hidden=(8, 5), activation="tanh", dropout=0.2, weight_decay=0.01),
    "cosine": replace(PLAIN, cosine=True, temperature=0.2, bag_exponent=0.5),
    "sampled": replace(PLAIN, n_negatives=9),
    "sampled, tied, cosine": replace(PLAIN, n_negatives=9, tie_items=True, cosine=True, temperature=0.3),
    "gravity": replace(PLAIN, gravity=0.1, hidden=(6,), tie_items=True),
}


def taste(users=60, items=24, seed=0):
    """Users of two colours, who like items of their own, as events."""
    rng = np.random.default_rng(seed)
    rows = [(u, i) for u in range(users) for i in rng.choice(np.arange(u % 2, items, 2), 6, replace=False)]
    columns = [pa.array([row[k] for row in rows]) for k in range(2)]
    return pa.table([*columns, pa.array(np.ones(len(rows), np.float32))], names=["user", "item", "rating"])


def fit(table, size, config, until=None):
    """State, epochs and histories of a fit on ``size`` tasks."""
    nothing = pa.table(
        [pa.array([], table["user"].type).dictionary_encode()] * 2 + [pa.array([], pa.float32())],
        names=table.column_names,
    )
    shares = [[nothing] for _ in range(size)]
    for begin in range(0, table.num_rows, 53):
        for task, part in split_by_task(table.slice(begin, 53), size):
            shares[task].append(part)

    def program(group):
        data = build_histories(group, pa.concat_tables(shares[group.rank]))
        program = SoftmaxProgram(config, ID_TYPES)
        state = program.initial_state(data)
        return state, program.train(group, data, state, config.max_epochs if until is None else until), data

    return run_group(size, program)


def by_item(done, name):
    state, _, data = done[0]
    return dict(zip(data.catalogue.to_pylist(), state.tables[name], strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_tasks_learns_the_same(mode):
    one = fit(taste(), 1, MODES[mode])
    for size in (2, 7):
        other = fit(taste(), size, MODES[mode])
        for name in ("inputs", "outputs"):
            if name in one[0][0].tables:
                expected, found = by_item(one, name), by_item(other, name)
                assert all(found[item] == pytest.approx(expected[item], abs=1e-4) for item in expected)
        losses = [epoch.loss for epoch in other[0][1]]
        assert losses == pytest.approx([epoch.loss for epoch in one[0][1]], abs=1e-4)
        again = fit(taste(), size, MODES[mode])
        for task in range(size):  # the same bytes, in every task and every time
            for name, table in other[0][0].tables.items():
                assert (
                    other[task][0].tables[name].tobytes()
                    == table.tobytes()
                    == again[task][0].tables[name].tobytes()
                )


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_scores_are_those_of_central_differences(mode):
    config, rng = MODES[mode], np.random.default_rng(3)
    psi, vectors = rng.normal(size=(4, config.width)), rng.normal(size=(9, config.width))
    slots, targets = np.array([0, 0, 1, 3]), np.array([0, 3, 3, 8])  # the third user has none
    weights = np.array([0.5, 0.5, 1.0, 2.0])
    batch = MiniBatch(psi, np.ones(4), slots, targets, weights, np.array([0, 2, 3, 3, 4]))
    drawn = None
    if config.n_negatives:
        items = np.array([1, 3, 5, 5])
        drawn = SampledItems(items, Proposal.build(np.arange(1.0, 10.0)).log_q[items] + np.log(4))
    _, grad_psi, grad_scored = score_gradients(psi, vectors, batch, drawn, config)
    scored = np.arange(9) if drawn is None else np.concatenate([targets, drawn.items])
    grad_vectors = np.zeros_like(vectors)
    np.add.at(grad_vectors, scored, grad_scored)
    for array, found in ((psi, grad_psi), (vectors, grad_vectors)):
        for position in np.ndindex(array.shape):
            kept, values = array[position], []
            for step in (1e-5, -1e-5):
                array[position] = kept + step
                values.append(score_gradients(psi, vectors, batch, drawn, config)[0].sum())
            array[position] = kept
            assert found[position] == pytest.approx((values[0] - values[1]) / 2e-5, abs=2e-4)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "gravity"])
def test_learns_which_items_go_together(mode):
    config = replace(MODES[mode], max_epochs=60)
    done = fit(taste(), 1, config)
    state, epochs, data = done[0]
    assert epochs[-1].loss < epochs[0].loss
    psi = user_vectors(data.indptr, data.items, data.user_features, state.tables, config)
    scores = psi @ item_vectors(state.tables, config).T
    colours, users = np.array(data.catalogue.to_pylist()) % 2, np.array(data.ids.to_pylist()) % 2
    same = np.where(colours == users[:, None], scores, np.nan)
    other = np.where(colours != users[:, None], scores, np.nan)
    assert (np.nanmean(same, axis=1) > np.nanmean(other, axis=1)).mean() > 0.95


def test_training_in_parts_returns_what_training_at_once_returns():
    whole = fit(taste(), 2, PLAIN)

    def program(group):
        parts = [part for task, part in split_by_task(taste(), group.size) if task == group.rank]
        data = build_histories(group, pa.concat_tables(parts))
        program = SoftmaxProgram(PLAIN, ID_TYPES)
        state = program.initial_state(data)
        program.train(group, data, state, 1)
        program.train(group, data, state, 3)
        return state, None, data

    again = run_group(2, program)
    assert again[0][0].steps == whole[0][0].steps
    assert again[0][0].tables["inputs"].tobytes() == whole[0][0].tables["inputs"].tobytes()


def test_training_stops_when_the_validation_stalls():
    config = replace(PLAIN, max_epochs=400, validation_fraction=0.3, patience=4, learning_rate=0.3)
    state, epochs, _ = fit(taste(), 2, config)[0]
    losses = [epoch.validation for epoch in epochs]
    assert len(losses) < 400
    assert SoftmaxProgram(config, ID_TYPES).stalled(state)
    assert min(losses) == losses[-5]


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_mean_of_the_sampled_normalisers_is_that_of_the_whole_catalogue(exponent):
    """With very many draws the sampled loss is the full one, however often an item is among them."""
    config, rng = replace(PLAIN, n_negatives=200_000, popularity_exponent=exponent), np.random.default_rng(3)
    psi, vectors = rng.normal(size=(2, 6)), rng.normal(size=(9, 6))
    batch = MiniBatch(
        psi,
        np.ones(2),
        np.array([0, 0, 1]),
        np.array([0, 3, 8]),
        np.array([0.5, 0.5, 1.0]),
        np.array([0, 2, 3]),
    )
    full = score_gradients(psi, vectors, batch, None, config)
    proposal = Proposal.build(np.arange(1.0, 10.0) ** exponent)
    program = SoftmaxProgram(config, ID_TYPES)
    state = program.initial_state(histories_of(taste()))
    sampled = score_gradients(psi, vectors, batch, program.sample_items(state, proposal), config)
    assert sampled[0] == pytest.approx(full[0], abs=0.02)
    assert sampled[1] == pytest.approx(full[1], abs=0.02)


def histories_of(table):
    """Of one task."""
    return build_histories(Group(0, {}), next(split_by_task(table, 1))[1])


def test_histories_are_what_was_liked_once():
    table = pa.table(
        {"user": [1, 1, 1, 2, 3], "item": [5, 5, 6, 5, 7], "rating": pa.array([1, 2, 3, 1, 0], pa.float32())}
    )
    done = run_group(
        2,
        lambda group: build_histories(
            group,
            pa.concat_tables(
                [p for t, p in split_by_task(table, 2) if t == group.rank]
                or [next(split_by_task(table, 1))[1].slice(0, 0)]
            ),
        ),
    )
    found = {}
    for data in done:
        names = np.array(data.catalogue.to_pylist())
        found |= {
            u: set(names[data.items[a:b]].tolist())
            for u, a, b in zip(data.ids.to_pylist(), data.indptr[:-1], data.indptr[1:], strict=True)
        }
        assert dict(zip(names.tolist(), data.counts.tolist(), strict=True)) == {5: 2, 6: 1}
    assert found == {1: {5, 6}, 2: {5}}


def test_validation_without_a_user_to_validate_on_is_rejected():
    with pytest.raises(ModelError, match="validation has no user with two items"):
        fit(taste(), 1, replace(PLAIN, validation_fraction=1e-9, patience=2))


def test_learning_rates_fall_to_zero():
    assert [scheduled_rate(2.0, name, 0.5) for name in ("constant", "linear", "cosine")] == [
        2.0,
        1.0,
        pytest.approx(1.0),
    ]
    assert scheduled_rate(1.0, "cosine", 1.0) == pytest.approx(0.0)
