"""Every activation against NumPy formulas in float64 and against Keras, values and gradients."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.activations import ALL_OBJECTS_DICT as KERAS_NAMES
from scipy.special import erf, expit, log_expit

from flaxmodels import activations
from flaxmodels.activations import ACTIVATIONS

# Zeros of both signs, the kinks of all functions, saturation, and values that overflow in float32.
HAND_PICKED = [-1e4, -100, -20, -6, -3, -2.5, -1, -0.8, -0.5, -0.3, -1e-6, -0.0]
HAND_PICKED += [0.0, 0.3, 0.5, 0.8, 1, 2, 3, 5, 6, 20, 100, 1e4]


def np_selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def np_softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def np_sparsemax(x, axis=-1):
    """Computes sparsemax with Keras' threshold, one vector at a time."""

    def one(v):
        total, tau, k = 0.0, -1.0, 0
        for j, z in enumerate(sorted(v, reverse=True), start=1):
            total += z
            if z > (total - 1) / j:
                tau, k = tau + total, k + 1
        return np.maximum(v - tau / k, 0)

    return np.apply_along_axis(one, axis, x)


def np_relu(x, negative_slope=0.0, max_value=np.inf, threshold=0.0):
    low = negative_slope * (x - threshold)
    return np.where(x >= max_value, max_value, np.where(x > threshold, x, low))


def np_glu(x, axis=-1):
    a, b = np.split(x, 2, axis)
    return a * expit(b)


# One line per activation: its formula, and the arguments to test beside the defaults.
TABLE = {
    "celu": (lambda x, alpha=1: np.where(x > 0, x, alpha * np.expm1(x / alpha)), [{"alpha": 0.5}]),
    "elu": (lambda x, alpha=1: np.where(x > 0, x, alpha * np.expm1(x)), [{"alpha": 0.5}]),
    "exponential": (np.exp, []),
    "gelu": (
        lambda x, approximate=False: (
            x / 2 * (1 + (np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)) if approximate else erf(x / 2**0.5)))
        ),
        [{"approximate": True}],
    ),
    "glu": (np_glu, [{"axis": 0}, {"axis": -2}]),
    "hard_shrink": (lambda x, threshold=0.5: x * (np.abs(x) > threshold), [{"threshold": 0.8}]),
    "hard_sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), []),
    "hard_silu": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), []),
    "hard_swish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), []),
    "hard_tanh": (lambda x: np.clip(x, -1, 1), []),
    "leaky_relu": (
        lambda x, negative_slope=0.2: np.where(x > 0, x, negative_slope * x),
        [{"negative_slope": 0.4}],
    ),
    "linear": (lambda x: x, []),
    "log_sigmoid": (log_expit, []),
    "log_softmax": (lambda x, axis=-1: np.log(np_softmax(x, axis)), [{"axis": 0}, {"axis": (0, 1)}]),
    "mish": (lambda x: x * np.tanh(np.logaddexp(x, 0)), []),
    "relu": (
        np_relu,
        [
            {"negative_slope": 0.5},
            {"max_value": 5.0},
            {"max_value": 6},
            {"threshold": 0.3},
            {"threshold": -0.5},
            {"negative_slope": 0.1, "max_value": 2.0},
            {"negative_slope": 0.1, "max_value": 6},
            {"threshold": 0.3, "max_value": 6},
            {"negative_slope": 0.1, "max_value": 2.0, "threshold": 0.3},
        ],
    ),
    "relu6": (lambda x: np.clip(x, 0, 6), []),
    "selu": (np_selu, []),
    "sigmoid": (expit, []),
    "silu": (lambda x: x * expit(x), []),
    "soft_shrink": (
        lambda x, threshold=0.5: np.sign(x) * np.maximum(np.abs(x) - threshold, 0),
        [{"threshold": 0.8}],
    ),
    "softmax": (np_softmax, [{"axis": 0}, {"axis": (0, 1)}]),
    "softplus": (lambda x: np.logaddexp(x, 0), []),
    "softsign": (lambda x: x / (1 + np.abs(x)), []),
    "sparse_plus": (lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)), []),
    "sparse_sigmoid": (lambda x: np.clip((x + 1) / 2, 0, 1), []),
    "sparsemax": (np_sparsemax, [{"axis": 0}]),
    "squareplus": (lambda x, b=4: (x + np.sqrt(x**2 + b)) / 2, [{"b": 1.0}]),
    "swish": (lambda x: x * expit(x), []),
    "tanh": (np.tanh, []),
    "tanh_shrink": (lambda x: x - np.tanh(x), []),
    "threshold": (
        lambda x, threshold, default_value: np.where(x > threshold, x, default_value),
        [{"threshold": 0.5, "default_value": -1.0}, {"threshold": 0, "default_value": 0}],
    ),
}
NO_DEFAULTS = {"threshold"}
CASES = [(n, k) for n, (_, more) in TABLE.items() for k in ([] if n in NO_DEFAULTS else [{}]) + more]
IDS = [n + "".join(f"-{k}={v}" for k, v in kwargs.items()) for n, kwargs in CASES]
WIDENED = {"softmax", "log_softmax", "sparsemax"}


def ours(name, kwargs):
    return functools.partial(getattr(activations, name), **kwargs)


def hand_picked(dtype=jnp.float32):
    return jnp.array(HAND_PICKED, dtype).reshape(4, 6)


