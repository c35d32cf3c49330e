"""Sequential and Model: names, structure, errors, and what passes through them: masks, train, losses, dtypes."""

import copy
import functools
import pickle
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from flaxmodels import Input, Linen, Model, Sequential, layers
from flaxmodels.building import Container, scope_names, weights_of
from flaxmodels.graph import snake_case
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer

KEY = jax.random.key(0)


def raises(kind, sentence):
    """Notes, ours and JAX', stand on lines of their own."""
    return pytest.raises(kind, match=f"^{re.escape(sentence)}(\n|$)")


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def abstract(module, *args):
    """The shapes of a module's parameters."""
    return shapes(jax.eval_shape(module.init, KEY, *args).get("params", {}))


DENSE = {"bias": (2,), "kernel": (3, 2)}
X = jnp.arange(6.0).reshape(2, 3)


class Mode(Layer):
    """Adds `step` in training."""

    step: float = 1.0

    def compute(self, inputs, *, train=False):
        return inputs + self.step if train else inputs


class Steps(Layer):
    """Counts the steps that the mask leaves, -1 without one; passes the mask on."""

    SUPPORTS_MASKING = True

    def compute(self, inputs, *, mask=None):
        count = -jnp.ones(inputs.shape[:1]) if mask is None else mask.sum(1).astype(jnp.float32)
        return jnp.broadcast_to(jnp.expand_dims(count, range(1, inputs.ndim)), inputs.shape)


class Forget(Layer):
    """Keeps the inputs and loses their mask."""

    def compute(self, inputs):
        return inputs


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


def test_automatic_names_step_aside_for_given_ones():
    given = [layers.Dense(1), layers.Dense(1, name="dense"), layers.Dense(1, name="dense_2"), layers.Dense(1)]
    assert scope_names(given) == ["dense_1", "dense", "dense_2", "dense_3"]


def test_a_linen_module_is_named_after_its_class():
    model = Sequential([Input((3,)), nn.Dense(3), layers.Dense(3), nn.LayerNorm(), nn.Dense(3, name="mine")])
    assert model.layers.names == ["dense", "dense_1", "layer_norm", "mine"]


def test_names_that_are_methods_and_fields_elsewhere():
    x = Input((3,))
    model = Model(x, layers.Dense(2, name="layers")(layers.Dense(3, name="outputs")(x)))
    assert list(abstract(model, X)) == ["layers", "outputs"]
    model = Sequential([layers.Dense(2, name="add"), layers.Dense(2, name="layers")])
    assert list(abstract(model, X)) == ["add", "layers"]


def test_duplicate_names_are_refused():
    sentence = "Layers of one model need names of their own, got 'a' 2 times; give each layer another `name`, or none."
    with raises(ValueError, sentence):
        Sequential([layers.Dense(1, name="a"), layers.Dense(1, name="a")])
    x = Input((3,))
    with raises(ValueError, sentence):
        Model(x, layers.Dense(1, name="a")(layers.Dense(1, name="a")(x)))


@pytest.mark.parametrize("name", ["a/b", 3])
def test_other_names_are_refused(name):
    with raises(
        ValueError,
        f"The name of a layer is a string without '/', got {name!r} for Dense; use another character, such as '_'.",
    ):
        Sequential([layers.Dense(1, name=name)])


# ---------------------------------------------------------------- Sequential


def test_add_and_list_are_one():
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


def test_numbers_of_a_stack():
    model = Sequential([layers.Dense(2, "relu"), layers.Dense(1)])
    variables = {
        "params": {
            "dense": {"kernel": jnp.array([[1.0, 0], [0, 1], [-1, 0]]), "bias": jnp.array([0.0, -2])},
            "dense_1": {"kernel": jnp.array([[10.0], [1]]), "bias": jnp.array([0.5])},
        }
    }
    # rows 0 1 2 and 3 4 5: relu(0 - 2), relu(1 - 2) = 0 0 -> 0.5; relu(3 - 5), relu(4 - 2) = 0 2 -> 2.5
    np.testing.assert_array_equal(model.apply(variables, X), [[0.5], [2.5]])


