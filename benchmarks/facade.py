"""Measures what `training.keras` adds to `Trainer.fit`, and short calls beside Keras.

    KERAS_BACKEND=jax python benchmarks/facade.py [--rounds 9]

The first part trains a CNN for one epoch of about half a second: by `Trainer.fit`, and by `fit` of the same model made
with `training.keras`. Both run from their third call on and take turns, so that both see the same load. The second part
counts calls per second of methods on single batches, of short `fit` and of short `predict`, for a network of two layers
of 64 units and batches of 32 examples, beside Keras on JAX.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import keras as real_keras
import measure
import numpy as np

from training import Trainer
from training import keras as ours
from training.keras.convert import to_trained

CALLS = {"train_on_batch": 200, "test_on_batch": 200, "predict_on_batch": 200, "fit": 50, "predict": 200}


def network(keras: Any) -> Any:
    """Returns a compiled CNN."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def epoch_of_half_a_second(rounds: int) -> Iterator[dict[str, object]]:
    """Yields a row for `Trainer.fit` and one for the facade."""
    rng = np.random.default_rng(0)
    x, y = rng.random((4096, 28, 28, 1), dtype="float32"), rng.integers(0, 10, 4096).astype("int32")
    facade = network(ours)
    facade.fit(x[:64], y[:64], verbose=0)
    pure = to_trained(facade)
    trainer = Trainer(
        pure, "adam", "sparse_categorical_crossentropy", ["accuracy"], nonfinite="ignore",
        variables=jax.tree.map(jax.numpy.copy, facade._trainer.variables),
    )  # fmt: skip
    options: dict[str, Any] = {"batch_size": 64, "verbose": 0}
    start = time.perf_counter()
    for _ in range(2):
        trainer.fit(x, y, **options)
    start = time.perf_counter()
    trainer.fit(x, y, **options)
    count = max(1, int(len(x) * 0.5 / (time.perf_counter() - start)) // 64) * 64
    x, y = np.resize(x, (count, 28, 28, 1)), np.resize(y, count)
    runs = {"Trainer.fit": lambda: trainer.fit(x, y, **options), "keras.Model.fit": lambda: facade.fit(x, y, **options)}
    for _ in range(2):
        for run in runs.values():
            run()
    seconds = measure.interleaved(runs, rounds)
    base = seconds["Trainer.fit"]
    for name, times in seconds.items():
        over = [mine / theirs - 1 for mine, theirs in zip(times, base, strict=True)]
        yield {
            "call": name,
            "milliseconds": round(1e3 * measure.median(times), 1),
            "over_trainer_percent": round(100 * (measure.median(times) / measure.median(base) - 1), 1),
            "turn_by_turn_percent": round(100 * measure.median(over), 1),
            "best_percent": round(100 * (min(times) / min(base) - 1), 1),
            "spread": round(max(times) / min(times), 2),
        }


def short_calls(keras: Any) -> dict[str, Callable[[], object]]:
    """Returns functions that do many short calls, by the name of the method."""
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 20), dtype="float32"), rng.integers(0, 3, 32)
    layers = keras.layers
    hidden = [layers.Dense(64, activation="relu"), layers.Dense(64, activation="relu")]
    model = keras.Sequential([keras.Input((20,)), *hidden, layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    once: dict[str, Callable[[int], object]] = {
        "train_on_batch": lambda i: model.train_on_batch(x, y),
        "test_on_batch": lambda i: model.test_on_batch(x, y),
        "predict_on_batch": lambda i: model.predict_on_batch(x),
        "fit": lambda i: model.fit(x, y, epochs=1, verbose=0),
        "predict": lambda i: model.predict(x[: 1 + i % 32], verbose=0),
    }
    return {name: lambda call=call, n=CALLS[name]: [call(i) for i in range(n)] for name, call in once.items()}


def calls_per_second(rounds: int) -> Iterator[dict[str, object]]:
    """Yields a row for each method."""
    both = {"Keras on JAX": short_calls(real_keras), "training.keras": short_calls(ours)}
    for name, count in CALLS.items():
        runs = {who: calls[name] for who, calls in both.items()}
        for run in runs.values():
            run()
        seconds = measure.interleaved(runs, rounds)
        rates = {who: count / measure.median(times) for who, times in seconds.items()}
        ratio = rates["training.keras"] / rates["Keras on JAX"]
        yield {"call": name, **{who: round(rate) for who, rate in rates.items()}, "ratio": round(ratio, 2)}


def main() -> None:
    """Measures both parts; prints tables and writes CSV files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each competitor")
    arguments = parser.parse_args()
    print(measure.environment("jax", "flax", "keras"), flush=True)
    for name, rows in (
        ("facade", list(epoch_of_half_a_second(arguments.rounds))),
        ("facade-calls", list(calls_per_second(arguments.rounds))),
    ):
        measure.write_rows(measure.results_file(name), rows)
        print(measure.markdown(rows), flush=True)


if __name__ == "__main__":
    main()
