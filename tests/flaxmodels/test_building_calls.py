"""Models as modules: structure of inputs, transformations of linen and JAX, enclosing modules, summaries."""

import copy
import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.container import Container
from flaxmodels.layers.base import Layer
from tests.support.model_parts import DENSE, KEY, Mode, SetUp, X, abstract, raises

# ---------------------------------------------------------------- the structure of inputs


def subtraction(structure):
    a, b = Input((2,), name="a"), Input((2,), name="b")
    return Model(structure(a, b), layers.Subtract()([a, b]))


A, B = jnp.full((1, 2), 5.0), jnp.full((1, 2), 3.0)


@pytest.mark.parametrize(
    ("structure", "inputs"),
    [
        (lambda a, b: [a, b], [A, B]),
        (lambda a, b: [a, b], (A, B)),
        (lambda a, b: [a, b], {"b": B, "a": A}),
        (lambda a, b: [a, b], {"b": B, "a": A, "label": B}),
        (lambda a, b: (b, a), [B, A]),
        (lambda a, b: {"y": a, "x": b}, {"x": B, "y": A}),
        (lambda a, b: {"y": [a], "x": b}, {"x": B, "y": (A,)}),
    ],
)
def test_inputs_match_the_structure(structure, inputs):
    assert subtraction(structure).apply({}, inputs).tolist() == [[2, 2]]


@pytest.mark.parametrize("inputs", [A, [A], {"a": A}])
@pytest.mark.parametrize("structure", [lambda a: a, lambda a: [a], lambda a: (a,)])
def test_one_input(structure, inputs):
    a = Input((2,), name="a")
    model = Model(structure(a), layers.Activation("linear")(a))
    assert model.apply({}, inputs).tolist() == [[5, 5]]


@pytest.mark.parametrize(
    ("structure", "inputs", "expected", "given"),
    [
        (lambda a, b: [a, b], [A], "['a', 'b']", "['(1, 2)']"),
        (lambda a, b: [a, b], A, "['a', 'b']", "['(1, 2)']"),
        (
            lambda a, b: {"a": a, "b": b},
            {"a": A, "b": B, "c": B},
            "{'a': 'a', 'b': 'b'}",
            "{'a': '(1, 2)', 'b': '(1, 2)', 'c': '(1, 2)'}",
        ),
        (lambda a, b: {"a": a, "b": b}, [A, B], "{'a': 'a', 'b': 'b'}", "['(1, 2)', '(1, 2)']"),
        (lambda a, b: [[a], b], [A, B], "[['a'], 'b']", "['(1, 2)', '(1, 2)']"),
    ],
)
def test_inputs_of_another_structure_are_refused(structure, inputs, expected, given):
    with raises(
        ValueError,
        f"Model takes inputs with the structure {expected}, got {given}; "
        "pass them in the structure of the model's inputs, or in a dictionary keyed by input name.",
    ):
        subtraction(structure).apply({}, inputs)


@pytest.mark.parametrize("structure", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}])
def test_inputs_with_other_names_are_refused(structure):
    with raises(ValueError, "Model takes inputs with the names ['a', 'b'], got ['a', 'c']; add 'b'."):
        subtraction(structure).apply({}, {"a": A, "c": B})


def test_masks_of_another_structure_are_refused():
    with raises(
        ValueError,
        "Model takes masks with the structure ['a', 'b'], got ['(1, 2)']; "
        "pass them in the structure of the model's inputs, or in a dictionary keyed by input name.",
    ):
        subtraction(lambda a, b: [a, b]).apply({}, [A, B], mask=A)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_inputs_of_another_shape_are_refused(shape):
    rest = f"takes inputs of shape (None, 3), got {shape}; reshape the data, or change the model's input shape."
    x = Input((3,))
    for model in (Sequential([x, layers.Dense(2)]), Model(x, layers.Dense(2)(x))):
        with raises(ValueError, f"{type(model).__name__} {rest}"):
            model.init(KEY, jnp.ones(shape))


def test_fixed_batch_size_accepts_other_batch_sizes():
    """As in Keras, models accept batches of every size."""
    model = Sequential([Input((3,), batch_size=4), layers.Dense(2)])
    assert model.output_shape == (4, 2)
    assert model.apply(model.init(KEY, X), X).shape == (2, 2)


