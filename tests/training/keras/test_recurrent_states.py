"""States of recurrent layers, as in Keras."""

import re

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras

X = np.linspace(-1, 1, 24, dtype="float32").reshape(2, 4, 3)
LAYERS = {
    "LSTM": lambda k: k.layers.LSTM(2, stateful=True, kernel_initializer="ones"),
    "GRU": lambda k: k.layers.GRU(2, stateful=True, kernel_initializer="ones"),
    "SimpleRNN": lambda k: k.layers.SimpleRNN(2, stateful=True, kernel_initializer="ones"),
    "RNN": lambda k: k.layers.RNN(k.layers.LSTMCell(2), stateful=True),
    "Bidirectional": lambda k: k.layers.Bidirectional(k.layers.LSTM(2, stateful=True)),
    "not stateful": lambda k: k.layers.LSTM(2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_states_move_and_are_reset_as_in_keras(name):
    def run(k):
        k.utils.set_random_seed(0)
        layer = LAYERS[name](k)
        found = [layer.states]
        for _ in range(2):
            found.append(np.asarray(layer(X)))
            found.append(jax.tree.map(np.asarray, layer.states, is_leaf=lambda leaf: hasattr(leaf, "numpy")))
        if name != "Bidirectional" or layer.forward_layer.stateful:
            layer.reset_state()
            found.append(jax.tree.map(np.asarray, layer.states, is_leaf=lambda leaf: hasattr(leaf, "numpy")))
            layer(X)
            layer.reset_states()
        return [*found, np.asarray(layer(X))]

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found, wanted = run(keras), run(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_states_can_be_assigned_and_are_reset_in_a_model():
    inputs = keras.Input(batch_shape=(2, 4, 3))
    layer = keras.layers.SimpleRNN(1, stateful=True, use_bias=False, activation=None, recurrent_initializer="ones")
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_array_equal(layer.states[0], np.zeros((2, 1)))
    zeros = np.zeros((2, 4, 3), "float32")
    layer.states[0].assign(np.ones((2, 1)))
    np.testing.assert_array_equal(model.predict(zeros, batch_size=2, verbose=0), np.ones((2, 1)))
    layer.reset_state()
    np.testing.assert_array_equal(model.predict(zeros, batch_size=2, verbose=0), np.zeros((2, 1)))


def test_directions_without_states_are_refused():
    layer = keras.layers.Bidirectional(keras.layers.GRU(2), name="both")
    sentence = (
        "Only a layer with stateful=True has states to reset, got 'both' without it; pass stateful=True to the layer "
        "inside."
    )
    with pytest.raises(AttributeError, match=f"^{re.escape(sentence)}$"):
        layer.reset_states()
