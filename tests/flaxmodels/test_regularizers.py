"""Every regularizer, compared with hand-computed values, NumPy loops and Keras: values and gradients."""

import dataclasses
import inspect
import itertools
import math
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.regularizers import ALL_OBJECTS_DICT as KERAS_NAMES

from flaxmodels import regularizers
from flaxmodels.regularizers import REGULARIZERS


def np_orthogonal(w, factor=0.01, mode="rows"):
    rows = w if mode == "rows" else w.T
    cosines = [abs(a @ b) / math.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(rows, 2)]
    return factor * np.mean(cosines)


# One line per class: its formula, and the arguments to test beside the defaults.
TABLE = {
    "L1": (lambda w, l1=0.01: l1 * np.abs(w).sum(), [{"l1": 0.3}, {"l1": 0}, {"l1": None}]),
    "L1L2": (
        lambda w, l1=0.0, l2=0.0: l1 * np.abs(w).sum() + l2 * (w * w).sum(),
        [{"l1": 0.1, "l2": 0.2}, {"l1": 0.1}, {"l2": 2}, {"l1": None, "l2": None}],
    ),
    "L2": (lambda w, l2=0.01: l2 * (w * w).sum(), [{"l2": 0.3}, {"l2": 0}, {"l2": None}]),
    "OrthogonalRegularizer": (np_orthogonal, [{"factor": 0.5, "mode": "columns"}, {"factor": 0}]),
    "Regularizer": (lambda w: 0.0, []),
}
CASES = [pytest.param(n, k, id=f"{n}-{k}") for n, (_, more) in TABLE.items() for k in [{}, *more]]


def weights(dtype=np.float32):
    """Returns values of both signs, with zeros and magnitudes from 1e-6 to 1e4."""
    w = np.random.default_rng(0).normal(size=(5, 4))
    w[0, 1], w[1, 1], w[2, 2], w[3, 0] = 0.0, -1e-6, 1e4, -0.0
    return w.astype(dtype)


