"""Properties that hold for every layer; each test runs over the whole table of layers."""

import dataclasses
import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from flaxmodels import Model, layers, saving
from flaxmodels.layers import Input
from flaxmodels.layers.host import HostLayer
from tests.support.layer_oracle import is_float, numbers
from tests.support.layer_table import ROWS, B, Row

PADDING = 2  # rows
_starts = itertools.count()


def over_rows(rows=ROWS):
    """Runs a test for each row; each test starts at another row, so that subsets of all tests cover the table together."""
    start = next(_starts) % 20
    return pytest.mark.parametrize("row", [*rows[start:], *rows[:start]], ids=str)


def over_modes(rows=ROWS):
    """Runs a test for each row, and also with train=True if that changes the result."""
    start = next(_starts) % 20
    cases = [(row, train) for row in rows for train in row.train_modes]
    return pytest.mark.parametrize("row, train", [*cases[start:], *cases[:start]], ids=str)


def rngs():
    return {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def made(row: Row, **more):
    """Returns the shapes and dtypes of the variables that `init` creates."""
    return jax.eval_shape(lambda args: row.layer(**more).init(rngs(), *args, **row.call), row.arrays())


@functools.cache
def variables(row: Row):
    """Returns random variables without zeros, unlike new biases; statistics are positive."""

    def fill(path, spec):
        name = jax.tree_util.keystr(path)
        values = 0.5 * numbers([len(name), *name.encode()], *spec.shape)
        # NumPy arrays do not belong to a trace, so a test may first call this function while it traces.
        return np.asarray(0.5 + np.abs(values) if "batch_stats" in name else values, np.float32)

    return jax.tree_util.tree_map_with_path(fill, made(row))


def apply(row: Row, layer, given, args, train=False, valid=None):
    """Returns the outputs, the new statistics and the losses."""
    given = given if valid is None else {**given, "batch": {"valid": valid}}
    return layer.apply(
        given, *args, **row.call, train=train, rngs={"dropout": rngs()["dropout"]}, mutable=["batch_stats", "losses"]
    )


def with_gradients(row: Row, layer, given, args, train=False, valid=None):
    """Returns outputs, state, and gradients of the losses plus a weighted sum with respect to parameters and floats in args."""
    where = [i for i, x in enumerate(jax.tree.leaves(args)) if is_float(x)]

    def total(params, floats):
        leaves, treedef = jax.tree.flatten(args)
        for i, x in zip(where, floats, strict=True):
            leaves[i] = x
        outputs, state = apply(
            row, layer, {**given, "params": params}, jax.tree.unflatten(treedef, leaves), train, valid
        )
        sum_ = sum(jax.tree.leaves(state.get("losses", {})), start=jnp.float32(0))
        for i, y in enumerate(jax.tree.leaves(outputs)):
            weights = numbers(i, 2 * B, *y.shape[1:])[: len(y)]
            if valid is not None:
                weights = jnp.where(jnp.expand_dims(valid, tuple(range(1, y.ndim))), weights, 0)
            sum_ = sum_ + jnp.sum(y * weights)
        return sum_, (outputs, state)

    floats = [jnp.asarray(jax.tree.leaves(args)[i]) for i in where]
    gradients, (outputs, state) = jax.grad(total, argnums=(0, 1), has_aux=True)(given.get("params", {}), floats)
    return outputs, state, *gradients


def penalized(row: Row):
    """Returns the layer with an activity regularizer."""
    has_one = isinstance(row.layer(), layers.ActivityRegularization)
    return row.layer() if has_one else row.layer(activity_regularizer="l2")


def run(function, *args):
    """Compiles a function without optimization, which small programs do not need, and calls it."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})(*args)


@functools.cache
def compiled(row: Row, train: bool):
    """Returns outputs, state and gradients of a compiled program for the examples of the row."""
    layer = penalized(row)
    return run(lambda given, args: with_gradients(row, layer, given, args, train), variables(row), row.arrays())


def assert_close(found, wanted, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def flat(tree):
    return traverse_util.flatten_dict(dict(tree), sep="/")


def test_the_table_contains_every_layer():
    public = {
        x
        for x in (getattr(layers, name) for name in layers.__all__)
        if isinstance(x, type) and issubclass(x, layers.Layer)
    }
    on_the_host = {x for x in public if issubclass(x, HostLayer)}  # they cannot be part of a model
    assert {type(row.layer()) for row in ROWS} == public - {layers.Layer} - on_the_host
    assert len({str(row) for row in ROWS}) == len(ROWS)


@over_rows()
def test_weights_have_keras_names_and_shapes(row):
    found = made(row)
    assert {name: leaf.shape for name, leaf in flat(found.get("params", {})).items()} == row.weights
    assert {name: leaf.shape for name, leaf in flat(found.get("batch_stats", {})).items()} == row.statistics
    assert set(found) <= {"params", "batch_stats"}


@over_modes()
def test_jit_gives_equal_results(row, train):
    outputs, state = apply(row, penalized(row), variables(row), row.arrays(), train)
    assert_close(compiled(row, train)[:2], (outputs, state), rtol=1e-6, atol=1e-6)


@over_modes()
def test_gradients_are_finite_and_reach_every_weight(row, train):
    _, _, by_params, by_args = compiled(row, train)
    for name, gradient in [*flat(by_params).items(), *enumerate(by_args)]:
        assert np.isfinite(gradient).all(), name
        assert np.any(gradient != 0) == (name not in row.unused), name
    assert set(flat(by_params)) == set(row.weights)
    assert len(by_args) == (0 if row.integers else len(jax.tree.leaves(row.arrays())))


@over_modes([row for row in ROWS if not row.mixes])
def test_a_batch_of_one_gives_the_first_row_of_a_larger_one(row, train):
    outputs = run(lambda args: apply(row, row.layer(), variables(row), args, train)[0], row.arrays(1))
    assert_close(outputs, jax.tree.map(lambda y: y[:1], compiled(row, train)[0]))


@over_rows()
def test_vmap_over_examples_equals_the_batch(row):
    def one(args):
        return apply(row, row.layer(), variables(row), jax.tree.map(lambda x: x[None], args))[0]

    outputs = run(jax.vmap(one), row.arrays())
    assert_close(jax.tree.map(lambda y: y[:, 0], outputs), compiled(row, False)[0])


@over_modes()
def test_padding_rows_have_no_effect(row, train):
    garbage = jax.tree.map(lambda x: 100 * x[B:] if is_float(x) else x[B:], row.arrays(B + PADDING))
    padded = jax.tree.map(lambda x, y: np.concatenate([x, y]), row.arrays(), garbage)
    valid = np.arange(B + PADDING) < B
    outputs, state, by_params, by_args = run(
        lambda given, args, valid: with_gradients(row, penalized(row), given, args, train, valid),
        *(variables(row), padded, valid),
    )
    for gradient in by_args:
        assert np.all(gradient[B:] == 0)
    assert flat(state["losses"])
    outputs, by_args = jax.tree.map(lambda y: y[:B], (outputs, by_args))
    assert_close((outputs, state, by_params, by_args), compiled(row, train))


@over_modes()
def test_bfloat16_is_near_float32(row, train):
    narrow = made(row, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow) if is_float(leaf)} <= {np.dtype(np.float32)}
    layer = row.layer(dtype="bfloat16")
    outputs, state = run(lambda given, args: apply(row, layer, given, args, train), variables(row), row.arrays())
    wanted = compiled(row, train)
    for y, close in zip(jax.tree.leaves(outputs), jax.tree.leaves(wanted[0]), strict=True):
        assert y.dtype == jnp.bfloat16
        if not (train and row.random):  # normal noise in bfloat16 is not the rounded noise in float32
            np.testing.assert_allclose(y.astype(jnp.float32), close, rtol=0.05, atol=0.05)
    assert_close(state.get("batch_stats", {}), wanted[1].get("batch_stats", {}), rtol=1e-2, atol=1e-2)


def equations(jaxpr):
    """Yields the equations of a jaxpr, including those of inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@over_modes()
def test_softmax_and_statistics_are_in_float32_in_bfloat16(row, train):
    layer = row.layer(dtype="bfloat16")
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16) if is_float(x) else x, row.arrays())
    program = jax.make_jaxpr(lambda given, args: apply(row, layer, given, args, train))(variables(row), args)
    for equation in equations(program.jaxpr):
        if equation.primitive.name in ("exp", "rsqrt"):  # in softmax and in normalization
            assert equation.outvars[0].aval.dtype == jnp.float32


