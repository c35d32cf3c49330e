"""Sequential and Model: names, stacks, graphs, linen modules as layers, and the errors of building them."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Linen, Model, Sequential, layers
from flaxmodels.graph import scope_names, snake_case
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from tests.support.model_parts import DENSE, KEY, X, abstract, raises, shapes

# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["Dense", "Conv2D", "Conv2DTranspose", "LSTM", "GRUCell", "MaxPooling2D", "LayerNormalization", "RNN"]
)
def test_automatic_names_are_keras(name):
    keras = pytest.importorskip("keras")
    assert snake_case(name) == keras.src.utils.naming.to_snake_case(name)


def test_names_count_per_class():
    stack = [layers.Dense(1), layers.Flatten(), layers.Dense(1), layers.Dense(1), layers.LSTM(1)]
    assert scope_names(stack) == ["dense", "flatten", "dense_1", "dense_2", "lstm"]


def test_automatic_names_avoid_given_names():
    given = [layers.Dense(1), layers.Dense(1, name="dense"), layers.Dense(1, name="dense_2"), layers.Dense(1)]
    assert scope_names(given) == ["dense_1", "dense", "dense_2", "dense_3"]


def test_linen_module_is_named_after_its_class():
    model = Sequential([Input((3,)), nn.Dense(3), layers.Dense(3), nn.LayerNorm(), nn.Dense(3, name="mine")])
    assert model.layers.names == ["dense", "dense_1", "layer_norm", "mine"]


def test_names_of_methods_and_fields_are_allowed():
    x = Input((3,))
    model = Model(x, layers.Dense(2, name="layers")(layers.Dense(3, name="outputs")(x)))
    assert list(abstract(model, X)) == ["layers", "outputs"]
    model = Sequential([layers.Dense(2, name="add"), layers.Dense(2, name="layers")])
    assert list(abstract(model, X)) == ["add", "layers"]


def test_duplicate_names_are_refused():
    sentence = "Layers of one model need different names, got 'a' 2 times; give each layer another `name`, or none."
    with raises(ValueError, sentence):
        Sequential([layers.Dense(1, name="a"), layers.Dense(1, name="a")])
    x = Input((3,))
    with raises(ValueError, sentence):
        Model(x, layers.Dense(1, name="a")(layers.Dense(1, name="a")(x)))


@pytest.mark.parametrize("name", ["a/b", 3])
def test_invalid_names_are_refused(name):
    with raises(
        ValueError,
        f"The name of a layer must be a string without '/', got {name!r} for Dense; use another character, such as '_'.",
    ):
        Sequential([layers.Dense(1, name=name)])


# ---------------------------------------------------------------- Sequential


def test_add_and_list_build_the_same_model():
    added = Sequential()
    added.add(Input((3,)))
    added.add(layers.Dense(2))
    added.add(layers.Activation("relu"))
    listed = Sequential([Input((3,)), layers.Dense(2), layers.Activation("relu")])
    first = Sequential([layers.Dense(2, input_shape=(3,)), layers.Activation("relu")])
    for model in (added, listed, first):
        assert model.output_shape == (None, 2)
        assert [name for name, _ in model.children()] == ["dense", "activation"]
    results = [model.apply(model.init(KEY, X), X) for model in (added, listed, first)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_outputs_of_a_sequential():
    model = Sequential([layers.Dense(2, "relu"), layers.Dense(1)])
    variables = {
        "params": {
            "dense": {"kernel": jnp.array([[1.0, 0], [0, 1], [-1, 0]]), "bias": jnp.array([0.0, -2])},
            "dense_1": {"kernel": jnp.array([[10.0], [1]]), "bias": jnp.array([0.5])},
        }
    }
    # rows 0 1 2 and 3 4 5: relu(0 - 2), relu(1 - 2) = 0 0 -> 0.5; relu(3 - 5), relu(4 - 2) = 0 2 -> 2.5
    np.testing.assert_array_equal(model.apply(variables, X), [[0.5], [2.5]])


def test_sequential_without_input_takes_the_shape_of_the_data():
    model = Sequential([layers.Dense(2)])
    assert model.input_spec is None
    assert abstract(model, X) == {"dense": DENSE}
    with raises(
        ValueError,
        "Sequential has no shapes without a known input; "
        "add Input(shape) first, or give the first layer `input_shape`.",
    ):
        _ = model.output_shape
    with pytest.raises(ValueError, match=re.escape("Sequential 'deep' has no shapes without a known input")):
        Sequential([layers.Dense(2)], name="deep").summary()


def test_shapes_are_checked_when_layers_are_added():
    model = Sequential([Input((4, 4))])
    with pytest.raises(ValueError, match=re.escape("Conv2D 'conv2d' takes inputs of 4 axes")):
        model.add(layers.Conv2D(2, 3))
    assert len(model.layers) == 0


def test_pop_removes_the_last_layer():
    last = layers.Dense(1)
    model = Sequential([Input((3,)), layers.Dense(2), last])
    assert model.pop() is last
    assert model.output_shape == (None, 2)
    model.add(layers.Dense(5))
    assert model.output_shape == (None, 5)
    model.pop(), model.pop()
    assert model.output_shape == (None, 3)
    np.testing.assert_array_equal(model.apply({}, X), X)
    with raises(ValueError, "A Sequential without layers has no last layer to remove; add a layer first."):
        model.pop()


def test_layers_of_a_sequential_are_a_sequence():
    first, second = layers.Dense(1), layers.Dense(2)
    model = Sequential([first, second])
    assert list(model.layers) == [first, second] and model.layers[-1] is second and len(model.layers) == 2
    assert repr(model.layers) == "[dense, dense_1]"


def test_sequential_may_be_empty():
    for model in (Sequential(), Sequential(None), Sequential([])):
        assert len(model.layers) == 0
        with raises(ValueError, "A Sequential without layers computes nothing; add a layer first."):
            model.init(KEY, X)


@pytest.mark.parametrize(
    ("thing", "given"),
    [
        (layers.Dense, "<class 'flaxmodels.layers.dense.Dense'> of type type"),
        ("dense", "'dense' of type str"),
        (jnp.tanh, f"{jnp.tanh!r} of type {type(jnp.tanh).__name__}"),
    ],
)
def test_only_layers_are_accepted(thing, given):
    with raises(
        TypeError,
        f"Sequential takes layers, linen modules and Input(...), got {given}; create a layer, such as layers.Dense(10).",
    ):
        Sequential([thing])


@pytest.mark.parametrize(
    ("before", "given"),
    [
        ([layers.Dense(2)], "1 layer"),
        ([Input((3,))], "0 layers and an input of shape (None, 3)"),
        ([layers.Dense(2, input_shape=(3,))], "1 layer and an input of shape (None, 3)"),
    ],
)
def test_input_must_be_first(before, given):
    with raises(ValueError, f"Input(...) must come first in a Sequential, got it after {given}; move it to the front."):
        Sequential([*before, Input((2,))])


def test_bound_sequential_is_frozen():
    class Adds(nn.Module):
        def setup(self):
            self.net = Sequential([layers.Dense(2)])
            self.net.add(layers.Dense(2))

        def __call__(self, x):
            return self.net(x)

    with raises(ValueError, "A Sequential that is bound to parameters is frozen; add layers before `init` or `apply`."):
        Adds().init(KEY, X)


@pytest.mark.parametrize("known", [True, False])
def test_nested_sequentials(known):
    inner = Sequential(([Input((3,))] if known else []) + [layers.Dense(2), layers.Dense(2)])
    model = Sequential([inner, Sequential([layers.Dense(1)])])
    assert abstract(model, X) == {
        "sequential": {"dense": DENSE, "dense_1": {"bias": (2,), "kernel": (2, 2)}},
        "sequential_1": {"dense": {"bias": (1,), "kernel": (2, 1)}},
    }
    assert (model.input_spec is not None) == known


def test_input_of_a_first_model_is_used():
    x = Input((3,))
    assert Sequential([Model(x, layers.Dense(2)(x)), layers.Dense(5)]).output_shape == (None, 5)


def test_layers_that_create_their_inner_layers_may_be_called_twice():
    x = Input((4, 3))
    attention = layers.MultiHeadAttention(1, 2)
    lstm = layers.LSTM(3, return_sequences=True)
    y = layers.Bidirectional(lstm)(layers.Bidirectional(lstm)(attention(attention(x, x), x)))
    assert sorted(abstract(Model(x, y), jnp.ones((1, 4, 3)))) == [
        "bidirectional",
        "bidirectional_1",
        "multi_head_attention",
    ]


# ---------------------------------------------------------------- linen modules as layers


def test_linen_modules_take_the_scope_of_their_layer():
    model = Sequential([Input((3,)), nn.Dense(2), nn.BatchNorm(), nn.Dropout(0.5)])
    variables = model.init(KEY, X)
    assert shapes(variables) == {
        "params": {"dense": DENSE, "batch_norm": {"bias": (2,), "scale": (2,)}},
        "batch_stats": {"batch_norm": {"mean": (2,), "var": (2,)}},
    }
    assert model.output_shape == (None, 2)


def test_linen_layers_follow_train():
    model = Sequential([nn.Dense(64), nn.BatchNorm(momentum=0.5), nn.Dropout(0.5)])
    variables = model.init(KEY, X)
    still = model.apply(variables, X)
    assert not (still == 0).any()
    moved, new = model.apply(variables, X, train=True, mutable=["batch_stats"], rngs={"dropout": KEY})
    assert 10 < (moved == 0).sum() < 118
    hidden = X @ variables["params"]["dense"]["kernel"]
    np.testing.assert_allclose(new["batch_stats"]["batch_norm"]["mean"], 0.5 * hidden.mean(0), rtol=1e-5)


def test_attributes_of_a_linen_module_take_precedence():
    still = Sequential([nn.Dropout(0.5, deterministic=True), nn.BatchNorm(use_running_average=True)])
    variables = still.init(KEY, X)
    np.testing.assert_allclose(still.apply(variables, X, train=True), X, rtol=1e-4)


def test_linen_modules_receive_train_and_mask_if_they_are_parameters():
    class Names(nn.Module):
        @nn.compact
        def __call__(self, x, mask=None, train=False):
            return x + (10 if train else 0) + (0 if mask is None else mask.sum().astype(x.dtype))

    class Takes(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x

    model = Sequential([layers.Masking(), Names(), Takes()])
    x = jnp.array([[[1.0], [2.0], [0.0]]])
    np.testing.assert_array_equal(model.apply({}, x)[0, :, 0], [3, 4, 2])
    np.testing.assert_array_equal(model.apply({}, x, train=True)[0, :, 0], [13, 14, 12])


def test_linen_modules_in_a_graph():
    x, shared = Input((3,)), Linen(nn.Dense(3))
    model = Model(x, shared(shared(x)))
    assert abstract(model, X) == {"dense": {"bias": (3,), "kernel": (3, 3)}}


# ---------------------------------------------------------------- Model


def test_shared_layer_shares_its_parameters():
    a, b, shared = Input((2,)), Input((2,)), layers.Dense(1)
    model = Model([a, b], layers.Subtract()([shared(a), shared(b)]))
    variables = {"params": {"dense": {"kernel": jnp.array([[2.0], [-1]]), "bias": jnp.array([5.0])}}}
    xs = [jnp.array([[1.0, 2]]), jnp.array([[4.0, 1]])]
    assert abstract(model, xs) == shapes(variables["params"])
    # (2 - 2 + 5) - (8 - 1 + 5) = -7
    assert model.apply(variables, xs).tolist() == [[-7.0]]
    grads = jax.grad(lambda v: model.apply(v, xs).sum())(variables)["params"]["dense"]
    assert grads["kernel"].tolist() == [[-3.0], [1.0]]  # the inputs' difference
    assert grads["bias"].tolist() == [0.0]


def test_several_inputs_and_outputs_with_merges():
    a, b = Input((2,)), Input((2,))
    total, both = layers.Add()([a, b]), layers.Concatenate()([a, b])
    model = Model([a, b], {"sum": total, "both": (both, a)})
    assert model.output_shape == {"sum": (None, 2), "both": ((None, 4), (None, 2))}
    out = model.apply({}, [jnp.array([[1.0, 2]]), jnp.array([[3.0, 5]])])
    assert out["sum"].tolist() == [[4, 7]]
    assert [x.tolist() for x in out["both"]] == [[[1, 2, 3, 5]], [[1, 2]]]


def test_nested_models():
    x = Input((3,))
    inner = Model(x, layers.Dense(3)(x), name="inner")
    y = Input((3,))
    model = Model(y, Sequential([layers.Dense(2)])(inner(inner(y))))
    assert abstract(model, X) == {
        "inner": {"dense": {"bias": (3,), "kernel": (3, 3)}},
        "sequential": {"dense": DENSE},
    }
    kernel, bias = jnp.eye(3) * 2, jnp.array([1.0, 0, 0])
    params = {
        "inner": {"dense": {"kernel": kernel, "bias": bias}},
        "sequential": {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}},
    }
    # x -> 2x + e -> 4x + 3e -> 4 sum(x) + 3
    assert model.apply({"params": params}, X).tolist() == [[15, 15], [51, 51]]


def test_layers_with_several_outputs():
    x = Input((4, 3))
    y, h, _ = layers.LSTM(2, return_state=True, return_sequences=True)(x)
    model = Model(x, [y, h])
    data = jax.random.normal(KEY, (2, 4, 3))
    y, h = model.apply(model.init(KEY, data), data)
    np.testing.assert_array_equal(y[:, -1], h)


def test_symbols_among_further_arguments():
    x, h = Input((4, 3)), Input((2,))
    model = Model([x, h], layers.SimpleRNN(2)(x, initial_state=[h]))
    xs = [jnp.zeros((1, 4, 3)), jnp.full((1, 2), 0.5)]
    variables = model.init(KEY, xs)
    alone = layers.SimpleRNN(2).apply({"params": variables["params"]["simple_rnn"]}, xs[0], initial_state=[xs[1]])
    np.testing.assert_array_equal(model.apply(variables, xs), alone)
    assert not np.array_equal(alone, model.apply(variables, [xs[0], xs[1] * 2]))


def test_arrays_among_further_arguments_are_constants():
    class Plus(Layer):
        def compute(self, inputs, other):
            return inputs + other

    x, plus = Input((3,)), Plus()
    model = Model(x, plus(plus(x, jnp.full((1, 3), 10.0)), jnp.full((1, 3), 100.0)))
    np.testing.assert_array_equal(model.apply({}, X), X + 110)


def test_part_of_a_graph_is_a_model():
    x = Input((3,))
    middle = layers.Dense(4, name="first")(x)
    end = layers.Dense(2, name="second")(middle)
    assert abstract(Model(x, middle), X) == {"first": {"bias": (4,), "kernel": (3, 4)}}
    assert abstract(Model(middle, end), jnp.ones((1, 4))) == {"second": {"bias": (2,), "kernel": (4, 2)}}
    assert [type(layer).__name__ for layer in Model(x, end).layers] == ["Dense", "Dense"]


def test_model_may_output_its_input():
    x = Input((3,))
    model = Model(x, [x, layers.Flatten()(x)])
    assert model.init(KEY, X) == {}
    np.testing.assert_array_equal(model.apply({}, X)[0], X)


def test_long_chains_and_diamonds():
    relu, add = layers.Activation("relu"), layers.Add()

    def call(layer, *args):
        """Records a call of a layer like layer(*args), but without inferring shapes."""
        node = symbolic.Node(layer, args, {})
        node.outputs = symbolic.Symbol((None, 3), jnp.dtype("float32"), node)
        return node.outputs

    x = y = Input((3,))
    for _ in range(5000):
        y = call(relu, y)
    assert [name for name, _ in Model(x, y).children()] == ["activation"]
    y = x
    for _ in range(60):  # 2^60 paths
        y = call(add, [y, y])
    assert Model(x, y).apply({}, jnp.full((1, 3), 2.0**-60)).tolist() == [[1, 1, 1]]


def test_missing_input_is_named():
    a, b = Input((3,)), Input((3,), name="forgotten")
    with raises(
        ValueError,
        "The outputs of a Model must depend only on its `inputs`, got outputs that also need <Symbol shape=(None, 3) dtype=float32 input "
        "'forgotten'>; add it to `inputs`.",
    ):
        Model(a, layers.Add()([a, b]))


@pytest.mark.parametrize(
    ("arguments", "what", "given"),
    [
        ({}, "inputs", "none"),
        ({"inputs": []}, "inputs", "none"),
        ({"inputs": 3}, "inputs", "3 of type int"),
        ({"inputs": Input((3,))}, "outputs", "none"),
        ({"inputs": Input((3,)), "outputs": ["x"]}, "outputs", "'x' of type str"),
    ],
)
def test_model_takes_symbols_only(arguments, what, given):
    with raises(
        TypeError,
        f"The {what} of a Model must be symbols, made by Input(...) and by calling layers on them, got {given}; "
        "write x = Input(shape), y = layer(x), Model(x, y).",
    ):
        Model(**arguments)