@pytest.mark.parametrize("argument", [{"masks": True}, {"initial_state": X}])
def test_unknown_arguments_are_refused(argument):
    x = Input((3,))
    for model in (Sequential([layers.Dense(2)]), Model(x, layers.Dense(2)(x))):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(argument))}'"):
            model.init(KEY, X, **argument)


@pytest.mark.parametrize(
    ("name", "value"), [("param_dtype", "bfloat16"), ("activity_regularizer", "l2"), ("input_shape", (3,))]
)
def test_arguments_of_layers_are_refused_by_models(name, value):
    with raises(ValueError, f"Sequential does not take `{name}`, got {value!r}; pass it to the layers inside."):
        Sequential([layers.Dense(2)], **{name: value})
    x = Input((3,))
    with raises(ValueError, f"Model 'm' does not take `{name}`, got {value!r}; pass it to the layers inside."):
        Model(x, layers.Dense(2)(x), name="m", **{name: value})


def test_container_itself_is_not_a_model():
    with raises(TypeError, "Container is not a model; use Sequential or Model."):
        Container().init(KEY, X)


def test_layer_called_on_an_array_needs_parameters():
    x = Input((3,))
    for layer in (layers.Dense(2), Sequential([layers.Dense(2)]), Model(x, layers.Dense(2)(x))):
        with raises(
            ValueError,
            f"{type(layer).__name__} holds no parameters, so it cannot be called on an array directly; "
            "use variables = layer.init(jax.random.key(0), x) and layer.apply(variables, x).",
        ):
            layer(X)


@pytest.mark.parametrize(("shape", "fix"), [((2, 3), "add"), ((2, 3, 4, 5), "remove")])
def test_layers_check_the_number_of_axes(shape, fix):
    class Strict(Layer):
        def compute(self, inputs):
            self.check_rank(inputs, "B T F")
            return inputs

    with raises(
        ValueError,
        f"Strict 'strict' takes inputs of 3 axes [B, T, F], got shape {shape}; "
        f"{fix} an axis, or use a layer for {len(shape)} axes.",
    ):
        Sequential([Strict()]).init(KEY, jnp.ones(shape))


# ---------------------------------------------------------------- pure modules


def kinds():
    a, b, shared = Input((3,)), Input((3,)), layers.Dense(3)
    stack = Sequential([layers.Dense(3, "tanh"), layers.Dense(3)])
    graph = Model([a, b], stack(layers.Add()([shared(a), shared(b)])))
    return [(stack, X), (graph, [X, X + 1])]


@pytest.mark.parametrize(("model", "inputs"), kinds(), ids=["sequential", "model"])
def test_init_apply_jit_vmap_grad(model, inputs):
    variables = model.init(KEY, inputs)
    plain = model.apply(variables, inputs)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, inputs), plain, atol=1e-6)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), inputs)
    mapped = jax.vmap(model.apply, (None, 0))(variables, many)
    np.testing.assert_allclose(mapped[0], plain, atol=1e-6)
    members = jax.vmap(model.init, (0, None))(jax.random.split(KEY, 3), inputs)
    outs = jax.vmap(model.apply, (0, None))(members, inputs)
    assert outs.shape == (3, 2, 3) and not np.allclose(outs[0], outs[1])

    def loss(variables):
        return jnp.sum(model.apply(variables, inputs) ** 2)

    flat, unravel = flatten_util.ravel_pytree(variables)
    direction = jax.random.normal(KEY, flat.shape)
    slope = (loss(unravel(flat + 1e-2 * direction)) - loss(unravel(flat - 1e-2 * direction))) / 2e-2
    exact = flatten_util.ravel_pytree(jax.grad(loss)(variables))[0] @ direction
    np.testing.assert_allclose(slope, exact, rtol=2e-2)


@pytest.mark.parametrize(("model", "inputs"), kinds(), ids=["sequential", "model"])
def test_models_are_hashable_copyable_and_pickle(model, inputs):
    variables = model.init(KEY, inputs)

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables, inputs):
        return model.apply(variables, inputs)

    expected = run(model, variables, inputs)
    assert hash(model.clone()) == hash(model) and model.clone() == model
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.clone()):
        np.testing.assert_array_equal(run(other, variables, inputs), expected)