def value_and_grad_in_keras(name, kwargs, w):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        f = getattr(keras.regularizers, name)(**kwargs)
        return jax.value_and_grad(lambda v: jnp.asarray(f(v), v.dtype))(jnp.asarray(w))


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_equals_keras(name, kwargs):
    """Compares our jitted function with Keras' eager function."""
    value, grad = jax.jit(jax.value_and_grad(getattr(regularizers, name)(**kwargs)))(weights())
    keras_value, keras_grad = value_and_grad_in_keras(name, kwargs, weights())
    assert value.shape == () and value.dtype == keras_value.dtype
    np.testing.assert_allclose(value, keras_value, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(grad, keras_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_equals_formula(name, kwargs):
    w = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    expected = TABLE[name][0](w.astype(np.float64), **{k: v for k, v in kwargs.items() if v is not None})
    np.testing.assert_allclose(getattr(regularizers, name)(**kwargs)(jnp.asarray(w)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(TABLE))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_summed_in_float32(name, dtype):
    f, w = getattr(regularizers, name)(), jnp.asarray(weights(), dtype)
    value, grad = jax.value_and_grad(f)(w)
    assert value.dtype == jnp.float32 and grad.dtype == dtype
    wide_value, wide_grad = jax.value_and_grad(f)(w.astype(jnp.float32))
    np.testing.assert_array_equal(value, wide_value)
    np.testing.assert_array_equal(grad, wide_grad.astype(dtype))


@pytest.mark.parametrize("name", ["L1", "L2", "OrthogonalRegularizer"])
def test_bfloat16_agrees_with_keras(name):
    """The tolerance allows for bfloat16, in which Keras sums."""
    w = np.random.default_rng(1).normal(size=(4, 6))
    w = jnp.asarray(w, jnp.bfloat16)
    keras_value, _ = value_and_grad_in_keras(name, {}, w)
    value = getattr(regularizers, name)()(w)
    np.testing.assert_allclose(value, keras_value.astype(jnp.float32), rtol=2**-5)


def test_large_float16_does_not_overflow():
    assert float(regularizers.L2(1e-6)(jnp.full((10,), 1000.0, jnp.float16))) == pytest.approx(10.0)


def test_integers_are_summed_in_float32():
    penalty = regularizers.L1(0.5)(jnp.array([-3, 2]))
    assert penalty.dtype == jnp.float32
    assert float(penalty) == 2.5


def test_by_hand():
    w = jnp.array([[3.0, -4.0], [0.0, 2.0]])
    assert float(regularizers.L1(0.5)(w)) == 4.5
    assert float(regularizers.L2(0.5)(w)) == 14.5
    assert float(regularizers.L1L2(0.5, 2.0)(w)) == 62.5
    # One pair of rows: |(3, -4) . (0, 2)| / (5 * 2); one pair of columns: |(3, 0) . (-4, 2)| / (3 sqrt(20)).
    assert float(regularizers.OrthogonalRegularizer(10.0)(w)) == pytest.approx(8.0)
    assert float(regularizers.OrthogonalRegularizer(1.0, "columns")(w)) == pytest.approx(12 / 3 / math.sqrt(20))


def test_zero_factor_ignores_infinite_weights():
    assert float(regularizers.L1L2(l2=0.5)(jnp.array([2.0]))) == 2.0
    assert float(regularizers.L1L2()(jnp.array([jnp.inf]))) == 0.0


def test_orthogonal_row_of_zeros_has_no_gradient():
    w = jnp.array([[0.0, 0.0], [3.0, 4.0], [4.0, 3.0]])
    value, grad = jax.value_and_grad(regularizers.OrthogonalRegularizer(3.0))(w)
    assert float(value) == pytest.approx(0.96)
    np.testing.assert_array_equal(grad[0], [0, 0])
    assert np.all(np.isfinite(grad))


def test_orthogonal_of_one_row_is_zero():
    value, grad = jax.value_and_grad(regularizers.OrthogonalRegularizer())(jnp.ones((1, 3)))
    assert float(value) == 0.0
    np.testing.assert_array_equal(grad, np.zeros((1, 3)))


# --- names and fields


def test_names_equal_those_of_keras():
    assert set(KERAS_NAMES) <= set(REGULARIZERS)
    assert {cls.__name__ for cls in REGULARIZERS.values()} == set(TABLE)
    public = {n for n in dir(keras.regularizers) if not n.startswith("_")}
    # Keras' configuration dictionaries are not accepted.
    assert public - {"serialize", "deserialize"} <= set(dir(regularizers))


@pytest.mark.parametrize("name", sorted(KERAS_NAMES))
def test_each_name_refers_to_keras_function(name):
    ours, theirs = REGULARIZERS[name], KERAS_NAMES[name]
    assert ours.__name__ == theirs.__name__
    assert isinstance(regularizers.get(name), ours)
    if hasattr(keras.regularizers, name):
        assert getattr(regularizers, name) is ours
    arguments = [[(p.name, p.default) for p in inspect.signature(c).parameters.values()] for c in (ours, theirs)]
    assert arguments[0] == arguments[1]


@pytest.mark.parametrize(("name", "kwargs"), [c.values for c in CASES if c.values[0] != "Regularizer"])
def test_fields_reproduce_an_equal_object(name, kwargs):
    f = getattr(regularizers, name)(**kwargs)
    again = type(f)(**{field.name: getattr(f, field.name) for field in dataclasses.fields(f)})
    assert f == again and hash(f) == hash(again)
    assert f != regularizers.L1(99.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        f.l1 = 3


def test_equal_values_in_other_types_are_equal():
    assert regularizers.L2(np.float32(0.5)) == regularizers.L2(0.5)
    assert regularizers.L1(1) == regularizers.L1(1.0) != regularizers.L1(2)


def test_a_subclass_with_its_own_arguments():
    class Scaled(regularizers.Regularizer):
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, x):
            return self.factor * jnp.sum(x)

    assert float(regularizers.get(Scaled(2.0))(jnp.ones(3))) == 6.0
    assert Scaled(1.0) != Scaled(2.0)


def test_get():
    assert regularizers.get(None) is None
    assert regularizers.get(regularizers.L1) == regularizers.L1()
    penalty = regularizers.L1(3.0)
    assert regularizers.get(penalty) is penalty
    assert regularizers.get(jnp.sum) is jnp.sum


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: regularizers.get("l1_12"),
            ValueError,
            "Unknown regularizer 'l1_12'. Did you mean 'l1_l2'? Known: "
            + ", ".join(repr(n) for n in sorted(REGULARIZERS))
            + ". Or pass a function w -> scalar.",
        ),
        (
            lambda: regularizers.get(0.01),
            TypeError,
            'A regularizer must be a name, a function or None, got 0.01; pass a name such as "l2".',
        ),
        (
            lambda: regularizers.L2(-1),
            ValueError,
            "`l2` of L2 must be a finite number that is not negative, got -1; use 0 for no penalty.",
        ),
        (
            lambda: regularizers.L1(math.inf),
            ValueError,
            "`l1` of L1 must be a finite number that is not negative, got inf; use 0 for no penalty.",
        ),
        (
            lambda: regularizers.L1L2(l2="a"),
            ValueError,
            "`l2` of L1L2 must be a finite number that is not negative, got 'a'; use 0 for no penalty.",
        ),
        (
            lambda: regularizers.OrthogonalRegularizer(None),
            ValueError,
            "`factor` of OrthogonalRegularizer must be a finite number that is not negative, "
            "got None; use 0 for no penalty.",
        ),
        (
            lambda: regularizers.OrthogonalRegularizer(mode="row"),
            ValueError,
            '`mode` of OrthogonalRegularizer must be "rows" or "columns", got \'row\'; choose one.',
        ),
        (
            lambda: regularizers.OrthogonalRegularizer()(jnp.ones((2, 3, 4))),
            ValueError,
            "OrthogonalRegularizer compares rows or columns of a matrix, "
            "got shape (2, 3, 4); use it on weights of rank 2.",
        ),
    ],
)
def test_errors(call, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        call()
