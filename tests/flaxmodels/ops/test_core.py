"""Core operations against Keras, by a table with a row for each name."""

import importlib

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model
from flaxmodels.ops import core
from tests.support.operation_oracle import (
    assert_equal,
    case,
    check,
    check_signature,
    integers,
    normal,
    usual_promotion,
)

X, ROWS = normal(4, 5), normal(4)
# Functions of functions, and functions that return no arrays, have tests of their own below.
ALONE = {"convert_to_numpy", "custom_gradient", "dtype", "is_tensor", "shape"}


def _pairs(carry, x):
    return carry + x, carry * x


TABLE = {
    "associative_scan": [
        case(lambda a, b: a + b, X).but(symbols=(1,), lists=False),
        case(lambda a, b: a * b, X, reverse=True, axis=1),
    ],
    "cast": [
        case(X, "int32").but(gradient=False),
        case(integers(3, 4), "float32"),
        case(X, "bool").but(gradient=False),
        case(X, "bfloat16").but(gradient=False),
    ],
    "cond": [
        case(np.array(True), lambda: jnp.ones(2), lambda: jnp.zeros(2)).but(batch=False),
        case(np.array(False), lambda: jnp.ones(2), lambda: jnp.zeros(2)),
    ],
    "convert_to_tensor": [case(X), case(X, dtype="int32").but(gradient=False), case(integers(3, 4), dtype="float16")],
    "fori_loop": [case(0, 3, lambda i, x: x * 1.5 + i, ROWS).but(symbols=(3,), lists=False)],
    "map": [case(lambda x: x**2, X).but(symbols=(1,), lists=False), case(lambda x: x[0] + x[1], (X, X[:, :1]))],
    "rearrange": [
        case(normal(2, 6, 3), "b (h k) c -> b h (k c)", k=2).but(keras_graph=False),
        case(normal(2, 6, 3), "a b c -> c (a b)"),
        case(normal(2, 6, 4), "a (b1 b2) (c1 c2) -> (a b1 c1) b2 c2", b1=2, c1=2),
    ],
    "saturate_cast": [
        case(np.array([-3.0, 300.0, 1.5], np.float32), "uint8").but(gradient=False),
        case(np.array([-300, 300, 5], np.int32), "int8"),
        case(np.array([1e30, -1e30, 2.0], np.float32), "float16").but(gradient=False),
        case(np.array([200, 3], np.uint8), "int8"),
        case(np.array([3e9, -3e9, 7.0], np.float32), "int32").but(gradient=False),
        case(np.array([-1, 0, 3], np.int32), "uint16"),
        case(np.array([0.2, 3.0, -1.0], np.float32), "bool").but(gradient=False),
    ],
    "scan": [
        case(_pairs, X[0], X).but(symbols=(1, 2), batch=False, lists=False),
        case(_pairs, X[0], X, reverse=True, unroll=2),
        case(lambda c, _: (c * 1.5, c), ROWS, length=3),
    ],
    "scatter": [
        case(np.array([[0], [2], [0]]), X[:3], (4, 5)).but(symbols=(1,), batch=False),
        case(np.array([[0, 1], [2, 3]]), ROWS[:2], (4, 5)),
    ],
    "scatter_update": [
        case(X, np.array([[0], [2]]), normal(2, 5)),
        *(case(X, np.array([[0, 1], [2, 2], [0, 1]]), normal(3), reduction=how) for how in ("add", "max", "min")),
        case(X, np.array([[0, 1], [2, 2]]), normal(2), "MUL").but(gradient=False),
    ],
    "slice": [
        case(X, (1, 2), (2, 2)).but(batch=False),
        case(X, (1, 2), (-1, 3)),
        case(X, np.array([3, 4]), (2, 2)),
    ],
    "slice_update": [case(X, (1, 2), normal(2, 2)), case(X, np.array([3, 3]), normal(2, 2))],
    "stop_gradient": [case(X)],
    "switch": [
        case(np.array(1), [lambda x: x + 1, lambda x: x * 2], X).but(symbols=(2,), lists=False),
        case(np.array(5), [lambda x, y: x + y, lambda x, y: x * y], X, X),
    ],
    "unstack": [case(X, axis=1), case(X, 4), case(X, axis=-1)],
    "vectorized_map": [case(lambda x: x**2, X).but(symbols=(1,), lists=False), case(lambda x: x[0] * x[1], (X, ROWS))],
    "while_loop": [
        case(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (0, ROWS)).but(gradient=False, symbols=(), lists=False),
        case(lambda x: jnp.sum(x) < 100.0, lambda x: x * 2, np.ones(3, np.float32), 4).but(gradient=False),
        case(lambda x: jnp.sum(x) < 100.0, lambda x: x * 2, np.ones(3, np.float32)).but(gradient=False),
    ],
}