def test_without_an_input_the_shape_comes_with_the_data():
    model = Sequential([layers.Dense(2)])
    assert model.input_spec is None
    assert abstract(model, X) == {"dense": DENSE}
    with raises(
        ValueError,
        "Sequential has no shapes until its input is known, and none was given; "
        "add Input(shape) first, or give the first layer `input_shape`.",
    ):
        _ = model.output_shape
    with pytest.raises(ValueError, match=re.escape("Sequential 'deep' has no shapes until its input is known")):
        Sequential([layers.Dense(2)], name="deep").summary()


def test_shapes_are_checked_as_layers_come():
    model = Sequential([Input((4, 4))])
    with pytest.raises(ValueError, match=re.escape("Conv2D 'conv2d' takes inputs of 4 axes")):
        model.add(layers.Conv2D(2, 3))
    assert len(model.layers) == 0


def test_pop_takes_the_last_layer_off():
    last = layers.Dense(1)
    model = Sequential([Input((3,)), layers.Dense(2), last])
    assert model.pop() is last
    assert model.output_shape == (None, 2)
    model.add(layers.Dense(5))
    assert model.output_shape == (None, 5)
    model.pop(), model.pop()
    assert model.output_shape == (None, 3)
    np.testing.assert_array_equal(model.apply({}, X), X)
    with raises(ValueError, "A Sequential without layers has none to take off; add a layer first."):
        model.pop()


def test_a_stack_is_a_sequence():
    first, second = layers.Dense(1), layers.Dense(2)
    model = Sequential([first, second])
    assert list(model.layers) == [first, second] and model.layers[-1] is second and len(model.layers) == 2
    assert repr(model.layers) == "[dense, dense_1]"


def test_none_and_nothing_are_empty_stacks():
    for model in (Sequential(), Sequential(None), Sequential([])):
        assert len(model.layers) == 0
        with raises(ValueError, "A Sequential without layers computes nothing; add a layer first."):
            model.init(KEY, X)


@pytest.mark.parametrize(
    ("thing", "came"),
    [
        (layers.Dense, "<class 'flaxmodels.layers.dense.Dense'> of type type"),
        ("dense", "'dense' of type str"),
        (jnp.tanh, f"{jnp.tanh!r} of type {type(jnp.tanh).__name__}"),
    ],
)
def test_only_layers_stack(thing, came):
    with raises(
        TypeError,
        f"Sequential takes layers, linen modules and Input(...), got {came}; "
        "make an object of a layer's class, such as layers.Dense(10).",
    ):
        Sequential([thing])


@pytest.mark.parametrize(
    ("before", "came"),
    [
        ([layers.Dense(2)], "1 layers"),
        ([Input((3,))], "0 layers and an input of shape (None, 3)"),
        ([layers.Dense(2, input_shape=(3,))], "1 layers and an input of shape (None, 3)"),
    ],
)
def test_an_input_comes_first(before, came):
    with raises(ValueError, f"Input(...) comes first in a Sequential, got it after {came}; move it to the front."):
        Sequential([*before, Input((2,))])


def test_a_bound_stack_is_frozen():
    class Adds(nn.Module):
        def setup(self):
            self.net = Sequential([layers.Dense(2)])
            self.net.add(layers.Dense(2))

        def __call__(self, x):
            return self.net(x)

    with raises(ValueError, "A Sequential that is bound to parameters is frozen; add layers before `init` or `apply`."):
        Adds().init(KEY, X)


@pytest.mark.parametrize("known", [True, False])
def test_stacks_in_stacks(known):
    inner = Sequential(([Input((3,))] if known else []) + [layers.Dense(2), layers.Dense(2)])
    model = Sequential([inner, Sequential([layers.Dense(1)])])
    assert abstract(model, X) == {
        "sequential": {"dense": DENSE, "dense_1": {"bias": (2,), "kernel": (2, 2)}},
        "sequential_1": {"dense": {"bias": (1,), "kernel": (2, 1)}},
    }
    assert (model.input_spec is not None) == known


