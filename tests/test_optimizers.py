"""Optimizers against float64 loops of the formulas, live Keras and numbers counted by hand."""

import inspect
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from training import optimizers, schedules
from training.optimizers import (
    LossScaleOptimizer,
    OptimizerState,
    by_path,
    ema_weights,
    get_learning_rate,
    scale_loss,
    set_learning_rate,
)

SHAPES = {"dense": {"kernel": (4, 3), "bias": (3,)}, "conv": (2, 3, 4), "embedding": (5, 2), "scale": ()}

# Each row: an optimizer and arguments that change its formula. Every optimizer has a row, see the test of the table.
ROWS = [
    ("SGD", dict(learning_rate=0.1)),
    ("SGD", dict(learning_rate=0.1, momentum=0.8)),
    ("SGD", dict(learning_rate=0.1, momentum=0.8, nesterov=True)),
    ("RMSprop", dict(learning_rate=0.02)),
    ("RMSprop", dict(learning_rate=0.02, rho=0.7, momentum=0.6, epsilon=1e-3)),
    ("RMSprop", dict(learning_rate=0.02, momentum=0.6, centered=True, epsilon=1e-3)),
    ("Adam", dict(learning_rate=0.02)),
    ("Adam", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Adam", dict(learning_rate=0.02, beta_2=0.6, amsgrad=True)),
    ("AdamW", dict(learning_rate=0.02)),
    ("AdamW", dict(learning_rate=0.02, weight_decay=0.3, amsgrad=True)),
    ("Adamax", dict(learning_rate=0.02)),
    ("Adamax", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Nadam", dict(learning_rate=0.02)),
    ("Nadam", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Adagrad", dict(learning_rate=0.1)),
    ("Adagrad", dict(learning_rate=0.1, initial_accumulator_value=0.0, epsilon=1e-2)),
    ("Adadelta", dict(learning_rate=0.5)),
    ("Adadelta", dict(learning_rate=0.5, rho=0.6, epsilon=1e-2)),
    ("Adafactor", dict(learning_rate=0.5)),
    ("Adafactor", dict(learning_rate=0.05, epsilon_1=1e-3, epsilon_2=0.3, clip_threshold=0.5)),
    ("Adafactor", dict(learning_rate=0.5, relative_step=False, beta_2_decay=-0.5)),
    ("Ftrl", dict(learning_rate=0.1)),
    ("Ftrl", dict(learning_rate=0.1, l1_regularization_strength=0.5, l2_regularization_strength=0.1)),
    (
        "Ftrl",
        dict(
            learning_rate=0.1,
            learning_rate_power=-0.3,
            initial_accumulator_value=0.2,
            l2_shrinkage_regularization_strength=0.05,
            beta=0.4,
        ),
    ),
    ("Lion", dict(learning_rate=0.02)),
    ("Lion", dict(learning_rate=0.02, beta_1=0.6, beta_2=0.8)),
    ("Lamb", dict(learning_rate=0.02)),
    ("Lamb", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Muon", dict(learning_rate=0.02)),
    ("Muon", dict(learning_rate=0.02, nesterov=False, ns_steps=2, rms_rate=None, exclude_embeddings=False)),
    ("Muon", dict(learning_rate=0.02, momentum=0.5, adam_lr_ratio=0.3, exclude_layers=["kern"], weight_decay=0.2)),
    ("Muon", dict(learning_rate=0.02, adam_weight_decay=None, weight_decay=None, exclude_embeddings=False)),
    ("ScheduleFreeAdamW", dict(learning_rate=0.05)),
    ("ScheduleFreeAdamW", dict(learning_rate=0.05, beta_1=0.7, beta_2=0.8, epsilon=1e-2, warmup_steps=4)),
]
FIRST_ROWS = list({name: (name, config) for name, config in reversed(ROWS)}.values())[::-1]


def some(*names):
    return [row for row in FIRST_ROWS if row[0] in names]


OPTIONS = {
    "clipnorm": dict(clipnorm=0.7),
    "clipvalue and decay": dict(clipvalue=0.3, weight_decay=0.1),
    "global_clipnorm, scale and average": dict(
        global_clipnorm=0.8, loss_scale_factor=8.0, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
    ),
    "accumulation and all": dict(
        gradient_accumulation_steps=2,
        weight_decay=0.1,
        clipnorm=0.7,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=2,
    ),
}


def tree(make):
    return jax.tree.map(make, SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def example(steps, seed=0):
    """Parameters and the gradients of so many steps, of which one is 0 everywhere."""
    random = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    params, grads = tree(draw), [tree(draw) for _ in range(steps)]
    return params, [jax.tree.map(jnp.zeros_like, g) if i == 4 else g for i, g in enumerate(grads)]


def run(optimizer, params, grads, wrap=lambda f: f, before=lambda i, state: state):
    """The parameters after each step, and the last state."""
    state, update, trace = optimizer.init(params), wrap(optimizer.update), []
    for i, g in enumerate(grads):
        updates, state = update(g, before(i, state), params)
        params = optax.apply_updates(params, updates)
        trace.append(params)
    return trace, state


def named(params):
    """Leaves by their paths joined by "_", which is how Keras' variables are called here."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="_"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def run_keras(optimizer, params, grads, before=lambda i, optimizer: None):
    """What `run` gives, by Keras: a list of dicts of arrays."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        variables = [keras.Variable(w, name=name) for name, w in named(params).items()]
        trace = []
        for i, g in enumerate(grads):
            before(i, optimizer)
            optimizer.apply(list(named(g).values()), variables)
            trace.append({v.name: np.asarray(v.value) for v in variables})
    return trace


def assert_same(got, want, rtol=3e-6, atol=1e-6):
    for step, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        ours = named(ours)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol, atol, err_msg=f"{name} after step {step + 1}")


def config_id(value):
    return value if isinstance(value, str) else ",".join(k for k in value if k != "learning_rate") or "plain"


# Live Keras.


@pytest.mark.parametrize(("name", "config"), ROWS, ids=config_id)
def test_equals_keras(name, config):
    params, grads = example(15)
    got, _ = run(getattr(optimizers, name)(**config), params, grads)
    assert_same(got, run_keras(getattr(keras.optimizers, name)(**config), params, grads))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("name", "config"), FIRST_ROWS, ids=config_id)
def test_equals_keras_with_the_arguments_of_every_optimizer(name, config, option):
    if name == "AdamW" and "weight_decay" not in OPTIONS[option]:
        config = {**config, "weight_decay": 0.2}
    params, grads = example(7)
    config = {**config, **OPTIONS[option]}
    theirs = getattr(keras.optimizers, name)(**config)
    want = run_keras(theirs, params, grads)
    got, state = run(getattr(optimizers, name)(**config), params, grads, jax.jit)
    assert_same(got, want)
    if config.get("use_ema"):
        averages = [np.asarray(v.value) for v in theirs._model_variables_moving_average]
        assert_same([ema_weights(state)], [dict(zip(named(params), averages, strict=True))])


@pytest.mark.parametrize("options", [{}, dict(gradient_accumulation_steps=2, weight_decay=0.2)], ids=config_id)
@pytest.mark.parametrize(
    ("name", "config"),
    [*ROWS[1:5], *some("Adam", "Nadam", "Adafactor", "Ftrl", "Muon", "ScheduleFreeAdamW")],
    ids=config_id,
)
def test_equals_keras_with_a_schedule(name, config, options):
    params, grads = example(5)
    decay = dict(initial_learning_rate=0.1, decay_steps=2, decay_rate=0.5)
    config = {**config, **options}
    ours = getattr(optimizers, name)(**{**config, "learning_rate": schedules.ExponentialDecay(**decay)})
    theirs_schedule = keras.optimizers.schedules.ExponentialDecay(**decay)
    theirs = getattr(keras.optimizers, name)(**{**config, "learning_rate": theirs_schedule})
    got, state = run(ours, params, grads, jax.jit)
    assert_same(got, run_keras(theirs, params, grads))
    assert float(get_learning_rate(state)) == pytest.approx(float(theirs.learning_rate), rel=1e-6)


@pytest.mark.parametrize(("name", "config"), ROWS[:9], ids=config_id)
def test_equals_keras_when_the_learning_rate_is_set(name, config):
    params, grads = example(9)
    rates = {3: 0.3, 6: 0.005}
    got, _ = run(
        getattr(optimizers, name)(**config),
        params,
        grads,
        before=lambda i, state: set_learning_rate(state, rates[i]) if i in rates else state,
    )

    def set_keras(i, optimizer):
        if i in rates:
            optimizer.learning_rate = rates[i]

    assert_same(got, run_keras(getattr(keras.optimizers, name)(**config), params, grads, set_keras))


def test_equals_keras_with_parameters_excluded_from_weight_decay():
    params, grads = example(5)
    theirs = keras.optimizers.AdamW(weight_decay=0.5)
    theirs.exclude_from_weight_decay(var_names=["bias", "^scale"])
    ours = optimizers.AdamW(weight_decay=0.5, exclude_from_weight_decay=["bias", "^scale"])
    assert_same(run(ours, params, grads)[0], run_keras(theirs, params, grads))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("option", [{}, dict(clipnorm=1.0), dict(clipvalue=1.0), dict(global_clipnorm=1.0)])
def test_equals_keras_where_a_gradient_is_not_finite(option, value):
    params, grads = example(2)
    grads[1]["dense"]["kernel"] = grads[1]["dense"]["kernel"].at[0, 0].set(value)
    got, _ = run(optimizers.SGD(0.1, **option), params, grads)
    assert_same(got, run_keras(keras.optimizers.SGD(0.1, **option), params, grads))


@pytest.mark.parametrize(("name", "config"), FIRST_ROWS, ids=config_id)
def test_equals_keras_where_all_gradients_and_some_weights_are_0(name, config):
    params, grads = example(3)
    params["dense"] = jax.tree.map(jnp.zeros_like, params["dense"])
    grads[0] = jax.tree.map(jnp.zeros_like, grads[0])
    got, _ = run(getattr(optimizers, name)(**config), params, grads)
    assert_same(got, run_keras(getattr(keras.optimizers, name)(**config), params, grads))
    assert all(jnp.isfinite(w).all() for w in jax.tree.leaves(got))


def test_loss_scale_optimizer_equals_keras():
    params, grads = example(12)
    grads = [jax.tree.map(lambda g: g * 64.0, g) for g in grads]
    for bad, value in ((3, jnp.inf), (8, jnp.nan)):
        grads[bad]["scale"] = jnp.asarray(value, jnp.float32)
    config = dict(initial_scale=64.0, dynamic_growth_steps=2)
    theirs = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02), **config)
    ours = LossScaleOptimizer(optimizers.Adam(0.02), **config)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        variables = [keras.Variable(w, name=name) for name, w in named(params).items()]
        theirs.build(variables)
        values, slots = [v.value for v in variables], [v.value for v in theirs.variables]
    state = ours.init(params)
    for g in grads:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            values, slots = theirs.stateless_apply(slots, list(named(g).values()), values)
        updates, state = ours.update(g, state, params)
        params = optax.apply_updates(params, updates)
        assert_same([params], [dict(zip(named(params), map(np.asarray, values), strict=True))])
        own = {v.name: x for v, x in zip(theirs.variables, slots, strict=True)}
        assert float(state.scale) == float(own["dynamic_scale"])
        assert int(state.finite_steps) == int(own["step_counter"])


def test_by_path_equals_keras_multi_optimizer():
    params, grads = example(6)
    theirs_map = keras.optimizers.OptimizerMap(
        keras.optimizers.SGD(0.1), {"dense_.*": keras.optimizers.Adam(0.02), "dense_bias": keras.optimizers.Lion(0.02)}
    )
    ours = by_path(
        {"dense/.*": optimizers.Adam(0.02), "dense/bias": optimizers.Lion(0.02)}, default=optimizers.SGD(0.1)
    )
    got, _ = run(ours, params, grads)
    assert_same(got, run_keras(keras.optimizers.MultiOptimizer(theirs_map), params, grads))


@pytest.mark.parametrize("name", [*dict(ROWS), "LossScaleOptimizer"])
def test_arguments_their_order_and_their_defaults_are_those_of_keras(name):
    theirs = inspect.signature(getattr(keras.optimizers, name)).parameters.values()
    ours = inspect.signature(getattr(optimizers, name)).parameters.values()
    want = [(p.name, p.default) for p in theirs if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in ours if p.name != "exclude_from_weight_decay"] == want


def test_the_table_has_the_names_of_keras_and_lamb_and_each_has_a_row():
    from keras.src.optimizers import ALL_OBJECTS_DICT

    not_by_name = {"optimizer", "multioptimizer", "optimizermap", "lossscaleoptimizer"}
    assert set(optimizers.OPTIMIZERS) == set(ALL_OBJECTS_DICT) - not_by_name | {"lamb"}
    assert {name.lower() for name, _ in ROWS} == set(optimizers.OPTIMIZERS)


# Loops in float64. epsilon is large, so that its place matters.


def sgd(w, gs, rates, momentum, nesterov):
    m = 0.0
    for g, lr in zip(gs, rates, strict=True):
        m = momentum * m - lr * g
        w = w + (momentum * m - lr * g if nesterov else m)
        yield w


def rmsprop(w, gs, rates, rho, momentum, epsilon, centered):
    v = mean = m = 0.0
    for g, lr in zip(gs, rates, strict=True):
        v, mean = rho * v + (1 - rho) * g**2, rho * mean + (1 - rho) * g
        m = momentum * m + lr * g / np.sqrt(v - (mean**2 if centered else 0) + epsilon)
        w = w - m
        yield w


def adam(w, gs, rates, beta_1, beta_2, epsilon, amsgrad):
    m = v = top = 0.0
    for t, (g, lr) in enumerate(zip(gs, rates, strict=True), 1):
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        top = np.maximum(top, v) if amsgrad else v
        w = w - lr * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(top) + epsilon)
        yield w


