"""What does `fit` cost over the same step in a loop written by hand?

    python benchmarks/overhead.py [--rounds 9] [--batches 3 10 40] [--keep-memory]

`fit` shows its live display on a pseudo-terminal and calls three callbacks; the loops do nothing but steps. All are in
one process and take turns, so that the machine treats them alike; each runs five epochs a turn. Beside the medians of
all turns stands the best one, which a busy machine disturbs least. With --keep-memory, `training.keep_memory()` is
called before anything else, as the command line does.
"""

import argparse
import os
import pty
import sys
import threading
import time

import competitors
import jax
import jax.numpy as jnp
import measure

import flaxmodels
from training import Trainer, callbacks, keep_memory, optimizers, steps
from training.objective import Objective

EPOCHS = 5


def terminal():
    """Gives this process a pseudo-terminal as its standard output, which someone reads; returns the real one."""
    real = os.fdopen(os.dup(1), "w")
    ours, theirs = pty.openpty()
    os.dup2(theirs, 1)
    os.environ["TERM"] = "xterm-256color"

    def read():
        while os.read(ours, 65536):
            pass

    threading.Thread(target=read, daemon=True).start()
    sys.stdout = os.fdopen(1, "w", buffering=1)
    return real


def called_back():
    return [
        callbacks.EarlyStopping("loss", patience=10**6),
        callbacks.ReduceLROnPlateau("loss", patience=10**6),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ]


def by_hand(model, x, y, o):
    """Two loops over epochs of the same step: one program for an epoch, and one program for a step."""
    adam, key = optimizers.Adam(), jax.random.key(0)
    state, rules = steps.create_state(model, adam, x[:1])
    example = steps.Batch(x, y)
    objective = Objective.of(model, example, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    step = steps.make_train_step(model, objective, adam, rules, "stop")
    data, count = steps.Batch(jnp.asarray(x), jnp.asarray(y)), o["n"] // o["batch"]
    held = [state]

    def one_epoch(state, data, key):
        order = steps.make_order(key, o["n"], o["batch"])

        def body(carry, i):
            return step(*carry, steps.batch_at(data, order, i, 1.0, False)), None

        return jax.lax.scan(body, (state, objective.empty()), jnp.arange(count))[0]

    epoch = jax.jit(one_epoch, donate_argnums=0)
    one = jax.jit(
        lambda state, totals, data, order, i: step(state, totals, steps.batch_at(data, order, i, 1.0, False)),
        donate_argnums=(0, 1),
    )
    shuffled = jax.jit(lambda key: steps.make_order(key, o["n"], o["batch"]))

    def scanned():
        for number in range(EPOCHS):
            held[0], totals = epoch(held[0], data, jax.random.fold_in(key, number))
            jax.device_get(objective.logs(totals))

    def stepwise():
        for number in range(EPOCHS):
            totals, order = objective.empty(), shuffled(jax.random.fold_in(key, number))
            for i in range(count):
                held[0], totals = one(held[0], totals, data, order, i)
            jax.device_get(objective.logs(totals))

    return scanned, stepwise


def cases(batches):
    """Name, model and numbers: epochs of several lengths of a convolutional and a recurrent model."""
    for model in ("functional_cnn", "lstm"):
        batch = 128 if model == "functional_cnn" else 64
        for count in batches:
            o = competitors.sizes({"n": batch * count, "batch": batch, "t": 32, "units": 64})
            yield (
                f"{model}, {count} steps",
                competitors.network(flaxmodels, model, o),
                competitors.examples(model, o),
                o,
            )


def measured(name, model, examples, o, rounds):
    """Rows for `fit`, with and without display and callbacks, and for the loops."""
    x, y, _ = examples
    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", ["accuracy"])
    scanned, stepwise = by_hand(model, x, y, o)
    runs = {
        "scan by hand": scanned,
        "steps by hand": stepwise,
        "fit, display and 3 callbacks": lambda: trainer.fit(
            x, y, batch_size=o["batch"], epochs=EPOCHS, verbose=1, callbacks=called_back()
        ),
        "fit, silent": lambda: trainer.fit(x, y, batch_size=o["batch"], epochs=EPOCHS, verbose=0),
    }
    for run in runs.values():
        run()  # `fit` finds the length of its chunks in its first runs
    seconds = measure.interleaved(runs, rounds)
    base = measure.median(seconds["scan by hand"])
    for competitor, times in seconds.items():
        # Turn by turn, because what slows a turn slows its neighbours as well.
        over = [mine / theirs - 1 for mine, theirs in zip(times, seconds["scan by hand"], strict=True)]
        yield {
            "case": name,
            "competitor": competitor,
            "milliseconds_per_epoch": round(1e3 * measure.median(times) / EPOCHS, 2),
            "over_scan_percent": round(100 * (measure.median(times) / base - 1), 1),
            "turn_by_turn_percent": round(100 * measure.median(over), 1),
            "best_percent": round(100 * (min(times) / min(seconds["scan by hand"]) - 1), 1),
            "spread": round(max(times) / min(times), 2),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[3, 10, 40])
    parser.add_argument("--keep-memory", action="store_true")
    arguments = parser.parse_args()
    kept = arguments.keep_memory and keep_memory()
    real, start, rows = terminal(), time.perf_counter(), []
    print(measure.surroundings("jax", "flax", "optax"), file=real, flush=True)
    for case in cases(arguments.batches):
        rows += measured(*case, arguments.rounds)
        print(f"{case[0]} after {time.perf_counter() - start:.0f} s", file=real, flush=True)
    measure.write_rows(measure.results_file("overhead-memory-kept" if kept else "overhead"), rows)
    print(measure.markdown(rows), file=real, flush=True)


if __name__ == "__main__":
    main()