def test_a_model_in_front_gives_the_input():
    x = Input((3,))
    assert Sequential([Model(x, layers.Dense(2)(x)), layers.Dense(5)]).output_shape == (None, 5)


# ---------------------------------------------------------------- one layer, one scope


def test_a_layer_in_two_scopes_is_refused():
    """Keras would share the parameters; two scopes can't, so nobody is to find out from the numbers."""
    dense, x, y = layers.Dense(3), Input((3,)), Input((3,))
    inner, module = Model(x, dense(x)), nn.Dense(3)
    once = "share it by calling it twice in one Model, or make two."
    scope = "A layer has its parameters in one scope, but one Dense is in"
    with raises(ValueError, f"{scope} 'dense' and in 'dense_1'; {once}"):
        Sequential([dense, dense])
    with raises(ValueError, f"{scope} 'dense' and in 'dense_1'; {once}"):
        Sequential([module, module])
    with raises(ValueError, f"{scope} 'model' and in 'dense'; {once}"):
        Model(y, dense(inner(y)))
    with raises(ValueError, f"{scope} 'time_distributed' and in 'dense'; {once}"):
        z = Input((4, 3))
        Model(z, dense(layers.TimeDistributed(dense)(z)))
    with raises(ValueError, f"{scope.replace('Dense', 'Model')} 'sequential' and in 'sequential_1'; {once}"):
        Sequential([Sequential([inner]), Sequential([inner])])


def test_layers_that_make_their_inner_ones_anew_come_often():
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


def test_what_a_linen_module_says_itself_stands():
    still = Sequential([nn.Dropout(0.5, deterministic=True), nn.BatchNorm(use_running_average=True)])
    variables = still.init(KEY, X)
    np.testing.assert_allclose(still.apply(variables, X, train=True), X, rtol=1e-4)


def test_linen_modules_get_train_and_mask_if_they_name_them():
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


def test_a_shared_layer_shares_its_parameters():
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


def test_a_part_of_a_graph_is_a_model():
    x = Input((3,))
    middle = layers.Dense(4, name="first")(x)
    end = layers.Dense(2, name="second")(middle)
    assert abstract(Model(x, middle), X) == {"first": {"bias": (4,), "kernel": (3, 4)}}
    assert abstract(Model(middle, end), jnp.ones((1, 4))) == {"second": {"bias": (2,), "kernel": (4, 2)}}
    assert [type(layer).__name__ for layer in Model(x, end).layers] == ["Dense", "Dense"]


def test_a_model_may_give_its_input():
    x = Input((3,))
    model = Model(x, [x, layers.Flatten()(x)])
    assert model.init(KEY, X) == {}
    np.testing.assert_array_equal(model.apply({}, X)[0], X)


def test_long_chains_and_diamonds_are_no_trouble():
    relu, add = layers.Activation("relu"), layers.Add()

    def call(layer, *args):
        """What layer(*args) leaves behind, without inferring shapes."""
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


def test_an_input_left_out_is_named():
    a, b = Input((3,)), Input((3,), name="forgotten")
    with raises(
        ValueError,
        "The outputs of a Model depend on its inputs alone, but <Symbol shape=(None, 3) dtype=float32 input "
        "'forgotten'> is needed and not among them; add it to `inputs`.",
    ):
        Model(a, layers.Add()([a, b]))


@pytest.mark.parametrize(
    ("arguments", "what", "came"),
    [
        ({}, "inputs", "none"),
        ({"inputs": []}, "inputs", "none"),
        ({"inputs": 3}, "inputs", "3 of type int"),
        ({"inputs": Input((3,))}, "outputs", "none"),
        ({"inputs": Input((3,)), "outputs": ["x"]}, "outputs", "'x' of type str"),
    ],
)
def test_a_model_connects_symbols(arguments, what, came):
    with raises(
        TypeError,
        f"The {what} of a Model are symbols, made by Input(...) and by calling layers on them, got {came}; "
        "write x = Input(shape), y = layer(x), Model(x, y).",
    ):
        Model(**arguments)


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
def test_inputs_find_their_places(structure, inputs):
    assert subtraction(structure).apply({}, inputs).tolist() == [[2, 2]]


