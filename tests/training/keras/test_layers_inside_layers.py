"""Initial weights, names and paths of layers that other custom layers, cells and models make, compared with Keras."""

import warnings
from types import SimpleNamespace

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def classes(k):
    """Returns custom layers and models that make layers in all the places where Keras lets them."""

    class Kernel(k.layers.Layer):
        def __init__(self, units=2, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
            self.built_for = shape

        def call(self, x):
            return k.ops.matmul(x, self.kernel)

    class Nested(k.layers.Layer):
        def build(self, shape):
            self.kernels = [Kernel(3), Kernel()]
            self.dense, self.norm = k.layers.Dense(2), k.layers.LayerNormalization()
            self.scale = self.add_weight(shape=(2,), initializer="uniform")

        def call(self, x):
            for layer in self.kernels:
                x = layer(x)
            return k.layers.ReLU()(self.norm(self.dense(x))) * self.scale

    class Attention(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attend = k.layers.MultiHeadAttention(2, 2)
            self.kernel = Kernel(3)
            self.stack = k.Sequential([k.layers.Dense(4), Kernel(4), k.layers.Dense(3)])

        def call(self, x):
            return self.stack(self.kernel(x + self.attend(x, x)))

    class Network(k.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Nested() for _ in range(2)]
            self.parts = {"out": k.layers.Dense(1)}

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.parts["out"](x)

    class Builder(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attend, self.dense = k.layers.MultiHeadAttention(2, 2), k.layers.Dense(3)
            self.inner = Nested()

        def build(self, shape):
            self.attend.build(shape, shape)
            self.dense.build(shape)
            self.inner.build((None, 4, 3))
            self.scale = self.add_weight(shape=(3,), initializer="uniform", name="scale")

        def call(self, x):
            return self.inner(self.dense(self.attend(x, x)) * self.scale)

    class CallOnly(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    class BuildsCallOnly(k.Model):
        def __init__(self):
            super().__init__()
            self.layer, self.out = CallOnly(), k.layers.Dense(1)

        def build(self, shape):
            self.layer.build(shape)
            self.out.build((None, 2))
            self.built = True

        def call(self, x):
            return self.out(self.layer(x))

    class Cell(k.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = self.state_size = units

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units), initializer="uniform", name="kernel")
            self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

        def call(self, x, states):
            h = k.ops.matmul(x, self.kernel) + k.ops.matmul(states[0], self.recurrent)
            return h, [h]

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    k.saving.register_keras_serializable("inside", k.__name__)(Cell)
    return SimpleNamespace(
        nested=Nested, attention=Attention, network=Network, builder=Builder, call_only=BuildsCallOnly, cell=Cell
    )


def nested_on_symbols(k, c):
    x = k.Input((2,))
    return k.Model(x, c.nested()(k.layers.Dense(2)(c.nested()(x))))


def unknown_sizes(k, c):
    x = k.Input((None, 3))
    layer = c.nested()
    model = k.Model(x, layer(x))
    assert [inner.built_for for inner in layer.kernels] == [(None, None, 3)] * 2
    return model


def attention_on_symbols(k, c):
    x = k.Input((4, 3))
    return k.Model(x, c.attention()(c.attention()(x)))


def network_on_arrays(k, c):
    model = c.network()
    model(np.ones((1, 2), "float32"))
    return model


def network_on_symbols(k, c):
    x = k.Input((None, 3))
    return k.Model(x, c.network()(x))


def cells(k, c):
    x = k.Input((4, 2))
    outputs = [k.layers.RNN(c.cell(3))(x), k.layers.RNN([c.cell(3), c.cell(2)])(x)]
    return k.Model(x, [*outputs, k.layers.Bidirectional(k.layers.RNN(c.cell(3)))(x)])


def cell_on_arrays(k, c):
    layer = k.layers.RNN([c.cell(3), c.cell(2)])
    layer(np.ones((1, 2, 2), "float32"))
    return layer


def built_by_hand(k, c):
    layer = c.builder()
    layer.build((None, 4, 3))
    x = k.Input((4, 3))
    return k.Model(x, c.builder()(layer(x)))


def built_without_build(k, c):
    model = c.call_only()
    model.build((None, 3))
    model(np.ones((1, 3), "float32"))
    return model


PROGRAMS = [
    built_by_hand,
    built_without_build,
    nested_on_symbols,
    unknown_sizes,
    attention_on_symbols,
    network_on_arrays,
    network_on_symbols,
    cells,
    cell_on_arrays,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_weights_and_names_are_those_of_keras(program):
    """Also the names and weights of layers that are made later."""
    results = []
    for k in (keras, theirs):
        k.utils.clear_session()
        k.utils.set_random_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = program(k, classes(k))
        later = k.layers.Dense(2)
        later.build((None, 2))
        names = [later.name, k.layers.ReLU().name, k.Sequential().name, k.Model(i := k.Input((2,)), i * 2).name]
        results.append(([w.path for w in found.weights], names, found.get_weights() + later.get_weights()))
    (paths, names, weights), (their_paths, their_names, their_weights) = results
    assert paths == their_paths and names == their_names
    for weight, theirs_ in zip(weights, their_weights, strict=True):
        np.testing.assert_array_equal(weight, theirs_)


def test_draws_without_a_seed_after_each_set_random_seed():
    """Also between layers, whose seeds come from the same generator of Python, and after `clear_session`."""
    results = []
    for k in (keras, theirs):
        found = []
        for seed in (3, 1, 3):
            k.utils.set_random_seed(seed)
            found += [k.random.normal((2,)), k.random.uniform((3,)), k.layers.Dense(2), k.random.normal((2,))]
            if seed == 1:
                k.utils.clear_session()
            found += [k.layers.Dense(2), k.random.normal((2,)), k.layers.Dense(2)]
        generator = k.random.SeedGenerator(7)
        found += [k.random.normal((2,), seed=generator), k.random.normal((2,), seed=generator), generator.state]
        for layer in found:
            if isinstance(layer, k.layers.Dense):
                layer.build((None, 3))
        results.append([np.asarray(x.kernel if isinstance(x, k.layers.Dense) else x) for x in found])
    for mine, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, expected)
