"""Weights in Keras' order: the same models in both libraries, the same weights, the same outputs."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels
from flaxmodels import Input, Sequential, interop, layers

keras = pytest.importorskip("keras")

KEY = jax.random.key(0)


def relaxed():
    """Enables rank and dtype promotion, which Keras needs."""
    return jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


# ---------------------------------------------------------------- models in both libraries


def stack(lib):
    L = lib.layers
    return lib.Sequential(
        [
            lib.Input((8, 8, 2)),
            L.Conv2D(3, 3, activation="relu"),
            L.BatchNormalization(),
            L.DepthwiseConv2D(2),
            L.SeparableConv2D(4, 2, padding="same"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(3, use_bias=False),
            L.LayerNormalization(),
            L.PReLU(),
        ]
    )


def branches(lib):
    """Branches of different lengths, concatenated in a different order than they were created."""
    L = lib.layers
    a, b = lib.Input((3,)), lib.Input((3,))
    short = L.Dense(3, name="short")(b)
    long = a
    for i in range(3):
        long = L.Dense(3, name=f"long_{i}")(long)
    late = L.Dense(3, name="late")(a)
    return lib.Model([a, b], L.Concatenate()([late, short, long]))


def shared_at_two_depths(lib):
    """The shared layer has the same depth as `c`, and the traversal from the output visits it first."""
    L = lib.layers
    x, shared = lib.Input((3,)), L.Dense(3, name="shared")
    c = L.Dense(3, name="c", activation="tanh")(L.Dense(3, name="c0")(x))
    return lib.Model(x, shared(L.Add()([c, shared(x)])))


def nested(lib):
    L = lib.layers
    x = lib.Input((3,))
    h = L.Dense(3, name="second")(L.Dense(3, name="first")(x))
    inner = lib.Model(x, L.Add()([h, L.Dense(3, name="skip")(x)]), name="inner")
    y = lib.Input((3,))
    tail = lib.Sequential([L.Dense(3, name="t0"), L.BatchNormalization(), L.Dense(2, name="t1")], name="tail")
    return lib.Model(y, tail(inner(L.Dense(3, name="before")(inner(y)))))


def siamese(lib):
    L = lib.layers
    x, a, b = lib.Input((4,)), lib.Input((4,)), lib.Input((4,))
    tower = lib.Model(x, L.Dense(3, name="out")(L.Dense(5, activation="relu", name="in")(x)), name="tower")
    return lib.Model([a, b], L.Dense(1, name="head")(L.Subtract()([tower(a), tower(b)])))


def several_outputs(lib):
    L = lib.layers
    x = lib.Input((3,))
    trunk = L.Dense(3, name="trunk")(x)
    first = L.Dense(3, name="first")(trunk)
    second = L.Dense(3, name="second")(L.Dense(3, name="middle")(trunk))
    return lib.Model(x, [second, first, trunk])


def dictionary(lib):
    L = lib.layers
    a, b = lib.Input((3,), name="a"), lib.Input((3,), name="b")
    outputs = {"z": L.Dense(2, name="of_b")(b), "y": L.Dense(2, name="of_a")(a)}
    return lib.Model({"a": a, "b": b}, outputs)


def recurrent(lib):
    L = lib.layers
    return lib.Sequential(
        [
            lib.Input((5,), dtype="int32"),
            L.Embedding(4, 3, mask_zero=True),
            L.Bidirectional(L.LSTM(3, return_sequences=True)),
            L.TimeDistributed(L.Dense(3)),
            L.GRU(3, return_sequences=True),
            L.SimpleRNN(2),
        ]
    )


def transformer_block(lib):
    L = lib.layers
    x = lib.Input((5, 4))
    y = L.LayerNormalization(name="n0")(L.Add()([x, L.MultiHeadAttention(2, 3, name="attention")(x, x)]))
    z = L.Dense(4, name="down")(L.Dense(8, activation="gelu", name="up")(y))
    return lib.Model(x, L.GlobalAveragePooling1D()(L.LayerNormalization(name="n1")(L.Add()([y, z]))))


MODELS = [
    stack,
    branches,
    shared_at_two_depths,
    nested,
    siamese,
    several_outputs,
    dictionary,
    recurrent,
    transformer_block,
]


def random_graph(lib, seed):
    """A random graph of Dense layers, some of them shared, and sums of three inputs; all weights have the same shape."""
    rng, L = np.random.default_rng(seed), lib.layers
    inputs = [lib.Input((3,)) for _ in range(3)]
    symbols, made = list(inputs), []
    for i in range(14):
        kind = rng.integers(4)
        some = [symbols[j] for j in rng.integers(len(symbols), size=2)]
        if kind == 0 and some[0] is not some[1]:
            symbols.append(L.Add(name=f"add_{i}")(some))
        elif kind == 1 and made:
            symbols.append(made[rng.integers(len(made))](some[0]))
        else:
            made.append(L.Dense(3, activation="tanh", name=f"dense_{i}"))
            symbols.append(made[-1](some[0]))
    made.append(L.Dense(3, name="end"))
    return lib.Model(inputs, [made[-1](symbols[-1]), *[symbols[j] for j in rng.integers(3, len(symbols), size=2)]])


# ---------------------------------------------------------------- the comparison


def inputs_for(model, rng):
    def data(symbol):
        shape = (3, *symbol.shape[1:])
        if jnp.issubdtype(symbol.dtype, jnp.integer):
            return rng.integers(0, 4, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    return jax.tree.map(data, model.input_spec)


def compare(make):
    """Returns the outputs of both libraries with the same random weights, which are all different."""
    rng = np.random.default_rng(7)
    ranks, dtypes = relaxed()
    ours = make(flaxmodels)
    inputs = inputs_for(ours, rng)
    variables = jax.jit(ours.init)(KEY, inputs)
    with ranks, dtypes:
        theirs = make(keras)
        weights = [rng.uniform(0.2, 1.0, size=w.shape).astype("float32") for w in theirs.get_weights()]
        theirs.set_weights(weights)
        expected = theirs(inputs)
    assert [w.shape for w in interop.get_keras_weights(ours, variables)] == [w.shape for w in weights]
    variables = interop.set_keras_weights(ours, variables, weights)
    for ours_again, weight in zip(interop.get_keras_weights(ours, variables), weights, strict=True):
        np.testing.assert_array_equal(ours_again, weight)
    got = jax.jit(ours.apply)(variables, inputs)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
    return ours, theirs


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_same_weights_same_outputs(make):
    compare(make)


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs(seed):
    ours, theirs = compare(lambda lib: random_graph(lib, seed))
    named = [layer.name for layer in theirs.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert [name for name, _ in ours.children()] == named


def test_layers_are_in_keras_order():
    expected = {
        branches: ["long_0", "long_1", "late", "short", "long_2", "concatenate"],
        shared_at_two_depths: ["c0", "shared", "c", "add"],
    }
    for make, names in expected.items():
        assert [name for name, _ in make(flaxmodels).children()] == names


def test_gradients_have_the_same_order():
    ranks, dtypes = relaxed()
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    ours = shared_at_two_depths(flaxmodels)
    with ranks, dtypes:
        theirs = shared_at_two_depths(keras)
        weights = theirs.get_weights()
        expected = jax.grad(lambda w: jnp.sum(theirs.stateless_call(w, [], x)[0] ** 2))([*map(jnp.asarray, weights)])
    variables = interop.set_keras_weights(ours, ours.init(KEY, x), weights)
    grads = jax.grad(lambda v: jnp.sum(ours.apply(v, x) ** 2))(variables)
    for a, b in zip(interop.get_keras_weights(ours, grads), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the functions themselves


def small():
    model = Sequential([Input((2,)), layers.Dense(3), layers.BatchNormalization()])
    return model, model.init(KEY, jnp.ones((1, 2)))


def test_statistics_are_among_the_weights():
    model, variables = small()
    weights = [np.full(w.shape, i, "float32") for i, w in enumerate(interop.get_keras_weights(model, variables))]
    variables = interop.set_keras_weights(model, variables, weights)
    assert {name: float(x[0]) for name, x in variables["params"]["batch_normalization"].items()} == {
        "gamma": 2,
        "beta": 3,
    }
    assert {name: float(x[0]) for name, x in variables["batch_stats"]["batch_normalization"].items()} == {
        "moving_mean": 4,
        "moving_variance": 5,
    }


def test_the_given_variables_are_not_modified():
    model, variables = small()
    before = jax.tree.map(np.array, variables)
    after = interop.set_keras_weights(model, variables, [w + 1 for w in interop.get_keras_weights(model, variables)])
    jax.tree.map(np.testing.assert_array_equal, before, variables)
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert not any(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


def test_dtypes_are_kept():
    model = layers.Dense(2, param_dtype="bfloat16")
    variables = model.init(KEY, jnp.ones((1, 3)))
    variables = interop.set_keras_weights(model, variables, [np.ones((3, 2)), [1, 2]])
    assert {x.dtype.name for x in jax.tree.leaves(variables)} == {"bfloat16"}
    assert interop.get_keras_weights(model, variables)[1].tolist() == [1, 2]


def test_other_collections_are_kept():
    model, variables = small()
    weights = interop.get_keras_weights(model, variables)
    assert interop.set_keras_weights(model, {**variables, "batch": {"valid": 1}}, weights)["batch"] == {"valid": 1}


def test_weights_of_linen_modules_are_sorted_by_path():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.Dense(2, name="b")(nn.Dense(3, name="a")(x))

    x = jnp.ones((1, 4))
    for module, scope in ((Own(), ()), (Sequential([Own()]), ("own",))):
        variables = module.init(KEY, x)
        shapes = [w.shape for w in interop.get_keras_weights(module, variables)]
        assert shapes == [(3,), (4, 3), (2,), (3, 2)]
        weights = [np.full(shape, i, "float32") for i, shape in enumerate(shapes)]
        params = interop.set_keras_weights(module, variables, weights)["params"]
        for key in scope:
            params = params[key]
        assert [float(params[a][b].min()) for a in "ab" for b in ("bias", "kernel")] == [0, 1, 2, 3]


def test_no_weights():
    assert interop.get_keras_weights(layers.Flatten(), {}) == []
    assert interop.set_keras_weights(layers.Flatten(), {}, []) == {}


def test_another_number_of_weights():
    model, variables = small()
    with raises(
        "Sequential has 6 weights [dense/kernel (2, 3), dense/bias (3,), batch_normalization/gamma (3,), "
        "batch_normalization/beta (3,), batch_normalization/moving_mean (3,), "
        "batch_normalization/moving_variance (3,)], got 2 of shapes [(2, 3), (3,)]; "
        "give them in the order of Keras' get_weights()."
    ):
        interop.set_keras_weights(model, variables, [np.ones((2, 3)), np.ones(3)])


def test_other_shapes():
    layer = layers.Dense(3)
    variables = layer.init(KEY, jnp.ones((1, 2)))
    with raises(
        "The weights of Dense must have the shapes kernel (2, 3), got (3, 2); bias (3,), got (4,); give them in the "
        "order of Keras' get_weights()."
    ):
        interop.set_keras_weights(layer, variables, [np.ones((3, 2)), np.ones(4)])
