"""Trains each model on real data and compares its test accuracy with the expected one.

    python benchmarks/accuracy.py --data FOLDER [--only mnist]

FOLDER holds mnist/ and fashion_mnist/ with the four original files each, and pendigits/ with pendigits.tra.csv and
pendigits.tes.csv. Without it, MNIST and Fashion-MNIST are downloaded, and PenDigits is skipped.
"""

import argparse
import pathlib
import shutil
import time

import measure
import numpy as np

from flaxmodels import models
from training import Trainer, datasets, optimizers, report
from training.datasets import Split


def pendigits(folder: pathlib.Path) -> tuple[Split, Split]:
    """Reads pen strokes: 8 points with two coordinates from 0 to 100; the digit is the last column."""
    splits = []
    for file in ("pendigits.tra.csv", "pendigits.tes.csv"):
        table = np.loadtxt(folder / file, delimiter=",", dtype=np.int32)
        splits.append(Split(table[:, :-1].reshape(-1, 8, 2).astype(np.uint8), table[:, -1], 1 / 100, 10))
    return splits[0], splits[1]


def image_set(name):
    """Returns a function that loads a set from the original files, or downloads it."""

    def load(folder):
        data = datasets.load(name, raw_dir=folder / name if folder else None)
        return data.train, data.test

    return load


def embedded(name):
    """Returns a function that loads a set that is part of an installed package."""

    def load(folder):
        data = datasets.load(name)
        return data.train, data.test

    return load


# Case: data, model, epochs, batch size, optimizer, expected accuracy on the test set.
CASES = {
    "mnist-simple_cnn": (image_set("mnist"), lambda: models.simple_cnn((28, 28, 1), 10), 3, 128, "adam", 0.988),
    "mnist-functional_cnn": (image_set("mnist"), lambda: models.functional_cnn((28, 28, 1), 10), 3, 128, "adam", 0.988),
    "fashion_mnist-simple_cnn": (
        image_set("fashion_mnist"),
        lambda: models.simple_cnn((28, 28, 1), 10),
        3,
        128,
        "adam",
        0.885,
    ),
    "digits_sequence-lstm": (
        embedded("digits_sequence"),
        lambda: models.rnn_classifier((8, 8), 10, cell="lstm", units=64),
        40,
        32,
        optimizers.Adam(3e-3),
        0.93,
    ),
    "digits_sequence-gru": (
        embedded("digits_sequence"),
        lambda: models.rnn_classifier((8, 8), 10, cell="gru", units=64),
        40,
        32,
        optimizers.Adam(3e-3),
        0.93,
    ),
    "pendigits-lstm": (
        lambda folder: pendigits(folder / "pendigits"),
        lambda: models.rnn_classifier((8, 2), 10, cell="lstm", units=128),
        30,
        64,
        optimizers.Adam(3e-3),
        0.975,
    ),
}


def classify(name, folder):
    """Trains a classifier and returns the row of its case."""
    load, build, epochs, batch_size, optimizer, expected = CASES[name]
    train, test = load(folder)
    trainer = Trainer(build(), optimizer, "categorical_crossentropy", ["accuracy"], seed=0)
    start = time.perf_counter()
    history = trainer.fit(train, batch_size=batch_size, epochs=epochs, validation_data=test, verbose=2)
    return row(name, "accuracy", history.history["val_accuracy"][-1], expected, epochs, start, history)


def forecast():
    """Trains the forecaster; its test error must be below the error of forecasting the last value."""
    data = datasets.load("airline")
    trainer = Trainer(models.rnn_forecaster((12, 1), cell="gru", units=64), optimizers.Adam(0.01), "mse", ["mae"])
    start = time.perf_counter()
    history = trainer.fit(data.train, batch_size=16, epochs=100, validation_data=data.test, verbose=0)
    x, y = data.test
    error = np.abs(data.info.restore(trainer.predict(x)) - data.info.restore(y)).mean()
    naive = np.abs(data.info.restore(x[:, -1]) - data.info.restore(y)).mean()
    return row("airline-gru", "mean absolute error", error, naive, 100, start, history)


def row(name, measured, value, expected, epochs, start, history):
    """Writes history and curves of a case and returns its row."""
    seconds = time.perf_counter() - start
    folder = measure.RESULTS / "accuracy" / name
    shutil.rmtree(folder, ignore_errors=True)
    report.write(folder, history, name)
    (folder / "history.json").unlink()
    met = value < expected if "error" in measured else value >= expected
    print(f"{name}: {measured} {value:.4f}, expected {expected:.4f}: {'met' if met else 'MISSED'}", flush=True)
    return {
        "case": name,
        "measured": measured,
        "value": f"{value:.4f}",
        "expected": f"{expected:.4f}",
        "met": met,
        "epochs": epochs,
        "seconds": f"{seconds:.1f}",
        "device": measure.device(),
        "versions": measure.versions("flaxmodels-training", "jax", "flax", "optax"),
    }


def main():
    """Runs the cases and adds them to the CSV file; returns 1 if a case misses its expected value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, help="folder with the original files")
    parser.add_argument("--only", default="", help="run only cases whose name contains this")
    args = parser.parse_args()
    names = [name for name in CASES if args.only in name and (args.data or "pendigits" not in name)]
    rows = [classify(name, args.data) for name in names]
    if args.only in "airline-gru":
        rows.append(forecast())
    measure.merge_rows(measure.results_file("accuracy"), rows, by="case")
    return 0 if all(r["met"] for r in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
