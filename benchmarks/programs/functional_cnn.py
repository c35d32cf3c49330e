"""Classifies images with a residual network of the functional API."""

import keras
import numpy as np
from keras import layers


def main(epochs, callbacks):
    """Trains and evaluates the network."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 10, 2048)
    x = rng.normal(size=(2048, 32, 32, 3)).astype("float32")
    x[np.arange(2048), 3 * y] += 1.0

    inputs = keras.Input(shape=(32, 32, 3), name="img")
    h = layers.Conv2D(32, 3, activation="relu")(inputs)
    h = layers.Conv2D(64, 3, activation="relu")(h)
    block = layers.MaxPooling2D(3)(h)
    for _ in range(2):
        h = layers.Conv2D(64, 3, activation="relu", padding="same")(block)
        h = layers.Conv2D(64, 3, activation="relu", padding="same")(h)
        block = layers.add([h, block])
    h = layers.Conv2D(64, 3, activation="relu")(block)
    h = layers.GlobalAveragePooling2D()(h)
    h = layers.Dense(256, activation="relu")(h)
    h = layers.Dropout(0.5)(h)
    outputs = layers.Dense(10)(h)
    model = keras.Model(inputs, outputs, name="toy_resnet")
    model.compile(
        optimizer=keras.optimizers.RMSprop(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["acc"],
    )
    model.fit(x, y, batch_size=64, epochs=epochs, validation_split=0.125, callbacks=callbacks, verbose=0)
    return model.evaluate(x[:256], y[:256], verbose=0)
