"""Classifies images of MNIST's shape with a small convolutional network."""

import keras
import numpy as np
from keras import layers


def main(epochs, callbacks):
    """Trains and evaluates the network."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 4096)
    x = rng.integers(0, 256, (4096, 28, 28), dtype=np.uint8)
    x[np.arange(4096), 2 * y] = 255  # a bright row names the class
    x = np.expand_dims(x.astype("float32") / 255, -1)
    y = keras.utils.to_categorical(y, 10)

    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, validation_split=0.125, callbacks=callbacks, verbose=0)
    return model.evaluate(x[:512], y[:512], verbose=0)
