"""A recurrent cell written as a class, stacked cells, and convolutions through time."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(35)

    class MinimalRNNCell(layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.state_size = units

        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="uniform", name="kernel")
            self.recurrent_kernel = self.add_weight(
                shape=(self.units, self.units), initializer="uniform", name="recurrent_kernel"
            )

        def call(self, inputs, states):
            h = ops.matmul(inputs, self.kernel)
            output = h + ops.matmul(states[0], self.recurrent_kernel)
            return output, [output]

    inputs = keras.Input((4, 3))
    h = layers.RNN(MinimalRNNCell(4), return_sequences=True)(inputs)
    outputs = layers.Dense(1)(layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)])(h))
    model = keras.Model(inputs, outputs)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("adam", "mse")
    x, y = rng.random((16, 4, 3), dtype="float32"), rng.random((16, 1), dtype="float32")
    history = model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    return {
        "loss": history.history["loss"],
        "predicted": model.predict(x[:4], verbose=0),
        "weights": [str(tuple(w.shape)) for w in model.weights],
    }
