"""Names of symbols, inputs and layers, paths of weights, and the order of `model.layers`, compared with Keras."""

import copy
import warnings

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def same(function):
    """Asserts that a function of the library has the same result here and in Keras; returns the result."""
    results = []
    for library in (keras, theirs):
        library.utils.clear_session()
        results.append(function(library))
    assert results[0] == results[1]
    return results[0]


def wide(k):
    """Returns a functional model whose inputs are at different depths; one of them leads nowhere."""
    a, b, unused = k.Input((4,)), k.Input((4,)), k.Input((2,))
    hidden = k.layers.Dense(4)(b)
    added = k.layers.Add()([a, hidden])
    return k.Model([a, b, unused], [k.layers.Dense(2)(k.layers.Multiply()([added, b])) + 1, added])


def names(model):
    return [layer.name for layer in model.layers], [x.name for x in model.inputs], [x.name for x in model.outputs]


def test_names_of_symbols_and_inputs():
    layers, inputs, outputs = same(lambda k: names(wide(k)))
    assert layers[:2] == ["input_layer_1", "input_layer"] and inputs[0] == "keras_tensor"
    same(lambda k: [k.Input((3,)).name, k.Input((3,), name="own").name, k.layers.InputLayer((3,)).name])
    same(lambda k: (lambda x: [k.layers.Dense(3)(x).name, (x + 1).name, k.ops.relu(x).name])(k.Input((3,))))
    same(lambda k: names(k.Sequential([k.Input((4,)), k.layers.Dense(3), k.layers.Dense(2)])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras advises to give an Input
        same(lambda k: names(k.Sequential([k.layers.Dense(3, input_shape=(4,))])) + (k.Input((3,)).name,))
    same(lambda k: wide(k).output_names)


def test_layers_of_a_functional_model_have_the_order_of_keras():
    order = same(lambda k: [wide(k).get_layer(index=i).name.rstrip("_0123456789") for i in range(6)])
    assert order == ["input_layer", "input_layer", "dense", "add", "multiply", "dense"]
    model = wide(keras)
    first = model.layers[0]
    assert isinstance(first, keras.layers.InputLayer) and model.layers[0] is first is model.get_layer(first.name)


def test_operations_take_names_from_the_counts_of_layers():
    def named(k):
        x = k.Input((4,))
        y = (x + x) * 2
        z = k.ops.reshape(-k.layers.Add()([x, 1 - y]) / 2 + y[:, :1] ** 2, (-1, 2, 2))
        model = k.Model(x, [k.ops.relu(abs(y)), k.layers.Multiply()([y, y]), z @ z])
        later = k.layers.Add(), k.layers.Multiply(), k.layers.Reshape((2,)), k.layers.ReLU(), k.layers.Subtract()
        return [layer.name for layer in model.layers], [layer.name for layer in later], model.output_names

    layers, later, _ = same(named)
    assert "add_1" in layers and later[0] == "add_3"


def test_copies_have_the_names_of_copies_in_keras():
    same(lambda k: names(k.models.clone_model(wide(k)))[:2])
    same(lambda k: names(copy.deepcopy(k.Sequential([k.Input((4,)), k.layers.Dense(3)])))[:2])
    same(lambda k: names(k.Model.from_config(wide(k).get_config()))[:2])
    same(lambda k: names(k.models.model_from_json(wide(k).to_json()))[:2])


def test_a_model_in_a_file_keeps_its_names(tmp_path):
    def loaded(k, kind):
        model = wide(k) if kind == "wide" else k.Sequential([k.Input((4,)), k.layers.Dense(3), k.layers.Dense(2)])
        model.save(tmp_path / f"{k.__name__}.keras")
        k.utils.clear_session()
        again = k.models.load_model(tmp_path / f"{k.__name__}.keras")
        k.Model.from_config(k.Model(x := k.Input((2,)), x * 2, name="own").get_config())
        return names(again)[:2], again.name, k.Model(x, x * 2).name, [weight.path for weight in again.weights]

    same(lambda k: loaded(k, "wide"))
    same(lambda k: loaded(k, "stack"))


def test_an_input_is_fed_by_the_name_of_its_symbol():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model = keras.Model(a := keras.Input((4,)), model(a))
    model.compile("sgd", "mse")
    x = np.ones((2, 4), "float32")
    model.fit({a.name: x}, np.zeros((2, 2)), verbose=0)
    np.testing.assert_allclose(model.predict({a.name: x}, verbose=0), model(x), rtol=1e-6)


SHAPES = {
    "Dense": (lambda k: k.layers.Dense(2), (4,)),
    "BatchNormalization": (lambda k: k.layers.BatchNormalization(), (4,)),
    "SeparableConv1D": (lambda k: k.layers.SeparableConv1D(2, 2), (4, 3)),
    "SpectralNormalization": (lambda k: k.layers.SpectralNormalization(k.layers.Dense(1)), (4,)),
    "LSTM": (lambda k: k.layers.LSTM(2), (4, 3)),
    "GRU": (lambda k: k.layers.GRU(2), (4, 3)),
    "SimpleRNN": (lambda k: k.layers.SimpleRNN(2), (4, 3)),
    "ConvLSTM1D": (lambda k: k.layers.ConvLSTM1D(2, 2), (2, 4, 3)),
    "RNN": (lambda k: k.layers.RNN(k.layers.LSTMCell(2)), (4, 3)),
    "cells": (lambda k: k.layers.RNN([k.layers.LSTMCell(2), k.layers.GRUCell(2)]), (4, 3)),
    "Bidirectional": (lambda k: k.layers.Bidirectional(k.layers.LSTM(2)), (4, 3)),
    "both": (lambda k: k.layers.Bidirectional(k.layers.RNN(k.layers.GRUCell(2))), (4, 3)),
    "TimeDistributed": (lambda k: k.layers.TimeDistributed(k.layers.Dense(2)), (4, 3)),
    "Embedding": (lambda k: k.layers.Embedding(5, 2), (4,)),
}


def test_paths_of_weights_of_layers():
    def paths(k):
        found = []
        for make, shape in SHAPES.values():
            x = k.Input(shape)
            found += [weight.path for weight in k.Model(x, make(k)(x)).weights]
            found += [weight.path for weight in k.Sequential([k.Input(shape), make(k), k.layers.ReLU()]).weights]
        x = k.Input((4, 3))
        return found + [weight.path for weight in k.Model(x, k.layers.MultiHeadAttention(2, 2)(x, x)).weights]

    assert "sequential/dense_1/kernel" in same(paths)


def classes(k):
    class Block(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense, self.more = k.layers.Dense(3), [k.layers.Dense(2)]

        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, x):
            return self.more[0](self.dense(x * self.scale))

    class Network(k.Model):
        def __init__(self):
            super().__init__()
            self.block = Block()
            self.stack = k.Sequential([k.layers.Dense(2), k.layers.Dense(3)])
            self.known = k.Sequential([k.Input((3,)), k.layers.Dense(2)])
            x = k.Input((2,))
            self.graph_of_layers = k.Model(x, k.layers.Dense(4)(x))

        def call(self, x):
            return self.graph_of_layers(self.known(self.stack(self.block(x))))

    return Block, Network


def test_paths_of_weights_in_classes_and_models():
    def paths(k):
        block, network = classes(k)
        model, layer, x = network(), block(), k.Input((4,))
        model(np.ones((1, 4), "float32"))
        stack = k.Sequential([k.Input((4,)), k.Sequential([k.layers.Dense(3)], name="inner"), block()])
        shared = k.Sequential([k.Input((4,)), k.layers.Dense(3)], name="first")
        outer = k.Sequential([k.Input((4,)), shared, k.layers.Dense(1)])
        made = [model, k.Model(x, layer(x)), stack, outer, k.models.clone_model(k.Model(x, k.layers.Dense(2)(x)))]
        late = k.Sequential([k.layers.Dense(3), k.layers.Dense(2)], name="late")
        before = late.path
        late.build((None, 4))
        return [weight.path for thing in [*made, late] for weight in thing.weights], before, late.path, layer.path

    found, before, after, path = same(paths)
    assert {"network/block/dense/kernel", "network/sequential/dense_2/kernel", "first/dense_16/kernel"} & {*found}
    assert (before, after, path) == (None, "late", "block_1")
