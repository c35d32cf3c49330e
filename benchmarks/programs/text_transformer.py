"""Classifies texts with a transformer block that is written as a layer class."""

import keras
import numpy as np
from keras import layers, ops

WORDS, LENGTH = 5000, 100


class TransformerBlock(layers.Layer):
    """Self-attention and two dense layers, each with a residual connection."""

    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.attention = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.dense = keras.Sequential([layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)])
        self.first_norm = layers.LayerNormalization(epsilon=1e-6)
        self.second_norm = layers.LayerNormalization(epsilon=1e-6)
        self.first_dropout = layers.Dropout(rate)
        self.second_dropout = layers.Dropout(rate)

    def call(self, inputs, training=None):
        """Computes the block."""
        h = self.first_dropout(self.attention(inputs, inputs), training=training)
        h = self.first_norm(inputs + h)
        return self.second_norm(h + self.second_dropout(self.dense(h), training=training))


class TokenAndPosition(layers.Layer):
    """Sum of the embeddings of words and of their positions."""

    def __init__(self, length, words, embed_dim):
        super().__init__()
        self.words = layers.Embedding(words, embed_dim)
        self.positions = layers.Embedding(length, embed_dim)

    def call(self, x):
        """Computes the embeddings."""
        return self.words(x) + self.positions(ops.arange(0, ops.shape(x)[-1], 1))


def main(epochs, callbacks):
    """Trains and evaluates the network."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 2560)
    x = rng.integers(0, WORDS, (2560, LENGTH))
    x[np.arange(2560), rng.integers(0, LENGTH, 2560)] = y  # one word names the class

    inputs = layers.Input(shape=(LENGTH,))
    h = TokenAndPosition(LENGTH, WORDS, 32)(inputs)
    h = TransformerBlock(32, 2, 32)(h)
    h = layers.GlobalAveragePooling1D()(h)
    h = layers.Dropout(0.1)(h)
    h = layers.Dense(20, activation="relu")(h)
    h = layers.Dropout(0.1)(h)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(h))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:2048], y[:2048], batch_size=32, epochs=epochs, validation_data=(x[2048:], y[2048:]),
              callbacks=callbacks, verbose=0)  # fmt: skip
    return model.evaluate(x[2048:], y[2048:], verbose=0)
