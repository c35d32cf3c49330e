"""Compares optimizers with Keras and with float64 loops of the formulas; checks error messages."""

import inspect
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from tests.support.optimizer_table import (
    FIRST_ROWS,
    OPTIONS,
    ROWS,
    assert_same,
    config_id,
    example,
    named,
    run,
    run_keras,
    some,
)
from training import optimizers, schedules
from training.optimizers import (
    LossScaleOptimizer,
    by_path,
    ema_weights,
    get_learning_rate,
    scale_loss,
    set_learning_rate,
)

# Live Keras.


@pytest.mark.parametrize(("name", "config"), ROWS, ids=config_id)
def test_equals_keras(name, config):
    params, grads = example(15)
    got, _ = run(getattr(optimizers, name)(**config), params, grads)
    assert_same(got, run_keras(getattr(keras.optimizers, name)(**config), params, grads))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("name", "config"), FIRST_ROWS, ids=config_id)
def test_equals_keras_with_common_arguments(name, config, option):
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
def test_equals_keras_for_gradients_that_are_not_finite(option, value):
    params, grads = example(2)
    grads[1]["dense"]["kernel"] = grads[1]["dense"]["kernel"].at[0, 0].set(value)
    got, _ = run(optimizers.SGD(0.1, **option), params, grads)
    assert_same(got, run_keras(keras.optimizers.SGD(0.1, **option), params, grads))


@pytest.mark.parametrize(("name", "config"), FIRST_ROWS, ids=config_id)
def test_equals_keras_for_zero_gradients_and_weights(name, config):
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
def test_argument_order_and_defaults_match_keras(name):
    theirs = inspect.signature(getattr(keras.optimizers, name)).parameters.values()
    ours = inspect.signature(getattr(optimizers, name)).parameters.values()
    want = [(p.name, p.default) for p in theirs if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.default) for p in ours if p.name != "exclude_from_weight_decay"] == want


def test_every_optimizer_of_keras_has_a_name_and_a_row():
    from keras.src.optimizers import ALL_OBJECTS_DICT

    not_by_name = {"optimizer", "multioptimizer", "optimizermap", "lossscaleoptimizer"}
    assert set(optimizers.OPTIMIZERS) == set(ALL_OBJECTS_DICT) - not_by_name | {"lamb"}
    assert {name.lower() for name, _ in ROWS} == set(optimizers.OPTIMIZERS)


# Loops in float64. epsilon is large, so that its position in the formula matters.


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
def test_equals_a_float64_loop_with_a_changing_learning_rate(make, loop, config):
    random = np.random.default_rng(1)
    w, gs = random.normal(size=(3, 2)), random.normal(size=(30, 3, 2)) * 0.03
    rates = 0.1 / (1.0 + np.arange(30))
    schedule = schedules.InverseTimeDecay(0.1, decay_steps=1, decay_rate=1.0)
    got, _ = run(make(schedule, **config), {"w": jnp.asarray(w, jnp.float32)}, [{"w": g} for g in jnp.float32(gs)])
    want = list(loop(w, gs, rates, **config))
    np.testing.assert_allclose([p["w"] for p in got], want, rtol=1e-5, atol=1e-6)


def test_mixed_float64_and_float32_parameters():
    with jax.enable_x64(True):
        w, g = np.array([1.0, -2.0]), np.array([0.3, 0.1])
        params, grads = {"a": jnp.asarray(w), "b": jnp.float32(w)}, {"a": jnp.asarray(g), "b": jnp.float32(g)}
        optimizer = optimizers.Nadam(0.5, epsilon=1e-3, global_clipnorm=9.0, weight_decay=0.0, use_ema=True)
        got, _ = run(optimizer, params, [grads] * 3)
        want = list(nadam(w, [g] * 3, [0.5] * 3, 0.9, 0.999, 1e-3))[-1]
        assert got[-1]["a"].dtype == jnp.float64 and got[-1]["b"].dtype == jnp.float32
        np.testing.assert_allclose(got[-1]["a"], want, rtol=1e-12)
        np.testing.assert_allclose(got[-1]["b"], want, rtol=1e-5)


def test_accumulation_steps_with_the_mean_of_the_gradients():
    params, grads = example(6)
    got, _ = run(optimizers.Adam(0.1, gradient_accumulation_steps=3, clipnorm=0.5), params, grads)
    means = [jax.tree.map(lambda *g: sum(g) / 3, *grads[i : i + 3]) for i in (0, 3)]
    want, _ = run(optimizers.Adam(0.1, clipnorm=0.5), params, means)
    for step in (0, 1):
        assert_same(got[step : step + 1], [named(params)], rtol=0, atol=0)
    assert_same([got[2], got[5]], [named(w) for w in want])


# Errors, each in full.

