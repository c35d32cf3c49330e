"""States of optimizers under jit, scan and vmap, with all dtypes and trees; optimizers that are looked up by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.optimizer_table import assert_same, config_id, example, named, run, some
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

# The state: learning rate, averages, scales.


def test_setting_the_learning_rate_does_not_recompile():
    params, grads = example(4)
    optimizer = optimizers.SGD(0.1)
    state = jax.device_put(optimizer.init(params), jax.devices()[0])
    # An ahead-of-time compiled program rejects other dtypes, shapes and shardings.
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
def test_learning_rates_of_wrapped_optimizers_can_be_read_and_set(make):
    state = make(0.5).init({"w": jnp.ones(2)})
    assert float(get_learning_rate(state)) == 0.5
    changed = set_learning_rate(state, 0.25)
    assert float(get_learning_rate(changed)) == 0.25
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert [x.aval for x in jax.tree.leaves(changed)] == [x.aval for x in jax.tree.leaves(state)]
    state = make(lambda step: 0.5 * 0.5**step).init({"w": jnp.ones(2)})
    assert float(get_learning_rate(state)) == 0.5
    message = (
        "The learning rate can only be set if it is a number, got a schedule; create the optimizer with a number as "
        "learning rate."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        set_learning_rate(state, 0.1)


def test_schedules_are_evaluated_at_0_based_steps():
    params = {"w": jnp.zeros(1)}
    optimizer = optimizers.SGD(schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125]))
    got, state = run(optimizer, params, [{"w": jnp.ones(1)}] * 2)
    assert [float(p["w"][0]) for p in got] == [-0.5, -0.75]
    assert float(get_learning_rate(state)) == 0.125


def test_stacked_states_have_separate_learning_rates():
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


def test_averages_without_overwriting_do_not_change_the_weights():
    params, grads = example(4)
    got, state = run(optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5), params, grads)
    plain, _ = run(optimizers.Adam(0.1), params, grads)
    assert_same(got, [named(p) for p in plain], rtol=0, atol=0)
    a = [p["conv"] for p in plain]
    np.testing.assert_allclose(
        ema_weights(state)["conv"], 0.125 * a[0] + 0.125 * a[1] + 0.25 * a[2] + 0.5 * a[3], rtol=1e-5, atol=1e-6
    )


def test_averages_of_several_optimizers_are_merged():
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
        "The optimizer state must hold an average of every weight, but some averages are missing; create the "
        "optimizer with use_ema=True, or pass `params` to replace missing averages."
    )
    for partial in (state, optimizers.SGD().init(params)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            ema_weights(partial)
    assert ema_weights(optimizers.SGD().init(params), params) is params


def test_a_scaled_loss_does_not_change_the_step():
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


def test_accumulation_applies_the_rule_only_at_the_last_micro_step():
    params, (g,) = example(1)
    optimizer = optimizers.Adam(gradient_accumulation_steps=4)
    jaxpr = jax.make_jaxpr(optimizer.update)(g, optimizer.init(params), params).jaxpr
    outside = {eqn.primitive.name for eqn in jaxpr.eqns}
    assert "cond" in outside and not outside & {"sqrt", "pow", "div"}


def test_states_can_be_restored_from_their_leaves():
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


def test_parameters_may_be_lists_empty_trees_and_arrays():
    optimizer = optimizers.SGD(0.5, global_clipnorm=100.0, momentum=0.5)
    for params in ([jnp.ones(2), (jnp.ones(1),)], jnp.ones(2), {}, {"a": {}}):
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert all((u == -0.5).all() for u in jax.tree.leaves(updates))
        optimizer.update(params, state, params)


def test_name_is_the_scope_of_the_compiled_operations():
    params, (g,) = example(1)
    for optimizer, name in ((optimizers.Adam(), "adam"), (optimizers.Adam(name="mine"), "mine")):
        lowered = jax.jit(optimizer.update).lower(g, optimizer.init(params), params)
        assert f"/{name}/" in lowered.as_text(debug_info=True)


def test_ftrl_sets_weights_to_exactly_0():
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
def test_get_returns_optimizers_with_default_arguments(name):
    params, grads = example(2)
    factory = optimizers.OPTIMIZERS[name]
    want, _ = run(factory(), params, grads)
    for spelling in (name, factory.__name__):
        got, state = run(optimizers.get(spelling), params, grads)
        assert isinstance(state, OptimizerState)
        assert_same(got, [named(w) for w in want], rtol=0, atol=0)


def test_every_optimizer_of_optax_has_a_name():
    from training.optimizers.names import OPTAX

    made = {name for name, f in vars(optax).items() if getattr(f, "__module__", "") == optax.adam.__module__}
    assert {f"optax.{name}" for name in made - {"optimistic_adam"}} <= set(OPTAX)  # discouraged by optax


def test_a_function_of_gradients_and_parameters_is_an_optimizer():
    params, grads = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}

    def half_way_down(grads, params):
        return jax.tree.map(lambda g, p: -0.5 * g - 0.25 * p, grads, params)

    (got,), _ = run(optimizers.get(half_way_down), params, [grads])
    np.testing.assert_allclose(got["w"], [1 - 1.5 - 0.25, 2 - 2.0 - 0.5])


def test_get_returns_transformations_unchanged():
    optimizer = optax.sgd(0.1)
    assert optimizers.get(optimizer) is optimizer


def test_optimizers_of_optax_have_a_learning_rate_that_can_be_set():
    from training.optimizers.names import OPTAX, OPTAX_LINE_SEARCH

    params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    for name in set(OPTAX) - set(OPTAX_LINE_SEARCH):
        optimizer = optimizers.get(name)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            state = optimizer.init(params)
            assert float(get_learning_rate(state)) == np.float32(1e-3), name
            state = set_learning_rate(state, 0.5)
            updates, state = optimizer.update({"w": jnp.ones((2, 2))}, state, params)
        assert float(get_learning_rate(state)) == 0.5, name
        assert jnp.isfinite(updates["w"]).all(), name
    with jax.numpy_dtype_promotion("standard"):
        (want,), _ = run(optax.adabelief(1e-3), params, [params])
        (got,), _ = run(optimizers.get("optax.adabelief"), params, [params])
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-6)
