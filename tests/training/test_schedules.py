"""Compares schedules with Keras, optax and hand-computed values."""

import inspect
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from training import schedules

STEPS = list(range(0, 45))
KERAS = [
    ("ExponentialDecay", dict(initial_learning_rate=0.1, decay_steps=7, decay_rate=0.6)),
    ("ExponentialDecay", dict(initial_learning_rate=0.1, decay_steps=7, decay_rate=0.6, staircase=True)),
    ("InverseTimeDecay", dict(initial_learning_rate=0.1, decay_steps=7, decay_rate=0.6)),
    ("InverseTimeDecay", dict(initial_learning_rate=0.1, decay_steps=7, decay_rate=0.6, staircase=True)),
    ("PiecewiseConstantDecay", dict(boundaries=[3], values=[0.1, 0.2])),
    ("PiecewiseConstantDecay", dict(boundaries=[3, 8, 20], values=[0.1, 0.2, 0.05, 1e-3])),
    ("PiecewiseConstantDecay", dict(boundaries=[2.5, 8.9], values=[0.1, 0.2, 0.05])),
    ("PolynomialDecay", dict(initial_learning_rate=0.1, decay_steps=10)),
    ("PolynomialDecay", dict(initial_learning_rate=0.1, decay_steps=10, end_learning_rate=0.2, power=2.0)),
    ("PolynomialDecay", dict(initial_learning_rate=0.1, decay_steps=10, power=0.5, cycle=True)),
    ("CosineDecay", dict(initial_learning_rate=0.1, decay_steps=30)),
    ("CosineDecay", dict(initial_learning_rate=0.1, decay_steps=20, alpha=0.2)),
    ("CosineDecay", dict(initial_learning_rate=0.01, decay_steps=20, warmup_target=0.1, warmup_steps=7)),
    (
        "CosineDecay",
        dict(initial_learning_rate=0.2, decay_steps=20, alpha=0.1, warmup_target=0.1, warmup_steps=0),
    ),
    ("CosineDecayRestarts", dict(initial_learning_rate=0.1, first_decay_steps=6)),
    ("CosineDecayRestarts", dict(initial_learning_rate=0.1, first_decay_steps=7, t_mul=1.5, m_mul=0.5)),
    (
        "CosineDecayRestarts",
        dict(initial_learning_rate=0.1, first_decay_steps=6, t_mul=1.0, m_mul=0.8, alpha=0.1),
    ),
]


@pytest.mark.parametrize(("name", "config"), KERAS)
def test_equals_keras(name, config):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = getattr(keras.optimizers.schedules, name)(**config)
        want = np.array([float(theirs(step)) for step in STEPS])
    ours = schedules.get(name)(**config)
    got = np.array([float(ours(step)) for step in STEPS])
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *KERAS,
        ("LinearWarmup", dict(schedule=0.1, warmup_steps=5)),
        ("OneCycle", dict(peak_learning_rate=0.1, total_steps=30)),
    ],
)
def test_jit_vmap_and_scan_return_the_same_float32_scalars(name, config):
    schedule = schedules.get(name)(**config)
    steps = jnp.array([0, 1, 4, 5, 17, 44], jnp.int32)
    want = [schedule(int(s)) for s in steps]
    assert all(w.shape == () and w.dtype == jnp.float32 for w in want)
    np.testing.assert_allclose(jax.vmap(schedule)(steps), want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose([jax.jit(schedule)(s) for s in steps], want, rtol=1e-5, atol=1e-8)
    scanned = jax.lax.scan(lambda c, s: (c, schedule(s)), None, steps)[1]
    np.testing.assert_allclose(scanned, want, rtol=1e-5, atol=1e-8)


def test_argument_names_and_defaults_match_keras():
    for name in {name for name, _ in KERAS}:
        theirs = inspect.signature(getattr(keras.optimizers.schedules, name)).parameters.values()
        ours = inspect.signature(schedules.get(name)).parameters.values()
        assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs], name