KNOWN = ", ".join(repr(name) for name in sorted(optimizers.OPTIMIZERS))
INIT = {"a": jnp.ones(1), "b": {"c": jnp.ones(1)}}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: optimizers.SGD(clipnorm=1.0, clipvalue=2.0),
            ValueError,
            "At most one of `clipnorm`, `clipvalue` and `global_clipnorm` is allowed, got clipnorm=1.0, clipvalue=2.0.",
        ),
        (
            lambda: optimizers.SGD(clipnorm=0.0),
            ValueError,
            "`clipnorm` must be a number greater than 0, got 0.0.",
        ),
        (
            lambda: optimizers.SGD(clipvalue=-1.0),
            ValueError,
            "`clipvalue` must be a number greater than 0, got -1.0.",
        ),
        (
            lambda: optimizers.SGD(global_clipnorm=float("nan")),
            ValueError,
            "`global_clipnorm` must be a number greater than 0, got nan.",
        ),
        (
            lambda: optimizers.SGD(loss_scale_factor=0),
            ValueError,
            "`loss_scale_factor` must be a number greater than 0, got 0.",
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
            "exclude_from_weight_decay: '(' must be a valid regular expression, got the error: "
            "missing ), unterminated subpattern at position 0.",
        ),
        (
            lambda: optimizers.SGD(gradient_accumulation_steps=1),
            ValueError,
            "`gradient_accumulation_steps` must be None or an integer of at least 2, got 1.",
        ),
        (
            lambda: optimizers.SGD(gradient_accumulation_steps=2.5),
            ValueError,
            "`gradient_accumulation_steps` must be None or an integer of at least 2, got 2.5.",
        ),
        (
            lambda: optimizers.SGD(ema_momentum=1.5),
            ValueError,
            "`ema_momentum` must be a number of at least 0 and at most 1, got 1.5.",
        ),
        (
            lambda: optimizers.SGD(use_ema=True, ema_overwrite_frequency=0),
            ValueError,
            "`ema_overwrite_frequency` must be None or an integer of at least 1, got 0.",
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
            "to set an array, call set_learning_rate(opt_state, array).",
        ),
        (
            lambda: optimizers.SGD(jnp.float32(0.5)),
            TypeError,
            "`learning_rate` must be a number or a function of the step, got Array(0.5, dtype=float32); "
            "to set an array, call set_learning_rate(opt_state, array).",
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
            "`beta_1` must be a number greater than 0 and at most 1, got 0.0.",
        ),
        (
            lambda: optimizers.ScheduleFreeAdamW(beta_1=0.0),
            ValueError,
            "`beta_1` must be a number greater than 0 and at most 1, got 0.0.",
        ),
        (
            lambda: optimizers.ScheduleFreeAdamW(warmup_steps=-1),
            ValueError,
            "`warmup_steps` must be None or an integer of at least 0, got -1.",
        ),
        (
            lambda: optimizers.Ftrl(learning_rate_power=0.5),
            ValueError,
            "`learning_rate_power` must be a number of at least -inf and at most 0, got 0.5.",
        ),
        (
            lambda: optimizers.Adafactor(clip_threshold=0.0),
            ValueError,
            "`clip_threshold` must be a number greater than 0, got 0.0.",
        ),
        (
            lambda: optimizers.Muon(ns_steps=0),
            ValueError,
            "`ns_steps` must be None or an integer of at least 1, got 0.",
        ),
        (
            lambda: optimizers.Muon(exclude_layers="["),
            ValueError,
            "exclude_layers: '[' must be a valid regular expression, got the error: unterminated character set at position 0.",
        ),
        (
            lambda: LossScaleOptimizer("sgd", initial_scale=0.0),
            ValueError,
            "`initial_scale` must be a number greater than 0, got 0.0.",
        ),
        (
            lambda: LossScaleOptimizer("sgd", dynamic_growth_steps=0),
            ValueError,
            "`dynamic_growth_steps` must be None or an integer of at least 1, got 0.",
        ),
        (
            lambda: LossScaleOptimizer(optimizers.SGD(loss_scale_factor=2.0)).init(INIT),
            ValueError,
            "The inner optimizer of LossScaleOptimizer must not scale the loss, got one with a loss scale; "
            "make it without `loss_scale_factor`.",
        ),
        (
            lambda: by_path({"a": optimizers.SGD(loss_scale_factor=2.0)}, "sgd").init(INIT),
            ValueError,
            "by_path needs optimizers that do not scale the loss, got one with a loss scale; wrap by_path in a LossScaleOptimizer instead.",
        ),
        (
            lambda: by_path({"*": "adam"}, "sgd"),
            ValueError,
            "by_path: '*' must be a valid regular expression, got the error: nothing to repeat at position 0.",
        ),
        (
            lambda: by_path({"d": "adam"}, "sgd").init(INIT),
            ValueError,
            "by_path needs patterns that match a parameter, got 'd'; there are 'a', 'b/c'.",
        ),
        (
            lambda: by_path({"b.*": "adam", ".*c": "adam"}, "sgd").init(INIT),
            ValueError,
            "by_path needs at most one pattern per parameter, got ['b.*', '.*c'] for 'b/c'; make one more specific.",
        ),
        (
            lambda: get_learning_rate(by_path({"a": "adam"}, "sgd").init(INIT)),
            ValueError,
            "The state must hold one learning rate, got 2; "
            "pass a part of the state, such as opt_state.inner_states[pattern] of by_path.",
        ),
        (
            lambda: get_learning_rate(optax.adam(0.1).init(INIT)),
            ValueError,
            "The state must hold one learning rate, got none; use an optimizer of training.optimizers, "
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
            "A new learning rate must be a number or an array, got 'slow'.",
        ),
        (
            lambda: set_learning_rate(optimizers.SGD().init(INIT), jnp.ones(3)),
            ValueError,
            "A new learning rate must be a scalar or have shape (), got shape (3,).",
        ),
        (
            lambda: scale_loss([optimizers.SGD(loss_scale_factor=2.0).init(INIT)] * 2, jnp.float32(1.0)),
            ValueError,
            "The state must hold at most one loss scale, got 2; use one LossScaleOptimizer that wraps all optimizers.",
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
            "An optimizer must be a name, an optax transformation or a function (grads, params) -> updates, "
            f"got {optimizers.Adam!r}.",
        ),
    ],
)
def test_invalid_arguments_are_rejected(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


def test_unknown_names_of_optax_are_rejected():
    with pytest.raises(
        ValueError, match=r"^Unknown optimizer 'optax\.adabelieve'\. Did you mean 'optax\.adabelief'\? "
    ):
        optimizers.get("optax.adabelieve")
