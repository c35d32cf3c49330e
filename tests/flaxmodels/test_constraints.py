"""Every constraint, compared with NumPy loops and Keras: values and gradients."""

import dataclasses
import inspect
import math
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.constraints import ALL_OBJECTS_DICT as KERAS_NAMES

from flaxmodels import constraints
from flaxmodels.constraints import CONSTRAINTS


def np_rescale(w, axis, new_norm):
    """Rescales every vector along `axis` to the norm new_norm(norm), one at a time."""
    axes = tuple(range(w.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    kept = [a for a in range(w.ndim) if a not in {x % w.ndim for x in axes}]
    out = np.array(w)
    for where in np.ndindex(*[w.shape[a] for a in kept]):
        index = [slice(None)] * w.ndim
        for a, i in zip(kept, where, strict=True):
            index[a] = i
        norm = math.sqrt(np.sum(w[tuple(index)] ** 2))
        out[tuple(index)] *= new_norm(norm) / (norm + 1e-7)
    return out


def np_min_max(w, min_value=0.0, max_value=1.0, rate=1.0, axis=0):
    return np_rescale(w, axis, lambda n: rate * min(max(n, min_value), max_value) + (1 - rate) * n)


# One line per class: its formula, and the arguments to test beside the defaults.
TABLE = {
    "Constraint": (lambda w: w, []),
    "MaxNorm": (
        lambda w, max_value=2, axis=0: np_rescale(w, axis, lambda n: min(n, max_value)),
        [{"max_value": 1.0}, {"max_value": 3, "axis": 1}, {"axis": [0, 1]}, {"axis": -1}, {"axis": None}],
    ),
    "MinMaxNorm": (
        np_min_max,
        [
            {"rate": 0.5},
            {"min_value": 0.5, "max_value": 2.0, "rate": 0.7, "axis": 1},
            {"max_value": 2.0, "axis": (0, 1, 2)},
            {"min_value": 2, "max_value": 3, "rate": 0},
        ],
    ),
    "NonNeg": (lambda w: np.maximum(w, 0), []),
    "UnitNorm": (lambda w, axis=0: np_rescale(w, axis, lambda n: 1.0), [{"axis": 1}, {"axis": (0, 2)}, {"axis": None}]),
}
CASES = [pytest.param(n, k, id=f"{n}-{k}") for n, (_, more) in TABLE.items() for k in [{}, *more]]


def weights():
    """Returns an array whose vectors along each axis have norms from 1e-6 to 100."""
    w = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    w[0] *= 30
    w[:, 1] *= 0.01
    w[:, :, 2] *= 1e-5
    w[..., 1] *= 0.03
    return w.astype(np.float32)


def value_and_gradient(f, w):
    out, pull = jax.vjp(f, w)
    return out, pull(jnp.asarray(np.random.default_rng(1).normal(size=out.shape), out.dtype))[0]


def in_keras(name, kwargs, w):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return value_and_gradient(getattr(keras.constraints, name)(**keras_arguments(kwargs)), jnp.asarray(w))


def keras_arguments(kwargs):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_equals_keras(name, kwargs):
    """Compares our jitted function with Keras' eager function."""
    w = weights()
    out, grad = jax.jit(lambda v: value_and_gradient(getattr(constraints, name)(**kwargs), v))(w)
    keras_out, keras_grad = in_keras(name, kwargs, w)
    assert out.dtype == keras_out.dtype
    np.testing.assert_allclose(out, keras_out, rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(grad, keras_grad, rtol=2e-5, atol=2e-6 * np.abs(keras_grad).max())


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_equals_formula(name, kwargs):
    w = weights()
    expected = TABLE[name][0](w.astype(np.float64), **kwargs)
    np.testing.assert_allclose(getattr(constraints, name)(**kwargs)(jnp.asarray(w)), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", sorted(TABLE))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_computed_in_float32(name, dtype):
    f, w = getattr(constraints, name)(), jnp.asarray(weights()[0], dtype)
    out, grad = value_and_gradient(f, w)
    assert out.dtype == grad.dtype == dtype
    np.testing.assert_array_equal(out, f(w.astype(jnp.float32)).astype(dtype))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_bfloat16_agrees_with_keras(name):
    """The tolerance allows for bfloat16, in which Keras computes."""
    w = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)), jnp.bfloat16)
    keras_out, _ = in_keras(name, {}, w)
    out = getattr(constraints, name)()(w)
    np.testing.assert_allclose(out.astype(jnp.float32), keras_out.astype(jnp.float32), rtol=2**-5)


def test_gradient_at_zero_is_finite():
    """At 0, UnitNorm has slope 1e7, NonNeg one half, the mean of both sides, and the others 0."""
    w = jnp.array([[0.0, 3.0], [0.0, 4.0]])
    expected = {"MaxNorm": 0.0, "MinMaxNorm": 0.0, "UnitNorm": 1e7, "NonNeg": 0.5, "Constraint": 1.0}
    assert set(expected) == set(TABLE)
    for name, slope in expected.items():
        _, pull = jax.vjp(getattr(constraints, name)(), w)
        (grad,) = pull(jnp.ones_like(w))
        np.testing.assert_allclose(grad[:, 0], [slope, slope], rtol=1e-6)
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("name", ["MaxNorm", "MinMaxNorm", "UnitNorm"])
def test_zeros_stay_zero(name):
    np.testing.assert_array_equal(getattr(constraints, name)()(jnp.zeros((3, 2))), np.zeros((3, 2)))


def test_by_hand():
    w = jnp.array([[3.0, 0.3], [-4.0, 0.4]])
    np.testing.assert_allclose(constraints.MaxNorm(1)(w), [[0.6, 0.3], [-0.8, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(constraints.UnitNorm()(w), [[0.6, 0.6], [-0.8, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(constraints.MinMaxNorm(1, 3, 0.5)(w), [[2.4, 0.45], [-3.2, 0.6]], rtol=1e-6)
    np.testing.assert_array_equal(constraints.NonNeg()(w), np.array([[3.0, 0.3], [0.0, 0.4]], np.float32))


# --- names and fields


def test_names_equal_those_of_keras():
    assert set(KERAS_NAMES) == set(CONSTRAINTS)
    assert {cls.__name__ for cls in CONSTRAINTS.values()} == set(TABLE)
    public = {n for n in dir(keras.constraints) if not n.startswith("_")}
    # Keras' configuration dictionaries are not accepted.
    assert public - {"serialize", "deserialize"} <= set(dir(constraints))


@pytest.mark.parametrize("name", sorted(KERAS_NAMES))
def test_each_name_refers_to_keras_function(name):
    ours, theirs = CONSTRAINTS[name], KERAS_NAMES[name]
    assert ours.__name__ == theirs.__name__
    assert isinstance(constraints.get(name), ours)
    if hasattr(keras.constraints, name):
        assert getattr(constraints, name) is ours
    arguments = [[(p.name, p.default) for p in inspect.signature(c).parameters.values()] for c in (ours, theirs)]
    assert arguments[0] == arguments[1]


@pytest.mark.parametrize(("name", "kwargs"), [c.values for c in CASES if c.values[0] != "Constraint"])
def test_fields_reproduce_an_equal_object(name, kwargs):
    f = getattr(constraints, name)(**kwargs)
    again = type(f)(**{field.name: getattr(f, field.name) for field in dataclasses.fields(f)})
    assert f == again and hash(f) == hash(again)
    assert f != constraints.MaxNorm(99.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        f.axis = 3


def test_equal_values_in_other_types_are_equal():
    assert constraints.MaxNorm(np.float32(2), [0, 1]) == constraints.MaxNorm(2, (0, 1)) != constraints.MaxNorm()


def test_get():
    assert constraints.get(None) is None
    assert constraints.get(constraints.NonNeg) == constraints.NonNeg()
    constraint = constraints.MaxNorm(3.0)
    assert constraints.get(constraint) is constraint
    assert constraints.get(jnp.abs) is jnp.abs


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: constraints.get("maxnorm"),
            ValueError,
            "Unknown constraint 'maxnorm'. Did you mean 'max_norm'? Known: "
            + ", ".join(repr(n) for n in sorted(CONSTRAINTS))
            + ". Or pass a function w -> w.",
        ),
        (
            lambda: constraints.get(2),
            TypeError,
            'A constraint must be a name, a function or None, got 2; pass a name such as "max_norm".',
        ),
        (
            lambda: constraints.MaxNorm(-1),
            ValueError,
            "`max_value` of MaxNorm must be a number that is not negative, got -1; use 0 or more.",
        ),
        (
            lambda: constraints.MinMaxNorm(min_value="0"),
            ValueError,
            "`min_value` of MinMaxNorm must be a number that is not negative, got '0'; use 0 or more.",
        ),
        (
            lambda: constraints.MinMaxNorm(2, 1),
            ValueError,
            "`min_value`=2.0 of MinMaxNorm must not exceed `max_value`=1.0; swap them.",
        ),
        (
            lambda: constraints.MinMaxNorm(rate=1.5),
            ValueError,
            "`rate` of MinMaxNorm must be in [0, 1], got 1.5; use 1 for the full correction.",
        ),
    ],
)
def test_errors(call, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        call()
