"""Operators and indexing of symbols."""

import operator

import numpy as np
import pytest

from flaxmodels import Input, Model, ops
from flaxmodels.layers.symbolic import Symbol

X = np.float32([[1.5, -2.0, 3.0, 0.5], [-0.5, 4.0, 2.0, -1.0]])
ROW = np.float32([2.0, 1.0, 3.0, 4.0])
ARITHMETIC = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow, operator.lt,
    operator.le, operator.gt, operator.ge, operator.ne,
]  # fmt: skip


def evaluated(symbol, inputs, x=X):
    """Returns the values of a symbol for a batch."""
    assert isinstance(symbol, Symbol)
    values = np.asarray(Model(inputs, symbol).apply({}, x))
    assert symbol.dtype == values.dtype
    assert all(size in (None, length) for size, length in zip(symbol.shape, values.shape, strict=True))
    return values


@pytest.mark.parametrize("function", ARITHMETIC)
@pytest.mark.spread
def test_operators_take_arrays_and_numbers_on_either_side(function):
    x = Input((4,))
    with np.errstate(all="ignore"):
        for other in (ROW, 2.0, 2):
            np.testing.assert_allclose(evaluated(function(x, other), x), function(X, other), rtol=1e-5)
            np.testing.assert_allclose(evaluated(function(other, x), x), function(other, X), rtol=1e-5)
        np.testing.assert_allclose(evaluated(function(x, x + 1.0), x), function(X, X + 1), rtol=1e-5)


def test_matmul_takes_arrays_on_either_side():
    x = Input(batch_shape=(2, 4))
    np.testing.assert_allclose(evaluated(x @ X.T, x), X @ X.T, rtol=1e-6)
    np.testing.assert_allclose(evaluated(X.T @ x, x), X.T @ X, rtol=1e-6)


def test_bitwise_operators_are_logical_as_in_keras():
    truth = Input((4,), dtype="bool")
    values, other = X > 0, np.array([True, False, True, False])
    assert (evaluated(truth & other, truth, values) == (values & other)).all()
    assert (evaluated(other | truth, truth, values) == (values | other)).all()
    assert (evaluated(truth ^ other, truth, values) == (values ^ other)).all()
    assert (evaluated(~truth, truth, values) == ~values).all()


def test_unary_operators():
    x = Input((4,))
    assert (evaluated(-x, x) == -X).all() and (evaluated(abs(x), x) == abs(X)).all()
    assert (evaluated(round(x, 0), x) == np.round(X)).all()


def test_equality_is_identity_and_inequality_a_node():
    x, y = Input((4,)), Input((4,))
    assert x == x and (x == y) is False and x in [x] and len({x, y}) == 2
    assert isinstance(x != y, Symbol) and (x != y).dtype == bool
    assert (evaluated(ops.equal(x, 0.5), x) == (X == 0.5)).all()


@pytest.mark.parametrize(
    "key",
    [
        0, -1, slice(None), slice(1, None), (slice(None), 0), (slice(None), slice(0, 4, 2)), (Ellipsis, -1), None,
        (slice(None), None), (Ellipsis, None), (slice(None), slice(None, None, -1)), np.int32([1, 0, 1]),
        (slice(None), np.int32([3, 0])), np.array([True, False]), (0, 1), (),
    ],
)  # fmt: skip
@pytest.mark.spread
def test_indexing(key):
    x = Input(batch_shape=(2, 4))
    assert (evaluated(x[key], x) == X[key]).all()


def test_indexing_with_symbols_and_chained():
    x, indices = Input((4,)), Input((), dtype="int32")
    model = Model([x, indices], ops.take(x, indices, axis=0)[:, 1:][:, :2][..., -1] + x[indices, 0])
    assert model.apply({}, [X, np.int32([1, 0])]).tolist() == [2.0 - 0.5, 3.0 + 1.5]
    assert x[:, 1:][:, ::2][..., None].shape == (None, 2, 1)


def test_lists_are_refused_as_indices():
    x = Input((4,))
    for key in ([0, 1], (slice(None), [0, 1])):
        with pytest.raises(TypeError) as raised:
            x[key]
        assert str(raised.value) == (
            f"A symbol must be indexed by integers, slices, None, Ellipsis and arrays, got the list in x[{key!r}]; "
            "write np.array([...]) in its place."
        )


def test_symbols_are_not_iterated_and_have_no_truth():
    x = Input((4,))
    with pytest.raises(TypeError, match=r"^'Symbol' object is not iterable$"):
        list(x)
    with pytest.raises(TypeError, match=r"^A boolean is needed here, got a symbol of shape \(None, 4\), which has no"):
        bool(x > 0)