def adamax(w, gs, rates, beta_1, beta_2, epsilon):
    m = u = 0.0
    for t, (g, lr) in enumerate(zip(gs, rates, strict=True), 1):
        m, u = beta_1 * m + (1 - beta_1) * g, np.maximum(beta_2 * u, abs(g))
        w = w - lr / (1 - beta_1**t) * m / (u + epsilon)
        yield w


def nadam(w, gs, rates, beta_1, beta_2, epsilon):
    u = lambda t: beta_1 * (1 - 0.5 * 0.96**t)  # noqa: E731
    m, v, product = 0.0, 0.0, 1.0
    for t, (g, lr) in enumerate(zip(gs, rates, strict=True), 1):
        m, v, product = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2, product * u(t)
        m_hat = u(t + 1) * m / (1 - product * u(t + 1)) + (1 - u(t)) * g / (1 - product)
        w = w - lr * m_hat / (np.sqrt(v / (1 - beta_2**t)) + epsilon)
        yield w


@pytest.mark.parametrize(
    ("make", "loop", "config"),
    [
        (optimizers.SGD, sgd, dict(momentum=0.0, nesterov=False)),
        (optimizers.SGD, sgd, dict(momentum=0.9, nesterov=False)),
        (optimizers.SGD, sgd, dict(momentum=0.9, nesterov=True)),
        (optimizers.RMSprop, rmsprop, dict(rho=0.8, momentum=0.0, epsilon=1e-3, centered=False)),
        (optimizers.RMSprop, rmsprop, dict(rho=0.8, momentum=0.7, epsilon=1e-3, centered=True)),
        (optimizers.Adam, adam, dict(beta_1=0.8, beta_2=0.95, epsilon=1e-3, amsgrad=False)),
        (optimizers.Adam, adam, dict(beta_1=0.8, beta_2=0.7, epsilon=1e-3, amsgrad=True)),
        (optimizers.Adamax, adamax, dict(beta_1=0.8, beta_2=0.7, epsilon=1e-3)),
        (optimizers.Nadam, nadam, dict(beta_1=0.8, beta_2=0.95, epsilon=1e-3)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_equals_a_loop_in_float64_while_the_learning_rate_changes(make, loop, config):
    random = np.random.default_rng(1)
    w, gs = random.normal(size=(3, 2)), random.normal(size=(30, 3, 2)) * 0.03
    rates = 0.1 / (1.0 + np.arange(30))
    schedule = schedules.InverseTimeDecay(0.1, decay_steps=1, decay_rate=1.0)
    got, _ = run(make(schedule, **config), {"w": jnp.asarray(w, jnp.float32)}, [{"w": g} for g in jnp.float32(gs)])
    want = list(loop(w, gs, rates, **config))
    np.testing.assert_allclose([p["w"] for p in got], want, rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_make_the_step_of_their_mean():
    params, grads = example(6)
    got, _ = run(optimizers.Adam(0.1, gradient_accumulation_steps=3, clipnorm=0.5), params, grads)
    means = [jax.tree.map(lambda *g: sum(g) / 3, *grads[i : i + 3]) for i in (0, 3)]
    want, _ = run(optimizers.Adam(0.1, clipnorm=0.5), params, means)
    for step in (0, 1):
        assert_same(got[step : step + 1], [named(params)], rtol=0, atol=0)
    assert_same([got[2], got[5]], [named(w) for w in want])


# The state: learning rate, averages, scales.


def test_the_learning_rate_is_set_without_compiling_again():
    params, grads = example(4)
    optimizer = optimizers.SGD(0.1)
    state = jax.device_put(optimizer.init(params), jax.devices()[0])
    # What is compiled ahead of time refuses other types, shapes and places.
    update = jax.jit(optimizer.update).lower(grads[0], state, params).compile()
    for rate in (0.5, jnp.float32(0.25), np.float64(0.125), 1):
        state = set_learning_rate(state, rate)
        assert float(get_learning_rate(state)) == float(rate)
        updates, state = update(grads[1], state, params)
        np.testing.assert_allclose(updates["conv"], -float(rate) * grads[1]["conv"], rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: optimizers.Adam(rate, use_ema=True),
        lambda rate: LossScaleOptimizer(optimizers.Adam(rate)),
        lambda rate: optax.chain(optax.clip(1.0), optimizers.Adam(rate)),
        lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    ],
    ids=["adam", "loss scale", "chain", "inject_hyperparams"],
)
def test_the_learning_rate_is_read_and_set_wherever_it_is(make):
    state = make(0.5).init({"w": jnp.ones(2)})
    assert float(get_learning_rate(state)) == 0.5
    changed = set_learning_rate(state, 0.25)
    assert float(get_learning_rate(changed)) == 0.25
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert [x.aval for x in jax.tree.leaves(changed)] == [x.aval for x in jax.tree.leaves(state)]
    state = make(lambda step: 0.5 * 0.5**step).init({"w": jnp.ones(2)})
    assert float(get_learning_rate(state)) == 0.5
    message = (
        "The learning rate of this optimizer is a schedule and cannot be set; make the optimizer with a number instead."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        set_learning_rate(state, 0.1)


def test_a_schedule_is_evaluated_at_the_step_from_0():
    params = {"w": jnp.zeros(1)}
    optimizer = optimizers.SGD(schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125]))
    got, state = run(optimizer, params, [{"w": jnp.ones(1)}] * 2)
    assert [float(p["w"][0]) for p in got] == [-0.5, -0.75]
    assert float(get_learning_rate(state)) == 0.125


def test_each_member_of_a_stack_has_its_own_learning_rate():
    params, grads = example(3)
    optimizer = optimizers.Adam(0.1, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2)
    rates = jnp.array([0.1, 0.02])
    stack = lambda t: jax.tree.map(lambda x: jnp.stack([x, x]), t)  # noqa: E731
    state = jax.vmap(optimizer.init)(stack(params))
    state = set_learning_rate(state, rates)
    np.testing.assert_array_equal(get_learning_rate(state), rates)
    many, update = stack(params), jax.jit(jax.vmap(optimizer.update))
    for g in grads:
        updates, state = update(stack(g), state, many)
        many = optax.apply_updates(many, updates)
    for i, rate in enumerate(rates):
        alone, _ = run(optimizer, params, grads, jax.jit, before=lambda i, s, rate=rate: set_learning_rate(s, rate))
        assert_same([jax.tree.map(lambda x, i=i: x[i], many)], [named(alone[-1])])


def test_averages_without_overwriting_leave_the_weights_alone():
    params, grads = example(4)
    got, state = run(optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5), params, grads)
    plain, _ = run(optimizers.Adam(0.1), params, grads)
    assert_same(got, [named(p) for p in plain], rtol=0, atol=0)
    a = [p["conv"] for p in plain]
    np.testing.assert_allclose(
        ema_weights(state)["conv"], 0.125 * a[0] + 0.125 * a[1] + 0.25 * a[2] + 0.5 * a[3], rtol=1e-5, atol=1e-6
    )


def test_averages_of_parts_are_put_together():
    params = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.bfloat16), "c": jnp.ones(1)}
    average = dict(use_ema=True, ema_momentum=0.5)
    both = by_path({"a": optimizers.SGD(0.5, **average)}, default=optimizers.SGD(0.25, **average))
    _, state = run(both, params, [jax.tree.map(jnp.ones_like, params)])
    weights = ema_weights(state)
    assert weights["b"].dtype == jnp.float32
    np.testing.assert_array_equal(weights["a"], [0.5, 0.5])
    np.testing.assert_array_equal(weights["c"], [0.75])
    one = by_path({"a": optimizers.SGD(0.5, **average)}, default="sgd")
    (new,), state = run(one, params, [jax.tree.map(jnp.ones_like, params)])
    weights = ema_weights(state, new)
    assert weights["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights["a"], [0.5, 0.5])
    np.testing.assert_array_equal(weights["c"], new["c"])
    message = (
        "The state does not keep an average of every weight; make the optimizer with use_ema=True, "
        "or pass `params` for the rest."
    )
    for partial in (state, optimizers.SGD().init(params)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            ema_weights(partial)
    assert ema_weights(optimizers.SGD().init(params), params) is params


def test_a_scaled_loss_gives_the_unscaled_step():
    params = {"w": jnp.array([1.0, 2.0])}
    steps = []
    for optimizer in (
        optimizers.SGD(0.5),
        optimizers.SGD(0.5, loss_scale_factor=256.0),
        LossScaleOptimizer(optimizers.SGD(0.5)),
    ):
        state = optimizer.init(params)
        grads = jax.grad(lambda p, s=state: scale_loss(s, jnp.sum(p["w"] ** 2)))(params)
        steps.append(optimizer.update(grads, state, params)[0]["w"])
    np.testing.assert_array_equal(steps[0], [-1.0, -2.0])
    np.testing.assert_array_equal(steps[1], steps[0])
    np.testing.assert_array_equal(steps[2], steps[0])
    assert float(grads["w"][0]) == 2.0**16


# Compilation, types, trees.


@pytest.mark.parametrize(
    ("name", "config"),
    some("SGD", "Adam", "Nadam", "Adafactor", "Ftrl", "Muon", "ScheduleFreeAdamW"),
    ids=config_id,
)
def test_scan_with_donated_state_equals_single_steps(name, config):
    options = dict(
        weight_decay=0.1, clipnorm=0.7, use_ema=True, ema_overwrite_frequency=2, gradient_accumulation_steps=2
    )
    optimizer = getattr(optimizers, name)(**{**config, **options})
    params, grads = example(6)
    want, want_state = run(optimizer, params, grads, jax.jit)

    def step(carry, g):
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    scan = jax.jit(lambda carry, gs: jax.lax.scan(step, carry, gs)[0], donate_argnums=0)
    start = jax.tree.map(lambda p: p + 0, params)
    gs = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    got, state = scan((start, jax.jit(optimizer.init)(start)), gs)
    assert_same([got], [named(want[-1])])
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(want_state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("optimizer", [optimizers.SGD(use_ema=True), optimizers.ScheduleFreeAdamW()])
def test_parameters_and_state_share_no_memory(optimizer, wrap):
    params = {"w": jnp.ones(1000)}
    state = wrap(optimizer.init)(params)
    copies = [x for x in jax.tree.leaves((params, state)) if x.shape == (1000,)]
    assert len({x.unsafe_buffer_pointer() for x in copies}) == len(copies) >= 2


def test_accumulation_computes_the_optimizer_only_at_the_real_step():
    params, (g,) = example(1)
    optimizer = optimizers.Adam(gradient_accumulation_steps=4)
    jaxpr = jax.make_jaxpr(optimizer.update)(g, optimizer.init(params), params).jaxpr
    outside = {eqn.primitive.name for eqn in jaxpr.eqns}
    assert "cond" in outside and not outside & {"sqrt", "pow", "div"}


def test_a_run_goes_on_from_the_leaves_of_its_state():
    params, grads = example(6)
    optimizer = optimizers.Nadam(schedules.CosineDecay(0.1, 6), use_ema=True, gradient_accumulation_steps=2)
    update = jax.jit(optimizer.update)
    want, _ = run(optimizer, params, grads, lambda _: update)
    half, state = run(optimizer, params, grads[:3], lambda _: update)
    leaves = [np.asarray(x) for x in jax.tree.leaves(state)]
    state = jax.tree.unflatten(jax.tree.structure(optimizer.init(params)), [jnp.asarray(x) for x in leaves])
    params = half[-1]
    for g, w in zip(grads[3:], want[3:], strict=True):
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        assert_same([params], [named(w)], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "config"), some("Adam", "Nadam", "Adafactor", "Muon"), ids=config_id)
def test_half_precision_is_computed_in_float32(name, config):
    params, grads = example(3)
    config = {**config, "use_ema": True, "gradient_accumulation_steps": 2}
    optimizer = getattr(optimizers, name)(**config)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, grads))
    update = jax.jit(optimizer.update)
    updates, state = update(half[1][0], optimizer.init(half[0]), half[0])
    updates, state = update(half[1][1], state, half[0])
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    want, full = update(wide[1][0], optimizer.init(wide[0]), wide[0])
    want, full = update(wide[1][1], full, wide[0])
    for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))
    for ours, theirs in zip(jax.tree.leaves(state.slots), jax.tree.leaves(full.slots), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_float64_and_float32_parameters_side_by_side():
    with jax.enable_x64(True):
        w, g = np.array([1.0, -2.0]), np.array([0.3, 0.1])
        params, grads = {"a": jnp.asarray(w), "b": jnp.float32(w)}, {"a": jnp.asarray(g), "b": jnp.float32(g)}
        optimizer = optimizers.Nadam(0.5, epsilon=1e-3, global_clipnorm=9.0, weight_decay=0.0, use_ema=True)
        got, _ = run(optimizer, params, [grads] * 3)
        want = list(nadam(w, [g] * 3, [0.5] * 3, 0.9, 0.999, 1e-3))[-1]
        assert got[-1]["a"].dtype == jnp.float64 and got[-1]["b"].dtype == jnp.float32
        np.testing.assert_allclose(got[-1]["a"], want, rtol=1e-12)
        np.testing.assert_allclose(got[-1]["b"], want, rtol=1e-5)


def test_lists_empty_trees_and_bare_arrays_are_trees():
    optimizer = optimizers.SGD(0.5, global_clipnorm=100.0, momentum=0.5)
    for params in ([jnp.ones(2), (jnp.ones(1),)], jnp.ones(2), {}, {"a": {}}):
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert all((u == -0.5).all() for u in jax.tree.leaves(updates))
        optimizer.update(params, state, params)


def test_the_name_is_the_scope_of_the_compiled_operations():
    params, (g,) = example(1)
    for optimizer, name in ((optimizers.Adam(), "adam"), (optimizers.Adam(name="mine"), "mine")):
        lowered = jax.jit(optimizer.update).lower(g, optimizer.init(params), params)
        assert f"/{name}/" in lowered.as_text(debug_info=True)


def test_ftrl_gives_weights_of_exactly_0():
    params, grads = example(5)
    got, _ = run(optimizers.Ftrl(0.1, l1_regularization_strength=100.0), params, grads)
    assert all((w == 0).all() for w in jax.tree.leaves(got[-1]))


def test_muon_steps_are_nearly_orthogonal():
    params = {"tall": jnp.zeros((8, 3)), "wide": jnp.zeros((3, 8))}
    random = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), jnp.float32), params)
    optimizer = optimizers.Muon(1.0, rms_rate=None, weight_decay=None)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for u in updates.values():
        values = np.linalg.svd(u, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3


# Names.


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_get_by_name_gives_the_defaults(name):
    params, grads = example(2)
    factory = optimizers.OPTIMIZERS[name]
    want, _ = run(factory(), params, grads)
    for spelling in (name, factory.__name__):
        got, state = run(optimizers.get(spelling), params, grads)
        assert isinstance(state, OptimizerState)
        assert_same(got, [named(w) for w in want], rtol=0, atol=0)


def test_get_gives_a_transformation_back():
    optimizer = optax.sgd(0.1)
    assert optimizers.get(optimizer) is optimizer


def test_get_of_optax_has_a_learning_rate_to_set():
    from training.optimizers.names import OPTAX

    params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    for name in OPTAX:
        optimizer = optimizers.get(name)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            state = optimizer.init(params)
            assert float(get_learning_rate(state)) == np.float32(1e-3), name
            state = set_learning_rate(state, 0.5)
            updates, state = optimizer.update({"w": jnp.ones((2, 2))}, state, params)
        assert float(get_learning_rate(state)) == 0.5, name
        assert jnp.isfinite(updates["w"]).all(), name
    assert "optax.adabelief" in OPTAX and "optax.lbfgs" not in OPTAX
    with jax.numpy_dtype_promotion("standard"):
        (want,), _ = run(optax.adabelief(1e-3), params, [params])
        (got,), _ = run(optimizers.get("optax.adabelief"), params, [params])
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-6)


