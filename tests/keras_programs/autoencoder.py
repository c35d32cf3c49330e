"""Encoder and decoder as models inside a model, which share their weights with it."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(3)
    x = rng.random((40, 8, 8, 1), dtype="float32")
    image = keras.Input((8, 8, 1), name="image")
    h = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    code = layers.Dense(3, name="code")(layers.Flatten()(h))
    encoder = keras.Model(image, code, name="encoder")
    start = keras.Input((3,), name="start")
    h = layers.Reshape((4, 4, 4))(layers.Dense(64, activation="relu")(start))
    decoder = keras.Model(
        start, layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid")(h), name="decoder"
    )
    model = keras.Model(image, decoder(encoder(image)), name="autoencoder")
    model.set_weights([rng.normal(0, 0.2, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("adam", "binary_crossentropy")
    history = model.fit(x, x, epochs=2, batch_size=16, shuffle=False, verbose=0)
    encoder.trainable = False
    model.compile("adam", "binary_crossentropy")
    before = encoder.get_weights()[0]
    again = model.fit(x, x, epochs=1, batch_size=16, shuffle=False, verbose=0)
    return {
        "loss": history.history["loss"],
        "again": again.history["loss"],
        "moved": float(np.abs(encoder.get_weights()[0] - before).max()),
        "codes": encoder.predict(x[:4], verbose=0),
        "decoded": decoder.predict(encoder.predict(x[:4], verbose=0), verbose=0),
        "whole": model.predict(x[:4], verbose=0),
        "trainable": [len(model.trainable_weights), len(model.non_trainable_weights), len(decoder.trainable_weights)],
        "parameters": [model.count_params(), encoder.count_params()],
    }
