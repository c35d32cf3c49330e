"""Kinds of model classes in files: Keras reads ours, and this library reads those of Keras."""

import warnings

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras
from training.keras import registry

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
SERIES = np.stack([X, -X, X + 1, X], axis=1)
WORDS = np.array([[0, 1], [2, 3], [4, 1], [0, 2], [1, 1], [3, 3], [2, 2], [1, 4]])


@pytest.fixture(autouse=True)
def _isolated(monkeypatch):
    monkeypatch.setattr(registry, "_objects", {})
    monkeypatch.setattr(registry, "_names", {})
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for name in [name for name in theirs.saving.get_custom_objects() if name.startswith("kinds>")]:
        del theirs.saving.get_custom_objects()[name]


def inner_graph(keras, register):
    @register
    class Net(keras.Model):
        def __init__(self, units=3, **kwargs):
            inputs = keras.Input((3,))
            hidden = keras.layers.Dense(units, name="h")(inputs)
            super().__init__(inputs, keras.layers.Dense(2, name="o")(hidden), **kwargs)
            self.units = units

        def get_config(self):
            return {"units": self.units, "name": self.name}

    return Net(4), X


def added_methods(keras, register):
    @register
    class Plain(keras.Model):
        def summary_line(self):
            return f"{self.name}: {self.count_params()}"

    inputs = keras.Input((3,), name="features")
    return Plain(inputs, keras.layers.Dense(2, name="d")(inputs), name="plain"), X


def stack(keras, register):
    @register
    class Stack(keras.Sequential):
        pass

    return Stack([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)], name="stack"), X


def integers(keras, register):
    @register
    class Words(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.words, self.dense = keras.layers.Embedding(5, 3), keras.layers.Dense(2)

        def call(self, x):
            return keras.ops.mean(self.dense(self.words(x)), axis=1)

    return Words(), WORDS


def shared(keras, register):
    @register
    class Tied(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.zed = keras.layers.Dense(3)
            self.every = [self.zed, keras.layers.Dense(3)]
            self.back = keras.layers.Dense(2)

        def call(self, x):
            return self.back(self.every[1](self.every[0](self.zed(x))))

    return Tied(), X


def cells(keras, register):
    @register
    class Cell(keras.layers.Layer):
        def __init__(self, units=2, **kwargs):
            super().__init__(**kwargs)
            self.units = self.state_size = self.output_size = units

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

        def call(self, x, states):
            h = keras.ops.tanh(keras.ops.matmul(x, self.kernel) + states[0])
            return h, [h]

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    inputs = keras.Input((4, 3))
    return keras.Model(inputs, keras.layers.RNN(Cell(2), name="rnn")(inputs), name="cells"), SERIES


KINDS = [inner_graph, added_methods, stack, integers, shared, cells]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_models_are_exchanged_with_keras(kind, tmp_path):
    saved = {}
    for module in (keras, theirs):
        model, x = kind(module, module.saving.register_keras_serializable("kinds"))
        model(x)
        rng = np.random.default_rng(4)
        model.set_weights([rng.normal(0.2, 0.4, w.shape).astype("float32") for w in model.get_weights()])
        model.compile("adam", "mse")
        model.fit(x, np.ones((8, 2), "float32"), shuffle=False, verbose=0)
        saved[module] = str(tmp_path / f"{module.__name__}.keras")
        model.save(saved[module])
        outputs = model.predict(x, verbose=0)
    for load, file in ((keras, saved[keras]), (keras, saved[theirs]), (theirs, saved[keras])):
        loaded = load.saving.load_model(file)
        if kind is not cells:  # a functional model has another name in Keras
            assert type(loaded).__name__ == type(model).__name__
        np.testing.assert_allclose(loaded.predict(x, verbose=0), outputs, rtol=1e-5, atol=1e-6)
        loaded.fit(x, np.ones((8, 2), "float32"), shuffle=False, verbose=0)
        assert int(loaded.optimizer.iterations) == 2
