"""Classifies padded texts with two bidirectional LSTMs."""

import keras
import numpy as np
from keras import layers

WORDS, LENGTH = 5000, 100


def texts(count, seed):
    """Returns lists of word numbers of different lengths, and which of two vocabularies each is from."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    lengths = rng.integers(20, LENGTH + 1, count)
    rows = np.zeros((count, LENGTH), "int32")
    for row, label, length in zip(rows, labels, lengths, strict=True):
        row[:length] = rng.integers(1 + 1000 * label, WORDS, length)
    return rows, labels


def main(epochs, callbacks):
    """Trains and evaluates the network."""
    x_train, y_train = texts(2048, 3)
    x_val, y_val = texts(512, 4)

    inputs = keras.Input(shape=(None,), dtype="int32")
    x = layers.Embedding(WORDS, 64, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(64, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(64))(x)
    outputs = layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs, outputs)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=32, epochs=epochs, validation_data=(x_val, y_val), callbacks=callbacks,
              verbose=0)  # fmt: skip
    return model.evaluate(x_val, y_val, verbose=0)