@pytest.mark.parametrize("inputs", [A, [A], {"a": A}])
@pytest.mark.parametrize("structure", [lambda a: a, lambda a: [a], lambda a: (a,)])
def test_one_input(structure, inputs):
    a = Input((2,), name="a")
    model = Model(structure(a), layers.Activation("linear")(a))
    assert model.apply({}, inputs).tolist() == [[5, 5]]


@pytest.mark.parametrize(
    ("structure", "inputs", "expected", "came"),
    [
        (lambda a, b: [a, b], [A], "['a', 'b']", "['(1, 2)']"),
        (lambda a, b: [a, b], A, "['a', 'b']", "['(1, 2)']"),
        (lambda a, b: [a, b], {"a": A, "c": B}, "['a', 'b']", "{'a': '(1, 2)', 'c': '(1, 2)'}"),
        (lambda a, b: {"a": a, "b": b}, {"a": A, "c": B}, "{'a': 'a', 'b': 'b'}", "{'a': '(1, 2)', 'c': '(1, 2)'}"),
        (lambda a, b: {"a": a, "b": b}, [A, B], "{'a': 'a', 'b': 'b'}", "['(1, 2)', '(1, 2)']"),
        (lambda a, b: [[a], b], [A, B], "[['a'], 'b']", "['(1, 2)', '(1, 2)']"),
    ],
)
def test_inputs_of_another_structure(structure, inputs, expected, came):
    with raises(
        ValueError,
        f"Model takes inputs in the structure {expected}, got {came}; "
        "give them as the model's inputs were given, or in a dictionary by the inputs' names.",
    ):
        subtraction(structure).apply({}, inputs)


def test_masks_of_another_structure():
    with raises(
        ValueError,
        "Model takes masks in the structure ['a', 'b'], got ['(1, 2)']; "
        "give them as the model's inputs were given, or in a dictionary by the inputs' names.",
    ):
        subtraction(lambda a, b: [a, b]).apply({}, [A, B], mask=A)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_inputs_of_another_shape(shape):
    rest = f"takes inputs of shape (None, 3), got {shape}; reshape the data, or change the model's input shape."
    x = Input((3,))
    for model in (Sequential([x, layers.Dense(2)]), Model(x, layers.Dense(2)(x))):
        with raises(ValueError, f"{type(model).__name__} {rest}"):
            model.init(KEY, jnp.ones(shape))


def test_a_fixed_batch_size_is_checked():
    model = Sequential([Input((3,), batch_size=4), layers.Dense(2)])
    assert model.output_shape == (4, 2)
    with raises(
        ValueError,
        "Sequential takes inputs of shape (4, 3), got (2, 3); reshape the data, or change the model's input shape.",
    ):
        model.init(KEY, X)


@pytest.mark.parametrize("argument", [{"training": True}, {"initial_state": X}])
def test_nothing_is_accepted_and_ignored(argument):
    x = Input((3,))
    for model in (Sequential([layers.Dense(2)]), Model(x, layers.Dense(2)(x))):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(argument))}'"):
            model.init(KEY, X, **argument)


@pytest.mark.parametrize(
    ("name", "value"), [("param_dtype", "bfloat16"), ("activity_regularizer", "l2"), ("input_shape", (3,))]
)
def test_what_a_model_has_not_of_its_own(name, value):
    with raises(ValueError, f"Sequential has no `{name}` of its own, got {value!r}; give it to the layers inside."):
        Sequential([layers.Dense(2)], **{name: value})
    x = Input((3,))
    with raises(ValueError, f"Model 'm' has no `{name}` of its own, got {value!r}; give it to the layers inside."):
        Model(x, layers.Dense(2)(x), name="m", **{name: value})


