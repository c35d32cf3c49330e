"""A variational autoencoder with a sampling layer, which adds its divergence to the loss."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(16)

    class Sampling(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed_generator = keras.random.SeedGenerator(1337)

        def call(self, inputs):
            z_mean, z_log_var = inputs
            batch, dim = ops.shape(z_mean)[0], ops.shape(z_mean)[1]
            epsilon = keras.random.normal(shape=(batch, dim), seed=self.seed_generator)
            self.add_loss(-0.5 * ops.mean(1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var)))
            return z_mean + 0.0 * epsilon + 0.1 * ops.exp(0.5 * z_log_var)

    inputs = keras.Input((6,))
    h = layers.Dense(5, activation="relu")(inputs)
    z_mean = layers.Dense(2, name="z_mean")(h)
    z_log_var = layers.Dense(2, name="z_log_var")(h)
    z = Sampling()([z_mean, z_log_var])
    encoder = keras.Model(inputs, [z_mean, z_log_var, z], name="encoder")
    code = keras.Input((2,))
    decoder = keras.Model(code, layers.Dense(6, activation="sigmoid")(code), name="decoder")
    vae = keras.Model(inputs, decoder(encoder(inputs)[2]), name="vae")
    vae.set_weights(
        [w if w.dtype.kind == "u" else rng.normal(0, 0.4, w.shape).astype("float32") for w in vae.get_weights()]
    )
    vae.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    x = rng.random((24, 6), dtype="float32")
    history = vae.fit(x, x, batch_size=8, epochs=2, shuffle=False, verbose=0)
    mean, variance, _ = encoder.predict(x[:4], verbose=0)
    return {
        "loss": history.history["loss"],
        "mean": mean,
        "variance": variance,
        "evaluated": vae.evaluate(x, x, verbose=0),
        "decoded": decoder.predict(mean, verbose=0),
        "trained": len(vae.trainable_weights),
    }