def test_linen_transformations_take_models():
    x = Input((3,))
    arguments = ([x], layers.Dense(2)(x))
    plain = Model(*arguments)
    variables = plain.init(KEY, [X])
    for transform in (nn.jit, nn.remat):
        np.testing.assert_allclose(
            transform(Model)(*arguments).apply(variables, [X]), plain.apply(variables, [X]), atol=1e-6
        )


# ---------------------------------------------------------------- inside a custom module


class Compact(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Sequential([Input((3,)), layers.Dense(2, name="first"), Mode()])(x, train=train)
        symbol = Input((2,))
        shared = layers.Dense(2, name="shared")
        return Model(symbol, shared(shared(symbol)), name="head")(x)


class Holds(nn.Module):
    net: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.net(self.net(x))


def test_in_a_compact_method():
    assert abstract(Compact(), X) == {
        "Sequential_0": {"first": DENSE},
        "head": {"shared": {"bias": (2,), "kernel": (2, 2)}},
    }


def test_in_setup():
    assert abstract(SetUp(), X) == {"body": {"dense": DENSE}, "head": {"dense": {"bias": (2,), "kernel": (2, 2)}}}


@pytest.mark.parametrize("module", [Compact(), SetUp()])
def test_train_reaches_layers_inside_a_custom_module(module):
    variables = module.init(KEY, X)
    assert not np.allclose(module.apply(variables, X), module.apply(variables, X, train=True))


def test_as_a_field():
    x = Input((3,))
    for net in (Sequential([layers.Dense(3)]), Model(x, layers.Dense(3)(x))):
        assert abstract(Holds(net), X) == {"net": {"dense": {"bias": (3,), "kernel": (3, 3)}}}


# ---------------------------------------------------------------- summary and shapes


def text_of(model):
    lines = []
    model.summary(lines.append)
    return lines[0]


def test_summary_of_a_sequential():
    model = Sequential([Input((28, 28, 1)), layers.Conv2D(32, 3), layers.Flatten(), nn.Dense(10)], name="small")
    assert text_of(model) == (
        "small: 216,650 parameters\n"
        "layer (class)      output              parameters  inputs\n"
        "conv2d (Conv2D)    (None, 26, 26, 32)         320  input\n"
        "flatten (Flatten)  (None, 21632)                0  conv2d\n"
        "dense (Linen)      (None, 10)             216,330  flatten"
    )


def test_summary_of_a_graph_with_a_shared_layer(capsys):
    a, b = Input((None, 4), name="left"), Input((None, 4))
    shared = layers.BatchNormalization(name="norm")
    inner = Sequential([layers.Dense(3), layers.Dense(2)], name="inner")
    Model([a, b], inner(layers.Add()([shared(a), shared(b)]))).summary()
    assert capsys.readouterr().out == (
        "model: 39 parameters\n"
        "layer (class)              output           parameters  inputs\n"
        "norm (BatchNormalization)  (None, None, 4)          16  left\n"
        "norm (BatchNormalization)  (None, None, 4)           0  input\n"
        "add (Add)                  (None, None, 4)           0  norm, norm\n"
        "inner (Sequential)         (None, None, 2)          23  add\n"
    )


def test_summary_of_a_model_that_needs_large_inputs():
    """The windows of 80 and 4 * 30 need more than the 64 steps that are tried first."""
    x = Input((None, 1))
    y = layers.Conv1D(1, 30)(layers.Conv1D(1, 80, strides=4)(x))
    assert text_of(Model(x, y)).splitlines()[0] == "model: 112 parameters"


def test_summary_without_layers():
    assert text_of(Sequential([Input((3,))])) == ("sequential: 0 parameters\nlayer (class)  output  parameters  inputs")


def test_shapes_of_unknown_sizes():
    x = Input((None, None, 3))
    model = Model(x, [layers.Conv2D(4, 3)(x), layers.GlobalAveragePooling2D()(x)])
    assert model.output_shape == [(None, None, None, 4), (None, 3)]
    assert Sequential([Input((None, 5)), layers.LSTM(3, return_sequences=True)]).output_shape == (None, None, 3)
