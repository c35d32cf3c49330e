"""Compares two images of digits with the functional API: one shared tower, two inputs, two outputs.

python examples/two_inputs.py [--small]
"""

import sys

import numpy as np

from flaxmodels import Input, Model, layers
from training import Trainer, datasets


def pairs(split, count, seed):
    """Returns pairs of images, whether both show the same digit, and the sum of the digits."""
    images, labels = split
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(labels), count)
    second = rng.integers(0, len(labels), count)
    # Half of the pairs get a second image of the same digit.
    for i in range(0, count, 2):
        second[i] = rng.choice(np.flatnonzero(labels == labels[first[i]]))
    same = (labels[first] == labels[second]).astype("float32")[:, None]
    total = (labels[first] + labels[second]).astype("float32")[:, None]
    return {"left": images[first], "right": images[second]}, {"same": same, "total": total}


def main(small: bool) -> None:
    data = datasets.load("digits")
    image = Input((8, 8, 1))
    tower = Model(image, layers.Dense(64, activation="relu")(layers.Flatten()(image)), name="tower")

    left, right = Input((8, 8, 1), name="left"), Input((8, 8, 1), name="right")
    a, b = tower(left), tower(right)  # both calls share the parameters
    difference = layers.Lambda(abs)(layers.Subtract()([a, b]))
    outputs = {
        "same": layers.Dense(1, activation="sigmoid", name="same")(layers.Dense(32, activation="relu")(difference)),
        "total": layers.Dense(1, name="total")(layers.Concatenate()([a, b])),
    }
    model = Model([left, right], outputs)
    model.summary()

    trainer = Trainer(
        model,
        "adam",
        loss={"same": "binary_crossentropy", "total": "mse"},
        loss_weights={"same": 1.0, "total": 0.05},
        metrics={"same": ["accuracy"], "total": ["mae"]},
    )
    x, y = pairs(data.train, 1000 if small else 20000, seed=0)
    trainer.fit(x, y, epochs=2 if small else 15, verbose=2)
    print(trainer.evaluate(*pairs(data.test, 500, seed=1)))


if __name__ == "__main__":
    main(small="--small" in sys.argv)
