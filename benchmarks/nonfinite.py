"""Measures the cost of checking in each step whether the loss and all gradients are finite.

    python benchmarks/nonfinite.py [--rounds 15]

Whole epochs of `fit` with `nonfinite="stop"` and with `nonfinite="ignore"`, which checks nothing, take turns in one
process. Times are CPU seconds of all threads, because other load on the machine would hide a cost of a few percent in
wall-clock time. The cost is the ratio of the two medians.
"""

import argparse
import time

import measure
import numpy as np

from flaxmodels import Input, Sequential, layers, models
from training import Trainer

CHOICES = ("ignore", "stop")


def cnn():
    """Returns the simple CNN, for 1280 images of 28 x 28 in batches of 128."""
    model = models.simple_cnn(input_shape=(28, 28, 1), num_category=10)
    return model, (28, 28, 1), 1280, 128


def lstm():
    """Returns an LSTM with 128 units, for 640 sequences of 128 steps of 9 features in batches of 64."""
    model = Sequential([Input((128, 9)), layers.LSTM(128), layers.Dense(10, activation="softmax")])
    return model, (128, 9), 640, 64


def mlp():
    """Returns two layers of 512 units, for 6400 examples in batches of 32: little arithmetic per parameter."""
    hidden = [layers.Dense(512, activation="relu") for _ in range(2)]
    return Sequential([Input((784,)), *hidden, layers.Dense(10, activation="softmax")]), (784,), 6400, 32


# Each function returns the model, the shape and number of its examples, and the batch size.
CASES = {case.__name__: case for case in (cnn, lstm, mlp)}


def epoch(case, nonfinite):
    """Returns a function that trains for one epoch."""
    model, shape, examples, batch_size = case()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, *shape)).astype("float32")
    y = np.eye(10, dtype="float32")[rng.integers(0, 10, examples)]
    trainer = Trainer(model, "adam", "categorical_crossentropy", nonfinite=nonfinite, steps_per_execution=10**6)
    return lambda: trainer.fit(x, y, batch_size=batch_size, verbose=0)


def main():
    """Measures all cases and writes a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed epochs of each")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.cases:
        runs = {choice: epoch(CASES[name], choice) for choice in CHOICES}
        seconds = {choice: [] for choice in CHOICES}
        for turn in range(arguments.rounds + 1):
            for choice, run in runs.items():
                start = time.process_time()
                run()
                if turn:  # turn 0 is the warm-up
                    seconds[choice].append(time.process_time() - start)
        ignore, stop = (measure.median(seconds[choice]) for choice in CHOICES)
        row = {"case": name, "ignore_s": round(ignore, 4), "stop_s": round(stop, 4)}
        rows.append(row | {"cost_percent": round(100 * (stop / ignore - 1), 1), "rounds": arguments.rounds})
        print(rows[-1], flush=True)
    measure.write_rows(measure.results_file("nonfinite"), rows)


if __name__ == "__main__":
    main()
