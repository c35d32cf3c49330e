"""Training runs with everything that resuming must restore, also as a process that tests can kill.

    python tests/support/interrupted.py KIND FOLDER [slow]

trains with checkpoints in FOLDER and prints a line at each chunk and at each validation.
"""

import itertools
import os
import pathlib
import signal
import sys
import time

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[2] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import numpy as np

from flaxmodels import Input, Model, Sequential, layers
from training import Checkpoints, Trainer, callbacks, optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 5)).astype("float32")
Y = RNG.integers(0, 2, 30).astype("int32")


def build(**arguments):
    """Returns a trainer of a classifier with dropout, batch statistics and averaged weights."""
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


def build_with_outputs(**arguments):
    """Returns a trainer with two outputs, recurrent dropout and gradient accumulation."""
    inputs = Input((5,))
    sequence = layers.Reshape((5, 1))(inputs)
    recurrent = layers.GRU(4, dropout=0.2, recurrent_dropout=0.3)(sequence)
    outputs = [layers.Dense(2, activation="softmax", name="class")(recurrent), layers.Dense(1, name="sum")(recurrent)]
    optimizer = optimizers.AdamW(0.05, use_ema=True, ema_overwrite_frequency=5, gradient_accumulation_steps=3)
    return Trainer(
        Model(inputs, outputs),
        optimizer,
        {"class": "sparse_categorical_crossentropy", "sum": "mse"},
        {"class": ["accuracy"], "sum": ["mae"]},
        loss_weights={"class": 1.0, "sum": 0.5},
        seed=3,
        **{"steps_per_execution": 1} | arguments,
    )


def build_stateful(**arguments):
    """Returns a trainer of a stateful LSTM, whose states also continue through the validation."""
    model = Sequential(
        [Input(batch_shape=(5, 5)), layers.Reshape((5, 1)), layers.LSTM(4, stateful=True), layers.Dense(2, "softmax")]
    )
    arguments = {"steps_per_execution": 1} | arguments
    return Trainer(model, "adam", "sparse_categorical_crossentropy", ["accuracy"], seed=3, **arguments)


def callbacks_of():
    return [
        callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(patience=0, factor=0.5, cooldown=1),
    ]


def all_callbacks(files):
    """Returns callbacks that keep a state, change the run or write files."""
    files.mkdir(exist_ok=True)
    return [
        callbacks.LearningRateScheduler(lambda epoch, rate: rate * (0.5 if epoch == 2 else 1.0)),
        callbacks.ReduceLROnPlateau("val_loss", patience=0, factor=0.5),
        callbacks.SwapEMAWeights(swap_on_epoch=True),
        callbacks.TerminateOnNaN(),
        callbacks.ModelCheckpoint(files / "best.safetensors", save_best_only=True),
        callbacks.ModelCheckpoint(files / "step.safetensors", save_freq=7),
        callbacks.CSVLogger(files / "log.csv"),
        callbacks.CSVLogger(files / "appended.csv", append=True),
        callbacks.EarlyStopping("val_class_loss", patience=4, restore_best_weights=True),
    ]


def stream(number):
    order = np.random.default_rng(number).permutation(len(X))
    for rows in np.array_split(order, 4):
        yield X[rows], Y[rows]


def endless():
    for number in itertools.count():
        yield from stream(number)


class Items:
    """A sequence of batches that changes after each pass."""

    passes = 0

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return list(stream(self.passes))[i]

    def on_epoch_end(self):
        self.passes += 1


def slow_stream():
    """Yields validation batches slowly, so that a kill hits the validation."""
    for batch in stream(0):
        time.sleep(0.03)
        yield batch


BUILDERS = {"outputs": build_with_outputs, "stateful": build_stateful}
ARRAYS = {"x": X, "y": Y, "batch_size": 8}
# Functions that make the arguments of `fit` for each kind of data.
KINDS = {
    "arrays": lambda: ARRAYS,
    "stream": lambda: {"x": stream},
    "cut": lambda: ARRAYS | {"steps_per_epoch": 3},
    "cut stream": lambda: {"x": stream, "steps_per_epoch": 3},
    "iterator": lambda: {"x": endless(), "steps_per_epoch": 3, "validation_data": endless(), "validation_steps": 2},
    "sequence": lambda: {"x": Items(), "validation_data": Items()},
    "validation": lambda: ARRAYS | {"validation_data": slow_stream},
    "stateful": lambda: {"x": X, "y": Y, "batch_size": 5, "validation_data": (X[:10], Y[:10])},
    "outputs": lambda: {"x": X, "y": {"class": Y, "sum": X.sum(1, keepdims=True)}, "batch_size": 8},
}


def fit(kind, resume=None, more=(), files=None, **arguments):
    """Trains on data of a kind, and returns the trainer and its history."""
    given = {"validation_data": (X[:9], Y[:9])} | KINDS[kind]()
    if kind == "outputs":
        given["validation_data"] = X[:9], {name: y[:9] for name, y in given["y"].items()}
    trainer = BUILDERS.get(kind, build)(**arguments)
    called_back = callbacks_of() if files is None else all_callbacks(files)
    history = trainer.fit(**given, epochs=6, verbose=0, callbacks=[*called_back, *more], resume=resume)
    return trainer, history


def resumable_results(trainer, history, files=None):
    """Returns everything that resuming must preserve: variables, optimizer state, history, and files of callbacks."""
    import jax

    from training.checkpoints import leaves_by_path

    found = {name: np.array(leaf) for name, leaf in leaves_by_path(trainer.variables).items()}
    found |= {f"opt/{name}": np.array(leaf) for name, leaf in leaves_by_path(trainer.state.opt_state).items()}
    found |= {f"history/{name}": np.array(values) for name, values in history.history.items()}
    # A process that is killed while it writes a file leaves a hidden one behind.
    for path in [] if files is None else sorted(files.glob("[!.]*")):
        found[f"file/{path.name}"] = np.frombuffer(path.read_bytes(), np.uint8)
    return found | {"epochs": np.array(history.epoch), "key": np.array(jax.random.key_data(trainer.state.key))}


def files_beside(folder, kind):
    """Returns the folder of the files that callbacks write, or None if they write none."""
    return pathlib.Path(f"{folder}-files") if kind == "outputs" else None


class PrintEvents(callbacks.Callback):
    """Prints a line at each chunk and validation, and waits after each chunk."""

    def on_chunk_end(self, step, logs=None):
        print("running", flush=True)
        time.sleep(0.05)

    def on_test_begin(self, logs=None):
        print("validating", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores SIGINT
    kind, folder, *slow = sys.argv[1:]
    try:
        fit(kind, Checkpoints(folder, every=2), [PrintEvents()] if slow else [], files_beside(folder, kind))
    except KeyboardInterrupt:
        sys.exit(130)
