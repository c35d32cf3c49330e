"""Reuses a trained base in a new model: first with the base frozen, then with a small learning rate.

The base learns to recognize digits. The new model tells odd from even digits, from 200 examples.

python examples/fine_tuning.py [--small]
"""

import sys

from flaxmodels import Input, Sequential, layers
from training import Trainer, datasets, optimizers


def make_base():
    return Sequential([
        Input((8, 8, 1)),
        layers.Conv2D(32, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
    ], name="base")  # fmt: skip


def make_trainer(base, learning_rate, variables=None):
    """Returns a trainer of a base and a new head; missing variables are initialized."""
    model = Sequential([base, layers.Dense(1, activation="sigmoid", name="head")])
    return Trainer(model, optimizers.Adam(learning_rate), "binary_crossentropy", ["accuracy"], variables=variables)


def main(small: bool) -> None:
    data = datasets.load("digits")
    epochs = 2 if small else 30
    x, y = data.train[:200]
    test_x, test_y = data.test

    digits = Sequential([make_base(), layers.Dense(10, activation="softmax")])
    source = Trainer(digits, "adam", "sparse_categorical_crossentropy")
    source.fit(data.train, epochs=epochs, verbose=0)

    base = make_base()
    base.trainable = False
    target = make_trainer(base, 1e-2, {"params": {"base": source.variables["params"]["base"]}})
    target.fit(x, y % 2, epochs=epochs, verbose=0)
    print("base frozen:", target.evaluate(test_x, test_y % 2))

    base.trainable = True  # takes effect at the next fit
    target.learning_rate = 3e-4
    target.fit(x, y % 2, epochs=epochs, verbose=0)
    print("everything trained:", target.evaluate(test_x, test_y % 2))


if __name__ == "__main__":
    main(small="--small" in sys.argv)