def test_linear_warmup_of_a_number_and_of_a_schedule():
    warmup = schedules.LinearWarmup(0.8, warmup_steps=4, initial_learning_rate=0.4)
    np.testing.assert_allclose([warmup(s) for s in range(7)], [0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8], rtol=1e-6)
    decay = schedules.PolynomialDecay(1.0, decay_steps=4, end_learning_rate=0.0)
    warmup = schedules.LinearWarmup(decay, warmup_steps=2)
    np.testing.assert_allclose([warmup(s) for s in range(7)], [0, 0.5, 1, 0.75, 0.5, 0.25, 0], rtol=1e-6)


def test_linear_warmup_follows_a_schedule_of_optax():
    warmup = schedules.LinearWarmup(optax.linear_schedule(1.0, 0.0, 4), warmup_steps=2)
    np.testing.assert_allclose([warmup(s) for s in range(7)], [0, 0.5, 1, 0.75, 0.5, 0.25, 0], rtol=1e-6)


def test_one_cycle_matches_hand_computed_values():
    cycle = schedules.OneCycle(1.0, total_steps=4, warmup_fraction=0.5, div_factor=2.0, final_div_factor=5.0)
    np.testing.assert_allclose([cycle(s) for s in range(6)], [0.5, 0.75, 1.0, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("config", [{}, dict(warmup_fraction=0.45, div_factor=10.0, final_div_factor=100.0)])
def test_one_cycle_equals_optax(config):
    ours = schedules.OneCycle(0.3, total_steps=40, **config)
    names = {"warmup_fraction": "pct_start"}
    theirs = optax.cosine_onecycle_schedule(40, 0.3, **{names.get(k, k): v for k, v in config.items()})
    with jax.numpy_dtype_promotion("standard"):
        want = [theirs(s) for s in STEPS]
    np.testing.assert_allclose([ours(s) for s in STEPS], want, rtol=2e-5, atol=1e-8)


def test_one_cycle_without_warmup_starts_at_the_peak():
    assert float(schedules.OneCycle(0.5, total_steps=3, warmup_fraction=0.3)(0)) == 0.5


def test_get_and_its_errors():
    assert schedules.get("CosineDecay") is schedules.CosineDecay
    assert schedules.get(schedules.CosineDecay) is schedules.CosineDecay
    message = (
        "Unknown schedule 'CosineDecoy'. Did you mean 'CosineDecay'? Known: 'CosineDecay', "
        "'CosineDecayRestarts', 'ExponentialDecay', 'InverseTimeDecay', 'LinearWarmup', 'OneCycle', "
        "'PiecewiseConstantDecay', "
        "'PolynomialDecay'. Or pass a function of the step."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schedules.get("CosineDecoy")
    with pytest.raises(
        TypeError, match=f"^{re.escape('A schedule must be a name or a function of the step, got 3.')}$"
    ):
        schedules.get(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: schedules.ExponentialDecay(0.1, 0, 0.5),
            "ExponentialDecay: `decay_steps` must be positive, got 0.",
        ),
        (
            lambda: schedules.InverseTimeDecay(0.1, -1, 0.5),
            "InverseTimeDecay: `decay_steps` must be positive, got -1.",
        ),
        (
            lambda: schedules.PolynomialDecay(0.1, 0),
            "PolynomialDecay: `decay_steps` must be positive, got 0.",
        ),
        (lambda: schedules.CosineDecay(0.1, 0), "CosineDecay: `decay_steps` must be positive, got 0."),
        (
            lambda: schedules.CosineDecay(0.1, 5, warmup_steps=3),
            "CosineDecay: `warmup_steps`=3 needs a `warmup_target`, got None.",
        ),
        (
            lambda: schedules.CosineDecayRestarts(0.1, 0),
            "CosineDecayRestarts: `first_decay_steps` must be positive, got 0.",
        ),
        (
            lambda: schedules.CosineDecayRestarts(0.1, 5, t_mul=0.0),
            "CosineDecayRestarts: `t_mul` must be positive, got 0.0.",
        ),
        (
            lambda: schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2]),
            "PiecewiseConstantDecay: there must be at least one boundary and one value more than boundaries, "
            "got 2 boundaries and 2 values.",
        ),
        (
            lambda: schedules.PiecewiseConstantDecay([], [0.1]),
            "PiecewiseConstantDecay: there must be at least one boundary and one value more than boundaries, "
            "got 0 boundaries and 1 values.",
        ),
        (
            lambda: schedules.PiecewiseConstantDecay([2, 2], [0.1, 0.2, 0.3]),
            "PiecewiseConstantDecay: `boundaries` must increase, got (2, 2).",
        ),
        (lambda: schedules.LinearWarmup(0.1, 0), "LinearWarmup: `warmup_steps` must be positive, got 0."),
        (lambda: schedules.OneCycle(0.1, 0), "OneCycle: `total_steps` must be positive, got 0."),
        (
            lambda: schedules.OneCycle(0.1, 9, div_factor=0.0),
            "OneCycle: `div_factor` must be positive, got 0.0.",
        ),
        (
            lambda: schedules.OneCycle(0.1, 9, final_div_factor=-1.0),
            "OneCycle: `final_div_factor` must be positive, got -1.0.",
        ),
        (
            lambda: schedules.OneCycle(0.1, 9, warmup_fraction=1.0),
            "OneCycle: `warmup_fraction` must be at least 0 and less than 1, got 1.0.",
        ),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def by_hand(name, t, d):
    """Computes schedules that change at multiples of d at the integer step t, in float64; t // d is exact."""
    whole, rest = divmod(t, d)
    if name == "stairs":
        return 0.5**whole
    if name == "inverse stairs":
        return 1 / (1 + 0.5 * whole)
    if name == "root":
        return np.sqrt(1 - min(t, d) / d)
    if name == "root again and again":
        return np.sqrt(1 - t / (d * max(1, -(-t // d))))
    length = d
    if name == "restarts":
        return 0.5**whole * 0.5 * (1 + np.cos(np.pi * rest / d))
    whole = 0
    while t >= length:  # each cycle is twice as long as the previous one
        t, length, whole = t - length, 2 * length, whole + 1
    return 0.5**whole * 0.5 * (1 + np.cos(np.pi * t / length))


AT_MULTIPLES = {
    "stairs": lambda d: schedules.ExponentialDecay(1.0, d, 0.5, staircase=True),
    "inverse stairs": lambda d: schedules.InverseTimeDecay(1.0, d, 0.5, staircase=True),
    "root": lambda d: schedules.PolynomialDecay(1.0, d, 0.0, power=0.5),
    "root again and again": lambda d: schedules.PolynomialDecay(1.0, d, 0.0, power=0.5, cycle=True),
    "restarts": lambda d: schedules.CosineDecayRestarts(1.0, d, t_mul=1.0, m_mul=0.5),
    "longer restarts": lambda d: schedules.CosineDecayRestarts(1.0, d, t_mul=2.0, m_mul=0.5),
}


@pytest.mark.parametrize("name", AT_MULTIPLES)
def test_compiled_schedules_change_exactly_at_multiples(name):
    """XLA divides by a constant by multiplying with its reciprocal: 41 / 41 is less than 1, and 1 - 5 / 5 less than 0."""
    for d in (5, 7, 41, 61, 98, 107):
        t = np.arange(12 * d + 1)
        schedule = AT_MULTIPLES[name](d)
        found = jax.jit(jax.vmap(schedule))(t.astype("int32"))
        np.testing.assert_allclose(found, [by_hand(name, int(i), d) for i in t], rtol=1e-4, atol=1e-6)
        alone = jax.jit(schedule)
        for i in (d - 1, d, d + 1, 3 * d):
            np.testing.assert_allclose(alone(np.int32(i)), by_hand(name, i, d), rtol=1e-4, atol=1e-6)
