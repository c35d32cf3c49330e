"""Builds, trains, evaluates and saves a model with the core dependencies alone; the argument is the file to write."""

import sys

import numpy as np

import flaxmodels as fm
from flaxmodels import Sequential, layers
from training import Trainer, callbacks, datasets


def main(path: str) -> None:
    model = Sequential([layers.Flatten(input_shape=(8, 8, 1)), layers.Dense(10, activation="softmax")])
    model.summary()
    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", ["accuracy"])
    x, y = np.ones((32, 8, 8, 1), "float32"), np.full(32, 3, "int32")
    history = trainer.fit(x, y, epochs=2, validation_split=0.25, callbacks=[callbacks.EarlyStopping()])
    assert history.history["loss"][1] < history.history["loss"][0]
    assert trainer.evaluate(x, y)["loss"] > 0 and trainer.predict(x).shape == (32, 10)
    trainer.save(path)
    loaded, variables = fm.load(path)
    np.testing.assert_array_equal(loaded.apply(variables, x), trainer.predict(x))
    assert len(datasets.load("airline").train) == 108


if __name__ == "__main__":
    main(sys.argv[1])