@over_rows([row for row in ROWS if row.make is not layers.Lambda])
def test_a_layer_is_rebuilt_from_json(row):
    layer = row.layer(name="named")
    text = json.dumps(saving.to_config(layer))
    rebuilt = saving.from_config(json.loads(text))
    assert type(rebuilt) is type(layer)
    assert rebuilt == layer
    assert json.dumps(saving.to_config(rebuilt)) == text
    programs = [
        jax.make_jaxpr(lambda given, args, layer=layer: apply(row, layer, given, args))(variables(row), row.arrays())
        for layer in (layer, rebuilt)
    ]
    assert str(programs[0]) == str(programs[1])


def test_saving_a_lambda_raises():
    sentence = (
        "A model file names layers of flaxmodels, but only code can describe Lambda; "
        "save with architecture=False, build the model in code, and read its variables with fm.load_weights."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        saving.to_config(layers.Lambda(abs))


@over_rows()
def test_a_symbolic_call_has_the_shapes_of_a_call_on_arrays(row):
    args = row.arrays()
    symbols = jax.tree.map(lambda x: Input(x.shape[1:], dtype=x.dtype), args)
    outputs = row.layer()(*symbols, **row.call)
    model = Model(list(symbols), outputs)
    arrays = jax.eval_shape(lambda args: apply(row, row.layer(), variables(row), args)[0], args)
    assert model.output_shape == jax.tree.map(lambda y: (None, *y.shape[1:]), arrays)
    assert [y.dtype for y in jax.tree.leaves(outputs)] == [y.dtype for y in jax.tree.leaves(arrays)]


@over_rows()
def test_docstrings_have_all_sections(row):
    cls = type(row.layer())
    own = cls.__doc__
    assert all(part in own for part in ("\n    Shapes: ", "\n    References:\n", "\n    Example:\n        >>> "))
    kinds = cls.__mro__[: cls.__mro__.index(layers.Layer)]
    described = " ".join(kind.__dict__.get("__doc__") or "" for kind in kinds)
    known = {"_", *(field.name for field in dataclasses.fields(layers.Layer))}
    arguments = {field.name for field in dataclasses.fields(cls)} - known
    assert not [name for name in arguments if not re.search(rf"^        .*\b{name}\b.*: ", described, re.MULTILINE)]
    assert not arguments or "\n    Args:\n" in described
