"""Training steps, compared with hand-computed values, a NumPy loop, and each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmodels import Sequential, layers
from training import optimizers, steps
from training.objective import Objective
from training.steps import Batch


def line(**kwargs):
    return Sequential([layers.Dense(1, kernel_initializer="ones", input_shape=(1,), **kwargs)])


def prepared(model, optimizer, x, y, loss="mse", metrics=("mae",), seed=0):
    state, rules = steps.create_state(model, optimizer, x, seed)
    objective = Objective.of(model, Batch(x, y), loss=loss, metrics=list(metrics))
    return state, objective, steps.make_train_step(model, objective, optimizer, rules)


def test_one_step_matches_hand_computed_values():
    # For the outputs 1, 2 and labels 0, 0, the loss is (1 + 4) / 2. The gradient with respect to the kernel is
    # (2*1*1 + 2*2*2) / 2 = 5, and with respect to the bias 3.
    x, y = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1))
    state, objective, step = prepared(line(), optimizers.SGD(0.1), x, y)
    state, totals = step(state, objective.empty(), Batch(x, y))
    logs = objective.logs(totals)
    assert float(logs["loss"]) == 2.5
    assert float(logs["mae"]) == 1.5
    assert float(state.params["dense"]["kernel"][0, 0]) == pytest.approx(0.5)
    assert float(state.params["dense"]["bias"][0]) == pytest.approx(-0.3)
    assert int(state.step) == 1


def test_padding_rows_do_not_change_results():
    x, y = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[0.5], [0.0], [1.0]])
    padded = Batch(
        jnp.concatenate([x, jnp.full((2, 1), 1e6)]),
        jnp.concatenate([y, jnp.full((2, 1), -1e6)]),
        None,
        jnp.array([True, True, True, False, False]),
    )
    results = []
    for batch in (Batch(x, y), padded):
        state, objective, step = prepared(line(kernel_regularizer="l2"), optimizers.Adam(), x, y)
        state, totals = step(state, objective.empty(), batch)
        results.append((state.params, objective.logs(totals)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *results)


def numpy_epochs(w, b, x, y, order, lr):
    """Runs gradient descent on a line in float64, batch by batch."""
    losses = []
    for rows in order:
        rows = rows[rows >= 0]
        error = x[rows] * w + b - y[rows]
        losses.append(np.mean(error**2) * len(rows))
        w, b = w - lr * np.mean(2 * error * x[rows]), b - lr * np.mean(2 * error)
    return w, b, np.sum(losses) / len(x)


@pytest.mark.parametrize("length", [None, 4])
def test_compiled_steps_match_a_numpy_loop(length):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(13, 1)).astype("float32")
    y = (3 * x - 1).astype("float32")
    state, objective, step = prepared(line(), optimizers.SGD(0.1), x, y)
    order = steps.make_order(jax.random.key(7), 13, 4)
    program = steps.make_train_program(step, objective, 1.0, True, length, log_each_step=True)
    state, _, logs, each = jax.jit(program)(
        state, objective.empty(), Batch(jnp.asarray(x), jnp.asarray(y)), order, jnp.int32(0), jnp.int32(4)
    )
    w, b, loss = numpy_epochs(1.0, 0.0, x.astype(np.float64)[:, 0], y.astype(np.float64)[:, 0], np.asarray(order), 0.1)
    np.testing.assert_allclose(state.params["dense"]["kernel"][0, 0], w, rtol=1e-5)
    np.testing.assert_allclose(state.params["dense"]["bias"][0], b, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
    assert each["loss"].shape == (4,) and each["loss"][-1] == logs["loss"]
    assert int(state.step) == 4


def test_chunks_of_any_length_are_bit_identical():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 3)).astype("float32")
    y = rng.normal(size=(10, 2)).astype("float32")
    model = Sequential([layers.Dense(4, input_shape=(3,)), layers.Dropout(0.5), layers.Dense(2)])
    found = []
    for cuts in ([0, 5], [0, 1, 2, 3, 4, 5], [0, 2, 5]):
        state, objective, step = prepared(model, optimizers.Adam(), x, y)
        program = jax.jit(steps.make_train_program(step, objective, 1.0, False))
        order, totals = steps.make_order(jax.random.key(1), 10, 2), objective.empty()
        for start, stop in zip(cuts, cuts[1:], strict=False):
            data = Batch(jnp.asarray(x), jnp.asarray(y))
            state, totals, logs, _ = program(state, totals, data, order, jnp.int32(start), jnp.int32(stop))
        found.append((state.params, logs))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


def test_order_contains_each_row_once_and_padding_at_the_end():
    order = np.asarray(steps.make_order(jax.random.key(0), 10, 4))
    assert order.shape == (3, 4)
    assert sorted(order.ravel().tolist()) == [-1, -1, *range(10)]
    assert order[-1, -2:].tolist() == [-1, -1]
    assert np.asarray(steps.make_order(None, 4, 2)).tolist() == [[0, 1], [2, 3]]


def test_order_depends_only_on_the_key():
    a, b, c = (np.asarray(steps.make_order(jax.random.key(k), 20, 5)) for k in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_random_numbers_depend_on_the_step_number():
    x, y = jnp.ones((4, 3)), jnp.zeros((4, 3))
    model = Sequential([layers.Dropout(0.5, input_shape=(3,)), layers.Dense(3, kernel_initializer="identity")])
    state, objective, step = prepared(model, optimizers.SGD(0.0), x, y)
    losses = []
    for number in (0, 1, 0):
        _, totals = step(state.replace(step=jnp.int32(number)), objective.empty(), Batch(x, y))
        losses.append(float(objective.logs(totals)["loss"]))
    assert losses[0] == losses[2] != losses[1]


def test_constraint_is_applied_after_the_update():
    x, y = jnp.ones((2, 1)), jnp.full((2, 1), -10.0)
    model = line(kernel_constraint="non_neg")
    state, objective, step = prepared(model, optimizers.SGD(1.0), x, y)
    state, _ = step(state, objective.empty(), Batch(x, y))
    assert float(state.params["dense"]["kernel"][0, 0]) == 0.0
    assert float(state.params["dense"]["bias"][0]) == -22.0


def test_weight_decay_does_not_change_frozen_layers():
    x, y = jnp.ones((2, 2)), jnp.zeros((2, 1))
    model = Sequential([layers.Dense(3, trainable=False, input_shape=(2,)), layers.Dense(1)])
    state, objective, step = prepared(model, optimizers.AdamW(0.1, weight_decay=0.5), x, y)
    new, _ = step(state, objective.empty(), Batch(x, y))
    np.testing.assert_array_equal(new.params["dense"]["kernel"], state.params["dense"]["kernel"])
    assert (new.params["dense_1"]["kernel"] != state.params["dense_1"]["kernel"]).all()
    assert len(jax.tree.leaves(state.opt_state)) < len(jax.tree.leaves(optimizers.AdamW().init(state.params)))


def test_regularization_is_part_of_the_loss():
    x, y = jnp.ones((2, 1)), jnp.ones((2, 1))  # the outputs equal the labels, so the loss is 0.01 * 1^2
    state, objective, step = prepared(line(kernel_regularizer="l2"), optimizers.SGD(0.1), x, y)
    state, totals = step(state, objective.empty(), Batch(x, y))
    assert float(objective.logs(totals)["loss"]) == pytest.approx(0.01)
    assert float(state.params["dense"]["kernel"][0, 0]) == pytest.approx(1 - 0.1 * 0.02)


@jax.numpy_dtype_promotion("standard")  # optax promotes dtypes
def test_any_linen_module_and_any_optax_transformation_can_be_trained():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
            return nn.Dense(1)(nn.Dropout(0.1, deterministic=not train)(x))

    x = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")
    y = x.sum(-1, keepdims=True)
    state, objective, step = prepared(Net(), optax.chain(optax.clip(1.0), optax.adam(0.05)), x, y)
    step, first = jax.jit(step), None
    for _ in range(60):
        state, totals = step(state, objective.empty(), Batch(x, y))
        first = first or float(objective.logs(totals)["loss"])
    assert float(objective.logs(totals)["loss"]) < first / 4
    assert set(state.batch_stats) == {"BatchNorm_0"}


@jax.numpy_dtype_promotion("standard")
def test_line_searches_receive_the_loss_and_its_gradient():
    # The loss is 2.5 and the gradients are 5 and 3, as above, so the Polyak step size is 2.5 / (5^2 + 3^2).
    x, y = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1))
    state, objective, step = prepared(line(), optimizers.get("optax.polyak_sgd"), x, y)
    state, _ = step(state, objective.empty(), Batch(x, y))
    np.testing.assert_allclose(state.params["dense"]["kernel"][0, 0], 1 - 5 * 2.5 / 34, rtol=1e-6)
    np.testing.assert_allclose(state.params["dense"]["bias"][0], -3 * 2.5 / 34, rtol=1e-6)
    y = 2 * x + 3
    found = []
    for searching in (optax.lbfgs(), optimizers.LossScaleOptimizer("optax.lbfgs", initial_scale=8.0)):
        state, objective, step = prepared(line(), searching, x, y)
        step, kernels = jax.jit(step), []
        for _ in range(8):
            state, _ = step(state, objective.empty(), Batch(x, y))
            kernels.append(float(state.params["dense"]["kernel"][0, 0]))
        np.testing.assert_allclose(state.params["dense"]["bias"][0], 3.0, rtol=1e-4)
        found.append(kernels)
    assert found[0][-1] == pytest.approx(2.0, rel=1e-4)
    np.testing.assert_allclose(found[1][:3], found[0][:3], rtol=1e-5)  # the search receives the unscaled gradient


def test_given_variables_are_copied_not_donated():
    x, y = jnp.ones((2, 1)), jnp.zeros((2, 1))
    model = line()
    variables = model.init(jax.random.key(3), x)
    state, rules = steps.create_state(model, optimizers.SGD(0.1), x, variables=variables)
    objective = Objective.of(model, Batch(x, y), loss="mse")
    step = jax.jit(steps.make_train_step(model, objective, optimizers.SGD(0.1), rules), donate_argnums=0)
    step(state, objective.empty(), Batch(x, y))
    assert float(variables["params"]["dense"]["kernel"][0, 0]) == 1.0


def test_scale_is_applied_to_inputs_of_any_dtype():
    data = Batch(jnp.array([[0], [255]], jnp.uint8), jnp.array([0, 1]))
    order = jnp.array([[1, -1]], jnp.int32)
    batch = steps.batch_at(data, order, jnp.int32(0), 1 / 255, True)
    np.testing.assert_allclose(batch.x[0], [1.0])
    assert batch.valid.tolist() == [True, False]
    assert steps.batch_at(data, order, jnp.int32(0), 1, True).x.dtype == jnp.uint8
