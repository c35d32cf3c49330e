"""A run with all that decides how it goes on: dropout, statistics, a falling rate, early stopping; also as a process.

    python interrupted.py KIND FOLDER [slow]

trains with checkpoints in FOLDER and prints a line at each chunk.
"""

import os
import pathlib
import signal
import sys
import time

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import numpy as np

from flaxmodels import Input, Sequential, layers
from training import Checkpoints, Trainer, callbacks, optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 5)).astype("float32")
Y = RNG.integers(0, 2, 30).astype("int32")


def build(**arguments):
    model = Sequential(
        [
            Input((5,)),
            layers.Dense(6, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(2, activation="softmax"),
        ]
    )
    arguments = {"steps_per_execution": 1} | arguments
    return Trainer(
        model, optimizers.Adam(0.05, use_ema=True), "sparse_categorical_crossentropy", ["accuracy"], seed=3, **arguments
    )


def callbacks_of():
    return [
        callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(patience=0, factor=0.5, cooldown=1),
    ]


def stream(number):
    order = np.random.default_rng(number).permutation(len(X))
    for rows in np.array_split(order, 4):
        yield X[rows], Y[rows]


def fit(kind, resume=None, more=(), **arguments):
    """Trains on arrays or on a stream of the same examples: the trainer and its history."""
    trainer = build(**arguments)
    data = {"x": X, "y": Y, "batch_size": 8} if kind == "arrays" else {"x": stream}
    history = trainer.fit(
        **data, epochs=6, verbose=0, validation_data=(X[:9], Y[:9]), callbacks=[*callbacks_of(), *more], resume=resume
    )
    return trainer, history


def numbers(trainer, history):
    """All that must be the same: parameters, statistics, optimizer, history."""
    import jax

    from training.checkpoints import named

    found = {name: np.array(leaf) for name, leaf in named(trainer.variables).items()}
    found |= {f"opt/{name}": np.array(leaf) for name, leaf in named(trainer.state.opt_state).items()}
    found |= {f"history/{name}": np.array(values) for name, values in history.history.items()}
    return found | {"epochs": np.array(history.epoch), "key": np.array(jax.random.key_data(trainer.state.key))}


class Tell(callbacks.Callback):
    """Prints a line at each chunk, and takes its time."""

    def on_chunk_end(self, step, logs=None):
        print("running", flush=True)
        time.sleep(0.05)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    kind, folder, *slow = sys.argv[1:]
    try:
        fit(kind, Checkpoints(folder, every=2), [Tell()] if slow else [])
    except KeyboardInterrupt:
        sys.exit(130)