def test_a_container_of_no_kind_is_no_model():
    with raises(TypeError, "Container is no model; use Sequential or Model."):
        Container().init(KEY, X)


def test_a_layer_by_itself_needs_parameters():
    x = Input((3,))
    for layer in (layers.Dense(2), Sequential([layers.Dense(2)]), Model(x, layers.Dense(2)(x))):
        with raises(
            ValueError,
            f"{type(layer).__name__} computes with parameters from outside, but was called on an array by itself; "
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


# ---------------------------------------------------------------- inside a module of one's own


class Compact(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Sequential([Input((3,)), layers.Dense(2, name="first"), Mode()])(x, train=train)
        symbol = Input((2,))
        shared = layers.Dense(2, name="shared")
        return Model(symbol, shared(shared(symbol)), name="head")(x)


class SetUp(nn.Module):
    def setup(self):
        self.body = Sequential([Input((3,)), layers.Dense(2), Mode()])
        symbol, shared = Input((2,)), layers.Dense(2)
        self.head = Model(symbol, shared(shared(symbol)))

    def __call__(self, x, train=False):
        return self.head(self.body(x, train=train))


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
def test_train_comes_through_a_module_of_ones_own(module):
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


def test_summary_of_a_stack():
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
    """64 steps would not do for the windows of 80 and 4 * 30."""
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


# ---------------------------------------------------------------- train


def test_train_reaches_every_layer():
    x = Input((3,))
    inner = Model(x, Mode(step=10.0)(x))
    stack = Sequential([Mode(step=1.0), Sequential([Mode(step=100.0)]), inner])
    assert (stack.apply({}, X, train=True) - X).tolist() == np.full((2, 3), 111.0).tolist()
    assert (stack.apply({}, X) - X).tolist() == np.zeros((2, 3)).tolist()


def test_train_that_a_call_fixed_stands():
    x = Input((3,))
    frozen = Sequential([Mode(step=1.0), Sequential([Mode(step=2.0)])])
    y = Mode(step=20.0)(Mode(step=10.0)(frozen(x, train=False)), train=True)
    model = Model(x, y)
    assert float((model.apply({}, X, train=True) - X)[0, 0]) == 30
    assert float((model.apply({}, X) - X)[0, 0]) == 20


def test_dropout_keys_come_through():
    model = Sequential([layers.Dropout(0.5), Sequential([layers.Dropout(0.5)])])
    ones = jnp.ones((1, 400))
    a, b = (model.apply({}, ones, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert 60 < int((a > 0).sum()) < 140 and not np.array_equal(a, b)  # a quarter of 400 stays


# ---------------------------------------------------------------- masks

SEQUENCES = jnp.array([[[1.0], [1], [0], [0]], [[1], [1], [1], [0]]])


@pytest.mark.parametrize(
    ("stack", "counts"),
    [
        ([layers.Masking(), Steps()], [2, 3]),
        ([Sequential([layers.Masking()]), Steps()], [2, 3]),
        ([layers.Masking(), Sequential([layers.Dense(2), Sequential([Steps()])])], [2, 3]),
        ([layers.Masking(), Forget(), Steps()], [-1, -1]),
        ([Steps()], [-1, -1]),
    ],
)
def test_masks_go_on(stack, counts):
    model = Sequential(stack)
    assert model.apply(model.init(KEY, SEQUENCES), SEQUENCES)[:, 0, 0].tolist() == counts
    x = y = Input((4, 1))
    for layer in [layer.clone() for layer in stack]:
        y = layer(y)
    model = Model(x, y)
    assert model.apply(model.init(KEY, SEQUENCES), SEQUENCES)[:, 0, 0].tolist() == counts


def test_a_mask_from_outside():
    mask = jnp.array([[True] * 4, [True, False, False, False]])
    x, a, b = (Input((4, 1), name=name) for name in "xab")
    assert Sequential([Steps()]).apply({}, SEQUENCES, mask=mask)[:, 0, 0].tolist() == [4, 1]
    assert Model(x, Steps()(x)).apply({}, SEQUENCES, mask=mask)[:, 0, 0].tolist() == [4, 1]
    two = Model([a, b], [Steps()(a), Steps()(b)])
    for masks in ([None, mask], {"a": None, "b": mask}):
        first, second = two.apply({}, [SEQUENCES, SEQUENCES], mask=masks)
        assert (first[:, 0, 0].tolist(), second[:, 0, 0].tolist()) == ([-1, -1], [4, 1])


def test_a_mask_as_a_symbol():
    x, mask = Input((4, 1)), Input((4,), dtype="bool")
    keep = jnp.array([[True] * 4, [False] * 4])
    for layer in (Steps(), Sequential([Steps()]), Model(x, Steps()(x))):
        model = Model([x, mask], layer(layers.Masking()(x), mask=mask))
        assert model.apply({}, [SEQUENCES, keep])[:, 0, 0].tolist() == [4, 0]


def test_masks_beside_outputs():
    x = Input((4, 1))
    masked = layers.Masking()(x)
    out, masks = Model(x, {"a": masked, "b": x}).apply({}, SEQUENCES, method="outputs_and_mask")
    assert masks["b"] is None
    assert masks["a"].sum(1).tolist() == [2, 3]
    out, mask = Sequential([layers.Masking()]).apply({}, SEQUENCES, method="outputs_and_mask")
    assert mask.sum(1).tolist() == [2, 3]


def test_a_masked_recurrence_sees_what_is_there():
    model = Sequential([layers.Masking(), layers.LSTM(3)])
    data = jax.random.normal(KEY, (2, 5, 2)).at[1, 3:].set(0)
    variables = model.init(KEY, data)
    alone = layers.LSTM(3).apply({"params": variables["params"]["lstm"]}, data[1:, :3])
    np.testing.assert_allclose(model.apply(variables, data)[1:], alone, atol=1e-6)


def test_masks_of_merged_inputs():
    x = Input((4, 1))
    both = layers.Concatenate()([layers.Masking()(x), layers.Masking()(x)])
    assert Model(x, Steps()(both)).apply({}, SEQUENCES)[:, 0, 0].tolist() == [2, 3]


def test_masks_of_further_arguments():
    """The value's mask hides its steps from the query."""
    x, values = Input((2, 3)), Input((4, 3))
    attention = layers.MultiHeadAttention(1, 2)
    data = jax.random.normal(KEY, (1, 4, 3)).at[:, 2:].set(0)
    query = jax.random.normal(KEY, (1, 2, 3))
    for call in (lambda v: attention(x, v), lambda v: attention(query=x, value=v)):
        model = Model([x, values], call(layers.Masking()(values)))
        variables = model.init(KEY, [query, data])
        alone = attention.apply({"params": variables["params"]["multi_head_attention"]}, query, data[:, :2])
        np.testing.assert_allclose(model.apply(variables, [query, data]), alone, atol=1e-6)


# ---------------------------------------------------------------- losses


def losses_of(model, variables, inputs, **collections):
    return model.apply({**variables, **collections}, inputs, mutable=["losses"])[1].get("losses", {})


def test_a_shared_layer_is_regularized_once():
    x = Input((3,))
    shared = layers.Dense(3, kernel_initializer="ones", kernel_regularizer="l2")
    model = Model(x, shared(shared(x)))
    variables = model.init(KEY, X)
    assert set(variables) == {"params"}
    found = losses_of(model, variables, X)
    np.testing.assert_allclose(jax.tree.leaves(found), [0.09], rtol=1e-6)
    assert list(found) == ["dense"]


def test_regularizers_of_nested_layers():
    model = Sequential([Sequential([layers.Dense(2, "relu", kernel_initializer="ones", kernel_regularizer="l1")])])
    found = losses_of(model, model.init(KEY, X), X)
    np.testing.assert_allclose(found["sequential"]["dense"]["kernel"], 0.06, rtol=1e-6)


def test_activities_add_up_over_calls_and_divide_by_the_batch():
    x = Input((3,))
    twice = layers.ActivityRegularization(l1=1.0)
    model = Model(x, twice(twice(x)))
    assert model.init(KEY, X) == {}
    # 0 + 1 + ... + 5 = 15, over 2 examples, in 2 calls
    assert float(losses_of(model, {}, X)["activity_regularization"]["activity"]) == 15


def test_activities_of_padding_do_not_count():
    model = Sequential([layers.Dense(3, activity_regularizer="l2")])
    variables = model.init(KEY, X)
    padded = jnp.concatenate([X, jnp.full((3, 3), 100.0)])
    valid = jnp.array([True, True, False, False, False])
    found = losses_of(model, variables, padded, batch={"valid": valid})
    np.testing.assert_allclose(
        found["dense"]["activity"], losses_of(model, variables, X)["dense"]["activity"], rtol=1e-6
    )
    none = losses_of(model, variables, padded, batch={"valid": valid & False})
    assert float(none["dense"]["activity"]) == 0


def test_activities_of_padding_where_time_is_in_the_batch():
    class Folded(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.ActivityRegularization(l1=1.0, name="a")(x.reshape(-1, x.shape[-1]))

    x = jnp.arange(12.0).reshape(2, 3, 2)
    found = losses_of(Folded(), {}, x, batch={"valid": jnp.array([True, False])})
    assert float(found["a"]["activity"]) == (0 + 1 + 2 + 3 + 4 + 5) / 3


def test_activities_are_those_of_keras():
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activity_regularizer="l2")])
        weights = theirs.get_weights()
        theirs(np.asarray(X))
        expected = float(sum(theirs.losses))
    model = Sequential([layers.Dense(2, activity_regularizer="l2")])
    params = {"dense": dict(zip(("kernel", "bias"), map(jnp.asarray, weights), strict=True))}
    np.testing.assert_allclose(losses_of(model, {"params": params}, X)["dense"]["activity"], expected, rtol=1e-5)


# ---------------------------------------------------------------- weights_of and trainable


def found_in(module, *args, **kwargs):
    return {"/".join(path): found for path, found in weights_of(module, *args, **kwargs).items()}


STRUCT = jax.ShapeDtypeStruct((2, 3), jnp.float32)
SEQUENCE = jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)


def test_weights_of_models():
    x = Input((3,))
    model = Model(x, Sequential([layers.Dense(2, kernel_constraint="non_neg")])(layers.Dense(3)(x)))
    found = found_in(model, STRUCT)
    assert sorted(found) == [
        "dense/bias",
        "dense/kernel",
        "sequential/dense/bias",
        "sequential/dense/kernel",
    ]
    layer, name = found["sequential/dense/kernel"]
    assert (name, layer.argument(name, "constraint")) == ("kernel", "non_neg")
    assert layer.argument("bias", "constraint") is None


def test_weights_of_wrappers():
    model = Sequential(
        [
            layers.Bidirectional(layers.LSTM(2, return_sequences=True, recurrent_constraint="unit_norm")),
            layers.TimeDistributed(layers.Dense(2, kernel_constraint="max_norm")),
        ]
    )
    found = found_in(model, SEQUENCE)
    constraints = {
        path: layer.argument(name, "constraint") for path, (layer, name) in found.items() if "kernel" in path
    }
    assert constraints == {
        "bidirectional/forward_layer/kernel": None,
        "bidirectional/forward_layer/recurrent_kernel": "unit_norm",
        "bidirectional/backward_layer/kernel": None,
        "bidirectional/backward_layer/recurrent_kernel": "unit_norm",
        "time_distributed/layer/kernel": "max_norm",
    }


def test_weights_of_an_embedding_have_the_arguments_name():
    ids = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    layer, name = found_in(layers.Embedding(5, 2, embeddings_constraint="unit_norm"), ids)["embedding"]
    assert layer.argument(name, "constraint") == "unit_norm"


def test_weights_of_modules_of_ones_own():
    assert sorted(found_in(SetUp(), STRUCT)) == ["body/dense/bias", "body/dense/kernel", "head/dense/bias"] + [
        "head/dense/kernel"
    ]
    assert found_in(nn.Dense(2), STRUCT) == {}


def test_weights_of_calls_with_arguments():
    mask = jax.ShapeDtypeStruct((2, 4), jnp.bool_)
    state = [jax.ShapeDtypeStruct((2, 2), jnp.float32)] * 2
    found = found_in(layers.LSTM(2), SEQUENCE, mask=mask, initial_state=state, train=False)
    assert sorted(found) == ["bias", "kernel", "recurrent_kernel"]


def test_paths_are_those_of_init():
    x = Input((4, 3))
    model = Model(x, Sequential([layers.GRU(2), nn.Dense(2)])(layers.TimeDistributed(Sequential([layers.Dense(3)]))(x)))
    params = jax.eval_shape(model.init, KEY, SEQUENCE)["params"]
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(params)]
    assert sorted(found_in(model, SEQUENCE)) == sorted(paths)


