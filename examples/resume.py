"""Interrupts a run in the middle of an epoch, resumes it, and compares it with a run that was never interrupted.

python examples/resume.py [--small]
"""

import sys
import tempfile

import jax
import numpy as np

from flaxmodels import Sequential, layers
from training import Checkpoints, Trainer, callbacks, datasets


class PowerFailure(callbacks.Callback):
    """Raises an error after some chunks of steps, as if the machine had failed."""

    def __init__(self, after):
        self.left = after

    def on_chunk_end(self, step, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("power failure")


def train(folder, epochs, extra=()):
    """Trains a small network, and resumes from the folder if it holds checkpoints."""
    data = datasets.load("digits")
    model = Sequential(
        [layers.Flatten(input_shape=(8, 8, 1)), layers.Dropout(0.2), layers.Dense(10, activation="softmax")]
    )
    loss = "sparse_categorical_crossentropy"
    trainer = Trainer(model, "adam", loss, seed=0, steps_per_execution=10)
    history = trainer.fit(
        data.train, epochs=epochs, callbacks=list(extra), resume=Checkpoints(folder, every=10), verbose=0
    )
    return trainer, history


def main(small: bool) -> None:
    epochs = 3 if small else 10
    with tempfile.TemporaryDirectory() as interrupted, tempfile.TemporaryDirectory() as whole:
        try:
            train(interrupted, epochs, [PowerFailure(after=8)])
        except RuntimeError as error:
            print("the first run ended:", error)
        resumed, history = train(interrupted, epochs)
        expected, _ = train(whole, epochs)
    print("epochs:", [epoch + 1 for epoch in history.epoch])
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, expected.variables)
    print("the variables are bit-identical")


if __name__ == "__main__":
    main(small="--small" in sys.argv)