def random_points(seed=0):
    return np.random.default_rng(seed).normal(0, 3, (4, 6)).astype(np.float32)


def value_and_gradient(f, x):
    """Returns f(x) and the gradient of a weighted sum of it."""
    out, pull = jax.vjp(f, x)
    weights = np.random.default_rng(1).normal(size=out.shape)
    return out, pull(jnp.asarray(weights, out.dtype))[0]


def keras_value_and_gradient(name, kwargs, x):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return value_and_gradient(functools.partial(keras.activations.get(name), **kwargs), x)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=IDS)
@pytest.mark.parametrize("points", [hand_picked, random_points])
def test_equals_keras(name, kwargs, points):
    """Compares our jitted function with Keras' eager function."""
    x = jnp.asarray(points())
    out, grad = jax.jit(lambda v: value_and_gradient(ours(name, kwargs), v))(x)
    keras_out, keras_grad = keras_value_and_gradient(name, kwargs, x)
    assert out.dtype == keras_out.dtype
    np.testing.assert_allclose(out, keras_out, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(grad, keras_grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=IDS)
def test_equals_formula(name, kwargs):
    x = random_points()
    out = ours(name, kwargs)(jnp.asarray(x))
    np.testing.assert_allclose(out, TABLE[name][0](x.astype(np.float64), **kwargs), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=IDS)
def test_gradient_equals_finite_difference(name, kwargs):
    x = random_points(2).astype(np.float64)
    f = TABLE[name][0]
    _, grad = value_and_gradient(ours(name, kwargs), jnp.asarray(x, jnp.float32))
    weights = np.random.default_rng(1).normal(size=f(x, **kwargs).shape)
    expected = np.empty_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-5
        expected[i] = np.sum(weights * (f(x + step, **kwargs) - f(x - step, **kwargs))) / 2e-5
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=IDS)
def test_bfloat16(name, kwargs):
    """Elementwise functions equal Keras bit for bit; functions that sum over an axis equal the rounded float32 result."""
    x = hand_picked(jnp.bfloat16)
    out, grad = value_and_gradient(ours(name, kwargs), x)
    assert out.dtype == grad.dtype == jnp.bfloat16
    if name in WIDENED:
        wide = ours(name, kwargs)(x.astype(jnp.float32))
        np.testing.assert_array_equal(out, wide.astype(jnp.bfloat16))
    else:
        keras_out, keras_grad = keras_value_and_gradient(name, kwargs, x)
        np.testing.assert_array_equal(out, keras_out)
        np.testing.assert_array_equal(grad, keras_grad)


@pytest.mark.parametrize("name", sorted(WIDENED))
def test_float16(name):
    x = random_points()
    out = ours(name, {})(jnp.asarray(x, jnp.float16))
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out, ours(name, {})(jnp.asarray(x)), rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("name", sorted(WIDENED))
def test_integers_give_float32(name):
    x = jnp.array([[3, 1, 1], [0, 0, 5]])
    out = getattr(activations, name)(x)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, getattr(activations, name)(x.astype(jnp.float32)))


def test_narrow_softmax_of_many_classes_sums_to_one():
    x = jnp.zeros((1, 4096), jnp.bfloat16)
    np.testing.assert_array_equal(activations.softmax(x), jnp.full((1, 4096), 1 / 4096, jnp.bfloat16))
    assert float(activations.log_softmax(x)[0, 0]) == pytest.approx(-np.log(4096), rel=2**-8)


def test_sparsemax_by_hand():
    """For k = 1, tau is as in the paper. For k = 2, it is (1 + 1.9 - 1) / 2 as in Keras, not (1.9 - 1) / 2."""
    out = activations.sparsemax(jnp.array([[2.0, 0.5], [1.0, 0.9]]))
    np.testing.assert_allclose(out, [[1.0, 0.0], [0.05, 0.0]], rtol=0, atol=1e-6)


# --- names


def test_names_equal_those_of_keras():
    assert set(KERAS_NAMES) <= set(ACTIVATIONS)
    assert set(ACTIVATIONS) == set(TABLE)
    public = {n for n in dir(keras.activations) if not n.startswith("_")}
    # Keras' configuration dictionaries are not accepted.
    assert public - {"serialize", "deserialize"} <= set(dir(activations))


@pytest.mark.parametrize("name", sorted(KERAS_NAMES))
def test_each_name_refers_to_keras_function(name):
    ours, theirs = activations.get(name), keras.activations.get(name)
    assert ours.__name__ == theirs.__name__
    assert ours is getattr(activations, name)
    arguments = [[(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (ours, theirs)]
    assert arguments[0] == arguments[1]


def test_get():
    assert activations.get(None) is activations.linear
    assert activations.get(jnp.sin) is jnp.sin
    assert activations.get("swish") is activations.silu


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: activations.get("rleu"),
            ValueError,
            "Unknown activation 'rleu'. Did you mean 'relu'? Known: "
            + ", ".join(repr(n) for n in sorted(TABLE))
            + ". Or pass a function x -> y.",
        ),
        (
            lambda: activations.get(3),
            TypeError,
            'An activation must be a name, a function or None, got 3; pass a name such as "relu".',
        ),
        (
            lambda: activations.glu(jnp.zeros((2, 3))),
            ValueError,
            "glu splits x in half along `axis`=-1, whose size must be even, got x of shape (2, 3); "
            "choose another axis or an even number of units.",
        ),
    ],
)
def test_errors(call, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        call()