def test_a_frozen_model_freezes_what_is_inside():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Sequential([layers.Dense(2, name="free")], name="a")(
                Sequential([layers.Dense(3, name="fixed")], trainable=False, name="b")(x)
            )

    inner = Sequential([layers.Dense(3), nn.Dense(3)])
    model = Sequential([Sequential([inner], trainable=False), layers.Dense(2), layers.Dense(2, trainable=False)])
    frozen = {path: layer.frozen for path, (layer, _) in found_in(model, STRUCT).items() if "kernel" in path}
    assert frozen == {
        "sequential/sequential/dense/kernel": True,
        "sequential/sequential/dense_1/kernel": True,
        "dense/kernel": False,
        "dense_1/kernel": True,
    }
    frozen = {path: layer.frozen for path, (layer, _) in found_in(Own(), STRUCT).items() if "kernel" in path}
    assert frozen == {"a/free/kernel": False, "b/fixed/kernel": True}


# ---------------------------------------------------------------- dtypes


def test_the_dtype_of_a_model_is_that_of_its_layers():
    seen = {}

    class Notes(Layer):
        def compute(self, inputs):
            seen[self.name] = self.compute_dtype.name
            return self.cast(inputs)

    inner = Sequential([Notes(name="inner"), Notes(name="own", dtype="float32")])
    other = Sequential([Notes(name="other")], dtype="float16")
    model = Sequential([Notes(name="outer"), inner, other, layers.Dense(1)], dtype="mixed_bfloat16")
    variables = model.init(KEY, X)
    assert seen == {"outer": "bfloat16", "inner": "bfloat16", "own": "float32", "other": "float16"}
    assert variables["params"]["dense"]["kernel"].dtype == jnp.float32
    assert model.apply(variables, X).dtype == jnp.bfloat16
    assert model.clone(dtype=None).apply(variables, X).dtype == jnp.float32


def test_symbols_have_the_dtype_of_the_computation():
    x = Input((3,))
    assert layers.Dense(2, dtype="bfloat16")(x).dtype == jnp.bfloat16
    assert Sequential([layers.Dense(2)], dtype="bfloat16")(x).dtype == jnp.bfloat16
    assert layers.Dense(2, param_dtype="bfloat16")(x).dtype == jnp.bfloat16


def test_float64():
    with jax.enable_x64(True):
        model = Sequential([Input((1,), dtype="float64"), layers.Dense(1, kernel_initializer="ones")])
        model.layers[0].param_dtype = "float64"
        data = jnp.array([[1 + 1e-12]], jnp.float64)
        variables = model.init(KEY, data)
        assert variables["params"]["dense"]["kernel"].dtype == jnp.float64
        assert float(model.apply(variables, data)[0, 0]) == 1 + 1e-12
