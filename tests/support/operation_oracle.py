"""Compares operations with Keras: arguments, values, dtypes, gradients, and the shapes and values of graphs."""

import contextlib
import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np

from flaxmodels import Input, Model

_rng = np.random.default_rng(0)


def normal(*shape):
    """Returns normal float32 numbers."""
    return _rng.standard_normal(shape).astype(np.float32)


def uniform(*shape):
    """Returns uniform float32 numbers in (0, 1)."""
    return _rng.uniform(0.05, 0.95, shape).astype(np.float32)


def integers(high, *shape):
    """Returns int32 numbers from 0 to high - 1."""
    return _rng.integers(0, high, shape).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of an operation.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        gradient: Whether the gradients of all floating-point arguments are compared.
        symbols: Positions of the arguments that are symbols in a graph; none for no graph.
        batch: Whether the leading axis of a symbol is the batch, of unknown size.
        keras_graph: Whether Keras infers the shape correctly, so that it is compared.
        lists: Whether nested lists may replace the arrays.
        tolerance: Largest difference, relative and absolute.
    """

    args: tuple
    kwargs: dict
    gradient: bool = True
    symbols: tuple = (0,)
    batch: bool = True
    keras_graph: bool = True
    lists: bool = True
    tolerance: float = 1e-5

    def but(self, **changes):
        """Returns the case with other fields."""
        return dataclasses.replace(self, **changes)


def case(*args, **kwargs):
    """Returns the case of a call."""
    return Case(args, kwargs)


@contextlib.contextmanager
def usual_promotion():
    """Lets JAX promote ranks and dtypes, as Keras needs it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def check_signature(ours, theirs):
    """Checks that names, order and defaults of the arguments are Keras'."""

    def described(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default, p.kind) for p in parameters if p.kind is not p.VAR_KEYWORD]

    assert described(ours) == described(theirs)


def check(ours, theirs, cases, config):
    """Compares an operation with Keras' in some cases; lists and graphs are compared in the first one.

    Without --all, these are the first case and another one, which differs from commit to commit, and one gradient.
    """
    if not config.option.all and len(cases) > 2:
        cases = [cases[0], cases[1 + config.option.offset % (len(cases) - 1)]]
    differentiated = [index for index, this in enumerate(cases) if this.gradient]
    if not config.option.all:
        differentiated = differentiated[-1:]
    with usual_promotion():
        for index, this in enumerate(cases):
            result = check_values(ours, theirs, this)
            if index in differentiated:
                check_gradients(ours, theirs, this)
            if index == 0 and this.lists:
                check_lists(ours, this, result)
            if index == 0 and this.symbols:
                check_graph(ours, theirs, this, result)


def check_values(ours, theirs, this):
    """Compares values, shapes and dtypes, and returns the value."""
    result, expected = ours(*this.args, **this.kwargs), theirs(*_as_jax(this.args), **_as_jax(this.kwargs))
    assert_equal(result, expected, this.tolerance)
    leaves, treedef = jax.tree.flatten((this.args, this.kwargs))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray)]

    def traced(arrays):
        args, kwargs = jax.tree.unflatten(treedef, _filled(leaves, where, arrays))
        return ours(*args, **kwargs)

    shapes = jax.eval_shape(traced, [leaves[i] for i in where])
    assert [(s.shape, s.dtype) for s in jax.tree.leaves(shapes)] == [
        (jnp.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(result)
    ]
    return result


def check_gradients(ours, theirs, this):
    """Compares the gradients of a weighted sum of the outputs."""
    leaves, treedef = jax.tree.flatten((this.args, this.kwargs))
    leaves = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32]

    if not where:
        return

    def total(function, arrays):
        args, kwargs = jax.tree.unflatten(treedef, _filled(leaves, where, arrays))
        outputs = [y for y in jax.tree.leaves(function(*args, **kwargs)) if jnp.issubdtype(y.dtype, jnp.inexact)]
        parts = [part for y in outputs for part in ((y.real, y.imag) if jnp.iscomplexobj(y) else (y,))]
        weights = [np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape) for y in parts]
        return sum((jnp.sum(y * w) for y, w in zip(parts, weights, strict=True)), jnp.float32(0))

    arrays = [leaves[i] for i in where]
    gradients = [jax.grad(lambda a, function=function: total(function, a))(arrays) for function in (ours, theirs)]
    assert_equal(*gradients, 10 * this.tolerance)


def check_lists(ours, this, result):
    """Checks that nested lists give the same values as arrays."""
    args = jax.tree.map(lambda x: x.tolist() if isinstance(x, np.ndarray) else x, this.args)
    for mine, expected in zip(jax.tree.leaves(ours(*args, **this.kwargs)), jax.tree.leaves(result), strict=True):
        np.testing.assert_allclose(mine, expected, this.tolerance, this.tolerance)


def check_graph(ours, theirs, this, result):
    """Compares the shapes and dtypes of symbols with Keras', and the values of a model with those on arrays."""

    def replaced(make):
        return [jax.tree.map(make, arg) if i in this.symbols else arg for i, arg in enumerate(this.args)]

    def shape(x):
        return (None, *x.shape[1:]) if this.batch else x.shape

    symbols = replaced(lambda x: Input(batch_shape=shape(x), dtype=x.dtype))
    outputs = ours(*symbols, **this.kwargs)
    described = [(s.shape, jnp.dtype(s.dtype).name) for s in jax.tree.leaves(outputs)]
    if this.keras_graph:
        inferred = theirs(*replaced(lambda x: keras.KerasTensor(shape(x), dtype=x.dtype.name)), **this.kwargs)
        assert described == [(tuple(s.shape), s.dtype) for s in keras.tree.flatten(inferred)]
    inputs = jax.tree.leaves([symbols[i] for i in this.symbols])
    arrays = jax.tree.leaves([this.args[i] for i in this.symbols])
    computed = Model(inputs, outputs).apply({}, list(map(jnp.asarray, arrays)))
    assert_equal(computed, result, this.tolerance)


def assert_equal(result, expected, tolerance=1e-5):
    """Checks the dtypes, shapes and values of two structures."""
    mine, theirs = jax.tree.leaves(result), jax.tree.leaves(expected)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        a, b = (np.asarray(x, np.complex128 if jnp.iscomplexobj(x) else np.float64) for x in (a, b))
        assert a.shape == b.shape
        scale = max(1.0, float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0)) if b.size else 1.0)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def positive_definite(*shape):
    """Returns positive definite matrices."""
    x = normal(*shape)
    return x @ np.swapaxes(x, -1, -2) + math.prod(shape[-1:]) * np.eye(shape[-1], dtype=np.float32)


def names_without_row(module, table, left_out=()):
    """Returns the public names of a module of Keras that have no row, and the rows without a name."""
    public = {name for name in dir(module) if not name.startswith("_")}
    return sorted(public - set(table) - set(left_out)), sorted((set(table) | set(left_out)) - public)


def _filled(leaves, where, arrays):
    filled = list(leaves)
    for i, array in zip(where, arrays, strict=True):
        filled[i] = array
    return filled


def _as_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, tree)
