"""Layers of the program that compute and take masks."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(33)

    class Shift(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.supports_masking = True

        def call(self, inputs):
            return inputs + 0.5

    class MaskedMean(layers.Layer):
        def call(self, inputs, mask=None):
            weights = ops.expand_dims(ops.cast(mask, "float32"), axis=-1)
            return ops.sum(inputs * weights, axis=1) / (ops.sum(weights, axis=1) + 1e-6)

        def compute_mask(self, inputs, mask=None):
            return None

    class OwnEmbedding(layers.Layer):
        def __init__(self, input_dim, output_dim, **kwargs):
            super().__init__(**kwargs)
            self.input_dim, self.output_dim = input_dim, output_dim

        def build(self, input_shape):
            self.embeddings = self.add_weight(
                shape=(self.input_dim, self.output_dim), initializer="random_normal", dtype="float32"
            )

        def call(self, inputs):
            return ops.take(self.embeddings, ops.cast(inputs, "int32"), axis=0)

        def compute_mask(self, inputs, mask=None):
            return ops.not_equal(inputs, 0)

    x = rng.integers(0, 5, (16, 5))
    x[:, 0] = 1
    y = rng.random((16, 2), dtype="float32")
    inputs = keras.Input((5,), dtype="int32")
    h = Shift()(OwnEmbedding(5, 3)(inputs))
    outputs = layers.Dense(2)(layers.concatenate([MaskedMean()(h), layers.GRU(2)(h)]))
    model = keras.Model(inputs, outputs)
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("adam", "mse")
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    masking = layers.Masking(mask_value=0.0)
    series = rng.random((2, 3, 2), dtype="float32")
    series[0, 1:] = 0
    return {
        "loss": history.history["loss"],
        "predicted": model.predict(x[:4], verbose=0),
        "mask": np.asarray(masking.compute_mask(series)),
        "masked": masking(series),
    }