def test_each_name_of_keras_has_a_row():
    module = importlib.import_module("keras.src.ops.core")
    names = {n for n in dir(keras.ops) if n[0] != "_" and getattr(module, n, None) is getattr(keras.ops, n)} | {
        "rearrange"
    }
    assert names == set(TABLE) | ALONE
    assert set(core.__all__) == names


@pytest.mark.parametrize("name", sorted(set(TABLE) | ALONE))
@pytest.mark.spread
def test_arguments_are_those_of_keras(name):
    check_signature(getattr(core, name), getattr(keras.ops, name))


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spread
def test_equals_keras(name, request):
    check(getattr(core, name), getattr(keras.ops, name), TABLE[name], request.config)


def test_shape_and_dtype():
    for x in (X, jnp.asarray(X), np.ones(3, np.float16), jnp.ones((), "bfloat16")):
        assert core.shape(x) == tuple(keras.ops.shape(x))
        assert core.dtype(x) == keras.ops.dtype(x)
    symbol = Input((5,), dtype="int32")
    assert core.shape(symbol) == (None, 5) == keras.ops.shape(keras.Input((5,)))
    assert core.dtype(symbol) == "int32"
    assert core.shape([[1, 2]]) == (1, 2)
    assert core.dtype([1.0]) == "float32"


def test_is_tensor():
    for x in (X, jnp.asarray(X), [1.0], 1.0):
        assert core.is_tensor(x) == keras.ops.is_tensor(x)
    assert not core.is_tensor(Input((2,)))
    assert jax.jit(lambda x: jnp.asarray(core.is_tensor(x)))(X)


def test_convert_to_numpy():
    for x in (X, jnp.asarray(X), jnp.ones(2, "bfloat16"), [1, 2]):
        mine, theirs = core.convert_to_numpy(x), keras.ops.convert_to_numpy(x)
        assert type(mine) is np.ndarray
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(TypeError, match="^An array is needed here, got a symbol of shape \\(None, 2\\), which has no"):
        core.convert_to_numpy(Input((2,)))


def test_custom_gradient():
    def function(x, y):
        return x * y, lambda upstream: (upstream * 3.0, upstream * 4.0)

    mine, theirs = core.custom_gradient(function), keras.ops.custom_gradient(function)
    assert_equal(mine(2.0, 3.0), theirs(2.0, 3.0))
    assert_equal(jax.grad(mine, (0, 1))(2.0, 3.0), jax.grad(theirs, (0, 1))(2.0, 3.0))


def test_operations_under_jit_vmap_and_grad():
    def function(x):
        parts = core.unstack(core.slice_update(x, (0,), core.cast(x[:2], "float32")), axis=0)
        return core.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, y * 2.0), (0, parts[3]))[1]

    with usual_promotion():
        expected = [function(x) for x in X]
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(X), expected)
    np.testing.assert_allclose(jax.grad(lambda x: core.stop_gradient(x) * x)(3.0), 3.0)


def test_a_loop_on_symbols_computes_in_a_model():
    x = Input((3,))
    model = Model(x, core.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2.0), (0, x))[1])
    np.testing.assert_allclose(model.apply({}, jnp.ones((2, 3))), 8.0 * np.ones((2, 3)))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: core.convert_to_tensor(X, sparse=True),
            "`convert_to_tensor` returns dense arrays only, got sparse=True; leave `sparse` out.",
        ),
        (
            lambda: core.convert_to_tensor(X, ragged=True),
            "`convert_to_tensor` returns dense arrays only, got ragged=True; leave `ragged` out.",
        ),
        (
            lambda: core.scatter_update(X, [[0]], X[:1], "mean"),
            "Unknown reduction 'mean'. Known: 'add', 'max', 'min', 'mul'.",
        ),
        (
            lambda: core.unstack(X, 3),
            "`num` must be the size of axis 0, got num=3 for shape (4, 5); leave `num` out.",
        ),
        (
            lambda: core.scan(_pairs, X[0], X, unroll=0),
            "`unroll` must be a positive integer or a boolean, got 0; give, for example, 1.",
        ),
        (
            lambda: core.rearrange(X, "a b - b a"),
            "`pattern` must have the form 'a b (c d) -> b (a c) d', got 'a b - b a'; write names of axes, parentheses "
            "and one arrow.",
        ),
        (
            lambda: core.rearrange(X, "a b -> a c"),
            "`pattern` must name each of the 2 axes once on the left and the same names on the right, got 'a b -> a c' "
            "for shape (4, 5); correct the pattern.",
        ),
        (
            lambda: core.rearrange(X, "a (b c) -> a b c", b=2),
            "The axis of size 5 cannot be split into ('b', 'c') with the sizes {'b': 2}; give sizes whose product "
            "divides it, for all but one name.",
        ),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == error