# Errors, each in full.

KNOWN = ", ".join(repr(name) for name in sorted(optimizers.OPTIMIZERS))
INIT = {"a": jnp.ones(1), "b": {"c": jnp.ones(1)}}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: optimizers.SGD(clipnorm=1.0, clipvalue=2.0),
            ValueError,
            "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` may be given, got clipnorm=1.0, clipvalue=2.0.",
        ),
        (
            lambda: optimizers.SGD(clipnorm=0.0),
            ValueError,
            "`clipnorm` must be a number of more than 0, got 0.0.",
        ),
        (
            lambda: optimizers.SGD(clipvalue=-1.0),
            ValueError,
            "`clipvalue` must be a number of more than 0, got -1.0.",
        ),
        (
            lambda: optimizers.SGD(global_clipnorm=float("nan")),
            ValueError,
            "`global_clipnorm` must be a number of more than 0, got nan.",
        ),
        (
            lambda: optimizers.SGD(loss_scale_factor=0),
            ValueError,
            "`loss_scale_factor` must be a number of more than 0, got 0.",
        ),
        (
            lambda: optimizers.SGD(weight_decay=-0.1),
            ValueError,
            "`weight_decay` must be a number of at least 0, got -0.1.",
        ),
        (
            lambda: optimizers.SGD(weight_decay="much"),
            ValueError,
            "`weight_decay` must be a number of at least 0, got 'much'.",
        ),
        (
            lambda: optimizers.SGD(exclude_from_weight_decay="bias"),
            ValueError,
            "`exclude_from_weight_decay`=('bias',) needs `weight_decay`, got None.",
        ),
        (
            lambda: optimizers.AdamW(exclude_from_weight_decay=["("]),
            ValueError,
            "exclude_from_weight_decay: '(' must be a regular expression, got one with: "
            "missing ), unterminated subpattern at position 0.",
        ),
        (
            lambda: optimizers.SGD(gradient_accumulation_steps=1),
            ValueError,
            "`gradient_accumulation_steps` must be None or a whole number of at least 2, got 1.",
        ),
        (
            lambda: optimizers.SGD(gradient_accumulation_steps=2.5),
            ValueError,
            "`gradient_accumulation_steps` must be None or a whole number of at least 2, got 2.5.",
        ),
        (
            lambda: optimizers.SGD(ema_momentum=1.5),
            ValueError,
            "`ema_momentum` must be a number of at least 0 and at most 1, got 1.5.",
        ),
        (
            lambda: optimizers.SGD(use_ema=True, ema_overwrite_frequency=0),
            ValueError,
            "`ema_overwrite_frequency` must be None or a whole number of at least 1, got 0.",
        ),
        (
            lambda: optimizers.SGD(ema_overwrite_frequency=3),
            ValueError,
            "`ema_overwrite_frequency`=3 needs `use_ema=True`, got False.",
        ),
        (
            lambda: optimizers.SGD(-0.1),
            ValueError,
            "`learning_rate` must be a number of at least 0, got -0.1.",
        ),
        (
            lambda: optimizers.SGD("fast"),
            TypeError,
            "`learning_rate` must be a number or a function of the step, got 'fast'; "
            "to give an array, call set_learning_rate(opt_state, array).",
        ),
        (
            lambda: optimizers.SGD(jnp.float32(0.5)),
            TypeError,
            "`learning_rate` must be a number or a function of the step, got Array(0.5, dtype=float32); "
            "to give an array, call set_learning_rate(opt_state, array).",
        ),
        (
            lambda: optimizers.SGD(momentum=1.5),
            ValueError,
            "`momentum` must be a number of at least 0 and at most 1, got 1.5.",
        ),
        (
            lambda: optimizers.Adam(beta_1=1.0),
            ValueError,
            "`beta_1` must be a number of at least 0 and less than 1, got 1.0.",
        ),
        (
            lambda: optimizers.Adam(beta_2=-0.5),
            ValueError,
            "`beta_2` must be a number of at least 0 and less than 1, got -0.5.",
        ),
        (
            lambda: optimizers.Adam(epsilon=-1e-7),
            ValueError,
            "`epsilon` must be a number of at least 0, got -1e-07.",
        ),
        (
            lambda: optimizers.AdamW(weight_decay=None),
            ValueError,
            "AdamW: `weight_decay` must be a number, got None; for no decay use Adam.",
        ),
        (
            lambda: optimizers.RMSprop(rho=2),
            ValueError,
            "`rho` must be a number of at least 0 and at most 1, got 2.",
        ),
        (
            lambda: optimizers.Lion(beta_1=0.0),
            ValueError,
            "`beta_1` must be a number of more than 0 and at most 1, got 0.0.",
        ),
        (
            lambda: optimizers.ScheduleFreeAdamW(beta_1=0.0),
            ValueError,
            "`beta_1` must be a number of more than 0 and at most 1, got 0.0.",
        ),
        (
            lambda: optimizers.ScheduleFreeAdamW(warmup_steps=-1),
            ValueError,
            "`warmup_steps` must be None or a whole number of at least 0, got -1.",
        ),
        (
            lambda: optimizers.Ftrl(learning_rate_power=0.5),
            ValueError,
            "`learning_rate_power` must be a number of at least -inf and at most 0, got 0.5.",
        ),
        (
            lambda: optimizers.Adafactor(clip_threshold=0.0),
            ValueError,
            "`clip_threshold` must be a number of more than 0, got 0.0.",
        ),
        (
            lambda: optimizers.Muon(ns_steps=0),
            ValueError,
            "`ns_steps` must be None or a whole number of at least 1, got 0.",
        ),
        (
            lambda: optimizers.Muon(exclude_layers="["),
            ValueError,
            "exclude_layers: '[' must be a regular expression, got one with: unterminated character set at position 0.",
        ),
        (
            lambda: LossScaleOptimizer("sgd", initial_scale=0.0),
            ValueError,
            "`initial_scale` must be a number of more than 0, got 0.0.",
        ),
        (
            lambda: LossScaleOptimizer("sgd", dynamic_growth_steps=0),
            ValueError,
            "`dynamic_growth_steps` must be None or a whole number of at least 1, got 0.",
        ),
        (
            lambda: LossScaleOptimizer(optimizers.SGD(loss_scale_factor=2.0)).init(INIT),
            ValueError,
            "LossScaleOptimizer: the inner optimizer must not scale the loss as well; "
            "make it without `loss_scale_factor`.",
        ),
        (
            lambda: by_path({"a": optimizers.SGD(loss_scale_factor=2.0)}, "sgd").init(INIT),
            ValueError,
            "by_path: an optimizer of a part must not scale the loss; put a LossScaleOptimizer around by_path instead.",
        ),
        (
            lambda: by_path({"*": "adam"}, "sgd"),
            ValueError,
            "by_path: '*' must be a regular expression, got one with: nothing to repeat at position 0.",
        ),
        (
            lambda: by_path({"d": "adam"}, "sgd").init(INIT),
            ValueError,
            "by_path: every pattern must name a parameter, got 'd'; there are 'a', 'b/c'.",
        ),
        (
            lambda: by_path({"b.*": "adam", ".*c": "adam"}, "sgd").init(INIT),
            ValueError,
            "by_path: one pattern at most may name a parameter, got ['b.*', '.*c'] for 'b/c'; narrow one.",
        ),
        (
            lambda: get_learning_rate(by_path({"a": "adam"}, "sgd").init(INIT)),
            ValueError,
            "The state holds 2 learning rates; take the one you mean out of it, "
            "such as opt_state.inner_states[pattern] of by_path.",
        ),
        (
            lambda: get_learning_rate(optax.adam(0.1).init(INIT)),
            ValueError,
            "The state holds no learning rate; use an optimizer of training.optimizers, "
            "or wrap yours in optax.inject_hyperparams.",
        ),
        (
            lambda: set_learning_rate(optimizers.SGD().init(INIT), -1.0),
            ValueError,
            "`learning_rate` must be a number of at least 0, got -1.0.",
        ),
        (
            lambda: set_learning_rate(optimizers.SGD().init(INIT), "slow"),
            TypeError,
            "A learning rate must be a number or an array to be set, got 'slow'.",
        ),
        (
            lambda: set_learning_rate(optimizers.SGD().init(INIT), jnp.ones(3)),
            ValueError,
            "A learning rate must be one number or have the shape () to be set, got the shape (3,).",
        ),
        (
            lambda: scale_loss([optimizers.SGD(loss_scale_factor=2.0).init(INIT)] * 2, jnp.float32(1.0)),
            ValueError,
            "The state holds 2 loss scales; only one optimizer may scale the loss, "
            "such as a LossScaleOptimizer around all of them.",
        ),
        (
            lambda: optimizers.Adam().update(INIT, optimizers.Adam().init(INIT)),
            ValueError,
            "Optimizer 'adam' needs the parameters; call update(grads, state, params).",
        ),
        (
            lambda: optimizers.Adam().init({"a": jnp.arange(3)}),
            TypeError,
            "Optimizer 'adam': parameter 'a' must be real and floating, got int32.",
        ),
        (
            lambda: optimizers.get("Adamm"),
            ValueError,
            f"Unknown optimizer 'adamm'. Did you mean 'adam'? Known: {KNOWN}. "
            "Or 'optax.<name>', or pass an optax transformation.",
        ),
        (
            lambda: optimizers.get(optimizers.Adam),
            TypeError,
            f"An optimizer must be a name or an optax transformation, got {optimizers.Adam!r}.",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


def test_an_unknown_name_of_optax_is_refused():
    with pytest.raises(
        ValueError, match=r"^Unknown optimizer 'optax\.adabelieve'\. Did you mean 'optax\.adabelief'\? "
    ):
        optimizers.get("optax.adabelieve")
