"""Classifies sequences of different length with an LSTM that skips the padding.

Each sequence is a noisy wave. The class is the wave's frequency: low, middle or high.

python examples/sequences.py [--small]
"""

import sys

import numpy as np

from flaxmodels import Sequential, layers
from training import Trainer

PADDING = -10.0  # a value that no real step has


def waves(count, seed, longest=60):
    """Returns padded waves [N, longest, 1], their classes and their lengths."""
    rng = np.random.default_rng(seed)
    x = np.full((count, longest, 1), PADDING, "float32")
    y = rng.integers(0, 3, count)
    lengths = rng.integers(20, longest + 1, count)
    for i in range(count):
        time = np.arange(lengths[i])
        wave = np.sin((0.2 + 0.3 * y[i]) * time + rng.uniform(0, 6))
        x[i, : lengths[i], 0] = wave + rng.normal(0, 0.2, lengths[i])
    return x, y, lengths


def main(small: bool) -> None:
    model = Sequential([
        layers.Masking(PADDING, input_shape=(None, 1)),
        layers.Bidirectional(layers.LSTM(16 if small else 32)),
        layers.Dense(3, activation="softmax"),
    ])  # fmt: skip
    model.summary()
    x, y, _ = waves(300 if small else 3000, seed=0)
    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    trainer.fit(x, y, epochs=2 if small else 15, validation_split=0.1, verbose=2)

    # The padding changes nothing: a sequence gives the same output without it.
    test_x, _, lengths = waves(1, seed=1)
    padded = trainer.predict(test_x)
    cut = trainer.predict(test_x[:, : lengths[0]])
    print("with and without padding:", padded.round(4), cut.round(4))
    np.testing.assert_allclose(padded, cut, atol=1e-5)


if __name__ == "__main__":
    main(small="--small" in sys.argv)
