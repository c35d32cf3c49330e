"""Trains with a custom loop over the pure step functions.

python examples/custom_loop.py [--small]
"""

import sys

import jax
import numpy as np

from flaxmodels import Sequential, layers
from training import datasets, optimizers, steps
from training.objective import Objective


def batches(x, y, size, rng):
    """Yields shuffled batches of one size; the examples that do not fill a batch are left out."""
    order = rng.permutation(len(x))
    for start in range(0, len(x) - size + 1, size):
        chosen = order[start : start + size]
        yield steps.Batch(x[chosen], y[chosen])


def main(small: bool) -> None:
    data = datasets.load("digits")
    (x, y), (test_x, test_y) = data.train, data.test
    model = Sequential([
        layers.Flatten(input_shape=(8, 8, 1)),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    optimizer = optimizers.Adam(1e-3)
    example = steps.Batch(x[:32], y[:32])
    objective = Objective.of(model, example, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    state, rules = steps.create_state(model, optimizer, example.x, seed=0)
    # The old state is donated: its memory is used for the new one.
    train_step = jax.jit(steps.make_train_step(model, objective, optimizer, rules), donate_argnums=0)
    eval_step = jax.jit(steps.make_eval_step(model, objective))

    rng = np.random.default_rng(0)
    for epoch in range(2 if small else 20):
        totals = objective.empty()
        for batch in batches(x, y, 32, rng):
            state, totals = train_step(state, totals, batch)
        test = objective.empty()
        _, test = eval_step(state.variables, test, steps.Batch(test_x, test_y))
        train_logs, test_logs = objective.logs(totals), objective.logs(test)
        print(f"epoch {epoch + 1}: loss {train_logs['loss']:.4f}, test accuracy {test_logs['accuracy']:.4f}")


if __name__ == "__main__":
    main(small="--small" in sys.argv)
